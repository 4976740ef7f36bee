//! Puts a gateway together: sockets, mesh, a pinned thread for each shard, and the control thread.
#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    process::ExitCode,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use core_affinity::CoreId;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    config::{self, Config, ReactorChoice},
    control::{self, Ended, Order, Stats},
    ids::ShardId,
    limits::{
        DESCRIPTORS_PER_SHARD, GLOMMIO_DESCRIPTORS_PER_SHARD, HEARTBEATS_PER_SECOND_PER_CORE, INBOUND_BYTES_PER_SHARD,
        LISTEN_RETRY_MS, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, RECEIVE_BUFFERS_PER_SHARD_MAX, RECEIVE_BUFFERS_PER_SHARD_MIN,
        RING_BATCHES_MAX, RING_BATCHES_MIN, SLOTS_PER_SHARD_MAX, SPARE_DESCRIPTORS, SPARE_SLOTS_MIN, SPARE_SLOTS_SHARE,
        STORE_DESCRIPTORS,
    },
    mesh::{Port, mesh},
    reactor::{self, Clock, Envelope, Kind, Peers, Setup, socket},
    session::{DeviceClass, HeartbeatRules, Rate, Rules},
    shard::{Control, GoawayRules, Limits, Message, Settings, Shard, Timeouts},
    stats::StoreStats,
    store::{
        self, Log, Memory, Retention,
        disk::{self, Disk},
        thread::{Posted, Travel},
    },
};

/// What a shard's thread needs.
struct Seat {
    shard: Shard,
    setup: Setup,
    port: Port<Envelope<Message>>,
    core: Option<CoreId>,
}

/// Runs a gateway until a signal stops it.
///
/// # Errors
/// What is configured cannot be had here; the message says what to change.
pub fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let cores = core_affinity::get_core_ids()
        .filter(|cores| !cores.is_empty())
        .context("cannot tell which cores this process may use")?;
    let shards = if config.shards == 0 { u16::try_from(cores.len())? } else { config.shards };
    let (kind, note) = reactor::probe::detect(choice(config.reactor)).map_err(anyhow::Error::msg)?;
    if let Some(note) = note {
        log::warn!("{note}");
    }
    let slots = slots(kind, shards, raise_descriptor_limit()?, &config)?;
    let clock = Clock::start();
    let rules = Arc::new(rules(&config)?);
    let hash_key = random_key()?;
    let (address, listeners) = listen(&config, shards)?;
    // Two ports more than shards: the store's, and the control thread's.
    let batches = (2 * RING_BATCHES_MAX / usize::from(shards)).clamp(RING_BATCHES_MIN, RING_BATCHES_MAX);
    let mut ports = mesh(shards + 2, batches).context("no descriptors left for the bells between shards")?;
    let control_port = Rc::new(RefCell::new(ports.pop().expect("the mesh has a port for the control thread")));
    let store_port = ports.pop().expect("the mesh has a port for the store");
    let store_id = store_port.id();
    let store_stats = Arc::new(StoreStats::default());
    let store = start_store(&config, store_port, Arc::clone(&store_stats))?;
    let peers = Peers::new(shards);
    let stats: Vec<Stats> = (0..shards).map(|_| Stats::default()).collect();
    let seats = ports.into_iter().zip(listeners).zip(&stats).enumerate().map(|(index, ((port, listener), stats))| {
        let settings = settings(&config, port.id(), (cores.len(), shards), slots, hash_key, &rules);
        let receive_buffers =
            (RECEIVE_BUFFERS / u32::from(shards)).clamp(RECEIVE_BUFFERS_PER_SHARD_MIN, RECEIVE_BUFFERS_PER_SHARD_MAX);
        Seat {
            shard: Shard::new(settings, Arc::clone(&stats.shard)),
            setup: Setup {
                kind,
                slots,
                listener: Some(listener),
                peers: peers.clone(),
                receive_buffers: receive_buffers.next_power_of_two() as u16,
                receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
                idle_ms: config.timeouts.receive_idle_ms,
                stats: Arc::clone(&stats.reactor),
            },
            port,
            core: Some(cores[index % cores.len()]),
        }
    });
    let (ended, threads) = start(seats.collect(), clock)?;
    log::info!(
        "{shards} shards on {} cores, {kind:?} reactor, at most {} connections each",
        cores.len().min(usize::from(shards)),
        connections_max(&config, slots)
    );
    let tell_port = Rc::clone(&control_port);
    let drain_ms = config.timeouts.drain_ms;
    let result = control::run(control::Control {
        metrics: config.metrics,
        node: config.node.clone(),
        stats,
        store: store_stats,
        ended,
        announce: Box::new(move || {
            // Nobody may be reading; `println!` would panic.
            let _ = writeln!(io::stdout(), "weir: listening on {address}");
        }),
        tell: Box::new(move |order| {
            let message = match order {
                Order::Drain => Control::Drain { within_ms: drain_ms },
                Order::Stop => Control::Stop,
            };
            for shard in (0..shards).map(ShardId) {
                // Full only when the shard takes nothing any more; then its own deadline ends it.
                let _ = tell_port.borrow_mut().post(shard, Envelope::Message(Message::Control(message)));
            }
            tell_port.borrow_mut().publish();
        }),
        drain_ms,
    })?;
    // After a clean stop the threads have ended; after a second signal nobody waits for them.
    if result == ExitCode::SUCCESS {
        for thread in threads {
            let _ = thread.join();
        }
        // Nobody asks any more: what came before is committed first.
        let mut port = control_port.borrow_mut();
        let _ = port.post(store_id, Envelope::Message(Message::Control(Control::Stop)));
        port.publish();
        let _ = store.join();
    }
    Ok(result)
}

/// How requests to the store travel in the mesh.
const TRAVEL: Travel<Envelope<Message>> = Travel {
    wrap: |batch| Envelope::Message(Message::Store(batch)),
    unwrap: |envelope| match envelope {
        Envelope::Message(Message::Store(batch)) => Posted::Batch(batch),
        Envelope::Message(Message::Control(Control::Stop)) => Posted::Stop,
        Envelope::Message(Message::Control(Control::Drain { .. }) | Message::Batch(_) | Message::Arrival(_))
        | Envelope::Adopt { .. } => Posted::Other,
    },
};

/// Opens the log, and starts its thread.
fn start_store(config: &Config, port: Port<Envelope<Message>>, stats: Arc<StoreStats>) -> anyhow::Result<JoinHandle<()>> {
    let log = open_log(config)?;
    let run = move || store::thread::run(port, log, TRAVEL, &stats);
    std::thread::Builder::new().name("store".to_owned()).spawn(run).context("cannot start a thread")
}

fn in_memory(config: &Config) -> bool {
    config.data == "memory"
}

/// The log that the configuration names.
fn open_log(config: &Config) -> anyhow::Result<Box<dyn Log + Send>> {
    let retention = retention(&config.store);
    if in_memory(config) {
        log::info!("messages are kept in memory only: a restart loses them (--data DIR keeps them)");
        return Ok(Box::new(Memory::new(retention)));
    }
    let options = disk::Options {
        retention,
        cache_bytes: config.store.cache_bytes,
        memtable_bytes: config.store.memtable_bytes,
        cached_channels: config.store.cached_channels,
        reserve_bytes: config.store.reserve_bytes,
        free_bytes: Box::new(disk::free_bytes),
    };
    let started = Instant::now();
    let (mut log, opened) = Disk::open(Path::new(&config.data), options)?;
    let dir = log.dir();
    match opened.is_new {
        true => log::info!("messages are kept in {}, which is new", dir.display()),
        false => log::info!(
            "messages are kept in {}: {} channels, {} commits, {:.1} MB; {} messages by which retries are recognized; opened in {:.1} s",
            dir.display(),
            opened.channels,
            opened.commit,
            log.disk_bytes().map_or(f64::NAN, |bytes| bytes as f64 / 1e6),
            opened.recognized,
            started.elapsed().as_secs_f64()
        ),
    }
    if opened.unfinished_bytes > 0 {
        log::info!("the last commit was left unfinished by a crash; nobody had been told of it, and it was dropped");
    }
    Ok(Box::new(log))
}

fn retention(config: &config::Store) -> Retention {
    Retention {
        age_ms: u64::from(config.retention_age_s) * 1_000,
        messages: if config.channel_messages_max == 0 { u64::MAX } else { config.channel_messages_max },
        bytes: if config.channel_bytes_max == 0 { u64::MAX } else { config.channel_bytes_max },
        channels: some_or_max(config.channels_max),
        dedup_ms: u64::from(config.dedup_window_s) * 1_000,
        dedup_messages: config.dedup_messages,
    }
}

/// Starts the shards' threads, and lets them run once all reactors are built.
fn start(seats: Vec<Seat>, clock: Clock) -> anyhow::Result<(tokio::sync::mpsc::UnboundedReceiver<Ended>, Vec<JoinHandle<()>>)> {
    let (ended_tx, ended_rx) = tokio::sync::mpsc::unbounded_channel();
    let (built_tx, built_rx) = mpsc::channel::<(ShardId, io::Result<()>)>();
    let mut go = Vec::new();
    let mut threads = Vec::new();
    for seat in seats {
        let id = seat.port.id();
        let (go_tx, go_rx) = mpsc::channel::<()>();
        go.push(go_tx);
        let (ended_tx, built_tx) = (ended_tx.clone(), built_tx.clone());
        let run = move || {
            let Seat { mut shard, setup, port, core } = seat;
            if let Some(core) = core
                && !core_affinity::set_for_current(core)
            {
                log::warn!("shard {id} cannot be pinned to core {}", core.id);
            }
            let announce = built_tx.clone();
            let ready = move || {
                let _ = announce.send((id, Ok(())));
                go_rx.recv().map_err(|_| io::Error::other("another shard could not start"))
            };
            let result = reactor::run(&mut shard, port, setup, clock, ready);
            if let Err(error) = &result {
                let _ = built_tx.send((id, Err(io::Error::new(error.kind(), error.to_string()))));
            }
            let _ = ended_tx.send((id, result));
        };
        threads.push(std::thread::Builder::new().name(format!("shard-{id}")).spawn(run).context("cannot start a thread")?);
    }
    drop(built_tx);
    for _ in 0..threads.len() {
        let (id, result) = built_rx.recv().context("a shard's thread died while starting")?;
        result.with_context(|| format!("shard {id} cannot start"))?;
    }
    for go in go {
        let _ = go.send(());
    }
    Ok((ended_rx, threads))
}

fn choice(choice: ReactorChoice) -> reactor::probe::Choice {
    match choice {
        ReactorChoice::Auto => reactor::probe::Choice::Auto,
        ReactorChoice::Uring => reactor::probe::Choice::Uring,
        ReactorChoice::Epoll => reactor::probe::Choice::Epoll,
        ReactorChoice::Glommio => reactor::probe::Choice::Glommio,
    }
}

/// Raises the soft limit of descriptors to the hard one, and gives it.
fn raise_descriptor_limit() -> anyhow::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of descriptors")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit of descriptors")?;
    }
    Ok(hard)
}

/// How many connections each reactor's table is made for.
fn slots(kind: Kind, shards: u16, descriptors: u64, config: &Config) -> anyhow::Result<u32> {
    let descriptors = u32::try_from(descriptors).unwrap_or(u32::MAX);
    let shards = u32::from(shards);
    let most = match kind {
        // Direct descriptors do not count against the limit, but each ring's table may not be larger than it.
        Kind::Uring => descriptors,
        Kind::Epoll | Kind::Glommio => {
            let store = if in_memory(config) { 0 } else { STORE_DESCRIPTORS };
            let each = if kind == Kind::Epoll { DESCRIPTORS_PER_SHARD } else { GLOMMIO_DESCRIPTORS_PER_SHARD };
            descriptors.saturating_sub(SPARE_DESCRIPTORS + store + shards * each) / shards
        }
    };
    let most = most.min(SLOTS_PER_SHARD_MAX);
    anyhow::ensure!(
        most > 2 * SPARE_SLOTS_MIN,
        "the limit of {descriptors} open files is too low for {shards} shards; raise it (ulimit -n), or take fewer shards"
    );
    let wanted = config.limits.connections_per_shard;
    if wanted == 0 {
        return Ok(most);
    }
    let needed = wanted.saturating_add((wanted / SPARE_SLOTS_SHARE).max(SPARE_SLOTS_MIN));
    if needed > most {
        log::warn!(
            "limits.connections_per_shard is {wanted}, but the limit of {descriptors} open files leaves room for {} only; \
             raise it (ulimit -n), or take more shards",
            most - spare(most)
        );
    }
    Ok(needed.min(most))
}

fn spare(slots: u32) -> u32 {
    (slots / SPARE_SLOTS_SHARE).max(SPARE_SLOTS_MIN)
}

fn connections_max(config: &Config, slots: u32) -> u32 {
    let room = slots - spare(slots);
    match config.limits.connections_per_shard {
        0 => room,
        wanted => wanted.min(room),
    }
}

fn rules(config: &Config) -> anyhow::Result<Rules> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock of this host is set before 1970")?;
    Ok(Rules {
        verifier: if config.dev { None } else { config::verifier(&config.auth)? },
        device_classes: config
            .device_classes
            .iter()
            .map(|(name, policy)| DeviceClass { name: name.to_owned(), policy })
            .collect(),
        heartbeat: HeartbeatRules {
            interval_ms: config.heartbeat.interval_ms,
            interval_min_ms: config.heartbeat.interval_min_ms,
            interval_max_ms: config.heartbeat.interval_max_ms,
            missed_max: config.heartbeat.missed_max,
            probe_timeout_ms: config.heartbeat.probe_timeout_ms,
        },
        frames: Rate { per_second: config.limits.frames_per_second },
        bytes: Rate { per_second: config.limits.bytes_per_second },
        max_body_bytes: config.limits.max_body_bytes,
        wall_at_start_us: u64::try_from(wall.as_micros())?,
    })
}

/// A shard has one core at most, and with more shards than cores only a part of one.
fn heartbeats_per_shard(cores: usize, shards: u16) -> u32 {
    let cores = cores.min(usize::from(shards)) as u32;
    (HEARTBEATS_PER_SECOND_PER_CORE * cores / u32::from(shards)).max(1)
}

fn settings(
    config: &Config,
    id: ShardId,
    (cores, shards): (usize, u16),
    slots: u32,
    hash_key: (u64, u64),
    rules: &Arc<Rules>,
) -> Settings {
    let or_unlimited = |bytes: u64| if bytes == 0 { usize::MAX / 4 } else { bytes as usize };
    Settings {
        id,
        shards,
        hash_key,
        rules: Arc::clone(rules),
        limits: Limits {
            connections: connections_max(config, slots),
            connections_per_address: config.limits.connections_per_address,
            logins_per_second: config.limits.logins_per_second_per_shard,
            outbound_bytes_per_connection: or_unlimited(config.limits.outbound_bytes_per_connection),
            outbound_bytes_per_shard: or_unlimited(config.limits.outbound_bytes_per_shard),
            inbound_bytes_per_shard: INBOUND_BYTES_PER_SHARD,
            groups_per_connection: some_or_max(config.limits.groups_per_connection),
            memberships_per_shard: match config.limits.memberships_per_shard {
                0 => u64::MAX,
                limit => limit,
            },
            devices_per_client: some_or_max(config.limits.devices_per_client),
            watches_per_connection: some_or_max(config.limits.watches_per_connection),
            watches_per_shard: match config.limits.watches_per_shard {
                0 => u64::MAX,
                limit => limit,
            },
            watchers_per_client: config.limits.watchers_per_client,
            heartbeats_per_second: heartbeats_per_shard(cores, shards),
        },
        timeouts: Timeouts {
            login_ms: config.timeouts.login_ms,
            frame_ms: config.timeouts.frame_ms,
            write_ms: config.timeouts.write_ms,
            linger_ms: config.timeouts.linger_ms,
            settle_ms: config.presence.settle_ms,
        },
        goaway: GoawayRules {
            delay_min_ms: config.timeouts.goaway_delay_min_ms,
            delay_max_ms: config.timeouts.goaway_delay_max_ms,
            alternatives: config.goaway.alternatives.clone(),
        },
    }
}

/// 0 stands for no limit.
fn some_or_max(limit: u32) -> u32 {
    if limit == 0 { u32::MAX } else { limit }
}

/// Whether somebody else listens there. A gateway that was killed just now may still be giving its port back.
fn is_taken(address: SocketAddr) -> bool {
    let deadline = Instant::now() + Duration::from_millis(LISTEN_RETRY_MS);
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Ok(_) | Err(_) => return false,
        }
        if Instant::now() >= deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A listener for each shard, all on one address.
fn listen(config: &Config, shards: u16) -> anyhow::Result<(SocketAddr, Vec<OwnedFd>)> {
    let options =
        socket::ListenOptions { backlog: socket::listen_backlog(), user_timeout_ms: config.timeouts.tcp_user_timeout_ms };
    // Our own listeners share the port by SO_REUSEPORT, which would let a second gateway join in unnoticed: look first.
    if config.listen.port() != 0 && is_taken(config.listen) {
        let port = config.listen.port();
        anyhow::bail!(
            "{} is in use already; to see by whom: ss -ltnp 'sport = :{port}', or pick another with --listen",
            config.listen
        );
    }
    let first = socket::listen(config.listen, options)?;
    let address = socket::local_addr(&first).context("cannot tell which port the kernel gave")?;
    let mut listeners = vec![first];
    for _ in 1..shards {
        listeners.push(socket::listen(address, options)?);
    }
    Ok((address, listeners))
}

/// The key of the hash that decides where clients live. Clients must not know it.
fn random_key() -> anyhow::Result<(u64, u64)> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    let number = u128::from_ne_bytes(bytes);
    Ok((number as u64, (number >> 64) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_budgeted_by_the_core() {
        assert_eq!((heartbeats_per_shard(2, 2), heartbeats_per_shard(64, 64)), (2_000, 2_000));
        assert_eq!(heartbeats_per_shard(8, 1), 2_000, "one shard has one core, however many there are");
        assert_eq!(heartbeats_per_shard(2, 54), 74, "they share the cores");
        assert_eq!(heartbeats_per_shard(1, u16::MAX), 1);
    }
}
