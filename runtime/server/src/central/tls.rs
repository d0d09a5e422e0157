//! TLS of the listener for edges.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Chooses the cryptography of this process, once.
pub fn install_provider() {
    // Whoever was faster chose the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What takes connections under a certificate.
pub fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(cert).with_context(|| format!("read {}", cert.display()))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().with_context(|| format!("read {}", cert.display()))?;
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| format!("read {}", key.display()))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private);
    let config = config
        .with_context(|| format!("the certificate {} and the key {} do not fit", cert.display(), key.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
