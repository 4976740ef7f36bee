//! Which key `weir token` signs with.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use weir::session::token::Signer;

/// One of them is needed.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct KeyArgs {
    /// The secret that the gateway knows as auth.hs256_secret. Others may see the command line: better use the file or the variable
    #[arg(long, value_name = "SECRET", env = "WEIR_AUTH_HS256_SECRET", hide_env_values = true)]
    hs256_secret: Option<String>,
    /// A file with that secret
    #[arg(long, value_name = "FILE", env = "WEIR_AUTH_HS256_SECRET_FILE")]
    hs256_secret_file: Option<PathBuf>,
    /// An RSA or Ed25519 private key in PEM form, whose public half the gateway knows
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
}

impl KeyArgs {
    /// Reads the key.
    pub(super) fn signer(&self) -> anyhow::Result<Signer> {
        // A key named on the command line beats variables that happen to be set.
        if let Some(path) = &self.private_key {
            return Signer::from_private_pem(&read(path)?).with_context(|| path.display().to_string());
        }
        if let Some(path) = &self.hs256_secret_file {
            return Signer::from_secret(read(path)?.trim_ascii_end()).with_context(|| path.display().to_string());
        }
        if let Some(secret) = &self.hs256_secret {
            return Ok(Signer::from_secret(secret.as_bytes())?);
        }
        bail!(
            "there is no key to sign with. Give the one that the gateway is configured with: --hs256-secret-file FILE, \
             --private-key FILE or WEIR_AUTH_HS256_SECRET. A gateway in developer mode (`weir serve --dev`) needs no token at all"
        )
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("the key file {} cannot be read", path.display()))
}
