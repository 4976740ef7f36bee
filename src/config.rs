//! Configuration: flags > environment (`WEIR_*`) > TOML file > defaults.
//!
//! Each setting is written down once, in `schema.rs`; its flag, its variable, its key in the file, its bounds and its help all
//! come from there. What is unknown or out of bounds is an error that names the place and says what to write instead.
#![forbid(unsafe_code)]

mod checks;
mod keys;
mod layers;
mod schema;
mod show;
#[cfg(test)]
mod tests;
mod value;

pub use checks::check;
pub use keys::verifier;
pub use layers::{Environment, Flags, Loaded, Source, load};
pub use schema::{Auth, Config, Goaway, Heartbeat, Limits, Presence, SETTINGS, Setting, Store, Timeouts};
pub use show::show;
pub use value::{DeviceClasses, ReactorChoice, Secret};

use std::fmt;

/// What is wrong with the configuration: where, what, and what to do. May take several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    fn new(text: impl Into<String>) -> ConfigError {
        ConfigError(text.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ConfigError {}
