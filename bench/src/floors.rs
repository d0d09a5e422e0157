//! The floors: what HTTP alone costs on this machine, and what it costs with the same decision natively.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use clap::Args;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};

use crate::native::{Native, end_of};

/// What a floor is told.
#[derive(Args)]
pub struct FloorArguments {
    /// A file with an answer of the server under measurement: floor A answers it, floor B the end of it.
    #[arg(long)]
    answer: PathBuf,
    /// How many profiles floor B holds.
    #[arg(long, default_value_t = 100_000)]
    profiles: u32,
}

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];

/// Serves floor A.
pub fn a(arguments: &FloorArguments) -> Result<()> {
    let answer = Bytes::from(std::fs::read(&arguments.answer).context("read the answer")?);
    let route = post(|State(answer): State<Bytes>, _: Bytes| async move { (JSON, answer) });
    serve(Router::new().route("/v1/decide", route).with_state(answer))
}

/// Serves floor B.
pub fn b(arguments: &FloorArguments) -> Result<()> {
    let answer = std::fs::read(&arguments.answer).context("read the answer")?;
    let end: Box<RawValue> = serde_json::value::to_raw_value(&end_of(&answer)?)?;
    let native = Arc::new(Native::new(arguments.profiles, end)?);
    let route = post(|State(native): State<Arc<Native>>, body: Bytes| async move { decide(&native, &body) });
    serve(Router::new().route("/v1/decide", route).with_state(native))
}

fn decide(native: &Native, body: &[u8]) -> Response {
    match native.decide(body) {
        Some(answer) => (JSON, answer).into_response(),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}

fn serve(routes: Router) -> Result<()> {
    // As many threads as the process has cores, as the server under measurement.
    let workers = std::thread::available_parallelism()?.get();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", serde_json::json!({"ready": true, "public": format!("http://{}", listener.local_addr()?)}));
        let listener = listener.tap_io(|connection| _ = connection.set_nodelay(true));
        let mut end = signal(SignalKind::terminate())?;
        tokio::select! {
            served = axum::serve(listener, routes).into_future() => served?,
            _ = end.recv() => {}
        }
        Ok(())
    })
}
