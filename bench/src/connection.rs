//! One connection of the generator: a request goes out, its answer comes in, without waiting.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::answer::{Head, head};

/// The longest answer that is taken.
const ANSWER_MAX: usize = 1024 * 1024;

/// A connection with at most one request under way.
pub struct Connection {
    stream: TcpStream,
    /// The request, and what of it has gone out.
    pub request: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    filled: usize,
    head: Option<Head>,
    /// When the request under way was due, in nanoseconds of the run.
    pub due: u64,
}

impl Connection {
    /// Connects, and has events come under a token.
    pub fn open(address: SocketAddr, registry: &Registry, token: usize) -> Result<Self> {
        // Waits until it is connected, which mio's own does not.
        let stream = std::net::TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let mut stream = TcpStream::from_std(stream);
        registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        let answer = vec![0; 16 * 1024];
        Ok(Self { stream, request: Vec::new(), sent: 0, answer, filled: 0, head: None, due: 0 })
    }

    /// Sends what is in `request`.
    pub fn send(&mut self) -> Result<()> {
        (self.sent, self.filled, self.head) = (0, 0, None);
        self.write()
    }

    /// Sends what has not gone out yet, as far as it goes.
    pub fn write(&mut self) -> Result<()> {
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("send a request"),
            }
        }
        Ok(())
    }

    /// Takes what has come; gives status and body once the answer is whole.
    ///
    /// What makes an answer whole is the last that comes before the next request, so nothing is left unread then.
    pub fn read(&mut self) -> Result<Option<(u16, &[u8])>> {
        loop {
            match self.stream.read(&mut self.answer[self.filled..]) {
                Ok(0) => bail!("the server closed a connection"),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("read an answer"),
            }
            if self.head.is_none() {
                self.head = head(&self.answer[..self.filled])?;
            }
            if let Some(Head { status, head, body }) = self.head {
                let whole = head + body;
                if self.filled > whole {
                    bail!("the server said more than it was asked");
                }
                if self.filled == whole {
                    return Ok(Some((status, &self.answer[head..whole])));
                }
            }
            if self.filled == self.answer.len() {
                if self.filled >= ANSWER_MAX {
                    bail!("an answer is longer than {ANSWER_MAX} bytes");
                }
                self.answer.resize(2 * self.filled, 0);
            }
        }
    }
}
