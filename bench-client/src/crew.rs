//! The worker threads of a run, and the main thread's end of the mesh to them.
#![forbid(unsafe_code)]

use std::{
    io,
    sync::{Arc, Barrier},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, bail};
use weir::{
    ids::ShardId,
    io::Tick,
    limits::RECEIVE_IDLE_MS_DEFAULT,
    mesh::{Port, mesh},
    reactor::{self, Clock, Envelope, Kind, Peers, Setup},
};

use crate::{
    fleet::{Fleet, Message, Outcome, Tally},
    plan::Plan,
    scenario::Scenario,
};

/// Messages in each ring of the mesh.
const RING_MESSAGES: usize = 64;
/// Receive buffers that the connections of a worker share, and the size of each.
const RECEIVE_BUFFERS: u16 = 512;
const RECEIVE_BUFFER_BYTES: u32 = 4096;
/// Slots beyond a worker's share, for connections that are tried again while their predecessor is being closed.
const SLOTS_SPARE: u32 = 64;

/// The worker threads, and the main thread's end of the mesh.
pub(crate) struct Crew {
    pub(crate) threads: Vec<JoinHandle<io::Result<()>>>,
    port: Port<Envelope<Message>>,
    clock: Clock,
    /// When the workers were told to begin.
    pub(crate) started: Tick,
    tallies: Vec<Tally>,
    /// How often workers told how things stand.
    pub(crate) reports: u64,
    pub(crate) outcomes: Vec<Option<Box<Outcome>>>,
}

impl Crew {
    pub(crate) fn start<S: Scenario + 'static>(
        plan: &Arc<Plan>,
        kind: Kind,
        scenario: impl Fn(u32) -> S,
    ) -> anyhow::Result<Crew> {
        let workers = plan.workers;
        let mut ports = mesh(workers as u16 + 1, RING_MESSAGES).context("the mesh between the workers cannot be built")?;
        let port = ports.pop().expect("one more than workers");
        let clock = Clock::start();
        let peers = Peers::new(workers as u16 + 1);
        let barrier = Arc::new(Barrier::new(workers as usize));
        // From the last core on: a gateway with few shards sits on the first ones.
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let mut threads = Vec::new();
        for (worker, port) in (0..workers).zip(ports) {
            let setup = Setup {
                kind,
                slots: plan.share(worker, plan.connections) + SLOTS_SPARE,
                listener: None,
                peers: peers.clone(),
                receive_buffers: RECEIVE_BUFFERS,
                receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
                idle_ms: RECEIVE_IDLE_MS_DEFAULT,
                stats: Arc::default(),
            };
            let mut fleet = Fleet::new(Arc::clone(plan), worker, scenario(worker));
            let core = cores.iter().rev().cycle().nth(worker as usize).copied();
            let barrier = Arc::clone(&barrier);
            let body = move || {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                let ready = || {
                    barrier.wait();
                    Ok(())
                };
                reactor::run(&mut fleet, port, setup, clock, ready)
            };
            threads.push(thread::Builder::new().name(format!("worker-{worker}")).spawn(body)?);
        }
        let tallies = vec![Tally::default(); workers as usize];
        Ok(Crew {
            threads,
            port,
            clock,
            started: clock.now(),
            tallies,
            reports: 0,
            outcomes: (0..workers).map(|_| None).collect(),
        })
    }

    /// Takes what the workers told, and gives the sum of their counts.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Tally> {
        let (tallies, outcomes, reports) = (&mut self.tallies, &mut self.outcomes, &mut self.reports);
        self.port.receive(RING_MESSAGES, |from, envelope| match envelope {
            Envelope::Message(Message::Progress(tally)) => {
                tallies[from.index()] = *tally;
                *reports += 1;
            }
            Envelope::Message(Message::Done(outcome)) => outcomes[from.index()] = Some(outcome),
            other => unreachable!("workers tell the main thread progress and results, not {other:?}"),
        });
        if let Some(at) = self.threads.iter().position(|thread| thread.is_finished()) {
            let cause = match self.threads.swap_remove(at).join() {
                Ok(Ok(())) => "it returned early".to_owned(),
                Ok(Err(cause)) => cause.to_string(),
                Err(_) => "it panicked".to_owned(),
            };
            bail!("a worker stopped: {cause}");
        }
        let mut sum = Tally::zero();
        self.tallies.iter().for_each(|tally| sum.add(tally));
        Ok(sum)
    }

    pub(crate) fn tell(&mut self, message: impl Fn() -> Message) {
        for worker in 0..self.tallies.len() {
            // The main thread says four things in a run, and the ring holds many more.
            self.port.post(ShardId(worker as u16), Envelope::Message(message())).expect("the ring has room");
        }
        self.port.publish();
    }

    pub(crate) fn after(&self, time: Duration) -> Tick {
        Tick(self.clock.now().0 + time.as_micros() as u64)
    }
}
