//! A server that this program starts: it says where it listens, and does not outlive its value here, nor this process.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use nix::{
    sys::{
        prctl,
        signal::{self, Signal},
    },
    unistd::{Pid, getppid},
};

use crate::{
    args::ExecArgs,
    launch::Failure,
    signals::{Signals, unblock},
};

/// A server is up after this long, or not at all.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How often signals and the child are looked at while one is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A command that becomes this program, by way of [`exec`]. The thread that starts it must live as long as it is to.
///
/// # Errors
/// It is not known where this program is.
pub(crate) fn command(program: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(env::current_exe().context("this program's own place is not known")?);
    command.args(["exec", "--parent", &std::process::id().to_string()]).arg(program);
    Ok(command)
}

/// The same of this program.
///
/// # Errors
/// As [`command`].
pub(crate) fn ourselves() -> anyhow::Result<Command> {
    command(&env::current_exe().context("this program's own place is not known")?)
}

/// Becomes another program, with no signal blocked, that is killed when its parent ends, however that ends: `PR_SET_PDEATHSIG` of
/// prctl(2). A child inherits what its parent blocks, and not all programs undo that. To unblock it in the parent while a child is started
/// would let a signal end the parent, and leave the child behind.
///
/// # Errors
/// It cannot be started.
pub(crate) fn exec(args: &ExecArgs) -> Result<u8, Failure> {
    unblock().context("signals cannot be unblocked")?;
    prctl::set_pdeathsig(Signal::SIGKILL).context("the end of the parent cannot be made this process's own")?;
    if getppid().as_raw() != args.parent {
        return Err(anyhow!("process {} has ended already", args.parent).into());
    }
    let cause = Command::new(&args.program).args(&args.words).exec();
    Err(anyhow!("{} cannot be started: {cause}", args.program.display()).into())
}

/// The server's process.
pub(crate) struct Server {
    child: Child,
    /// What it writes to standard output, once somebody listens.
    lines: Option<Receiver<String>>,
}

impl Server {
    /// Starts the program.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Server> {
        // Ctrl-C is for us: we stop the server in good order.
        let child = command.stdout(Stdio::piped()).process_group(0).spawn()?;
        Ok(Server { child, lines: None })
    }

    /// The address behind `announcement` on the next line that begins so.
    ///
    /// # Errors
    /// It did not start, and says why itself; or we are to stop.
    pub(crate) fn announced(&mut self, announcement: &str, signals: &Signals) -> anyhow::Result<String> {
        let lines = self.lines.get_or_insert_with(|| lines_of(self.child.stdout.take().expect("standard output is a pipe")));
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if signals.interrupted() {
                bail!("interrupted while the server was starting");
            }
            match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    if let Some(address) = line.strip_prefix(announcement) {
                        return Ok(address.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    bail!("the server did not start; its own words are above");
                }
            }
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if that is a pipe.
    pub(crate) fn take_input(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// What else it said until its end. To be called when it has ended.
    pub(crate) fn last_words(&self) -> Vec<String> {
        self.lines.iter().flatten().collect()
    }

    /// Asks it to end with SIGTERM, and waits for it. Gives how it ended, and the time that it took.
    ///
    /// # Errors
    /// It was gone already, or did not end in this time.
    pub(crate) fn terminate(&mut self, time: Duration) -> anyhow::Result<(ExitStatus, Duration)> {
        let asked = Instant::now();
        signal::kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).context("the server was gone already")?;
        match self.wait(time)? {
            Some(status) => Ok((status, asked.elapsed())),
            None => bail!("the server did not end within {} s of SIGTERM", time.as_secs()),
        }
    }

    /// How it ended; `None` if it did not in this time.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(crate) fn wait(&mut self, time: Duration) -> std::io::Result<Option<ExitStatus>> {
        let begun = Instant::now();
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || begun.elapsed() > time {
                return Ok(status);
            }
            thread::sleep(LOOK / 2);
        }
    }
}

/// What comes out of the server, line by line. It is read to the end, so that the server never waits for us to take its output. A thread of
/// ours does it, which begins with the signals blocked: one that blocks nothing would die of them, and the whole process with it.
fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
