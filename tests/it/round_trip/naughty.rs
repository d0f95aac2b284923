//! Strings that break programs: the big list of naughty strings, byte for byte.

use arrow::datatypes::DataType;
use serde_json::{Value, json};

use super::answer::bytes;
use super::body::{post, send};
use super::{Cell, Table};
use crate::server::{Server, real_data};

/// Streams by the format and the encoding of what is sent into them.
const WAYS: [(&str, &str, Option<&str>); 6] = [
    ("ndjson_gzip", "ndjson", Some("gzip")),
    ("json_zstd", "json", Some("zstd")),
    ("csv_snappy", "csv", Some("snappy")),
    ("csv_plain", "csv", None),
    ("arrow_gzip", "arrow", Some("gzip")),
    ("parquet_plain", "parquet", None),
];

/// Rows of one INSERT with parameters.
const INSERT_ROWS: usize = 103;

fn naughty_strings(test: &str) -> Option<Vec<String>> {
    let file = real_data(test)?.join("json_torture/naughty_strings/blns.json");
    let text = std::fs::read_to_string(file).expect("the strings");
    let strings: Vec<String> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(strings.len(), 515);
    Some(strings)
}

fn table(strings: &[String]) -> Table {
    let row = |text: &String| vec![Cell::text(text)];
    Table::new(
        vec![("s", DataType::Utf8)],
        strings.iter().map(row).collect(),
    )
}

fn insert(server: &Server, strings: &[String]) {
    let numbered: Vec<_> = (0_i64..).zip(strings).collect();
    for rows in numbered.chunks(INSERT_ROWS) {
        let places: Vec<_> = (0..rows.len())
            .map(|row| format!("(${}, ${})", 2 * row + 1, 2 * row + 2))
            .collect();
        let params: Vec<Value> = rows
            .iter()
            .flat_map(|(id, text)| [json!(id), json!(text)])
            .collect();
        let query = format!("INSERT INTO inserted VALUES {}", places.join(", "));
        let body = json!({"query": query, "params": params}).to_string();
        let headers = [("content-type", "application/json")];
        let answer = server.post("/api/v1/sql?format=json", &headers, body.as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["data"], json!([{"inserted": rows.len()}]));
    }
}

#[test]
fn naughty_strings_come_back_byte_for_byte() {
    let Some(strings) = naughty_strings("naughty_strings_come_back_byte_for_byte") else {
        return;
    };
    let table = table(&strings);
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let check = |server: &Server, stage: &str| {
        for stream in WAYS.map(|way| way.0).iter().chain(&["inserted"]) {
            table.check(server, stream, &format!("{stream}, {stage}"));
        }
    };
    for (stream, format, encoding) in WAYS {
        table.create(&server, stream);
        send(&server, stream, &table, format, encoding);
    }
    table.create(&server, "inserted");
    insert(&server, &strings);
    check(&server, "in the tail");
    server.kill();

    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    check(&server, "replayed from the log");
    for stream in WAYS.map(|way| way.0).iter().chain(&["inserted"]) {
        server.sql(&format!("FLUSH {stream}"));
    }
    check(&server, "flushed");
    server.kill();

    let server = Server::start(folder.path(), &[]);
    check(&server, "flushed, after a kill");
}

#[test]
fn a_drawn_table_shows_each_naughty_string_in_one_line() {
    let test = "a_drawn_table_shows_each_naughty_string_in_one_line";
    let Some(strings) = naughty_strings(test) else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let table = table(&strings);
    table.create(&server, "s");
    send(&server, "s", &table, "ndjson", None);
    let drawn = bytes(&server, "SELECT id, s FROM s ORDER BY id", "table");
    let drawn = String::from_utf8(drawn).expect("UTF-8");
    let hides = |letter: char| letter != '\n' && (letter.is_control() || letter == '\u{202e}');
    assert!(!drawn.contains(hides), "{drawn}");
    let lines: Vec<_> = drawn.lines().collect();
    // A rule, the header, a rule; the rows; a rule and the count.
    assert_eq!(lines.len(), strings.len() + 5);
    assert_eq!(lines[lines.len() - 1], "(515 rows)");
    for (id, line) in lines[3..lines.len() - 2].iter().enumerate() {
        let cell = line.split('|').nth(1).map(str::trim);
        assert_eq!(cell, Some(id.to_string().as_str()), "{line}");
        assert!(line.ends_with('|'), "{line}");
        if strings[id].chars().all(|letter| letter.is_ascii_graphic()) {
            assert!(line.contains(&strings[id]), "{line}");
        }
    }
}

#[test]
fn access_logs_carry_naughty_user_agents() {
    let Some(mut strings) = naughty_strings("access_logs_carry_naughty_user_agents") else {
        return;
    };
    // A dash is null there, and a quote or a line break would end the value.
    strings.retain(|text| {
        let breaks = |letter: char| letter == '"' || letter.is_control();
        !text.contains(breaks) && !text.ends_with('\\') && text != "-"
    });
    assert!(strings.len() > 250, "{}", strings.len());
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let line = |(id, text): (usize, &String)| {
        format!(
            "::1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 {id} \"-\" \"{text}\"\n"
        )
    };
    let body: String = strings.iter().enumerate().map(line).collect();
    let answer = post(&server, "log", "combined", None, body.as_bytes());
    assert_eq!(answer.json()["accepted"], strings.len(), "{}", answer.text);
    server.sql("CREATE TABLE agents (id BIGINT, s TEXT)");
    server.sql("INSERT INTO agents SELECT bytes, user_agent FROM log");
    table(&strings).check(&server, "agents", "combined");
    server.sql("FLUSH log");
    let found = server.rows("SELECT user_agent FROM log ORDER BY bytes");
    let expected = strings.iter().map(|text| json!({"user_agent": text}));
    assert_eq!(found, expected.collect::<Vec<_>>());
}
