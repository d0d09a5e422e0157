//! The schedule: a draft that takes force at a time. One at a time, as it was when it was scheduled; kept beside the log, so it survives whatever process is to
//! publish it.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use selvedge_central::LogError;
use selvedge_core::control::How;
use selvedge_core::value::Timestamp;
use serde::{Deserialize, Serialize};

use super::draft::no_draft;
use super::{Expected, Publisher, Put};
use crate::clock;
use crate::error::Problem;

/// The note that names what is scheduled.
const NOTE: &str = "catalogue/scheduled";
/// How often it is looked what is scheduled: another centre may have said it.
const LOOK: Duration = Duration::from_secs(2);
/// How long after a failure of the log it is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// A draft whose time is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduled {
    /// SHA-256 of its text, in hexadecimal.
    pub hash: String,
    /// When it takes force.
    pub at: Timestamp,
    /// When that was said, and by whom.
    pub said_at: Timestamp,
    pub by: String,
    /// Why it did not take force when its time had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// That nothing is scheduled.
pub fn nothing_scheduled() -> Problem {
    let detail = "nothing is scheduled; POST /admin/v1/catalogue/draft/publish with {\"at\": …} schedules the draft";
    Problem::new(StatusCode::NOT_FOUND, "nothing_scheduled", detail)
}

impl Publisher {
    /// What is scheduled.
    pub async fn scheduled(&self) -> Result<Option<Scheduled>, LogError> {
        Ok(self.store.note(NOTE).await?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    async fn keep_scheduled(&self, scheduled: Option<&Scheduled>) -> Result<(), LogError> {
        let bytes = scheduled.map(serde_json::to_vec).transpose();
        self.store.put_note(NOTE, bytes.map_err(|error| LogError::Store(error.to_string()))?).await
    }

    /// Schedules the draft. One that failed makes room for another.
    pub async fn schedule(&self, at: Timestamp, expected: Expected, by: String) -> Result<Scheduled, Problem> {
        let _one = self.publishing.lock().await;
        self.refresh().await?;
        expected.hold(&self.in_force())?;
        let draft = self.draft().await?.ok_or_else(no_draft)?;
        if let Some(before) = self.scheduled().await?.filter(|before| before.error.is_none()) {
            let detail = format!(
                "a draft is scheduled for {}; DELETE /admin/v1/catalogue/scheduled cancels that, then schedule this one",
                before.at
            );
            return Err(Problem::new(StatusCode::CONFLICT, "already_scheduled", detail));
        }
        let by = if by.is_empty() { draft.by } else { by };
        let scheduled = Scheduled { hash: draft.hash, at, said_at: clock::now(), by, error: None };
        self.keep_scheduled(Some(&scheduled)).await?;
        self.due.notify_one();
        tracing::info!(%at, by = scheduled.by, "a catalogue is scheduled");
        Ok(scheduled)
    }

    /// Takes back what is scheduled.
    pub async fn cancel(&self) -> Result<Scheduled, Problem> {
        let _one = self.publishing.lock().await;
        let scheduled = self.scheduled().await?.ok_or_else(nothing_scheduled)?;
        self.keep_scheduled(None).await?;
        Ok(scheduled)
    }

    /// Publishes whatever is scheduled when its time comes, until it is aborted.
    pub async fn keep_schedule(self: Arc<Self>) {
        loop {
            let pause = match self.publish_due().await {
                Ok(wait) => wait.unwrap_or(LOOK).min(LOOK),
                Err(problem) => {
                    tracing::warn!("what is scheduled waits: {}", problem.detail());
                    PAUSE
                }
            };
            // Sooner where something is said here.
            let _ = tokio::time::timeout(pause, self.due.notified()).await;
        }
    }

    /// Publishes what is due; how long the next one has to wait.
    async fn publish_due(&self) -> Result<Option<Duration>, Problem> {
        let wait = |scheduled: &Scheduled| {
            let left = scheduled.at.0.saturating_sub(clock::now().0);
            Duration::from_millis(u64::try_from(left).unwrap_or(0))
        };
        match self.scheduled().await?.filter(|scheduled| scheduled.error.is_none()) {
            None => return Ok(None),
            Some(scheduled) if !wait(&scheduled).is_zero() => return Ok(Some(wait(&scheduled))),
            Some(_) => {}
        }
        let _one = self.publishing.lock().await;
        // It may have been cancelled meanwhile.
        let Some(scheduled) = self.scheduled().await?.filter(|scheduled| wait(scheduled).is_zero()) else {
            return Ok(None);
        };
        let text = self.kept_text(&scheduled.hash).await?;
        let put = Put { text, expected: Expected::Whatever, how: How::Schedule, by: scheduled.by.clone(), of: None };
        match self.publish_alone(put).await {
            Ok(_) => {
                // The schedule goes last: after a crash in between it is published again, which changes nothing.
                self.forget_draft(&scheduled.hash).await?;
                self.keep_scheduled(None).await?;
            }
            // The log may be back soon.
            Err(problem) if problem.is_passing() => return Err(problem),
            Err(problem) => {
                tracing::error!("the scheduled catalogue did not take force: {}", problem.detail());
                let failed = Scheduled { error: Some(problem.detail().to_owned()), ..scheduled };
                self.keep_scheduled(Some(&failed)).await?;
            }
        }
        Ok(None)
    }
}
