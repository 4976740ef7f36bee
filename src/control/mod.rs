//! The control thread: signals, metrics, and the order of stopping. A tokio runtime of its own; no shard ever waits for it.
#![forbid(unsafe_code)]

mod metrics;

use std::{io, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
    time::timeout,
};

use crate::{
    ids::ShardId,
    stats::{ReactorStats, ShardStats, StoreStats},
};

/// Exit status after a second signal: as if it had not been caught (128 + SIGTERM).
const EXIT_STOPPED_AT_ONCE: u8 = 143;

/// While stopping, the shards are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How a shard's thread ended.
pub type Ended = (ShardId, io::Result<()>);

/// What one shard's thread counts.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub shard: Arc<ShardStats>,
    pub reactor: Arc<ReactorStats>,
}

/// What the control thread tells the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send everybody away.
    Drain,
    /// Nobody is left: stop.
    Stop,
}

/// What the control thread works with.
pub struct Control {
    pub metrics: Option<SocketAddr>,
    pub node: String,
    pub stats: Vec<Stats>,
    pub store: Arc<StoreStats>,
    /// One message for each shard's thread that ends.
    pub ended: UnboundedReceiver<Ended>,
    /// Says that the gateway is there: from then on signals end it in good order.
    pub announce: Box<dyn FnOnce()>,
    /// Tells all shards something.
    pub tell: Box<dyn FnMut(Order)>,
    /// From the first signal until the process ends, whatever the clients do.
    pub drain_ms: u32,
}

/// Runs until all shards have ended.
///
/// # Errors
/// The metrics address cannot be listened on, or a shard failed.
pub fn run(control: Control) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the control thread")?;
    runtime.block_on(serve(control))
}

async fn serve(mut control: Control) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::new().context("cannot listen for signals")?;
    (control.announce)();
    if let Some(addr) = control.metrics {
        metrics::listen(addr, control.node.clone(), control.stats.clone(), Arc::clone(&control.store)).await?;
    }
    tokio::select! {
        signal = stop.next() => log::info!("{signal}: stopping within {} ms; a second signal stops at once", control.drain_ms),
        Some(ended) = control.ended.recv() => return early_end(ended),
    }
    (control.tell)(Order::Drain);
    // Shards keep the deadline themselves; the margin is for one that hangs.
    let deadline = Duration::from_millis(u64::from(control.drain_ms) + 1_000);
    let all = control.stats.len();
    let stopped = timeout(deadline, async {
        let mut ended = 0;
        let mut was_empty = false;
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        while ended < all {
            tokio::select! {
                Some((shard, result)) = control.ended.recv() => {
                    result.with_context(|| format!("shard {shard} failed while stopping"))?;
                    ended += 1;
                }
                signal = stop.next() => {
                    log::warn!("{signal} again: stopping at once");
                    return Ok(ExitCode::from(EXIT_STOPPED_AT_ONCE));
                }
                // Twice, because a connection between two shards is on neither.
                _ = look.tick() => {
                    let empty = control.stats.iter().all(|stats| stats.shard.connections.get() == 0);
                    if empty && was_empty {
                        (control.tell)(Order::Stop);
                    }
                    was_empty = empty;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    });
    let Ok(result) = stopped.await else { anyhow::bail!("not all shards stopped within {deadline:?}; ending without them") };
    if result.is_ok() {
        log::info!("stopped; {}", summary(&control.stats));
    }
    result
}

fn early_end((shard, result): Ended) -> anyhow::Result<ExitCode> {
    result.with_context(|| format!("shard {shard} failed"))?;
    anyhow::bail!("shard {shard} stopped without being asked to")
}

/// One line about what this process has done.
fn summary(stats: &[Stats]) -> String {
    let sum = |pick: fn(&ShardStats) -> u64| stats.iter().map(|stats| pick(&stats.shard)).sum::<u64>();
    format!(
        "{} connections accepted, {} logins, {} frames in, {} pushes out, {} messages dropped under pressure",
        sum(|shard| shard.accepted.get()),
        sum(|shard| shard.logins.get()),
        sum(|shard| shard.frames_in.get()),
        sum(|shard| shard.pushes.get()),
        sum(|shard| shard.dropped_connection_full.get() + shard.dropped_shard_full.get() + shard.dropped_mesh_full.get()),
    )
}

/// The signals that stop the gateway.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Stop> {
        Ok(Stop { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
