//! Holds a result object to the table of `schema.md`, or of the page of its scenario.
#![forbid(unsafe_code)]

use serde_json::Value;

const PAGE: &str = include_str!("../../schema.md");
const PAGE_OF_MILLION: &str = include_str!("../../schema-million.md");
const PAGE_OF_SOAK: &str = include_str!("../../schema-soak.md");
const PAGE_OF_BENCH: &str = include_str!("../../schema-bench.md");

/// How a result came about.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    pub(crate) open_loop: bool,
    pub(crate) ramp_rate: bool,
    pub(crate) server_pid: bool,
    pub(crate) durable: bool,
    pub(crate) timeline: bool,
}

/// One line of the table.
struct Row {
    field: Vec<String>,
    kind: String,
    when: String,
}

/// Panics where `object` and the page differ.
pub(crate) fn check(object: &Value, made: Made) {
    let rows = rows(match object["scenario"].as_str() {
        Some("million") => PAGE_OF_MILLION,
        Some("soak") => PAGE_OF_SOAK,
        None if object.get("results").is_some() => PAGE_OF_BENCH,
        _ => PAGE,
    });
    check_known(object, &mut Vec::new(), &rows);
    for row in &rows {
        check_present(object, row, made);
    }
}

fn rows(page: &str) -> Vec<Row> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<Row> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = cells(line);
            assert_eq!(cells.len(), 5, "five columns: {line}");
            assert!(!cells[4].is_empty(), "a meaning: {line}");
            let field = cells[0].trim_matches('`').split('.').map(str::to_owned).collect();
            Row { field, kind: cells[1].clone(), when: cells[3].clone() }
        })
        .collect();
    assert!(rows.len() > 10, "the table was read");
    rows
}

fn fits(row: &Row, path: &[String]) -> bool {
    row.field.len() == path.len() && row.field.iter().zip(path).all(|(ours, theirs)| ours == "*" || ours == theirs)
}

/// Every field is in the table, with the type that it has there.
fn check_known(value: &Value, path: &mut Vec<String>, rows: &[Row]) {
    if !path.is_empty() {
        let row = rows.iter().find(|row| fits(row, path)).unwrap_or_else(|| panic!("{path:?} is not in schema.md"));
        assert!(row.kind.split(" or ").any(|kind| is_a(value, kind)), "{path:?} is {value}, not {}", row.kind);
        // Another page describes it.
        if row.kind.starts_with("result") {
            return;
        }
        if row.kind == "list of objects" {
            return each_known(value.as_array().into_iter().flatten().map(|value| ("*".to_owned(), value)), path, rows);
        }
    }
    each_known(value.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value)), path, rows);
}

fn each_known<'a>(values: impl Iterator<Item = (String, &'a Value)>, path: &mut Vec<String>, rows: &[Row]) {
    for (name, value) in values {
        path.push(name);
        check_known(value, path, rows);
        path.pop();
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "list of strings" => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
        "list" => value.is_array(),
        "list of integers" => value.as_array().is_some_and(|list| list.iter().all(Value::is_u64)),
        "list of objects" => value.as_array().is_some_and(|list| list.iter().all(Value::is_object)),
        "object" | "result" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("schema.md has a type {other:?} that is not known here"),
    }
}

/// What the table says is there is there, and nothing else.
fn check_present(object: &Value, row: &Row, made: Made) {
    let (name, parents) = row.field.split_last().expect("fields have names");
    let scenario = object["scenario"].as_str().unwrap_or_default();
    for parent in parents_of(object, parents) {
        let wanted = match row.when.as_str() {
            "any" => continue,
            "always" | "in it" => true,
            "route" | "fanout" | "offline" | "storm" => row.when == scenario,
            "limit" => scenario.starts_with("limit-"),
            "route, limit-echo, limit-relay, offline, storm, closed loop" => {
                ["route", "limit-echo", "limit-relay", "offline", "storm"].contains(&scenario) && !made.open_loop
            }
            "fanout, limit-fanout, closed loop" => ["fanout", "limit-fanout"].contains(&scenario) && !made.open_loop,
            "open loop" => made.open_loop,
            "ramp rate" => made.ramp_rate,
            "--server-pid" => made.server_pid,
            "durable" => made.durable,
            "--timeline" => made.timeline,
            other => panic!("schema.md says {other:?}, which is not known here"),
        };
        assert_eq!(parent.get(name).is_some(), wanted, "{:?} is there {:?}", row.field, row.when);
    }
}

/// The objects that a field may be in.
fn parents_of<'a>(object: &'a Value, parents: &[String]) -> Vec<&'a Value> {
    let mut found = vec![object];
    for name in parents {
        found = found
            .into_iter()
            .flat_map(|value| match value {
                Value::Object(fields) if name == "*" => fields.values().collect(),
                Value::Array(list) if name == "*" => list.iter().collect(),
                Value::Object(fields) => fields.get(name).into_iter().collect(),
                _ => Vec::new(),
            })
            .collect();
    }
    found.into_iter().filter(|value| value.is_object()).collect()
}
