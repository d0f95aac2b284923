//! Real nested events: what is read equals the source, and what was read can be sent again.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::OUTPUTS;
use super::answer::{batches, bytes, cells, names, records};
use super::body::post;
use super::table::columns;
use crate::server::{Server, real_data};

struct Sample {
    stream: &'static str,
    file: &'static str,
    /// A column that says which event it is.
    key: &'static str,
    events: usize,
}

const SAMPLES: [Sample; 3] = [
    Sample {
        stream: "github",
        file: "github_events_2021_pinot/2021-07-21-few-hours.json",
        key: "id",
        events: 800,
    },
    Sample {
        stream: "otlp",
        file: "otlp_samples/opentelemetry-proto_logs.json",
        key: "resourceLogs",
        events: 1,
    },
    Sample {
        stream: "osquery",
        file: "osquery_sample/beats_osquery_test.log",
        key: "unixTime",
        events: 2,
    },
];

const BLUESKY: &str = "jsonbench_bluesky_10/jsonbench-head-10.ndjson";

fn events(data: &Path, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(data.join(file)).expect("the events");
    let event = |line: &str| serde_json::from_str(line).expect("JSON");
    text.lines().map(event).collect()
}

/// Sends a sample as it lies there; all of its events are accepted.
fn send_lines(server: &Server, data: &Path, stream: &str) -> Vec<Value> {
    let mut samples = SAMPLES.iter();
    let sample = samples
        .find(|sample| sample.stream == stream)
        .expect("a sample");
    let events = events(data, sample.file);
    assert_eq!(events.len(), sample.events, "{stream}");
    let lines = std::fs::read(data.join(sample.file)).expect("the events");
    let counts = post(server, stream, "ndjson", None, &lines);
    assert_eq!(counts.json()["accepted"], events.len(), "{}", counts.text);
    events
}

/// The stream's own columns.
fn fields(server: &Server, stream: &str) -> Fields {
    let found = bytes(server, &format!("SELECT * FROM {stream} LIMIT 1"), "arrow");
    let batches = batches(&found, "arrow");
    let own = |field: &&Arc<Field>| {
        !["_shard", "_offset", "_ingested_at", "_producer"].contains(&field.name().as_str())
    };
    let schema = batches[0].schema();
    schema.fields().iter().filter(own).cloned().collect()
}

/// The rows of an answer as JSON values.
fn rows(bytes: &[u8], fields: &Fields, format: &str) -> Vec<Value> {
    let text = || std::str::from_utf8(bytes).expect("UTF-8");
    let parsed = |json: &str| -> Value { serde_json::from_str(json).expect("JSON") };
    let object = |values: Vec<Value>| {
        let names = fields.iter().map(|field| field.name().clone());
        Value::Object(names.zip(values).collect())
    };
    match format {
        "json" => parsed(text())["data"].as_array().expect("rows").clone(),
        "ndjson" => text().lines().map(parsed).collect(),
        "csv" => {
            let value = |(text, field): (Option<String>, &Arc<Field>)| match text {
                None => Value::Null,
                Some(text) => match field.data_type() {
                    DataType::Utf8 | DataType::Timestamp(..) => json!(text),
                    _ => parsed(&text),
                },
            };
            let records = records(text()).into_iter().skip(1);
            let row = |record: Vec<_>| object(record.into_iter().zip(fields).map(value).collect());
            records.map(row).collect()
        }
        _ => {
            let rows = batches(bytes, format);
            let rows = rows.iter().flat_map(cells);
            let types = || fields.iter().map(|field| field.data_type());
            rows.map(|row| {
                let values = row.iter().zip(types());
                object(values.map(|(cell, of)| parsed(&cell.to_json(of))).collect())
            })
            .collect()
        }
    }
}

/// Nothing that could make a column.
fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.iter().all(is_hollow),
        Value::Object(members) => members.values().all(is_hollow),
        _ => false,
    }
}

/// Panics with the way to the first place where an answer is not the source.
fn compare(source: &Value, found: &Value, data_type: &DataType, path: &str) {
    let is_equal = match (source, found, data_type) {
        (Value::Object(source), Value::Object(found), DataType::Struct(fields)) => {
            compare_objects(source, found, fields, path);
            true
        }
        (Value::Array(source), Value::Array(found), DataType::List(item)) => {
            assert_eq!(source.len(), found.len(), "{path}");
            for (index, (source, found)) in source.iter().zip(found).enumerate() {
                compare(source, found, item.data_type(), &format!("{path}[{index}]"));
            }
            true
        }
        (Value::String(source), Value::String(found), DataType::Timestamp(..)) => {
            let time = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
            time(source) == time(found)
        }
        (Value::Number(source), Value::Number(found), DataType::Float64) => {
            source.as_f64() == found.as_f64()
        }
        _ => source == found,
    };
    assert!(is_equal, "{path} ({data_type}): {source} became {found}");
}

type Members = serde_json::Map<String, Value>;

fn compare_objects(source: &Members, found: &Members, fields: &Fields, path: &str) {
    assert_eq!(found.len(), fields.len(), "{path}");
    for (name, value) in source {
        if fields.find(name).is_none() {
            assert!(is_hollow(value), "{path}.{name} is lost: {value}");
        }
    }
    for field in fields {
        let name = field.name();
        let source = source.get(name).unwrap_or(&Value::Null);
        compare(
            source,
            &found[name],
            field.data_type(),
            &format!("{path}.{name}"),
        );
    }
}

/// Reads a stream in all formats, which must give the events.
fn check(server: &Server, stream: &str, key: &str, events: &[Value]) {
    let fields = fields(server, stream);
    let mut events: Vec<&Value> = events.iter().collect();
    events.sort_by_key(|event| event[key].to_string());
    for format in OUTPUTS {
        let sql = format!("SELECT {} FROM {stream}", names(&fields));
        let mut found = rows(&bytes(server, &sql, format), &fields, format);
        found.sort_by_key(|row| row[key].to_string());
        assert_eq!(found.len(), events.len(), "{stream} {format}");
        let row_type = DataType::Struct(fields.clone());
        for (index, (event, found)) in events.iter().zip(&found).enumerate() {
            compare(
                event,
                found,
                &row_type,
                &format!("{stream} {format} {index}"),
            );
        }
    }
}

/// Sends the answer of one stream into another, which must then be equal.
fn send_again(server: &Server, stream: &str, key: &str, format: &str) {
    let fields = fields(server, stream);
    let names = names(&fields);
    let again = format!("{stream}_{format}");
    let answer = bytes(server, &format!("SELECT {names} FROM {stream}"), format);
    if format == "csv" {
        server.sql(&format!("CREATE TABLE {again} ({})", columns(&fields)));
    }
    let counts = post(server, &again, format, None, &answer);
    assert_eq!(counts.json()["rejected"], 0, "{again}: {}", counts.text);
    let all = |stream: &str| format!("SELECT {names} FROM {stream} ORDER BY \"{key}\"");
    let (one, other) = (server.rows(&all(stream)), server.rows(&all(&again)));
    assert_eq!(one.len(), other.len(), "{again}");
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one, other, "{again}");
    }
    let differing = server.value(&format!(
        "SELECT count(*) FROM (SELECT {names} FROM {stream} EXCEPT SELECT {names} FROM {again})"
    ));
    assert_eq!(differing, json!(0), "{again}");
}

#[test]
fn nested_events_come_back_equal() {
    let Some(data) = real_data("nested_events_come_back_equal") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    for Sample { stream, key, .. } in SAMPLES {
        let events = send_lines(&server, &data, stream);
        check(&server, stream, key, &events);
        let array = json!(events).to_string();
        let document = format!("{stream}_json");
        let counts = post(&server, &document, "json", None, array.as_bytes());
        assert_eq!(counts.json()["accepted"], events.len(), "{}", counts.text);
        server.sql(&format!("FLUSH {document}"));
        check(&server, &document, key, &events);
    }
    let counters = server.rows("SELECT columns['inodes'] AS n FROM osquery");
    let text = json!({"n": "9223372036854775807"});
    assert_eq!(counters, [text.clone(), text]);
}

#[test]
fn answers_with_nested_events_can_be_sent_again() {
    let Some(data) = real_data("answers_with_nested_events_can_be_sent_again") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    for Sample { stream, key, .. } in SAMPLES {
        send_lines(&server, &data, stream);
        for format in ["arrow", "parquet", "csv"] {
            send_again(&server, stream, key, format);
        }
    }
}

#[test]
fn events_whose_types_contradict_are_rejected_or_kept_as_they_were() {
    let test = "events_whose_types_contradict_are_rejected_or_kept_as_they_were";
    let Some(data) = real_data(test) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let all = events(&data, BLUESKY);
    // A like has an object as its subject, a follow a string.
    let is_follow = |event: &Value| event["commit"]["collection"] == json!("app.bsky.graph.follow");
    let (follows, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_follow);
    assert_eq!((follows.len(), others.len()), (3, 7));
    let lines = std::fs::read(data.join(BLUESKY)).expect("the events");

    let counts = post(&server, "strict", "ndjson", None, &lines).json();
    let expected = (counts["accepted"].as_u64(), counts["rejected"].as_u64());
    assert_eq!(expected, (Some(7), Some(3)), "{counts}");
    let place = "commit.record.subject";
    for error in counts["errors"].as_array().expect("a list") {
        let found = (&error["code"], &error["field"]);
        assert_eq!(found, (&json!("type_conflict"), &json!(place)), "{error}");
    }
    check(&server, "strict", "time_us", &others);
    for format in ["arrow", "parquet", "csv"] {
        send_again(&server, "strict", "time_us", format);
    }

    let body = json!(all).to_string();
    for (stream, format, body) in [
        ("lines", "ndjson", &lines[..]),
        ("document", "json", body.as_bytes()),
    ] {
        server.sql(&format!(
            "CREATE TABLE {stream} (time_us BIGINT) WITH (on_conflict = 'rest')"
        ));
        let counts = post(&server, stream, format, None, body).json();
        assert_eq!(counts["accepted"], json!(10), "{counts}");
        let kept = server.rows(&format!(
            "SELECT _rest, time_us, did, commit FROM {stream} WHERE _rest IS NOT NULL ORDER BY time_us"
        ));
        assert_eq!(kept.len(), follows.len());
        for (kept, event) in kept.iter().zip(&follows) {
            let rest: Value =
                serde_json::from_str(kept["_rest"].as_str().expect("text")).expect("JSON");
            assert_eq!(rest, *event);
            assert_eq!(
                (&kept["time_us"], &kept["did"]),
                (&event["time_us"], &event["did"])
            );
            assert_eq!(kept["commit"], Value::Null);
        }
        assert_eq!(
            server.value(&format!(
                "SELECT count(*) FROM {stream} WHERE _rest IS NULL"
            )),
            json!(7)
        );
    }
}
