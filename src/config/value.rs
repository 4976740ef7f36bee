//! The types that settings have: how each is read from text or TOML, and written back.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use crate::limits::DEVICE_CLASSES_MAX;
use crate::session::{Policy, check_name};

/// A value as it stands at its place.
#[derive(Clone, Debug)]
pub(super) enum Raw {
    /// From a flag or a variable: its type is not known yet. Lists are separated by commas.
    Text(String),
    /// The others come from the file.
    Number(i128),
    Bool(bool),
    String(String),
    List(Vec<String>),
    Table(Vec<(String, String)>),
}

/// What a number may be. For everything else there are no bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub min: u64,
    pub max: u64,
    /// What 0 means, if 0 is allowed although `min` is larger.
    pub zero: Option<&'static str>,
    /// Why.
    pub why: &'static str,
}

impl Bounds {
    /// For types that have none.
    pub(super) const NONE: Bounds = Bounds { min: 0, max: u64::MAX, zero: None, why: "" };
}

/// A type that a setting can have.
pub(super) trait Typed: Sized {
    /// Reads a value.
    ///
    /// # Errors
    /// What is wrong with it, to follow "KEY = VALUE at PLACE: ".
    fn read(raw: &Raw, bounds: &Bounds) -> Result<Self, String>;

    /// As it would stand in a TOML file.
    fn to_toml(&self) -> String;

    /// What the flag's help shows in place of the value.
    const PLACEHOLDER: &'static str;
    /// Never shown.
    const SECRET: bool = false;
    /// The flag may stand alone, and then means true.
    const SWITCH: bool = false;
}

fn expected(what: &str, raw: &Raw) -> String {
    let seen = match raw {
        Raw::Text(text) if text.is_empty() => "nothing".to_owned(),
        Raw::Text(text) => format!("{text:?}"),
        Raw::Number(number) => format!("the number {number}"),
        Raw::Bool(bool) => format!("{bool}"),
        Raw::String(text) => format!("the string {text:?}"),
        Raw::List(_) => "a list".to_owned(),
        Raw::Table(_) => "a table".to_owned(),
    };
    format!("this must be {what}, not {seen}")
}

fn text<'a>(raw: &'a Raw, what: &str) -> Result<&'a str, String> {
    match raw {
        Raw::Text(text) | Raw::String(text) => Ok(text),
        Raw::Number(_) | Raw::Bool(_) | Raw::List(_) | Raw::Table(_) => Err(expected(what, raw)),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn read_number(raw: &Raw, bounds: &Bounds) -> Result<u64, String> {
    const WHAT: &str = "a whole number";
    let number = match raw {
        Raw::Number(number) => *number,
        Raw::Text(text) => text.replace('_', "").parse().map_err(|_| expected(WHAT, raw))?,
        Raw::Bool(_) | Raw::String(_) | Raw::List(_) | Raw::Table(_) => return Err(expected(WHAT, raw)),
    };
    let Bounds { min, max, zero, why } = *bounds;
    if number == 0 && zero.is_some() || (i128::from(min)..=i128::from(max)).contains(&number) {
        return Ok(number as u64);
    }
    let or_zero = zero.map(|meaning| format!(", or 0 for {meaning}")).unwrap_or_default();
    Err(format!("{number} is out of bounds: it must be {min} to {max}{or_zero}, because {why}"))
}

macro_rules! number {
    ($($type:ty),*) => {$(
        impl Typed for $type {
            fn read(raw: &Raw, bounds: &Bounds) -> Result<Self, String> {
                let number = read_number(raw, bounds)?;
                <$type>::try_from(number).map_err(|_| format!("{number} does not fit into {} bits", <$type>::BITS))
            }

            fn to_toml(&self) -> String {
                self.to_string()
            }

            const PLACEHOLDER: &'static str = "NUMBER";
        }
    )*};
}

number!(u16, u32, u64);

impl Typed for bool {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        match raw {
            Raw::Bool(bool) => Ok(*bool),
            Raw::Text(text) if text == "true" || text == "1" => Ok(true),
            Raw::Text(text) if text == "false" || text == "0" => Ok(false),
            Raw::Text(_) | Raw::Number(_) | Raw::String(_) | Raw::List(_) | Raw::Table(_) => Err(expected("true or false", raw)),
        }
    }

    fn to_toml(&self) -> String {
        self.to_string()
    }

    const PLACEHOLDER: &'static str = "true|false";
    const SWITCH: bool = true;
}

impl Typed for String {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        text(raw, "a string").map(str::to_owned)
    }

    fn to_toml(&self) -> String {
        quoted(self)
    }

    const PLACEHOLDER: &'static str = "TEXT";
}

impl Typed for SocketAddr {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        const WHAT: &str = "an address and a port, such as 0.0.0.0:7700 or [::1]:7700";
        text(raw, WHAT)?.parse().map_err(|_| expected(WHAT, raw))
    }

    fn to_toml(&self) -> String {
        quoted(&self.to_string())
    }

    const PLACEHOLDER: &'static str = "ADDR:PORT";
}

impl Typed for Option<SocketAddr> {
    fn read(raw: &Raw, bounds: &Bounds) -> Result<Self, String> {
        if text(raw, "an address and a port, or empty")?.is_empty() { Ok(None) } else { SocketAddr::read(raw, bounds).map(Some) }
    }

    fn to_toml(&self) -> String {
        self.map_or_else(|| quoted(""), |address| address.to_toml())
    }

    const PLACEHOLDER: &'static str = "ADDR:PORT";
}

impl Typed for Vec<String> {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        match raw {
            Raw::List(list) => Ok(list.clone()),
            Raw::Text(text) => Ok(text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()),
            Raw::Number(_) | Raw::Bool(_) | Raw::String(_) | Raw::Table(_) => Err(expected("a list of strings", raw)),
        }
    }

    fn to_toml(&self) -> String {
        format!("[{}]", self.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", "))
    }

    const PLACEHOLDER: &'static str = "A,B,…";
}

/// Text that is never shown. Empty: not set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        !self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "(redacted)" } else { "(not set)" })
    }
}

impl Typed for Secret {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        // The value is not repeated in the message, as it is elsewhere.
        text(raw, "a string").map(|text| Secret(text.to_owned())).map_err(|_| "this must be a string".to_owned())
    }

    fn to_toml(&self) -> String {
        quoted(if self.is_set() { "(redacted)" } else { "" })
    }

    const PLACEHOLDER: &'static str = "SECRET";
    const SECRET: bool = true;
}

/// Which reactor drives the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReactorChoice {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    Uring,
    Epoll,
    /// Only in a build with the feature `glommio`.
    Glommio,
}

impl ReactorChoice {
    const ALL: [(&'static str, ReactorChoice); 4] = [
        ("auto", ReactorChoice::Auto),
        ("uring", ReactorChoice::Uring),
        ("epoll", ReactorChoice::Epoll),
        ("glommio", ReactorChoice::Glommio),
    ];

    /// As written in the configuration.
    pub fn name(self) -> &'static str {
        name_in(&ReactorChoice::ALL, self)
    }
}

impl Typed for ReactorChoice {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        choice(&ReactorChoice::ALL, text(raw, "auto, uring, epoll or glommio")?)
    }

    fn to_toml(&self) -> String {
        quoted(self.name())
    }

    const PLACEHOLDER: &'static str = "auto|uring|epoll|glommio";
}

/// The device classes, each with its policy. There always is one named "default".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClasses(BTreeMap<String, Policy>);

impl DeviceClasses {
    /// The class of a LOGIN that names none.
    pub const DEFAULT: &'static str = "default";

    /// The policy of a class; `None` if there is no such class.
    pub fn policy(&self, class: &str) -> Option<Policy> {
        self.0.get(class).copied()
    }

    /// All of them: "default" first, the others in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Policy)> {
        let all = self.0.iter().map(|(class, policy)| (class.as_str(), *policy));
        let (default, others): (Vec<_>, Vec<_>) = all.partition(|(class, _)| *class == DeviceClasses::DEFAULT);
        default.into_iter().chain(others)
    }

    fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<DeviceClasses, String> {
        let mut classes = BTreeMap::from([(DeviceClasses::DEFAULT.to_owned(), Policy::AllowMany)]);
        for (class, policy) in pairs {
            check_name(class).map_err(|bad| format!("the class {class:?} {bad}"))?;
            let policy = choice(&Policy::NAMES, policy).map_err(|why| format!("class {class}: {why}"))?;
            classes.insert(class.to_owned(), policy);
        }
        if classes.len() > DEVICE_CLASSES_MAX {
            return Err(format!("{} classes are too many: at most {DEVICE_CLASSES_MAX}", classes.len()));
        }
        Ok(DeviceClasses(classes))
    }
}

impl Default for DeviceClasses {
    fn default() -> Self {
        use Policy::{AllowMany, KeepNewest};
        let classes = [
            (DeviceClasses::DEFAULT, AllowMany),
            ("phone", KeepNewest),
            ("tablet", KeepNewest),
            ("desktop", AllowMany),
            ("web", AllowMany),
            ("device", KeepNewest),
        ];
        DeviceClasses(classes.map(|(class, policy)| (class.to_owned(), policy)).into())
    }
}

impl Typed for DeviceClasses {
    fn read(raw: &Raw, _: &Bounds) -> Result<Self, String> {
        const WHAT: &str = "classes with their policies, such as phone=keep_newest,web=allow_many";
        match raw {
            Raw::Table(pairs) => DeviceClasses::from_pairs(pairs.iter().map(|(class, policy)| (class.as_str(), policy.as_str()))),
            Raw::Text(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                let pairs = items.map(|item| item.split_once('=').ok_or_else(|| expected(WHAT, raw)));
                DeviceClasses::from_pairs(pairs.collect::<Result<Vec<_>, _>>()?)
            }
            Raw::Number(_) | Raw::Bool(_) | Raw::String(_) | Raw::List(_) => Err(expected(WHAT, raw)),
        }
    }

    fn to_toml(&self) -> String {
        let class = |(class, policy): (&str, Policy)| format!("{} = {}", quoted(class), quoted(policy.name()));
        format!("{{ {} }}", self.iter().map(class).collect::<Vec<_>>().join(", "))
    }

    const PLACEHOLDER: &'static str = "CLASS=POLICY,…";
}

fn name_in<T: PartialEq>(all: &[(&'static str, T)], value: T) -> &'static str {
    all.iter().find(|(_, one)| *one == value).map(|(name, _)| *name).expect("ALL lists every variant; a test walks over them")
}

fn choice<T: Copy>(all: &[(&'static str, T)], seen: &str) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| *name == seen).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        format!("{seen:?} is not one of {}", names.join(", "))
    })
}
