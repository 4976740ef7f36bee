//! `weir listen`.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use weir::client::{Client, ClientError, Event, Push, code_text};
use weir::wire::body::{self, Gap};

use super::connection::ConnectionArgs;
use super::follow::{Follower, follow};
use super::text::{note, print, printable};

/// Arguments of `weir listen`.
#[derive(Debug, Args)]
pub(super) struct ListenArgs {
    /// Who listens. With --device, the gateway remembers what that device has printed, and goes on from there the next time
    #[arg(long = "as", value_name = "NAME", required_unless_present = "token")]
    client: Option<String>,
    /// A group to join. May be repeated
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Begin with the oldest durable messages that are kept, also in groups
    #[arg(long)]
    from_start: bool,
    /// How many durable messages may be on their way here at a time; 0 leaves them out
    #[arg(long, value_name = "MESSAGES", default_value_t = 256)]
    window: u32,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What was printed, and what the gateway knows of that.
struct Listener<'a> {
    args: &'a ListenArgs,
    /// The newest message of each channel that was printed, from one connection to the next.
    printed: BTreeMap<String, u64>,
    /// Where this connection has been told it stands.
    told: BTreeSet<String>,
    /// To be acknowledged, and how many messages that are.
    owed: BTreeMap<String, u64>,
    unacked: u32,
    own: String,
}

/// Listens until Ctrl-C, or until connecting again makes no sense.
pub(super) fn run(args: &ListenArgs) -> anyhow::Result<ExitCode> {
    let mut listener =
        Listener { args, printed: BTreeMap::new(), told: BTreeSet::new(), owed: BTreeMap::new(), unacked: 0, own: String::new() };
    let never = follow(&args.connection, args.client.as_deref().unwrap_or_default(), &mut listener)?;
    match never {}
}

impl Listener<'_> {
    /// What LOGIN or JOIN says.
    fn cursor(&self, channel: &str) -> Option<u64> {
        self.printed.get(channel).copied().or(self.args.from_start.then_some(0))
    }

    /// Replay begins above what the gateway says first: what it has forgotten may come under the same numbers again.
    fn stand(&mut self, cursors: body::Cursors) {
        if self.told.insert(cursors.channel.clone()) {
            self.printed.insert(cursors.channel, cursors.received);
        }
    }
}

impl Follower for Listener<'_> {
    fn part(&self) -> (u32, Option<u64>) {
        (self.args.window, self.cursor(&self.own))
    }

    fn begin(&mut self, connection: &mut Client, me: &str) -> Result<String, ClientError> {
        self.own = format!("user/{me}");
        self.told.clear();
        self.owed.clear();
        self.unacked = 0;
        for group in &self.args.group {
            connection.join_from(group, self.cursor(&format!("group/{group}")))?;
        }
        let groups = &self.args.group;
        let groups = if groups.is_empty() { String::new() } else { format!(" and the groups {}", groups.join(", ")) };
        Ok(format!("listening as {me}{groups}"))
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Push(push) => {
                print(&line(self.args, &push))?;
                if push.seq > 0 {
                    self.unacked += 1;
                    self.printed.insert(push.channel.clone(), push.seq);
                    self.owed.insert(push.channel, push.seq);
                }
            }
            Event::Cursors(cursors) => self.stand(cursors),
            Event::Gap(gap) => {
                let Gap { channel, from, to, code } = gap;
                let shown = printable(channel.as_bytes());
                note(format_args!("weir: the messages {from} to {to} of {shown} are gone: {}", code_text(code)));
                // Told once: it is acknowledged like what it stands for.
                self.unacked += 1;
                self.printed.insert(channel.clone(), to);
                self.owed.insert(channel, to);
            }
            Event::LoginOk(_)
            | Event::Pong(_)
            | Event::SendOk(_)
            | Event::JoinOk(_)
            | Event::LeaveOk(_)
            | Event::Accepted(_)
            | Event::Page(_)
            | Event::Presence(_)
            | Event::Kicked(_)
            | Event::Goaway(_)
            | Event::Error(_) => {}
        }
        Ok(())
    }

    /// What was printed is acknowledged: many at once, but not so late that nothing more comes.
    fn acknowledge(&mut self, connection: &mut Client, idle: bool) -> Result<(), ClientError> {
        if idle || self.unacked > self.args.window / 2 {
            for (channel, seq) in std::mem::take(&mut self.owed) {
                connection.received(&channel, seq)?;
            }
            self.unacked = 0;
        }
        Ok(())
    }

    fn owes(&self) -> bool {
        !self.owed.is_empty()
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
    if push.seq > 0 {
        object["seq"] = push.seq.into();
        object["timestamp"] = push.timestamp.into();
    }
    match std::str::from_utf8(&push.payload) {
        Ok(text) => object["payload"] = text.into(),
        Err(_) => object["payload_hex"] = push.payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    format!("{object}\n")
}
