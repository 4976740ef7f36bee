//! A disk that does not keep up: the log says so at once, reads on, and goes on by itself.

use std::time::{Duration, Instant};

use weir::store::{
    Failure, Log as _, PageLimit,
    disk::{Disk, Options},
};

use crate::common::{NOW_MS, RETENTION, all, append, await_ready, folder, message, options, page, seqs};

#[test]
fn while_tables_are_written_nothing_waits_and_reading_goes_on() {
    let folder = folder();
    // Each commit fills a memtable, and the next ones come faster than tables are written.
    let mut log = Disk::open(folder.path(), Options { memtable_bytes: 40_000, ..options(RETENTION) }).unwrap().0;
    let payload = [7; 20_000];
    let (mut sent, mut refused, mut longest) = (0, 0, Duration::ZERO);
    while refused < 5 {
        assert!(sent < 20_000, "it is never behind");
        let mut outcomes = Vec::new();
        let started = Instant::now();
        match log.commit(NOW_MS, &[append("user/a", message(sent + 1, &payload))], &mut outcomes) {
            Ok(()) => {
                sent += 1;
                assert_eq!(seqs(&outcomes), [sent]);
            }
            Err(Failure::Behind) => {
                assert_eq!(outcomes, []);
                let (seen, bounds) = page(&mut log, "user/a", sent, PageLimit { messages: 2, bytes: u32::MAX });
                assert_eq!((seen.len(), bounds.last), (1, sent), "it is there, and nothing else is");
                assert!(log.expire(NOW_MS).is_ok());
                refused += 1;
                longest = longest.max(started.elapsed());
                await_ready(&mut log);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(longest < Duration::from_secs(5), "somebody waited: {longest:?}");
    assert_eq!(all(&mut log, "user/a").len() as u64, sent);
}
