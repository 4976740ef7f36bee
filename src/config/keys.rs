//! Reads the key files that the configuration names.
#![forbid(unsafe_code)]

use super::ConfigError;
use super::schema::Auth;
use crate::session::token::{Verifier, VerifierOptions};

/// The verifier for the configured keys; `None` when there are none, which only developer mode allows.
///
/// # Errors
/// A file cannot be read, or does not hold what its setting says.
pub fn verifier(auth: &Auth) -> Result<Option<Verifier>, ConfigError> {
    let mut secret = read("auth.hs256_secret_file", &auth.hs256_secret_file)?;
    if let Some(secret) = &mut secret {
        // Editors and `openssl rand -hex` end the line.
        secret.truncate(secret.trim_ascii_end().len());
    } else if auth.hs256_secret.is_set() {
        secret = Some(auth.hs256_secret.expose().as_bytes().to_vec());
    }
    let rs256 = read("auth.rs256_public_key_file", &auth.rs256_public_key_file)?;
    let eddsa = read("auth.eddsa_public_key_file", &auth.eddsa_public_key_file)?;
    if secret.is_none() && rs256.is_none() && eddsa.is_none() {
        return Ok(None);
    }
    let options = VerifierOptions {
        hs256_secret: secret.as_deref(),
        rs256_public_pem: rs256.as_deref(),
        eddsa_public_pem: eddsa.as_deref(),
        audiences: &auth.audience,
        leeway_s: auth.leeway_s,
    };
    Verifier::new(options).map(Some).map_err(|why| ConfigError::new(format!("[auth]: {why}")))
}

fn read(key: &str, path: &str) -> Result<Option<Vec<u8>>, ConfigError> {
    if path.is_empty() {
        return Ok(None);
    }
    let failed = |cause| ConfigError::new(format!("the file {path} that `{key}` names cannot be read: {cause}"));
    std::fs::read(path).map(Some).map_err(failed)
}
