//! `weir config`, and the flags that `weir serve` shares with it: one for each setting.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind, value_parser};
use weir::config::{Environment, Flags, Loaded, SETTINGS, check, load, show, verifier};

use super::text::print;

/// `--config` and a flag for each setting.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFlags(Flags);

impl ConfigFlags {
    /// The effective configuration. Whether a gateway can serve with it is another question: `check` answers it.
    pub(crate) fn load(&self) -> anyhow::Result<Loaded> {
        Ok(load(&self.0, &environment()?)?)
    }
}

/// The variables that concern Weir. One that is not text is as wrong as one that is unknown.
fn environment() -> anyhow::Result<Environment> {
    let ours = std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"WEIR_"));
    ours.map(|(name, value)| {
        let (name, value) = (name.into_string(), value.into_string());
        match (name, value) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            (Ok(name), Err(_)) => anyhow::bail!("the environment variable {name} is not valid UTF-8"),
            (Err(name), _) => anyhow::bail!("the environment variable {} is not known, and not valid UTF-8", name.display()),
        }
    })
    .collect()
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf));
        let command = command.arg(file.help("The configuration file (TOML) [env: WEIR_CONFIG]"));
        SETTINGS.iter().fold(command, |command, setting| {
            let arg = Arg::new(setting.key).long(setting.flag.as_str()).value_name(setting.placeholder).action(ArgAction::Set);
            let heading = setting.key.split_once('.').map_or("Settings", |(table, _)| table);
            let arg = arg.help(format!("{} [env: {}]", setting.help, setting.variable)).help_heading(heading);
            // A switch may stand alone: --dev, --dev=false.
            command.arg(if setting.switch { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = Vec::new();
        for setting in SETTINGS.iter() {
            let text = matches.try_get_one::<String>(setting.key);
            let text = text.map_err(|cause| clap::Error::raw(ErrorKind::InvalidValue, cause.to_string()))?;
            values.extend(text.map(|text| (setting.key.to_owned(), text.clone())));
        }
        Ok(ConfigFlags(Flags { file: matches.get_one::<PathBuf>("config").cloned(), values }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Arguments of `weir config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Only check that a gateway could serve with it and the key files that it names; print nothing if it could
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: ConfigFlags,
}

pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let loaded = args.flags.load()?;
    let checked = check(&loaded).and_then(|()| verifier(&loaded.config.auth).map(drop));
    if args.check {
        checked?;
        return Ok(ExitCode::SUCCESS);
    }
    // Who asks what there is, perhaps because something was wrong, is to see it all the same.
    let remark = checked.err().map(|why| {
        let lines: String = why.to_string().lines().map(|line| format!("# {line}\n")).collect();
        format!("# `weir serve` would not start with this:\n{lines}\n")
    });
    print(&(remark.unwrap_or_default() + &show(&loaded)))?;
    Ok(ExitCode::SUCCESS)
}
