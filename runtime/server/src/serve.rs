//! Serving connections, and ending.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Bytes;
use axum::http::Request;
use axum::response::Response;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

/// How long a closing process waits for requests under way.
pub const DRAIN: Duration = Duration::from_secs(10);
/// Connections of each listener at once.
pub const PUBLIC_CONNECTIONS: usize = 8192;
/// See [`PUBLIC_CONNECTIONS`].
pub const ADMIN_CONNECTIONS: usize = 256;
/// How long a connection may take to send a request's head, and may idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A body that ends when nobody sends any more.
pub struct Pieces(pub mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Why the process ends: a signal, or a failure that it must not outlive.
#[derive(Default)]
pub struct End {
    wanted: Notify,
    failure: parking_lot::Mutex<Option<String>>,
}

impl End {
    /// Ends the process for this reason.
    pub fn fail(&self, detail: String) {
        tracing::error!(detail, "this process cannot go on");
        self.failure.lock().get_or_insert(detail);
        self.wanted.notify_one();
    }

    /// Has signals end the process from now on. To be called once, in the runtime.
    pub fn listen(self: &Arc<Self>) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let end = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // It is kept until somebody waits.
            end.wanted.notify_one();
        });
        Ok(())
    }

    /// Resolves when the process is to end: after a signal, or a failure. For one who waits at a time.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// What the process ends with.
    pub fn outcome(&self) -> Result<()> {
        match self.failure.lock().take() {
            None => Ok(()),
            Some(detail) => {
                bail!("{detail}; everything acknowledged is in the log, start again when the cause is mended")
            }
        }
    }
}

/// Tells listeners to end.
#[derive(Default)]
pub struct Stop {
    told: AtomicBool,
    telling: Notify,
}

impl Stop {
    /// Tells all of them.
    pub fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
        self.telling.notify_waiters();
    }

    /// Whether they have been told.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Resolves once they are told.
    pub fn telling(&self) -> Notified<'_> {
        self.telling.notified()
    }
}

/// Who answers what comes first on a connection, before hyper has it.
pub trait First: Clone + Send + 'static {
    /// Answers some requests. Gives what was read and is for hyper to answer, or none where the connection is at its end.
    fn take(&self, connection: &mut TcpStream, stop: &Stop) -> impl Future<Output = Option<Vec<u8>>> + Send;
}

/// Everything is for hyper.
impl First for TowerToHyperService<Router> {
    fn take(&self, _: &mut TcpStream, _: &Stop) -> impl Future<Output = Option<Vec<u8>>> + Send {
        ready(Some(Vec::new()))
    }
}

/// A connection of which something was read before.
struct Rewound {
    read: Vec<u8>,
    connection: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.connection).poll_read(context, buffer);
        }
        let some = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..some]);
        self.read.drain(..some);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

/// Listens.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Routes as a listener serves them.
pub fn routed(routes: Router) -> TowerToHyperService<Router> {
    TowerToHyperService::new(routes)
}

/// Serves connections until it is told to stop, then those that are under way.
///
/// A connection has so long to send a request's head, also the next one's; more connections than a listener takes wait to be accepted.
pub async fn listener<S>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    service: S,
    stop: Arc<Stop>,
    connections_max: usize,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + First + Sync,
{
    let places = Arc::new(Semaphore::new(connections_max));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let stopped = stop.telling();
    tokio::pin!(stopped);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (connection, place) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut stopped => break,
        };
        let Ok((connection, _)) = connection else {
            // Out of file descriptors, most likely: those that end make room.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Answers are small and wanted at once. A connection that refuses the option still works.
        let _ = connection.set_nodelay(true);
        let service = service.clone();
        // A connection that breaks is its client's affair.
        match &tls {
            None => {
                let (http, watcher, stop) = (http.clone(), graceful.watcher(), Arc::clone(&stop));
                let mut connection = connection;
                tokio::spawn(async move {
                    if let Some(read) = service.take(&mut connection, &stop).await {
                        let connection = TokioIo::new(Rewound { read, connection });
                        let _ = watcher.watch(http.serve_connection(connection, service)).await;
                    }
                    drop(place);
                });
            }
            Some(tls) => {
                let (accepting, http, watcher) = (tls.accept(connection), http.clone(), graceful.watcher());
                tokio::spawn(async move {
                    if let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE, accepting).await {
                        let _ = watcher.watch(http.serve_connection(TokioIo::new(connection), service)).await;
                    }
                    drop(place);
                });
            }
        }
    }
    // Whoever comes now is told so at once, and asks another edge.
    drop(listener);
    graceful.shutdown().await;
}
