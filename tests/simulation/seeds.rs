//! Seeds that failed once. They run every time.
#![forbid(unsafe_code)]

/// What each found when it was new. A later change of the plan may have made another run of it; it stays all the same.
pub const SEEDS: &[u64] = &[
    1,    // closed at the end of a drain without ERROR GOING_AWAY
    2,    // LEAVE_OK before the JOIN_OK of an earlier JOIN
    3,    // batches that were refused together came back in reverse
    4,    // a gauge that was true before the turn's posts, not after them
    5,    // LOGIN_TIMEOUT at once, on a shard that had slept for longer than one turn of the wheel
    6,    // SEND_OK behind KICKED
    6489, // a client that left did not read all before the deadline, and the model took that for a fault
    9473, // IDLE_TIMEOUT while the probe was still in the queue, behind what the client read slowly
    9489, // a client that read slowly had been ended for it, and the model expected it to be reached
    33,   // TOO_MANY_CONNECTIONS for a client that sent while it moved home
];

/// Those of the world of durable messages.
pub const DURABLE: &[u64] = &[];
