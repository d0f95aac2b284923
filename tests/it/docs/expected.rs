//! Whether an answer is what the documentation shows.
//!
//! `<id>` and the like stand for something that differs each time. In JSON it is a whole value;
//! a member `"..."` of an object stands for the members that are not shown.

use serde_json::{Deserializer, Value};

/// Text line by line; blanks at line ends do not count.
pub fn same_text(expected: &str, found: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        let lines = text.trim_end().lines();
        lines.map(|line| line.trim_end().to_owned()).collect()
    };
    let (expected, found) = (lines(expected), lines(found));
    let is_same = |(expected, found): (&String, &String)| same_line(expected, found);
    expected.len() == found.len() && expected.iter().zip(&found).all(is_same)
}

fn same_line(expected: &str, mut found: &str) -> bool {
    let mut rest = expected;
    while let Some((before, placeholder, after)) = split_placeholder(rest) {
        let Some(unread) = found.strip_prefix(before) else {
            return false;
        };
        let _ = placeholder;
        rest = after;
        // The placeholder takes all up to what follows it.
        let next = split_placeholder(rest).map_or(rest, |(before, ..)| before);
        let end = if next.is_empty() {
            Some(unread.len())
        } else {
            unread.find(next)
        };
        match end {
            Some(end) if end > 0 => found = &unread[end..],
            _ => return false,
        }
    }
    rest == found
}

/// The first `<word>` of a text, and what is around it.
fn split_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find('<')?;
    let end = start + text[start..].find('>')?;
    let name = &text[start + 1..end];
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == ' ');
    is_name.then(|| (&text[..start], name, &text[end + 1..]))
}

/// One JSON document after the other.
pub fn same_json(expected: &str, found: &str) -> Result<bool, serde_json::Error> {
    let read = |text: &str| -> Result<Vec<Value>, serde_json::Error> {
        Deserializer::from_str(text).into_iter().collect()
    };
    let (expected, found) = (read(expected)?, read(found)?);
    Ok(same_list(&expected, &found))
}

fn same_list(expected: &[Value], found: &[Value]) -> bool {
    let mut pairs = expected.iter().zip(found);
    expected.len() == found.len() && pairs.all(|(expected, found)| same_value(expected, found))
}

fn same_value(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(text), _) if text.starts_with('<') && text.ends_with('>') => {
            !found.is_null()
        }
        (Value::Array(expected), Value::Array(found)) => same_list(expected, found),
        (Value::Object(expected), Value::Object(found)) => {
            let shown = || expected.iter().filter(|(name, _)| *name != "...");
            let is_whole = !expected.contains_key("...");
            let mut members = shown();
            (!is_whole || expected.len() == found.len())
                && members.all(|(name, value)| {
                    found
                        .get(name)
                        .is_some_and(|found| same_value(value, found))
                })
        }
        _ => expected == found,
    }
}

#[test]
fn a_placeholder_stands_for_one_thing() {
    assert!(same_text("run <id> of v\n", "run 17-v of v  \n\n"));
    assert!(same_text("took <ms>", "took 5 ms"));
    assert!(!same_text("run <id> of v", "run  of w"));
    assert!(!same_text("a <id>", "a "));
    assert!(!same_text("a\nb", "a"));
    let same = |expected, found| same_json(expected, found).expect("JSON");
    assert!(same(r#"{"a": "<id>", "...": ""}"#, r#"{"a": 5, "b": 6}"#));
    assert!(!same(r#"{"a": "<id>"}"#, r#"{"a": 5, "b": 6}"#));
    assert!(!same(r#"[{"a": 1}]"#, r#"[{"a": 2}]"#));
    assert!(!same(r#"{"a": "<id>"}"#, r#"{"a": null}"#));
}
