//! Which key `weir token` signs with.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use weir::session::token::Signer;

/// One of them is needed, or one of the variables that the gateway takes its secret from. The variables are not read by clap, which
/// would say that they conflict with a flag.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(super) struct KeyArgs {
    /// The secret that the gateway knows as auth.hs256_secret. Others may see the command line: better use the file or the variable
    /// [env: WEIR_AUTH_HS256_SECRET]
    #[arg(long, value_name = "SECRET")]
    hs256_secret: Option<String>,
    /// A file with that secret [env: WEIR_AUTH_HS256_SECRET_FILE]
    #[arg(long, value_name = "FILE")]
    hs256_secret_file: Option<PathBuf>,
    /// An RSA or Ed25519 private key in PEM form, whose public half the gateway knows
    #[arg(long, value_name = "FILE")]
    private_key: Option<PathBuf>,
}

impl KeyArgs {
    /// Reads the key.
    pub(super) fn signer(&self) -> anyhow::Result<Signer> {
        if let Some(path) = &self.private_key {
            return Signer::from_private_pem(&read(path)?).with_context(|| path.display().to_string());
        }
        if let Some(path) = &self.hs256_secret_file {
            return from_secret_file(path);
        }
        if let Some(secret) = &self.hs256_secret {
            return Ok(Signer::from_secret(secret.as_bytes())?);
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(secret) = variable("WEIR_AUTH_HS256_SECRET") {
            return Signer::from_secret(secret.as_encoded_bytes()).context("WEIR_AUTH_HS256_SECRET");
        }
        if let Some(path) = variable("WEIR_AUTH_HS256_SECRET_FILE") {
            return from_secret_file(Path::new(&path));
        }
        bail!(
            "there is no key to sign with. Give the one that the gateway is configured with: --hs256-secret-file FILE, \
             --private-key FILE or WEIR_AUTH_HS256_SECRET. A gateway in developer mode (`weir serve --dev`) needs no token at all"
        )
    }
}

/// White space at the end does not count, as for the gateway.
fn from_secret_file(path: &Path) -> anyhow::Result<Signer> {
    Signer::from_secret(read(path)?.trim_ascii_end()).with_context(|| path.display().to_string())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("the key file {} cannot be read", path.display()))
}
