//! Every bound of the gateway: fixed ones as constants, configurable ones with their defaults.
#![forbid(unsafe_code)]

/// A `client_id`, `device_id`, device class, group name or `agent` is at most this long, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// "group/" or "user/" and a name.
pub const CHANNEL_BYTES_MAX: usize = NAME_BYTES_MAX + 6;
/// A LOGIN body: its names and a token.
pub const LOGIN_BODY_BYTES_MAX: u32 = 16 * 1024;
/// The largest body that configuration may allow. One frame must fit many times into a connection's outbound budget.
pub const BODY_BYTES_CEILING: u32 = 16 * 1024 * 1024;
/// The default of `limits.max_body_bytes`.
pub const BODY_BYTES_DEFAULT: u32 = 64 * 1024;

const _: () = assert!(LOGIN_BODY_BYTES_MAX <= BODY_BYTES_DEFAULT);
const _: () = assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_CEILING);
