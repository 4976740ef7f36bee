//! The store's thread: takes what waits in all rings, works what writes through with one commit, and sends the boxes back; then it reads
//! for a while, and looks for what has come meanwhile.
//!
//! While a commit syncs, the next requests gather in the rings: the more there is to do, the larger the commits are. So reading, however
//! much there is of it, delays an answer to what was written by a step of reading, and no more. While the log is not ready to write,
//! reading goes on.
#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Batch, Failure, Log, Reply, Request, Service, peak::Peak};
use crate::{
    ids::ShardId,
    limits::{
        STORE_BATCHES_PER_TURN, STORE_EXPIRE_INTERVAL_MS, STORE_EXPIRE_STEP_MS, STORE_HOLD_MS_MAX, STORE_LOOK_MS, STORE_PEAK_MS,
        STORE_READ_STEP_US, STORE_SLOW_TURN_US,
    },
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
    /// They wait while the log is not ready.
    writes: Vec<(ShardId, Box<Batch>)>,
    written: Vec<(ShardId, Box<Batch>)>,
    /// Since when it is not.
    behind_since: Option<Instant>,
    /// That lasts for too long.
    refuses: bool,
    /// Answered in this order, the first one perhaps in part. Bounded, because shards bound what they have under way.
    reads: VecDeque<(ShardId, Box<Batch>)>,
}

/// Serves the ports of a mesh until one of them says stop.
pub fn run<T>(mut port: Port<T>, log: impl Log, travel: Travel<T>, stats: &Arc<StoreStats>) {
    let mut service = Service::new(log);
    let mut kept = Kept(VecDeque::new());
    let mut desk = Desk::default();
    let begun = Instant::now();
    let mut peak = Peak::new(Duration::from_millis(STORE_PEAK_MS));
    let mut expire_at = begun;
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
        let mut answered = 0;
        let mut answer = |port: &mut Port<T>, to, batch: Box<Batch>| {
            count(&batch, stats);
            answered += 1;
            kept.post(port, to, (travel.wrap)(batch));
        };
        desk.write(&mut service, stats);
        desk.written.drain(..).for_each(|(to, batch)| answer(&mut port, to, batch));
        port.publish();
        desk.read(&mut service, |to, batch| answer(&mut port, to, batch));
        port.publish();
        stats.writes_waiting.set(desk.writes.len() as u64);
        stats.reads_waiting.set(desk.reads.len() as u64);
        stats.replies_kept.set(kept.0.len() as u64);
        if answered > 0 {
            let micros = started.elapsed().as_micros() as u64;
            stats.turns.add(1);
            stats.turn_micros.add(micros);
            peak.note(begun.elapsed(), micros);
            if micros >= STORE_SLOW_TURN_US {
                log::warn!(
                    "store: nobody was answered for {} ms: the disk is slow, or busy with something else; senders wait, nothing is lost",
                    micros / 1_000
                );
            }
        }
        stats.turn_micros_max.set(peak.largest(begun.elapsed()));
        if Instant::now() >= expire_at {
            // Requests go first, but not for ever.
            let pause_ms = if took { STORE_EXPIRE_STEP_MS } else { 0 };
            expire_at = Instant::now() + expire(&mut service, stats).max(Duration::from_millis(pause_ms));
        }
        if took || !desk.reads.is_empty() {
            continue;
        }
        // Nobody takes replies any more.
        if stopping && desk.writes.is_empty() {
            return;
        }
        let until_expire = expire_at.saturating_duration_since(Instant::now());
        let soon = Duration::from_millis(STORE_LOOK_MS);
        let is_idle = kept.0.is_empty() && desk.writes.is_empty();
        wait(&mut port, if is_idle { until_expire } else { until_expire.min(soon) });
    }
}

impl Desk {
    /// One commit for all that is to be written, if the log is ready. If it is not for too long, all of it is refused.
    fn write(&mut self, service: &mut Service<impl Log>, stats: &StoreStats) {
        if self.writes.is_empty() && self.behind_since.is_none() {
            return;
        }
        if service.log().is_ready() {
            if std::mem::take(&mut self.refuses) {
                log::info!("store: the database has caught up with its tables");
            }
            self.behind_since = None;
            service.write(wall_ms(), self.writes.iter_mut().map(|(_, batch)| &mut **batch));
            self.written.append(&mut self.writes);
            return;
        }
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= Duration::from_millis(STORE_HOLD_MS_MAX) {
            if !std::mem::replace(&mut self.refuses, true) {
                log::warn!(
                    "store: the database is behind with its tables: durable messages are refused with OVERLOADED until it has caught up"
                );
            }
            for (_, batch) in &mut self.writes {
                stats.writes_refused.add(batch.requests.len() as u64);
                batch.fail(&Failure::Behind);
            }
            self.written.append(&mut self.writes);
        }
    }

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
    let refused = batch.replies.iter().filter(|reply| matches!(reply, Reply::Failed(Failure::TooManyChannels))).count();
    if refused > 0 && stats.channels_refused.get() == 0 {
        log::warn!(
            "store: there are as many channels as store.channels_max allows: messages to new ones are refused with STORE_FULL"
        );
    }
    stats.channels_refused.add(refused as u64);
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
