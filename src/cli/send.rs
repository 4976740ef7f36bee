//! `weir send`.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::{ArgGroup, Args};
use weir::client::{Client, ClientError};
use weir::wire::body::Durability;

use super::connection::{ConnectionArgs, advice};
use super::text::{note, print, printable};
use super::{FAILED, REACHED_NOBODY};

/// Arguments of `weir send`. Ends with 0 when at least one device was reached by every message, with 3 when one reached nobody;
/// with --durable, with 0 when every message was accepted.
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
    /// Keep the message for all devices, also for those that are not online, and print its channel and number once it is kept
    #[arg(long)]
    durable: bool,
    /// The message's own number. Sent once more under the same --id and --device, a message is stored once [default: a new one]
    #[arg(long, value_name = "NUMBER", requires_all = ["durable", "device", "text"])]
    id: Option<u64>,
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
    let (connection, _) = args.connection.login(&args.connection.addr, client, (0, None)).map_err(explained)?;
    let mut sender = Sender { args, connection, channel, receiver };
    let mut code = ExitCode::SUCCESS;
    if let Some(text) = &args.text {
        match sender.send(text.as_bytes())? {
            Sent::Well => {}
            Sent::ToNobody => code = ExitCode::from(REACHED_NOBODY),
            Sent::Refused(error) => return Err(error),
        }
        return Ok(code);
    }
    if std::io::stdin().is_terminal() {
        note(format_args!("each line is a message; Ctrl-D ends it"));
    }
    for line in std::io::stdin().lock().lines() {
        let line = line.context("standard input cannot be read")?;
        match sender.send(line.as_bytes())? {
            Sent::Well => {}
            Sent::ToNobody => code = ExitCode::from(REACHED_NOBODY),
            // One message that is refused does not end the others.
            Sent::Refused(error) => {
                note(format_args!("weir: {error}"));
                code = ExitCode::from(FAILED);
            }
        }
    }
    Ok(code)
}

fn explained(error: ClientError) -> anyhow::Error {
    anyhow!("{error}{}", advice(&error))
}

/// What became of a message.
enum Sent {
    Well,
    ToNobody,
    /// The connection lives on.
    Refused(anyhow::Error),
}

struct Sender<'a> {
    args: &'a SendArgs,
    connection: Client,
    channel: String,
    receiver: &'a str,
}

impl Sender<'_> {
    /// Sends one message and tells how it went.
    fn send(&mut self, payload: &[u8]) -> anyhow::Result<Sent> {
        if self.args.durable { self.keep(payload) } else { self.route(payload) }
    }

    /// To who is online.
    fn route(&mut self, payload: &[u8]) -> anyhow::Result<Sent> {
        let receipt = match self.connection.send_with_receipt(&self.channel, payload) {
            Ok(receipt) => receipt,
            Err(error) => return refused(error),
        };
        let receiver = self.receiver;
        let devices = |count: u32| if count == 1 { "1 device".to_owned() } else { format!("{count} devices") };
        let dropped = match receipt.dropped {
            0 => String::new(),
            count => format!("; {} could not take it, because a limit was reached on the way", devices(count)),
        };
        if receipt.reached == 0 {
            let why = if receipt.dropped == 0 { "nobody is online there" } else { "nobody could take it" };
            note(format_args!("weir: {receiver}: reached no device: {why}{dropped}. `weir listen` shows what arrives"));
            return Ok(Sent::ToNobody);
        }
        note(format_args!("{receiver}: reached {}{dropped}", devices(receipt.reached)));
        Ok(Sent::Well)
    }

    /// Into the channel's log.
    fn keep(&mut self, payload: &[u8]) -> anyhow::Result<Sent> {
        let id = self.args.id.unwrap_or_else(|| self.connection.new_id());
        let accepted = match self.connection.send_durable(&self.channel, id, payload) {
            Ok(accepted) => accepted,
            Err(ClientError::Refused(error)) => return refused(ClientError::Refused(error)),
            Err(error) => {
                let device = self.args.connection.device_name();
                let again = format!(
                    "whether the message is kept is not known; to find out, send it again with --device {device} --id {id}"
                );
                return Err(explained(error).context(again));
            }
        };
        if accepted.durability() == Durability::Memory {
            note(format_args!("weir: this gateway keeps messages in memory only: a restart loses them"));
        }
        let before = if accepted.duplicate { " (it was there already)" } else { "" };
        print(&format!("{} {}{before}\n", printable(accepted.channel.as_bytes()), accepted.seq))?;
        Ok(Sent::Well)
    }
}

/// An error that ends the command, unless the connection lives on.
fn refused(error: ClientError) -> anyhow::Result<Sent> {
    match error {
        ClientError::Refused(ref refusal) if !refusal.closing => Ok(Sent::Refused(explained(error))),
        error => Err(explained(error)),
    }
}
