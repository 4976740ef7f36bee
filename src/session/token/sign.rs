//! Makes tokens, for `weir token` and for tests. The gateway itself only verifies.
#![forbid(unsafe_code)]

use std::fmt;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use super::{NameRights, install_provider, is_private};
use crate::limits::HS256_SECRET_BYTES_MIN;
use crate::session::check_name;

/// The claims of a token to be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Grant {
    /// The client.
    #[serde(rename = "sub")]
    pub client_id: String,
    /// In seconds since the Unix epoch.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued_at_s: Option<u64>,
    /// In seconds since the Unix epoch.
    #[serde(rename = "nbf", skip_serializing_if = "Option::is_none")]
    pub not_before_s: Option<u64>,
    /// In seconds since the Unix epoch.
    #[serde(rename = "exp")]
    pub expires_at_s: u64,
    /// The gateways it is for.
    #[serde(rename = "aud", skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// Binds the session to this device class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_class: Option<String>,
    /// Groups or patterns that may be joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join: Vec<String>,
    /// Groups or patterns that may be written to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub write: Vec<String>,
    /// Clients or patterns that may be watched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub watch: Vec<String>,
}

/// Why no token was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignFailed {
    /// The HS256 secret is shorter than a gateway would accept.
    SecretTooShort { bytes: usize },
    /// Neither an RSA nor an Ed25519 private key in PEM form.
    NotAPrivateKey,
    /// A claim that every gateway would refuse.
    Claim { claim: &'static str, why: &'static str },
    /// The crypto library refused the key.
    Crypto(String),
}

impl fmt::Display for SignFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignFailed::SecretTooShort { bytes } => write!(
                f,
                "the secret has {bytes} bytes, and no gateway takes one under {HS256_SECRET_BYTES_MIN}. Make one with \
                 `openssl rand -hex 32`"
            ),
            SignFailed::NotAPrivateKey => write!(
                f,
                "this is neither an RSA nor an Ed25519 private key in PEM form. Make one with `openssl genpkey -algorithm \
                 ed25519 -out PRIVATE.pem`"
            ),
            SignFailed::Claim { claim, why } => write!(f, "`{claim}` {why}"),
            SignFailed::Crypto(cause) => write!(f, "the key cannot sign: {cause}"),
        }
    }
}

impl std::error::Error for SignFailed {}

/// Signs tokens with one key.
pub struct Signer {
    pub(super) algorithm: Algorithm,
    pub(super) key: EncodingKey,
}

impl Signer {
    /// Signs with HS256.
    ///
    /// # Errors
    /// The secret is too short.
    pub fn from_secret(secret: &[u8]) -> Result<Signer, SignFailed> {
        install_provider();
        if secret.len() < HS256_SECRET_BYTES_MIN {
            return Err(SignFailed::SecretTooShort { bytes: secret.len() });
        }
        Ok(Signer { algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret) })
    }

    /// Signs with RS256 or EdDSA, as the kind of private key says.
    ///
    /// # Errors
    /// It is neither an RSA nor an Ed25519 private key in PEM form.
    pub fn from_private_pem(pem: &[u8]) -> Result<Signer, SignFailed> {
        install_provider();
        if !is_private(pem) {
            return Err(SignFailed::NotAPrivateKey);
        }
        let ed = EncodingKey::from_ed_pem(pem).map(|key| Signer { algorithm: Algorithm::EdDSA, key });
        let rsa = |_| EncodingKey::from_rsa_pem(pem).map(|key| Signer { algorithm: Algorithm::RS256, key });
        ed.or_else(rsa).map_err(|_| SignFailed::NotAPrivateKey)
    }

    /// The token, in compact form.
    ///
    /// # Errors
    /// A claim breaks the rules that [`super::Verifier`] applies, or the key does not work.
    pub fn sign(&self, grant: &Grant) -> Result<String, SignFailed> {
        let name = "is not a name of 1 to 64 bytes without control characters";
        if check_name(&grant.client_id).is_err() {
            return Err(SignFailed::Claim { claim: "client", why: name });
        }
        if grant.device_class.as_deref().is_some_and(|class| check_name(class).is_err()) {
            return Err(SignFailed::Claim { claim: "device_class", why: name });
        }
        for (claim, patterns) in [("join", &grant.join), ("write", &grant.write), ("watch", &grant.watch)] {
            NameRights::new(patterns).map_err(|why| SignFailed::Claim { claim, why })?;
        }
        self.sign_any(grant)
    }

    /// Signs whatever it is given: tests forge with it.
    pub(super) fn sign_any(&self, claims: &impl Serialize) -> Result<String, SignFailed> {
        let header = Header::new(self.algorithm);
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|cause| SignFailed::Crypto(cause.to_string()))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}
