//! The rules of this repository that a machine can check. A finding says file, line, rule and why.
#![forbid(unsafe_code)]

mod source;

use std::{collections::BTreeSet, fs};

use source::{Finding, Source, root, sources};

/// The longest file; most are far shorter.
const LINES_MAX: usize = 500;

/// What each top-level module of `src/` may import. The core knows no reactor, no reactor knows the core.
const IMPORTS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("ids", &["limits"]),
    ("stats", &["ids", "limits", "wire"]),
    ("io", &["ids", "limits"]),
    ("wire", &["ids", "limits"]),
    ("session", &["ids", "limits", "stats", "io", "wire"]),
    ("store", &["ids", "limits", "stats", "wire", "mesh"]),
    ("shard", &["ids", "limits", "stats", "io", "wire", "session", "store"]),
    ("mesh", &["ids", "limits", "stats"]),
    ("reactor", &["ids", "limits", "stats", "io", "mesh"]),
    ("control", &["ids", "limits", "stats", "io", "wire", "session", "mesh"]),
    ("host", &["ids", "limits", "stats"]),
    ("config", &["ids", "limits", "wire", "session"]),
    (
        "boot",
        &["ids", "limits", "stats", "io", "wire", "session", "store", "shard", "mesh", "reactor", "control", "host", "config"],
    ),
    ("client", &["ids", "limits", "wire"]),
    ("cli", &["ids", "limits", "stats", "io", "wire", "session", "store", "client", "host", "config", "boot"]),
];
/// What bench-client may use of the library.
const BENCH_IMPORTS: &[&str] = &["ids", "limits", "io", "wire", "session", "mesh", "reactor", "host"];

/// Places where `unsafe` may stand.
const UNSAFE_ALLOWED: &[&str] = &["src/mesh/ring.rs", "src/reactor/", "src/wire/checksum.rs"];
/// Parents of such places, and the crate's root: they deny, because `forbid` could not be lifted below them.
const UNSAFE_DENIED: &[&str] =
    &["src/lib.rs", "tests/loom/src/lib.rs", "src/mesh/mod.rs", "src/reactor/mod.rs", "src/wire/mod.rs"];

/// Files that are pure: time and input go in, output comes out.
const PURE: &[&str] = &[
    "src/ids.rs",
    "src/limits.rs",
    "src/io.rs",
    "src/wire/",
    "src/session/",
    "src/shard/",
    "src/store/batch.rs",
    "src/store/clock.rs",
    "src/store/memory.rs",
    "src/store/peak.rs",
    "src/store/service.rs",
    "src/store/disk/heads.rs",
    "src/store/disk/record.rs",
    "src/store/disk/seen.rs",
];
const IMPURE_WORDS: &[(&str, &str)] = &[
    ("Instant", "time is an argument (`Tick`)"),
    ("SystemTime", "time is an argument"),
    ("TcpStream", "sockets belong to reactors"),
    ("TcpListener", "sockets belong to reactors"),
    ("UdpSocket", "sockets belong to reactors"),
    ("thread", "a shard is one thread and knows no other"),
    ("Mutex", "a shard shares nothing"),
    ("RwLock", "a shard shares nothing"),
    ("Condvar", "the core never waits"),
    ("async", "the core never waits"),
    ("await", "the core never waits"),
    ("tokio", "the core never waits"),
    ("RandomState", "hash keys are an argument, so that a run can be repeated from its seed"),
    ("rand", "randomness is an argument, so that a run can be repeated from its seed"),
    ("getrandom", "randomness is an argument, so that a run can be repeated from its seed"),
];

fn is_within(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path == *place || place.ends_with('/') && path.starts_with(place))
}

fn all_rust() -> Vec<Source> {
    let all = sources(&["src", "tests", "bench-client"]);
    assert!(all.len() > 10, "found only {} files below {}", all.len(), root().display());
    all
}

fn report(findings: Vec<Finding>) {
    let lines: Vec<_> = findings.into_iter().map(|finding| finding.0).collect();
    assert!(lines.is_empty(), "{} findings\n\n{}\n", lines.len(), lines.join("\n"));
}

/// The names that follow `prefix` (`crate::`): one, or those of a brace.
fn imported<'a>(source: &'a Source, prefix: &'a str) -> impl Iterator<Item = (usize, &'a str)> + 'a {
    source.words(prefix).flat_map(move |at| {
        let start = at + prefix.len();
        let rest = &source.code[start..];
        let mut names = Vec::new();
        if !rest.starts_with('{') {
            names.push((at, word(rest)));
            return names;
        }
        let (mut depth, mut expects_name) = (0, false);
        for (offset, c) in rest.char_indices() {
            match c {
                '{' => (depth, expects_name) = (depth + 1, depth == 0),
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' => expects_name = depth == 1,
                c if expects_name && !c.is_whitespace() => {
                    names.push((start + offset, word(&rest[offset..])));
                    expects_name = false;
                }
                _ => {}
            }
        }
        names
    })
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn module_of(path: &str) -> &str {
    let name = path.strip_prefix("src/").expect("a path below src").split('/').next().expect("a first part");
    name.strip_suffix(".rs").unwrap_or(name)
}

fn check_imports(source: &Source) -> Vec<Finding> {
    let module = module_of(&source.path);
    if module == "lib" || module == "main" {
        return Vec::new();
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        let why = "each top-level module states what it may import: add it to IMPORTS in tests/tidy/main.rs";
        return vec![source.finding(0, &format!("module `{module}` is not in the table of imports"), why)];
    };
    let known = |name: &str| IMPORTS.iter().any(|(other, _)| *other == name);
    let through_crate = imported(source, "crate::").chain(imported(source, "weir::"));
    let through_super = imported(source, "super::").filter(|(_, name)| known(name));
    let forbidden = through_crate.chain(through_super).filter(|(_, name)| *name != module && !allowed.contains(name));
    forbidden
        .map(|(at, name)| {
            let why = format!("imports go one way (see src/lib.rs); `{module}` may use: {}", allowed.join(", "));
            source.finding(at, &format!("`{module}` uses `{name}`"), &why)
        })
        .collect()
}

#[test]
fn imports_go_one_way() {
    let mut findings: Vec<_> = sources(&["src"]).iter().flat_map(check_imports).collect();
    for source in sources(&["bench-client/src"]) {
        let forbidden = imported(&source, "weir::").filter(|(_, name)| !BENCH_IMPORTS.contains(name));
        let why = "the load simulator shares the protocol and the reactors with the gateway, and must not share its mistakes";
        findings.extend(forbidden.map(|(at, name)| source.finding(at, &format!("bench-client uses `weir::{name}`"), why)));
    }
    report(findings);
}

fn check_unsafe(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fenced = is_within(&source.path, UNSAFE_ALLOWED);
    for at in source.words("unsafe") {
        if !fenced {
            let why = format!("unsafe code is fenced: only {} may hold it", UNSAFE_ALLOWED.join(", "));
            findings.push(source.finding(at, "`unsafe` outside the fence", &why));
        } else if !has_safety_comment(source, at) {
            let why = "each use names the invariant it rests on, right above it, in a comment `// SAFETY: …` (`# Safety` for an unsafe fn)";
            findings.push(source.finding(at, "`unsafe` without a SAFETY comment", why));
        }
    }
    let denies = is_within(&source.path, UNSAFE_DENIED);
    let wanted = if denies { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    let mut head = source.text.lines().take_while(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with("//") || line.starts_with("#!")
    });
    if (denies || !fenced && needs_own_fence(&source.path)) && !head.any(|line| line == wanted) {
        let why = "the compiler holds the fence, file by file, whoever includes the file";
        findings.push(source.finding(0, &format!("`{wanted}` is missing below the doc comment"), why));
    }
    findings
}

/// Each file of the library, whose root cannot forbid for all, and the roots of all other crates, which do.
fn needs_own_fence(path: &str) -> bool {
    let in_tests = path.strip_prefix("tests/").is_some_and(|rest| !rest.contains('/') || rest.ends_with("/main.rs"));
    path.starts_with("src/") || in_tests || path.contains("/src/bin/") || path.ends_with("/src/main.rs")
}

/// Whether the statement or item that holds the offset has a SAFETY comment above it.
fn has_safety_comment(source: &Source, at: usize) -> bool {
    let line_start = source.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    for line in source.text[..line_start].lines().rev().map(str::trim) {
        if line.starts_with("//") {
            if line.contains("SAFETY:") || line.contains("# Safety") {
                return true;
            }
        } else if line.is_empty() || line.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

#[test]
fn unsafe_stays_inside_its_fence() {
    report(all_rust().iter().flat_map(check_unsafe).collect());
}

fn check_exceptions(source: &Source) -> Vec<Finding> {
    let attributes = ["[allow(", "[expect("].into_iter().flat_map(|attribute| source.code.match_indices(attribute));
    let unexplained = attributes.filter(|(at, _)| {
        let end = source.code[*at..].find(']').map_or(source.code.len(), |length| at + length);
        !source.code[*at..end].contains("reason =")
    });
    let why = "an exception from a lint without its reason cannot be reviewed: add `reason = \"…\"`";
    unexplained.map(|(at, _)| source.finding(at, "a lint exception without a reason", why)).collect()
}

#[test]
fn every_lint_exception_has_a_reason() {
    report(all_rust().iter().flat_map(check_exceptions).collect());
}

fn check_purity(source: &Source) -> Vec<Finding> {
    if !is_within(&source.path, PURE) || source.path.ends_with("/tests.rs") || source.path.contains("/tests/") {
        return Vec::new();
    }
    // Unit tests at the end of a file may do what they need.
    let end = source.code.find("#[cfg(test)]\nmod tests {").unwrap_or(source.code.len());
    let mut findings = Vec::new();
    for (word, why) in IMPURE_WORDS {
        let places = source.words(word).filter(|at| *at < end);
        findings.extend(places.map(|at| source.finding(at, &format!("`{word}` in the pure core"), why)));
    }
    for (at, path) in source.code[..end].match_indices("collections::") {
        let rest = &source.code[at + path.len()..end];
        let names = rest.strip_prefix('{').map_or(word(rest), |list| list.split('}').next().unwrap_or(list));
        if names.split([',', ' ', '\n']).any(|name| matches!(name, "HashMap" | "HashSet")) {
            let why = "it seeds itself; use hashbrown with a hasher whose key is an argument";
            findings.push(source.finding(at, "std's hash table in the pure core", why));
        }
    }
    findings
}

#[test]
fn the_core_is_pure() {
    report(all_rust().iter().flat_map(check_purity).collect());
}

#[test]
fn files_are_short() {
    let long = all_rust().into_iter().filter(|source| source.text.lines().count() > LINES_MAX);
    let why = format!("one file has one responsibility; over {LINES_MAX} lines it has more: split it");
    report(long.map(|source| source.finding(source.text.len(), "the file is too long", &why)).collect());
}

/// Headings of a Markdown page as GitHub links to them.
fn anchors(page: &str) -> BTreeSet<String> {
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    page.lines().filter(|line| line.starts_with('#')).map(|line| slug(line.trim_start_matches('#').trim())).collect()
}

fn check_links(path: &str, page: &str) -> (usize, Vec<Finding>) {
    let source = Source { path: path.to_owned(), text: page.to_owned(), code: String::new() };
    let folder = root().join(path).parent().expect("a file has a folder").to_path_buf();
    let (mut seen, mut findings) = (0, Vec::new());
    for (at, _) in page.match_indices("](") {
        let target = page[at + 2..].split([')', ' ']).next().unwrap_or("");
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        seen += 1;
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let other = (!file.is_empty()).then(|| folder.join(file));
        let problem = match other {
            Some(other) if !other.exists() => Some(format!("there is no {file}")),
            Some(other) if !anchor.is_empty() => {
                let there = fs::read_to_string(&other).is_ok_and(|text| anchors(&text).contains(anchor));
                (!there).then(|| format!("{file} has no heading #{anchor}"))
            }
            None if !anchors(page).contains(anchor) => Some(format!("the page has no heading #{anchor}")),
            Some(_) | None => None,
        };
        findings.extend(problem.map(|problem| source.finding(at, &format!("the link {target} leads nowhere"), &problem)));
    }
    (seen, findings)
}

#[test]
fn local_links_lead_somewhere() {
    let mut findings = Vec::new();
    for path in ["README.md", "proto/frame.md"] {
        let Ok(page) = fs::read_to_string(root().join(path)) else {
            findings.push(Finding(format!("{path}: the page is missing\n    because people start there")));
            continue;
        };
        let (seen, found) = check_links(path, &page);
        assert!(seen > 0, "{path} has no local links: is this test looking at the right thing?");
        findings.extend(found);
    }
    report(findings);
}

/// The checks find what they are for.
#[test]
fn every_rule_can_fail() {
    let count = |check: fn(&Source) -> Vec<Finding>, path: &str, text: &str| check(&Source::new(path, text)).len();
    let fence = "#![forbid(unsafe_code)]\n";

    assert_eq!(count(check_imports, "src/wire/mod.rs", "use crate::{ids::ShardId, io::{Tick, shard}, limits};"), 1);
    assert_eq!(count(check_imports, "src/reactor/uring.rs", "fn f(x: crate::shard::Shard) {}\nuse super::{control, Turn};"), 2);
    assert_eq!(count(check_imports, "src/shard/route.rs", "use crate::{shard::Shard, session::Session, wire};"), 0);
    assert_eq!(count(check_imports, "src/novel.rs", ""), 1);

    assert_eq!(count(check_unsafe, "src/io.rs", &format!("//! Doc.\n{fence}fn f() {{ unsafe {{ g() }} }}")), 1);
    assert_eq!(count(check_unsafe, "src/io.rs", "//! Doc.\nfn f() {}"), 1);
    assert_eq!(count(check_unsafe, "src/mesh/mod.rs", fence), 1);
    assert_eq!(count(check_unsafe, "src/mesh/ring.rs", "fn f() {\n    unsafe { g() }\n}"), 1);
    assert_eq!(count(check_unsafe, "src/mesh/ring.rs", "// SAFETY: of g.\nlet a = 1;\nlet b = unsafe { g() };"), 1);
    assert_eq!(count(check_unsafe, "src/mesh/ring.rs", "// SAFETY: of g.\nlet b =\n    unsafe { g() };"), 0);

    assert_eq!(count(check_exceptions, "src/io.rs", "#[allow(dead_code)]\n#[expect(\n    dead_code\n)]"), 2);
    assert_eq!(count(check_exceptions, "src/io.rs", "#[allow(dead_code, reason = \"x\")]"), 0);

    let impure = "use std::{collections::HashSet, time::Instant};\nuse std::collections::{BTreeMap, HashMap};\nasync fn f() {}";
    assert_eq!(count(check_purity, "src/shard/mod.rs", impure), 4);
    assert_eq!(count(check_purity, "src/shard/mod.rs", "// Instant\n#[cfg(test)]\nmod tests { use std::time::Instant; }"), 0);
    assert_eq!(count(check_purity, "src/reactor/mod.rs", impure), 0);

    assert_eq!(
        check_links("README.md", "[a](Cargo.toml) [b](nowhere.md) [c](#here)\n# Here\n[d](#gone) [e](https://x)").1.len(),
        2
    );
}
