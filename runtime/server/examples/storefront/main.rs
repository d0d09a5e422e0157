//! A small storefront on Selvedge: how a website uses it.
//!
//! The browser sends what the visitor does and asks what to show, straight to the edge, with the publishable key. This server side serves
//! the page and reads the visitor's profile for the panel, with the secret key, which never leaves it: a visitor is
//! whoever holds the cookie that this server gave out, and sees their own profile or that of a simulated visitor. Who signs in gets a
//! token of this shop, with which the browser speaks for the shop's customer; the edge knows the shop's key.
//!
//! ```sh
//! cargo run --release -p selvedge-server --example storefront -- --edge http://127.0.0.1:8080 \
//!     --publishable-key PK --write-key WK --secret-key SK --token-secret SECRET
//! ```

mod past;
mod simulation;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Parser;
use jsonwebtoken::{Algorithm, EncodingKey};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;

/// A small storefront on Selvedge.
#[derive(Parser)]
struct Arguments {
    /// The edge's public address.
    #[arg(long)]
    edge: String,
    /// Where to serve the page; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:8082")]
    listen: SocketAddr,
    #[arg(long, env = "SELVEDGE_PUBLISHABLE_KEY", hide_env_values = true)]
    publishable_key: String,
    #[arg(long, env = "SELVEDGE_WRITE_KEY", hide_env_values = true)]
    write_key: String,
    #[arg(long, env = "SELVEDGE_SECRET_KEY", hide_env_values = true)]
    secret_key: String,
    /// The secret of `[[identity.tokens]]` with the audience `shop` in the edge's configuration.
    #[arg(long, env = "SELVEDGE_SHOP_TOKEN_SECRET", hide_env_values = true)]
    token_secret: String,
    /// The seed of the simulated visitors.
    #[arg(long, default_value_t = 2010)]
    seed: u64,
}

struct Shop {
    edge: String,
    publishable_key: String,
    secret_key: String,
    token_secret: String,
    agent: Agent,
    /// Visitors who are signed in, all as the one customer that this shop has.
    signed_in: Mutex<HashSet<String>>,
}

/// The customer as whom one can sign in.
const CUSTOMER: &str = "dora";
/// Whom tokens are for: this shop's edges.
const AUDIENCE: &str = "shop";
/// Seconds for which a token holds.
const TOKEN_S: u64 = 600;

fn main() -> Result<()> {
    let Arguments { edge, listen, publishable_key, write_key, secret_key, token_secret, seed } = Arguments::parse();
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let shop = Shop { edge, publishable_key, secret_key, token_secret, agent, signed_in: Mutex::default() };
    let seeded = seed_shop(&shop, &write_key, seed)?;
    past::decide(&shop, &write_key, seed)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
        let address = listener.local_addr()?;
        println!("{}", json!({"ready": true, "storefront": format!("http://{address}"), "simulatedEvents": seeded}));
        axum::serve(listener, routes(Arc::new(shop))).await.context("serve")
    })
}

/// Sends the simulated visitors' past, once: events that are known already count once.
fn seed_shop(shop: &Shop, write_key: &str, seed: u64) -> Result<usize> {
    let events = simulation::events(seed, jiff::Timestamp::now());
    for batch in events.chunks(1000) {
        shop.send(write_key, "/v1/batch", &json!({ "batch": batch }))?;
    }
    Ok(events.len())
}

fn routes(shop: Arc<Shop>) -> Router {
    let script = |text: &'static str| get(move || async move { typed("text/javascript; charset=utf-8", text) });
    let style = |text: &'static str| get(move || async move { typed("text/css; charset=utf-8", text) });
    Router::new()
        .route("/", get(|| async { Html(include_str!("index.html")) }))
        .route("/shop.js", script(include_str!("shop.js")))
        .route("/shop.css", style(include_str!("shop.css")))
        .route("/session", get(session))
        .route("/sign-in", post(sign_in))
        .route("/sign-out", post(sign_out))
        .route("/forget", post(forget))
        .route("/visitor", get(visitor))
        .with_state(shop)
}

fn typed(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

/// Who calls, by cookie; a newcomer gets one. Whoever is signed in gets a token.
async fn session(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Response, StatusCode> {
    match visitor_of(&headers) {
        Some(visitor) => shop.greet(&visitor),
        None => shop.welcome(),
    }
}

/// Signs the caller in. A real shop would want a password.
async fn sign_in(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Response, StatusCode> {
    let visitor = visitor_of(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    shop.signed_in.lock().insert(visitor.clone());
    shop.greet(&visitor)
}

/// Signs the caller out: whoever comes next in this browser is somebody new.
async fn sign_out(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Response, StatusCode> {
    let visitor = visitor_of(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    shop.signed_in.lock().remove(&visitor);
    shop.welcome()
}

/// It was not the customer after all: this browser and the customer are taken apart again.
async fn forget(State(shop): State<Arc<Shop>>, headers: HeaderMap) -> Result<Response, StatusCode> {
    let visitor = visitor_of(&headers).ok_or(StatusCode::UNAUTHORIZED)?;
    shop.signed_in.lock().remove(&visitor);
    let (unlinking, pair) = (Arc::clone(&shop), [format!("user:{CUSTOMER}"), format!("anonymous:{visitor}")]);
    let unlinked = tokio::task::spawn_blocking(move || {
        let url = format!("{}/v1/identities/unlink", unlinking.edge);
        unlinking
            .agent
            .post(url)
            .header("authorization", unlinking.bearer())
            .send(json!({ "identifiers": pair }).to_string())
    });
    let unlinked = unlinked.await.ok().and_then(Result::ok).ok_or(StatusCode::BAD_GATEWAY)?;
    // Where they were not linked there is nothing to take apart.
    if !matches!(unlinked.status().as_u16(), 200 | 409) {
        return Err(StatusCode::BAD_GATEWAY);
    }
    shop.greet(&visitor)
}

fn visitor_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    let visitor = cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix("visitor="))?;
    let well_formed = visitor.len() == 16 && visitor.bytes().all(|byte| byte.is_ascii_hexdigit());
    well_formed.then(|| visitor.to_owned())
}

#[derive(Deserialize)]
struct VisitorQuery {
    /// A simulated visitor to look at instead.
    simulated: Option<String>,
}

/// The panel's data: the caller's own profile, or a simulated visitor's with what they would be shown.
async fn visitor(
    State(shop): State<Arc<Shop>>,
    Query(query): Query<VisitorQuery>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    let asked = query.simulated.as_deref();
    let persona =
        asked.map(|id| simulation::PERSONAS.iter().find(|persona| persona.id == id).ok_or(StatusCode::NOT_FOUND));
    let persona = persona.transpose()?;
    let own = visitor_of(&headers);
    let identifier = match (persona, own) {
        (Some(persona), _) => format!("user:{}", persona.id),
        (None, Some(own)) if shop.signed_in.lock().contains(&own) => format!("user:{CUSTOMER}"),
        (None, Some(own)) => format!("anonymous:{own}"),
        (None, None) => return Err(StatusCode::UNAUTHORIZED),
    };
    let looked_up = tokio::task::spawn_blocking(move || {
        let profile = shop.ask(
            shop.agent
                .get(format!("{}/v1/profiles/{identifier}", shop.edge))
                .header("authorization", shop.bearer())
                .call(),
        );
        let decision = persona.map(|persona| {
            let body = json!({
                "visitor": {"userId": persona.id}, "dryRun": true, "explain": true, "deadlineMs": 5000,
                "slots": [{"slot": "home-hero"}, {"slot": "home-grid", "count": 4}],
            });
            shop.ask(
                shop.agent
                    .post(format!("{}/v1/decide", shop.edge))
                    .header("authorization", shop.bearer())
                    .send(body.to_string()),
            )
        });
        json!({"profile": profile, "decision": decision})
    });
    looked_up.await.map(Json).map_err(|_| StatusCode::BAD_GATEWAY)
}

impl Shop {
    /// What the page needs to know of its visitor.
    fn greet(&self, visitor: &str) -> Result<Response, StatusCode> {
        let simulated: Vec<_> =
            simulation::PERSONAS.iter().map(|persona| json!({"id": persona.id, "about": persona.about})).collect();
        let signed_in = self.signed_in.lock().contains(visitor);
        let token = signed_in.then(|| self.token()).transpose().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Json(json!({
            "edge": self.edge, "publishableKey": self.publishable_key, "anonymousId": visitor,
            "customer": signed_in.then_some(CUSTOMER), "identityToken": token, "simulated": simulated,
        }))
        .into_response())
    }

    /// The same for somebody new, with their cookie.
    fn welcome(&self) -> Result<Response, StatusCode> {
        let visitor = format!("{:016x}", getrandom::u64().map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?);
        let mut response = self.greet(&visitor)?;
        let cookie = format!("visitor={visitor}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000");
        let cookie = HeaderValue::from_str(&cookie).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        response.headers_mut().insert(header::SET_COOKIE, cookie);
        Ok(response)
    }

    /// What a browser shows the edge to speak for the customer.
    fn token(&self) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = json!({"sub": CUSTOMER, "aud": AUDIENCE, "exp": jsonwebtoken::get_current_timestamp() + TOKEN_S});
        let key = EncodingKey::from_secret(self.token_secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::new(Algorithm::HS256), &claims, &key)
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.secret_key)
    }

    /// Sends what the simulated visitors do; gives what is answered.
    fn send(&self, key: &str, path: &str, body: &Value) -> Result<String> {
        let call = self.agent.post(format!("{}{path}", self.edge)).header("authorization", format!("Bearer {key}"));
        let mut answer = call.send(body.to_string()).with_context(|| format!("reach {}", self.edge))?;
        let text = answer.body_mut().read_to_string()?;
        ensure!(answer.status() == 200, "the edge refused the simulated visitors: {text}");
        Ok(text)
    }

    /// The answer's JSON; null where there is none.
    fn ask(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
        let text = answer
            .ok()
            .filter(|answer| answer.status() == 200)
            .and_then(|mut answer| answer.body_mut().read_to_string().ok());
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }
}
