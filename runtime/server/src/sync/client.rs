//! The centre as an edge sees it: its protocol over HTTP.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use axum::body::Bytes;
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, RANGE};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use selvedge_core::identity::ShardId;
use selvedge_core::sync::frame::Frame;
use selvedge_core::sync::manifest::Manifest;
use selvedge_core::sync::{Push, Pushed, bounds};
use selvedge_core::view::Cursor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::{CLUSTER_HEADER, Register, Registered, Released, Report, Reported};
use crate::catalogue::no_draft;
use crate::config::UplinkConfig;
use crate::erasures::Receipt;
use crate::error::Problem;
use crate::release::{GivenBody, Hash, hash, hex};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take to begin, and then its next bytes: the centre says something every second.
const IDLE: Duration = Duration::from_secs(10);
/// How long a whole answer may take that is not a stream.
const WHOLE: Duration = Duration::from_secs(60);
/// Times that a broken download is resumed.
const RESUMES: usize = 5;
/// Bytes of a refusal that are read.
const REFUSAL_BYTES: usize = 4096;
/// Bytes of a plugin.
const BLOB_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the centre refuses for good, until somebody does something about it.
#[derive(Debug, thiserror::Error)]
#[error("the centre refuses: {0}")]
pub struct Refusal(pub String);

/// Speaks with one centre.
#[derive(Clone)]
pub struct Centre {
    client: Client,
    url: String,
}

impl Centre {
    /// Prepares to. Calls nobody.
    pub fn new(config: &UplinkConfig) -> Result<Self> {
        let mut headers = HeaderMap::new();
        let mut key = HeaderValue::from_str(&format!("Bearer {}", config.key)).context("the edge key")?;
        key.set_sensitive(true);
        headers.insert(AUTHORIZATION, key);
        let mut client = Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .read_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("selvedge/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &config.ca {
            client = client.tls_certs_only(certificates(path)?);
        }
        Ok(Self {
            client: client.build().context("prepare the connection to the centre")?,
            url: config.central.clone(),
        })
    }

    /// Names the log that this edge follows from now on, in every call.
    fn of(&self, request: RequestBuilder, cluster: &str) -> RequestBuilder {
        request.header(CLUSTER_HEADER, cluster)
    }

    fn get(&self, path: &str, cluster: &str) -> RequestBuilder {
        self.of(self.client.get(format!("{}/sync/v1/{path}", self.url)), cluster)
    }

    fn post(&self, path: &str, cluster: Option<&str>) -> RequestBuilder {
        let request = self.client.post(format!("{}/sync/v1/{path}", self.url));
        match cluster {
            Some(cluster) => self.of(request, cluster),
            None => request,
        }
    }

    /// Says who this edge is. `cluster` is the log that it has followed, if any.
    pub async fn register(&self, register: &Register, cluster: Option<&str>) -> Result<Registered> {
        json(self.post("register", cluster).timeout(WHOLE).body(serde_json::to_vec(register)?).send().await?).await
    }

    /// Says how this edge is doing; whether the centre knows it, and what else it answers.
    pub async fn report(&self, cluster: &str, report: &Report) -> Result<Reported> {
        json(self.post("report", Some(cluster)).timeout(WHOLE).body(to_json(report)?).send().await?).await
    }

    /// The release in force.
    pub async fn release(&self, cluster: &str) -> Result<Released> {
        json(self.get("release", cluster).timeout(WHOLE).send().await?).await
    }

    /// Has the centre release what the log never held. Gives what is in force then.
    pub async fn offer(&self, cluster: &str, given: &GivenBody) -> Result<Released> {
        let request = self.of(self.client.put(format!("{}/sync/v1/release", self.url)), cluster);
        json(request.timeout(WHOLE).body(to_json(given)?).send().await?).await
    }

    /// Asks the centre's admin paths of the catalogue for something; gives what it answers, whatever that is.
    pub async fn admin(
        &self,
        cluster: &str,
        method: Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(StatusCode, HeaderMap, Bytes)> {
        let request = self.of(self.client.request(method, format!("{}/sync/v1/admin/{path}", self.url)), cluster);
        let sent = request.headers(headers.clone()).body(body).timeout(WHOLE).send().await?;
        let (status, headers) = (sent.status(), sent.headers().clone());
        Ok((status, headers, sent.bytes().await?))
    }

    /// The draft of the catalogue and its hash; none where it is the one that the caller knows.
    pub async fn draft(&self, cluster: &str, known: Option<&str>) -> Result<Option<(String, Arc<str>)>, Problem> {
        let away = |error: anyhow::Error| {
            let detail = format!("the draft is at the centre, which cannot be reached from here: {error:#}");
            Problem::unavailable("centre_away", detail)
        };
        let mut request = self.get("admin/catalogue/draft", cluster).timeout(IDLE);
        if let Some(known) = known {
            request = request.header(IF_NONE_MATCH, format!("\"{known}\""));
        }
        let sent = request.send().await.map_err(|error| away(error.into()))?;
        match sent.status() {
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::NOT_FOUND => return Err(no_draft()),
            _ => {}
        }
        let tag = sent.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default();
        let hash = tag.trim_matches('"').to_owned();
        let sent = accepted(sent).await.map_err(away)?;
        let text = sent.text().await.map_err(|error| away(error.into()))?;
        Ok(Some((hash, text.into())))
    }

    /// How far an erasure is; none where the centre does not know of it.
    pub async fn erasure(&self, cluster: &str, id: &str) -> Result<Option<Receipt>> {
        let sent = self.get(&format!("erasures/{id}"), cluster).timeout(IDLE).send().await?;
        if sent.status() == StatusCode::NOT_FOUND { Ok(None) } else { json(sent).await.map(Some) }
    }

    /// Everything behind these cursors, as a stream of frames.
    pub async fn follow(&self, cluster: &str, shards: Vec<(ShardId, Cursor)>) -> Result<Response> {
        let body = Frame::Follow(shards).encode()?;
        accepted(self.post("follow", Some(cluster)).body(body).send().await?).await
    }

    /// Sends changes; what became of each push.
    pub async fn push(&self, cluster: &str, pushes: Vec<Push>) -> Result<Vec<Pushed>> {
        let count = pushes.len();
        let body = Frame::Pushes(pushes).encode()?;
        let sent = self.post("push", Some(cluster)).timeout(WHOLE).body(body).send().await?;
        let Frame::PushAnswers(answers) = frame(sent).await? else {
            bail!("the centre answered a push with another frame")
        };
        ensure!(answers.len() == count, "the centre answered {} of {count} pushes", answers.len());
        Ok(answers)
    }

    /// The newest snapshot of a shard and its number; none where there is none.
    pub async fn snapshot(&self, cluster: &str, shard: ShardId) -> Result<Option<(u64, Manifest)>> {
        let sent = self.get(&format!("shards/{}/snapshot", shard.0), cluster).timeout(WHOLE).send().await?;
        if sent.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let sent = accepted(sent).await?;
        let number = sent.headers().get("x-selvedge-snapshot").and_then(|number| number.to_str().ok()?.parse().ok());
        let number = number.context("the centre did not name the snapshot")?;
        let Frame::Manifest(manifest) = frame(sent).await? else { bail!("the centre answered with another frame") };
        ensure!(manifest.shard == shard, "the centre answered with a snapshot of another shard");
        Ok(Some((number, manifest)))
    }

    /// A chunk of a snapshot; none where the snapshot is gone.
    pub async fn chunk(&self, cluster: &str, shard: ShardId, number: u64, index: usize) -> Result<Option<Vec<u8>>> {
        let path = format!("shards/{}/snapshots/{number}/chunks/{index}", shard.0);
        self.download(&path, cluster, bounds::CHUNK_BYTES_MAX).await
    }

    /// A plugin's bytes, which are what the hash says.
    pub async fn blob(&self, cluster: &str, sha256: Hash) -> Result<Vec<u8>> {
        let name = hex(&sha256);
        let bytes = self.download(&format!("blobs/{name}"), cluster, BLOB_BYTES_MAX).await?;
        let bytes = bytes.with_context(|| format!("the centre does not keep {name}"))?;
        ensure!(hash(&bytes) == sha256, "what the centre sent as {name} is something else");
        Ok(bytes)
    }

    /// Downloads, resuming where it broke off.
    async fn download(&self, path: &str, cluster: &str, most: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let mut broken = 0;
        loop {
            let mut request = self.get(path, cluster);
            if !bytes.is_empty() {
                request = request.header(RANGE, format!("bytes={}-", bytes.len()));
            }
            let outcome = async {
                let sent = request.send().await?;
                if sent.status() == StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                let mut sent = accepted(sent).await?;
                if sent.status() != StatusCode::PARTIAL_CONTENT {
                    bytes.clear();
                }
                while let Some(piece) = sent.chunk().await? {
                    ensure!(bytes.len() + piece.len() <= most, "the centre sends more than {most} bytes at {path}");
                    bytes.extend_from_slice(&piece);
                }
                Ok::<_, anyhow::Error>(Some(()))
            };
            match outcome.await {
                Ok(found) => return Ok(found.map(|()| bytes)),
                Err(error) => {
                    broken += 1;
                    if broken > RESUMES || error.downcast_ref::<Refusal>().is_some() {
                        return Err(error);
                    }
                }
            }
        }
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

fn certificates(path: &Path) -> Result<Vec<Certificate>> {
    let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let found = Certificate::from_pem_bundle(&pem).with_context(|| format!("read {}", path.display()))?;
    ensure!(!found.is_empty(), "{} holds no certificate", path.display());
    Ok(found)
}

/// An answer that is no refusal.
async fn accepted(mut answer: Response) -> Result<Response> {
    #[derive(Deserialize)]
    struct Problem {
        code: String,
        detail: String,
    }
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let mut text = Vec::new();
    while let Some(piece) = answer.chunk().await.ok().flatten() {
        text.extend_from_slice(&piece);
        if text.len() > REFUSAL_BYTES {
            break;
        }
    }
    let said = match serde_json::from_slice::<Problem>(&text) {
        Ok(problem) => format!("{status}, {}: {}", problem.code, problem.detail),
        Err(_) => status.to_string(),
    };
    if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::UNPROCESSABLE_ENTITY].contains(&status) {
        return Err(Refusal(said).into());
    }
    bail!("the centre answered {said}")
}

async fn json<T: DeserializeOwned>(answer: Response) -> Result<T> {
    let bytes = whole(accepted(answer).await?).await?;
    serde_json::from_slice(&bytes)
        .context("the centre's answer is not what this version expects; upgrade the older of the two")
}

async fn frame(answer: Response) -> Result<Frame> {
    Ok(Frame::decode(&whole(accepted(answer).await?).await?)?)
}

async fn whole(mut answer: Response) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        ensure!(bytes.len() + piece.len() <= 2 * bounds::FRAME_BYTES_MAX, "the centre's answer is too long");
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
