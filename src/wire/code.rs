//! Error and close codes, one numbering for ERROR, KICKED and GOAWAY.
#![forbid(unsafe_code)]

/// What a client should do about its connection once a code has closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Connecting again would end the same way: something must be changed first.
    Never,
    /// Get a new token, then connect again.
    WithNewToken,
    /// Connect again after a delay with jitter.
    Later,
    /// Connect again only when the user asks for it; another connection has taken over.
    OnDemand,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal, $retry:ident;)*) => {
        /// A code of `proto/frame.md`. The thousands group them: 1 protocol, 2 identity, 3 load, 4 session, 5 request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $value,)* }

        impl ErrorCode {
            /// All codes in ascending order.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The name in `proto/frame.md`.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// What to do about the connection, if the code closed it.
            pub fn retry(self) -> Retry {
                match self { $(ErrorCode::$name => Retry::$retry,)* }
            }
        }
    };
}

codes! {
    /// The bytes are not a Weir frame.
    BadMagic = 1001, "BAD_MAGIC", Never;
    /// The header names a version that is not spoken here.
    UnsupportedVersion = 1002, "UNSUPPORTED_VERSION", Never;
    /// A critical flag is not known here.
    UnsupportedFlags = 1003, "UNSUPPORTED_FLAGS", Never;
    /// The body is longer than the gateway takes.
    FrameTooLong = 1004, "FRAME_TOO_LONG", Never;
    /// CRC32C does not match.
    BadChecksum = 1005, "BAD_CHECKSUM", Later;
    /// A critical frame type is not known here.
    UnknownType = 1006, "UNKNOWN_TYPE", Never;
    /// The body is not the Protobuf message that its type says.
    BadBody = 1007, "BAD_BODY", Never;
    /// The frame is not allowed in this state: before LOGIN, a second LOGIN, or one that only a gateway sends.
    UnexpectedFrame = 1008, "UNEXPECTED_FRAME", Never;
    /// A name (client, device, class, group) is empty, too long or holds a control character.
    BadName = 1009, "BAD_NAME", Never;
    /// A compressed body cannot be decompressed, or compression was not agreed upon at LOGIN.
    BadCompression = 1010, "BAD_COMPRESSION", Never;
    /// A compressed body is longer than the limit once decompressed.
    DecompressedTooLong = 1011, "DECOMPRESSED_TOO_LONG", Never;
    /// A BATCH holds something other than whole frames, or another BATCH.
    BadBatch = 1012, "BAD_BATCH", Never;

    /// LOGIN carries no token, and this gateway demands one.
    TokenMissing = 2001, "TOKEN_MISSING", WithNewToken;
    /// The token's signature, form or audience is not right.
    TokenInvalid = 2002, "TOKEN_INVALID", WithNewToken;
    /// The token's `exp` lies behind, or its `nbf` ahead.
    TokenExpired = 2003, "TOKEN_EXPIRED", WithNewToken;
    /// LOGIN asks for another client or class than the token names.
    IdentityMismatch = 2004, "IDENTITY_MISMATCH", Never;
    /// The device class is not one that this gateway is configured with.
    UnknownDeviceClass = 2005, "UNKNOWN_DEVICE_CLASS", Never;

    /// The shard or the gateway holds as many connections as it may.
    TooManyConnections = 3001, "TOO_MANY_CONNECTIONS", Later;
    /// The peer's address holds as many connections as it may.
    TooManyFromAddress = 3002, "TOO_MANY_FROM_ADDRESS", Later;
    /// More logins a second than the gateway takes.
    LoginRateExceeded = 3003, "LOGIN_RATE_EXCEEDED", Later;
    /// The connection sent more frames or bytes a second than it may.
    RateExceeded = 3004, "RATE_EXCEEDED", Later;
    /// The connection's unread messages reached their limit, or its writes stood still too long.
    SlowConsumer = 3005, "SLOW_CONSUMER", Later;
    /// There is no room for this now: for more bytes of unfinished frames, or for what SEND or JOIN asks.
    Overloaded = 3006, "OVERLOADED", Later;
    /// The disk has no room for more messages.
    StoreFull = 3007, "STORE_FULL", Later;
    /// The log of messages cannot be written or read now.
    StoreUnavailable = 3008, "STORE_UNAVAILABLE", Later;

    /// No LOGIN came in time.
    LoginTimeout = 4001, "LOGIN_TIMEOUT", Later;
    /// Nothing came for several heartbeat intervals, and a probe went unanswered.
    IdleTimeout = 4002, "IDLE_TIMEOUT", Later;
    /// A newer connection of the same device took over.
    Superseded = 4003, "SUPERSEDED", OnDemand;
    /// A newer device of the same class took over, as the class's policy says.
    ReplacedByDevice = 4004, "REPLACED_BY_DEVICE", OnDemand;
    /// A device of the same class is connected, and the class's policy keeps it.
    DeviceRefused = 4005, "DEVICE_REFUSED", OnDemand;
    /// The gateway stops.
    GoingAway = 4006, "GOING_AWAY", Later;
    /// A frame was begun and not finished in time.
    FrameTimeout = 4007, "FRAME_TIMEOUT", Later;
    /// The client has as many devices connected as it may.
    TooManyDevices = 4008, "TOO_MANY_DEVICES", OnDemand;

    /// SEND names a channel that is neither "user/…" nor "group/…".
    BadChannel = 5001, "BAD_CHANNEL", Never;
    /// The token gives no right to join this group.
    JoinForbidden = 5002, "JOIN_FORBIDDEN", Never;
    /// The token gives no right to write to this group.
    WriteForbidden = 5003, "WRITE_FORBIDDEN", Never;
    /// The connection is in as many groups as it may.
    TooManyGroups = 5004, "TOO_MANY_GROUPS", Never;
    /// The delivery class is not one that this gateway offers.
    UnsupportedClass = 5005, "UNSUPPORTED_CLASS", Never;
    /// RECEIVED or READ names a channel that this device does not follow.
    UnknownChannel = 5006, "UNKNOWN_CHANNEL", Never;
    /// A cursor lies above the channel's newest message.
    CursorAhead = 5007, "CURSOR_AHEAD", Never;
    /// RECEIVED acknowledges a message that was never sent to this device.
    NotSent = 5008, "NOT_SENT", Never;
    /// A `client_msg_id` was used before, for another message.
    MessageIdReused = 5009, "MESSAGE_ID_REUSED", Never;
    /// SYNC asks for no messages, for too many, or from sequence 0.
    BadRange = 5010, "BAD_RANGE", Never;
    /// In GAP: the messages were older, or more, than the channel keeps.
    Expired = 5011, "EXPIRED", Never;
    /// In GAP: the messages were lost with a damaged store.
    Lost = 5012, "LOST", Never;
    /// The token gives no right to read this channel, or to watch this client.
    ReadForbidden = 5013, "READ_FORBIDDEN", Never;
    /// The connection watches as many clients as it may, or the client is watched by as many.
    TooManyWatches = 5014, "TOO_MANY_WATCHES", Never;
    /// A durable SEND has the `client_msg_id` 0.
    MessageIdMissing = 5015, "MESSAGE_ID_MISSING", Never;
    /// STATE says neither FOREGROUND nor BACKGROUND.
    BadState = 5016, "BAD_STATE", Never;
}

impl ErrorCode {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The code with this number, if this version knows it.
    pub fn from_number(number: u32) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| code.number() == number)
    }
}
