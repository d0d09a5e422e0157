//! Connections: the address, TLS, the pool, and what failures mean.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::LogError;

/// How long a connection may take to come about, or to become free.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Protection {
    /// Not at all.
    Disable,
    /// Encrypted, whoever answers.
    Require,
    /// Encrypted, and the server proves its name; by the roots in a file, or by the usual ones.
    VerifyFull(Option<String>),
}

/// A pool for an address like `postgres://user@host/database?sslmode=verify-full&sslrootcert=FILE`.
pub(super) fn pool(address: &str, connections: usize) -> Result<Pool, LogError> {
    let (mut config, protection) = parse(address)?;
    config.connect_timeout(CONNECT_TIMEOUT).application_name("selvedge");
    config.keepalives(true).keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(30));
    let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match protection {
        Protection::Disable => {
            config.ssl_mode(SslMode::Disable);
            Manager::from_config(config, NoTls, manager)
        }
        protection => {
            config.ssl_mode(SslMode::Require);
            Manager::from_config(config, MakeRustlsConnect::new(tls(&protection)?), manager)
        }
    };
    Pool::builder(manager)
        .max_size(connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(CONNECT_TIMEOUT))
        .build()
        .map_err(|error| LogError::Configuration(error.to_string()))
}

fn parse(address: &str) -> Result<(Config, Protection), LogError> {
    let wrong = |why: String| LogError::Configuration(format!("the database's address: {why}"));
    let (base, query) = address.split_once('?').unwrap_or((address, ""));
    let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => roots = Some(percent_decode(value)),
            _ => rest.push(pair),
        }
    }
    let plain = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    // Its message does not repeat the address, which may hold a password.
    let config = Config::from_str(&plain).map_err(|error| wrong(error.to_string()))?;
    let local = config.get_hosts().iter().all(|host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    });
    let protection = match mode {
        Some("disable") => Protection::Disable,
        None if local && roots.is_none() => Protection::Disable,
        Some("require") if roots.is_none() => Protection::Require,
        // As with libpq: where roots are named, they are checked.
        Some("require" | "verify-full") | None => Protection::VerifyFull(roots),
        Some(other) => {
            return Err(wrong(format!("sslmode={other} is not one of disable, require, verify-full")));
        }
    };
    Ok((config, protection))
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &after[2..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn tls(protection: &Protection) -> Result<ClientConfig, LogError> {
    let wrong = |error: &dyn std::fmt::Display| LogError::Configuration(format!("TLS to the database: {error}"));
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?;
    let Protection::VerifyFull(roots) = protection else {
        let any = Arc::new(AnyServer(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth());
    };
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            let in_file = |error: &dyn std::fmt::Display| wrong(&format!("{path}: {error}"));
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| in_file(&error))? {
                store.add(certificate.map_err(|error| in_file(&error))?).map_err(|error| in_file(&error))?;
            }
            if store.is_empty() {
                return Err(in_file(&"no certificate in it"));
            }
        }
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// Takes any certificate, as `sslmode=require` asks for: nobody listens in, but whoever answers is believed.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A free connection.
pub(super) async fn client(pool: &Pool) -> Result<Client, LogError> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) => failure(&error),
        other => LogError::Unavailable(other.to_string()),
    })
}

/// The error's SQLSTATE, if the database said it.
pub(super) fn sql_state(error: &tokio_postgres::Error) -> Option<&str> {
    error.as_db_error().map(|error| error.code().code())
}

/// Whether the database asks for the transaction to be tried again.
pub(super) fn retried(error: &tokio_postgres::Error) -> bool {
    matches!(sql_state(error), Some("40001" | "40P01"))
}

/// Why the server's certificate was not taken, if that is what failed.
fn certificate_error(error: &tokio_postgres::Error) -> Option<String> {
    let failed = std::error::Error::source(error)?.downcast_ref::<std::io::Error>()?;
    let refused = failed.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(refused, rustls::Error::InvalidCertificate(_)).then(|| refused.to_string())
}

/// What a failure of the database means to a caller.
pub(super) fn failure(error: &tokio_postgres::Error) -> LogError {
    let Some(said) = error.as_db_error() else {
        if let Some(refused) = certificate_error(error) {
            return LogError::Configuration(format!("TLS to the database: {refused}; name its root by sslrootcert"));
        }
        let cause = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
        return LogError::Unavailable(format!("{error}{cause}"));
    };
    let text = format!("{} ({})", said.message(), said.code().code());
    match said.code().code() {
        // Connections, resources, an operator who intervenes, transactions to be tried again.
        code if ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)) => LogError::Unavailable(text),
        code if code.starts_with("28") || code == "3D000" => LogError::Configuration(format!("the database: {text}")),
        _ => LogError::Store(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protection_follows_the_address() {
        let of = |address: &str| parse(address).map(|(_, protection)| protection);
        assert_eq!(of("postgres://a@localhost/b"), Ok(Protection::Disable));
        assert_eq!(of("postgres://a@[::1]:5432/b"), Ok(Protection::Disable));
        assert_eq!(of("postgres:///b?host=/var/run/postgresql"), Ok(Protection::Disable));
        assert_eq!(of("postgres://a@db.example/b"), Ok(Protection::VerifyFull(None)));
        assert_eq!(of("postgres://a@db.example/b?sslmode=disable"), Ok(Protection::Disable));
        assert_eq!(of("postgres://a@db.example/b?sslmode=require&connect_timeout=3"), Ok(Protection::Require));
        let roots = Protection::VerifyFull(Some("/a b.pem".into()));
        assert_eq!(of("postgres://a@localhost/b?sslrootcert=/a%20b.pem&sslmode=verify-full"), Ok(roots));
        assert!(of("postgres://a@localhost/b?sslmode=prefer").is_err_and(|error| error.to_string().contains("prefer")));
        let secret = of("postgres://a:hunter2@localhost:x/b").expect_err("no port").to_string();
        assert!(!secret.contains("hunter2"), "{secret}");
    }
}
