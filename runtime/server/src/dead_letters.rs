//! What was refused lately, for the operator. The answer to the caller says it too; this is for the one who does not read answers.
//!
//! In memory, bounded, and without the events themselves, which may hold personal data.

use std::collections::VecDeque;

use parking_lot::Mutex;
use selvedge_core::event::Refusal;
use selvedge_core::identity::Identifier;
use selvedge_core::limits;
use selvedge_core::value::Timestamp;
use serde::Serialize;

/// Refusals that are kept.
const LETTERS_MAX: usize = 1000;

/// One refused event.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    code: &'static str,
    pointer: String,
    detail: String,
}

/// The latest refusals.
#[derive(Default)]
pub struct DeadLetters(Mutex<VecDeque<DeadLetter>>);

impl DeadLetters {
    /// Keeps a refusal.
    pub fn keep(&self, at: Timestamp, message_id: Option<&str>, refusal: &Refusal) {
        let mut letters = self.0.lock();
        if letters.len() == LETTERS_MAX {
            letters.pop_front();
        }
        letters.push_back(DeadLetter {
            at: at.to_string(),
            // Longer ones are refused for it.
            message_id: message_id.map(|id| id.chars().take(limits::MESSAGE_ID_CHARS_MAX).collect()),
            code: refusal.code,
            pointer: refusal.pointer.clone(),
            detail: refusal.detail.clone(),
        });
    }

    /// Forgets those that name somebody.
    pub fn forget(&self, identifiers: &[Identifier]) {
        let names = |letter: &DeadLetter| {
            let texts = [letter.detail.as_str(), letter.message_id.as_deref().unwrap_or_default()];
            identifiers.iter().any(|of| texts.iter().any(|text| text.contains(of.value())))
        };
        self.0.lock().retain(|letter| !names(letter));
    }

    /// The latest ones, newest first.
    pub fn latest(&self) -> Vec<DeadLetter> {
        self.0.lock().iter().rev().cloned().collect()
    }
}
