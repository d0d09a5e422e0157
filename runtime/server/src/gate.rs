//! The gate: requests go in to what serves now. While one release takes the place of another, those who come wait at it, and those inside
//! finish what they began.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::sync::{RwLock, RwLockWriteGuard};

use crate::edge::Edge;

/// How often it is looked whether the last request has left.
const LOOK: Duration = Duration::from_millis(1);

/// What serves now, and whether one may go in.
pub struct Gate(RwLock<Arc<Edge>>);

impl Gate {
    /// A gate to what serves at first.
    pub fn new(edge: Arc<Edge>) -> Self {
        Self(RwLock::new(edge))
    }

    /// What serves now. Waits where something else is about to.
    pub async fn enter(&self) -> Arc<Edge> {
        // Mostly it is open, and nobody need wait.
        if let Ok(serving) = self.0.try_read() {
            return Arc::clone(&*serving);
        }
        Arc::clone(&*self.0.read().await)
    }

    /// Closes the gate and waits until nobody but the gate holds what serves. None where they stay longer than `patience`: then it is open again.
    pub async fn close(&self, patience: Duration) -> Option<Closed<'_>> {
        let closed = self.0.write().await;
        let began = Instant::now();
        while Arc::strong_count(&closed) > 1 {
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
