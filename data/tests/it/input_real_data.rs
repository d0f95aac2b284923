use lambdalake_data::input::{Format, Limits, parse, sniff};
use serde_json::json;

use super::input_support::*;

#[test]
fn the_real_access_log_equals_its_events_and_lacks_line_8899() {
    let (Some(log), Some(events)) = (
        shared("elastic_apache_logs/apache_logs"),
        shared("elastic_apache_logs/events.ndjson.gz"),
    ) else {
        return;
    };
    assert_eq!(sniff(&log, Some("text/plain")), Format::Combined);
    let log = parse(&log, Format::Combined, &no_columns(), &LIMITS).unwrap();
    assert_eq!(
        rejected(&log),
        [(8899, "invalid_log_line", Some("user_agent"))]
    );
    assert_eq!(
        log.rejections[0].message,
        "line 8899, field user_agent: closing quote missing"
    );
    assert_eq!(log.batch.num_rows(), 9_999);

    let events = decompress_gzip(&events, 1 << 24).unwrap();
    assert_eq!(sniff(&events, None), Format::Ndjson);
    let events = parse(&events, Format::Ndjson, &no_columns(), &LIMITS).unwrap();
    assert_eq!(
        (rejected(&events).len(), events.batch.num_rows()),
        (0, 9_999)
    );
    for field in &fields(&log) {
        let in_log = log.batch.column_by_name(field.name()).unwrap();
        match events.batch.column_by_name(field.name()) {
            Some(in_events) => assert_eq!(in_events, in_log, "{}", field.name()),
            None => assert_eq!(in_log.null_count(), 9_999, "{}", field.name()),
        }
    }
    let only_in_events = fields(&events)
        .iter()
        .map(|f| f.name().clone())
        .collect::<Vec<_>>();
    assert_eq!(only_in_events[0], "line_no");
}

#[test]
fn naughty_strings_come_back_unchanged() {
    let Some(strings) = shared("json_torture/naughty_strings/blns.json") else {
        return;
    };
    let strings: Vec<String> = serde_json::from_slice(&strings).unwrap();
    let lines = strings
        .iter()
        .map(|s| json!({"id": 1, "text": s, "list": [s], s: s}).to_string());
    let lines: Vec<_> = lines.collect();
    let parsed = ndjson(&lines.join("\n"));
    assert_eq!(rejected(&parsed), []);
    let back: Vec<_> = rows(&parsed);
    assert_eq!(back.len(), strings.len());
    for (row, string) in back.iter().zip(&strings) {
        assert_eq!(row["text"], string.as_str());
        assert_eq!(row["list"][0], string.as_str());
        assert_eq!(row[string], string.as_str());
    }
}

/// Without what makes no column: null, and objects and lists of nothing else.
fn without_nothing(value: &serde_json::Value) -> Option<serde_json::Value> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::Object(members) => {
            let members = members
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), without_nothing(v)?)));
            let members: serde_json::Map<_, _> = members.collect();
            (!members.is_empty()).then_some(members.into())
        }
        serde_json::Value::Array(values) => {
            let values: Vec<_> = values.iter().filter_map(without_nothing).collect();
            (!values.is_empty()).then_some(values.into())
        }
        serde_json::Value::String(text) => Some(match text.strip_suffix('Z') {
            Some(time) if time.len() >= 19 && time.as_bytes()[10] == b'T' => time.into(),
            _ => text.as_str().into(),
        }),
        other => Some(other.clone()),
    }
}

#[test]
fn github_events_come_back_with_all_their_values() {
    let Some(body) = shared("github_events_2021_pinot/2021-07-21-few-hours.json") else {
        return;
    };
    assert_eq!(sniff(&body, Some("application/json")), Format::Ndjson);
    let parsed = parse(&body, Format::Ndjson, &no_columns(), &LIMITS).unwrap();
    assert_eq!((rejected(&parsed).len(), parsed.batch.num_rows()), (0, 800));
    let text = String::from_utf8(body).unwrap();
    for (line, row) in text.lines().zip(rows(&parsed)) {
        let row: serde_json::Value =
            serde_json::from_str(&row.to_string().replace("+00:00\"", "Z\"")).unwrap();
        let expected: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(without_nothing(&row), without_nothing(&expected));
    }
    let as_json = parse(text.as_bytes(), Format::Json, &no_columns(), &LIMITS).unwrap();
    assert_eq!(as_json.batch, parsed.batch);
    let again = parse(
        text.as_bytes(),
        Format::Ndjson,
        &parsed.batch.schema(),
        &LIMITS,
    )
    .unwrap();
    assert_eq!((again.batch, again.new_fields), (parsed.batch, false));
}

#[test]
fn small_real_payloads_are_taken_whole() {
    let files = [
        ("osquery_sample/beats_osquery_test.log", 2),
        ("otlp_samples/opentelemetry-proto_logs.json", 1),
        ("aws_kinesis_lambda_recordings/snap.json", 1),
    ];
    for (file, count) in files {
        let Some(body) = shared(file) else { continue };
        let format = sniff(&body, None);
        // The recordings are one object with a member for each of very many.
        let limits = Limits {
            max_fields: 10_000,
            ..LIMITS
        };
        let parsed = parse(&body, format, &no_columns(), &limits).unwrap();
        assert_eq!(rejected(&parsed), [], "{file}");
        assert_eq!(parsed.batch.num_rows(), count, "{file}");
    }
}

#[test]
fn a_field_that_is_text_in_one_real_event_and_an_object_in_the_next_rejects_the_later_kind() {
    let Some(body) = shared("jsonbench_bluesky_10/jsonbench-head-10.ndjson") else {
        return;
    };
    let parsed = parse(&body, Format::Ndjson, &no_columns(), &LIMITS).unwrap();
    let subject = Some("commit.record.subject");
    let rows = [3, 6, 7].map(|line| (line, "type_conflict", subject));
    assert_eq!(rejected(&parsed), rows);
    assert_eq!(parsed.batch.num_rows(), 7);
}

#[test]
fn real_events_are_the_same_rows_in_every_format() {
    use arrow::ipc::writer::StreamWriter;
    use parquet::arrow::ArrowWriter;

    for path in [
        "github_events_2021_pinot/2021-07-21-few-hours.json",
        "jsonbench_bluesky_10/jsonbench-head-10.ndjson",
        "osquery_sample/beats_osquery_test.log",
        "otlp_samples/opentelemetry-proto_logs.json",
    ] {
        let Some(body) = shared(path) else {
            return;
        };
        let format = sniff(&body, Some("application/x-www-form-urlencoded"));
        let first = parse(&body, format, &no_columns(), &LIMITS).unwrap();
        assert!(first.batch.num_rows() > 0, "{path}");
        let schema = first.batch.schema();

        let mut arrow = StreamWriter::try_new(Vec::new(), &schema).unwrap();
        arrow.write(&first.batch).unwrap();
        arrow.finish().unwrap();
        let mut parquet = ArrowWriter::try_new(Vec::new(), schema.clone(), None).unwrap();
        parquet.write(&first.batch).unwrap();
        let lines: Vec<String> = rows(&first).iter().map(ToString::to_string).collect();
        let bodies = [
            (Format::Arrow, arrow.into_inner().unwrap()),
            (Format::Parquet, parquet.into_inner().unwrap()),
            (Format::Ndjson, lines.join("\n").into_bytes()),
            (Format::Json, format!("[{}]", lines.join(",")).into_bytes()),
        ];
        for (format, body) in bodies {
            for known in [no_columns(), schema.clone()] {
                let again = parse(&body, format, &known, &LIMITS).unwrap();
                assert_eq!(again.rejected, 0, "{path} as {format}");
                assert!(rows(&again) == rows(&first), "{path} as {format}");
            }
        }
    }
}
