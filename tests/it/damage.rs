//! Damage on disk is found and named; what can be made again is, and what cannot stops its own
//! stream and no other.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::metrics::sample;
use crate::restart::{files, wait_until_stored};
use crate::server::Server;
use crate::settings::until;
use crate::verify::publications;

const VIEW: &str = "SELECT k, count(*) AS n, sum(x) AS total FROM s GROUP BY k";

pub fn body(from: u64, to: u64) -> String {
    (from..to)
        .map(|x| format!("{{\"k\": \"k{}\", \"x\": {x}}}\n", x % 7))
        .collect()
}

/// Streams `s` and `other` with views `v` and `w`: two master files, a version, a pane and a tail
/// of `s` that is in two segments of its log.
pub fn with_two_streams(folder: &Path) -> Server {
    let server = Server::start(folder, &["--log-segment-bytes", "1"]);
    for (stream, view) in [("s", "v"), ("other", "w")] {
        server.ingest(stream, "ndjson", &body(0, 100));
        let select = VIEW.replace("FROM s", &format!("FROM {stream}"));
        server.sql(&format!("CREATE MATERIALIZED VIEW {view} AS {select}"));
        server.sql(&format!("REFRESH MATERIALIZED VIEW {view}"));
        let events = format!("/api/v1/streams/{stream}/events?format=ndjson");
        let key = [("idempotency-key", "one")];
        let answer = server.post(&events, &key, body(100, 150).as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text);
        server.sql(&format!("FLUSH {stream}"));
    }
    // Quickly, one after the other: an idle writer adds a segment of its own.
    for stream in ["other", "s"] {
        server.ingest(stream, "ndjson", &body(150, 170));
        server.ingest(stream, "ndjson", &body(170, 180));
        server.ingest(stream, "ndjson", &body(180, 190));
    }
    server
}

/// Flips one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).expect("written");
}

/// Files of the stream or view below a root folder, oldest first.
pub fn files_of(folder: &Path, root: &str, name: &str, ending: &str) -> Vec<PathBuf> {
    let all = files(folder, root, "").into_iter();
    let is_of = |path: &PathBuf| {
        let parent = path.parent().and_then(Path::file_name).expect("a parent");
        let is_it = parent.to_string_lossy().starts_with(&format!("{name}-"));
        is_it && path.to_string_lossy().ends_with(ending)
    };
    all.filter(is_of).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned()
}

fn error(answer: &crate::server::Answer) -> (u16, String, String) {
    let body = answer.json();
    let text = |name: &str| body["error"][name].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("message"))
}

/// Every way to read or write `s` is refused and names the file; `other` works; and `s` can be
/// dropped and made again.
fn assert_only_s_is_stopped(folder: &Path, file: &str) {
    let server = Server::start(folder, &[]);
    let refused = |answer: &crate::server::Answer| {
        let (status, code, message) = error(answer);
        assert_eq!(
            (status, code.as_str()),
            (503, "stream_damaged"),
            "{message}"
        );
        assert!(message.contains(file), "{message} should name {file}");
        let waits = answer.headers.get("retry-after");
        assert_eq!(waits, None, "no waiting helps");
        assert!(
            message.contains("backup"),
            "{message} should say what to do"
        );
    };
    for sql in [
        "SELECT count(*) FROM s",
        "SELECT * FROM v",
        "SELECT (SELECT count(*) FROM other), (SELECT count(*) FROM s)",
        "SELECT * FROM w UNION ALL SELECT * FROM v",
        "INSERT INTO s (k, x) VALUES ('a', 1)",
        "FLUSH s",
        "FLUSH",
        "REFRESH MATERIALIZED VIEW v",
        "ALTER TABLE s ADD COLUMN y BIGINT",
        "CREATE MATERIALIZED VIEW v2 AS SELECT count(*) AS n FROM s",
    ] {
        refused(&server.try_sql(sql));
    }
    let events = "/api/v1/streams/s/events?format=ndjson";
    refused(&server.post(events, &[], body(0, 1).as_bytes()));
    refused(&server.post("/api/v1/views/v/recompute", &[], b""));

    let shown = server.get("/api/v1/streams/s").json();
    assert!(
        shown["error"]
            .as_str()
            .is_some_and(|error| error.contains(file)),
        "{shown}"
    );
    let listed = server.get("/api/v1/streams").json();
    assert_eq!(listed["streams"].as_array().map(Vec::len), Some(2));
    let view = server.get("/api/v1/views/v").json();
    assert!(
        view["error"]
            .as_str()
            .is_some_and(|error| error.contains(file)),
        "{view}"
    );
    let rows =
        server.rows("SELECT name, stopped IS NULL AS runs FROM lambdalake.streams ORDER BY name");
    let expected = [
        json!({"name": "other", "runs": true}),
        json!({"name": "s", "runs": false}),
    ];
    assert_eq!(rows, expected);
    assert_health(&server, file);

    assert_eq!(server.value("SELECT count(*) FROM other"), 190);
    assert_eq!(server.value("SELECT sum(n) FROM w"), 190);
    server.ingest("other", "ndjson", &body(190, 200));
    server.sql("FLUSH other");
    server.sql("REFRESH MATERIALIZED VIEW w");
    assert_eq!(server.value("SELECT sum(n) FROM w"), 200);

    assert_eq!(server.try_sql("DROP TABLE s").status, 409, "v reads it");
    server.sql("DROP VIEW v");
    server.sql("DROP TABLE s");
    assert_eq!(server.get("/health").json()["details"]["status"], "ready");
    server.ingest("s", "ndjson", &body(0, 5));
    assert_eq!(server.value("SELECT count(*) FROM s"), 5);
    server.stop();
    let server = Server::start(folder, &[]);
    assert_eq!(server.value("SELECT count(*) FROM s"), 5);
}

fn assert_health(server: &Server, file: &str) {
    let health = server.get("/health");
    assert_eq!(health.status, 200, "the other stream takes traffic");
    let details = &health.json()["details"];
    assert_eq!(details["status"], "degraded", "{details}");
    let workers = details["workers"].as_array().expect("workers");
    let stopped: Vec<&Value> = workers
        .iter()
        .filter(|worker| worker["state"] == "stopped")
        .collect();
    assert_eq!(stopped.len(), 1, "{details}");
    assert_eq!(stopped[0]["stream"], "s");
    assert!(
        stopped[0]["error"]
            .as_str()
            .is_some_and(|error| error.contains(file))
    );
    let text = server.get("/metrics").text;
    let stopped = |stream| sample(&text, "lambdalake_stream_stopped", &[("stream", stream)]);
    assert_eq!((stopped("s"), stopped("other")), (Some(1.0), Some(0.0)));
    let up = |stream| {
        let labels = [("worker", "writer"), ("stream", stream)];
        sample(&text, "lambdalake_worker_up", &labels)
    };
    assert_eq!((up("s"), up("other")), (Some(0.0), Some(1.0)));
    assert!(
        server.log().contains("the stream is stopped"),
        "{}",
        server.log()
    );
}

#[test]
fn a_flipped_bit_in_the_middle_of_a_log_stops_its_stream_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).kill();
    let segments = files_of(folder.path(), "log", "s", "");
    assert!(segments.len() >= 3, "{segments:?}");
    let broken = &segments[segments.len() - 2];
    flip(broken);
    assert_only_s_is_stopped(folder.path(), &file_name(broken));
}

#[test]
fn a_missing_segment_in_the_middle_of_a_log_stops_its_stream_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).kill();
    let segments = files_of(folder.path(), "log", "s", "");
    std::fs::remove_file(&segments[segments.len() - 2]).expect("removed");
    assert_only_s_is_stopped(folder.path(), "log/s-");
}

#[test]
fn a_missing_or_short_master_file_stops_its_stream_alone() {
    for is_short in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        with_two_streams(folder.path()).kill();
        let file = files_of(folder.path(), "streams", "s", ".parquet").remove(0);
        if is_short {
            let bytes = std::fs::read(&file).expect("read");
            std::fs::write(&file, &bytes[..bytes.len() - 9]).expect("written");
        } else {
            std::fs::remove_file(&file).expect("removed");
        }
        assert_only_s_is_stopped(folder.path(), &file_name(&file));
    }
}

#[test]
fn a_stopped_stream_is_whole_again_once_its_file_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).kill();
    let file = files_of(folder.path(), "streams", "s", ".parquet").remove(1);
    let aside = folder.path().join("aside");
    std::fs::rename(&file, &aside).expect("moved");
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.try_sql("SELECT count(*) FROM s").status, 503);
    server.stop();
    std::fs::rename(&aside, &file).expect("moved");
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT count(*) FROM s"), 190);
    assert_eq!(server.value("SELECT sum(n) FROM v"), 190);
}

#[test]
fn a_flipped_bit_in_a_master_file_fails_the_queries_that_need_it_and_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_two_streams(folder.path());
    let file = files_of(folder.path(), "streams", "s", ".parquet").remove(0);
    flip(&file);
    let sql = "SELECT sum(x) FROM s";
    assert_master_damage(&server, sql, &file_name(&file));
    server.kill();
    // A later process knows the file by the publication alone.
    let server = Server::start(folder.path(), &[]);
    assert_master_damage(&server, sql, &file_name(&file));
    server.stop();
    flip(&file);
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value(sql), (0..190).sum::<u64>());
}

fn assert_master_damage(server: &Server, sql: &str, file: &str) {
    let (status, code, message) = error(&server.try_sql(sql));
    assert_eq!((status, code.as_str()), (503, "data_damaged"), "{message}");
    assert!(
        message.contains(file) && message.contains("backup"),
        "{message}"
    );
    // The view's states are whole, and so is the other stream.
    assert_eq!(server.value("SELECT sum(n) FROM v"), 190);
    assert_eq!(
        server.value("SELECT sum(x) FROM other"),
        (0..190).sum::<u64>()
    );
    let shown = server.get("/api/v1/streams/s").json();
    assert!(
        shown["error"]
            .as_str()
            .is_some_and(|error| error.contains(file)),
        "{shown}"
    );
    let details = server.get("/health").json()["details"].clone();
    assert_eq!(details["status"], "degraded", "{details}");
    assert!(
        details["damaged_files"][0]["path"]
            .as_str()
            .is_some_and(|path| path.contains(file))
    );
    let text = server.get("/metrics").text;
    let found = sample(
        &text,
        "lambdalake_damaged_files_total",
        &[("kind", "master")],
    );
    assert_eq!(found, Some(1.0), "counted once however often it is met");
}

#[test]
fn a_damaged_master_file_does_not_keep_those_beside_it_from_being_merged() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--merge-files", "false"]);
    for n in 0..20 {
        server.ingest("s", "ndjson", &body(100 * n, 100 * (n + 1)));
        server.sql("FLUSH s");
    }
    server.stop();
    let files = files_of(folder.path(), "streams", "s", ".parquet");
    let count = files.len();
    let damaged = &files[count / 2];
    flip(damaged);
    let server = Server::start(folder.path(), &[]);
    let described = || server.get("/api/v1/streams/s").json();
    // One for those before it, one for those behind it, and itself.
    until("merged files", || described()["files"] == 3);
    let stream = described();
    let name = file_name(damaged);
    assert!(
        stream["error"]
            .as_str()
            .is_some_and(|error| error.contains(&name)),
        "{stream}"
    );
    let warned = |server: &Server| server.log().matches("could not be written again").count();
    assert_eq!(warned(&server), 1);
    server.stop();
    flip(damaged);
    let server = Server::start(folder.path(), &[]);
    assert_eq!(
        server.value("SELECT sum(x) FROM s"),
        (0..2_000).sum::<u64>()
    );
}

#[test]
fn a_flipped_bit_in_states_is_found_while_running_and_costs_time_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_two_streams(folder.path());
    let before = server.rows("SELECT * FROM v ORDER BY k");
    for file in files_of(folder.path(), "views", "v", ".parquet") {
        flip(&file);
    }
    assert_eq!(
        server.rows("SELECT * FROM v ORDER BY k"),
        before,
        "{}",
        server.log()
    );
    assert!(server.log().contains("a states file is missing or damaged"));
    let text = server.get("/metrics").text;
    let found = sample(
        &text,
        "lambdalake_damaged_files_total",
        &[("kind", "states")],
    );
    assert_eq!(found, Some(2.0), "the version and the pane");
    wait_until_stored(&server);
    assert_eq!(server.rows("SELECT * FROM v ORDER BY k"), before);
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.rows("SELECT * FROM v ORDER BY k"), before);
    assert_eq!(server.get("/api/v1/views/v").json()["unstored_events"], 0);
}

#[test]
fn a_recompute_that_meets_broken_states_makes_them_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_two_streams(folder.path());
    let before = server.rows("SELECT * FROM v ORDER BY k");
    flip(&files_of(folder.path(), "views", "v", ".parquet")[0]);
    server.sql("REFRESH MATERIALIZED VIEW v");
    assert_eq!(server.rows("SELECT * FROM v ORDER BY k"), before);
    assert_eq!(server.get("/api/v1/views/v").json()["unstored_events"], 0);
    // It read everything twice, and counts it once. Another run may have begun by itself.
    let runs = server.get("/api/v1/runs").json();
    let mut runs = runs["runs"].as_array().expect("runs").iter();
    let run = runs.find(|run| run["view"] == "v" && run["started_by"] == "request");
    let run = run.expect("the run");
    assert_eq!(run["audit"], "nothing_to_compare");
    for what in ["rows", "bytes", "files"] {
        let total = &run[format!("{what}_total")];
        assert_eq!(&run[format!("{what}_read")], total, "{run}");
        assert_ne!(total, 0);
    }
}

/// Waits until the writer of `s` has been idle and marked the end of its log.
fn wait_for_mark(folder: &Path) {
    let length = || -> u64 {
        let segments = files_of(folder, "log", "s", "");
        let lengths = segments
            .iter()
            .map(|path| std::fs::metadata(path).expect("there").len());
        lengths.sum()
    };
    let before = length();
    until("a mark", || length() > before);
}

#[test]
fn damage_to_the_last_acknowledged_events_is_told_from_a_torn_tail() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", &body(0, 100));
    wait_for_mark(folder.path());
    server.kill();
    let segment = files_of(folder.path(), "log", "s", "").remove(0);
    flip(&segment);
    let before = std::fs::read(&segment).expect("read");
    let server = Server::start(folder.path(), &[]);
    let (status, code, message) = error(&server.try_sql("SELECT count(*) FROM s"));
    assert_eq!(
        (status, code.as_str()),
        (503, "stream_damaged"),
        "{message}"
    );
    assert!(message.contains("byte 8"), "{message}");
    server.stop();
    assert!(
        std::fs::read(&segment).expect("read") == before,
        "nothing is cut off"
    );
    flip(&segment);
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT count(*) FROM s"), 100);
}

#[test]
fn a_log_that_does_not_reach_its_master_dataset_stops_the_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).stop();
    for segment in files_of(folder.path(), "log", "s", "") {
        std::fs::remove_file(segment).expect("removed");
    }
    assert_only_s_is_stopped(folder.path(), "log/s-");
}

#[test]
fn damage_to_a_part_of_the_log_that_is_flushed_loses_nothing_and_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", &body(0, 100));
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", &body(100, 110));
    server.kill();
    let segment = files_of(folder.path(), "log", "s", "").remove(0);
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes[100] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT count(*) FROM s"), 110);
    assert_eq!(server.value("SELECT sum(x) FROM s"), (0..110).sum::<u64>());
    assert!(
        server.log().contains("the log is damaged"),
        "{}",
        server.log()
    );
    let text = server.get("/metrics").text;
    let found = sample(&text, "lambdalake_damaged_files_total", &[("kind", "log")]);
    assert_eq!(found, Some(1.0));
}

#[test]
fn a_damaged_newest_publication_is_explained_and_no_older_one_is_used() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).stop();
    let mut entries = publications(folder.path());
    let newest = entries.pop().expect("one");
    flip(&newest);
    let said = Server::try_start(folder.path(), &[])
        .err()
        .expect("refused");
    assert!(
        said.contains(&file_name(&newest)) && said.contains("backup"),
        "{said}"
    );
    flip(&newest);
    // Older ones are only there for people.
    flip(&entries[0]);
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT count(*) FROM s"), 190);
}

#[test]
fn files_that_somebody_else_put_beside_ours_are_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).stop();
    let beside = folder.path().join("publications");
    let oldest = publications(folder.path()).remove(0);
    let segment = files_of(folder.path(), "log", "s", "").pop().expect("one");
    let strangers = [
        beside.join("old-1"),
        beside.join("zzz.bak"),
        beside.join(format!("{}.damaged", file_name(&oldest))),
        segment.with_file_name("notes.txt"),
    ];
    for stranger in &strangers {
        std::fs::copy(&oldest, stranger).expect("copied");
    }
    let (code, found) = crate::verify::report(folder.path(), &["--deep"]);
    assert_eq!(code, 0, "{found}");
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT count(*) FROM s"), 190);
    assert_eq!(server.value("SELECT sum(n) FROM w"), 190);
    let said = server.log();
    for stranger in &strangers {
        assert!(said.contains(&file_name(stranger)), "{said}");
    }
}

#[test]
fn old_publications_that_a_crash_left_go_at_the_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_two_streams(folder.path());
    for table in 0..20 {
        server.sql(&format!("CREATE TABLE t{table} (a BIGINT)"));
    }
    server.kill();
    let left = folder.path().join("publications/00000000000000000002");
    std::fs::write(&left, "{").expect("written");
    assert_eq!(crate::verify::report(folder.path(), &[]).0, 0);
    Server::start(folder.path(), &[]).kill();
    assert!(!left.exists());
    assert_eq!(publications(folder.path()).len(), 16);
}

#[test]
fn what_a_stopped_stream_needs_is_kept_until_its_publication_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).kill();
    let keys = files_of(folder.path(), "keys", "other", "");
    assert_eq!(keys.len(), 1);
    let newest = publications(folder.path()).pop().expect("one");
    let saved = std::fs::read(&newest).expect("read");
    std::fs::remove_file(&newest).expect("removed");
    // The events that it said are flushed.
    std::fs::remove_file(&files_of(folder.path(), "log", "other", "")[0]).expect("removed");
    let server = Server::start(folder.path(), &[]);
    let stopped = server.try_sql("SELECT count(*) FROM other");
    assert_eq!(error(&stopped).1, "stream_damaged", "{}", stopped.text);
    server.kill();
    assert_eq!(files_of(folder.path(), "keys", "other", ""), keys);

    std::fs::write(&newest, saved).expect("written");
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT sum(n) FROM w"), 190);
}

#[test]
fn a_flush_that_fails_again_and_again_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_two_streams(folder.path());
    let keys = files_of(folder.path(), "keys", "s", "").remove(0);
    flip(&keys);
    let count = || {
        let count = |root, ending| files_of(folder.path(), root, "s", ending).len();
        (
            count("streams", ".parquet"),
            files(folder.path(), "views", "").len(),
        )
    };
    let before = count();
    let events = "/api/v1/streams/s/events?format=ndjson";
    let sent = server.post(
        events,
        &[("idempotency-key", "two")],
        body(190, 200).as_bytes(),
    );
    assert_eq!(sent.status, 200, "{}", sent.text);
    for _ in 0..4 {
        let failed = server.try_sql("FLUSH s");
        assert_eq!(error(&failed).0, 503, "{}", failed.text);
        assert!(failed.text.contains(&file_name(&keys)), "{}", failed.text);
    }
    assert_eq!(count(), before);
    assert_eq!(server.value("SELECT sum(n) FROM v"), 200, "from the log");
    let health = server.get("/health").json();
    assert_eq!(health["details"]["status"], "degraded", "{health}");
    let named = health["details"]["damaged_files"][0]["path"].to_string();
    assert!(named.contains(&file_name(&keys)), "{health}");
    let text = server.get("/metrics").text;
    let found = sample(&text, "lambdalake_damaged_files_total", &[("kind", "keys")]);
    assert_eq!(found, Some(1.0));
    // Whole again, the flush that is due goes through by itself.
    flip(&keys);
    until("a flush", || {
        server.get("/api/v1/streams/s").json()["tail_rows"] == 0
    });
}

#[test]
fn a_damaged_delta_log_is_made_again_from_the_publication() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).stop();
    let table = files_of(folder.path(), "streams", "s", "_delta_log").remove(0);
    let broken = table.join("00000000000000000001.json");
    let text = std::fs::read_to_string(&broken).expect("read");
    std::fs::write(&broken, text.replace(".parquet", ".parquex")).expect("written");
    let (code, found) = crate::verify::report(folder.path(), &[]);
    assert_eq!(code, 4, "{found}");
    let server = Server::start(folder.path(), &[]);
    until("a table made again", || {
        let text = server.get("/metrics").text;
        let found = sample(
            &text,
            "lambdalake_damaged_files_total",
            &[("kind", "delta")],
        );
        let behind = sample(&text, "lambdalake_delta_behind", &[("stream", "s")]);
        (found, behind) == (Some(1.0), Some(0.0))
    });
    assert!(
        server.log().contains("the Delta log was damaged"),
        "{}",
        server.log()
    );
    assert_eq!(server.value("SELECT count(*) FROM s"), 190);
    server.stop();
    let (code, found) = crate::verify::report(folder.path(), &[]);
    assert_eq!(code, 0, "{found}");
}
