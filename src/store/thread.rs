//! The store's thread: takes what waits in all rings, works it through with one commit, and sends the boxes back.
//!
//! While a commit syncs, the next requests gather in the rings: the more there is to do, the larger the commits are.
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
    limits::{STORE_BATCHES_PER_TURN, STORE_EXPIRE_INTERVAL_MS, STORE_EXPIRE_STEP_MS, STORE_REPLY_RETRY_MS},
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

/// Serves the ports of a mesh until one of them says stop.
pub fn run<T>(mut port: Port<T>, log: impl Log, travel: Travel<T>, stats: &Arc<StoreStats>) {
    let mut service = Service::new(log);
    let mut kept = Kept(VecDeque::new());
    let mut batches: Vec<(ShardId, Box<Batch>)> = Vec::new();
    let mut expire_at = Instant::now();
    let mut stopping = false;
    loop {
        let took = port.receive(STORE_BATCHES_PER_TURN, |from, message| match (travel.unwrap)(message) {
            Posted::Batch(batch) => batches.push((from, batch)),
            Posted::Stop => stopping = true,
            Posted::Other => {}
        });
        kept.retry(&mut port);
        serve(&mut service, &mut batches, stats);
        for (from, batch) in batches.drain(..) {
            kept.post(&mut port, from, (travel.wrap)(batch));
        }
        stats.replies_kept.set(kept.0.len() as u64);
        port.publish();
        if Instant::now() >= expire_at {
            // Requests go first, but not for ever.
            let pause_ms = if took { STORE_EXPIRE_STEP_MS } else { 0 };
            expire_at = Instant::now() + expire(&mut service, stats).max(Duration::from_millis(pause_ms));
        }
        if took {
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

fn serve(service: &mut Service<impl Log>, batches: &mut [(ShardId, Box<Batch>)], stats: &StoreStats) {
    if batches.is_empty() {
        return;
    }
    let started = Instant::now();
    service.serve(wall_ms(), batches.iter_mut().map(|(_, batch)| &mut **batch));
    let appends = |batch: &Batch| batch.requests.iter().filter(|request| matches!(request, Request::Append(_))).count();
    stats.batches.add(batches.len() as u64);
    stats.requests.add(batches.iter().map(|(_, batch)| batch.requests.len() as u64).sum());
    stats.appends.add(batches.iter().map(|(_, batch)| appends(batch) as u64).sum());
    stats.failed.add(batches.iter().map(|(_, batch)| batch.failures() as u64).sum());
    let micros = started.elapsed().as_micros() as u64;
    stats.turns.add(1);
    stats.turn_micros.add(micros);
    stats.turn_micros_max.set(stats.turn_micros_max.get().max(micros));
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
mod tests {
    use std::thread::JoinHandle;

    use super::*;
    use crate::{
        ids::ConnId,
        mesh::mesh,
        store::{Append, Memory, Reply, Retention, Tag},
    };

    const TRAVEL: Travel<Option<Box<Batch>>> =
        Travel { wrap: Some, unwrap: |message| message.map_or(Posted::Stop, Posted::Batch) };
    const STORE: ShardId = ShardId(1);

    /// A port that plays a shard, and the store's thread.
    fn start(ring: usize) -> (Port<Option<Box<Batch>>>, JoinHandle<()>, Arc<StoreStats>) {
        let mut ports = mesh(2, ring).unwrap();
        let (store, shard) = (ports.pop().unwrap(), ports.pop().unwrap());
        let retention = Retention { age_ms: 1 << 40, messages: 1000, bytes: 1 << 20, dedup_ms: 1 << 40, dedup_messages: 100 };
        let stats = Arc::new(StoreStats::default());
        let counted = Arc::clone(&stats);
        let thread = std::thread::spawn(move || run(store, Memory::new(retention), TRAVEL, &counted));
        (shard, thread, stats)
    }

    fn append(client_msg_id: u64) -> Box<Batch> {
        let mut batch = Box::new(Batch::default());
        let channel = batch.put(b"user/bob");
        let (from_client, from_device) = (batch.put(b"alice"), batch.put(b"phone"));
        let payload = batch.put(b"hello");
        let sender = Tag { shard: ShardId(0), conn: ConnId { slot: 0, generation: 0 }, ticket: 0 };
        batch.requests.push(Request::Append(Append { channel, from_client, from_device, payload, client_msg_id, sender }));
        batch
    }

    /// Posts it, however long the ring is full.
    fn post(port: &mut Port<Option<Box<Batch>>>, mut message: Option<Box<Batch>>) {
        while let Err(refused) = port.post(STORE, message) {
            message = refused;
            std::thread::yield_now();
        }
        port.publish();
    }

    fn seq_of(batch: &Batch) -> u64 {
        match batch.replies[..] {
            [Reply::Appended { seq, .. }] => seq,
            ref replies => panic!("{replies:?}"),
        }
    }

    #[test]
    fn requests_come_back_in_order_though_the_rings_are_small() {
        let (mut port, thread, stats) = start(2);
        // Replies to six batches do not fit into a ring of two: the thread keeps them until they are taken.
        for client_msg_id in 1..=6 {
            post(&mut port, Some(append(client_msg_id)));
        }
        while stats.requests.get() < 6 {
            std::thread::yield_now();
        }
        let mut seen = Vec::new();
        while seen.len() < 6 {
            port.receive(1, |from, batch| seen.push((from, seq_of(&batch.unwrap()))));
        }
        assert_eq!(seen, (1..=6).map(|seq| (STORE, seq)).collect::<Vec<_>>());
        post(&mut port, None);
        thread.join().unwrap();
        assert_eq!((stats.appends.get(), stats.failed.get()), (6, 0));
    }

    #[test]
    fn it_sleeps_and_wakes_and_ends_with_everything_served() {
        let (mut port, thread, stats) = start(8);
        post(&mut port, Some(append(1)));
        while stats.requests.get() < 1 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        post(&mut port, Some(append(2)));
        post(&mut port, None);
        thread.join().unwrap();
        let mut seen = Vec::new();
        port.receive(8, |_, batch| seen.push(seq_of(&batch.unwrap())));
        assert_eq!(seen, [1, 2]);
    }
}
