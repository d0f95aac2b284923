//! Other engines read the master dataset where it lies, without Lambdalake.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::python::{python, script};
use super::server::Server;

const COLUMNS: &str = "flag BOOLEAN, big BIGINT NOT NULL, real DOUBLE, word TEXT, at TIMESTAMP, \
     marks BIGINT[], words TEXT[], who STRUCT<name TEXT, born TIMESTAMP, scores DOUBLE[]>, \
     legs STRUCT<stop TEXT, km DOUBLE>[], widens BIGINT";

/// One event with every column, its values turning with `n` from extremes to nulls.
fn event(n: i64) -> Value {
    let at = [
        json!("2026-02-28T23:59:59.999999Z"),
        json!("1969-12-31T23:59:59.000001Z"),
        json!("1815-12-10T00:00:00+00:00"),
        Value::Null,
    ];
    let word = [
        json!(""),
        json!("naïve \"quoted\"\n\u{1F30A} 語"),
        json!("\u{0}tab\t"),
        Value::Null,
    ];
    let real = [
        json!(-0.0),
        json!(1.797e308),
        json!(5e-324),
        json!(0.1),
        Value::Null,
    ];
    let who = [
        json!({"name": "Ada", "born": "1815-12-10T00:00:00Z", "scores": [1.5, null]}),
        json!({"name": null, "scores": []}),
        Value::Null,
    ];
    let legs = [
        json!([{"stop": "Ost", "km": 1.25}, null, {"stop": null}]),
        json!([]),
        Value::Null,
    ];
    let pick = |values: &[Value]| values[n as usize % values.len()].clone();
    json!({
        "flag": pick(&[json!(true), json!(false), Value::Null]),
        "big": pick(&[json!(i64::MIN), json!(i64::MAX), json!(n), json!(0)]),
        "real": pick(&real),
        "word": pick(&word),
        "at": pick(&at),
        "marks": pick(&[json!([i64::MAX, null, 1]), json!([]), Value::Null]),
        "words": pick(&[json!(["", "x", null]), Value::Null, json!([])]),
        "who": pick(&who),
        "legs": pick(&legs),
        "widens": pick(&[json!(n), json!(1_i64 << 53), Value::Null]),
    })
}

fn send(server: &Server, events: impl Iterator<Item = Value>) {
    let body: String = events.map(|event| format!("{event}\n")).collect();
    let answer = server.ingest("every", "ndjson", &body);
    assert_eq!(answer["rejected"], 0, "{answer}");
}

/// Flushes three times, with a new column, a new member of a nested one and an integer column
/// that becomes a float one on the way. Leaves nothing in the tail: what is not flushed is not
/// in the master dataset.
fn fill(server: &Server) {
    server.sql(&format!(
        "CREATE TABLE every ({COLUMNS}) WITH (event_time = 'at', shard_key = 'big', shards = 2)"
    ));
    send(server, (0..60).map(event));
    server.sql("FLUSH every");
    send(server, (60..97).map(event));
    server.sql("FLUSH every");
    let grown = (97..120).map(|n| {
        let mut event = event(n);
        event["later"] = json!(n);
        event["widens"] = json!(f64::from(n as i32) + 0.5);
        event["who"] = json!({"name": "Eve", "city": "Köln"});
        event
    });
    send(server, grown);
    server.sql("FLUSH every");
}

/// The stream, once its files from before the widening are written again.
fn rewritten(server: &Server) -> Value {
    for _ in 0..200 {
        let stream = server.get("/api/v1/streams/every").json();
        if stream["files_to_rewrite"] == 0 {
            // Delta follows the publication within a tick of the maintenance.
            server.sql("FLUSH every");
            return stream;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("files are not written again\n{}", server.log());
}

#[test]
fn deltalake_polars_and_duckdb_read_what_sql_answers() {
    let Some(python) = python("deltalake_polars_and_duckdb_read_what_sql_answers") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    fill(&server);
    let stream = rewritten(&server);
    let table = stream["delta_table"].as_str().expect("a Delta table");
    let output = Command::new(python)
        .arg(script("readers.py"))
        .arg(folder.path().join(table))
        .args([&server.address(), "every"])
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    for reader in ["deltalake", "polars scan_delta", "duckdb read_parquet"] {
        assert!(said.contains(&format!("{reader}: 120 rows")), "{said}");
    }
}
