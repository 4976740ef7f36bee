//! `weir send`.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::{ArgGroup, Args};
use weir::client::{Client, ClientError};

use super::connection::{ConnectionArgs, advice};
use super::text::note;
use super::{FAILED, REACHED_NOBODY};

/// Arguments of `weir send`. Ends with 0 when at least one device was reached by every message, with 3 when one reached nobody.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("receiver").required(true).args(["to", "group"]))]
pub(super) struct SendArgs {
    /// The client that gets it, on all its devices
    #[arg(long, value_name = "CLIENT")]
    to: Option<String>,
    /// The group that gets it
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Who sends it [default: the token's client; "weir-send" without a token]
    #[arg(long = "as", value_name = "NAME")]
    client: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
    /// The message; without it, each line of standard input is one
    text: Option<String>,
}

pub(super) fn run(args: &SendArgs) -> anyhow::Result<ExitCode> {
    let (channel, receiver) = match (&args.to, &args.group) {
        (Some(client), _) => (format!("user/{client}"), client),
        (None, Some(group)) => (format!("group/{group}"), group),
        (None, None) => unreachable!("clap demands one of them"),
    };
    let unnamed = if args.connection.token.is_some() { "" } else { "weir-send" };
    let client = args.client.as_deref().unwrap_or(unnamed);
    let explained = |error: ClientError| anyhow!("{error}{}", advice(&error));
    let (mut connection, _) = args.connection.login(&args.connection.addr, client).map_err(explained)?;
    let mut code = ExitCode::SUCCESS;
    if let Some(text) = &args.text {
        if !send(&mut connection, &channel, text.as_bytes(), receiver).map_err(explained)? {
            code = ExitCode::from(REACHED_NOBODY);
        }
        return Ok(code);
    }
    if std::io::stdin().is_terminal() {
        note(format_args!("each line is a message; Ctrl-D ends it"));
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.context("standard input cannot be read")?;
        match send(&mut connection, &channel, line.as_bytes(), receiver) {
            Ok(true) => {}
            Ok(false) => code = ExitCode::from(REACHED_NOBODY),
            // One message that is refused does not end the others.
            Err(ClientError::Refused(refusal)) if !refusal.closing => {
                let error = ClientError::Refused(refusal);
                note(format_args!("weir: {error}{}", advice(&error)));
                code = ExitCode::from(FAILED);
            }
            Err(error) => return Err(explained(error)),
        }
    }
    Ok(code)
}

/// Sends one message and tells how it went. Returns whether it reached anybody.
fn send(connection: &mut Client, channel: &str, payload: &[u8], receiver: &str) -> Result<bool, ClientError> {
    let receipt = connection.send_with_receipt(channel, payload)?;
    let devices = |count: u32| if count == 1 { "1 device".to_owned() } else { format!("{count} devices") };
    let dropped = match receipt.dropped {
        0 => String::new(),
        count => format!("; {} could not take it, because a limit was reached on the way", devices(count)),
    };
    if receipt.reached == 0 {
        let why = if receipt.dropped == 0 { "nobody is online there" } else { "nobody could take it" };
        note(format_args!("weir: {receiver}: reached no device: {why}{dropped}. `weir listen` shows what arrives"));
        return Ok(false);
    }
    note(format_args!("{receiver}: reached {}{dropped}", devices(receipt.reached)));
    Ok(true)
}
