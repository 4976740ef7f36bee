//! Bugs that are put in on purpose, around the gateway, to see that the checks find them.
#![forbid(unsafe_code)]

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store answers before the disk has synced, and a crash takes back what it answered.
    AnswersBeforeSync,
    /// A retry is stored once more.
    ForgetsRetries,
    /// A batch between two shards is lost now and then.
    LosesBatch,
    /// A batch of the store's replies is lost now and then.
    LosesReplies,
    /// Pages leave out the newest message but one.
    HidesMessage,
    /// An acknowledgement is saved for one message more.
    SavesTooMuch,
    /// The cursors of devices do not survive a restart.
    ForgetsCursors,
    /// A restart begins with timestamps that were given before.
    RepeatsTimestamps,
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::AnswersBeforeSync,
        Fault::ForgetsRetries,
        Fault::LosesBatch,
        Fault::LosesReplies,
        Fault::HidesMessage,
        Fault::SavesTooMuch,
        Fault::ForgetsCursors,
        Fault::RepeatsTimestamps,
    ];
}
