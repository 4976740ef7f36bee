//! Against a directory that looks like /proc.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;

const MAX: &str = "net.core.somaxconn";
const RANGE: &str = "net.ipv4.ip_local_port_range";

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new(settings: &[(&str, &str)]) -> Host {
        let host = Host { folder: tempfile::tempdir().unwrap() };
        for (key, value) in settings {
            fs::create_dir_all(host.path(key).parent().unwrap()).unwrap();
            host.set(key, value);
        }
        host
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("sys").join(key.replace('.', "/"))
    }

    /// As the kernel shows numbers: separated by tabs.
    fn set(&self, key: &str, value: &str) {
        fs::write(self.path(key), format!("{}\n", value.replace(' ', "\t"))).unwrap();
    }

    fn get(&self, key: &str) -> String {
        Kernel::at(self.folder.path()).read(key).unwrap().unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("state/weir/tune.before")
    }

    fn tuner(&self) -> Tuner {
        Tuner::new(Kernel::at(self.folder.path()), Journal::open(&self.journal()).unwrap())
    }

    /// Puts a real setting that nobody may write, not even root, in place of this one. Returns its value.
    fn refuse(&self, key: &str) -> String {
        fs::remove_file(self.path(key)).unwrap();
        symlink("/proc/sys/kernel/ngroups_max", self.path(key)).unwrap();
        self.get(key)
    }
}

fn wanted(key: &str, numbers: &[u64]) -> Wanted {
    Wanted { key: key.into(), numbers: numbers.to_vec() }
}

fn applied(from: &str, to: &str) -> Outcome {
    Outcome::Applied { from: from.into(), to: to.into() }
}

fn keys_of(text: &str) -> Vec<String> {
    parse(text).unwrap().into_iter().map(|wanted| wanted.key).collect()
}

#[test]
fn the_embedded_file_is_valid_and_every_value_is_explained() {
    let keys = keys_of(SETTINGS_FILE);
    assert!(keys.contains(&"fs.nr_open".to_owned()) && keys.contains(&MAX.to_owned()));
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    let mut previous = "";
    for line in SETTINGS_FILE.lines() {
        let plain_comment = line.starts_with('#') && !line.starts_with("#:");
        assert!(!line.contains(" = ") || plain_comment || previous.starts_with('#'), "{line} has no reason above it");
        previous = line;
    }
}

#[test]
fn a_copied_file_sets_nothing_that_depends_on_the_host() {
    let copied: String = SETTINGS_FILE.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let (copied, all) = (keys_of(&copied), keys_of(SETTINGS_FILE));
    assert!(copied.contains(&MAX.to_owned()) && copied.contains(&"fs.nr_open".to_owned()));
    // A share of the memory, what most hosts have more of already, and what may not be there.
    for key in ["net.ipv4.tcp_mem", "fs.file-max", "net.netfilter.nf_conntrack_max"] {
        assert!(all.contains(&key.to_owned()) && !copied.contains(&key.to_owned()), "{key}");
    }
}

#[test]
fn the_longest_listen_queue_is_what_the_file_allows() {
    let somaxconn = parse(SETTINGS_FILE).unwrap().into_iter().find(|wanted| wanted.key == MAX).unwrap().numbers[0];
    assert_eq!(somaxconn, u64::from(crate::limits::LISTEN_BACKLOG_MAX));
}

#[test]
fn the_file_limit_fits_under_the_kernels_ceiling() {
    let ceiling = parse(SETTINGS_FILE).unwrap().into_iter().find(|wanted| wanted.key == "fs.nr_open").unwrap().numbers[0];
    let limits = include_str!("../../sysctl/limits.conf");
    let values: Vec<u64> = limits
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().last().unwrap().parse().unwrap())
        .collect();
    assert_eq!(values.len(), 4);
    assert!(values.iter().all(|value| *value <= ceiling && *value >= 1_000_000));
}

#[test]
fn a_line_that_is_no_setting_is_named() {
    assert_eq!(keys_of("# a\n; b\n\n a.b = 1 2\n#: c.d = 3\n"), ["a.b", "c.d"]);
    for text in ["a.b", "a.b =", "a.b = x", "a.b = -1", "# ok\na.b = 1 x", "#: a.b"] {
        assert!(parse(text).unwrap_err().starts_with("line "), "{text}");
    }
}

#[test]
fn what_is_better_already_stays() {
    let merged = |key, numbers: &[u64], current| wanted(key, numbers).merged(current);
    assert_eq!(merged(MAX, &[16_384], "4096"), Some(vec![16_384]));
    assert_eq!(merged(MAX, &[16_384], "65535"), Some(vec![65_535]));
    assert_eq!(merged("fs.file-max", &[2_097_152], "9223372036854775807"), Some(vec![i64::MAX as u64]));
    assert_eq!(merged("net.ipv4.tcp_fin_timeout", &[15], "60"), Some(vec![15]));
    assert_eq!(merged("net.ipv4.tcp_fin_timeout", &[15], "5"), Some(vec![5]));
    assert_eq!(merged(RANGE, &[10_000, 65_535], "1024 65535"), Some(vec![10_000, 65_535]));
    let buffers = merged("net.ipv4.tcp_rmem", &[4_096, 16_384, 6_291_456], "4096 131072 33554432");
    assert_eq!(buffers, Some(vec![4_096, 16_384, 33_554_432]));
    assert_eq!(merged(MAX, &[1], "1 2"), None);
    assert_eq!(merged(MAX, &[1], "many"), None);
}

#[test]
fn tune_and_undo_leave_nothing_behind() {
    let host = Host::new(&[(MAX, "4096"), (RANGE, "32768 60999"), ("net.ipv4.tcp_fin_timeout", "10")]);
    let list = [wanted(MAX, &[16_384]), wanted(RANGE, &[10_000, 65_535]), wanted("net.ipv4.tcp_fin_timeout", &[15])];
    let mut tuner = host.tuner();
    let outcomes: Vec<_> = list.iter().map(|wanted| tuner.apply(wanted, false).outcome).collect();
    let right = Outcome::AlreadyRight { value: "10".into() };
    assert_eq!(outcomes, [applied("4096", "16384"), applied("32768 60999", "10000 65535"), right]);
    assert_eq!((host.get(MAX), host.get(RANGE)), ("16384".into(), "10000 65535".into()));
    // A second run has nothing to do and does not forget the first one's find.
    assert!(list.iter().all(|wanted| matches!(host.tuner().apply(wanted, false).outcome, Outcome::AlreadyRight { .. })));
    let lines = host.tuner().undo(false);
    assert_eq!(lines.iter().map(|line| line.key.as_str()).collect::<Vec<_>>(), [RANGE, MAX]);
    assert_eq!(lines[0].outcome, applied("10000 65535", "32768 60999"));
    assert_eq!(lines[1].outcome, applied("16384", "4096"));
    assert_eq!((host.get(MAX), host.get(RANGE)), ("4096".into(), "32768 60999".into()));
    assert!(!host.journal().exists());
}

#[test]
fn a_dry_run_touches_nothing() {
    let host = Host::new(&[(MAX, "4096")]);
    let line = host.tuner().apply(&wanted(MAX, &[16_384]), true);
    assert_eq!(line.outcome, Outcome::Planned { from: "4096".into(), to: "16384".into() });
    assert_eq!(host.get(MAX), "4096");
    assert!(!host.journal().exists());
    host.tuner().apply(&wanted(MAX, &[16_384]), false);
    let before = fs::read(host.journal()).unwrap();
    assert_eq!(host.tuner().undo(true)[0].outcome, Outcome::Planned { from: "16384".into(), to: "4096".into() });
    assert_eq!((host.get(MAX).as_str(), fs::read(host.journal()).unwrap()), ("16384", before));
}

#[test]
fn what_this_kernel_does_not_have_is_absent() {
    let host = Host::new(&[]);
    let line = host.tuner().apply(&wanted("net.netfilter.nf_conntrack_max", &[1]), false);
    assert_eq!(line.outcome, Outcome::Absent);
    assert!(line.to_string().contains("not on this kernel"));
    assert!(!host.journal().exists());
}

#[test]
fn a_refused_write_is_reported_and_the_next_setting_still_tried() {
    let host = Host::new(&[(MAX, "4096"), (RANGE, "32768 60999")]);
    let value = host.refuse(MAX);
    let mut tuner = host.tuner();
    let line = tuner.apply(&wanted(MAX, &[1 << 20]), false);
    assert!(matches!(&line.outcome, Outcome::Refused { from, why, .. } if *from == value && why.contains("sudo")), "{line}");
    assert!(!host.journal().exists(), "nothing was changed, so there is nothing to restore");
    assert_eq!(tuner.apply(&wanted(RANGE, &[10_000, 65_535]), false).outcome, applied("32768 60999", "10000 65535"));
    assert_eq!(tuner.journal().entries().len(), 1);
}

#[test]
fn a_setting_that_cannot_be_read_is_refused() {
    let host = Host::new(&[(MAX, "4096")]);
    fs::remove_file(host.path(MAX)).unwrap();
    fs::create_dir(host.path(MAX)).unwrap();
    let line = host.tuner().apply(&wanted(MAX, &[16_384]), false);
    assert!(matches!(line.outcome, Outcome::Refused { .. }), "{line}");
    assert!(!host.journal().exists());
}

#[test]
fn nothing_is_changed_when_it_could_not_be_restored() {
    let host = Host::new(&[(MAX, "4096")]);
    let mut tuner = host.tuner();
    // A folder where the new journal should go stops root too.
    fs::create_dir_all(host.journal().with_extension("new")).unwrap();
    let line = tuner.apply(&wanted(MAX, &[16_384]), false);
    assert!(matches!(&line.outcome, Outcome::Refused { why, .. } if why.contains("nothing was changed")), "{line}");
    assert_eq!(host.get(MAX), "4096");
}

#[test]
fn another_number_of_numbers_is_not_overwritten() {
    let host = Host::new(&[(MAX, "16384 1")]);
    let line = host.tuner().apply(&wanted(MAX, &[16_384]), false);
    assert!(matches!(&line.outcome, Outcome::Refused { why, .. } if why.contains("numbers were expected")), "{line}");
    assert_eq!(host.get(MAX), "16384 1");
}

#[test]
fn an_interrupted_run_can_be_undone() {
    let host = Host::new(&[(MAX, "4096"), (RANGE, "32768 60999")]);
    // Noted, not yet written: the process ended in between.
    let mut journal = Journal::open(&host.journal()).unwrap();
    journal.note(MAX, "4096", "16384").unwrap();
    drop(journal);
    assert_eq!(host.tuner().undo(false)[0].outcome, Outcome::AlreadyRight { value: "4096".into() });
    assert!(!host.journal().exists());
    // Noted and written, and a half-written next journal beside it.
    host.tuner().apply(&wanted(RANGE, &[10_000, 65_535]), false);
    fs::write(host.journal().with_extension("new"), "half a li").unwrap();
    assert_eq!(host.tuner().undo(false)[0].outcome, applied("10000 65535", "32768 60999"));
    assert!(host.tuner().journal().is_empty());
}

#[test]
fn undo_restores_what_the_first_run_found() {
    let host = Host::new(&[(MAX, "4096")]);
    host.tuner().apply(&wanted(MAX, &[16_384]), false);
    host.tuner().apply(&wanted(MAX, &[32_768]), false);
    assert_eq!(Journal::open(&host.journal()).unwrap().entries()[0].before, "4096");
    assert_eq!(host.tuner().undo(false)[0].outcome, applied("32768", "4096"));
}

#[test]
fn another_ones_change_is_not_undone() {
    let host = Host::new(&[(MAX, "4096")]);
    host.tuner().apply(&wanted(MAX, &[16_384]), false);
    host.set(MAX, "65535");
    let line = &host.tuner().undo(false)[0];
    assert!(matches!(line.outcome, Outcome::ChangedSince { .. }), "{line}");
    assert!(line.to_string().contains("sysctl -w net.core.somaxconn='4096'"));
    assert_eq!(host.get(MAX), "65535");
    // What was there before is still known, also when the setting is out of sight for a while.
    fs::remove_file(host.path(MAX)).unwrap();
    assert_eq!(host.tuner().undo(false)[0].outcome, Outcome::Absent);
    host.set(MAX, "16384");
    assert_eq!(host.tuner().undo(false)[0].outcome, applied("16384", "4096"));
}

#[test]
fn what_cannot_be_restored_stays_in_the_journal() {
    let host = Host::new(&[(MAX, "4096")]);
    host.tuner().apply(&wanted(MAX, &[16_384]), false);
    // What we set, in a place that nobody may write.
    let value = host.refuse(MAX);
    let mut journal = Journal::open(&host.journal()).unwrap();
    journal.note(MAX, "4096", &value).unwrap();
    assert!(matches!(host.tuner().undo(false)[0].outcome, Outcome::Refused { .. }));
    assert_eq!(host.tuner().journal().entries()[0].before, "4096");
}

/// A kernel that keeps multiples of 1000 only, as some keep whole pages.
fn thousands(value: &str) -> String {
    let round = |number: &str| (number.parse::<u64>().unwrap() / 1_000 * 1_000).to_string();
    value.split_whitespace().map(round).collect::<Vec<_>>().join(" ")
}

fn rounding_tuner(host: &Host) -> Tuner {
    let mut kernel = Kernel::at(host.folder.path());
    kernel.makes_of = Some(thousands);
    Tuner::new(kernel, Journal::open(&host.journal()).unwrap())
}

#[test]
fn what_the_kernel_rounds_is_restored_all_the_same() {
    let host = Host::new(&[(MAX, "4000")]);
    let line = rounding_tuner(&host).apply(&wanted(MAX, &[16_384]), false);
    let rounded = Outcome::Rounded { from: "4000".into(), to: "16000".into(), asked: "16384".into() };
    assert_eq!(line.outcome, rounded);
    assert!(line.to_string().contains("4000 -> 16000: 16384 was asked for"), "{line}");
    // A second run comes no nearer, and does not make undo forget whose value it is.
    let right = Outcome::AlreadyRight { value: "16000".into() };
    assert_eq!(rounding_tuner(&host).apply(&wanted(MAX, &[16_384]), false).outcome, right);
    assert_eq!(rounding_tuner(&host).undo(false)[0].outcome, applied("16000", "4000"));
    assert_eq!(host.get(MAX), "4000");
    assert!(!host.journal().exists());
}

#[test]
fn a_value_that_the_kernel_does_not_take_back_stays_in_the_journal() {
    let host = Host::new(&[(MAX, "4096")]);
    assert!(matches!(rounding_tuner(&host).apply(&wanted(MAX, &[16_384]), false).outcome, Outcome::Rounded { .. }));
    for _ in 0..2 {
        let line = &rounding_tuner(&host).undo(false)[0];
        assert!(matches!(&line.outcome, Outcome::Refused { why, .. } if why.contains("has \"4000\" now")), "{line}");
    }
    assert_eq!(host.tuner().undo(false)[0].outcome, applied("4000", "4096"));
    assert!(!host.journal().exists());
}

#[test]
fn a_write_without_effect_is_refused_and_not_listed() {
    let host = Host::new(&[(MAX, "4000")]);
    let line = rounding_tuner(&host).apply(&wanted(MAX, &[4_999]), false);
    assert!(matches!(&line.outcome, Outcome::Refused { why, .. } if why.contains("changed nothing")), "{line}");
    assert!(!host.journal().exists());
}

#[test]
fn a_refused_second_run_does_not_make_undo_forget_the_first() {
    let host = Host::new(&[(MAX, "4096")]);
    let value = host.refuse(MAX);
    let mut journal = Journal::open(&host.journal()).unwrap();
    journal.note(MAX, "4096", &value).unwrap();
    assert!(matches!(host.tuner().apply(&wanted(MAX, &[1 << 20]), false).outcome, Outcome::Refused { .. }));
    assert_eq!(host.tuner().journal().entries()[0].after, value);
}

#[test]
fn memory_that_is_not_there_is_not_promised() {
    const MEM: &str = "net.ipv4.tcp_mem";
    let host = Host::new(&[(MEM, "1000 2000 3000")]);
    let six_gib = wanted(MEM, &[786_432, 1_048_576, 1_572_864]);
    fs::write(host.folder.path().join("meminfo"), "MemTotal:        4194304 kB\n").unwrap();
    let line = host.tuner().apply(&six_gib, false);
    assert!(matches!(&line.outcome, Outcome::Unfit { why, .. } if why.contains("4096 MiB")), "{line}");
    fs::write(host.folder.path().join("meminfo"), "MemTotal:       25165824 kB\n").unwrap();
    assert_eq!(host.tuner().apply(&six_gib, false).outcome, applied("1000 2000 3000", "786432 1048576 1572864"));
}

#[test]
fn a_foreign_file_is_no_journal() {
    let host = Host::new(&[]);
    fs::create_dir_all(host.journal().parent().unwrap()).unwrap();
    fs::write(host.journal(), "not ours\n").unwrap();
    assert!(Journal::open(&host.journal()).unwrap_err().to_string().contains("line 1"));
}
