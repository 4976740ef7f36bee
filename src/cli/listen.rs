//! `weir listen`.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use serde_json::json;
use weir::client::{Client, ClientError, Event, Push, code_text};
use weir::wire::{Retry, body};

use super::connection::{ConnectionArgs, advice, random_between};
use super::text::{note, print, printable};

/// The first pause before connecting again; each failure doubles it.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

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

/// Why a session ended.
enum End {
    /// The gateway stops and says when and where to come back.
    Goaway(body::Goaway),
    Error(ClientError),
    /// Standard output cannot take more.
    Output(std::io::Error),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> End {
        End::Error(error)
    }
}

/// Listens until Ctrl-C, or until connecting again makes no sense.
pub(super) fn run(args: &ListenArgs) -> anyhow::Result<ExitCode> {
    let mut address = args.connection.addr.clone();
    let mut pause = RETRY_MIN;
    let mut welcomed = false;
    loop {
        let Err(end) = session(args, &address, |_| {
            welcomed = true;
            pause = RETRY_MIN;
        });
        let wait = match end {
            End::Output(cause) => return Err(cause.into()),
            End::Goaway(goaway) => {
                let delay = |ms: u32| Duration::from_millis(ms.into());
                let wait = random_between(delay(goaway.delay_min_ms), delay(goaway.delay_max_ms));
                if !goaway.alternatives.is_empty() {
                    let index = random_between(Duration::ZERO, Duration::from_secs(goaway.alternatives.len() as u64)).as_secs();
                    address.clone_from(&goaway.alternatives[(index as usize).min(goaway.alternatives.len() - 1)]);
                }
                note(format_args!(
                    "weir: {}: {}; on to {address} in {} ms",
                    code_text(goaway.code),
                    goaway.message,
                    wait.as_millis()
                ));
                wait
            }
            End::Error(error) if !welcomed || error.retry() != Retry::Later => {
                return Err(anyhow!("{error}{}", advice(&error)));
            }
            End::Error(error) => {
                // An alternative that does not answer is no place to stay.
                address.clone_from(&args.connection.addr);
                let wait = random_between(pause / 2, pause);
                pause = (pause * 2).min(RETRY_MAX);
                note(format_args!("weir: {error}; connecting to {address} again in {} ms", wait.as_millis()));
                wait
            }
        };
        std::thread::sleep(wait);
    }
}

/// One connection from LOGIN to its end, which is an error of one kind or another.
fn session(args: &ListenArgs, address: &str, on_welcome: impl FnOnce(&body::LoginOk)) -> Result<std::convert::Infallible, End> {
    let (mut connection, welcome) = args.connection.login(address, args.client.as_deref().unwrap_or_default())?;
    for group in &args.group {
        connection.join(group)?;
    }
    on_welcome(&welcome);
    let groups = if args.group.is_empty() { String::new() } else { format!(" and the groups {}", args.group.join(", ")) };
    note(format_args!("listening as {}{groups} on {address}; Ctrl-C ends it", welcome.client_id));
    follow(args, &mut connection, &welcome)
}

fn follow(args: &ListenArgs, connection: &mut Client, welcome: &body::LoginOk) -> Result<std::convert::Infallible, End> {
    let mut interval = Duration::from_millis(welcome.heartbeat_interval_ms.into());
    let mut pinged = Instant::now();
    loop {
        // A fifth earlier than asked, so that a slow path does not make it late.
        let due = interval.mul_f64(0.8).max(Duration::from_millis(50));
        if pinged.elapsed() >= due {
            (_, interval) = connection.ping()?;
            pinged = Instant::now();
            continue;
        }
        match connection.next_event(due.saturating_sub(pinged.elapsed()))? {
            Some(Event::Push(push)) => print(&line(args, &push)).map_err(End::Output)?,
            Some(Event::Goaway(goaway)) => return Err(End::Goaway(goaway)),
            Some(Event::Error(error)) => note(format_args!("weir: {}: {}", code_text(error.code), error.message)),
            // The close that follows KICKED tells the reason again.
            Some(Event::Kicked(_)) | None => {}
            Some(
                Event::LoginOk(_)
                | Event::Pong(_)
                | Event::SendOk(_)
                | Event::JoinOk(_)
                | Event::LeaveOk(_)
                | Event::Accepted(_)
                | Event::Gap(_)
                | Event::Cursors(_)
                | Event::Page(_)
                | Event::Presence(_),
            ) => {}
        }
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
