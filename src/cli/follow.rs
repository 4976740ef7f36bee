//! Staying connected for what comes, and connecting again when that ends: what `listen` and `watch` have in common.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use weir::client::{Client, ClientError, Event, code_text};
use weir::wire::{Retry, body};

use super::connection::{ConnectionArgs, advice, random_between};
use super::text::note;

/// The first pause before connecting again; each failure doubles it.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Acknowledgements wait so long for more to acknowledge.
const MOMENT: Duration = Duration::from_millis(20);

/// What a command does with a connection.
pub(super) trait Follower {
    /// How LOGIN says that it takes part in durable delivery: a window, or 0, and a cursor.
    fn part(&self) -> (u32, Option<u64>) {
        (0, None)
    }

    /// Asks for what it wants, after each LOGIN. Gives what it does from then on: "listening as alice".
    fn begin(&mut self, connection: &mut Client, me: &str) -> Result<String, ClientError>;

    /// Takes what came, if it is of interest.
    fn take(&mut self, event: Event) -> io::Result<()>;

    /// Says what it has to say about what it took. `idle`: nothing more came for a moment.
    fn acknowledge(&mut self, _connection: &mut Client, _idle: bool) -> Result<(), ClientError> {
        Ok(())
    }

    /// There is something to say.
    fn owes(&self) -> bool {
        false
    }
}

/// Why a session ended.
enum End {
    /// The gateway stops and says when and where to come back.
    Goaway(body::Goaway),
    Error(ClientError),
    /// Standard output cannot take more.
    Output(io::Error),
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> End {
        End::Error(error)
    }
}

/// Follows until Ctrl-C, or until connecting again makes no sense. `client` may be empty when there is a token.
pub(super) fn follow(args: &ConnectionArgs, client: &str, follower: &mut impl Follower) -> anyhow::Result<Infallible> {
    let mut address = args.addr.clone();
    let mut pause = RETRY_MIN;
    let mut welcomed = false;
    loop {
        let Err(end) = session(args, client, &address, follower, || {
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
                address.clone_from(&args.addr);
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
fn session(
    args: &ConnectionArgs,
    client: &str,
    address: &str,
    follower: &mut impl Follower,
    on_welcome: impl FnOnce(),
) -> Result<Infallible, End> {
    let (mut connection, welcome) = args.login(address, client, follower.part())?;
    let what = follower.begin(&mut connection, &welcome.client_id)?;
    on_welcome();
    note(format_args!("{what} on {address}; Ctrl-C ends it"));
    take_all(&mut connection, &welcome, follower)
}

fn take_all(connection: &mut Client, welcome: &body::LoginOk, follower: &mut impl Follower) -> Result<Infallible, End> {
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
        let left = due.saturating_sub(pinged.elapsed());
        let event = connection.next_event(if follower.owes() { left.min(MOMENT) } else { left })?;
        let idle = event.is_none();
        match event {
            Some(Event::Goaway(goaway)) => return Err(End::Goaway(goaway)),
            Some(Event::Error(error)) => note(format_args!("weir: {}: {}", code_text(error.code), error.message)),
            // The close that follows KICKED tells the reason again.
            Some(Event::Kicked(_)) | None => {}
            Some(event) => follower.take(event).map_err(End::Output)?,
        }
        follower.acknowledge(connection, idle)?;
    }
}
