//! What clients show at LOGIN.
#![forbid(unsafe_code)]

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use weir::session::token::{Grant, Signer};

/// Tokens are good for this long.
const VALID_S: u64 = 24 * 3600;

/// Where LOGIN's token comes from.
#[derive(Clone)]
pub(crate) enum Credentials {
    /// None: the gateway runs in developer mode.
    None,
    /// The same token for every client.
    Same(String),
    /// A token for each client, which may join and write all groups of the run.
    Signed { signer: Arc<Signer>, expires_at_s: u64, groups: String, audience: Vec<String> },
}

impl Credentials {
    /// Tokens signed with the secret that the gateway has, too.
    ///
    /// # Errors
    /// The secret is too short.
    pub(crate) fn signed(secret: &[u8], prefix: &str, audience: Vec<String>) -> anyhow::Result<Credentials> {
        let signer = Signer::from_secret(secret).context("no token can be made with --hs256-secret")?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        let credentials = Credentials::Signed {
            signer: Arc::new(signer),
            expires_at_s: now_s + VALID_S,
            groups: format!("{prefix}-g*"),
            audience,
        };
        // A prefix that makes no valid name shows here, and not in the middle of the ramp.
        credentials.make(&format!("{prefix}0"))?;
        Ok(credentials)
    }

    /// The token with which `client_id` logs in; empty for none.
    pub(crate) fn token_for(&self, client_id: &str) -> String {
        self.make(client_id).expect("the first token was made in the same way")
    }

    fn make(&self, client_id: &str) -> anyhow::Result<String> {
        match self {
            Credentials::None => Ok(String::new()),
            Credentials::Same(token) => Ok(token.clone()),
            Credentials::Signed { signer, expires_at_s, groups, audience } => {
                let grant = Grant {
                    client_id: client_id.to_owned(),
                    expires_at_s: *expires_at_s,
                    audience: audience.clone(),
                    join: vec![groups.clone()],
                    write: vec![groups.clone()],
                    ..Grant::default()
                };
                Ok(signer.sign(&grant)?)
            }
        }
    }
}

/// Without the secrets.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "None",
            Credentials::Same(_) => "Same(…)",
            Credentials::Signed { .. } => "Signed(…)",
        })
    }
}
