//! The command line: what there is, and which file does it.
#![forbid(unsafe_code)]

mod config;
mod connection;
mod follow;
mod key;
mod listen;
mod log;
mod send;
mod serve;
mod text;
mod token;
mod tune;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What went wrong was explained on standard error.
const FAILED: u8 = 1;
/// The message was sent, and reached nobody. (2 is clap's: a wrong command line.)
const REACHED_NOBODY: u8 = 3;

/// Weir: an instant-messaging and push gateway.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, max_term_width = 120, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway. To try it out on this machine: `weir serve --dev`
    Serve(config::ConfigFlags),
    /// Make a token that lets a client log in
    Token(token::TokenArgs),
    /// Log in and print every message that comes
    Listen(listen::ListenArgs),
    /// Log in and tell when other clients come and go
    Watch(watch::WatchArgs),
    /// Send a message, and say how many devices it reached
    Send(send::SendArgs),
    /// Look into the messages that a stopped gateway has stored; check and repair them
    Log(log::LogArgs),
    /// Set this machine's kernel up for many connections, or undo that
    Tune(tune::TuneArgs),
    /// Print the effective configuration, with the source of each value
    Config(config::ConfigArgs),
}

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let command = Cli::parse().command;
    // RUST_LOG changes it. Standard output is for what the command is about.
    let default_level = if matches!(command, Command::Serve(_)) { "info,fjall=warn,lsm_tree=warn" } else { "warn" };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(default_level)).init();
    let outcome = match command {
        Command::Serve(flags) => serve::run(&flags),
        Command::Token(args) => token::run(&args),
        Command::Listen(args) => listen::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Config(args) => config::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        // Whoever reads our output has seen enough: `weir listen | head`.
        let closed = error.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe);
        if closed {
            return ExitCode::SUCCESS;
        }
        text::note(format_args!("weir: {error:#}"));
        ExitCode::from(FAILED)
    })
}
