//! The gate: requests go in to what serves now. While one release takes the place of another, those who come wait at it, and those inside
//! finish what they began. What only decides by another catalogue takes its place without that: nobody waits.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockWriteGuard};

use crate::edge::Edge;

/// How often it is looked whether the last request has left.
const LOOK: Duration = Duration::from_millis(1);

/// What serves now, and whether one may go in.
pub struct Gate {
    serving: RwLock<Arc<Edge>>,
    /// What served over the same shards before, as far as requests still hold it.
    left: Mutex<Vec<Weak<Edge>>>,
}

impl Gate {
    /// A gate to what serves at first.
    pub fn new(edge: Arc<Edge>) -> Self {
        Self { serving: RwLock::new(edge), left: Mutex::default() }
    }

    /// What serves now. Waits where something else is about to.
    pub async fn enter(&self) -> Arc<Edge> {
        // Mostly it is open, and nobody need wait.
        if let Ok(serving) = self.serving.try_read() {
            return Arc::clone(&*serving);
        }
        Arc::clone(&*self.serving.read().await)
    }

    /// Puts something over the same shards in the place of what serves. Requests inside finish what they began.
    pub async fn swap(&self, next: impl FnOnce(&Edge) -> Edge) {
        let mut serving = self.serving.write().await;
        let next = Arc::new(next(&serving));
        let before = std::mem::replace(&mut *serving, next);
        let mut left = self.left.lock();
        left.retain(|edge| edge.strong_count() > 0);
        left.push(Arc::downgrade(&before));
    }

    fn is_left(&self) -> bool {
        self.left.lock().iter().all(|edge| edge.strong_count() == 0)
    }

    /// Closes the gate and waits until nobody but the gate holds what serves. None where they stay longer than `patience`: then it is open again.
    pub async fn close(&self, patience: Duration) -> Option<Closed<'_>> {
        let closed = self.serving.write().await;
        let began = Instant::now();
        while Arc::strong_count(&closed) > 1 || !self.is_left() {
            if began.elapsed() > patience {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
        Some(Closed(closed))
    }
}

/// A gate that is closed until this goes.
pub struct Closed<'g>(RwLockWriteGuard<'g, Arc<Edge>>);

impl Closed<'_> {
    /// What served until now.
    pub fn serving(&self) -> Arc<Edge> {
        Arc::clone(&self.0)
    }

    /// Puts something else in its place.
    pub fn replace(&mut self, edge: Arc<Edge>) {
        *self.0 = edge;
    }
}

/// The edge that answers a request.
pub struct Serving(pub Arc<Edge>);

impl FromRequestParts<Arc<Gate>> for Serving {
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, gate: &Arc<Gate>) -> Result<Self, Infallible> {
        Ok(Self(gate.enter().await))
    }
}
