//! Previews: deciding by the draft of the catalogue, over the profiles as they are, and recording nothing.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Edge;
use crate::catalogue::document::check;
use crate::error::Problem;

/// The draft that was previewed last, by its hash, and an edge that decides by it.
#[derive(Default)]
pub struct Kept(Mutex<Option<(String, Arc<Edge>)>>);

/// An edge like this one that decides by the draft as it is now.
pub async fn of_draft(edge: &Arc<Edge>) -> Result<Arc<Edge>, Problem> {
    let kept = edge.preview.0.lock().clone();
    let known = kept.as_ref().map(|(hash, _)| hash.as_str());
    let draft = match (&edge.publisher, &edge.uplink) {
        (Some(publisher), _) => publisher.draft_behind(known).await?,
        (None, Some(uplink)) => uplink.draft_behind(known).await?,
        (None, None) => return Err(crate::catalogue::no_draft()),
    };
    let Some((hash, text)) = draft else {
        // It is the one that is kept.
        return kept.map(|(_, edge)| edge).ok_or_else(crate::catalogue::no_draft);
    };
    let plugins = Arc::clone(&edge.plugins);
    let checked = tokio::task::spawn_blocking(move || check(&text, &plugins)).await;
    // It was checked when it was put, under what ran then.
    let checked = checked.map_err(|error| Problem::storage(&error))?.map_err(Problem::catalogue)?;
    // Its budgets count by the draft, and nobody spends of them.
    let preview = Arc::new(edge.with_catalog_and(checked.catalog, checked.reads, &Arc::default()));
    let renewed = Arc::clone(&preview);
    let renewed = tokio::task::spawn_blocking(move || renewed.renew_everyone()).await;
    renewed.map_err(|error| Problem::storage(&error))??;
    *edge.preview.0.lock() = Some((hash, Arc::clone(&preview)));
    Ok(preview)
}
