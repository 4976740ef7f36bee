//! What `listen` and `send` have in common: where to connect, and as whom.
#![forbid(unsafe_code)]

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use clap::Args;
use weir::client::{Client, ClientError};
use weir::wire::{ErrorCode, Retry, body};

/// How long connecting and each answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to connect, and with what.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// The gateway
    #[arg(long, value_name = "HOST:PORT", env = "WEIR_ADDR", default_value = "127.0.0.1:7700")]
    pub(super) addr: String,
    /// The token to log in with; a gateway in developer mode needs none
    #[arg(long, value_name = "TOKEN", env = "WEIR_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// The device's name; a second connection of the same device replaces the first [default: one of its own for each process]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Talk in batches and compressed, as far as the gateway can
    #[arg(long)]
    compress: bool,
    /// The device's class, one that the gateway knows
    #[arg(long, value_name = "CLASS")]
    device_class: Option<String>,
}

impl ConnectionArgs {
    /// The device that logs in.
    pub(super) fn device_name(&self) -> String {
        self.device.clone().unwrap_or_else(|| format!("weir-{}", std::process::id()))
    }

    /// Connects to `address` and logs in, with a window and a cursor. `client` may be empty when there is a token.
    pub(super) fn login(
        &self,
        address: &str,
        client: &str,
        (window, cursor): (u32, Option<u64>),
    ) -> Result<(Client, body::LoginOk), ClientError> {
        let mut connection = Client::connect(address, ANSWER_TIMEOUT)?;
        let welcome = connection.login(body::Login {
            client_id: client.to_owned(),
            device_id: self.device_name(),
            device_class: self.device_class.clone().unwrap_or_default(),
            token: self.token.clone().unwrap_or_default(),
            agent: concat!("weir/", env!("CARGO_PKG_VERSION")).to_owned(),
            batches: self.compress,
            compression: if self.compress { body::Compression::Zstd } else { body::Compression::None } as i32,
            window,
            cursor,
        })?;
        Ok((connection, welcome))
    }
}

/// What to type next, if the error tells.
pub(super) fn advice(error: &ClientError) -> &'static str {
    let code = match error {
        ClientError::Refused(refusal) => ErrorCode::from_number(refusal.code),
        ClientError::Closed { code, .. } => code.and_then(ErrorCode::from_number),
        ClientError::Connect { .. }
        | ClientError::Broken(_)
        | ClientError::Timeout { .. }
        | ClientError::Malformed(_)
        | ClientError::Unexpected { .. } => None,
    };
    match (code, error.retry()) {
        (Some(ErrorCode::JoinForbidden), _) => "\nMake a token that allows it: weir token --client NAME --join GROUP",
        (Some(ErrorCode::WriteForbidden), _) => "\nMake a token that allows it: weir token --client NAME --write GROUP",
        (Some(ErrorCode::ReadForbidden), _) => "\nMake a token that allows it: weir token --client NAME --watch CLIENT",
        (_, Retry::WithNewToken) => {
            "\nMake a token with the gateway's key, `weir token --client NAME --hs256-secret-file FILE`, and give it with --token \
             or WEIR_TOKEN"
        }
        (Some(_), Retry::OnDemand) => "\nGive this connection a name of its own with --device, or end the other one",
        (_, Retry::Never | Retry::Later | Retry::OnDemand) => "",
    }
}

/// A random time between two.
pub(super) fn random_between(low: Duration, high: Duration) -> Duration {
    // The standard library seeds each hasher from the system's randomness; no more is needed to spread clients out.
    let fraction = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    low + high.saturating_sub(low).mul_f64(fraction)
}
