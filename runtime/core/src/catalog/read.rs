//! Reading JSON with places: objects whose keys are known, and the plain values in them.
//!
//! Knows JSON, and nothing of offers. Values that are handed on keep their text. Whatever is wrong is noted with its place, and reading goes on, so that all
//! faults of a document are told at once.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use compact_str::CompactString;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::fault::{Faults, step};
use crate::config::unknown_key;
use crate::limits;
use crate::value::{Decimal, Timestamp};

/// A JSON object while it is read.
#[derive(Clone)]
pub(super) struct Object<'a, 'f> {
    /// Its place.
    pub(super) pointer: String,
    /// Of which offer, slot and so on it is, for people.
    label: String,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
    faults: &'f RefCell<Faults>,
}

impl<'a, 'f> Object<'a, 'f> {
    /// Opens an object that may have the given keys; none where it is no object.
    pub(super) fn open(
        raw: &'a RawValue,
        pointer: String,
        label: &str,
        known: &[&str],
        faults: &'f RefCell<Faults>,
    ) -> Option<Self> {
        let Ok(Fields(fields)) = serde_json::from_str(raw.get()) else {
            let detail = format!("{label}is not an object; it may have the keys {}", known.join(", "));
            faults.borrow_mut().add(pointer, detail);
            return None;
        };
        let object = Self { pointer, label: label.to_owned(), fields, faults };
        for (index, (key, _)) in object.fields.iter().enumerate() {
            if !known.contains(&key.as_ref()) {
                object.fault(key, unknown_key(key, known));
            } else if object.fields[..index].iter().any(|(other, _)| other == key) {
                object.fault(key, format!("the key {key:?} stands twice; keep one"));
            }
        }
        Some(object)
    }

    /// Says in every further fault what this is, such as `offer "rose"`.
    pub(super) fn label(&mut self, kind: &str, name: &str) {
        self.label = format!("{kind} {name:?}: ");
    }

    /// Notes a fault of a key's value.
    pub(super) fn fault(&self, key: &str, detail: impl AsRef<str>) {
        self.fault_at(step(&self.pointer, key), detail);
    }

    /// Notes a fault at a place.
    pub(super) fn fault_at(&self, pointer: String, detail: impl AsRef<str>) {
        self.faults.borrow_mut().add(pointer, format!("{}{}", self.label, detail.as_ref()));
    }

    /// The value of a key; `null` is as good as none.
    pub(super) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.fields.iter().find(|(known, _)| known == key)?;
        Some(*raw).filter(|raw| raw.get() != "null")
    }

    /// A value read by its own rule, which says what is wrong where it does not hold; none where there is none.
    pub(super) fn get<T>(&self, key: &str, read: impl FnOnce(&'a RawValue) -> Result<T, String>) -> Option<T> {
        read(self.raw(key)?).map_err(|detail| self.fault(key, format!("{key} {detail}"))).ok()
    }

    /// The same, of a key that must be there.
    pub(super) fn need<T>(
        &self,
        key: &str,
        mend: &str,
        read: impl FnOnce(&'a RawValue) -> Result<T, String>,
    ) -> Option<T> {
        if self.raw(key).is_none() {
            self.fault_at(self.pointer.clone(), format!("{key} is missing; {mend}"));
        }
        self.get(key, read)
    }

    /// A switch.
    pub(super) fn flag(&self, key: &str, otherwise: bool) -> bool {
        self.get(key, flag).unwrap_or(otherwise)
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.get(key, |raw| {
            let word = text(raw)?;
            let found = words.iter().find(|(known, _)| *known == word).map(|(_, of)| *of);
            found.ok_or_else(|| {
                let known: Vec<_> = words.iter().map(|(known, _)| format!("{known:?}")).collect();
                format!("is {word:?}; it is one of {}", known.join(", "))
            })
        })
    }

    /// An object below.
    pub(super) fn object(&self, key: &str, known: &[&str]) -> Option<Self> {
        self.object_at(self.raw(key)?, step(&self.pointer, key), known)
    }

    /// An object below, at a place.
    pub(super) fn object_at(&self, raw: &'a RawValue, pointer: String, known: &[&str]) -> Option<Self> {
        Self::open(raw, pointer, &self.label, known, self.faults)
    }

    /// An object below whose keys are names.
    pub(super) fn map(&self, key: &str) -> Vec<(String, &'a RawValue)> {
        let read = |raw: &'a RawValue| {
            serde_json::from_str(raw.get()).map(|Fields(fields)| fields).map_err(|_| "is not an object".to_owned())
        };
        let fields = self.get(key, read).unwrap_or_default();
        for (index, (name, _)) in fields.iter().enumerate() {
            if fields[..index].iter().any(|(other, _)| other == name) {
                self.fault_at(
                    step(&step(&self.pointer, key), name),
                    format!("the key {name:?} stands twice; keep one"),
                );
            }
        }
        fields.into_iter().map(|(name, raw)| (name.into_owned(), raw)).collect()
    }

    /// The elements of a list with their places; at most so many.
    pub(super) fn list(&self, key: &str, most: usize) -> Vec<(String, &'a RawValue)> {
        let elements = self.get(key, |raw| {
            let elements: Vec<&'a RawValue> =
                serde_json::from_str(raw.get()).map_err(|_| "is not a list".to_owned())?;
            if elements.len() > most {
                return Err(format!("has {} entries; at most {most} fit", elements.len()));
            }
            Ok(elements)
        });
        let pointer = step(&self.pointer, key);
        let placed = |(index, raw)| (format!("{pointer}/{index}"), raw);
        elements.unwrap_or_default().into_iter().enumerate().map(placed).collect()
    }

    /// The objects of a list.
    pub(super) fn objects(&self, key: &str, most: usize, known: &[&str]) -> Vec<Self> {
        self.list(key, most).into_iter().filter_map(|(pointer, raw)| self.object_at(raw, pointer, known)).collect()
    }

    /// A list of distinct names; none where there is no list.
    pub(super) fn names(&self, key: &str, most: usize) -> Option<Vec<CompactString>> {
        self.raw(key)?;
        let mut names: Vec<CompactString> = Vec::new();
        for (pointer, raw) in self.list(key, most) {
            match name(raw) {
                Err(detail) => self.fault_at(pointer, format!("an entry of {key} {detail}")),
                Ok(name) if names.contains(&name) => {
                    self.fault_at(pointer, format!("{name:?} stands twice in {key}; keep one"));
                }
                Ok(name) => names.push(name),
            }
        }
        Some(names)
    }
}

/// The fields of an object in their order, their values as they stand.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Fields<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Key(key), raw)) = map.next_entry()? {
                    fields.push((key, raw));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A text.
pub(super) fn text(raw: &RawValue) -> Result<String, String> {
    serde_json::from_str(raw.get()).map_err(|_| "is not a text".to_owned())
}

/// A text of 1 to 256 bytes.
pub(super) fn name(raw: &RawValue) -> Result<CompactString, String> {
    let name = text(raw)?;
    if name.is_empty() || name.len() > limits::KEY_BYTES_MAX {
        return Err(format!("is {name:?}; it must have 1 to {} bytes", limits::KEY_BYTES_MAX));
    }
    Ok(name.into())
}

/// True or false.
pub(super) fn flag(raw: &RawValue) -> Result<bool, String> {
    serde_json::from_str(raw.get()).map_err(|_| "is not true or false".to_owned())
}

/// A whole number of a range.
pub(super) fn whole(raw: &RawValue, least: u64, most: u64) -> Result<u64, String> {
    let json = raw.get();
    let whole = serde_json::from_str::<u64>(json).ok().or_else(|| {
        // 3.0 is as whole as 3.
        let decimal = Decimal::parse(json).ok()?.0;
        u64::try_from(decimal)
            .ok()
            .filter(|units| units % Decimal::SCALE as u64 == 0)
            .map(|units| units / Decimal::SCALE as u64)
    });
    match whole {
        Some(whole) if (least..=most).contains(&whole) => Ok(whole),
        _ if number(raw).is_err() => Err(format!("is not a number; it is a whole one from {least} to {most}")),
        _ => Err(format!("is {json}; it is a whole number from {least} to {most}")),
    }
}

/// A finite number.
pub(super) fn number(raw: &RawValue) -> Result<f64, String> {
    let number = serde_json::from_str::<f64>(raw.get()).ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "is not a number".to_owned())
}

/// A decimal number.
pub(super) fn decimal(raw: &RawValue) -> Result<Decimal, String> {
    number(raw)?;
    Decimal::parse(raw.get()).map_err(|error| format!("is {error}"))
}

/// An instant.
pub(super) fn instant(raw: &RawValue) -> Result<Timestamp, String> {
    let text = text(raw)?;
    Timestamp::parse(&text).map_err(|error| format!("is {text:?}, {error}"))
}
