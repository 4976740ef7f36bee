//! `weir watch`.
#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use weir::client::{Client, ClientError, Event};
use weir::wire::body::{Presence, PresenceOf};

use super::connection::ConnectionArgs;
use super::follow::{Follower, follow};
use super::text::{print, printable};

/// So many names go into one WATCH; a frame has a limit of fields.
const NAMES_PER_FRAME: usize = 200;

/// Arguments of `weir watch`.
#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Whom to watch
    #[arg(value_name = "CLIENT", required = true)]
    clients: Vec<String>,
    /// Who watches [default: the token's client; "weir-watch" without a token]
    #[arg(long = "as", value_name = "NAME")]
    client: Option<String>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Watches until Ctrl-C, or until connecting again makes no sense.
pub(super) fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let unnamed = if args.connection.token.is_some() { "" } else { "weir-watch" };
    let never = follow(&args.connection, args.client.as_deref().unwrap_or(unnamed), &mut &*args)?;
    match never {}
}

impl Follower for &WatchArgs {
    fn begin(&mut self, connection: &mut Client, me: &str) -> Result<String, ClientError> {
        for some in self.clients.chunks(NAMES_PER_FRAME) {
            connection.watch(some)?;
        }
        Ok(format!("watching {} as {me}", self.clients.join(", ")))
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        let Event::Presence(presence) = event else { return Ok(()) };
        print(&if self.json { object(&presence) } else { line(&presence) })
    }
}

/// "bob: phone is in the background; 2 devices are online".
fn line(of: &PresenceOf) -> String {
    let client = printable(of.client.as_bytes());
    let device = if of.device.is_empty() { "a device without a name".to_owned() } else { printable(of.device.as_bytes()) };
    let does = match of.presence() {
        Presence::Offline if of.online == 0 && of.fresh => return format!("{client}: nobody is online\n"),
        Presence::Offline => "has gone",
        Presence::Foreground => "is in the foreground",
        Presence::Background => "is in the background",
    };
    let online = match of.online {
        0 => "nobody is online".to_owned(),
        1 => "1 device is online".to_owned(),
        many => format!("{many} devices are online"),
    };
    format!("{client}: {device} {does}; {online}\n")
}

fn object(of: &PresenceOf) -> String {
    let presence = match of.presence() {
        Presence::Offline => "offline",
        Presence::Foreground => "foreground",
        Presence::Background => "background",
    };
    let object = json!({
        "client": of.client,
        "device": of.device,
        "presence": presence,
        "online": of.online,
        "since_ms": of.since_ms,
        "fresh": of.fresh,
    });
    format!("{object}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_who_does_what() {
        let of = |device: &str, presence: Presence, online, fresh| PresenceOf {
            client: "bob".to_owned(),
            device: device.to_owned(),
            presence: presence.into(),
            online,
            since_ms: 0,
            fresh,
        };
        for (presence, expected) in [
            (of("", Presence::Offline, 0, true), "bob: nobody is online\n"),
            (of("pc", Presence::Foreground, 1, false), "bob: pc is in the foreground; 1 device is online\n"),
            (of("", Presence::Background, 2, true), "bob: a device without a name is in the background; 2 devices are online\n"),
            (of("p\u{1b}c", Presence::Offline, 0, false), "bob: p\\u{1b}c has gone; nobody is online\n"),
        ] {
            assert_eq!(line(&presence), expected);
        }
    }
}
