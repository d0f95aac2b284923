//! `/metrics`: text that Prometheus takes, numbers that move with the traffic.

use std::collections::{BTreeMap, BTreeSet};

use lambdalake::engine::{Engine, Port};
use lambdalake::settings::{Settings, SettingsFlags};
use lambdalake_serving::Engine as _;
use lambdalake_serving::engine::IngestRequest;

use super::health::make_settled;
use super::server::Server;

/// A sample: name, labels in their order, value.
type Sample = (String, Vec<(String, String)>, f64);

fn parse_sample(line: &str) -> Sample {
    let (key, value) = line.rsplit_once(' ').expect(line);
    let value = value.parse().unwrap_or_else(|e| panic!("{e}: {line}"));
    let Some((name, labels)) = key.split_once('{') else {
        return (key.to_owned(), Vec::new(), value);
    };
    let labels = labels.strip_suffix("\"}").expect(line);
    let labels = labels.split("\",").map(|label| {
        let (name, value) = label.split_once("=\"").expect(line);
        (name.to_owned(), value.to_owned())
    });
    (name.to_owned(), labels.collect(), value)
}

fn samples(text: &str) -> Vec<Sample> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(parse_sample).collect()
}

/// The value of the one sample with this name and these labels.
pub fn sample(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut found = samples(text).into_iter().filter(|(other, have, _)| {
        other == name
            && labels
                .iter()
                .all(|(key, value)| have.iter().any(|(k, v)| k == key && v == value))
    });
    let value = found.next().map(|(_, _, value)| value);
    assert!(
        found.next().is_none(),
        "{name} {labels:?} is not one sample"
    );
    value
}

fn is_legal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What `promtool check metrics` looks at.
fn check(text: &str) {
    let mut types: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helps = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with('#')) {
        let mut words = line.splitn(4, ' ').skip(1);
        let (kind, name) = (words.next().expect(line), words.next().expect(line));
        let rest = words.next().expect(line);
        match kind {
            "HELP" => assert!(helps.insert(name), "two HELP lines of {name}"),
            "TYPE" => assert!(
                types.insert(name, rest).is_none(),
                "two TYPE lines of {name}"
            ),
            _ => panic!("{line}"),
        }
    }
    let mut seen = BTreeSet::new();
    for (name, labels, value) in samples(text) {
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| types.get(family) == Some(&"histogram"))
            .unwrap_or(&name);
        let kind = types
            .get(family)
            .unwrap_or_else(|| panic!("no TYPE of {name}"));
        assert!(helps.contains(family), "no HELP of {name}");
        assert!(is_legal(&name) && name.starts_with("lambdalake_"), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
        assert!(
            labels.iter().all(|(label, _)| is_legal(label)),
            "{labels:?}"
        );
        assert!(value.is_finite(), "{name} is {value}");
        assert!(*kind == "gauge" || value >= 0.0, "{name} is {value}");
        let key = format!("{name}{labels:?}");
        assert!(seen.insert(key.clone()), "{key} is there twice");
    }
}

#[test]
fn counters_and_gauges_follow_the_traffic() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    make_settled(&server, "s", "a BIGINT");
    let body = "{\"a\": 1}\nbroken\n{\"a\": 2}\n";
    server.ingest("s", "ndjson", body);
    server.sql("CREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n FROM s GROUP BY a");
    server.sql("SELECT * FROM v");
    server.sql_layer("SELECT * FROM v", "speed");
    assert_eq!(server.try_sql("SELECT nothing FROM v").status, 400);
    assert_eq!(server.get("/no/such/path").status, 404);

    let scrape = || {
        let answer = server.get("/metrics");
        let media = answer.headers["content-type"].to_str().expect("text");
        assert!(media.starts_with("text/plain; version=0.0.4"), "{media}");
        check(&answer.text);
        answer.text
    };
    let text = scrape();
    let stream = [("stream", "s")];
    let view = [("view", "v")];
    let events = "/api/v1/streams/{stream}/events";
    for (name, labels, expected) in [
        ("lambdalake_ingest_rows_total", &stream[..], 2.0),
        (
            "lambdalake_ingest_rejected_rows_total",
            &[("stream", "s"), ("reason", "invalid_json")],
            1.0,
        ),
        ("lambdalake_ingest_bytes_total", &stream, body.len() as f64),
        ("lambdalake_log_group_commits_total", &stream, 1.0),
        ("lambdalake_log_commit_seconds_count", &stream, 1.0),
        ("lambdalake_tail_rows", &stream, 2.0),
        ("lambdalake_stream_lag_events", &stream, 2.0),
        ("lambdalake_view_version", &view, 0.0),
        ("lambdalake_view_lag_events", &view, 2.0),
        (
            "lambdalake_queries_total",
            &[("outcome", "ok"), ("layer", "speed")],
            1.0,
        ),
        (
            "lambdalake_queries_total",
            &[("outcome", "bad_request")],
            1.0,
        ),
        (
            "lambdalake_http_requests_total",
            &[("route", events), ("method", "POST"), ("status", "200")],
            1.0,
        ),
        (
            "lambdalake_http_requests_total",
            &[("route", "unknown"), ("status", "404")],
            1.0,
        ),
        (
            "lambdalake_http_request_duration_seconds_count",
            &[("route", events)],
            1.0,
        ),
        ("lambdalake_worker_up", &[("worker", "maintenance")], 1.0),
        (
            "lambdalake_worker_up",
            &[("worker", "writer"), ("stream", "s")],
            1.0,
        ),
        (
            "lambdalake_memory_pool_limit_bytes",
            &[("pool", "query")],
            536_870_912.0,
        ),
        (
            "lambdalake_build_info",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        ),
        ("lambdalake_queries_running", &[], 0.0),
    ] {
        assert_eq!(
            sample(&text, name, labels),
            Some(expected),
            "{name} {labels:?}"
        );
    }
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "tail_bytes",
    ] {
        let value = sample(&text, &format!("lambdalake_{name}"), &[]);
        assert!(value.is_some_and(|value| value > 0.0), "{name}: {value:?}");
    }

    server.sql("REFRESH MATERIALIZED VIEW v");
    let text = scrape();
    for (name, labels, expected) in [
        ("lambdalake_tail_rows", &stream[..], 0.0),
        ("lambdalake_flushed_rows_total", &stream, 2.0),
        ("lambdalake_flushed_files_total", &stream, 1.0),
        ("lambdalake_flush_duration_seconds_count", &stream, 1.0),
        ("lambdalake_view_version", &view, 1.0),
        ("lambdalake_view_lag_events", &view, 0.0),
        (
            "lambdalake_recomputes_total",
            &[("view", "v"), ("outcome", "succeeded")],
            1.0,
        ),
        ("lambdalake_recompute_rows_total", &view, 2.0),
    ] {
        assert_eq!(
            sample(&text, name, labels),
            Some(expected),
            "{name} {labels:?}"
        );
    }
    server.sql("DROP MATERIALIZED VIEW v");
    let text = scrape();
    assert_eq!(
        sample(&text, "lambdalake_view_version", &view),
        None,
        "a dropped view"
    );
    assert_eq!(
        sample(&text, "lambdalake_recompute_rows_total", &view),
        Some(2.0),
        "what was counted stays"
    );
}

#[test]
fn names_that_clients_make_up_become_no_labels() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--auto-create-streams", "false"]);
    server.post(
        "/api/v1/streams/made_up/events",
        &[("x-request-id", "made_up")],
        b"{\"a\": 1}",
    );
    server.get("/api/v1/streams/made_up");
    server.get("/made_up");
    server.try_sql("SELECT made_up");
    let text = server.get("/metrics").text;
    check(&text);
    assert!(!text.contains("made_up"), "{text}");
}

#[test]
fn engines_in_one_process_count_apart() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let ports = [0, 1].map(|index| {
        let mut settings = Settings::resolve(SettingsFlags::default(), None).expect("settings");
        settings.data_dir = folders[index].path().to_path_buf();
        Port(Engine::open(settings).expect("it opens"))
    });
    let request = IngestRequest {
        stream: "s".to_owned(),
        format: None,
        content_type: None,
        encoding: Default::default(),
        producer: None,
        idempotency_key: None,
        body: Box::pin(futures::stream::iter([Ok("{\"a\": 1}\n".into())])),
        request_id: "one".to_owned(),
    };
    runtime
        .block_on(ports[0].ingest(request))
        .expect("it is taken");
    let rows = |port: &Port| {
        let text = port.metrics_text();
        check(&text);
        sample(&text, "lambdalake_ingest_rows_total", &[("stream", "s")])
    };
    assert_eq!((rows(&ports[0]), rows(&ports[1])), (Some(1.0), None));
    for port in &ports {
        port.0.shut_down();
    }
}
