//! The servers that are measured: each run has a process of its own, started on its core and ended in good order.
#![forbid(unsafe_code)]

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};

use super::cores::Cores;
use crate::{
    args::{CaseName, TargetName},
    child::{self, Server},
    gateway,
    signals::Signals,
};

/// What tokens are signed with where there are tokens. The gateway listens on loopback, for as long as a run takes.
pub(super) const SECRET: &str = "a secret that only one run of the bench knows";
/// A server is up after this long, or not at all.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked at until then.
const LOOK: Duration = Duration::from_millis(10);

/// A server other than Weir: its program, its configuration, and what is the port in that.
struct Peer {
    scheme: &'static str,
    program: &'static str,
    configuration: &'static str,
    port: (&'static str, &'static str),
}

const NATS: Peer = Peer {
    scheme: "nats",
    program: "nats-server",
    configuration: include_str!("../../peers/nats.conf"),
    port: ("port: ", "14222"),
};
const MOSQUITTO: Peer = Peer {
    scheme: "mqtt",
    program: "mosquitto",
    configuration: include_str!("../../peers/mosquitto.conf"),
    port: ("listener ", "11883"),
};

impl Peer {
    fn of(target: TargetName) -> Option<&'static Peer> {
        match target {
            TargetName::Nats => Some(&NATS),
            TargetName::Mqtt => Some(&MOSQUITTO),
            TargetName::LimitUring | TargetName::LimitEpoll | TargetName::EchoUring => None,
            TargetName::WeirUring | TargetName::WeirEpoll | TargetName::WeirGlommio => None,
        }
    }

    /// The configuration that is shipped, with another port.
    fn configured(&self, port: u16) -> String {
        let (name, shipped) = self.port;
        self.configuration.replace(&format!("{name}{shipped}"), &format!("{name}{port}"))
    }
}

/// How servers are started.
pub(super) struct Servers<'a> {
    /// The gateway's program, if it is measured.
    pub(super) weir: Option<PathBuf>,
    pub(super) cores: &'a Cores,
    pub(super) signals: &'a Signals,
    /// For files of a run.
    pub(super) folder: &'a Path,
}

/// A server that listens.
pub(super) struct Running {
    server: Server,
    /// As `--target` takes it.
    pub(super) target: String,
    /// As `--metrics` takes it, where that is needed.
    pub(super) metrics: Option<String>,
    /// It ends with 0 when it is asked to.
    ends_well: bool,
}

impl Servers<'_> {
    /// Why a server cannot be measured here, with what to do about it. The gateway is started once to see.
    pub(super) fn why_not(&self, target: TargetName) -> Option<String> {
        if let Some(peer) = Peer::of(target) {
            return installed(peer.program).is_none().then(|| format!("{} is not installed; type: make peers", peer.program));
        }
        target.reactor_of_weir()?;
        let tried = self.start(target, CaseName::Route1).and_then(Running::stop);
        tried.err().map(|cause| format!("{cause:#}"))
    }

    /// Starts the server of a target for a run.
    ///
    /// # Errors
    /// It does not start; with what it said itself. Or we are to stop.
    pub(super) fn start(&self, target: TargetName, case: CaseName) -> anyhow::Result<Running> {
        let log = self.folder.join("server.log");
        let started = match Peer::of(target) {
            Some(peer) => self.start_peer(peer, &log),
            None => self.start_weir(target.reactor_of_weir().expect("loops are started by their load"), case, &log),
        };
        started.map_err(|cause| match last_words(&log) {
            Some(words) => anyhow!("{cause:#}: {words}"),
            None => cause,
        })
    }

    fn start_weir(&self, reactor: &str, case: CaseName, log: &Path) -> anyhow::Result<Running> {
        let program = self.weir.as_deref().context("the gateway's program is not known")?;
        let mut command = gateway::serve(program)?;
        command.args(["--reactor", reactor, "--shards", &case.shards().to_string()]);
        command.args(["--data", "memory", "--limits-frames-per-second", "0", "--limits-bytes-per-second", "0"]);
        match case {
            CaseName::Connect => {
                command.args(["--limits-logins-per-second-per-shard", "0"]).env("WEIR_AUTH_HS256_SECRET", SECRET)
            }
            CaseName::Route1 | CaseName::Route16 | CaseName::Route70 => command.arg("--dev"),
            CaseName::Route1Across | CaseName::Fanout16 | CaseName::Fanout64 => command.arg("--dev"),
        };
        if case.load().crosses() {
            command.args(["--metrics", "127.0.0.1:0"]);
        }
        let mut server = self.spawn(&mut command, case.shards(), log)?;
        let mut announced = |words| server.announced(words, self.signals).map_err(|_| anyhow!("the gateway did not start"));
        let target = announced(gateway::ANNOUNCEMENT)?;
        let metrics = case.load().crosses().then(|| announced(gateway::METRICS_ANNOUNCEMENT)).transpose()?;
        let metrics = metrics.map(|url| url.strip_suffix(gateway::METRICS_PATH).unwrap_or(&url).to_owned());
        Ok(Running { server, target, metrics, ends_well: true })
    }

    fn start_peer(&self, peer: &Peer, log: &Path) -> anyhow::Result<Running> {
        let program = installed(peer.program).with_context(|| format!("{} is not installed any more", peer.program))?;
        let address = free_address().context("no port is free")?;
        let configuration = self.folder.join("peer.conf");
        fs::write(&configuration, peer.configured(address.port())).context("its configuration cannot be written")?;
        let mut command = child::command(&program)?;
        // One thread for Go; mosquitto has no more anyway.
        command.arg("-c").arg(&configuration).env("GOMAXPROCS", "1");
        let mut server = self.spawn(&mut command, 1, log)?;
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.wait(Duration::ZERO)? {
                bail!("{} ended with {status} instead of listening", peer.program);
            }
            if Instant::now() > deadline {
                bail!("{} did not listen on {address} within {} s", peer.program, START_DEADLINE.as_secs());
            }
            thread::sleep(LOOK);
        }
        Ok(Running { server, target: format!("{}://{address}", peer.scheme), metrics: None, ends_well: false })
    }

    fn spawn(&self, command: &mut Command, shards: u32, log: &Path) -> anyhow::Result<Server> {
        let file = File::create(log).with_context(|| format!("{} cannot be written", log.display()))?;
        command.stdin(Stdio::null()).stderr(file);
        let start = || Server::start(command);
        self.cores.on(self.cores.of_server(shards), start)?.with_context(|| format!("{command:?} cannot be started"))
    }
}

impl Running {
    pub(super) fn id(&self) -> u32 {
        self.server.id()
    }

    /// Asks it to end, and waits for that.
    ///
    /// # Errors
    /// It did not, or the gateway not as it should.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let time = gateway::STOP_DEADLINE;
        if self.ends_well { gateway::stop(&mut self.server, time).map(drop) } else { self.server.terminate(time).map(drop) }
    }
}

/// The last line of a log that says anything.
pub(super) fn last_words(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

/// Where a program is. Distributions keep servers out of the way of users.
fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")]);
    places.map(|place| place.join(program)).find(|program| program.is_file())
}

/// An address where nobody listens.
fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_get_a_port_of_their_own() {
        assert!(NATS.configured(4711).contains("\nport: 4711\n"), "{}", NATS.configured(4711));
        assert!(MOSQUITTO.configured(4711).contains("\nlistener 4711 127.0.0.1\n"), "{}", MOSQUITTO.configured(4711));
        for peer in [NATS, MOSQUITTO] {
            assert_eq!(peer.configured(1).lines().count(), peer.configuration.lines().count());
        }
    }
}
