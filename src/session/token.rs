//! Tokens: JSON Web Tokens that say who a client is and what it may do. Pure: keys come as bytes, time as an argument.
//!
//! Claims: `sub` (the client), `exp`, `nbf`, `aud`, and Weir's own `device_class`, `join`, `write` and `watch`. HS256, RS256 and EdDSA
//! are accepted, each only with the key configured for it: a token picks a key by its algorithm and never the other way round,
//! so that an HS256 signature made with the bytes of a public key proves nothing.
#![forbid(unsafe_code)]

mod rights;
mod sign;
#[cfg(test)]
mod tests;

pub use rights::NameRights;
pub use sign::{Grant, SignFailed, Signer};

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, crypto};
use serde::Deserialize;

use crate::limits::{HS256_SECRET_BYTES_MIN, LOGIN_BODY_BYTES_MAX, NAME_BYTES_MAX, TOKEN_EXPIRY_MS_MAX};
use crate::session::check_name;
use crate::wire::ErrorCode;

/// A 2048-bit RSA public key takes 270 bytes of DER (PKCS #1); aws-lc verifies with nothing smaller.
const RSA_2048_DER_BYTES: usize = 266;

/// What a [`Verifier`] is made of. At least one key is needed.
#[derive(Clone, Copy, Default)]
pub struct VerifierOptions<'a> {
    /// The secret shared with whoever issues HS256 tokens.
    pub hs256_secret: Option<&'a [u8]>,
    /// An RSA public key in PEM.
    pub rs256_public_pem: Option<&'a [u8]>,
    /// An Ed25519 public key in PEM.
    pub eddsa_public_pem: Option<&'a [u8]>,
    /// A token must name one of these in `aud`. Empty: `aud` is not looked at.
    pub audiences: &'a [String],
    /// How far the issuer's clock may be off, in seconds.
    pub leeway_s: u32,
}

/// Checks tokens.
pub struct Verifier {
    keys: Vec<(Algorithm, DecodingKey)>,
    audiences: Vec<String>,
    leeway_ms: u64,
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The token's `sub`: a valid name.
    pub client_id: String,
    /// The device class that the session is bound to, if the token binds it: a valid name.
    pub device_class: Option<String>,
    /// The groups that may be joined.
    pub join: NameRights,
    /// The groups that may be written to.
    pub write: NameRights,
    /// The clients that may be watched.
    pub watch: NameRights,
    /// The token's `exp`, in milliseconds since the Unix epoch, without leeway; at most [`TOKEN_EXPIRY_MS_MAX`].
    pub expires_at_ms: u64,
}

/// Why a token was refused. The text may be shown to its bearer: it repeats no part of token or key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenRefused {
    /// There is none.
    Missing,
    /// It is longer than LOGIN allows.
    TooLong { bytes: usize },
    /// It is not a JWT, or its header names an algorithm that does not exist here.
    Malformed,
    /// No key is configured for its algorithm.
    Algorithm { seen: &'static str },
    /// It demands an extension (`crit`) that is not known here.
    CriticalHeader,
    /// The signature was not made with the configured key.
    Signature,
    /// A claim is absent.
    ClaimMissing { claim: &'static str },
    /// A claim is not what it must be.
    ClaimInvalid { claim: &'static str, why: &'static str },
    /// `aud` names none of this gateway's audiences.
    Audience,
    /// `exp` lies behind.
    Expired { ago_ms: u64 },
    /// `nbf` lies ahead.
    NotYetValid { ahead_ms: u64 },
}

impl TokenRefused {
    /// The code that the ERROR frame carries.
    pub fn code(&self) -> ErrorCode {
        match self {
            TokenRefused::Missing => ErrorCode::TokenMissing,
            TokenRefused::Expired { .. } | TokenRefused::NotYetValid { .. } => ErrorCode::TokenExpired,
            TokenRefused::TooLong { .. }
            | TokenRefused::Malformed
            | TokenRefused::Algorithm { .. }
            | TokenRefused::CriticalHeader
            | TokenRefused::Signature
            | TokenRefused::ClaimMissing { .. }
            | TokenRefused::ClaimInvalid { .. }
            | TokenRefused::Audience => ErrorCode::TokenInvalid,
        }
    }
}

impl fmt::Display for TokenRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenRefused::Missing => write!(f, "LOGIN carries no token, and this gateway demands one"),
            TokenRefused::TooLong { bytes } => write!(f, "a token of {bytes} bytes is over the limit of {LOGIN_BODY_BYTES_MAX}"),
            TokenRefused::Malformed => {
                write!(f, "the token is not a signed JWT in compact form (header.claims.signature) with an algorithm known here")
            }
            TokenRefused::Algorithm { seen } => {
                write!(f, "the token is signed with {seen}, for which this gateway has no key")
            }
            TokenRefused::CriticalHeader => write!(f, "the token's header demands an extension (`crit`) that is not known here"),
            TokenRefused::Signature => write!(f, "the token's signature was not made with this gateway's key"),
            TokenRefused::ClaimMissing { claim } => write!(f, "the token has no claim `{claim}`"),
            TokenRefused::ClaimInvalid { claim, why } => write!(f, "the token's claim `{claim}` {why}"),
            TokenRefused::Audience => write!(f, "the token's claim `aud` names none of this gateway's audiences"),
            TokenRefused::Expired { ago_ms } => write!(f, "the token expired {} s ago; get a new one", ago_ms / 1_000),
            TokenRefused::NotYetValid { ahead_ms } => {
                write!(f, "the token is not valid before {} s from now; are the clocks right?", ahead_ms.div_ceil(1_000))
            }
        }
    }
}

impl std::error::Error for TokenRefused {}

/// Why key material cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUnusable {
    /// There is no key at all.
    None,
    /// The HS256 secret is shorter than the hash, so it could be guessed from one token.
    SecretTooShort { bytes: usize },
    /// The file holds a private key: whoever reads it could make tokens.
    Private { algorithm: &'static str },
    /// Not a public key of that kind in PEM form.
    NotAPublicKey { algorithm: &'static str },
    /// An RSA key under 2048 bits.
    RsaTooSmall,
}

impl fmt::Display for KeyUnusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyUnusable::None => write!(f, "there is no key to verify tokens with"),
            KeyUnusable::SecretTooShort { bytes } => write!(
                f,
                "the HS256 secret has {bytes} bytes and needs at least {HS256_SECRET_BYTES_MIN}: a shorter one can be guessed \
                 from a single token. Make one with `openssl rand -hex 32`"
            ),
            KeyUnusable::Private { algorithm } => write!(
                f,
                "the {algorithm} key is a private key, and the gateway needs only the public one: whoever can read a private \
                 key can sign in as anybody. Extract it with `openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem`"
            ),
            KeyUnusable::NotAPublicKey { algorithm } => {
                write!(f, "the {algorithm} key is not a public key of that kind in PEM form (`-----BEGIN PUBLIC KEY-----`)")
            }
            KeyUnusable::RsaTooSmall => write!(f, "the RS256 key has fewer than 2048 bits, which is no longer safe"),
        }
    }
}

impl std::error::Error for KeyUnusable {}

impl Verifier {
    /// A verifier for the given keys.
    ///
    /// # Errors
    /// [`KeyUnusable`] when there is no key or one is not what it should be.
    pub fn new(options: VerifierOptions<'_>) -> Result<Verifier, KeyUnusable> {
        install_provider();
        let mut keys = Vec::new();
        if let Some(secret) = options.hs256_secret {
            if secret.len() < HS256_SECRET_BYTES_MIN {
                return Err(KeyUnusable::SecretTooShort { bytes: secret.len() });
            }
            keys.push((Algorithm::HS256, DecodingKey::from_secret(secret)));
        }
        if let Some(pem) = options.rs256_public_pem {
            let key = public_key(pem, "RS256", DecodingKey::from_rsa_pem)?;
            if key.try_get_as_bytes().is_ok_and(|der| der.len() < RSA_2048_DER_BYTES) {
                return Err(KeyUnusable::RsaTooSmall);
            }
            keys.push((Algorithm::RS256, key));
        }
        if let Some(pem) = options.eddsa_public_pem {
            keys.push((Algorithm::EdDSA, public_key(pem, "EdDSA", DecodingKey::from_ed_pem)?));
        }
        if keys.is_empty() {
            return Err(KeyUnusable::None);
        }
        Ok(Verifier { keys, audiences: options.audiences.to_vec(), leeway_ms: u64::from(options.leeway_s) * 1_000 })
    }

    /// Checks a token at `wall_ms`, the wall clock in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`TokenRefused`], whose code and text go into the ERROR frame.
    pub fn verify(&self, token: &str, wall_ms: u64) -> Result<Claims, TokenRefused> {
        if token.is_empty() {
            return Err(TokenRefused::Missing);
        }
        if token.len() > LOGIN_BODY_BYTES_MAX as usize {
            return Err(TokenRefused::TooLong { bytes: token.len() });
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenRefused::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenRefused::CriticalHeader);
        }
        let key = self.keys.iter().find(|(algorithm, _)| *algorithm == header.alg);
        let (algorithm, key) = key.ok_or(TokenRefused::Algorithm { seen: algorithm_name(header.alg) })?;
        let decoded = jsonwebtoken::decode::<RawClaims>(token, key, &signature_only(*algorithm)).map_err(refusal)?;
        self.check(decoded.claims, wall_ms)
    }

    /// Checks the claims of a token whose signature is right.
    fn check(&self, raw: RawClaims, wall_ms: u64) -> Result<Claims, TokenRefused> {
        let expires_at_ms = epoch_ms(raw.exp.ok_or(TokenRefused::ClaimMissing { claim: "exp" })?);
        let client_id = raw.sub.ok_or(TokenRefused::ClaimMissing { claim: "sub" })?;
        if expires_at_ms.saturating_add(self.leeway_ms) <= wall_ms {
            return Err(TokenRefused::Expired { ago_ms: wall_ms - expires_at_ms });
        }
        let not_before_ms = raw.nbf.map_or(0, epoch_ms);
        if not_before_ms > wall_ms.saturating_add(self.leeway_ms) {
            return Err(TokenRefused::NotYetValid { ahead_ms: not_before_ms - wall_ms });
        }
        if !self.audiences.is_empty() {
            let seen = raw.aud.ok_or(TokenRefused::ClaimMissing { claim: "aud" })?;
            if !self.audiences.iter().any(|audience| seen.contains(audience)) {
                return Err(TokenRefused::Audience);
            }
        }
        check_claim("sub", &client_id)?;
        if let Some(class) = &raw.device_class {
            check_claim("device_class", class)?;
        }
        let rights = |claim, patterns: Option<Vec<String>>| {
            NameRights::new(&patterns.unwrap_or_default()).map_err(|why| TokenRefused::ClaimInvalid { claim, why })
        };
        Ok(Claims {
            client_id,
            device_class: raw.device_class,
            join: rights("join", raw.join)?,
            write: rights("write", raw.write)?,
            watch: rights("watch", raw.watch)?,
            expires_at_ms,
        })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.keys.iter().map(|(algorithm, _)| algorithm).collect();
        f.debug_struct("Verifier").field("algorithms", &algorithms).field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

/// Chooses the crypto provider for the process. `jsonwebtoken` panics at first use when its features leave the choice open,
/// and another crate of the build might switch a second one on. That one is installed already is no error.
fn install_provider() {
    let _ = crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

fn public_key(
    pem: &[u8],
    algorithm: &'static str,
    parse: fn(&[u8]) -> jsonwebtoken::errors::Result<DecodingKey>,
) -> Result<DecodingKey, KeyUnusable> {
    if is_private(pem) {
        return Err(KeyUnusable::Private { algorithm });
    }
    parse(pem).map_err(|_| KeyUnusable::NotAPublicKey { algorithm })
}

/// What the PEM text calls itself. The crate takes either kind of RSA key for the other, and then no signature ever fits.
fn is_private(pem: &[u8]) -> bool {
    const LABEL: &[u8] = b"PRIVATE KEY-----";
    pem.windows(LABEL.len()).any(|window| window == LABEL)
}

/// The crate checks form, algorithm and signature; claims are checked here, against the caller's clock.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn refusal(error: jsonwebtoken::errors::Error) -> TokenRefused {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenRefused::Signature,
        ErrorKind::Json(_) => TokenRefused::ClaimInvalid { claim: "*", why: "cannot be read: each claim has its own JSON type" },
        // The crate's enum is open; whatever else it finds means that these bytes are no token.
        _ => TokenRefused::Malformed,
    }
}

fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS384 => "HS384",
        Algorithm::HS512 => "HS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::EdDSA => "EdDSA",
        // The crate's enum is open.
        _ => "another algorithm",
    }
}

fn check_claim(claim: &'static str, name: &str) -> Result<(), TokenRefused> {
    const { assert!(NAME_BYTES_MAX == 64) };
    let why = "is not a name of 1 to 64 bytes without control characters";
    check_name(name).map_err(|_| TokenRefused::ClaimInvalid { claim, why })
}

/// A NumericDate (RFC 7519, section 2: seconds, perhaps with a fraction) in milliseconds, within 0 and the limit.
fn epoch_ms(seconds: f64) -> u64 {
    // A float to integer cast saturates, so that neither a negative nor a huge number wraps.
    ((seconds * 1_000.0) as u64).min(TOKEN_EXPIRY_MS_MAX)
}

/// The claims as they stand in the token. Unknown ones are ignored.
#[derive(Deserialize)]
struct RawClaims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    aud: Option<Audience>,
    device_class: Option<String>,
    join: Option<Vec<String>>,
    write: Option<Vec<String>>,
    watch: Option<Vec<String>>,
}

/// RFC 7519, section 4.1.3: one string or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}
