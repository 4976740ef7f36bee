//! Puts the layers on top of each other, and remembers where each value came from.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::schema::{Config, SETTINGS, Setting};
use super::value::Raw;

/// Names the configuration file.
const FILE_VARIABLE: &str = "WEIR_CONFIG";
/// Variables of the client commands.
const OTHER_VARIABLES: [&str; 3] = [FILE_VARIABLE, "WEIR_ADDR", "WEIR_TOKEN"];

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// Pairs of a setting's key and the text behind its flag.
    pub values: Vec<(String, String)>,
}

/// The variables of the process; those that do not start with `WEIR_` are of no interest.
pub type Environment = BTreeMap<String, String>;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    /// Developer mode has a default of its own.
    DeveloperDefault,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::DeveloperDefault => write!(f, "default with dev"),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Variable(name) => write!(f, "{name}"),
            Source::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// The effective configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The source of each setting that is not a default, by its key.
    pub sources: BTreeMap<&'static str, Source>,
}

impl Loaded {
    /// Where the setting with this key came from.
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    fn set(&mut self, setting: &'static Setting, raw: &Raw, source: Source) -> Result<(), ConfigError> {
        (setting.read)(&mut self.config, raw).map_err(|why| ConfigError::new(format!("{source}: `{}`: {why}", setting.key)))?;
        self.sources.insert(setting.key, source);
        Ok(())
    }
}

/// Reads the file that flags or environment name, if any, and puts everything together.
///
/// # Errors
/// The first thing that is unknown or out of bounds. What settings demand of each other, [`super::check`] says.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::default(), sources: BTreeMap::new() };
    loaded.config.node = host_name();
    let named = environment.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = flags.file.clone().or(named) {
        let text = std::fs::read_to_string(&path).map_err(|cause| {
            let path = path.display();
            ConfigError::new(format!("the configuration file {path} cannot be read: {cause}. Check --config and {FILE_VARIABLE}"))
        })?;
        apply_file(&mut loaded, &path, &text)?;
    }
    apply_environment(&mut loaded, environment)?;
    for (key, text) in &flags.values {
        let setting = find(key).ok_or_else(|| ConfigError::new(format!("there is no setting `{key}`{}", suggest_key(key))))?;
        loaded.set(setting, &Raw::Text(text.clone()), Source::Flag(setting.flag.clone()))?;
    }
    if loaded.config.dev && loaded.source("listen") == Source::Default {
        loaded.config.listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        loaded.sources.insert("listen", Source::DeveloperDefault);
    }
    if loaded.config.dev && loaded.source("data") == Source::Default {
        loaded.config.data = "memory".to_owned();
        loaded.sources.insert("data", Source::DeveloperDefault);
    }
    Ok(loaded)
}

fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn host_name() -> String {
    // Not every container mounts /proc; a name is only for people.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "weir".to_owned() } else { name.to_owned() }
}

fn apply_environment(loaded: &mut Loaded, environment: &Environment) -> Result<(), ConfigError> {
    for (name, text) in environment.iter().filter(|(name, _)| name.starts_with("WEIR_")) {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable == *name) {
            loaded.set(setting, &Raw::Text(text.clone()), Source::Variable(name.clone()))?;
            continue;
        }
        if OTHER_VARIABLES.contains(&name.as_str()) || is_injected(name, text) {
            continue;
        }
        let names = SETTINGS.iter().map(|setting| setting.variable.as_str()).chain(OTHER_VARIABLES);
        let hint = match (name.as_str(), text.parse::<u16>()) {
            ("WEIR_PORT", Ok(port)) => format!("did you mean `WEIR_LISTEN=0.0.0.0:{port}`?"),
            ("WEIR_PORT" | "WEIR_HOST", _) => "did you mean `WEIR_LISTEN`, an address and a port?".to_owned(),
            _ => suggestion(name, names).unwrap_or_else(|| "`weir config` lists all settings".to_owned()),
        };
        return Err(ConfigError::new(format!("the environment variable {name} is not known: {hint}, or unset it")));
    }
    Ok(())
}

/// Whether Kubernetes or a Docker link set it, as they do for any service whose name begins with "weir". It is not meant for us:
/// WEIR_SERVICE_HOST, WEIR_SERVICE_PORT, WEIR_PORT=tcp://10.0.0.1:7700, WEIR_PORT_7700_TCP_ADDR, and WEIR_ENV_PATH of a link.
fn is_injected(name: &str, text: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let is_url = PROTOCOLS.iter().any(|protocol| text.starts_with(&format!("{}://", protocol.to_lowercase())));
    let of_port = name.rsplit_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && parts.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
    });
    name.ends_with("_PORT") && is_url
        || of_port
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.starts_with("WEIR_ENV_")
}

fn apply_file(loaded: &mut Loaded, path: &Path, text: &str) -> Result<(), ConfigError> {
    let line_of = |offset: usize| 1 + text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|cause| {
        let line = line_of(cause.span().map_or(0, |span| span.start));
        ConfigError::new(format!("{}:{line}: not valid TOML: {}", path.display(), cause.message()))
    })?;
    apply_table(loaded, "", table.get_ref(), &|offset| Source::File { path: path.to_owned(), line: line_of(offset) })
}

fn apply_table(
    loaded: &mut Loaded,
    prefix: &str,
    table: &DeTable<'_>,
    place: &dyn Fn(usize) -> Source,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        let source = place(name.span().start);
        if let Some(setting) = find(&key) {
            let raw = raw(value.get_ref()).map_err(|why| ConfigError::new(format!("{source}: `{key}`: {why}")))?;
            loaded.set(setting, &raw, source)?;
            continue;
        }
        let nested = format!("{key}.");
        match value.get_ref() {
            DeValue::Table(inner) if SETTINGS.iter().any(|setting| setting.key.starts_with(&nested)) => {
                apply_table(loaded, &nested, inner, place)?;
            }
            DeValue::Table(_) => {
                let tables = SETTINGS.iter().filter_map(|setting| setting.key.split_once('.').map(|(table, _)| table));
                let hint = suggestion(&key, tables.chain(["device_classes"]));
                let hint = hint.unwrap_or_else(|| "`weir config` lists all settings".to_owned());
                return Err(ConfigError::new(format!("{source}: there is no table [{key}]: {hint}")));
            }
            _ => return Err(ConfigError::new(format!("{source}: there is no setting `{key}`{}", suggest_key(&key)))),
        }
    }
    Ok(())
}

/// The TOML value as one of ours.
fn raw(value: &DeValue<'_>) -> Result<Raw, String> {
    let text = |value: &DeValue<'_>| value.as_str().map(str::to_owned).ok_or_else(|| "this must hold strings only".to_owned());
    Ok(match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Boolean(bool) => Raw::Bool(*bool),
        DeValue::Integer(integer) => {
            let number = i128::from_str_radix(integer.as_str(), integer.radix());
            Raw::Number(number.map_err(|_| format!("{} is not a number of at most 127 bits", integer.as_str()))?)
        }
        DeValue::Array(items) => Raw::List(items.iter().map(|item| text(item.get_ref())).collect::<Result<_, _>>()?),
        DeValue::Table(table) => {
            let pair = |(name, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                Ok::<_, String>((name.to_string(), text(value.get_ref())?))
            };
            Raw::Table(table.iter().map(pair).collect::<Result<_, _>>()?)
        }
        DeValue::Float(_) => return Err("no setting is a number with a fraction".to_owned()),
        DeValue::Datetime(_) => return Err("no setting is a date".to_owned()),
    })
}

/// Which key was meant: one spelled alike, or one of the same name in another table.
fn suggest_key(key: &str) -> String {
    let name = key.rsplit('.').next().unwrap_or(key);
    let elsewhere = SETTINGS.iter().find(|setting| setting.key.rsplit('.').next() == Some(name));
    let alike = || suggestion(key, SETTINGS.iter().map(|setting| setting.key));
    let misspelt_elsewhere = || {
        let names = SETTINGS.iter().filter_map(|setting| setting.key.rsplit('.').next());
        suggestion(name, names).and_then(|_| {
            let score = |setting: &&Setting| {
                let last = setting.key.rsplit('.').next().unwrap_or(setting.key);
                (strsim::jaro_winkler(name, last) * 1e6) as u64
            };
            SETTINGS.iter().max_by_key(score).map(|setting| format!("did you mean `{}`?", setting.key))
        })
    };
    let hint = match elsewhere {
        Some(setting) => match setting.key.rsplit_once('.') {
            Some((table, _)) => Some(format!("`{name}` belongs into the table [{table}]")),
            None => Some(format!("`{name}` belongs to the top level, above all tables")),
        },
        None => alike().or_else(misspelt_elsewhere),
    };
    format!(": {}", hint.unwrap_or_else(|| "`weir config` lists all settings".to_owned()))
}

/// The candidate spelled most like `seen`, if one is close enough to have been meant.
fn suggestion<'a>(seen: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let scored = candidates.map(|candidate| (strsim::jaro_winkler(seen, candidate), candidate));
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 > 0.85).then(|| format!("did you mean `{}`?", best.1))
}
