//! The plugins that are active together: their names resolved against each other, their order fixed.

use std::sync::Arc;

use selvedge_core::activation::ActivePlugin;
use selvedge_core::aggregate::{CustomOperators, Definitions};
use selvedge_core::catalog::{Bound, Catalog, FORMULA};
use selvedge_core::columns::Columns;
use selvedge_core::description::unit;
use selvedge_core::event::Event;
use selvedge_core::lower::{EventReads, OfferReads, VisitorReads};
use selvedge_core::stage::{Destination, destinations};
use selvedge_core::time::BusinessTime;
use selvedge_core::view::{Schema, ScoreName};

use crate::component::Component;
use crate::custom::Custom;
use crate::engine::Engine;
use crate::error::{CatalogFault, LoadError};

/// A component whose reads are resolved.
pub struct Plugin {
    pub(crate) component: Component,
    pub(crate) event_reads: EventReads,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) score_reads: VisitorReads,
    /// The position of its first score in the schema.
    pub(crate) first_score: usize,
    pub(crate) visitor_reads: VisitorReads,
}

impl Plugin {
    /// Its own name.
    pub fn name(&self) -> &str {
        self.component.name()
    }

    /// Its version, as it says.
    pub fn version(&self) -> &str {
        &self.component.description.version
    }

    /// The position of its first score in the schema.
    pub fn first_score(&self) -> usize {
        self.first_score
    }

    /// The reasons that its ranking gives, by position.
    pub fn reasons(&self) -> &[String] {
        &self.component.description.reasons
    }

    /// The reasons for which it passes over events, by position.
    pub fn skips(&self) -> &[String] {
        &self.component.description.skips
    }

    /// How many states it has of each profile.
    pub fn states(&self) -> usize {
        self.destinations.iter().filter(|destination| destination.stored()).count()
    }

    /// `sha256:` and the hexadecimal hash of the component.
    pub fn hash(&self) -> &str {
        &self.component.hash
    }

    /// Whether it ranks offers.
    pub fn ranks(&self) -> bool {
        self.component.stages.rank()
    }

    pub(crate) fn observes(&self, event: &Event) -> bool {
        self.component.stages.observe()
            && self.component.description.observes.iter().any(|observed| observed == event.observed_name())
    }
}

/// The active plugins, in the order of their names.
pub struct PluginSet {
    pub(crate) engine: Engine,
    pub(crate) plugins: Vec<Plugin>,
    pub(crate) schema: Schema,
    /// Positions of the plugins that score, such that whoever reads a score stands behind whoever defines it.
    score_order: Vec<usize>,
    /// For each plugin those of them whose scores its ranking needs, directly or not, in the same order.
    scores_to_rank: Vec<Vec<usize>>,
}

impl PluginSet {
    /// Resolves components against each other. The fault names the plugin.
    pub fn resolve(engine: Engine, mut components: Vec<Component>, time: BusinessTime) -> Result<Self, LoadError> {
        components.sort_by(|a, b| a.name().cmp(b.name()));
        if let Some(twice) = components.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(fault(&twice[0], "is there twice; remove one of the two files"));
        }
        let mut schema = Schema { definitions: Definitions::new(time), scores: Vec::new() };
        let mut all_destinations = Vec::with_capacity(components.len());
        let mut first_scores = Vec::with_capacity(components.len());
        for component in &components {
            let definitions =
                component.description.definitions(&component.config).map_err(|error| fault(component, error))?;
            let custom = component.custom.as_ref().map(|(pre, indices)| {
                Custom::new(component.name(), &engine, pre, indices, &definitions)
                    .map(|custom| Arc::new(custom) as Arc<dyn CustomOperators>)
            });
            let custom = custom.transpose().map_err(|error| fault(component, error))?;
            let stored = schema
                .definitions
                .add(component.name(), &definitions, custom.as_ref())
                .map_err(|error| fault(component, error))?;
            all_destinations.push(destinations(&definitions, stored));
            first_scores.push(schema.scores.len());
            for score in &component.description.scores {
                let name = format!("{}.{}", component.name(), score.name);
                schema.scores.push(ScoreName { name, unit: unit(score.unit.as_deref(), &component.config) });
            }
        }
        let mut plugins = Vec::with_capacity(components.len());
        for ((component, destinations), first_score) in components.into_iter().zip(all_destinations).zip(first_scores) {
            let Component { description, config, .. } = &component;
            let visitor =
                |reads| VisitorReads::resolve(reads, &schema, config).map_err(|error| fault(&component, error));
            let event_reads = EventReads::resolve(&description.event_reads, config, schema.definitions.time())
                .map_err(|error| fault(&component, error))?;
            let (score_reads, visitor_reads) =
                (visitor(&description.score_reads)?, visitor(&description.visitor_reads)?);
            plugins.push(Plugin { event_reads, destinations, score_reads, first_score, visitor_reads, component });
        }
        let score_order = score_order(&plugins)?;
        let scores_to_rank = plugins.iter().map(|plugin| scores_to_rank(&plugins, &score_order, plugin)).collect();
        Ok(Self { engine, plugins, schema, score_order, scores_to_rank })
    }

    /// All plugins that score, in the order in which they must.
    pub fn score_order(&self) -> &[usize] {
        &self.score_order
    }

    /// The plugins whose scores the ranking of a plugin needs, in the order in which they must score. A score that nobody reads in a
    /// request is not computed in it.
    pub fn scores_to_rank(&self, ranker: usize) -> &[usize] {
        self.scores_to_rank.get(ranker).map_or(&[], Vec::as_slice)
    }

    /// The plugins whose scores some reads need, by position in the schema, in the order in which they must score.
    pub fn scorers_of(&self, scores: &[usize]) -> Vec<usize> {
        self.scorers(None, scores)
    }

    /// The plugins whose scores a ranking and some other reads need, in the order in which they must score.
    fn scorers(&self, ranker: Option<usize>, scores: &[usize]) -> Vec<usize> {
        let needs = |reads: &VisitorReads| reads.scores().filter_map(|score| definer(&self.plugins, score)).collect();
        let mut needed: Vec<usize> = ranker.map_or_else(Vec::new, |ranker| needs(&self.plugins[ranker].visitor_reads));
        needed.extend(scores.iter().filter_map(|score| definer(&self.plugins, *score)));
        with_needs(&self.score_order, needed, |index| needs(&self.plugins[index].score_reads))
    }

    /// The entities that any of them reads, by position.
    pub fn entities(&self) -> Vec<usize> {
        let reads =
            |plugin: &Plugin| plugin.score_reads.entities().chain(plugin.visitor_reads.entities()).collect::<Vec<_>>();
        let mut entities: Vec<usize> = self.plugins.iter().flat_map(reads).collect();
        entities.sort_unstable();
        entities.dedup();
        entities
    }

    /// The active plugins.
    pub fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The names that they define.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// What the log says of them.
    pub fn active(&self) -> Vec<ActivePlugin> {
        let active = |plugin: &Plugin| ActivePlugin {
            name: plugin.name().to_owned(),
            sha256: plugin.component.sha256,
            config_sha256: plugin.component.config_sha256,
        };
        self.plugins.iter().map(active).collect()
    }

    /// The position of a plugin.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.plugins.iter().position(|plugin| plugin.name() == name)
    }
}

fn fault(component: &Component, detail: impl ToString) -> LoadError {
    LoadError::new(component.name(), detail.to_string())
}

/// The plugin that defines a score.
fn definer(plugins: &[Plugin], score: usize) -> Option<usize> {
    plugins.iter().position(|plugin| {
        let defined = plugin.component.description.scores.len();
        (plugin.first_score..plugin.first_score + defined).contains(&score)
    })
}

/// Whoever reads a score comes after whoever defines it; among equals the order of names.
fn score_order(plugins: &[Plugin]) -> Result<Vec<usize>, LoadError> {
    let mut left: Vec<usize> = (0..plugins.len()).filter(|index| plugins[*index].component.stages.score()).collect();
    let mut order = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let ready = left.iter().position(|index| {
            let mut needs = plugins[*index].score_reads.scores().filter_map(|score| definer(plugins, score));
            needs.all(|need| order.contains(&need))
        });
        let Some(ready) = ready else {
            return Err(fault(&plugins[left[0]].component, "reads scores that depend on its own; break the circle"));
        };
        order.push(left.remove(ready));
    }
    Ok(order)
}

fn scores_to_rank(plugins: &[Plugin], order: &[usize], ranker: &Plugin) -> Vec<usize> {
    let needs = |reads: &VisitorReads| reads.scores().filter_map(|score| definer(plugins, score)).collect();
    with_needs(order, needs(&ranker.visitor_reads), |index| needs(&plugins[index].score_reads))
}

/// Those of an order that are needed, and whatever they need, and so on; everybody's needs stand before them.
fn with_needs(order: &[usize], mut needed: Vec<usize>, needs: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    for index in order.iter().rev() {
        if needed.contains(index) {
            needed.extend(needs(*index));
        }
    }
    order.iter().copied().filter(|index| needed.contains(index)).collect()
}

/// What a decision reads of one catalogue, bound to the plugins: its conditions, what ranking plugins read of its offers, and which of them ranks for which slot.
pub struct CatalogReads {
    bound: Bound,
    /// By position of the slot: the plugins whose scores a decision for it needs, in the order in which they must score.
    scorers: Vec<Vec<usize>>,
    /// By position of the plugin; none for those that do not rank.
    pub(crate) offer_reads: Vec<Option<OfferReads>>,
    /// By position of the slot: the plugin that ranks for it; none where the formula does.
    rankers: Vec<Option<usize>>,
    /// By position of the slot: the columns of its candidates for that plugin, where they are the same for everybody.
    constant: Vec<Option<Columns>>,
}

impl CatalogReads {
    /// Resolves a catalogue. The fault names the plugin or the slot.
    pub fn resolve(plugins: &PluginSet, catalog: &Catalog) -> Result<Self, CatalogFault> {
        let bound = Bound::resolve(catalog, &plugins.schema)?;
        let resolve = |plugin: &Plugin| {
            let Component { description, config, .. } = &plugin.component;
            let reads = || OfferReads::resolve(&description.offer_reads, &plugins.schema, catalog, config);
            plugin.ranks().then(reads).transpose().map_err(|error| fault(&plugin.component, error))
        };
        let offer_reads = plugins.plugins.iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
        let ranking: Vec<usize> = (0..offer_reads.len()).filter(|index| offer_reads[*index].is_some()).collect();
        let ranker = |slot: &selvedge_core::catalog::Slot| {
            let fault = |detail| CatalogFault::Ranker { slot: slot.name.clone(), detail };
            let names =
                || ranking.iter().map(|index| format!("{:?}", plugins.plugins[*index].name())).collect::<Vec<_>>();
            match (&slot.ranker, ranking.as_slice()) {
                (None, []) => Ok(None),
                (None, [only]) => Ok(Some(*only)),
                (Some(name), _) if name == FORMULA => Ok(None),
                (None, _) => Err(fault(format!("must name its ranker: add ranker = {}", names().join(" or ")))),
                (Some(name), _) => match plugins.find(name).filter(|index| ranking.contains(index)) {
                    Some(index) => Ok(Some(index)),
                    None => Err(fault(format!("has the ranker {name:?}, but no active plugin of that name ranks"))),
                },
            }
        };
        let rankers = catalog.slots.iter().map(ranker).collect::<Result<Vec<_>, _>>()?;
        let constant = catalog.slots.iter().zip(&rankers).map(|(slot, ranker)| {
            let reads: &OfferReads = offer_reads.get((*ranker)?)?.as_ref()?;
            reads.constant(&slot.candidates)
        });
        let constant = constant.collect();
        let scorers = rankers.iter().enumerate().map(|(slot, ranker)| plugins.scorers(*ranker, bound.scores(slot)));
        let scorers = scorers.collect();
        Ok(Self { bound, scorers, offer_reads, rankers, constant })
    }

    /// The catalogue's conditions and propensities.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// The plugins whose scores a decision for a slot needs, by its conditions, its offers' propensities and its ranking, in the order in which they must score.
    pub fn scorers(&self, slot: usize) -> &[usize] {
        self.scorers.get(slot).map_or(&[], Vec::as_slice)
    }

    /// The columns of exactly a slot's candidates, where they are the same for everybody.
    pub(crate) fn constant(&self, slot: Option<usize>) -> Option<&Columns> {
        self.constant.get(slot?)?.as_ref()
    }

    /// The plugin that ranks for a slot; none where the formula does.
    pub fn ranker(&self, slot: usize) -> Option<usize> {
        self.rankers.get(slot).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_needed_brings_everybody_before() {
        // 4 reads 3, 3 reads 1, 1 reads 0; nobody reads 2.
        let needs = |index| match index {
            4 => vec![3],
            3 => vec![1],
            1 => vec![0],
            _ => vec![],
        };
        assert_eq!(with_needs(&[0, 1, 2, 3, 4], vec![4], needs), [0, 1, 3, 4]);
        assert_eq!(with_needs(&[2, 0, 1, 3, 4], vec![2, 1], needs), [2, 0, 1]);
        assert_eq!(with_needs(&[0, 1, 2], vec![], needs), Vec::<usize>::new());
    }
}
