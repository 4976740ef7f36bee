//! What was accepted is never lost: `kill -9` of the real binary under load, again and again over the same data.
//!
//! `make crash` does it 20 times in a row. Once more with the same load: `make crash SEED=7`; the moments of the kills
//! are the clock's, so that a seed narrows a failure down but does not repeat it exactly.
#![forbid(unsafe_code)]

mod device;
mod disk;
mod gateway;
mod ledger;
#[expect(dead_code, reason = "the simulation takes more of it")]
#[path = "../simulation/rng.rs"]
mod rng;
mod sender;
mod world;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    thread::{Scope, ScopedJoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use weir::wire::body::Durability;

use device::{Device, Memory};
use disk::Disk;
use gateway::Gateway;
use ledger::History;
use rng::Rng;
use sender::Sender;
use world::{Plan, World, await_true};

/// Rounds of an ordinary test run.
const ROUNDS: u64 = 3;
/// From one start to the kill that ends it, in milliseconds.
const ROUND_MS: (u64, u64) = (50, 1_500);
/// A start that is disturbed lives at most so long, in milliseconds.
const START_MS: u64 = 400;
const REACTORS: [&str; 2] = ["uring", "epoll"];
/// How long everything may take to be answered, and delivered, once the gateway lives on.
const SETTLE: Duration = Duration::from_secs(120);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn seed() -> u64 {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros() as u64;
    number("WEIR_CRASH_SEED").unwrap_or_else(clock)
}

/// How a round ends.
enum Harm {
    Nothing,
    /// SIGKILL.
    Kill,
    /// SIGKILL, and the disk loses what was not synced.
    PowerCut(Disk),
}

/// How a run treats its gateway.
struct Abuse {
    rounds: u64,
    harm: Harm,
    /// `--data`.
    data: String,
    /// Where all gateways of the run say what they have to say.
    log: PathBuf,
    /// From one start to the end of the round, in milliseconds.
    round_ms: (u64, u64),
}

impl Abuse {
    /// What ACCEPTED must say.
    fn durability(&self) -> Durability {
        if self.data == "memory" { Durability::Memory } else { Durability::Fsync }
    }

    /// On one reactor or the other.
    fn start(&self, rng: &mut Rng) -> (Gateway, SocketAddr) {
        Gateway::start(rng.pick(&REACTORS), &self.data, &self.log)
    }

    fn strike(&mut self, gateway: Gateway) {
        gateway.kill();
        if let Harm::PowerCut(disk) = &mut self.harm {
            disk.cut();
        }
    }

    /// Sometimes the next one is struck too, before it is ready: what it does first must bear that as well.
    fn disturb_start(&mut self, rng: &mut Rng) {
        while !matches!(self.harm, Harm::Nothing) && rng.chance(30) {
            let (gateway, _ready) = Gateway::spawn(rng.pick(&REACTORS), &self.data, &self.log);
            std::thread::sleep(Duration::from_millis(rng.range(1, START_MS)));
            self.strike(gateway);
        }
    }
}

/// Lets all threads of a run go when it is left, though a start of the gateway may have failed.
struct Ending<'a>(&'a World);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What a run came to.
struct Outcome {
    findings: Vec<String>,
    said: String,
}

/// Lets senders and devices loose on a gateway, kills it, and holds what is there in the end against what was promised.
fn run(plan: Plan, mut abuse: Abuse) -> Outcome {
    let world = World::new(plan);
    let mut rng = Rng::new(plan.seed);
    eprintln!("seed {}: {} rounds, data: {}", plan.seed, abuse.rounds, abuse.data);
    let (sent, devices, history, gateway) = std::thread::scope(|scope| {
        let ending = Ending(&world);
        let sender = |index| Sender::new(&world, index, abuse.durability());
        let senders: Vec<_> = (0..plan.senders).map(sender).map(|sender| scope.spawn(|| sender.run())).collect();
        let mut devices = Vec::new();
        for client in 0..plan.clients {
            for (name, memory) in [("own", Memory::Own), ("gateways", Memory::Gateways)] {
                devices.push(follow(scope, &world, client, name.to_owned(), memory, true));
            }
        }
        // The very first start, which makes the folder, is no exception.
        abuse.disturb_start(&mut rng);
        let (mut gateway, mut address) = abuse.start(&mut rng);
        for round in 1..=abuse.rounds {
            world.move_to(Some(address));
            // Somebody who has never been here before.
            let client = rng.index(plan.clients);
            devices.push(follow(scope, &world, client, format!("late-{round}"), Memory::Gateways, false));
            let lived = Duration::from_millis(rng.range(abuse.round_ms.0, abuse.round_ms.1));
            std::thread::sleep(lived);
            if let Some(status) = gateway.ended() {
                world.found("died", format!("the gateway ended by itself: {status}"));
            }
            if !matches!(abuse.harm, Harm::Nothing) {
                world.move_to(None);
                abuse.strike(gateway);
                abuse.disturb_start(&mut rng);
                let begun = Instant::now();
                (gateway, address) = abuse.start(&mut rng);
                report(&world, &format!("round {round}: killed after {lived:?}, back in {:?}", begun.elapsed()));
            }
        }
        world.move_to(Some(address));
        world.stop_sending();
        if !await_true(SETTLE, || senders.iter().all(ScopedJoinHandle::is_finished)) {
            world.found("stuck", "senders still wait for answers");
        }
        let history = read(&world, &address.to_string());
        world.settle(history.iter().map(|messages| messages.len() as u64).collect());
        if !await_true(SETTLE, || devices.iter().all(ScopedJoinHandle::is_finished)) {
            world.found("stuck", "devices still wait for messages");
        }
        drop(ending);
        let sent: Vec<_> = senders.into_iter().map(|sender| sender.join().expect("senders do not panic")).collect();
        let devices: Vec<_> = devices.into_iter().map(|device| device.join().expect("devices do not panic")).collect();
        (sent, devices, history, gateway)
    });
    ledger::check(&world, &sent, &devices, &history);
    report(&world, "settled");
    let said = gateway.said();
    if abuse.data != "memory" {
        restart_in_order(&world, gateway, &abuse, &mut rng, &history);
    }
    Outcome { findings: world.findings(), said }
}

fn follow<'scope, 'world: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    world: &'world World,
    client: usize,
    name: String,
    memory: Memory,
    is_early: bool,
) -> ScopedJoinHandle<'scope, Device<'world>> {
    let device = Device::new(world, client, name, memory, is_early);
    scope.spawn(|| device.run())
}

fn read(world: &World, address: &str) -> History {
    ledger::read_history(world, address).unwrap_or_else(|error| {
        world.found("lost", format!("the history cannot be read: {error}"));
        vec![Vec::new(); world.channels.len()]
    })
}

/// An orderly stop changes nothing.
fn restart_in_order(world: &World, gateway: Gateway, abuse: &Abuse, rng: &mut Rng, history: &History) {
    let status = gateway.stop();
    if !status.success() {
        world.found("died", format!("SIGTERM ended the gateway with {status}"));
    }
    let (gateway, address) = abuse.start(rng);
    let again = read(world, &address.to_string());
    for (index, channel) in world.channels.iter().enumerate().filter(|(index, _)| again[*index] != history[*index]) {
        let (before, after) = (history[index].len(), again[index].len());
        world.found(
            "lost",
            format!("{channel} had {before} messages before an orderly restart, and has {after}, or others, behind it"),
        );
    }
    gateway.stop();
}

fn report(world: &World, what: &str) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    eprintln!(
        "{what}; so far {} accepted, {} answered again, {} delivered, {} more than once, {} sessions broken off",
        read(&world.accepted),
        read(&world.again),
        read(&world.delivered),
        read(&world.repeated),
        read(&world.sessions)
    );
}

fn plan(seed: u64) -> Plan {
    Plan { seed, senders: 4, clients: 3, groups: 2, depth: 32 }
}

/// A folder on the disk that holds the build: /tmp may be memory.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("crash-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// Loudly: whoever reads the output shall not believe that it was tested.
fn skip(why: &str) {
    eprintln!("SKIPPED: this user may not mount a disk: {why}");
}

fn rounds() -> u64 {
    number("WEIR_CRASH_ROUNDS").unwrap_or(ROUNDS)
}

/// Nothing may be found.
fn check(abuse: Abuse) {
    let plan = plan(seed());
    let Outcome { findings, said } = run(plan, abuse);
    let count = findings.len();
    assert!(count == 0, "the gateway said:\n{said}\nseed {}: {count} findings\n{}", plan.seed, findings.join("\n"));
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn nothing_accepted_is_lost_when_the_gateway_is_killed() {
    let folder = folder();
    let (data, log) = (text(&folder.path().join("data")), folder.path().join("log"));
    check(Abuse { rounds: rounds(), harm: Harm::Kill, data, log, round_ms: ROUND_MS });
}

#[test]
fn nothing_accepted_is_lost_when_the_power_is_cut() {
    let folder = folder();
    let log = folder.path().join("log");
    match Disk::new(folder.path()) {
        Ok(disk) => {
            let data = text(&disk.path().join("data"));
            check(Abuse { rounds: rounds(), harm: Harm::PowerCut(disk), data, log, round_ms: ROUND_MS });
        }
        Err(why) => skip(&why),
    }
}

/// The same without kills, in memory: the checks themselves find nothing.
#[test]
fn nothing_is_found_when_nothing_happens() {
    let folder = folder();
    let log = folder.path().join("log");
    check(Abuse { rounds: 1, harm: Harm::Nothing, data: "memory".to_owned(), log, round_ms: ROUND_MS });
}

/// And they do find what is lost: a log in memory does not outlive its process.
#[test]
fn a_log_in_memory_is_found_out() {
    let folder = folder();
    let log = folder.path().join("log");
    let abuse = Abuse { rounds: 1, harm: Harm::Kill, data: "memory".to_owned(), log, round_ms: (500, 1_500) };
    let findings = run(plan(seed()), abuse).findings;
    assert!(findings.iter().any(|finding| finding.starts_with("gone: ")), "{findings:#?}");
}
