//! A value that clones share until one of them changes it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value behind a count of its owners: cloned at the price of that count, copied when it is changed while others have it.
#[derive(Debug, Default)]
pub struct Shared<T>(Arc<Weighed<T>>);

/// A value, and what it was found to weigh; 0 where nobody has asked since it changed.
#[derive(Debug, Default)]
struct Weighed<T> {
    value: T,
    weight: AtomicUsize,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Clone> Clone for Weighed<T> {
    fn clone(&self) -> Self {
        Self::from(self.value.clone())
    }
}

impl<T> From<T> for Weighed<T> {
    fn from(value: T) -> Self {
        Self { value, weight: AtomicUsize::new(0) }
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value.into()))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        let weighed = Arc::make_mut(&mut self.0);
        *weighed.weight.get_mut() = 0;
        &mut weighed.value
    }
}

/// Names a [`Shared`] value without keeping it.
#[derive(Debug)]
pub struct Name<T>(Weak<Weighed<T>>);

impl<T> Name<T> {
    /// Whether both are names of the very same value.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl<T> Shared<T> {
    /// Whether both are the very same value, not just equal ones.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// A name for the value as it is: once it is changed it has another one.
    pub fn name(&self) -> Name<T> {
        Name(Arc::downgrade(&self.0))
    }

    /// Whether a name is that of this very value.
    pub fn is_named(&self, name: &Name<T>) -> bool {
        // What a name points to is not given to another value as long as the name lives.
        std::ptr::eq(Arc::as_ptr(&self.0), name.0.as_ptr())
    }

    /// What it weighs, asked once for all who share it, until it changes.
    pub fn weight(&self, weigh: impl FnOnce(&T) -> usize) -> usize {
        match self.0.weight.load(Ordering::Relaxed) {
            0 => {
                let weight = weigh(self);
                self.0.weight.store(weight, Ordering::Relaxed);
                weight
            }
            weight => weight,
        }
    }
}

impl<T: Clone> Shared<T> {
    /// The value itself, copied where others have it.
    pub fn into_inner(self) -> T {
        Arc::unwrap_or_clone(self.0).value
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || **self == **other
    }
}

impl<T: Eq> Eq for Shared<T> {}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_until_one_changes() {
        let one = Shared::from(vec![1, 2]);
        let mut other = one.clone();
        assert!(std::ptr::eq(&raw const *one, &raw const *other) && one == other);
        other.push(3);
        assert_eq!((one.len(), other.len()), (2, 3));
        assert_eq!((one.weight(Vec::len), one.weight(|_| 7), other.weight(Vec::len)), (2, 2, 3));
        other.push(4);
        assert_eq!((other.weight(Vec::len), other.pop()), (4, Some(4)), "it is weighed anew once it has changed");
        let name = other.name();
        assert!(other.is_named(&name) && other.clone().is_named(&name) && !one.is_named(&name));
        other.push(5);
        assert_eq!((other.is_named(&name), other.pop()), (false, Some(5)), "also where nobody shared it");
        assert_eq!(other.into_inner(), [1, 2, 3]);
        let bytes = postcard::to_allocvec(&one).expect("bytes");
        assert_eq!(bytes, postcard::to_allocvec(&vec![1, 2]).expect("bytes"), "it is written as what it holds");
        assert_eq!(postcard::from_bytes::<Shared<Vec<i32>>>(&bytes).expect("read"), one);
    }
}
