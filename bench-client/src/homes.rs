//! Pairs of clients that are at home on different shards of a gateway, so that each message between them crosses.
//!
//! Where a client is at home follows from a hash whose key the gateway tells nobody. So it is looked at: clients log in one after the other,
//! and each time the metrics of one shard count a LOGIN more.
#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use weir::{
    limits::BODY_BYTES_CEILING,
    wire::{Decoded, Frame, body::Login, decode, encode},
};

use crate::{gateway::METRICS_PATH, plan::Plan, reach::unreachable, signals::Signals};

/// For each answer of the gateway.
const PATIENCE: Duration = Duration::from_secs(3);
/// Before the name of the shard and the count, in the page of metrics.
const LOGINS: &str = "weir_logins_total{shard=";
/// More than the metrics of the most shards that there can be.
const PAGE_BYTES_MAX: u64 = 16 << 20;
/// So many clients are tried for each that is wanted, and some more: with two shards each second one fits, as a coin falls.
const TRIED_PER_WANTED: u32 = 4;
const TRIED_MORE: u32 = 64;
/// How often it is told how far that is.
const TELL: Duration = Duration::from_secs(1);

/// Stands for no client in [`Names`].
const NOBODY: u32 = u32::MAX;

/// Numbers in the names of clients, where they are not the clients' own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    numbers: Vec<u32>,
    /// By number.
    clients: Vec<u32>,
}

impl Names {
    /// These for the first clients, and for the others of `count` in all the lowest that are left, which are below `count`.
    fn new(first: &[u32], count: u32) -> Names {
        let numbers_in_all = first.iter().map(|number| number + 1).fold(count, u32::max);
        let mut clients = vec![NOBODY; numbers_in_all as usize];
        for (client, number) in (0..).zip(first) {
            clients[*number as usize] = client;
        }
        let others = (0..count).filter(|number| clients[*number as usize] == NOBODY);
        let numbers: Vec<u32> = first.iter().copied().chain(others).take(count as usize).collect();
        for (client, number) in (0..).zip(&numbers) {
            clients[*number as usize] = client;
        }
        Names { numbers, clients }
    }

    pub(crate) fn number(&self, client: u32) -> u32 {
        self.numbers[client as usize]
    }

    pub(crate) fn client(&self, number: u32) -> Option<u32> {
        self.clients.get(number as usize).copied().filter(|client| *client != NOBODY)
    }
}

/// Names by which 0 and 1, 2 and 3, and so on, of the active clients of this run are at home on different shards.
///
/// # Errors
/// The gateway or its metrics cannot be asked, has one shard only, or serves others meanwhile.
pub(crate) fn across(plan: &Plan, metrics: SocketAddr, signals: &Signals) -> anyhow::Result<Names> {
    // The target first: without a gateway there are no metrics either.
    drop(connect(plan)?);
    let mut before = logins(metrics)?;
    if before.len() < 2 {
        bail!("this gateway has one shard, so that nothing crosses: start it with --shards 2");
    }
    let wanted = plan.active / 2;
    let tried_at_most = plan.active.saturating_mul(TRIED_PER_WANTED).saturating_add(TRIED_MORE);
    let mut pairs = Pairs::default();
    let mut told = Instant::now();
    for number in 0.. {
        if pairs.count() == wanted {
            break;
        }
        if number == tried_at_most {
            bail!(
                "of {tried_at_most} clients only {} have a partner that is at home on another shard: start the gateway anew, which then \
                 deals them out anew",
                2 * pairs.count()
            );
        }
        if signals.interrupted() {
            bail!("interrupted");
        }
        if told.elapsed() > TELL {
            told = Instant::now();
            eprintln!("route  looking for homes: {} of {} clients have a partner", 2 * pairs.count(), 2 * wanted);
        }
        let stays = log_in(plan, number)?;
        let after = logins(metrics)?;
        drop(stays);
        let home = grown(&before, &after).with_context(|| {
            format!(
                "other clients log in at {} meanwhile, or the metrics at {metrics} are another gateway's: give this run a gateway of its own, \
                 and --metrics the address that this one announces",
                plan.target
            )
        })?;
        pairs.add(number, home);
        before = after;
    }
    Ok(Names::new(&pairs.paired, plan.clients))
}

/// Clients, paired as they come with one that is at home elsewhere.
#[derive(Debug, Default)]
struct Pairs {
    /// Both ends of each pair, one behind the other.
    paired: Vec<u32>,
    /// Those without a partner, who are all at home on the same shard.
    single: Vec<u32>,
    home_of_single: usize,
}

impl Pairs {
    fn add(&mut self, number: u32, home: usize) {
        if home != self.home_of_single
            && let Some(partner) = self.single.pop()
        {
            self.paired.extend([partner, number]);
            return;
        }
        self.home_of_single = home;
        self.single.push(number);
    }

    fn count(&self) -> u32 {
        self.paired.len() as u32 / 2
    }
}

fn connect(plan: &Plan) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&plan.target, PATIENCE).with_context(|| unreachable(plan))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Logs a client in, and gives its connection.
fn log_in(plan: &Plan, number: u32) -> anyhow::Result<TcpStream> {
    let mut stream = connect(plan)?;
    let client_id = format!("{}{number}", plan.prefix);
    let token = plan.credentials.token_for(&client_id);
    let agent = concat!("bench-client/", env!("CARGO_PKG_VERSION")).to_owned();
    let mut bytes = Vec::new();
    encode(&Frame::Login(Login { client_id, device_id: "homes".into(), token, agent, ..Login::default() }), &mut bytes);
    stream.write_all(&bytes)?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match decode(&answer, BODY_BYTES_CEILING) {
            Ok(Decoded::NeedMore { .. }) => {}
            Ok(Decoded::Frame { frame: Frame::LoginOk(_), .. }) => return Ok(stream),
            Ok(Decoded::Frame { frame: Frame::Error(error), .. }) => bail!("{} refuses a LOGIN: {}", plan.target, error.message),
            Ok(Decoded::Frame { .. }) | Err(_) => {
                bail!("{} does not answer a LOGIN as a Weir gateway does", plan.target)
            }
        }
        match stream.read(&mut part) {
            Ok(0) => bail!("{} ends the connection at a LOGIN", plan.target),
            Ok(count) => answer.extend_from_slice(&part[..count]),
            // A read with a timeout is not begun again by the kernel, and the end of a ring that was only tried out interrupts it.
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                bail!("{} does not answer a LOGIN within {PATIENCE:?}", plan.target)
            }
            Err(cause) => return Err(cause).with_context(|| format!("{} does not answer a LOGIN", plan.target)),
        }
    }
}

/// The LOGINs that each shard has counted.
fn logins(metrics: SocketAddr) -> anyhow::Result<Vec<u64>> {
    let page = page(metrics).map_err(|cause| match cause.kind() {
        ErrorKind::ConnectionRefused => anyhow!(
            "no metrics at {metrics}: start the gateway with --metrics ADDRESS, and give the address that it announces to --metrics here"
        ),
        ErrorKind::WouldBlock => anyhow!("the metrics at {metrics} do not come within {PATIENCE:?}"),
        _ => anyhow!("the metrics at {metrics} cannot be read: {cause}"),
    })?;
    let counts = page.lines().filter_map(|line| line.strip_prefix(LOGINS)?.split_once("} ")?.1.trim().parse().ok());
    let counts: Vec<u64> = counts.collect();
    if counts.is_empty() {
        bail!("what is at {metrics} is not the metrics of a Weir gateway");
    }
    Ok(counts)
}

fn page(metrics: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&metrics, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET {METRICS_PATH} HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n")?;
    let mut page = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// The one that counted one more, where nothing else moved.
fn grown(before: &[u64], after: &[u64]) -> Option<usize> {
    let mut moved = (0..after.len()).filter(|shard| before.get(*shard) != Some(&after[*shard]));
    let shard = moved.next().filter(|_| before.len() == after.len())?;
    (moved.next().is_none() && after[shard] == before[shard] + 1).then_some(shard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_at_home_on_different_shards_and_nobody_has_two() {
        for shards in 2..5 {
            let home = |number: u32| (number.wrapping_mul(2_654_435_761) >> 13) as usize % shards;
            let mut pairs = Pairs::default();
            (0..400).for_each(|number| pairs.add(number, home(number)));
            assert!(pairs.count() > 150, "{shards} shards: {}", pairs.count());
            assert!(pairs.paired.chunks(2).all(|pair| home(pair[0]) != home(pair[1])));
            let mut all: Vec<_> = pairs.paired.iter().chain(&pairs.single).copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..400).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_client_has_a_number_of_its_own() {
        let names = Names::new(&[7, 2, 0, 5], 8);
        let numbers: Vec<_> = (0..8).map(|client| names.number(client)).collect();
        assert_eq!(numbers, [7, 2, 0, 5, 1, 3, 4, 6]);
        assert!((0..8).all(|client| names.client(names.number(client)) == Some(client)));
        assert_eq!(names.client(8), None);
    }

    #[test]
    fn only_one_login_more_says_where_it_was() {
        assert_eq!(grown(&[3, 4], &[3, 5]), Some(1));
        assert_eq!(grown(&[3, 4, 0], &[4, 4, 0]), Some(0));
        for after in [&[3, 4][..], &[4, 5], &[3, 6], &[3, 3], &[0, 1], &[3, 4, 1], &[4]] {
            assert_eq!(grown(&[3, 4], after), None, "{after:?}");
        }
    }
}
