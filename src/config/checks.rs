//! What a gateway demands of its settings beyond what each allows: what they demand of each other, and a key.
#![forbid(unsafe_code)]

use super::ConfigError;
use super::layers::Loaded;
use super::schema::Config;
use crate::limits::{ALTERNATIVES_MAX, RATE_BURST_S};
use crate::wire::HEADER_BYTES;

/// Whether a gateway can serve with these settings. Key files are not read; [`super::verifier`] does that.
///
/// # Errors
/// The first thing that is missing, or contradicts another.
pub fn check(loaded: &Loaded) -> Result<(), ConfigError> {
    let config = &loaded.config;
    check_listen(loaded)?;
    check_auth(config)?;
    let Config { heartbeat, timeouts, limits, .. } = config;
    ordered(loaded, ("heartbeat.interval_min_ms", heartbeat.interval_min_ms), ("heartbeat.interval_ms", heartbeat.interval_ms))?;
    ordered(loaded, ("heartbeat.interval_ms", heartbeat.interval_ms), ("heartbeat.interval_max_ms", heartbeat.interval_max_ms))?;
    let delays = (timeouts.goaway_delay_min_ms, timeouts.goaway_delay_max_ms);
    ordered(loaded, ("timeouts.goaway_delay_min_ms", delays.0), ("timeouts.goaway_delay_max_ms", delays.1))?;

    let largest_frame = u64::from(limits.max_body_bytes) + HEADER_BYTES as u64;
    let per_connection = limits.outbound_bytes_per_connection;
    fits(loaded, largest_frame, "limits.outbound_bytes_per_connection", per_connection)?;
    fits(loaded, largest_frame.max(per_connection), "limits.outbound_bytes_per_shard", limits.outbound_bytes_per_shard)?;
    fits(loaded, largest_frame.div_ceil(RATE_BURST_S), "limits.bytes_per_second", limits.bytes_per_second.into())?;

    let alternatives = &config.goaway.alternatives;
    if alternatives.len() > ALTERNATIVES_MAX {
        return Err(ConfigError::new(format!(
            "{}: `goaway.alternatives` lists {} addresses; more than {ALTERNATIVES_MAX} do not help a client",
            loaded.source("goaway.alternatives"),
            alternatives.len()
        )));
    }
    match alternatives.iter().find(|address| !is_host_and_port(address)) {
        Some(address) => Err(ConfigError::new(format!(
            "{}: `goaway.alternatives`: {address:?} is not host:port, such as gw2.example.org:7700",
            loaded.source("goaway.alternatives")
        ))),
        None => Ok(()),
    }
}

fn check_listen(loaded: &Loaded) -> Result<(), ConfigError> {
    let Config { dev, listen, .. } = loaded.config;
    if dev && !listen.ip().is_loopback() {
        return Err(ConfigError::new(format!(
            "{}: `listen` = {listen} is not a loopback address, and developer mode lets anybody log in as anybody: it listens on \
             127.0.0.1 or [::1] only. Leave `listen` out, or turn `dev` off ({}) and configure a key under [auth]",
            loaded.source("listen"),
            loaded.source("dev"),
        )));
    }
    Ok(())
}

fn check_auth(config: &Config) -> Result<(), ConfigError> {
    let auth = &config.auth;
    if auth.hs256_secret.is_set() && !auth.hs256_secret_file.is_empty() {
        return Err(ConfigError::new(
            "`auth.hs256_secret` and `auth.hs256_secret_file` are both set: which one counts? Remove one",
        ));
    }
    let files = [&auth.hs256_secret_file, &auth.rs256_public_key_file, &auth.eddsa_public_key_file];
    let has_key = auth.hs256_secret.is_set() || files.iter().any(|file| !file.is_empty());
    if !config.dev && !has_key {
        return Err(ConfigError::new(
            "there is no key to verify tokens with, so nobody could log in. Either\n  \
             - try Weir out on this machine, without tokens:   weir serve --dev\n  \
             - or make a secret that token issuers share:      openssl rand -hex 32 > weir.secret\n    \
             and start with it:                              weir serve --auth-hs256-secret-file weir.secret\n  \
             - or give the public key of whoever signs tokens: weir serve --auth-eddsa-public-key-file key.pem\n                                                    \
             weir serve --auth-rs256-public-key-file key.pem",
        ));
    }
    Ok(())
}

fn ordered(loaded: &Loaded, low: (&str, u32), high: (&str, u32)) -> Result<(), ConfigError> {
    if low.1 <= high.1 {
        return Ok(());
    }
    Err(ConfigError::new(format!(
        "`{}` = {} ({}) is above `{}` = {} ({}): the first is the lower bound of the second",
        low.0,
        low.1,
        loaded.source(low.0),
        high.0,
        high.1,
        loaded.source(high.0),
    )))
}

/// A limit (0: none) that is too small for what must pass it blocks for ever.
fn fits(loaded: &Loaded, needed: u64, key: &str, limit: u64) -> Result<(), ConfigError> {
    if limit == 0 || limit >= needed {
        return Ok(());
    }
    Err(ConfigError::new(format!(
        "{}: `{key}` = {limit} is too small: the largest frame (`limits.max_body_bytes`) and every smaller limit must fit, which \
         takes at least {needed}",
        loaded.source(key),
    )))
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !text.chars().any(|c| c.is_whitespace() || c.is_control())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}
