//! Instances of a core module that serve again, each put back to what it was when it was new.
//!
//! A fresh store and instance cost more than most calls. What can tell one instance of a module from a new one is its memory, its globals and its tables. Where all of
//! these can be put back, which `core_module.rs` finds out when a plugin is loaded, an instance whose request is over gets the memory and the globals of a new one at once and
//! waits for the next request; nothing of a visitor is left in it meanwhile. One that trapped, or has asked for more memory, is dropped.

use std::sync::{Mutex, PoisonError};

use wasmtime::{Store, Val};

use crate::canonical::{Called, Linked};
use crate::component::{classify, new_store};
use crate::engine::{Engine, HostState};
use crate::error::CallError;

/// Fuel for what an instance does before it is called: no guest code of the contract, but a module may have a start function.
pub(crate) const START_FUEL: u64 = 2_000_000;
/// Bytes of memory that are put back; with more of it a new instance is the cheaper one.
const MEMORY_BYTES_MAX: usize = 256 * 1024;
/// So many bytes of a memory are written or cleared together.
const BLOCK_BYTES: usize = 256;

/// A core module, and its instances that wait for a request.
pub(crate) struct Kept {
    linked: Linked,
    /// What a new instance has; none where one cannot be put back to it.
    newborn: Option<Newborn>,
    #[allow(clippy::vec_box)] // one moves out and in with every request
    waiting: Mutex<Vec<Box<Instance>>>,
    waiting_max: usize,
}

/// An instance in a store of its own.
pub(crate) struct Instance {
    pub(crate) store: Store<HostState>,
    pub(crate) called: Called,
}

impl Kept {
    /// Begins with none. `restorable` says whether nothing but memory and globals tells an instance of the module from a new one.
    pub(crate) fn new(engine: &Engine, linked: Linked, restorable: bool) -> Self {
        // Where a new one cannot be made, every call says why.
        let newborn = || Newborn::of(&mut *make(engine, &linked).ok()?);
        let newborn = restorable.then(newborn).flatten();
        Self { linked, newborn, waiting: Mutex::default(), waiting_max: engine.waiting_max }
    }

    /// Whether it observes, scores and ranks.
    pub(crate) fn stages(&self) -> (bool, bool, bool) {
        self.linked.stages()
    }

    /// Whether its instances serve again.
    pub(crate) fn is_restorable(&self) -> bool {
        self.newborn.is_some()
    }

    /// An instance for one request: a new one, or one that is as a new one.
    pub(crate) fn lend(&self, engine: &Engine) -> Result<Lent<'_>, CallError> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let instance = waiting.map_or_else(|| make(engine, &self.linked), Ok)?;
        Ok(Lent { of: self, instance: Some(instance) })
    }

    fn take_back(&self, mut instance: Box<Instance>) {
        if self.newborn.as_ref().is_some_and(|newborn| newborn.restore(&mut instance)) {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() < self.waiting_max {
                waiting.push(instance);
            }
        }
    }
}

fn make(engine: &Engine, linked: &Linked) -> Result<Box<Instance>, CallError> {
    let mut store = new_store(engine);
    match store.set_fuel(START_FUEL).and_then(|()| linked.instantiate(&mut store)) {
        Ok(called) => Ok(Box::new(Instance { store, called })),
        Err(error) => Err(classify(&store, &error, START_FUEL)),
    }
}

/// An instance for one request.
pub(crate) struct Lent<'k> {
    of: &'k Kept,
    /// None once a call went wrong.
    instance: Option<Box<Instance>>,
}

impl Lent<'_> {
    /// Uses it. What ends an instance, a panic of the host too, drops it.
    pub(crate) fn with<T>(&mut self, work: impl FnOnce(&mut Instance) -> Result<T, CallError>) -> Result<T, CallError> {
        let mut instance = self.instance.take().ok_or(CallError::Dropped)?;
        let outcome = work(&mut instance);
        if !outcome.as_ref().is_err_and(CallError::poisons) {
            self.instance = Some(instance);
        }
        outcome
    }
}

#[cfg(test)]
impl Lent<'_> {
    /// All of its memory.
    pub(crate) fn memory(&self) -> Option<&[u8]> {
        let Instance { store, called } = self.instance.as_deref()?;
        Some(called.memory().data(store))
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(instance) = self.instance.take() {
            self.of.take_back(instance);
        }
    }
}

/// What a new instance has.
struct Newborn {
    memory: Image,
    globals: Vec<Val>,
}

impl Newborn {
    fn of(instance: &mut Instance) -> Option<Self> {
        let Instance { store, called } = instance;
        let memory = called.memory().data(&*store);
        (memory.len() <= MEMORY_BYTES_MAX).then_some(())?;
        let memory = Image::of(memory);
        let globals = called.globals().iter().map(|global| global.get(&mut *store)).collect();
        Some(Self { memory, globals })
    }

    /// Makes an instance like a new one; false where it cannot be.
    fn restore(&self, instance: &mut Instance) -> bool {
        let Instance { store, called } = instance;
        let memory = called.memory().data_mut(&mut *store);
        if memory.len() != self.memory.bytes {
            return false;
        }
        self.memory.write(memory);
        let mut globals = called.globals().iter().zip(&self.globals);
        let restored = globals.all(|(global, value)| global.set(&mut *store, *value).is_ok());
        called.forget();
        store.data_mut().forget();
        restored
    }
}

/// A memory, as the parts of it that are not zero.
struct Image {
    bytes: usize,
    parts: Vec<(usize, Box<[u8]>)>,
}

impl Image {
    fn of(memory: &[u8]) -> Self {
        let mut parts: Vec<(usize, Vec<u8>)> = Vec::new();
        for (index, block) in memory.chunks(BLOCK_BYTES).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0))
        {
            let at = index * BLOCK_BYTES;
            match parts.last_mut().filter(|(begin, part)| begin + part.len() == at) {
                Some((_, part)) => part.extend_from_slice(block),
                None => parts.push((at, block.to_vec())),
            }
        }
        Self { bytes: memory.len(), parts: parts.into_iter().map(|(at, part)| (at, part.into())).collect() }
    }

    /// Writes it over a memory of its size.
    fn write(&self, memory: &mut [u8]) {
        let mut rest = memory;
        let mut at = 0;
        for (begin, part) in &self.parts {
            let (zeros, from) = rest.split_at_mut(begin - at);
            let (filled, after) = from.split_at_mut(part.len());
            zeros.fill(0);
            filled.copy_from_slice(part);
            (rest, at) = (after, begin + part.len());
        }
        rest.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use selvedge_core::columns::Columns;

    use super::*;
    use crate::engine::EngineConfig;
    use crate::{component, core_module};

    /// Scores by how often it was called, as a global and a byte of its memory say. It traps for no visitor, and wants more memory for two.
    const COUNTS: &str = r#"(module
      (memory (export "memory") 1)
      (global $next (mut i32) (i32.const 1024))
      (global $calls (mut f64) (f64.const 0))
      (data (i32.const 2048) "A constant.")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (global.get $next)
        (global.set $next (i32.add (global.get $next) (i32.add (local.get 3) (i32.const 16)))))
      (func (export "selvedge:plugin/scores@0.1.0#score") (param $rows i32)
          (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (if (i32.eqz (local.get $rows)) (then unreachable))
        (if (i32.eq (local.get $rows) (i32.const 2)) (then (drop (memory.grow (i32.const 1)))))
        (global.set $calls (f64.add (global.get $calls) (f64.const 1)))
        (i32.store8 (i32.const 2048) (i32.add (i32.load8_u (i32.const 2048)) (i32.const 1)))
        (i32.store (i32.const 4) (i32.const 64))
        (i32.store (i32.const 8) (i32.const 2))
        (i32.store8 (i32.const 64) (i32.const 1))
        (f64.store (i32.const 72) (global.get $calls))
        (i32.store8 (i32.const 80) (i32.const 1))
        (f64.store (i32.const 88) (f64.convert_i32_u (i32.load8_u (i32.const 2048))))
        (i32.const 0)))"#;

    fn score(lent: &mut Lent<'_>, rows: u32) -> Result<Vec<Option<f64>>, CallError> {
        let columns = Columns { rows, ..Columns::default() };
        lent.with(|Instance { store, called }| {
            let scored = store.set_fuel(10_000).and_then(|()| called.score(store, &columns));
            scored.map(|scored| scored.expect("no failure")).map_err(|error| component::classify(store, &error, 10_000))
        })
    }

    #[test]
    fn an_instance_that_serves_again_is_as_a_new_one() {
        let engine = Engine::new(EngineConfig::default()).expect("an engine");
        let module = core_module::restorable(&wat::parse_str(COUNTS).expect("a module")).expect("restorable");
        let linked = Linked::new(&engine, &module, (false, true, false)).expect("the contract's");
        let kept = Kept::new(&engine, linked, true);
        let waiting = || kept.waiting.lock().expect("a lock").len();
        let once = vec![Some(1.0), Some(f64::from(b'A') + 1.0)];
        for _ in 0..3 {
            let mut lent = kept.lend(&engine).expect("an instance");
            assert_eq!((waiting(), score(&mut lent, 1).expect("scores")), (0, once.clone()));
            assert_eq!(score(&mut lent, 1).expect("scores")[0], Some(2.0), "within one request it is the same one");
            drop(lent);
            assert_eq!(waiting(), 1);
        }
        let (mut one, mut other) = (kept.lend(&engine).expect("one"), kept.lend(&engine).expect("another"));
        assert_eq!((score(&mut one, 1).expect("scores"), score(&mut other, 1).expect("scores")), (once.clone(), once));
        drop(one);
        score(&mut other, 2).expect("scores");
        drop(other);
        assert_eq!(waiting(), 1, "one that has more memory than a new one is dropped");
        let mut lent = kept.lend(&engine).expect("an instance");
        assert!(matches!(score(&mut lent, 0), Err(CallError::Trapped(_))));
        assert!(matches!(score(&mut lent, 1), Err(CallError::Dropped)));
        drop(lent);
        assert_eq!(waiting(), 0, "one that trapped is dropped");
    }

    #[test]
    fn an_image_writes_every_byte_of_a_memory() {
        let cases: [&[(usize, usize)]; 4] =
            [&[], &[(0, 1)], &[(1_000, 1_001), (65_535, 65_536)], &[(0, 300), (512, 513), (700, 9_000)]];
        for filled in cases {
            let mut memory = vec![0; 65_536];
            filled.iter().for_each(|(from, to)| memory[*from..*to].fill(7));
            let image = Image::of(&memory);
            let mut dirty = vec![0xff; 65_536];
            image.write(&mut dirty);
            assert!(dirty == memory, "{filled:?}");
        }
    }
}
