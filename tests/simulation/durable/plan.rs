//! What one seed decides before the run begins: the gateway, its disk, its devices, and what goes wrong when.
#![forbid(unsafe_code)]

use weir::store::{Failure, Retention};

use super::faults::Fault;
use crate::{
    plan::{self, SECOND_US},
    rng::Rng,
    store::{FOREVER, Pace},
};

/// Something that happens to the whole gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process ends at once, wherever it is.
    Crash,
    /// It is asked to stop, and does so in its time.
    Stop,
    /// It is there again.
    Start,
    /// The disk fails from now on.
    Outage {
        failure: Failure,
        unreadable: bool,
    },
    Repaired,
    /// From now on nothing goes wrong, nothing new is sent, and everybody comes back.
    Quiet,
    /// What has been read is marked.
    Marks,
    Judge,
    /// Everybody leaves.
    Finale,
    End,
}

pub struct Plan {
    pub base: plan::Plan,
    pub retention: Retention,
    pub pace: Pace,
    pub clients: u64,
    pub groups: u64,
    /// Devices of each client.
    pub devices: Vec<(String, String)>,
    pub quiet_at: u64,
    /// The largest window that a device asks for.
    pub window: u64,
    pub payload_max: u64,
    /// A device acts about this often.
    pub act_us: u64,
    /// Durable messages of one device at most.
    pub messages: u64,
    pub agenda: Vec<(u64, Event)>,
}

/// From the last trouble to the judgement: room for deadlines, retries, and a long catching up through small buffers.
const CALM_US: u64 = 40 * SECOND_US;

impl Plan {
    pub fn new(rng: &mut Rng, fault: Option<Fault>) -> Plan {
        let mut base = plan::Plan::new(rng);
        base.limits.connections = 10_000;
        base.limits.connections_per_address = 0;
        base.limits.logins_per_second = 0;
        base.limits.groups_per_connection = 256;
        base.rates.0.per_second = 0;
        base.rates.1.per_second = 0;
        base.slots = 64;
        base.begin_us = 0;
        base.drain = false;
        base.all_good = rng.chance(50);
        let clients = rng.range(1, 4);
        let mut devices = Vec::new();
        for client in 1..=clients {
            for device in 1..=rng.range(1, 3) {
                let device = if device == 1 { String::new() } else { format!("device-{device}") };
                devices.push((format!("client-{client}"), device));
            }
        }
        // A device acts about so often, and the faster, the shorter all is.
        let (act_us, life_s) = rng.pick(&[(2_000, 3), (20_000, 8), (100_000, 15)]);
        let quiet_at = rng.range(life_s / 3, life_s) * SECOND_US;
        let sync_us = rng.pick(&[(20, 300), (300, 3_000), (2_000, 40_000)]);
        let stall_us = if rng.chance(30) { rng.range(50_000, SECOND_US) } else { 0 };
        let mut plan = Plan {
            payload_max: base.payload_max,
            base,
            retention: retention(rng),
            pace: Pace { sync_us, stall_us, group: rng.pick(&[1, 2, 8]) },
            clients,
            groups: rng.range(1, 3),
            devices,
            quiet_at,
            window: rng.pick(&[1, 2, 5, 20, 300]),
            act_us,
            messages: rng.pick(&[10, 40, 120]),
            agenda: Vec::new(),
        };
        if plan.is_heavy() && rng.chance(80) {
            plan.messages = 10;
        }
        plan.trouble(rng, fault);
        let quiet_at = plan.quiet_at;
        let marks_at = quiet_at + CALM_US;
        let finale_at = marks_at + 10 * SECOND_US;
        plan.agenda.push((quiet_at, Event::Quiet));
        plan.agenda.push((marks_at, Event::Marks));
        plan.agenda.push((finale_at - 1, Event::Judge));
        plan.agenda.push((finale_at, Event::Finale));
        plan.agenda.push((finale_at + 10 * SECOND_US, Event::End));
        plan.agenda.sort_by_key(|(at, _)| *at);
        plan
    }

    /// Messages are so large that they can fill what may wait for the log.
    pub fn is_heavy(&self) -> bool {
        self.payload_max > 10_000
    }

    fn trouble(&mut self, rng: &mut Rng, fault: Option<Fault>) {
        let ends = if fault.is_some() { rng.range(2, 4) } else { rng.pick(&[0, 1, 1, 2, 4]) };
        // One after another, and each is over before the next.
        let mut at = SECOND_US / 2;
        for left in (1..=ends).rev() {
            at += rng.range(1, (self.quiet_at.saturating_sub(at) / left).max(2));
            let graceful = rng.chance(25);
            self.agenda.push((at, if graceful { Event::Stop } else { Event::Crash }));
            if graceful {
                // When it has stopped it starts again by itself; nothing else may end it meanwhile.
                at += 8 * SECOND_US;
            } else {
                at += rng.range(1_000, SECOND_US);
                self.agenda.push((at, Event::Start));
            }
        }
        self.quiet_at = self.quiet_at.max(at + SECOND_US);
        for _ in 0..rng.pick(&[0, 0, 1, 3]) {
            let at = rng.range(1, self.quiet_at);
            let failure = match rng.range(0, 3) {
                0 => Failure::Full,
                1 => Failure::Behind,
                _ => Failure::Unavailable("it does not answer".to_owned()),
            };
            let unreadable = matches!(failure, Failure::Unavailable(_)) && rng.chance(60);
            self.agenda.push((at, Event::Outage { failure, unreadable }));
            self.agenda.push((at + rng.range(10_000, 3 * SECOND_US), Event::Repaired));
        }
    }
}

/// Most keep all; some forget so much that devices miss messages.
fn retention(rng: &mut Rng) -> Retention {
    match rng.range(0, 9) {
        0 => Retention { messages: rng.range(1, 20), ..FOREVER },
        1 => Retention { bytes: rng.range(100, 5_000), ..FOREVER },
        2 => Retention { age_ms: rng.range(200, 8_000), ..FOREVER },
        _ => FOREVER,
    }
}
