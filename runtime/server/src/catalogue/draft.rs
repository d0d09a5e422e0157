//! The draft: a catalogue that is tried before it is published. One at a time, kept beside the log, so every centre over it has the same.

use std::sync::Arc;

use axum::http::StatusCode;
use selvedge_central::LogError;
use selvedge_core::control::How;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Expected, Published, Publisher, Put};
use crate::clock;
use crate::error::Problem;
use crate::release::{hash, hex, parse_hash};

/// The note that names the draft.
const NOTE: &str = "catalogue/draft";

/// What is kept of a draft beside its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// SHA-256 of its text, in hexadecimal.
    pub hash: String,
    pub at: Timestamp,
    pub by: String,
    /// The version in force when it was put.
    pub over: u64,
}

/// That there is none.
pub fn no_draft() -> Problem {
    let detail = "there is no draft; PUT /admin/v1/catalogue/draft makes one";
    Problem::new(StatusCode::NOT_FOUND, "no_draft", detail)
}

impl Publisher {
    /// The draft, without its text.
    pub async fn draft(&self) -> Result<Option<Draft>, LogError> {
        // A note of another version says nothing here.
        Ok(self.store.note(NOTE).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The text of a hash that is kept.
    pub async fn kept_text(&self, hash: &str) -> Result<Arc<str>, Problem> {
        let hash = parse_hash(hash).map_err(|error| Problem::storage(&error))?;
        let text = self.store.text(hash).await?;
        text.map(Into::into).ok_or_else(|| Problem::storage(&"the text of this document is gone; put it again"))
    }

    /// Checks a text and makes it the draft, where the draft is what is expected.
    pub async fn put_draft(&self, text: Arc<str>, expected: &Expected, by: String) -> Result<Draft, Problem> {
        let _one = self.publishing.lock().await;
        self.refresh().await?;
        let before = self.draft().await?;
        let holds = match expected {
            Expected::Whatever => true,
            Expected::One(tags) => before.as_ref().is_some_and(|before| tags.contains(&before.hash)),
            Expected::Nothing => before.is_none(),
        };
        if !holds {
            let detail = match &before {
                Some(before) => format!("the draft is \"{}\"; get it and make your change in that", before.hash),
                None => "there is no draft; leave If-Match out to make one".to_owned(),
            };
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "draft_changed", detail));
        }
        self.check(&text).await?;
        let sha256 = hash(text.as_bytes());
        self.store.put_text(sha256, &text).await?;
        let draft = Draft { hash: hex(&sha256), at: clock::now(), by, over: self.in_force().version };
        self.keep_draft(Some(&draft)).await?;
        Ok(draft)
    }

    /// Forgets the draft.
    pub async fn drop_draft(&self) -> Result<(), Problem> {
        let _one = self.publishing.lock().await;
        self.draft().await?.ok_or_else(no_draft)?;
        Ok(self.keep_draft(None).await?)
    }

    async fn keep_draft(&self, draft: Option<&Draft>) -> Result<(), LogError> {
        let bytes = draft.map(serde_json::to_vec).transpose();
        self.store.put_note(NOTE, bytes.map_err(|error| LogError::Store(error.to_string()))?).await
    }

    /// Puts the draft into force. It is no draft any more then.
    pub async fn publish_draft(&self, expected: Expected, by: String) -> Result<Published, Problem> {
        let _one = self.publishing.lock().await;
        let draft = self.draft().await?.ok_or_else(no_draft)?;
        let text = self.kept_text(&draft.hash).await?;
        let by = if by.is_empty() { draft.by.clone() } else { by };
        let published = self.publish_alone(Put { text, expected, how: How::Draft, by, of: None }).await?;
        self.forget_draft(&draft.hash).await?;
        Ok(published)
    }

    /// The draft's hash and text, where it is another than the one that the caller knows; none where it is that one.
    pub async fn draft_behind(&self, known: Option<&str>) -> Result<Option<(String, Arc<str>)>, Problem> {
        let draft = self.draft().await?.ok_or_else(no_draft)?;
        if known == Some(draft.hash.as_str()) {
            return Ok(None);
        }
        let text = self.kept_text(&draft.hash).await?;
        Ok(Some((draft.hash, text)))
    }

    /// Forgets the draft where it is this text.
    pub(super) async fn forget_draft(&self, hash: &str) -> Result<(), LogError> {
        match self.draft().await? {
            Some(draft) if draft.hash == hash => self.keep_draft(None).await,
            _ => Ok(()),
        }
    }
}
