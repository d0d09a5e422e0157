//! What is simulated, and what came of it.

use crate::model::Rng;

/// A rule that is left out, to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The centre looks at neither watermarks nor ids.
    NoDedupe,
    /// The centre acknowledges before it has synced.
    AckBeforeFsync,
    /// A restored centre keeps its epoch, and nobody looks at epochs.
    NoEpoch,
    /// A restored centre takes the epoch after that of its backup, so a backup that is restored twice begins the same epoch twice.
    EpochRepeats,
    /// Edges acknowledge before they have synced.
    EdgeAcksEarly,
    /// Edges trim what the centre does not call stable.
    TrimUnstable,
}

/// What is simulated.
#[derive(Clone)]
pub struct Config {
    pub seed: u64,
    pub edges: usize,
    pub mutation: Option<Mutation>,
    /// How long clients send and things break.
    pub chaos_ms: i64,
    pub client_ms: (i64, i64),
    pub tick_ms: i64,
    pub check_ms: i64,
    /// Whether anything breaks by chance.
    pub faults: bool,
    /// Restores: none, of the newest backup, or also of older ones, which lose what was called stable.
    pub restores: Restores,
    /// The centre is away from here to there.
    pub away: Option<(i64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restores {
    None,
    Newest,
    Older,
}

impl Config {
    /// A stormy quarter of a minute, by seed.
    pub fn storm(seed: u64) -> Self {
        let mut rng = Rng(seed ^ 0x5e1f);
        let restores = [Restores::None, Restores::Newest, Restores::Newest, Restores::Older][rng.index(4)];
        Self {
            seed,
            edges: 3 + rng.index(3),
            mutation: None,
            chaos_ms: 15_000,
            client_ms: (10, 50),
            tick_ms: 10,
            check_ms: 250,
            faults: true,
            restores,
            away: None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub trace: u64,
    pub issued: u64,
    pub entries: u64,
    pub bootstraps: u64,
    pub resumes: u64,
    pub crashes: u64,
    pub restores: u64,
    pub edge_restores: u64,
    pub gaps: u64,
    pub dead: u64,
    pub tokens: u64,
    pub exempt: u64,
    pub healed_ms: i64,
    /// The most connections, and the most pushes, that were begun in one second.
    pub connects_max: u64,
    pub pushes_max: u64,
    pub connects: u64,
}
