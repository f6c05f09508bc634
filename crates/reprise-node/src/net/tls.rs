//! The box's key, and TLS 1.3 that trusts nothing but a pinned public key.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error as TlsError, ServerConfig,
    SignatureScheme,
};

/// Protocol name in TLS; another program that happens to speak TLS on the port is told no at once.
const ALPN: &[u8] = b"reprise-link/1";

/// BLAKE3 of the public key (SubjectPublicKeyInfo) of a box.
pub type Fingerprint = [u8; 32];

/// The box's key cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BoxKeyError {
    /// Making the key or its certificate failed.
    #[error("make the box key")]
    Generate(#[from] rcgen::Error),
    /// The stored bytes are no key and certificate of a box.
    #[error("read the box key")]
    Tls(#[from] TlsError),
}

/// A box's TLS identity: a key and a certificate it has signed itself. Only the key counts; dates and names in the
/// certificate are never looked at, since a box may not know the time.
#[derive(Clone)]
pub struct BoxKey {
    certificate: CertificateDer<'static>,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
    fingerprint: Fingerprint,
}

impl std::fmt::Debug for BoxKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoxKey").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl BoxKey {
    /// Draws a new key (ECDSA, P-256).
    pub fn generate() -> Result<Self, BoxKeyError> {
        let key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec!["reprise.invalid".to_owned()])?.self_signed(&key)?;
        Self::from_der(certificate.der().to_vec(), key.serialize_der())
    }

    /// Takes what [`Self::certificate_der`] and [`Self::key_der`] gave.
    pub fn from_der(certificate: Vec<u8>, key: Vec<u8>) -> Result<Self, BoxKeyError> {
        let certificate = CertificateDer::from(certificate);
        let fingerprint = fingerprint_of(&certificate)?;
        let key = Self { certificate, key: Arc::new(PrivatePkcs8KeyDer::from(key)), fingerprint };
        // Key and certificate must belong together: found out now, not at the first connection.
        key.server_config()?;
        Ok(key)
    }

    /// The certificate, to be stored.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key (PKCS #8), to be stored readable by its owner only.
    pub fn key_der(&self) -> &[u8] {
        self.key.secret_pkcs8_der()
    }

    /// What a peer pins.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }

    /// For accepting: every key is let through TLS once its holder has proven to hold it; what an unpaired one may do is
    /// decided after that (pairing, and nothing else).
    pub(super) fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(KeyVerifier { pinned: None, provider: provider.clone() });
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Every connection proves its keys anew.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// For dialling a peer with this key; any key without one, which is for pairing only.
    pub(super) fn client_config(&self, pinned: Option<Fingerprint>) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(KeyVerifier { pinned, provider: provider.clone() });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }
}

/// Fingerprint of a certificate's public key.
pub(super) fn fingerprint_of(certificate: &CertificateDer<'_>) -> Result<Fingerprint, TlsError> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(*blake3::hash(parsed.subject_public_key_info().as_ref()).as_bytes())
}

/// Name that TLS wants and nobody looks at.
pub(super) fn server_name() -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from("reprise.invalid").map_err(|_| TlsError::General("server name".into()))
}

/// Accepts one public key, or any, from whoever proves to hold its private part.
#[derive(Debug)]
struct KeyVerifier {
    pinned: Option<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl KeyVerifier {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
        let found = fingerprint_of(certificate)?;
        if self.pinned.is_some_and(|pinned| pinned != found) {
            return Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn no_tls12() -> TlsError {
        TlsError::General("TLS 1.2 is not spoken on the link".into())
    }
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(Self::no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(Self::no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.check_signature(message, certificate, signature)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
