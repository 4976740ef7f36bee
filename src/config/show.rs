//! Writes the effective configuration as a TOML file that could be used as it is, secrets aside.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::layers::Loaded;
use super::schema::SETTINGS;

/// The effective configuration in TOML, each value with its source. Secrets are not shown.
pub fn show(loaded: &Loaded) -> String {
    let mut out = String::new();
    let mut table = "";
    // A String grows as needed: writing to it cannot fail.
    for setting in SETTINGS.iter() {
        let (in_table, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        let source = loaded.source(setting.key);
        if setting.key == "device_classes" {
            let _ = writeln!(out, "\n[device_classes] # {source}");
            for (class, policy) in loaded.config.device_classes.iter() {
                let _ = writeln!(out, "{} = \"{}\"", toml_key(class), policy.name());
            }
            continue;
        }
        if in_table != table {
            let _ = writeln!(out, "\n[{in_table}]");
            table = in_table;
        }
        let _ = writeln!(out, "{name} = {} # {source}", (setting.to_toml)(&loaded.config));
    }
    out
}

/// Bare where TOML allows it.
fn toml_key(name: &str) -> String {
    let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if bare { name.to_owned() } else { toml::Value::String(name.to_owned()).to_string() }
}
