//! What the trait promises, held against every log.

use weir::{
    store::{Bounds, Outcome, PageLimit, Retention, Write},
    wire::PushRef,
};

use crate::common::{NOW_MS, RETENTION, all, append, commit, each, expire, message, page, read_cursor, received, seqs};

#[test]
fn sequences_begin_at_one_and_have_no_gaps() {
    each(RETENTION, |kind, log| {
        let outcomes = commit(
            log,
            NOW_MS,
            &[append("user/a", message(1, b"x")), append("group/a", message(2, b"y")), append("user/a", message(3, b"z"))],
        );
        assert_eq!(seqs(&outcomes), [1, 1, 2], "{kind}");
        assert_eq!(seqs(&commit(log, NOW_MS, &[append("user/a", message(4, b""))])), [3], "{kind}");
        let seen = all(log, "user/a");
        assert_eq!(seen.iter().map(|message| message.seq).collect::<Vec<_>>(), [1, 2, 3], "{kind}");
        assert!(seen.is_sorted_by_key(|message| message.timestamp), "{kind}");
        assert_eq!(seen[1].from, ("alice".to_owned(), "phone".to_owned(), 3), "{kind}");
        assert_eq!(seen[1].payload, b"z", "{kind}");
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 1, last: 3, lost: 0 }), "{kind}");
        assert_eq!(log.bounds("user/b"), Ok(Bounds::NONE), "{kind}");
        assert!(all(log, "user/b").is_empty(), "{kind}");
    });
}

#[test]
fn a_retry_gets_the_first_answer_and_is_stored_once() {
    each(RETENTION, |kind, log| {
        let first = commit(log, NOW_MS, &[append("user/a", message(1, b"x")), append("user/a", message(1, b"x"))]);
        let Outcome::Appended { seq: 1, timestamp, duplicate: false } = first[0] else { panic!("{kind}: {first:?}") };
        let again = Outcome::Appended { seq: 1, timestamp, duplicate: true };
        assert_eq!(first[1], again, "{kind}: in the same commit");
        let later = commit(log, NOW_MS + 5_000, &[append("user/a", message(1, b"x"))]);
        assert_eq!(later, [again], "{kind}");
        assert_eq!(all(log, "user/a").len(), 1, "{kind}");
    });
}

#[test]
fn a_number_used_for_another_message_is_refused() {
    each(RETENTION, |kind, log| {
        let phone = message(1, b"x");
        let first = commit(log, NOW_MS, &[append("user/a", phone), append("user/a", message(1, b"y")), append("user/b", phone)]);
        assert_eq!(first[1..], [Outcome::IdReused, Outcome::IdReused], "{kind}: in the same commit");
        let later = commit(log, NOW_MS, &[append("user/a", message(1, b"y")), append("user/b", phone)]);
        assert_eq!(later, [Outcome::IdReused, Outcome::IdReused], "{kind}");
        // Another sender's numbers are its own.
        let laptop = PushRef { from_device: "laptop", ..phone };
        let bob = PushRef { from_client: "bob", ..phone };
        assert_eq!(seqs(&commit(log, NOW_MS, &[append("user/a", laptop), append("user/a", bob)])), [2, 3], "{kind}");
    });
}

#[test]
fn retries_are_recognized_within_the_window_only() {
    let retention = Retention { dedup_ms: 1_000, dedup_messages: 3, ..RETENTION };
    each(retention, |kind, log| {
        let send = |id| append("user/a", message(id, b"x"));
        assert_eq!(seqs(&commit(log, NOW_MS, &[send(1), send(2), send(3)])), [1, 2, 3], "{kind}");
        assert_eq!(seqs(&commit(log, NOW_MS, &[send(4)])), [4], "{kind}");
        // Of the newest three there is an answer, of the one before there is none.
        assert_eq!(seqs(&commit(log, NOW_MS, &[send(2), send(1)])), [2, 5], "{kind}");
        assert_eq!(seqs(&commit(log, NOW_MS + 1_000, &[send(4)])), [4], "{kind}");
        assert_eq!(seqs(&commit(log, NOW_MS + 1_001, &[send(4)])), [6], "{kind}");
    });
}

#[test]
fn a_retry_is_recognized_though_its_message_is_over() {
    let retention = Retention { age_ms: 1_000, ..RETENTION };
    each(retention, |kind, log| {
        let first = commit(log, NOW_MS, &[append("user/a", message(1, b"x"))]);
        expire(log, NOW_MS + 5_000);
        let again = commit(log, NOW_MS + 5_000, &[append("user/a", message(1, b"x")), append("user/a", message(1, b"y"))]);
        let Outcome::Appended { seq: 1, timestamp, .. } = first[0] else { panic!("{kind}: {first:?}") };
        assert_eq!(again, [Outcome::Appended { seq: 1, timestamp, duplicate: true }, Outcome::IdReused], "{kind}");
    });
}

#[test]
fn pages_are_bounded_but_never_empty_while_there_is_something() {
    each(RETENTION, |kind, log| {
        let writes: Vec<Write<'_>> = (1..=10).map(|id| append("user/a", message(id, &[7; 100]))).collect();
        commit(log, NOW_MS, &writes);
        let mut seqs = |from, messages, bytes| {
            let (seen, bounds) = page(log, "user/a", from, PageLimit { messages, bytes });
            assert_eq!(bounds, Bounds { first: 1, last: 10, lost: 0 }, "{kind}");
            seen.iter().map(|message| message.seq).collect::<Vec<_>>()
        };
        assert_eq!(seqs(0, 3, u32::MAX), [1, 2, 3], "{kind}");
        assert_eq!(seqs(9, 3, u32::MAX), [9, 10], "{kind}");
        assert_eq!(seqs(4, 100, 1), [4], "{kind}");
        assert_eq!(seqs(4, 100, 300), [4, 5], "{kind}");
        assert_eq!(seqs(11, 100, 300), [0; 0], "{kind}");
        assert_eq!(seqs(u64::MAX, 100, 300), [0; 0], "{kind}");
    });
}

#[test]
fn cursors_only_move_forward() {
    each(RETENTION, |kind, log| {
        let (phone, laptop, read) =
            (received("user/a", "a", "phone"), received("user/a", "a", "laptop"), read_cursor("user/a", "a"));
        assert_eq!(log.cursor(phone), Ok(None), "{kind}");
        let outcomes = commit(
            log,
            NOW_MS,
            &[
                Write::Advance { key: phone, to: 5 },
                Write::Advance { key: phone, to: 3 },
                Write::Advance { key: read, to: 2 },
                Write::Advance { key: phone, to: 7 },
            ],
        );
        let at = |at, moved| Outcome::Cursor { at, moved };
        assert_eq!(outcomes, [at(5, true), at(5, false), at(2, true), at(7, true)], "{kind}");
        assert_eq!((log.cursor(phone), log.cursor(read), log.cursor(laptop)), (Ok(Some(7)), Ok(Some(2)), Ok(None)), "{kind}");
        // A message comes after the cursor: the channel is the same.
        assert_eq!(seqs(&commit(log, NOW_MS, &[append("user/a", message(1, b"x"))])), [1], "{kind}");
        let outcomes = commit(
            log,
            NOW_MS,
            &[Write::Advance { key: phone, to: 6 }, Write::Forget { key: phone }, Write::Forget { key: phone }],
        );
        assert_eq!(outcomes, [at(7, false), at(0, true), at(0, false)], "{kind}");
        assert_eq!((log.cursor(phone), log.cursor(read)), (Ok(None), Ok(Some(2))), "{kind}");
        assert_eq!(commit(log, NOW_MS, &[Write::Forget { key: received("user/none", "a", "b") }]), [at(0, false)], "{kind}");
    });
}

#[test]
fn a_channel_keeps_its_newest_messages() {
    let retention = Retention { messages: 3, ..RETENTION };
    each(retention, |kind, log| {
        for id in 1..=10 {
            commit(log, NOW_MS, &[append("user/a", message(id, b"x")), append("user/b", message(100 + id, b"x"))]);
        }
        commit(log, NOW_MS, &[append("user/c", message(1_000, b"x"))]);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 8, last: 10, lost: 0 }), "{kind}");
        assert_eq!(all(log, "user/a").iter().map(|message| message.seq).collect::<Vec<_>>(), [8, 9, 10], "{kind}");
        assert_eq!(
            log.bounds("user/c"),
            Ok(Bounds { first: 1, last: 1, lost: 0 }),
            "{kind}: a noisy channel pushes no other out"
        );
    });
}

#[test]
fn a_channel_keeps_no_more_bytes_than_it_may_but_its_newest_message() {
    let retention = Retention { bytes: 1_600, ..RETENTION };
    each(retention, |kind, log| {
        // Each counts 110 bytes with its names.
        let payload = [1; 100];
        for id in 1..=14 {
            commit(log, NOW_MS, &[append("user/a", message(id, &payload))]);
        }
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 1, last: 14, lost: 0 }), "{kind}: 1,540 bytes");
        commit(log, NOW_MS, &[append("user/a", message(15, &payload))]);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 2, last: 15, lost: 0 }), "{kind}");
        commit(log, NOW_MS, &[append("user/a", message(16, &[2; 5_000]))]);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 16, last: 16, lost: 0 }), "{kind}");
        commit(log, NOW_MS, &[append("user/a", message(17, b""))]);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 17, last: 17, lost: 0 }), "{kind}");
    });
}

#[test]
fn what_is_too_old_goes_and_sequences_go_on() {
    let retention = Retention { age_ms: 10_000, ..RETENTION };
    each(retention, |kind, log| {
        commit(log, NOW_MS, &[append("user/a", message(1, b"x")), append("user/b", message(2, b"x"))]);
        commit(log, NOW_MS + 6_000, &[append("user/a", message(3, b"x"))]);
        expire(log, NOW_MS + 10_000);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 1, last: 2, lost: 0 }), "{kind}: not yet");
        expire(log, NOW_MS + 10_001);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 2, last: 2, lost: 0 }), "{kind}");
        assert_eq!(log.bounds("user/b"), Ok(Bounds { first: 2, last: 1, lost: 0 }), "{kind}");
        assert!(all(log, "user/b").is_empty(), "{kind}");
        expire(log, NOW_MS + 100_000);
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 3, last: 2, lost: 0 }), "{kind}");
        assert_eq!(seqs(&commit(log, NOW_MS + 100_000, &[append("user/a", message(9, b"x"))])), [3], "{kind}");
        assert_eq!(log.bounds("user/a"), Ok(Bounds { first: 3, last: 3, lost: 0 }), "{kind}");
    });
}

#[test]
fn timestamps_grow_though_the_clock_goes_back() {
    each(RETENTION, |kind, log| {
        for (id, wall_ms) in [(1, NOW_MS), (2, NOW_MS - 86_400_000), (3, NOW_MS + 1)] {
            commit(log, wall_ms, &[append("user/a", message(id, b"x"))]);
        }
        let timestamps: Vec<u64> = all(log, "user/a").iter().map(|message| message.timestamp).collect();
        assert!(timestamps.windows(2).all(|pair| pair[0] < pair[1]), "{kind}: {timestamps:?}");
    });
}

#[test]
fn there_are_so_many_channels_and_no_more() {
    let retention = Retention { channels: 2, age_ms: 10_000, ..RETENTION };
    each(retention, |kind, log| {
        let cursor = |channel| Write::Advance { key: received(channel, "a", "phone"), to: 1 };
        commit(log, NOW_MS, &[append("user/a", message(1, b"x")), cursor("group/b")]);
        let outcomes =
            commit(log, NOW_MS, &[append("user/c", message(2, b"x")), cursor("group/c"), append("group/b", message(3, b"x"))]);
        assert_eq!(outcomes[..2], [Outcome::TooManyChannels; 2], "{kind}");
        assert_eq!(seqs(&outcomes[2..]), [1], "{kind}: those that there are take messages");
        assert_eq!(log.bounds("user/c"), Ok(Bounds::NONE), "{kind}");
        assert_eq!(log.cursor(received("group/c", "a", "phone")), Ok(None), "{kind}");
        // One that is empty is still there: its sequences go on.
        expire(log, NOW_MS + 20_000);
        let outcomes = commit(log, NOW_MS + 20_000, &[append("user/c", message(2, b"x")), append("user/a", message(4, b"x"))]);
        assert_eq!(outcomes[0], Outcome::TooManyChannels, "{kind}");
        assert_eq!(seqs(&outcomes[1..]), [2], "{kind}");
    });
}
