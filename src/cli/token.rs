//! `weir token`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use weir::session::token::Grant;

use super::key::KeyArgs;
use super::text::{duration, print};

/// Arguments of `weir token`.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// Who may log in with it
    #[arg(long, value_name = "NAME")]
    client: String,
    /// Bind it to a device class: phone, web, …
    #[arg(long, value_name = "CLASS")]
    device_class: Option<String>,
    /// A group that may be joined, or the beginning of many: 'room/*'. May be repeated
    #[arg(long, value_name = "GROUP")]
    join: Vec<String>,
    /// A group that may be written to, or the beginning of many. May be repeated
    #[arg(long, value_name = "GROUP")]
    write: Vec<String>,
    /// A client that may be watched, or the beginning of many. May be repeated
    #[arg(long, value_name = "CLIENT")]
    watch: Vec<String>,
    /// Which gateways it is for, as they are configured in auth.audience. May be repeated
    #[arg(long, value_name = "AUDIENCE")]
    audience: Vec<String>,
    /// How long it is good for: 90s, 30m, 12h, 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    ttl: Duration,
    #[command(flatten)]
    key: KeyArgs,
}

pub(super) fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    let signer = args.key.signer()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    let grant = Grant {
        client_id: args.client.clone(),
        issued_at_s: Some(now),
        not_before_s: None,
        expires_at_s: now.saturating_add(args.ttl.as_secs()),
        audience: args.audience.clone(),
        device_class: args.device_class.clone(),
        join: args.join.clone(),
        write: args.write.clone(),
        watch: args.watch.clone(),
    };
    print(&format!("{}\n", signer.sign(&grant)?))?;
    Ok(ExitCode::SUCCESS)
}
