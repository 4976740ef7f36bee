//! A load simulator for long-connection gateways.
#![forbid(unsafe_code)]

/// Writes a line to standard output. Whoever read it may have seen enough: `println!` would panic.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

mod args;
mod bench;
mod child;
mod crew;
mod demo;
mod durable;
mod fleet;
mod gateway;
mod homes;
mod launch;
mod limit;
mod measure;
mod million;
mod offline;
mod outputs;
mod plan;
mod progress;
mod reach;
mod report;
mod run;
mod scenario;
mod signals;
mod soak;
mod stall;
mod table;
mod target;
mod timeline;
mod token;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use self::{
    args::{Cli, Command},
    launch::Failure,
};

/// `EX_USAGE` of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// There is no valid result.
const EXIT_INVALID: u8 = 2;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let result = outputs::check(&cli.command).and_then(|()| match &cli.command {
        Command::Connect(args) => launch::connect(args),
        Command::Route(args) => launch::route(args),
        Command::Fanout(args) => launch::fanout(args),
        Command::Offline(args) => launch::offline(args),
        Command::Storm(args) => launch::storm(args),
        Command::Limit(args) => limit::limit(&args.command),
        Command::Million(args) => million::million(args),
        Command::Soak(args) => soak::soak(args),
        Command::Bench(args) => bench::bench(args),
        Command::Diff(args) => bench::diff(args),
        Command::Exec(args) => child::exec(args),
        Command::Demo(args) => demo::demo(args),
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Usage(words)) => {
            eprintln!("error: {words}\n\nFor more information, try '--help'.");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Run(cause)) => {
            eprintln!("bench-client: {cause:#}");
            ExitCode::from(EXIT_INVALID)
        }
    }
}
