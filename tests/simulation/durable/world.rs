//! One run: a gateway that comes and goes, its disk, and devices, under one clock.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use weir::store::Failure;

use super::{
    device::{self, Device},
    faults::Fault,
    judge,
    model::Model,
    plan::{Event, Plan},
    process::Process,
};
use crate::{
    PROGRESS,
    disk::{Disk, Fate},
    network::Link,
    plan::{SECOND_US, WALL_US},
    rng::Rng,
};

pub struct World {
    pub plan: Plan,
    rng: Rng,
    now: u64,
    step: u64,
    pub process: Option<Process>,
    /// While there is no process.
    disk: Option<Disk>,
    links: Vec<Link>,
    /// The device of each link.
    owners: Vec<usize>,
    pub devices: Vec<Device>,
    pub model: Model,
    agenda: std::vec::IntoIter<(u64, Event)>,
    is_over: bool,
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>) -> World {
        let mut rng = Rng::new(seed);
        let mut plan = Plan::new(&mut rng, fault);
        let devices: Vec<Device> = (0..plan.devices.len()).map(|id| Device::new(id, &plan, &mut rng)).collect();
        let disk = Disk::new(plan.retention, fault);
        let model = Model::new(plan.devices.clone());
        let agenda = std::mem::take(&mut plan.agenda).into_iter();
        let mut world = World {
            process: None,
            disk: Some(disk),
            links: Vec::new(),
            owners: Vec::new(),
            devices,
            model,
            agenda,
            is_over: false,
            now: 0,
            step: 0,
            rng,
            plan,
        };
        world.start();
        world
    }

    /// Runs to the end of the agenda.
    pub fn run(&mut self) {
        while let Some((at, event)) = self.agenda.next() {
            self.advance(at);
            self.happens(event);
        }
    }

    /// Does everything that is due until `until`.
    fn advance(&mut self, until: u64) {
        loop {
            let process_at = self.process.as_ref().map_or(u64::MAX, Process::next);
            let device = self.devices.iter().map(|device| (device.next_at, device.id)).min();
            let (device_at, id) = device.expect("there are devices");
            let at = process_at.min(device_at);
            if at > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(at);
            self.step += 1;
            PROGRESS.set((self.step, self.now));
            assert!(self.step < 10_000_000, "the run does not come to an end: somebody is woken for nothing");
            if at == process_at {
                self.turn();
            } else {
                self.step(id);
            }
        }
    }

    fn turn(&mut self) {
        let crash_at = self.crash_at();
        let Some(process) = &mut self.process else { return };
        for link in process.advance(self.now, crash_at, &self.plan.base, &mut self.links, &mut self.rng) {
            let device = &mut self.devices[self.owners[link]];
            if device.conn.as_ref().is_some_and(|conn| conn.link == link) {
                device.next_at = device.next_at.min(self.now + self.rng.range(10, 3_000));
            }
        }
        if process.stop_by.is_some() && process.has_stopped() {
            self.ends();
            self.start();
        }
    }

    /// The next time that the process ends without warning.
    fn crash_at(&self) -> u64 {
        let crash = self.agenda.as_slice().iter().find(|(_, event)| *event == Event::Crash);
        crash.map_or(u64::MAX, |(at, _)| *at)
    }

    /// Lends a device out, with all that it may touch.
    fn with_device<R>(&mut self, id: usize, act: impl FnOnce(&mut Device, &mut device::World<'_>) -> R) -> R {
        let stopping = self.process.as_ref().is_none_or(|process| process.stop_by.is_some());
        let mut with = device::World {
            now: self.now,
            plan: &self.plan,
            rng: &mut self.rng,
            model: &mut self.model,
            disk: match &mut self.process {
                Some(process) => process.store.disk(),
                None => self.disk.as_mut().expect("there is a process or a disk"),
            },
            links: &mut self.links,
            stopping,
        };
        act(&mut self.devices[id], &mut with)
    }

    fn step(&mut self, id: usize) {
        if self.devices[id].conn.is_none() && !self.connect(id) {
            return;
        }
        // It may lose the connection in this step.
        let link = self.devices[id].conn.as_ref().map(|conn| conn.link);
        self.with_device(id, Device::step);
        self.wake_holder(link);
    }

    fn wake_holder(&mut self, link: Option<usize>) {
        if let Some(process) = &mut self.process
            && let Some(shard) = link.and_then(|link| self.links[link].holder)
        {
            process.reactors[shard].wake(self.now + self.rng.range(1, self.plan.base.turn_us));
        }
    }

    /// Connects a device, if there is somebody to connect to, and it is time.
    fn connect(&mut self, id: usize) -> bool {
        let device = &mut self.devices[id];
        if self.is_over {
            device.next_at = u64::MAX;
            return false;
        }
        if self.now < device.connect_at {
            device.next_at = device.connect_at;
            return false;
        }
        let accepts = self.process.as_ref().is_some_and(|process| process.stop_by.is_none());
        if !accepts {
            device.next_at = self.now + self.rng.range(1_000, SECOND_US / 2);
            return false;
        }
        let link = self.links.len();
        self.links.push(Link::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.plan.base.socket_bytes));
        self.owners.push(id);
        self.with_device(id, |device, with| device.begin(link, with));
        let process = self.process.as_mut().expect("just seen");
        let shard = self.rng.index(process.reactors.len());
        self.links[link].holder = Some(shard);
        process.reactors[shard].backlog.push_back(link);
        true
    }

    /// A process begins: with another key, another clock, and perhaps another number of shards.
    fn start(&mut self) {
        let base = &mut self.plan.base;
        base.hash_key = (self.rng.next(), self.rng.next());
        base.shards = self.rng.range(1, 4) as u16;
        // Whoever sets the clock may set it back.
        base.wall_us = WALL_US + self.rng.range(0, 20) * SECOND_US;
        let disk = self.disk.take().expect("there is a process or a disk");
        self.process = Some(Process::new(&self.plan, &self.plan.base, disk, &mut self.rng));
    }

    /// The process is gone, and with it all connections.
    fn ends(&mut self) {
        let Some(process) = self.process.take() else { return };
        let mut disk = process.store.into_disk();
        disk.restart();
        self.disk = Some(disk);
        for link in &mut self.links {
            link.holder = None;
            if link.closed_at.is_none() {
                link.close(self.now, true, &mut self.rng);
            }
        }
        self.model.ended_at = Some(self.now);
        self.model.lives += 1;
        for device in &mut self.devices {
            device.conns = 0;
            device.next_at = device.next_at.min(self.now + self.rng.range(10, 3_000));
        }
    }

    fn disk(&mut self) -> &mut Disk {
        match &mut self.process {
            Some(process) => process.store.disk(),
            None => self.disk.as_mut().expect("there is a process or a disk"),
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Crash => {
                self.ends();
            }
            Event::Stop => {
                let within_us = self.rng.range(200, 6_000) * 1_000;
                if let Some(process) = &mut self.process {
                    process.stop(self.now, within_us, &self.plan.base, &mut self.rng);
                }
            }
            Event::Start if self.process.is_none() => self.start(),
            Event::Start => {}
            Event::Outage { failure, unreadable } => {
                // One that is full, or behind, is known not to have taken anything.
                let may_write = matches!(failure, Failure::Unavailable(_));
                let writes = if may_write { self.rng.pick(&[0, 0, 1, 3, usize::MAX]) } else { 0 };
                let disk = self.disk();
                disk.fate = Fate::Fails { failure, writes };
                disk.unreadable = unreadable;
                self.model.outage_until = Some(u64::MAX);
            }
            Event::Repaired => self.repaired(),
            Event::Quiet => {
                self.repaired();
                for device in &mut self.devices {
                    device.is_calm = true;
                    device.next_at = self.now;
                    device.connect_at = device.connect_at.min(self.now + SECOND_US);
                }
            }
            Event::Marks => judge::readers(&self.devices).into_iter().for_each(|id| self.with_device(id, Device::read_all)),
            Event::Judge => judge::judge(self),
            Event::Finale => self.finale(),
            Event::End => judge::end(self),
        }
    }

    fn repaired(&mut self) {
        let disk = self.disk();
        disk.fate = Fate::Good;
        disk.unreadable = false;
        if self.model.outage_until == Some(u64::MAX) {
            self.model.outage_until = Some(self.now);
        }
    }

    fn finale(&mut self) {
        self.is_over = true;
        for id in 0..self.devices.len() {
            let link = self.devices[id].conn.as_ref().map(|conn| conn.link);
            if let Some(conn) = &mut self.devices[id].conn {
                conn.closed_itself = true;
                self.links[conn.link].up_ended = true;
            }
            self.wake_holder(link);
        }
    }

    /// The disk, and what is held against it.
    pub fn truth(&mut self) -> (&mut Disk, &Model, &[Device], &Plan) {
        let disk = match &mut self.process {
            Some(process) => process.store.disk(),
            None => self.disk.as_mut().expect("there is a process or a disk"),
        };
        (disk, &self.model, &self.devices, &self.plan)
    }
}
