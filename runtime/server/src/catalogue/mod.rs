//! The catalogue as it is published: its versions, a draft, a schedule, and which offers are stopped. Read [`Publisher::publish`].
//!
//! Owns what stands on the control shard beside releases (`selvedge_core::control` says what it means) and the admin paths to it. Knows nothing of how a
//! centre feeds its edges, nor of what an offer is beyond its id.

pub mod command;
pub mod document;
mod draft;
mod feed;
pub mod forward;
pub mod http;
mod rows;
mod schedule;
mod store;

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, Weak};

use anyhow::{Context as _, Result};
use axum::http::StatusCode;
use compact_str::CompactString;
use parking_lot::{Mutex, MutexGuard};
use selvedge_central::LogError;
use selvedge_core::change::Change;
use selvedge_core::control::{CatalogPut, Control, How, OfferSwitch, Stopped, Text, Version};
use selvedge_core::event::quoted;
use selvedge_core::release::Release;
use selvedge_plugin_host::PluginSet;
use tokio::sync::Notify;

use self::document::{Checked, EMPTY, in_words};
pub use self::draft::no_draft;
pub use self::store::Store;
use crate::budgets;
use crate::central::releases::complete;
use crate::clock;
use crate::error::Problem;
use crate::gate::Gate;
use crate::release::{Bundle, Hash, hash, hex};

/// Times that a version is made again where another centre was faster.
const TRIES: usize = 5;
/// Plugins are only looked at here, by one thread.
const THREADS: usize = 4;
/// Offers that may be stopped at once.
const STOPPED_MAX: usize = 10_000;

/// Publishes the catalogue, for whoever runs it.
pub struct Publisher {
    store: Store,
    known: Mutex<Known>,
    /// One publishes at a time in this process; of several processes the log's order says who was first.
    pub publishing: tokio::sync::Mutex<()>,
    runs: Runs,
    /// The schedule is another.
    due: Notify,
}

/// Who runs what is published.
enum Runs {
    /// This process, behind its gate, which must not be held by what it holds.
    Here(OnceLock<Weak<Gate>>),
    /// Edges. The plugins in force, compiled to check catalogues against them.
    Edges(Mutex<Option<(Release, Arc<PluginSet>)>>),
}

/// The control shard as far as it was read, and the text in force there.
#[derive(Clone)]
struct Known {
    control: Control,
    in_force: InForce,
}

impl Known {
    fn release(&self) -> (u64, Release) {
        let catalog = if self.in_force.version == 0 { String::new() } else { self.in_force.text.to_string() };
        (self.control.release_seq(), Release { catalog, ..self.control.program().clone() })
    }
}

/// A catalogue's text.
#[derive(Clone)]
pub struct InForce {
    /// Its version's number; 0 where none was ever put.
    pub version: u64,
    pub text: Arc<str>,
    pub hash: Hash,
    /// The ids of its offers; none where this build cannot read it.
    offers: Option<Arc<BTreeSet<CompactString>>>,
}

impl InForce {
    fn of(version: u64, text: Arc<str>) -> Self {
        let catalog = document::parse(&text).ok();
        let offers = catalog.map(|catalog| Arc::new(catalog.offers.into_iter().map(|offer| offer.id).collect()));
        Self { version, hash: hash(text.as_bytes()), text, offers }
    }

    /// What names this text, for callers that change it.
    pub fn etag(&self) -> String {
        format!("\"{}\"", hex(&self.hash))
    }
}

/// What a caller expects to be in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is.
    Whatever,
    /// One of these texts, by hash in hexadecimal.
    One(Vec<String>),
    /// Nothing yet.
    Nothing,
}

/// A text to publish.
pub struct Put {
    pub text: Arc<str>,
    pub expected: Expected,
    pub how: How,
    pub by: String,
    /// The version whose text it is.
    pub of: Option<u64>,
}

/// What is in force after a call.
pub struct Published {
    pub version: Option<Version>,
    pub in_force: InForce,
    /// Whether the call changed it.
    pub changed: bool,
}

impl Publisher {
    /// Over the log of an edge that is its own centre. [`Self::serve_behind`] says where it runs.
    pub fn own(log: Arc<selvedge_central::RedbLog>) -> Self {
        Self::over(Store::Own(log), Runs::Here(OnceLock::new()))
    }

    /// Over a centre's log.
    pub fn at_centre(log: Arc<dyn selvedge_central::CentralLog>) -> Self {
        Self::over(Store::Centre(log), Runs::Edges(Mutex::default()))
    }

    fn over(store: Store, runs: Runs) -> Self {
        let known = Known { control: Control::default(), in_force: InForce::of(0, EMPTY.into()) };
        let (known, publishing) = (Mutex::new(known), tokio::sync::Mutex::default());
        Self { store, known, publishing, runs, due: Notify::new() }
    }

    /// Has what is published run behind this gate.
    pub fn serve_behind(&self, gate: &Arc<Gate>) {
        if let Runs::Here(here) = &self.runs {
            // Once a process.
            let _ = here.set(Arc::downgrade(gate));
        }
    }

    /// Takes in what the log has.
    pub async fn refresh(&self) -> Result<(), LogError> {
        let after = self.known.lock().control.seq();
        let entries = self.store.behind(after).await?;
        if entries.is_empty() {
            return Ok(());
        }
        let mut next = self.known.lock().clone();
        for (seq, change) in &entries {
            // What this build does not read moves the place all the same.
            next.control.apply(*seq, change.as_ref().unwrap_or(&Change::Mark(0)));
        }
        if let Some(version) = next.control.version()
            && version.seq != next.in_force.version
        {
            let text = self.text(version).await?;
            let seq = version.seq;
            let read = tokio::task::spawn_blocking(move || InForce::of(seq, text)).await;
            next.in_force = read.map_err(|error| LogError::Store(error.to_string()))?;
        }
        let mut known = self.known.lock();
        // Another call may have been faster.
        if next.control.seq() > known.control.seq() {
            *known = next;
        }
        Ok(())
    }

    /// The text of a version.
    pub async fn text(&self, version: &Version) -> Result<Arc<str>, LogError> {
        match &version.text {
            Text::Inline(text) => Ok(Arc::clone(text)),
            Text::Blob(hash) => {
                let text = self.store.text(*hash).await?;
                let gone = || LogError::Store(format!("the text of catalogue version {} is gone", version.seq));
                text.map(Into::into).ok_or_else(gone)
            }
        }
    }

    /// The control shard as far as it was read.
    pub fn control(&self) -> impl std::ops::Deref<Target = Control> + '_ {
        MutexGuard::map(self.known.lock(), |known| &mut known.control)
    }

    /// The catalogue in force, as far as the log was read.
    pub fn in_force(&self) -> InForce {
        self.known.lock().in_force.clone()
    }

    /// What runs, as far as the log was read, and the entry that brought it; with an empty catalogue where none was ever put.
    pub fn release(&self) -> (u64, Release) {
        self.known.lock().release()
    }

    /// The same, and up to where the log was read, with the offers that are stopped there.
    pub fn release_and_stopped(&self) -> ((u64, BTreeSet<CompactString>), u64, Release) {
        let known = self.known.lock();
        let (seq, release) = known.release();
        let stopped = known.control.stopped().keys().cloned().collect();
        ((known.control.seq(), stopped), seq, release)
    }

    /// Checks a text and puts it into force, where what is expected is in force.
    pub async fn publish(&self, put: Put) -> Result<Published, Problem> {
        let _one = self.publishing.lock().await;
        self.publish_alone(put).await
    }

    /// The same for whoever holds [`Self::publishing`].
    pub async fn publish_alone(&self, put: Put) -> Result<Published, Problem> {
        let (sha256, mut checked) = (hash(put.text.as_bytes()), None);
        for _ in 0..TRIES {
            self.refresh().await?;
            let Known { control, in_force } = self.known.lock().clone();
            put.expected.hold(&in_force)?;
            if in_force.version > 0 && in_force.hash == sha256 {
                return Ok(Published { version: control.version().cloned(), in_force, changed: false });
            }
            if checked.is_none() {
                checked = Some(self.check(&put.text).await?);
                self.store.put_text(sha256, &put.text).await?;
            }
            let (at, by, how, of) = (clock::now(), put.by.clone(), put.how, put.of);
            let change = Change::Catalog(CatalogPut { sha256, over: in_force.version, at, by, how, of });
            let appended = self.store.append(&change, control.seq()).await;
            let seq = appended.map_err(|error| Problem::storage(&format!("{error:#}")))?;
            self.refresh().await?;
            // It is none where another centre was faster; then what is in force is to be looked at anew.
            let version = self.control().versions().iter().find(|version| version.seq == seq).cloned();
            if let Some(version) = version
                && let Some(checked) = checked.take()
            {
                tracing::info!(version = seq, by = put.by, how = ?put.how, "the catalogue has a new version");
                self.take_up(checked).await;
                return Ok(Published { version: Some(version), in_force: self.in_force(), changed: true });
            }
        }
        Err(Problem::unavailable("catalogue_changing", "the catalogue changes all the time; try again"))
    }

    /// Checks a text against the plugins that run.
    pub async fn check(&self, text: &Arc<str>) -> Result<Checked, Problem> {
        let plugins = self.plugins().await.map_err(|error| Problem::storage(&format!("{error:#}")))?;
        let text = Arc::clone(text);
        let checked = tokio::task::spawn_blocking(move || document::check(&text, &plugins)).await;
        checked.map_err(|error| Problem::storage(&error))?.map_err(Problem::catalogue)
    }

    /// The plugins that run.
    async fn plugins(&self) -> Result<Arc<PluginSet>> {
        match &self.runs {
            Runs::Here(_) => {
                let gate = self.gate().context("this process does not serve yet")?;
                Ok(Arc::clone(&gate.enter().await.plugins))
            }
            Runs::Edges(known) => {
                let program = self.control().program().clone();
                if let Some((of, plugins)) = &*known.lock()
                    && *of == program
                {
                    return Ok(Arc::clone(plugins));
                }
                let mut release = program.clone();
                if release.time_zone.is_empty() {
                    release.time_zone = "UTC".into();
                }
                let mut bundle = Bundle { release, ..Bundle::default() };
                if let Store::Centre(log) = &self.store {
                    complete(&**log, &mut bundle).await?;
                }
                let loaded = tokio::task::spawn_blocking(move || bundle.load(THREADS)).await??;
                self.keep_plugins(&program, &loaded.plugins);
                Ok(loaded.plugins)
            }
        }
    }

    /// Keeps plugins that were compiled elsewhere in this centre.
    pub fn keep_plugins(&self, program: &Release, plugins: &Arc<PluginSet>) {
        if let Runs::Edges(known) = &self.runs {
            let program = Release { catalog: String::new(), ..program.clone() };
            *known.lock() = Some((program, Arc::clone(plugins)));
        }
    }

    fn gate(&self) -> Option<Arc<Gate>> {
        match &self.runs {
            Runs::Here(here) => here.get()?.upgrade(),
            Runs::Edges(_) => None,
        }
    }

    /// Has this process run it, where it is one that does.
    async fn take_up(&self, checked: Checked) {
        let Checked { catalog, reads } = checked;
        if let Some(gate) = self.gate() {
            budgets::prepare(&gate.enter().await, &catalog).await;
            gate.swap(|edge| edge.with_catalog(catalog, reads)).await;
        }
    }

    /// Publishes at a start what was given there, where the log never held it. Gives whether it did. What was replaced since stays replaced: an old setting
    /// must not undo at a restart what was published meanwhile. Nothing runs yet, so whoever calls has checked it.
    pub async fn begin(&self, text: &str) -> Result<bool> {
        self.refresh().await?;
        if !self.is_new(text).await? {
            return Ok(false);
        }
        let sha256 = hash(text.as_bytes());
        // One after the other: both hold the lock.
        let seq = self.control().seq();
        let over = self.in_force().version;
        self.store.put_text(sha256, text).await?;
        let put = CatalogPut { sha256, over, at: clock::now(), by: String::new(), how: How::Start, of: None };
        self.store.append(&Change::Catalog(put), seq).await?;
        self.refresh().await?;
        Ok(true)
    }

    /// Whether the log never held a text as a version; says so where it did and another is in force.
    pub async fn is_new(&self, text: &str) -> Result<bool, LogError> {
        let sha256 = hash(text.as_bytes());
        let is = |version: &Version| match &version.text {
            Text::Inline(inline) => **inline == *text,
            Text::Blob(hash) => *hash == sha256,
        };
        let known = self.control().versions().iter().any(is);
        if known && self.in_force().hash != sha256 {
            tracing::warn!(
                "the catalogue given at a start: in force before, and replaced since, so it stays replaced; to go back say `selvedge catalogue put` or `undo`"
            );
        }
        Ok(!known)
    }

    /// Brings back the version before the one in force, or one that is named.
    pub async fn undo(&self, to: Option<u64>, expected: Expected, by: String) -> Result<Published, Problem> {
        let _one = self.publishing.lock().await;
        self.refresh().await?;
        expected.hold(&self.in_force())?;
        let version = {
            let control = self.control();
            match to {
                Some(seq) => {
                    control.versions().iter().find(|version| version.seq == seq).cloned().ok_or_else(no_version)?
                }
                None => control.before().cloned().ok_or_else(|| {
                    let detail = "the version in force is the first; GET /admin/v1/catalogue/versions lists them";
                    Problem::new(StatusCode::CONFLICT, "nothing_to_undo", detail)
                })?,
            }
        };
        let text = self.text(&version).await?;
        let of = Some(version.of.unwrap_or(version.seq));
        self.publish_alone(Put { text, expected, how: How::Undo, by, of }).await
    }

    /// Stops an offer everywhere, or lets it be offered again. Gives since when it is stopped.
    pub async fn switch(&self, offer: &str, stopped: bool, by: String) -> Result<Option<Stopped>, Problem> {
        self.refresh().await?;
        let (is_stopped, count, offers) = {
            let known = self.known.lock();
            let stopped = known.control.stopped();
            (stopped.get(offer).cloned(), stopped.len(), known.in_force.offers.clone())
        };
        if is_stopped.is_some() == stopped {
            // Said before; in this process at least it holds from here on.
            self.tell_stopped().await;
            return Ok(is_stopped);
        }
        if stopped && offers.is_some_and(|offers| !offers.contains(offer)) {
            let detail =
                format!("the catalogue in force has no offer {}; GET /admin/v1/catalogue has its ids", quoted(offer));
            return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_offer", detail));
        }
        if stopped && count >= STOPPED_MAX {
            let detail = format!("{STOPPED_MAX} offers are stopped; take some out of the catalogue and start them");
            return Err(Problem::new(StatusCode::CONFLICT, "too_many_stopped", detail));
        }
        let (at, seq) = (clock::now(), self.control().seq());
        let change = Change::Switch(OfferSwitch { offer: offer.into(), stopped, at, by: by.clone() });
        let appended = self.store.append(&change, seq).await;
        appended.map_err(|error| Problem::storage(&format!("{error:#}")))?;
        self.refresh().await?;
        self.tell_stopped().await;
        tracing::info!(offer, stopped, by, "an offer is switched");
        Ok(self.control().stopped().get(offer).cloned())
    }

    /// Has this process heed which offers are stopped, where it is one that decides.
    pub async fn tell_stopped(&self) {
        if let Some(gate) = self.gate() {
            let edge = gate.enter().await;
            let stopped: BTreeSet<CompactString> = self.control().stopped().keys().cloned().collect();
            edge.stopped.replace(stopped);
        }
    }
}

/// That there is no version of a number.
pub fn no_version() -> Problem {
    let detail = "there is no version of this number; GET /admin/v1/catalogue/versions lists them";
    Problem::new(StatusCode::NOT_FOUND, "no_such_version", detail)
}

impl Expected {
    /// Refuses where something else is in force.
    fn hold(&self, in_force: &InForce) -> Result<(), Problem> {
        let holds = match self {
            Self::Whatever => true,
            Self::One(tags) => tags.iter().any(|tag| *tag == hex(&in_force.hash)),
            Self::Nothing => in_force.version == 0,
        };
        if holds {
            return Ok(());
        }
        let detail = format!(
            "the catalogue in force is version {}, {}; get it, make your change in that, and send it with its ETag in If-Match",
            in_force.version,
            in_force.etag()
        );
        Err(Problem::new(StatusCode::PRECONDITION_FAILED, "catalogue_changed", detail))
    }
}

impl Problem {
    /// A catalogue that cannot run.
    pub fn catalogue(faults: Vec<document::Fault>) -> Self {
        let detail = format!("the catalogue is refused, and nothing was changed: {}", in_words(&faults));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "catalogue_invalid", detail).because(faults)
    }
}
