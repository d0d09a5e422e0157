//! Releases at the centre: what the operator gives is compiled and checked here before any edge hears of it.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::http::StatusCode;
use selvedge_central::{CONTROL, CentralLog, Read, SealedPush};
use selvedge_core::change::Change;
use selvedge_core::control::{CatalogPut, How};
use selvedge_core::identity::ShardId;
use selvedge_core::release::Release;
use selvedge_core::sync::{Origin, Push, Pushed};
use selvedge_core::time::BusinessTime;
use selvedge_core::view::Cursor;

use super::Centre;
use crate::catalogue::{Expected, Put};
use crate::clock;
use crate::config::CentralConfig;
use crate::error::Problem;
use crate::release::{Bundle, Given, Loaded, hash, parse_hash};
use crate::sync::wire::Released;

/// Times that an append is tried again where another centre was faster.
const TRIES: usize = 5;
/// Plugins are only looked at here, by one thread.
const THREADS: usize = 4;

/// Bytes of what is given for a release: it brings its plugins with it.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;
/// Bytes of the control shard's log that are read at once.
const READ_BYTES: usize = 1024 * 1024;

/// Puts into force what the settings name, as far as the log never held it.
pub async fn begin(centre: &Arc<Centre>, config: &CentralConfig) -> Result<()> {
    let given = Given::read(config.plugins.as_deref(), config.catalog.as_deref(), config.time_zone.clone())?;
    if given.plugins.as_ref().is_some_and(Vec::is_empty) {
        tracing::warn!("the folder of plugins is empty: edges are to run none");
    }
    offer(centre, given).await.map(drop)
}

/// Puts into force of what is given what the log never held. What was released before and replaced since stays replaced: an old setting must not undo at a
/// restart what was released meanwhile.
pub async fn offer(centre: &Arc<Centre>, mut given: Given) -> Result<Released> {
    let known = centre.released().await?;
    let before = history(&*centre.log).await?;
    let replaced = |what: &str, was: bool| {
        if was {
            tracing::warn!(
                "{what} given at a start: released before, and replaced since, so it stays replaced; to go back say `selvedge central release`"
            );
        }
        was
    };
    let old = |is: &dyn Fn(&Release) -> bool| !is(&known.release) && before.iter().any(is);
    if given.plugins.as_ref().is_some_and(|given| replaced("the plugins", old(&|release| release.plugins == *given))) {
        given.plugins = None;
    }
    if let Some(text) = &given.catalog
        && !centre.catalogue.is_new(text).await?
    {
        given.catalog = None;
    }
    let zone = |release: &Release, given: &str| release.time_zone == given;
    if given.time_zone.as_ref().is_some_and(|given| replaced("the time zone", old(&|release| zone(release, given)))) {
        given.time_zone = None;
    }
    let mut bundle = given.over(&known.release);
    if bundle.release.time_zone.is_empty() {
        bundle.release.time_zone = "UTC".into();
    }
    if known.seq > 0 && bundle.release == known.release {
        return Ok(known);
    }
    let released = publish(centre, bundle, How::Start, String::new()).await?;
    tracing::info!(release = released.seq, plugins = released.release.plugins.len(), "released");
    Ok(released)
}

/// All releases that there ever were.
async fn history(log: &dyn CentralLog) -> Result<Vec<Release>> {
    let (mut all, mut after) = (Vec::new(), 0);
    while let Read::Entries { entries, .. } = log.read(CONTROL, after, READ_BYTES).await? {
        let Some(last) = entries.last() else { break };
        after = last.seq;
        all.extend(entries.iter().filter_map(|entry| match Change::decode(&entry.bytes) {
            Ok(Change::Release(release)) => Some(release),
            _ => None,
        }));
    }
    Ok(all)
}

/// That a release was not made.
pub fn refused(error: anyhow::Error) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "release_invalid", format!("nothing was released: {error:#}"))
}

/// Checks a release, keeps its plugins, and puts it into force everywhere.
pub async fn publish(centre: &Arc<Centre>, mut bundle: Bundle, how: How, by: String) -> Result<Released> {
    let _one = centre.catalogue.publishing.lock().await;
    let known = centre.released().await?;
    if bundle.release.plugins == known.release.plugins
        && bundle.release.time_zone == known.release.time_zone
        && known.seq > 0
    {
        // Of a catalogue alone.
        let put = Put { text: bundle.release.catalog.into(), expected: Expected::Whatever, how, by, of: None };
        let published = centre.catalogue.publish_alone(put).await;
        published.map_err(|problem| anyhow::anyhow!("{}", problem.detail()))?;
        return Ok(centre.released().await?);
    }
    complete(&*centre.log, &mut bundle).await?;
    let (bundle, loaded) = tokio::task::spawn_blocking(move || -> Result<(Bundle, Loaded)> {
        BusinessTime::new(&bundle.release.time_zone)?;
        let loaded = bundle.load(THREADS)?;
        Ok((bundle, loaded))
    })
    .await??;
    for (hash, bytes) in &bundle.components {
        centre.log.put_blob(*hash, bytes.clone()).await?;
    }
    // The release first: whoever meets the activation in a data shard's log finds it in force.
    let Bundle { mut release, .. } = bundle;
    let catalog = std::mem::take(&mut release.catalog);
    let mut changes = vec![(CONTROL, Change::Release(release.clone()))];
    if catalog != known.release.catalog {
        let (sha256, over) = (hash(catalog.as_bytes()), centre.catalogue.in_force().version);
        centre.log.put_blob(sha256, catalog.into_bytes()).await?;
        let put = CatalogPut { sha256, over, at: clock::now(), by, how, of: None };
        changes.push((CONTROL, Change::Catalog(put)));
    }
    changes.extend(ShardId::all().map(|shard| (shard, Change::Activate(loaded.activation.clone()))));
    append(&*centre.log, &changes).await?;
    centre.catalogue.keep_plugins(&release, &loaded.plugins);
    Ok(centre.released().await?)
}

/// Appends changes of the centre's own. Gives their places.
pub async fn append(log: &dyn CentralLog, changes: &[(ShardId, Change)]) -> Result<Vec<Cursor>> {
    for _ in 0..TRIES {
        let heads = log.heads().await?;
        let seal = |(shard, change): &(ShardId, Change)| -> Result<SealedPush> {
            let bytes: Arc<[u8]> = change.encode().into();
            let digests = vec![Change::digest(&bytes)?];
            let epoch = heads.get(usize::from(shard.0)).map_or(1, |head| head.epoch);
            let (origin, predecessor, changes) = (Origin::CENTRE, 0, vec![bytes]);
            Ok(SealedPush { push: Push { shard: *shard, epoch, origin, predecessor, skips: false, changes }, digests })
        };
        let sealed = changes.iter().map(seal).collect::<Result<Vec<_>>>()?;
        let mut seqs = Vec::with_capacity(changes.len());
        let epochs: Vec<u32> = sealed.iter().map(|sealed| sealed.push.epoch).collect();
        for (pushed, epoch) in log.append(sealed).await?.into_iter().zip(epochs) {
            match pushed {
                Pushed::Taken { seqs: taken } => seqs.extend(taken.into_iter().map(|seq| Cursor { epoch, seq })),
                Pushed::Refused { reason, .. } => bail!("the log refuses a change of the centre: {reason}"),
                // Between the question and the append another epoch began.
                Pushed::Epoch { .. } | Pushed::Behind { .. } => {}
            }
        }
        if seqs.len() == changes.len() {
            return Ok(seqs);
        }
    }
    bail!("the log changed its epoch again and again; try once more when it is at rest")
}

/// Adds the bytes of plugins that the log keeps.
pub async fn complete(log: &dyn CentralLog, bundle: &mut Bundle) -> Result<()> {
    for plugin in &bundle.release.plugins {
        let hash = parse_hash(&plugin.sha256)?;
        if bundle.components.contains_key(&hash) {
            continue;
        }
        let bytes = log.blob(hash).await?;
        let bytes = bytes.with_context(|| {
            format!("plugin {} ({}) is not kept here; give it by --plugins", plugin.name, plugin.sha256)
        })?;
        bundle.components.insert(hash, bytes);
    }
    Ok(())
}
