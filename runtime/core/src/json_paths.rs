//! Reading a few declared paths out of a JSON text in one pass, without building a tree.
//!
//! Knows nothing of what the values mean: each found value is handed on as raw JSON. An error stops the pass and names the place as a
//! JSON pointer.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::Refusal;

/// A set of paths such as `properties.total` and `properties.products[].price`, each leading to a column.
#[derive(Clone, Debug, Default)]
pub(crate) struct JsonPaths {
    root: Node,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<(Box<str>, Node)>,
    /// Columns that read the value at this very place.
    leaves: Vec<usize>,
    /// Where the value is a list: what its elements lead to, and all columns below.
    each: Option<(Box<Node>, Vec<usize>)>,
}

/// Receives what a pass finds.
pub(crate) trait Sink<'de> {
    /// A value at the place of a column; the error says what was expected.
    fn value(&mut self, column: usize, raw: &'de RawValue) -> Result<(), &'static str>;
    /// A list begins (anew, where a key stands twice) for these columns.
    fn list(&mut self, columns: &[usize]);
    /// The next element of that list.
    fn element(&mut self, columns: &[usize]);
}

impl JsonPaths {
    /// Adds a path. The error says what is wrong with it.
    pub(crate) fn add(&mut self, path: &str, column: usize) -> Result<(), &'static str> {
        if path.matches("[]").count() > 1 {
            return Err("at most one [] may stand in a path");
        }
        self.root.add(path, column)
    }

    /// Whether there is no path at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.children.is_empty()
    }

    /// Hands every value that a path leads to to the sink.
    pub(crate) fn read<'de>(&self, json: &'de str, sink: &mut dyn Sink<'de>) -> Result<(), Refusal> {
        self.pass(json, sink, true)
    }

    /// The same, passing over what has another shape than the paths.
    pub(crate) fn read_leniently<'de>(&self, json: &'de str, sink: &mut dyn Sink<'de>) -> Result<(), Refusal> {
        self.pass(json, sink, false)
    }

    fn pass<'de>(&self, json: &'de str, sink: &mut dyn Sink<'de>, strict: bool) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let mut pass = Pass { sink, place: Vec::new(), fault: None, strict };
        let outcome =
            Seed { node: &self.root, pass: &mut pass }.deserialize(&mut serde_json::Deserializer::from_str(json));
        match (outcome, pass.fault) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(fault)) => Err(fault),
            (Err(error), None) => Err(Refusal::new("malformed_event", "", format!("is not JSON: {error}"))),
        }
    }
}

impl Node {
    fn add(&mut self, path: &str, column: usize) -> Result<(), &'static str> {
        if path.is_empty() {
            self.leaves.push(column);
            return Ok(());
        }
        if let Some(rest) = path.strip_prefix("[]") {
            let (each, columns) = self.each.get_or_insert_default();
            columns.push(column);
            return each.add(after_dot(rest)?, column);
        }
        let end = path.find(['.', '[']).unwrap_or(path.len());
        let (name, rest) = path.split_at(end);
        if name.is_empty() {
            return Err("a name is missing in the path");
        }
        let index = match self.children.iter().position(|(child, _)| child.as_ref() == name) {
            Some(index) => index,
            None => {
                self.children.push((name.into(), Self::default()));
                self.children.len() - 1
            }
        };
        self.children[index].1.add(after_dot(rest)?, column)
    }

    fn inner(&self) -> bool {
        !self.children.is_empty() || self.each.is_some()
    }
}

/// What follows a dot; a dot with nothing behind it is a fault.
fn after_dot(rest: &str) -> Result<&str, &'static str> {
    match rest.strip_prefix('.') {
        Some("") => Err("a name is missing in the path"),
        Some(next) => Ok(next),
        None => Ok(rest),
    }
}

struct Pass<'n, 's, 'de> {
    sink: &'s mut dyn Sink<'de>,
    place: Vec<Step<'n>>,
    fault: Option<Refusal>,
    /// Whether another shape than the paths is a fault.
    strict: bool,
}

enum Step<'n> {
    Key(&'n str),
    Index(usize),
}

impl Pass<'_, '_, '_> {
    fn refuse<E: serde::de::Error>(&mut self, detail: &str) -> E {
        let mut pointer = String::new();
        for step in &self.place {
            pointer.push('/');
            match step {
                Step::Key(key) => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => pointer.push_str(&index.to_string()),
            }
        }
        self.fault = Some(Refusal::new("wrong_type", pointer, detail));
        E::custom(detail)
    }
}

struct Seed<'n, 'p, 's, 'de> {
    node: &'n Node,
    pass: &'p mut Pass<'n, 's, 'de>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if !self.node.inner() {
            let raw = <&'de RawValue as serde::Deserialize>::deserialize(deserializer)?;
            return self.leaf(raw);
        }
        if self.node.leaves.is_empty() {
            return deserializer.deserialize_any(self);
        }
        // A place that is read both whole and in part: rare, so it is read twice.
        let raw = <&'de RawValue as serde::Deserialize>::deserialize(deserializer)?;
        let Self { node, pass } = self;
        Seed { node, pass }.leaf::<D::Error>(raw)?;
        serde_json::Deserializer::from_str(raw.get())
            .deserialize_any(Seed { node, pass })
            .map_err(serde::de::Error::custom)
    }
}

impl<'de> Seed<'_, '_, '_, 'de> {
    fn leaf<E: serde::de::Error>(self, raw: &'de RawValue) -> Result<(), E> {
        for column in &self.node.leaves {
            if let Err(expected) = self.pass.sink.value(*column, raw) {
                return Err(self.pass.refuse(expected));
            }
        }
        Ok(())
    }

    fn wrong<E: serde::de::Error>(self) -> Result<(), E> {
        if !self.pass.strict {
            return Ok(());
        }
        Err(self.pass.refuse(if self.node.each.is_some() { "is not a list" } else { "is not an object" }))
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_, '_, 'de> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object or a list")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.wrong()
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.wrong()
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.wrong()
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.wrong()
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.wrong()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { node, pass } = self;
        if node.children.is_empty() && pass.strict {
            return Err(pass.refuse("is not a list"));
        }
        while let Some(child) = map.next_key_seed(Child(node))? {
            match child {
                Some((name, child)) => {
                    pass.place.push(Step::Key(name));
                    map.next_value_seed(Seed { node: child, pass })?;
                    pass.place.pop();
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self { node, pass } = self;
        let Some((each, columns)) = &node.each else {
            if pass.strict {
                return Err(pass.refuse("is not an object"));
            }
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        pass.sink.list(columns);
        let mut index = 0;
        loop {
            pass.place.push(Step::Index(index));
            let element = ElementSeed { columns, seed: Seed { node: each, pass } };
            let more = seq.next_element_seed(element)?.is_some();
            pass.place.pop();
            if !more {
                return Ok(());
            }
            index += 1;
        }
    }
}

/// Announces an element before it is read.
struct ElementSeed<'n, 'p, 's, 'de> {
    columns: &'n [usize],
    seed: Seed<'n, 'p, 's, 'de>,
}

impl<'de> DeserializeSeed<'de> for ElementSeed<'_, '_, '_, 'de> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.seed.pass.sink.element(self.columns);
        self.seed.deserialize(deserializer)
    }
}

/// Finds the child of a key without keeping the key.
struct Child<'n>(&'n Node);

impl<'de, 'n> DeserializeSeed<'de> for Child<'n> {
    type Value = Option<(&'n str, &'n Node)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for Child<'n> {
    type Value = Option<(&'n str, &'n Node)>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|(name, _)| name.as_ref() == key).map(|(name, child)| (name.as_ref(), child)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes down what it is told.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Sink<'_> for Notes {
        fn value(&mut self, column: usize, raw: &RawValue) -> Result<(), &'static str> {
            self.0.push(format!("{column}={}", raw.get()));
            if raw.get() == "\"bad\"" { Err("is bad") } else { Ok(()) }
        }

        fn list(&mut self, columns: &[usize]) {
            self.0.push(format!("list {columns:?}"));
        }

        fn element(&mut self, _: &[usize]) {
            self.0.push("element".into());
        }
    }

    fn paths() -> JsonPaths {
        let mut paths = JsonPaths::default();
        for (column, path) in ["p.total", "p.items[].price", "p.items[].sku", "p.tags[]", "p"].into_iter().enumerate() {
            paths.add(path, column).expect("a good path");
        }
        paths
    }

    fn read(json: &str) -> Result<String, (String, String)> {
        let mut notes = Notes::default();
        paths().read(json, &mut notes).map_err(|fault| (fault.pointer, fault.detail))?;
        Ok(notes.0[1..].join(" "))
    }

    #[test]
    fn declared_paths_are_found_and_everything_else_is_passed_over() {
        assert_eq!(
            read(r#"{"x":[{"p":1}],"p":{"items":[{"sku":"a","n":{}},{},{"price":2.50}],"total":3,"tags":["t"]}}"#)
                .as_deref(),
            Ok("list [1, 2] element 2=\"a\" element element 1=2.50 0=3 list [3] element 3=\"t\"")
        );
        assert_eq!(read(r#"{"p":{"items":null,"tags":[]}}"#).as_deref(), Ok("list [3]"));
    }

    #[test]
    fn a_fault_names_its_place() {
        let at = |json: &str| read(json).expect_err("a fault");
        assert_eq!(at(r#"{"p":{"items":[{},{"price":"bad"}]}}"#), ("/p/items/1/price".into(), "is bad".into()));
        assert_eq!(at(r#"{"p":{"items":{"price":1}}}"#), ("/p/items".into(), "is not a list".into()));
        assert_eq!(at(r#"{"p":{"items":[7]}}"#), ("/p/items/0".into(), "is not an object".into()));
        assert_eq!(at(r#"[]"#), (String::new(), "is not an object".into()));
    }

    #[test]
    fn a_faulty_path_is_refused() {
        let add = |path: &str| JsonPaths::default().add(path, 0);
        assert!(add("a[].b[].c").is_err());
        assert!(add("a..b").is_err());
        assert!(add(".a").is_err());
        assert!(add("a.").is_err());
        assert!(add("a[].b").is_ok());
    }
}
