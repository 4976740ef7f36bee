//! The store's thread: takes what waits in all rings, works what writes through with one commit, and sends the boxes back; then it reads
//! for a while, and looks for what has come meanwhile.
//!
//! While a commit syncs, the next requests gather in the rings: the more there is to do, the larger the commits are. So reading, however
//! much there is of it, delays an answer to what was written by a step of reading, and no more.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Batch, Log, Request, Service};
use crate::{
    ids::ShardId,
    limits::{STORE_BATCHES_PER_TURN, STORE_EXPIRE_INTERVAL_MS, STORE_EXPIRE_STEP_MS, STORE_READ_STEP_US, STORE_REPLY_RETRY_MS},
    mesh::Port,
    stats::StoreStats,
};

/// What a message of the mesh means to the store.
#[derive(Debug)]
pub enum Posted {
    /// Requests of a shard.
    Batch(Box<Batch>),
    /// All shards have ended: commit what came before, and end.
    Stop,
    /// Nothing.
    Other,
}

/// How the store's batches travel in a mesh of `T`.
#[derive(Clone, Copy, Debug)]
pub struct Travel<T> {
    pub wrap: fn(Box<Batch>) -> T,
    pub unwrap: fn(T) -> Posted,
}

/// Replies that found their ring full, oldest first. Bounded, because shards bound the requests that they have under way.
struct Kept<T>(VecDeque<(ShardId, T)>);

impl<T> Kept<T> {
    /// Sends, behind what waits for the same shard.
    fn post(&mut self, port: &mut Port<T>, to: ShardId, message: T) {
        let refused = match self.0.iter().any(|(waiting, _)| *waiting == to) {
            true => Some(message),
            false => port.post(to, message).err(),
        };
        self.0.extend(refused.map(|message| (to, message)));
    }

    fn retry(&mut self, port: &mut Port<T>) {
        for (to, message) in std::mem::take(&mut self.0) {
            self.post(port, to, message);
        }
    }
}

/// Batches that were taken from shards, and not answered yet.
#[derive(Default)]
struct Desk {
    writes: Vec<(ShardId, Box<Batch>)>,
    /// Answered in this order, the first one perhaps in part. Bounded, because shards bound what they have under way.
    reads: VecDeque<(ShardId, Box<Batch>)>,
}

/// Serves the ports of a mesh until one of them says stop.
pub fn run<T>(mut port: Port<T>, log: impl Log, travel: Travel<T>, stats: &Arc<StoreStats>) {
    let mut service = Service::new(log);
    let mut kept = Kept(VecDeque::new());
    let mut desk = Desk::default();
    let mut expire_at = Instant::now();
    let mut stopping = false;
    loop {
        let took = port.receive(STORE_BATCHES_PER_TURN, |from, message| match (travel.unwrap)(message) {
            Posted::Batch(batch) if batch.is_write() => desk.writes.push((from, batch)),
            Posted::Batch(batch) => desk.reads.push_back((from, batch)),
            Posted::Stop => stopping = true,
            Posted::Other => {}
        });
        kept.retry(&mut port);
        let started = Instant::now();
        let has_work = !desk.writes.is_empty() || !desk.reads.is_empty();
        service.write(wall_ms(), desk.writes.iter_mut().map(|(_, batch)| &mut **batch));
        for (to, batch) in desk.writes.drain(..) {
            count(&batch, stats);
            kept.post(&mut port, to, (travel.wrap)(batch));
        }
        port.publish();
        desk.read(&mut service, |to, batch| {
            count(&batch, stats);
            kept.post(&mut port, to, (travel.wrap)(batch));
        });
        stats.replies_kept.set(kept.0.len() as u64);
        stats.reads_waiting.set(desk.reads.len() as u64);
        port.publish();
        if has_work {
            let micros = started.elapsed().as_micros() as u64;
            stats.turns.add(1);
            stats.turn_micros.add(micros);
            stats.turn_micros_max.set(stats.turn_micros_max.get().max(micros));
        }
        if Instant::now() >= expire_at {
            // Requests go first, but not for ever.
            let pause_ms = if took { STORE_EXPIRE_STEP_MS } else { 0 };
            expire_at = Instant::now() + expire(&mut service, stats).max(Duration::from_millis(pause_ms));
        }
        if took || !desk.reads.is_empty() {
            continue;
        }
        // Nobody takes replies any more.
        if stopping {
            return;
        }
        let until_expire = expire_at.saturating_duration_since(Instant::now());
        let retry = Duration::from_millis(STORE_REPLY_RETRY_MS);
        wait(&mut port, if kept.0.is_empty() { until_expire } else { until_expire.min(retry) });
    }
}

impl Desk {
    /// A step of reading. Hands out the batches that are answered.
    fn read(&mut self, service: &mut Service<impl Log>, mut answered: impl FnMut(ShardId, Box<Batch>)) {
        let until = Instant::now() + Duration::from_micros(STORE_READ_STEP_US);
        while let Some((from, mut batch)) = self.reads.pop_front() {
            while service.read_next(&mut batch) && Instant::now() < until {}
            if batch.replies.len() < batch.requests.len() {
                self.reads.push_front((from, batch));
            } else {
                answered(from, batch);
            }
            if Instant::now() >= until {
                return;
            }
        }
    }
}

fn count(batch: &Batch, stats: &StoreStats) {
    let appends = batch.requests.iter().filter(|request| matches!(request, Request::Append(_))).count();
    stats.batches.add(1);
    stats.requests.add(batch.requests.len() as u64);
    stats.appends.add(appends as u64);
    stats.failed.add(batch.failures() as u64);
}

/// One step; says when the next is due.
fn expire(service: &mut Service<impl Log>, stats: &StoreStats) -> Duration {
    match service.log().expire(wall_ms()) {
        Ok(true) => Duration::ZERO,
        Ok(false) => Duration::from_millis(STORE_EXPIRE_INTERVAL_MS),
        Err(failure) => {
            // Who asks for something is told; this is for whoever only watches.
            if stats.expire_failed.get() == 0 {
                log::warn!("store: cannot remove what is over: {failure:?}");
            }
            stats.expire_failed.add(1);
            Duration::from_millis(STORE_EXPIRE_INTERVAL_MS)
        }
    }
}

/// Sleeps until a shard posts something, at most for `most`.
fn wait<T>(port: &mut Port<T>, most: Duration) {
    if port.sleep() {
        // Rounded up, or the last millisecond would be spent turning.
        let timeout = PollTimeout::try_from(most.as_millis() as u64 + 1).unwrap_or(PollTimeout::MAX);
        let mut bell = [PollFd::new(port.bell().as_fd(), PollFlags::POLLIN)];
        // A signal that interrupts it is as good a reason to look as any.
        let _ = poll(&mut bell, timeout);
        port.wake();
    }
    port.bell().silence();
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
