//! `weir listen`.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use weir::client::{Client, ClientError, Event, Push};

use super::connection::ConnectionArgs;
use super::follow::{Follower, follow};
use super::text::{print, printable};

/// Arguments of `weir listen`.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    /// Who listens
    #[arg(long = "as", value_name = "NAME", required_unless_present = "token")]
    client: Option<String>,
    /// A group to join. May be repeated
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Listens until Ctrl-C, or until connecting again makes no sense.
pub(super) fn run(args: &ListenArgs) -> anyhow::Result<ExitCode> {
    let never = follow(&args.connection, args.client.as_deref().unwrap_or_default(), args)?;
    match never {}
}

impl Follower for ListenArgs {
    fn begin(&self, connection: &mut Client, me: &str) -> Result<String, ClientError> {
        for group in &self.group {
            connection.join(group)?;
        }
        let groups = if self.group.is_empty() { String::new() } else { format!(" and the groups {}", self.group.join(", ")) };
        Ok(format!("listening as {me}{groups}"))
    }

    fn take(&self, event: Event) -> io::Result<()> {
        if let Event::Push(push) = event { print(&line(self, &push)) } else { Ok(()) }
    }
}

/// One message as a line: "alice <- bob: hi".
fn line(args: &ListenArgs, push: &Push) -> String {
    if !args.json {
        let channel = push.channel.strip_prefix("user/").unwrap_or(&push.channel);
        return format!(
            "{} <- {}: {}\n",
            printable(channel.as_bytes()),
            printable(push.from_client.as_bytes()),
            printable(&push.payload)
        );
    }
    let mut object = json!({
        "channel": push.channel,
        "from_client": push.from_client,
        "from_device": push.from_device,
        "client_msg_id": push.client_msg_id,
    });
    match std::str::from_utf8(&push.payload) {
        Ok(text) => object["payload"] = text.into(),
        Err(_) => object["payload_hex"] = push.payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    format!("{object}\n")
}
