//! The layers, their order, and what is said when something is wrong.
#![forbid(unsafe_code)]

use std::io::Write as _;

use super::*;
use crate::session::Policy;

/// A configuration that is valid without anything else.
const DEV: [(&str, &str); 1] = [("dev", "true")];

fn flags(values: &[(&str, &str)]) -> Flags {
    Flags { file: None, values: values.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect() }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// Loads and checks, as `weir serve` does.
fn checked(flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigError> {
    load(flags, environment).and_then(|loaded| check(&loaded).map(|()| loaded))
}

fn load_file(text: &str) -> Result<Loaded, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    let name = file.path().display().to_string();
    checked(&flags, &Environment::new()).map_err(|why| why.to_string().replace(&name, "FILE"))
}

fn file_error(text: &str) -> String {
    load_file(text).unwrap_err()
}

fn flag_error(values: &[(&str, &str)]) -> String {
    checked(&flags(&[&DEV, values].concat()), &Environment::new()).unwrap_err().to_string()
}

#[test]
fn flags_beat_variables_beat_the_file_beats_defaults() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "dev = true\nshards = 2\n[timeouts]\nlogin_ms = 1000\nwrite_ms = 2000\n\nlinger_ms = 3000").unwrap();
    let path = file.path().to_owned();
    let variables = environment(&[("WEIR_TIMEOUTS_LOGIN_MS", "1001"), ("WEIR_TIMEOUTS_WRITE_MS", "2001"), ("HOME", "/")]);
    let flags = Flags { file: Some(path.clone()), ..flags(&[("timeouts.login_ms", "1002")]) };
    let loaded = load(&flags, &variables).unwrap();
    let timeouts = &loaded.config.timeouts;
    assert_eq!((timeouts.login_ms, timeouts.write_ms, timeouts.linger_ms, timeouts.drain_ms), (1_002, 2_001, 3_000, 10_000));
    assert_eq!(loaded.source("timeouts.login_ms"), Source::Flag("timeouts-login-ms".into()));
    assert_eq!(loaded.source("timeouts.write_ms"), Source::Variable("WEIR_TIMEOUTS_WRITE_MS".into()));
    assert_eq!(loaded.source("timeouts.linger_ms"), Source::File { path: path.clone(), line: 7 });
    assert_eq!(loaded.source("timeouts.drain_ms"), Source::Default);
    // The file may be named by a variable; the flag beats it.
    let named = environment(&[("WEIR_CONFIG", path.to_str().unwrap())]);
    assert_eq!(load(&Flags::default(), &named).unwrap().config.shards, 2);
    let wrong = environment(&[("WEIR_CONFIG", "/nowhere")]);
    assert_eq!(load(&flags, &wrong).unwrap().config.shards, 2);
}

#[test]
fn the_defaults_are_valid_and_documented() {
    let loaded = load(&flags(&DEV), &Environment::new()).unwrap();
    let config = &loaded.config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:7700");
    assert_eq!(loaded.source("listen"), Source::DeveloperDefault);
    assert!(!config.node.is_empty());
    assert_eq!(config.limits.max_body_bytes, 65_536);
    assert_eq!(config.limits.bytes_per_second, 8 << 20);
    assert_eq!(config.device_classes.policy("phone"), Some(Policy::KeepNewest));
    assert_eq!(config.device_classes.policy("default"), Some(Policy::AllowMany));
    assert_eq!(config.device_classes.policy("fridge"), None);
    assert_eq!(Config::default().listen.to_string(), "0.0.0.0:7700");
    for setting in SETTINGS.iter() {
        assert!(setting.help.len() > 20, "{}", setting.key);
        assert!(setting.variable.starts_with("WEIR_") && !setting.flag.contains(['_', '.']), "{}", setting.key);
        let unit = setting.key.rsplit_once('_').map(|(_, unit)| unit);
        assert!(unit != Some("ms") || setting.help.contains("milliseconds"), "{}", setting.key);
    }
}

#[test]
fn names_are_unique_in_each_layer() {
    let distinct = |name: fn(&Setting) -> String| {
        let names: std::collections::BTreeSet<_> = SETTINGS.iter().map(name).collect();
        assert_eq!(names.len(), SETTINGS.len());
    };
    distinct(|setting| setting.key.to_owned());
    distinct(|setting| setting.flag.clone());
    distinct(|setting| setting.variable.clone());
}

#[test]
fn an_unknown_key_names_its_line_and_the_right_key() {
    let wrong = file_error("dev = true\n\n[limits]\nmax_body_byte = 1");
    assert_eq!(wrong, "FILE:4: there is no setting `limits.max_body_byte`: did you mean `limits.max_body_bytes`?");
    let wrong = file_error("dev = true\nmax_body_bytes = 65536");
    assert_eq!(wrong, "FILE:2: there is no setting `max_body_bytes`: `max_body_bytes` belongs into the table [limits]");
    let wrong = file_error("[limits]\ndev = true");
    assert_eq!(wrong, "FILE:2: there is no setting `limits.dev`: `dev` belongs to the top level, above all tables");
    let wrong = file_error("dev = true\n[limit]\nmax_body_bytes = 65536");
    assert_eq!(wrong, "FILE:2: there is no table [limit]: did you mean `limits`?");
    let wrong = file_error("login_timeout = 3\ndev = true");
    assert!(wrong.starts_with("FILE:1: there is no setting `login_timeout`: "), "{wrong}");
    let wrong = file_error("xyzzy = 3\ndev = true");
    assert_eq!(wrong, "FILE:1: there is no setting `xyzzy`: `weir config` lists all settings");
    let wrong = file_error("dev = true\nshards = = 2");
    assert!(wrong.starts_with("FILE:2: not valid TOML: "), "{wrong}");
    let wrong = file_error("dev = true\ndev = true");
    assert!(wrong.starts_with("FILE:2: not valid TOML: "), "{wrong}");
}

#[test]
fn an_unknown_variable_is_an_error() {
    let wrong = load(&flags(&DEV), &environment(&[("WEIR_LIMITS_MAX_BODY", "1")])).unwrap_err().to_string();
    assert_eq!(
        wrong,
        "the environment variable WEIR_LIMITS_MAX_BODY is not known: did you mean `WEIR_LIMITS_MAX_BODY_BYTES`?, or unset it"
    );
    // What a cluster sets for a service called "weir" is none of our business.
    let cluster = environment(&[("WEIR_PORT", "tcp://10.0.0.1:7700"), ("WEIR_SERVICE_HOST", "10.0.0.1"), ("WEIR_ADDR", "x")]);
    assert!(checked(&flags(&DEV), &cluster).is_ok());
}

#[test]
fn what_a_cluster_sets_for_its_services_is_ignored_and_what_somebody_typed_is_not() {
    for (name, text) in [
        ("WEIR_SERVICE_HOST", "10.0.0.1"),
        ("WEIR_SERVICE_PORT", "7700"),
        ("WEIR_SERVICE_PORT_CLIENTS", "7700"),
        ("WEIR_PORT", "tcp://10.0.0.1:7700"),
        ("WEIR_PORT_7700_TCP", "tcp://10.0.0.1:7700"),
        ("WEIR_PORT_7700_TCP_PROTO", "tcp"),
        ("WEIR_PORT_7700_TCP_PORT", "7700"),
        ("WEIR_PORT_7700_TCP_ADDR", "10.0.0.1"),
        // Another service, called "weir-metrics".
        ("WEIR_METRICS_SERVICE_HOST", "10.0.0.2"),
        ("WEIR_METRICS_PORT", "tcp://10.0.0.2:7780"),
        ("WEIR_METRICS_PORT_7780_TCP_ADDR", "10.0.0.2"),
    ] {
        assert!(load(&flags(&DEV), &environment(&[(name, text)])).is_ok(), "{name}={text}");
    }
    for (name, text, hint) in [
        ("WEIR_PORT", "7701", "did you mean `WEIR_LISTEN=0.0.0.0:7701`?"),
        ("WEIR_PORT", "", "did you mean `WEIR_LISTEN`"),
        ("WEIR_HOST", "0.0.0.0", "did you mean `WEIR_LISTEN`"),
        ("WEIR_PORTS", "7701", "is not known"),
        ("WEIR_SERVICE_NAME", "x", "is not known"),
        ("WEIR_METRICS_PORT", "7780", "did you mean `WEIR_METRICS`?"),
    ] {
        let wrong = load(&flags(&DEV), &environment(&[(name, text)])).unwrap_err().to_string();
        assert!(wrong.contains(name) && wrong.contains(hint), "{name}={text} gives {wrong}");
    }
}

#[test]
fn a_value_of_the_wrong_type_says_what_is_needed() {
    for (text, expected) in [
        ("dev = 1", "FILE:1: `dev`: this must be true or false, not the number 1"),
        ("shards = \"two\"", "FILE:1: `shards`: this must be a whole number, not the string \"two\""),
        ("shards = 1.5", "FILE:1: `shards`: no setting is a number with a fraction"),
        ("listen = \"here\"", "such as 0.0.0.0:7700 or [::1]:7700, not the string \"here\""),
        ("reactor = \"iouring\"", "FILE:1: `reactor`: \"iouring\" is not one of auto, uring, epoll, glommio"),
        ("limits = 3", "FILE:1: there is no setting `limits`"),
        ("[auth]\naudience = \"weir\"", "FILE:2: `auth.audience`: this must be a list of strings"),
        ("[auth]\naudience = [1]", "FILE:2: `auth.audience`: this must hold strings only"),
        ("[device_classes]\nphone = \"newest\"", "\"newest\" is not one of allow_many, keep_newest, refuse_newest"),
        ("[goaway]\nalternatives = [\"gw2\"]\n[auth]\nhs256_secret = \"x\"", "\"gw2\" is not host:port"),
    ] {
        let seen = file_error(text);
        assert!(seen.contains(expected), "{text:?} gives {seen:?}");
    }
    assert_eq!(flag_error(&[("shards", "")]), "--shards: `shards`: this must be a whole number, not nothing");
}

#[test]
fn bounds_are_told_with_their_reason() {
    let wrong = flag_error(&[("limits.max_body_bytes", "100")]);
    assert_eq!(
        wrong,
        "--limits-max-body-bytes: `limits.max_body_bytes`: 100 is out of bounds: it must be 16384 to 16777216, because a LOGIN \
         with its token must fit, and a frame is held in memory whole"
    );
    let wrong = flag_error(&[("timeouts.tcp_user_timeout_ms", "10")]);
    assert!(wrong.contains("it must be 1000 to 86400000, or 0 for the kernel's own rule, because"), "{wrong}");
    let wrong = flag_error(&[("timeouts.linger_ms", "63")]);
    let tick = crate::limits::TIMER_TICK_MS;
    assert!(wrong.contains(&format!("it must be {tick} to 86400000, because timers tick every {tick} ms,")), "{wrong}");
    for (key, text) in [("shards", "257"), ("shards", "-1"), ("limits.frames_per_second", "4294967296"), ("shards", "1e9")] {
        assert!(flag_error(&[(key, text)]).contains(key), "{key} = {text}");
    }
    let loaded = load(&flags(&[("dev", "true"), ("shards", "256"), ("limits.bytes_per_second", "1_000_000")]), &environment(&[]));
    let config = loaded.unwrap().config;
    assert_eq!((config.shards, config.limits.bytes_per_second), (256, 1_000_000));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (values, expected) in [
        ([("heartbeat.interval_ms", "5000")].as_slice(), "`heartbeat.interval_min_ms` = 10000 (default) is above"),
        (&[("heartbeat.interval_ms", "130000")], "is above `heartbeat.interval_max_ms` = 120000 (default)"),
        (&[("timeouts.goaway_delay_min_ms", "9000")], "is above `timeouts.goaway_delay_max_ms` = 5000"),
        (&[("limits.outbound_bytes_per_connection", "1000")], "takes at least 65552"),
        (&[("limits.outbound_bytes_per_shard", "1000000")], "takes at least 1048576"),
        (&[("limits.bytes_per_second", "1000")], "takes at least 32776"),
        (&[("listen", "0.0.0.0:7700")], "developer mode lets anybody log in as anybody"),
        (&[("auth.hs256_secret", "s"), ("auth.hs256_secret_file", "f")], "which one counts?"),
    ] {
        let seen = flag_error(values);
        assert!(seen.contains(expected), "{values:?} gives {seen:?}");
    }
    for off in ["limits.outbound_bytes_per_connection", "limits.outbound_bytes_per_shard", "limits.bytes_per_second"] {
        assert!(checked(&flags(&[("dev", "true"), (off, "0")]), &Environment::new()).is_ok(), "{off}");
    }
    assert!(checked(&flags(&[("dev", "true"), ("listen", "[::1]:0")]), &Environment::new()).is_ok());
}

#[test]
fn without_keys_and_without_dev_it_says_what_to_type() {
    let wrong = checked(&Flags::default(), &Environment::new()).unwrap_err().to_string();
    assert!(wrong.contains("weir serve --dev") && wrong.contains("openssl rand -hex 32"), "{wrong}");
}

#[test]
fn device_classes_come_from_table_and_text_alike() {
    let file = load_file("dev = true\n[device_classes]\nphone = \"refuse_newest\"\n\"a tv\" = \"allow_many\"").unwrap();
    let text = [("dev", "true"), ("device_classes", "phone=refuse_newest, a tv=allow_many")];
    let flag = load(&flags(&text), &Environment::new()).unwrap();
    assert_eq!(file.config.device_classes, flag.config.device_classes);
    let classes: Vec<_> = flag.config.device_classes.iter().collect();
    let expected = [("default", Policy::AllowMany), ("a tv", Policy::AllowMany), ("phone", Policy::RefuseNewest)];
    assert_eq!(classes, expected);
    assert!(flag_error(&[("device_classes", "phone")]).contains("phone=keep_newest"));
    let many: Vec<_> = (0..40).map(|number| format!("c{number}=allow_many")).collect();
    assert!(flag_error(&[("device_classes", &many.join(","))]).contains("too many"));
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let text = "dev = true\nnode = \"a \\\"quoted\\\" name\"\nreactor = \"epoll\"\n[auth]\naudience = [\"a\", \"b\"]\n\
                [goaway]\nalternatives = [\"gw2:7700\"]\n[device_classes]\n\"smart tv\" = \"keep_newest\"";
    let first = load_file(text).unwrap();
    let shown = show(&first);
    assert!(shown.contains("dev = true # ") && shown.contains("login_ms = 5000 # default\n"), "{shown}");
    let second = load_file(&shown).unwrap();
    assert_eq!(first.config, second.config);
}

#[test]
fn secrets_are_not_shown() {
    let secret = "this is thirty-two bytes or longer";
    let loaded = load(&flags(&[("auth.hs256_secret", secret)]), &Environment::new()).unwrap();
    assert!(show(&loaded).contains("hs256_secret = \"(redacted)\" # --auth-hs256-secret\n"));
    for text in [show(&loaded), format!("{loaded:?}")] {
        assert!(!text.contains("thirty-two"), "{text}");
    }
    assert!(verifier(&loaded.config.auth).unwrap().is_some());
    let wrong = file_error("[auth]\nhs256_secret = 12345678");
    assert!(!wrong.contains("12345678"), "{wrong}");
}

#[test]
fn key_files_are_read_and_named_when_they_cannot_be() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"0123456789abcdef0123456789abcdef\n").unwrap();
    let auth = Auth { hs256_secret_file: file.path().display().to_string(), ..Auth::default() };
    assert!(verifier(&auth).unwrap().is_some());
    assert!(verifier(&Auth::default()).unwrap().is_none());
    let wrong = verifier(&Auth { eddsa_public_key_file: "/nowhere".into(), ..Auth::default() }).unwrap_err().to_string();
    assert!(wrong.contains("/nowhere") && wrong.contains("auth.eddsa_public_key_file"), "{wrong}");
    let wrong = verifier(&Auth { rs256_public_key_file: auth.hs256_secret_file, ..Auth::default() }).unwrap_err().to_string();
    assert!(wrong.contains("RS256") && wrong.contains("PEM"), "{wrong}");
}
