//! The canonical ABI of the contract's stages, for a core module that is called without the component around it.
//!
//! What [the component model](https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md) says of `columns`, of the answers in `wit/` and of the log, in both
//! directions, and nothing of the rest. Whatever a guest answers is looked at before it is used: pointers, lengths, alignment, variants, UTF-8.

use std::marker::PhantomData;

use selvedge_core::columns::Columns;
use selvedge_core::stage::{Contributions, Ranking};
use wasmtime::{
    AsContextMut, Caller, Extern, Global, Instance, InstancePre, Linker, Memory, Module, ModuleExport, Store,
    TypedFunc, WasmParams, WasmResults, bail, ensure, format_err,
};

use crate::bindings::selvedge::plugin::log::{self, Host as _};
use crate::bindings::selvedge::plugin::types::Failure;
use crate::component::{OUTPUT_BYTES_MAX, interface};
use crate::core_module::{GLOBAL, MEMORY, REALLOC};
use crate::engine::{Engine, HostState};

type Result<T, E = wasmtime::Error> = std::result::Result<T, E>;
/// Old place, old size, alignment, new size.
type Realloc = (u32, u32, u32, u32);
/// A table in thirteen: its rows, and six lists.
type OneTable = (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32);
/// Two tables are more than fit, so they lie in memory.
type Place = (u32,);

/// Bytes of a table in memory.
const TABLE_BYTES: usize = 52;
/// Bytes of the longest answer, without what its lists hold.
const ANSWER_BYTES: usize = 36;

/// A core module of the contract, linked, and where its functions are.
pub(crate) struct Linked {
    pre: InstancePre<HostState>,
    memory: ModuleExport,
    realloc: ModuleExport,
    globals: Vec<ModuleExport>,
    observe: Option<Function<OneTable>>,
    score: Option<Function<OneTable>>,
    rank: Option<Function<Place>>,
}

/// Where one stage is, and what is to be called once its answer was read.
struct Function<P> {
    export: ModuleExport,
    after: Option<ModuleExport>,
    parameters: PhantomData<fn(P)>,
}

impl Linked {
    /// Compiles and links a module, which must have the stages that its component exports (to observe, to score, to rank).
    pub(crate) fn new(engine: &Engine, module: &[u8], exported: (bool, bool, bool)) -> Result<Self> {
        let module = Module::from_binary(&engine.wasm, module)?;
        let pre = engine.core_linker.instantiate_pre(&module)?;
        let export = |name: &str| module.get_export_index(name).ok_or_else(|| format_err!("exports no {name}"));
        let globals = (0..).map_while(|index| module.get_export_index(&format!("{GLOBAL}{index}")));
        let linked = Self {
            memory: export(MEMORY)?,
            realloc: export(REALLOC)?,
            globals: globals.collect(),
            observe: Function::find(&module, "aggregates", "observe"),
            score: Function::find(&module, "scores", "score"),
            rank: Function::find(&module, "offers", "rank"),
            pre,
        };
        ensure!(linked.stages() == exported, "its module has other stages than it exports");
        Ok(linked)
    }

    /// Whether it observes, scores and ranks.
    pub(crate) fn stages(&self) -> (bool, bool, bool) {
        (self.observe.is_some(), self.score.is_some(), self.rank.is_some())
    }

    /// A fresh instance.
    pub(crate) fn instantiate(&self, store: &mut Store<HostState>) -> Result<Called> {
        let instance = self.pre.instantiate(&mut *store)?;
        let Some(Extern::Memory(memory)) = instance.get_module_export(&mut *store, &self.memory) else {
            bail!("its memory is none");
        };
        let global = |export| match instance.get_module_export(&mut *store, export) {
            Some(Extern::Global(global)) => Ok(global),
            _ => bail!("a global of it is none"),
        };
        let globals = self.globals.iter().map(global).collect::<Result<_>>()?;
        let realloc = function(&instance, store, &self.realloc)?;
        let observe = self.observe.as_ref().map(|stage| stage.of(&instance, store)).transpose()?;
        let score = self.score.as_ref().map(|stage| stage.of(&instance, store)).transpose()?;
        let rank = self.rank.as_ref().map(|stage| stage.of(&instance, store)).transpose()?;
        Ok(Called { memory, globals, realloc, observe, score, rank, after: None })
    }
}

impl<P> Function<P> {
    fn find(module: &Module, stage: &str, function: &str) -> Option<Self> {
        let name = format!("{}#{function}", interface(stage));
        let after = module.get_export_index(&format!("cabi_post_{name}"));
        Some(Self { export: module.get_export_index(&name)?, after, parameters: PhantomData })
    }
}

impl<P: WasmParams> Function<P> {
    fn of(&self, instance: &Instance, store: &mut Store<HostState>) -> Result<Stage<P>> {
        let after = self.after.as_ref().map(|after| function(instance, store, after)).transpose()?;
        Ok(Stage { function: function(instance, store, &self.export)?, after })
    }
}

/// What the module imports.
pub(crate) fn link(engine: &wasmtime::Engine) -> Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(
        &interface("log"),
        "log",
        |mut caller: Caller<'_, HostState>, level: u32, at: u32, length: u32| {
            let level = match level {
                0 => log::Level::Debug,
                1 => log::Level::Info,
                2 => log::Level::Warn,
                3 => log::Level::Error,
                other => bail!("logs at the unknown level {other}"),
            };
            let Some(Extern::Memory(memory)) = caller.get_export(MEMORY) else { bail!("its memory is none") };
            let mut room = OUTPUT_BYTES_MAX;
            let line = Reader { bytes: memory.data(&caller), room: &mut room }.text(at, length)?;
            caller.data_mut().log(level, line);
            Ok(())
        },
    )?;
    Ok(linker)
}

fn function<P, R>(instance: &Instance, store: &mut Store<HostState>, export: &ModuleExport) -> Result<TypedFunc<P, R>>
where
    P: WasmParams,
    R: WasmResults,
{
    match instance.get_module_export(&mut *store, export) {
        Some(Extern::Func(function)) => function.typed(&*store),
        _ => bail!("a function of it is none"),
    }
}

/// An instance of a core module.
pub(crate) struct Called {
    memory: Memory,
    globals: Vec<Global>,
    realloc: TypedFunc<Realloc, u32>,
    observe: Option<Stage<OneTable>>,
    score: Option<Stage<OneTable>>,
    rank: Option<Stage<Place>>,
    /// What is to be called for the last answer before anything else is.
    after: Option<(After, u32)>,
}

/// One stage, and what is to be called once its answer was read.
struct Stage<P> {
    function: TypedFunc<P, u32>,
    after: Option<After>,
}

type After = TypedFunc<(u32,), ()>;

impl Called {
    /// The memory.
    pub(crate) fn memory(&self) -> Memory {
        self.memory
    }

    /// The globals that it may change.
    pub(crate) fn globals(&self) -> &[Global] {
        &self.globals
    }

    /// Leaves undone what was to be called for the last answer.
    pub(crate) fn forget(&mut self) {
        self.after = None;
    }

    /// Observes one event.
    pub(crate) fn observe(
        &mut self,
        store: &mut Store<HostState>,
        event: &Columns,
    ) -> Result<Result<Contributions, Failure>> {
        let parameters = self.lower(store, event)?;
        self.call(
            store,
            |called| called.observe.as_ref(),
            parameters,
            |answer| {
                let [aggregates, values, keys, skipped] = [4, 12, 20, 28].map(|field| answer.list_at(field));
                Ok(Contributions {
                    aggregates: answer.u32s(aggregates?)?,
                    values: answer.s64s(values?)?,
                    keys: answer.u32s(keys?)?,
                    skipped: answer.u32s(skipped?)?,
                })
            },
        )
    }

    /// Scores one visitor.
    pub(crate) fn score(
        &mut self,
        store: &mut Store<HostState>,
        visitor: &Columns,
    ) -> Result<Result<Vec<Option<f64>>, Failure>> {
        let parameters = self.lower(store, visitor)?;
        self.call(
            store,
            |called| called.score.as_ref(),
            parameters,
            |answer| {
                let scores = answer.list_at(4)?;
                answer.options(scores)
            },
        )
    }

    /// Ranks offers.
    pub(crate) fn rank(
        &mut self,
        store: &mut Store<HostState>,
        visitor: &Columns,
        offers: &Columns,
    ) -> Result<Result<Ranking, Failure>> {
        self.done(store)?;
        let place = self.allocate(store, 4, 2 * TABLE_BYTES)?;
        let mut tables = [0; 2 * TABLE_BYTES];
        for (table, columns) in tables.chunks_exact_mut(TABLE_BYTES).zip([visitor, offers]) {
            let (rows, a, b, c, d, e, f, g, h, i, j, k, l) = self.lower(store, columns)?;
            let words = [rows, a, b, c, d, e, f, g, h, i, j, k, l];
            table.chunks_exact_mut(4).zip(words).for_each(|(field, word)| field.copy_from_slice(&word.to_le_bytes()));
        }
        self.room(store, place, tables.len())?.copy_from_slice(&tables);
        self.call(
            store,
            |called| called.rank.as_ref(),
            (place,),
            |answer| {
                let [priorities, eligible, reasons] = [4, 12, 20].map(|field| answer.list_at(field));
                Ok(Ranking {
                    priorities: answer.f64s(priorities?)?,
                    eligible: answer.flags(eligible?)?,
                    reasons: answer.u32s(reasons?)?,
                })
            },
        )
    }

    /// Calls what was to be called after the last answer.
    fn done(&mut self, store: &mut Store<HostState>) -> Result<()> {
        match self.after.take() {
            Some((after, answer)) => after.call(store, (answer,)),
            None => Ok(()),
        }
    }

    fn call<P: WasmParams, T>(
        &mut self,
        store: &mut Store<HostState>,
        stage: impl FnOnce(&Self) -> Option<&Stage<P>>,
        parameters: P,
        lift: impl FnOnce(&mut Answer<'_>) -> Result<T>,
    ) -> Result<Result<T, Failure>> {
        let Some(Stage { function, after }) = stage(self) else { bail!("has no such stage") };
        let place = function.call(&mut *store, parameters)?;
        self.after = after.clone().map(|after| (after, place));
        let mut room = OUTPUT_BYTES_MAX;
        let mut reader = Reader { bytes: self.memory.data(&*store), room: &mut room };
        let answer = reader.bytes(place, 4, ANSWER_BYTES.min(reader.bytes.len().saturating_sub(place as usize)))?;
        let mut answer = Answer { bytes: answer, reader };
        match answer.tag(0)? {
            0 => lift(&mut answer).map(Ok),
            1 => {
                let (at, length) = answer.list_at(8)?;
                let tag = answer.tag(4)?;
                let text = answer.reader.text(at, length)?;
                match tag {
                    0 => Ok(Err(Failure::Rejected(text))),
                    1 => Ok(Err(Failure::Internal(text))),
                    other => bail!("the unknown kind of failure {other}"),
                }
            }
            other => bail!("neither an answer nor a failure, but {other}"),
        }
    }

    /// Writes a table into the guest's memory.
    fn lower(&mut self, store: &mut Store<HostState>, columns: &Columns) -> Result<OneTable> {
        self.done(store)?;
        let Columns { rows, f64s, s64s, codes, texts, present, offsets } = columns;
        let (a, b) = self.list(store, f64s, |value| value.to_le_bytes())?;
        let (c, d) = self.list(store, s64s, |value| value.to_le_bytes())?;
        let (e, f) = self.list(store, codes, |value| value.to_le_bytes())?;
        let (g, h) = self.texts(store, texts)?;
        let (i, j) = self.list(store, present, |value| value.to_le_bytes())?;
        let (k, l) = self.list(store, offsets, |value| value.to_le_bytes())?;
        Ok((*rows, a, b, c, d, e, f, g, h, i, j, k, l))
    }

    /// Writes numbers into the guest's memory: where, and how many.
    fn list<T: Copy, const BYTES: usize>(
        &mut self,
        store: &mut Store<HostState>,
        list: &[T],
        bytes: impl Fn(T) -> [u8; BYTES],
    ) -> Result<(u32, u32)> {
        if list.is_empty() {
            return Ok((BYTES as u32, 0));
        }
        let place = self.allocate(store, BYTES, list.len() * BYTES)?;
        let room = self.room(store, place, list.len() * BYTES)?;
        room.chunks_exact_mut(BYTES).zip(list).for_each(|(chunk, value)| chunk.copy_from_slice(&bytes(*value)));
        Ok((place, u32::try_from(list.len())?))
    }

    fn texts(&mut self, store: &mut Store<HostState>, texts: &[String]) -> Result<(u32, u32)> {
        if texts.is_empty() {
            return Ok((4, 0));
        }
        let mut places = Vec::with_capacity(8 * texts.len());
        let list = self.allocate(store, 4, 8 * texts.len())?;
        for text in texts {
            let (place, length) = self.list(store, text.as_bytes(), |byte| [byte])?;
            places.extend([place.to_le_bytes(), length.to_le_bytes()].concat());
        }
        self.room(store, list, places.len())?.copy_from_slice(&places);
        Ok((list, u32::try_from(texts.len())?))
    }

    fn allocate(&mut self, store: &mut Store<HostState>, align: usize, bytes: usize) -> Result<u32> {
        let place = self.realloc.call(store, (0, 0, align as u32, u32::try_from(bytes)?))?;
        ensure!((place as usize).is_multiple_of(align), "gave memory that is not aligned");
        Ok(place)
    }

    fn room<'s>(&self, store: &'s mut Store<HostState>, place: u32, bytes: usize) -> Result<&'s mut [u8]> {
        let memory = self.memory.data_mut(store.as_context_mut());
        let room = memory.get_mut(place as usize..).and_then(|memory| memory.get_mut(..bytes));
        room.ok_or_else(|| format_err!("gave memory that it does not have"))
    }
}

/// What a guest hands over, within its memory and within what it may hand over in one call.
struct Reader<'m> {
    bytes: &'m [u8],
    room: &'m mut usize,
}

impl<'m> Reader<'m> {
    fn bytes(&mut self, at: u32, align: usize, bytes: usize) -> Result<&'m [u8]> {
        ensure!((at as usize).is_multiple_of(align), "a pointer that is not aligned");
        let Some(room) = self.room.checked_sub(bytes) else {
            bail!("over {OUTPUT_BYTES_MAX} bytes in one call");
        };
        *self.room = room;
        let bytes = self.bytes.get(at as usize..).and_then(|memory| memory.get(..bytes));
        bytes.ok_or_else(|| format_err!("a pointer out of its memory"))
    }

    fn text(&mut self, at: u32, length: u32) -> Result<String> {
        let bytes = self.bytes(at, 1, length as usize)?;
        let text = std::str::from_utf8(bytes).map_err(|_| format_err!("a text that is not UTF-8"))?;
        Ok(text.to_owned())
    }
}

/// An answer: a variant, and lists in the order of the contract.
struct Answer<'m> {
    bytes: &'m [u8],
    reader: Reader<'m>,
}

impl Answer<'_> {
    fn tag(&self, field: usize) -> Result<u8> {
        self.bytes.get(field).copied().ok_or_else(|| format_err!("an answer out of its memory"))
    }

    /// Where the list in a field is, and how many elements it has.
    fn list_at(&self, field: usize) -> Result<(u32, u32)> {
        let word = |at: usize| {
            let word = self.bytes.get(at..)?.first_chunk::<4>()?;
            Some(u32::from_le_bytes(*word))
        };
        word(field).zip(word(field + 4)).ok_or_else(|| format_err!("an answer out of its memory"))
    }

    fn list<const BYTES: usize, T>(
        &mut self,
        list: (u32, u32),
        align: usize,
        read: fn(&[u8; BYTES]) -> T,
    ) -> Result<Vec<T>> {
        if list.1 == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.reader.bytes(list.0, align, (list.1 as usize).saturating_mul(BYTES))?;
        Ok(bytes.as_chunks::<BYTES>().0.iter().map(read).collect())
    }

    fn u32s(&mut self, list: (u32, u32)) -> Result<Vec<u32>> {
        self.list(list, 4, |bytes| u32::from_le_bytes(*bytes))
    }

    fn s64s(&mut self, list: (u32, u32)) -> Result<Vec<i64>> {
        self.list(list, 8, |bytes| i64::from_le_bytes(*bytes))
    }

    fn f64s(&mut self, list: (u32, u32)) -> Result<Vec<f64>> {
        self.list(list, 8, |bytes| f64::from_le_bytes(*bytes))
    }

    fn flags(&mut self, list: (u32, u32)) -> Result<Vec<bool>> {
        self.list(list, 1, |[byte]| *byte != 0)
    }

    fn options(&mut self, list: (u32, u32)) -> Result<Vec<Option<f64>>> {
        let options = self.list(list, 8, |bytes: &[u8; 16]| {
            let [tag, _, _, _, _, _, _, _, value @ ..] = *bytes;
            (tag, f64::from_le_bytes(value))
        })?;
        let option = |(tag, value)| match tag {
            0 => Ok(None),
            1 => Ok(Some(value)),
            other => bail!("neither a score nor none, but {other}"),
        };
        options.into_iter().map(option).collect()
    }
}
