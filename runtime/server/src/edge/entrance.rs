//! The way in of the public listener: the two calls that are made most go straight to their handlers, all others to the routes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, Method, Request, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use selvedge_core::event::EventKind;

use super::decide;
use super::ingest::{self, Ack};
use crate::gate::Gate;

/// What the public listener serves.
#[derive(Clone)]
pub struct Entrance {
    pub(super) gate: Arc<Gate>,
    routes: TowerToHyperService<Router>,
}

impl Entrance {
    /// The routes, with a shorter way to what they lead to most.
    pub fn new(gate: Arc<Gate>, routes: Router) -> Self {
        Self { gate, routes: TowerToHyperService::new(routes) }
    }
}

impl Service<Request<Incoming>> for Entrance {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if request.method() != Method::POST || !is_plain(request.headers()) {
            return Box::pin(self.routes.call(request));
        }
        let gate = Arc::clone(&self.gate);
        match (request.uri().path(), request.uri().query()) {
            ("/v1/decide", None) => Box::pin(async move {
                let (parts, body) = request.into_parts();
                let edge = gate.enter().await;
                Ok(decide::call(&edge, &parts.headers, body).await.into_response())
            }),
            ("/v1/track", query) => {
                let Some(ack) = Ack::of(query) else { return Box::pin(self.routes.call(request)) };
                Box::pin(async move {
                    let (parts, body) = request.into_parts();
                    let edge = gate.enter().await;
                    let answer = ingest::call(EventKind::Track, &edge, ack, &parts.headers, body).await;
                    Ok(answer.into_response())
                })
            }
            _ => Box::pin(self.routes.call(request)),
        }
    }
}

/// Whether nothing of a request is for the layers around the routes: no page of another origin asks, and the body is as it stands.
fn is_plain(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::ORIGIN) && !headers.contains_key(header::CONTENT_ENCODING)
}
