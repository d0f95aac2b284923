use std::collections::HashMap;

use arrow::datatypes::DataType;
use lambdalake_data::input::{Format, parse};
use serde_json::json;

use super::input_support::*;

#[allow(dead_code)]
#[path = "../../../src/generate.rs"]
mod generate;

use generate::AccessLog;

const LINE: &str =
    r#"1.2.3.4 - bob [17/May/2015:12:05:03 +0200] "GET /a b HTTP/1.1" 200 - "" "x \"y\" \\""#;

#[test]
fn a_combined_line_keeps_its_text_and_turns_dashes_into_null() {
    let parsed = parse(LINE.as_bytes(), Format::Combined, &no_columns(), &LIMITS).unwrap();
    let expected = json!({
        "ts": "2015-05-17T10:05:03+00:00", "client_ip": "1.2.3.4", "auth_user": "bob",
        "request": "GET /a b HTTP/1.1", "method": "GET", "path": "/a b", "protocol": "HTTP/1.1",
        "status": 200, "referer": "", "user_agent": r#"x \"y\" \\"#,
    });
    assert_eq!(rows(&parsed), [expected]);
    let names: Vec<_> = types(&parsed).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names.join(" "),
        "ts client_ip ident auth_user request method path protocol status bytes referer user_agent"
    );
}

#[test]
fn requests_that_are_no_request_line_are_kept_whole() {
    for request in [
        "-",
        "",
        "get / HTTP/1.1",
        "GET /",
        "GET HTTP/1.1",
        r"\x16\x03",
        "GET / HTTP/11",
    ] {
        let line = format!("::1 - - [17/May/2015:10:05:03 +0000] \"{request}\" 400 0\r\n");
        let parsed = parse(line.as_bytes(), Format::Common, &no_columns(), &LIMITS).unwrap();
        let row = &rows(&parsed)[0];
        assert_eq!(row["request"], request);
        assert_eq!(
            (row.get("method"), row.get("path")),
            (None, None),
            "{request}"
        );
        assert_eq!(parsed.batch.num_columns(), 10);
    }
}

#[test]
fn a_broken_line_is_rejected_with_what_is_missing() {
    let table = [
        ("1.2.3.4", "ident: missing, the line ends before it"),
        ("1.2.3.4 -  [", "auth_user: missing"),
        ("1.2.3.4 - - x", "ts: opening bracket missing"),
        ("1.2.3.4 - - [x", "ts: closing bracket missing"),
        (
            "1.2.3.4 - - [x]",
            "ts: expected a time such as 17/May/2015:10:05:03 +0000, found \"x\"",
        ),
        (
            &LINE.replace("\"GET", "GET"),
            "request: opening quote missing",
        ),
        (
            &LINE.replace(" 200", "200"),
            "request: a space must follow it",
        ),
        (
            &LINE.replace(" 200 ", " 20 "),
            "status: expected three digits, found \"20\"",
        ),
        (
            &LINE.replace(" - \"", " 1k \""),
            "bytes: expected a number of 64 bits or -, found \"1k\"",
        ),
        (&LINE[..LINE.len() - 1], "user_agent: closing quote missing"),
        (&format!("{LINE} 12"), "user_agent: something follows it"),
    ];
    for (line, message) in table {
        let parsed = parse(line.as_bytes(), Format::Combined, &no_columns(), &LIMITS).unwrap();
        let rejection = &parsed.rejections[0];
        assert_eq!(rejection.message, format!("line 1, field {message}"));
        assert_eq!(rejection.code, "invalid_log_line");
        assert!(!parsed.new_fields);
    }
}

#[test]
fn a_log_goes_into_known_columns_or_says_why_not() {
    let schema = columns(vec![
        ("host", DataType::Utf8),
        ("status", DataType::Float64),
    ]);
    let parsed = parse(LINE.as_bytes(), Format::Combined, &schema, &LIMITS).unwrap();
    assert_eq!(types(&parsed)[1], ("status".into(), DataType::Float64));
    assert_eq!(
        (parsed.batch.num_rows(), parsed.batch.num_columns()),
        (1, 13)
    );
    let schema = columns(vec![("status", DataType::Utf8)]);
    let parsed = parse(LINE.as_bytes(), Format::Combined, &schema, &LIMITS).unwrap();
    assert_eq!(
        parsed.rejections[0].message,
        "line 1, field status: expected string, found integer 200"
    );
}

#[test]
fn a_seed_always_makes_the_same_log() {
    let lines = |seed| {
        AccessLog::new(seed)
            .take(500)
            .map(|e| e.combined())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(7), lines(7));
    assert_ne!(lines(7), lines(8));
}

#[test]
fn a_made_log_is_the_same_in_both_formats() {
    let events: Vec<_> = AccessLog::new(1).take(20_000).collect();
    let lines: Vec<_> = events.iter().map(|event| event.combined()).collect();
    let objects: Vec<_> = events.iter().map(|event| event.ndjson()).collect();
    let from_lines = parse(
        lines.join("\n").as_bytes(),
        Format::Combined,
        &no_columns(),
        &LIMITS,
    )
    .unwrap();
    assert_eq!(rejected(&from_lines), []);
    let schema = from_lines.batch.schema();
    let from_objects = ndjson_into(&objects.join("\n"), &schema);
    assert_eq!(from_objects.batch, from_lines.batch);
    let unasked = ndjson(&objects.join("\n"));
    for field in &fields(&unasked) {
        assert_eq!(
            field.data_type(),
            schema.field_with_name(field.name()).unwrap().data_type()
        );
        assert_eq!(
            unasked.batch.column_by_name(field.name()),
            from_lines.batch.column_by_name(field.name())
        );
    }
    assert_eq!(
        unasked.batch.num_columns(),
        schema.fields.len() - 1,
        "all but ident"
    );
}

#[test]
fn a_made_log_has_what_makes_real_ones_hard() {
    let events: Vec<_> = AccessLog::new(2).take(50_000).collect();
    let lines: Vec<_> = events.iter().map(|event| event.combined()).collect();
    let mut by_client = HashMap::<&str, usize>::new();
    for line in &lines {
        *by_client
            .entry(line.split(' ').next().unwrap())
            .or_default() += 1;
    }
    assert!(by_client.values().any(|count| *count > lines.len() / 5));
    assert!(by_client.len() > 5_000);
    let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    for part in [
        " 304 - ",
        "\"-\" 408 - \"-\" \"-\"",
        "2001:db8:",
        r#"\""#,
        " copy.pdf HTTP",
        " \"\" ",
    ] {
        assert!(count(part) > 10, "{part}");
    }
    let mut newest = 0;
    let mut late = Vec::new();
    for event in &events {
        newest = newest.max(event.epoch_s());
        late.push(newest - event.epoch_s());
    }
    assert!(late.iter().any(|seconds| *seconds > 30));
    assert!(late.iter().all(|seconds| *seconds <= 60));
    assert!(events[0].epoch_s() >= 1_767_225_600);
}
