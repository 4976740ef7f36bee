//! LOGIN: who is this, and what may it do?
#![forbid(unsafe_code)]

use super::{
    Names, Refusal, Rules, check_name, check_optional_name,
    token::{Claims, NameRights},
};
use crate::{
    io::Tick,
    limits::WINDOW_MAX,
    wire::{ErrorCode, body},
};

/// What happens when a second device of one class logs in for the same client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Both stay.
    AllowMany,
    /// The newer one stays.
    KeepNewest,
    /// The older one stays.
    RefuseNewest,
}

impl Policy {
    /// Each policy with its name, as configuration and error messages write it.
    pub const NAMES: [(&'static str, Policy); 3] =
        [("allow_many", Policy::AllowMany), ("keep_newest", Policy::KeepNewest), ("refuse_newest", Policy::RefuseNewest)];

    /// The name of this one.
    pub fn name(self) -> &'static str {
        match self {
            Policy::AllowMany => "allow_many",
            Policy::KeepNewest => "keep_newest",
            Policy::RefuseNewest => "refuse_newest",
        }
    }
}

/// A device class by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceClass {
    pub name: String,
    pub policy: Policy,
}

/// The groups that a token lets its bearer join and write to, and the clients that it lets it watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    pub join: NameRights,
    pub write: NameRights,
    pub watch: NameRights,
}

/// What a client takes beyond plain frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Several frames in one.
    pub batches: bool,
    /// Bodies compressed with zstd; it may send such too.
    pub zstd: bool,
}

impl Form {
    /// What LOGIN asks for, as far as this version has it.
    fn asked_for(login: &body::Login) -> Form {
        Form { batches: login.batches, zstd: login.compression() == body::Compression::Zstd }
    }

    /// What LOGIN_OK says of it.
    pub fn compression(self) -> body::Compression {
        if self.zstd { body::Compression::Zstd } else { body::Compression::None }
    }
}

/// Who is behind a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    pub names: Names,
    /// Index into `Rules::device_classes`.
    pub class: u8,
    /// `None`: everything (developer mode).
    pub rights: Option<Box<Rights>>,
    /// How many durable messages may be on their way to the device; 0: it takes no part.
    pub window: u32,
    /// The highest sequence of its own channel that the device says it has.
    pub cursor: Option<u64>,
    pub form: Form,
}

/// Checks a LOGIN.
///
/// # Errors
/// The refusal that ends the connection: a bad name, an unknown class, a token that is missing, not valid, or of somebody else.
pub fn check_login(now: Tick, login: &body::Login, rules: &Rules) -> Result<Identity, Refusal> {
    for (what, name) in [("device_id", &login.device_id), ("device_class", &login.device_class), ("agent", &login.agent)] {
        check_optional_name(name).map_err(|bad| Refusal::closing(ErrorCode::BadName, format!("{what} {bad}")))?;
    }
    let claims = match &rules.verifier {
        None => None,
        Some(verifier) => {
            let verified = verifier.verify(&login.token, rules.wall_ms(now));
            Some(verified.map_err(|refused| Refusal::closing(refused.code(), refused.to_string()))?)
        }
    };
    let client = client_of(login, claims.as_ref())?;
    let class = class_of(login, claims.as_ref(), rules)?;
    let rights = claims.map(|claims| Box::new(Rights { join: claims.join, write: claims.write, watch: claims.watch }));
    Ok(Identity {
        names: Names::new(&client, &login.device_id),
        class,
        rights,
        window: login.window.min(WINDOW_MAX),
        cursor: login.cursor,
        form: Form::asked_for(login),
    })
}

fn client_of(login: &body::Login, claims: Option<&Claims>) -> Result<String, Refusal> {
    let client = match claims {
        Some(claims) if login.client_id.is_empty() => &claims.client_id,
        Some(claims) if login.client_id != claims.client_id => {
            let message = format!("LOGIN says client_id {:?}, its token is for {:?}", login.client_id, claims.client_id);
            return Err(Refusal::closing(ErrorCode::IdentityMismatch, message));
        }
        Some(_) | None => &login.client_id,
    };
    check_name(client).map_err(|bad| Refusal::closing(ErrorCode::BadName, format!("client_id {bad}")))?;
    Ok(client.clone())
}

fn class_of(login: &body::Login, claims: Option<&Claims>, rules: &Rules) -> Result<u8, Refusal> {
    let claimed = claims.and_then(|claims| claims.device_class.as_deref());
    let name = match claimed {
        Some(claimed) if !login.device_class.is_empty() && login.device_class != claimed => {
            let message = format!("LOGIN says device_class {:?}, its token is for {claimed:?}", login.device_class);
            return Err(Refusal::closing(ErrorCode::IdentityMismatch, message));
        }
        Some(claimed) => claimed,
        None => &login.device_class,
    };
    if name.is_empty() {
        return Ok(0);
    }
    let class = rules.device_classes.iter().position(|class| class.name == name).ok_or_else(|| {
        let known: Vec<&str> = rules.device_classes.iter().map(|class| class.name.as_str()).collect();
        let message = format!("device class {name:?} is not configured here; known are: {}", known.join(", "));
        Refusal::closing(ErrorCode::UnknownDeviceClass, message)
    })?;
    Ok(u8::try_from(class).expect("configuration bounds the number of classes"))
}
