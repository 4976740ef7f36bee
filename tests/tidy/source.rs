//! Rust sources of this repository, as text: with and without comments and literals.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A source file, or for the checks' own tests a text that stands for one.
pub struct Source {
    /// Relative to the repository, with `/`.
    pub path: String,
    pub text: String,
    /// `text` in which comments, strings and characters are blanks; lines and columns are the same.
    pub code: String,
}

/// A rule broken at one place.
#[derive(Debug)]
pub struct Finding(pub String);

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank_out(text) }
    }

    /// A finding at a byte offset.
    pub fn finding(&self, offset: usize, rule: &str, why: &str) -> Finding {
        let line = self.text[..offset].matches('\n').count() + 1;
        Finding(format!("{}:{line}: {rule}\n    because {why}", self.path))
    }

    /// Where `word` stands in the code as a whole word.
    pub fn words<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
        self.code.match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            let last = word.chars().next_back().is_some_and(part_of_word);
            !(before.is_some_and(part_of_word) || last && after.is_some_and(part_of_word))
        })
    }
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below these folders of the repository; a folder that does not exist holds none.
pub fn sources(folders: &[&str]) -> Vec<Source> {
    let mut paths = Vec::new();
    for folder in folders {
        collect(&root().join(folder), &mut paths);
    }
    paths.sort();
    let read = |path: &PathBuf| {
        let relative = path.strip_prefix(root()).expect("found below the root").to_str().expect("names are UTF-8");
        Source::new(relative, &fs::read_to_string(path).expect("a readable file"))
    };
    paths.iter().map(read).collect()
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// Replaces comments and literals by blanks.
fn blank_out(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let blanks = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            // `br"…"` too: its `b` stays, which no rule looks at.
            'r' if !in_word || code.ends_with('b') => raw_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let (taken, blanks) = if blanks == 0 { (first.len_utf8(), false) } else { (blanks, true) };
        for c in rest[..taken].chars() {
            if blanks && c != '\n' {
                code.extend(std::iter::repeat_n(' ', c.len_utf8()));
            } else {
                code.push(c);
            }
        }
        rest = &rest[taken..];
    }
    code
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// The length of `r"…"` or `r#"…"#`; 0 if this `r` starts none.
fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].chars().take_while(|c| *c == '#').count();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = 2 + hashes;
    rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
}

/// The length of a character literal; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

#[test]
fn comments_and_literals_are_blanked_out() {
    let hidden = ["// unsafe", "/* a /* unsafe */ b */", "\"un\\\"safe\"", "r#\"unsafe\"#", "'\\''", "'u'", "\"\u{e9}\""];
    for literal in hidden {
        let text = format!("let x = {literal}\n; y");
        let blanked = text.replacen(literal, &" ".repeat(literal.len()), 1);
        assert_eq!(Source::new("x.rs", &text).code, blanked, "{literal}");
    }
    let code = "fn f<'a>(x: &'a str) -> r { br(x) }";
    assert_eq!(Source::new("x.rs", code).code, code);
    assert_eq!(Source::new("x.rs", "unsafe unsafe_code not_unsafe").words("unsafe").count(), 1);
}
