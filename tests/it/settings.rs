//! Every setting changes something that can be seen from outside.
//!
//! For a new setting, add a function that starts a server with a value other than the default
//! and asserts the difference, and name it in `CASES`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use lambdalake::settings::SETTINGS;
use serde_json::{Value, json};

use super::health::make_settled;
use super::metrics::sample;
use super::schema_change::wait_until;
use super::server::{Answer, Server};
use super::verify::{newest_publication, write_publication};

/// Servers that run at the same time.
const AT_ONCE: usize = 6;

const CASES: &[(&str, fn())] = &[
    ("data_dir", data_dir),
    ("listen", listen),
    ("init", init),
    ("auto_create_streams", auto_create_streams),
    ("default_shards", default_shards),
    ("flush_bytes", flush_bytes),
    ("flush_rows", flush_rows),
    ("flush_age", flush_age),
    ("merge_files", merge_files),
    ("log_segment_bytes", log_segment_bytes),
    ("max_body_bytes", max_body_bytes),
    ("ingest_block_bytes", ingest_block_bytes),
    ("max_line_bytes", max_line_bytes),
    ("ingest_queue_requests", ingest_queue_requests),
    ("group_commit_requests", group_commit_requests),
    ("idempotency_window", idempotency_window),
    ("idempotency_keys", idempotency_keys),
    ("query_memory_bytes", query_memory_bytes),
    ("batch_memory_bytes", batch_memory_bytes),
    ("recompute_concurrency", recompute_concurrency),
    ("recompute_shared_views", recompute_shared_views),
    ("batch_states_bytes", batch_states_bytes),
    ("recompute_time_zone", recompute_time_zone),
    ("recompute_jitter", recompute_jitter),
    ("recompute_catch_up", recompute_catch_up),
    ("recompute_runs_kept", recompute_runs_kept),
    ("speed_memory_bytes", speed_memory_bytes),
    ("query_timeout", query_timeout),
    ("max_result_rows", max_result_rows),
    ("max_concurrent_queries", max_concurrent_queries),
    ("tail_limit_bytes", tail_limit_bytes),
    ("view_state_budget_bytes", view_state_budget_bytes),
    ("slow_query", slow_query),
    ("log_format", log_format),
    ("log_level", log_level),
];

#[test]
fn every_setting_has_a_case() {
    let cases: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    for setting in SETTINGS {
        let found = cases.iter().filter(|name| **name == setting.name).count();
        assert_eq!(
            found, 1,
            "cases of `{}` in tests/it/settings.rs",
            setting.name
        );
    }
    assert_eq!(cases.len(), SETTINGS.len(), "a case of no setting");
}

#[test]
fn every_setting_changes_what_the_server_does() {
    let waiting: Mutex<VecDeque<_>> = Mutex::new(CASES.iter().collect());
    let failed: Mutex<Vec<&str>> = Mutex::default();
    let next = || waiting.lock().expect("cases").pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, case)) = next() {
                    // The panic itself is in the output of the test.
                    if std::panic::catch_unwind(case).is_err() {
                        failed.lock().expect("names").push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("names");
    assert!(failed.is_empty(), "no effect seen of {failed:?}");
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("settings.toml");
    let text = "default_shards = 2\nmax_result_rows = 2\nmax_concurrent_queries = 2\n";
    std::fs::write(&file, text).expect("written");
    let data = folder.path().join("data");
    let flags = [
        "--config",
        file.to_str().expect("a path"),
        "--data-dir",
        data.to_str().expect("a path"),
        "--listen",
        "127.0.0.1:0",
        "--default-shards",
        "4",
    ];
    let variables = [
        ("LAMBDALAKE_DEFAULT_SHARDS", "3"),
        ("LAMBDALAKE_MAX_RESULT_ROWS", "3"),
        ("LAMBDALAKE_MAX_RESULT_ROW", "9"),
    ];
    let server = Server::launch(&flags, &variables).expect("it starts");
    assert_eq!(shards(&server), 4, "the flag");
    server.ingest("s", "ndjson", &rows(4));
    let three = server.try_sql("SELECT n FROM s LIMIT 3");
    assert_eq!(three.status, 200, "the variable: {}", three.text);
    refused(&server.try_sql("SELECT n FROM s"), 422, "row_limit");
    let hint = "did you mean `LAMBDALAKE_MAX_RESULT_ROWS`?";
    assert!(server.log().contains(hint), "{}", server.log());

    std::fs::write(&file, "max_result_row = 2\n").expect("written");
    let said = Server::launch(&flags, &[]).err().expect("it is refused");
    assert!(said.contains("did you mean `max_result_rows`?"), "{said}");
}

/// A server of one case, on a folder that goes with it.
struct Run {
    server: Server,
    folder: tempfile::TempDir,
}

fn run(flags: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), flags);
    Run { server, folder }
}

fn rows(count: usize) -> String {
    (0..count).map(|n| format!("{{\"n\": {n}}}\n")).collect()
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.json()["error"]["code"], code, "{}", answer.text);
}

/// Asks until it is so; some settings act in the background.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..400 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("never seen: {what}");
}

fn files(server: &Server, stream: &str) -> Value {
    server.get(&format!("/api/v1/streams/{stream}")).json()["files"].clone()
}

fn shards(server: &Server) -> Value {
    server.sql("CREATE TABLE sharded (k TEXT) WITH (shard_key = 'k')");
    server.get("/api/v1/streams/sharded").json()["shards"].clone()
}

/// Sends these bodies from as many clients at once; every status there was.
fn send_at_once(server: &Server, clients: usize, body: &str) -> Vec<u16> {
    let path = "/api/v1/streams/s/events?format=ndjson";
    let send = || server.post(path, &[], body.as_bytes()).status;
    std::thread::scope(|scope| {
        let sent: Vec<_> = (0..clients).map(|_| scope.spawn(send)).collect();
        let joined = sent
            .into_iter()
            .map(|client| client.join().expect("it ends"));
        joined.collect()
    })
}

/// A query that takes far longer than any test waits.
const ENDLESS: &str = "SELECT sum(sqrt(CAST(a.n * b.n * c.n AS DOUBLE))) AS x \
                       FROM s a CROSS JOIN s b CROSS JOIN s c";

fn data_dir() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("elsewhere");
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().expect("a path"),
    ];
    let _server = Server::launch(&flags, &[]).expect("it starts");
    assert!(data.join("lock").exists());
}

fn listen() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("its address").to_string();
    drop(free);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("a path");
    let server =
        Server::launch(&["--data-dir", data, "--listen", &address], &[]).expect("it starts");
    assert_eq!(server.address(), format!("http://{address}"));
}

fn init() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("init.sql");
    std::fs::write(&script, "CREATE TABLE made (a BIGINT)").expect("written");
    let run = run(&["--init", script.to_str().expect("a path")]);
    assert_eq!(run.server.value("SELECT count(*) FROM made"), 0);
}

fn auto_create_streams() {
    let run = run(&["--auto-create-streams", "false"]);
    let answer = run
        .server
        .post("/api/v1/streams/s/events", &[], b"{\"n\": 1}");
    refused(&answer, 404, "unknown_stream");
}

fn default_shards() {
    assert_eq!(shards(&run(&["--default-shards", "3"]).server), 3);
}

fn flushes_by_itself(flags: &[&str], body: &str) {
    let run = run(flags);
    run.server.ingest("s", "ndjson", body);
    until("a flush", || files(&run.server, "s") != 0);
}

fn flush_bytes() {
    flushes_by_itself(&["--flush-bytes", "1KiB"], &rows(500));
}

fn flush_rows() {
    flushes_by_itself(&["--flush-rows", "10"], &rows(10));
}

fn flush_age() {
    flushes_by_itself(&["--flush-age", "100ms"], &rows(1));
}

fn merge_files() {
    for (merge, left) in [("true", 1..=9), ("false", 20..=20)] {
        let run = run(&["--merge-files", merge]);
        make_settled(&run.server, "s", "n BIGINT");
        for _ in 0..20 {
            run.server.ingest("s", "ndjson", &rows(1));
            run.server.sql("FLUSH s");
        }
        let files = || {
            let stream = run.server.get("/api/v1/streams/s").json();
            stream["files"].as_u64().expect("a number")
        };
        wait_until("merged files", &run.server, || left.contains(&files()));
        assert_eq!(run.server.value("SELECT count(*) FROM s"), 20);
    }
}

fn log_segment_bytes() {
    let run = run(&["--log-segment-bytes", "1KiB"]);
    make_settled(&run.server, "s", "n BIGINT");
    for _ in 0..4 {
        run.server.ingest("s", "ndjson", &rows(100));
    }
    let stream = std::fs::read_dir(run.folder.path().join("log")).expect("a log");
    let segments = stream.map(|folder| {
        let folder = folder.expect("an entry").path();
        std::fs::read_dir(folder).expect("a folder").count()
    });
    assert_eq!(segments.sum::<usize>(), 4);
}

fn max_body_bytes() {
    let run = run(&["--max-body-bytes", "1KiB", "--max-line-bytes", "1KiB"]);
    let body = rows(500);
    let answer = run
        .server
        .post("/api/v1/streams/s/events", &[], body.as_bytes());
    refused(&answer, 413, "body_too_large");
}

/// A broken document is stored up to the block it is broken in, and not at all if it fits one.
fn ingest_block_bytes() {
    let body = format!("[{}1", "{\"n\":1},".repeat(1_000));
    for (flags, stored) in [(&["--ingest-block-bytes", "1KiB"][..], true), (&[], false)] {
        let run = run(flags);
        let answer = run
            .server
            .post("/api/v1/streams/s/events", &[], body.as_bytes());
        refused(&answer, 400, "invalid_json");
        let accepted = answer.json()["accepted"].as_u64();
        assert_eq!(accepted.is_some_and(|rows| rows > 0), stored, "{flags:?}");
    }
}

fn max_line_bytes() {
    let run = run(&["--max-line-bytes", "100"]);
    let body = format!("{}{{\"n\": 1, \"s\": \"{}\"}}\n", rows(1), "x".repeat(200));
    let reply = run.server.ingest("s", "ndjson", &body);
    assert_eq!(
        (&reply["accepted"], &reply["errors"][0]["line"]),
        (&json!(1), &json!(2))
    );
}

fn ingest_queue_requests() {
    let run = run(&[
        "--ingest-queue-requests",
        "1",
        "--group-commit-requests",
        "1",
    ]);
    run.server.ingest("s", "ndjson", &rows(1));
    let body = rows(200);
    until("a full queue", || {
        send_at_once(&run.server, 24, &body).contains(&429)
            && run
                .server
                .get("/metrics")
                .text
                .contains("lambdalake_http_busy_total{code=\"busy\"}")
    });
}

fn group_commit_requests() {
    let commits = |server: &Server| {
        let text = server.get("/metrics").text;
        let value = |name: &str| sample(&text, name, &[("stream", "s")]).expect(name);
        let (groups, requests) = (
            "lambdalake_log_group_commits_total",
            "lambdalake_log_requests_total",
        );
        (value(groups), value(requests))
    };
    let one = run(&["--group-commit-requests", "1"]);
    let many = run(&[]);
    for server in [&one.server, &many.server] {
        server.ingest("s", "ndjson", &rows(1));
    }
    until("a shared sync", || {
        send_at_once(&many.server, 16, &rows(1));
        let (groups, requests) = commits(&many.server);
        groups < requests
    });
    for _ in 0..3 {
        send_at_once(&one.server, 16, &rows(1));
    }
    assert_eq!(commits(&one.server), (49.0, 49.0));
}

fn query_memory_bytes() {
    let run = run(&["--query-memory-bytes", "1MiB"]);
    let body: String = (0..500)
        .map(|n| format!("{{\"s\": \"{n:0>400}\"}}\n"))
        .collect();
    run.server.ingest("s", "ndjson", &body);
    let sql = "SELECT array_agg(a.s) AS l FROM s a CROSS JOIN (SELECT s FROM s LIMIT 50) b";
    refused(&run.server.try_sql(sql), 422, "memory_limit");
}

/// A server with a view of many groups over unflushed events.
fn with_groups(flags: &[&str]) -> Run {
    let run = run(flags);
    make_settled(&run.server, "s", "n BIGINT");
    run.server.ingest("s", "ndjson", &rows(5_000));
    let view = "CREATE MATERIALIZED VIEW v AS SELECT n, count(*) AS c, count(DISTINCT n) AS d \
                FROM s GROUP BY n";
    run.server.sql(view);
    run
}

fn batch_memory_bytes() {
    let run = with_groups(&["--batch-memory-bytes", "64KiB"]);
    let answer = run.server.try_sql("REFRESH MATERIALIZED VIEW v");
    refused(&answer, 409, "run_failed");
    assert!(
        answer.text.to_lowercase().contains("memory"),
        "{}",
        answer.text
    );
}

fn recompute_concurrency() {
    let run = run(&["--recompute-concurrency", "2"]);
    make_settled(&run.server, "s", "n BIGINT");
    run.server.ingest("s", "ndjson", &rows(100_000));
    run.server.sql("FLUSH s");
    for view in ["a", "b", "c"] {
        let select = "SELECT n, count(*) AS c, approx_distinct(n) AS d FROM s GROUP BY n";
        run.server
            .sql(&format!("CREATE MATERIALIZED VIEW {view} AS {select}"));
    }
    let runs = run.server.get("/api/v1/runs").json();
    let status = |view: &str| {
        let all = runs["runs"].as_array().expect("runs");
        let found = all.iter().find(|run| run["view"] == view);
        found.expect("the run")["status"].clone()
    };
    assert_ne!(status("b"), "queued", "{runs}");
    assert_eq!(status("c"), "queued", "{runs}");
}

fn recompute_shared_views() {
    let run = run(&["--recompute-shared-views", "2"]);
    make_settled(&run.server, "s", "n BIGINT");
    run.server.ingest("s", "ndjson", &rows(100_000));
    run.server.sql("FLUSH s");
    // The others wait for the first, and then two of them go together.
    for view in ["a", "b", "c", "d"] {
        let select = "SELECT n, count(*) AS c, approx_distinct(n) AS d FROM s GROUP BY n";
        run.server
            .sql(&format!("CREATE MATERIALIZED VIEW {view} AS {select}"));
    }
    let shared_with = |view: &str| {
        run.server.get("/api/v1/runs").json()["runs"]
            .as_array()
            .expect("runs")
            .iter()
            .find(|run| run["view"] == view)
            .map(|run| (run["status"].clone(), run["shared_with"].clone()))
            .expect("the run")
    };
    until("the last run", || shared_with("d").0 == "succeeded");
    assert_eq!(shared_with("b").1, json!(["c"]));
    assert_eq!(shared_with("c").1, json!(["b"]));
    assert_eq!(shared_with("d").1, json!([]));
}

fn batch_states_bytes() {
    let run = with_groups(&["--batch-states-bytes", "1KiB"]);
    let answer = run.server.try_sql("REFRESH MATERIALIZED VIEW v");
    refused(&answer, 409, "run_failed");
    assert!(
        answer.text.contains("batch_states_bytes"),
        "{}",
        answer.text
    );
    let status = &run.server.get("/api/v1/runs").json()["runs"][0]["status"];
    assert_eq!(status, "over_budget");
    assert_eq!(run.server.value("SELECT sum(d) FROM v"), 5_000);
}

/// When a clock recomputes a view of three o'clock next.
fn next_run(flags: &[&str]) -> String {
    let run = run(flags);
    make_settled(&run.server, "s", "n BIGINT");
    let select = "SELECT count(*) AS c FROM s";
    run.server.sql(&format!(
        "CREATE MATERIALIZED VIEW v WITH (recompute = '0 3 * * *') AS {select}"
    ));
    let view = run.server.get("/api/v1/views/v").json();
    view["next_run_at"].as_str().expect("a time").to_owned()
}

fn recompute_time_zone() {
    let next = next_run(&["--recompute-time-zone", "Asia/Tokyo"]);
    assert!(next.contains("T18:00:00.000000Z"), "{next}");
}

fn recompute_jitter() {
    let next = next_run(&["--recompute-jitter", "10m"]);
    let minutes = next.split("T03:").nth(1).and_then(|rest| rest.get(..1));
    assert_eq!(minutes, Some("0"), "{next}");
    assert!(!next.contains("T03:00:00.000000Z"), "{next}");
}

/// Down for longer than an interval: the next run is due, or comes in step with those before.
fn recompute_catch_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    make_settled(&server, "s", "n BIGINT");
    let select = "SELECT count(*) AS c FROM s";
    server.sql(&format!(
        "CREATE MATERIALIZED VIEW v WITH (recompute = 'every 1 hour') AS {select}"
    ));
    server.kill();
    // As if it had been made a day and half an hour ago.
    let path = newest_publication(folder.path());
    let entry: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
    let mut body = entry["body"].clone();
    let ago = 24 * 3_600_000_000_i64 + 1_800_000_000;
    let view = &mut body["views"]["v"];
    for at in [
        &["created_at_micros"][..],
        &["schedule", "changed_at_micros"],
    ] {
        let value = at.iter().fold(&mut *view, |value, name| &mut value[*name]);
        *value = (value.as_i64().expect("a time") - ago).into();
    }
    write_publication(&path, &body);

    let server = Server::start(folder.path(), &["--recompute-catch-up", "false"]);
    let next = server.get("/api/v1/views/v").json()["next_run_at"].to_string();
    let next = next.trim_matches('"');
    let minutes = server.value(&format!(
        "SELECT CAST(extract(EPOCH FROM TIMESTAMP '{next}' - now()) / 60 AS BIGINT)"
    ));
    let minutes = minutes.as_i64().expect("a number");
    assert!((20..=30).contains(&minutes), "{minutes}");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(server.get("/api/v1/runs").json()["runs"], json!([]));
    server.kill();
    let server = Server::start(folder.path(), &[]);
    until("the run that was missed", || {
        server.get("/api/v1/runs").json()["runs"][0]["started_by"] == "every 1h"
    });
}

fn recompute_runs_kept() {
    let run = run(&["--recompute-runs-kept", "2"]);
    make_settled(&run.server, "s", "n BIGINT");
    run.server
        .sql("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS c FROM s");
    run.server
        .sql("CREATE MATERIALIZED VIEW quiet AS SELECT max(n) AS n FROM s");
    let views = || {
        let runs = run.server.get("/api/v1/runs").json();
        let runs = runs["runs"].as_array().expect("runs").clone();
        let views = runs.iter().map(|run| run["view"].to_string());
        views.collect::<Vec<_>>().concat()
    };
    run.server.sql("REFRESH MATERIALIZED VIEW quiet");
    for _ in 0..3 {
        run.server.sql("REFRESH MATERIALIZED VIEW v");
    }
    // The last one of each view stays.
    assert_eq!(views(), "\"v\"\"quiet\"");
    run.server.sql("DROP MATERIALIZED VIEW quiet");
    run.server.sql("REFRESH MATERIALIZED VIEW v");
    assert_eq!(views(), "\"v\"\"v\"");
}

fn speed_memory_bytes() {
    let run = with_groups(&["--speed-memory-bytes", "1KiB"]);
    refused(
        &run.server.try_sql("SELECT count(*) FROM v"),
        422,
        "memory_limit",
    );
}

fn query_timeout() {
    let run = run(&["--query-timeout", "200ms"]);
    run.server.ingest("s", "ndjson", &rows(3_000));
    refused(&run.server.try_sql(ENDLESS), 408, "query_timeout");
}

fn max_result_rows() {
    let run = run(&["--max-result-rows", "5"]);
    run.server.ingest("s", "ndjson", &rows(6));
    refused(&run.server.try_sql("SELECT n FROM s"), 422, "row_limit");
}

fn max_concurrent_queries() {
    let run = run(&["--max-concurrent-queries", "1", "--query-timeout", "10s"]);
    run.server.ingest("s", "ndjson", &rows(3_000));
    std::thread::scope(|scope| {
        let endless = scope.spawn(|| run.server.try_sql(ENDLESS));
        let running = || run.server.get("/api/v1/queries").json()["queries"][0].clone();
        until("a running query", || !running().is_null());
        refused(&run.server.try_sql("SELECT 1"), 429, "too_many_queries");
        let id = running()["query_id"].as_str().expect("an id").to_owned();
        run.server.delete(&format!("/api/v1/queries/{id}"));
        refused(&endless.join().expect("it ends"), 409, "query_cancelled");
    });
}

fn tail_limit_bytes() {
    let run = run(&["--tail-limit-bytes", "16KiB", "--flush-bytes", "16KiB"]);
    let send = |rows: &str| {
        let path = "/api/v1/streams/s/events";
        run.server.post(path, &[], rows.as_bytes())
    };
    assert_eq!(send(&rows(1)).status, 200);
    // In the place of the master dataset: no flush can make room.
    let streams = run.folder.path().join("streams");
    std::fs::create_dir_all(&streams).expect("a folder");
    let master = streams.join("s-1");
    std::fs::write(&master, "").expect("nothing was flushed yet");
    assert_eq!(
        send(&rows(5_000)).status,
        200,
        "there was room when it came"
    );
    let answer = send(&rows(1));
    refused(&answer, 429, "busy");
    assert!(answer.text.contains("tail is full"), "{}", answer.text);
    std::fs::remove_file(&master).expect("removed");
    for _ in 0..8 {
        let answer = send(&rows(5_000));
        assert_eq!(answer.status, 200, "a flush makes room: {}", answer.text);
    }
}

fn view_state_budget_bytes() {
    let run = with_groups(&["--view-state-budget-bytes", "1KiB"]);
    refused(
        &run.server.try_sql("SELECT count(*) FROM v"),
        422,
        "memory_limit",
    );
    assert_eq!(run.server.value("SELECT count(*) FROM s"), 5_000);
}

fn slow_query() {
    let run = run(&["--slow-query", "1us"]);
    run.server.ingest("s", "ndjson", &rows(3));
    run.server.try_sql("SELECT n FROM s ORDER BY n");
    until("a slow query", || {
        let log = run.server.log();
        let mut lines = log.lines().filter(|line| line.contains("WARN"));
        lines.any(|line| {
            [
                "slow query",
                "SELECT n FROM s ORDER BY n",
                "query_id=",
                "request_id=",
                "elapsed_ms=",
                "rows_read=3",
                "rows_returned=3",
                "layer=\"merged\"",
            ]
            .iter()
            .all(|part| line.contains(part))
        })
    });
}

/// What is stored after a first and a last body, and the first once more after a pause.
fn stored_with_keys(flags: &[&str], restarts: bool) -> Value {
    let Run { mut server, folder } = run(flags);
    let send = |server: &Server, key: &str| {
        let headers = [("idempotency-key", key)];
        let path = "/api/v1/streams/s/events";
        let answer = server.post(path, &headers, rows(1).as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    send(&server, "first");
    send(&server, "last");
    std::thread::sleep(Duration::from_millis(300));
    if restarts {
        server.sql("FLUSH s");
        server.stop();
        server = Server::start(folder.path(), flags);
    }
    send(&server, "first");
    server.value("SELECT count(*) FROM s")
}

fn idempotency_window() {
    for restarts in [false, true] {
        let brief = ["--idempotency-window", "200ms"];
        assert_eq!(stored_with_keys(&brief, restarts), 3);
        let long = ["--idempotency-window", "1h"];
        assert_eq!(stored_with_keys(&long, restarts), 2);
    }
}

fn idempotency_keys() {
    for restarts in [false, true] {
        let few = ["--idempotency-keys", "1"];
        assert_eq!(stored_with_keys(&few, restarts), 3);
        let enough = ["--idempotency-keys", "2"];
        assert_eq!(stored_with_keys(&enough, restarts), 2);
    }
}

fn log_format() {
    let run = run(&["--log-format", "json"]);
    let log = run.server.log();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(
            line["level"].is_string() && line["message"].is_string(),
            "{line}"
        );
    }
    assert!(log.contains("listening on"), "{log}");
}

fn log_level() {
    let run = run(&["--log-level", "debug"]);
    run.server.get("/health/livez");
    until("an access line", || {
        run.server.log().contains("request answered")
    });
}
