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
/// A body has at most this many Protobuf fields: a field of two bytes can cost its receiver an allocation.
pub const BODY_FIELDS_MAX: usize = 256;
/// A PUSH carries the sender's names beside the payload: its body is at most this much longer than that of the SEND.
pub const PUSH_EXTRA_BYTES_MAX: u32 = 256;
/// The default of `limits.max_body_bytes`.
pub const BODY_BYTES_DEFAULT: u32 = 64 * 1024;

const _: () = assert!(LOGIN_BODY_BYTES_MAX <= BODY_BYTES_DEFAULT);
const _: () = assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_CEILING);
// Two names, each with a key and a length of one byte, and some room for fields to come.
const _: () = assert!(2 * (NAME_BYTES_MAX + 2) + 64 <= PUSH_EXTRA_BYTES_MAX as usize);
