//! TLS as each [`SslMode`] asks for it.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Credentials, SslMode};

/// Why no TLS can be offered. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum BadTls {
    /// It is not there.
    #[error(
        "no certificate of an authority is given, which verify-ca and verify-full need: key \"ca.crt\" of the Secret"
    )]
    NoCa,
    /// It is none.
    #[error("the key {0:?} of the Secret holds no PEM certificate or key that can be used")]
    BadPem(&'static str),
    /// A name.
    #[error("the name is none that a certificate can have")]
    BadName,
    /// Ours.
    #[error("the client certificate cannot be used")]
    BadCertificate(#[source] Error),
    /// The library.
    #[error("TLS cannot be set up")]
    Setup(#[source] Error),
}

/// A connector that proves what `mode` asks for.
pub(super) fn connector(mode: SslMode, credentials: &Credentials) -> Result<MakeRustlsConnect, BadTls> {
    client(mode, credentials).map(MakeRustlsConnect::new)
}

/// The same for whoever speaks something else than PostgreSQL does.
pub(super) fn client(mode: SslMode, credentials: &Credentials) -> Result<ClientConfig, BadTls> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(BadTls::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier::new(mode, credentials, provider)?));
    let config = match &credentials.client_certificate {
        Some((chain, key)) if mode != SslMode::Disable => {
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadTls::BadPem("tls.key"))?;
            builder.with_client_auth_cert(certificates(chain, "tls.crt")?, key).map_err(BadTls::BadCertificate)?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(config)
}

fn certificates(pem: &[u8], key: &'static str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|all| !all.is_empty()).ok_or(BadTls::BadPem(key))
}

/// Checks what libpq checks at the same `sslmode`. Signatures of the handshake are checked in every mode.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    name: bool,
}

impl Verifier {
    fn new(mode: SslMode, credentials: &Credentials, provider: Arc<CryptoProvider>) -> Result<Self, BadTls> {
        let chain = match mode {
            SslMode::Disable | SslMode::Require => None,
            SslMode::VerifyCa | SslMode::VerifyFull => {
                let mut roots = RootCertStore::empty();
                let pem = credentials.ca.as_deref().ok_or(BadTls::NoCa)?;
                for certificate in certificates(pem, "ca.crt")? {
                    roots.add(certificate).map_err(|_| BadTls::BadPem("ca.crt"))?;
                }
                let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                Some(builder.build().map_err(|_| BadTls::BadPem("ca.crt"))?)
            }
        };
        Ok(Self { provider, chain, name: mode == SslMode::VerifyFull })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is checked before the name, so here it is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.name => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
