//! Restarts, clean and by kill -9, give the same answers, whatever of the stored states is
//! there; a producer that retries with its key stores once.

use std::path::Path;

use serde_json::Value;

use crate::server::Server;

const VIEW: &str = "SELECT k, count(*) AS n, sum(x) AS total, min(x) AS least FROM s GROUP BY k";

fn body(from: u64, to: u64) -> String {
    (from..to)
        .map(|x| format!("{{\"k\": \"k{}\", \"x\": {x}}}\n", x % 7))
        .collect()
}

fn answers(server: &Server) -> (Vec<Value>, Vec<Value>) {
    let view = server.rows("SELECT * FROM v ORDER BY k");
    let direct = server.rows(&format!("SELECT * FROM ({VIEW}) ORDER BY k"));
    assert_eq!(view, direct, "{}", server.log());
    (
        view,
        server.rows("SELECT * FROM s ORDER BY _shard, _offset"),
    )
}

/// A view with version 1 at 100 events, two panes after it, and a tail.
fn with_history(folder: &Path) -> Server {
    let server = Server::start(folder, &[]);
    server.ingest("s", "ndjson", &body(0, 100));
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    server.sql("REFRESH MATERIALIZED VIEW v");
    for from in [100, 2_000] {
        server.ingest("s", "ndjson", &body(from, from + 50));
        server.sql("FLUSH s");
    }
    server.ingest("s", "ndjson", &body(9_000, 9_030));
    server
}

pub fn files(folder: &Path, root: &str, starts_with: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder.join(root)).expect("a folder") {
        for file in std::fs::read_dir(entry.expect("an entry").path()).expect("a folder") {
            let file = file.expect("an entry");
            if file.file_name().to_string_lossy().starts_with(starts_with) {
                found.push(file.path());
            }
        }
    }
    found.sort();
    found
}

/// Waits for the recompute that the server starts by itself when states are missing.
pub fn wait_until_stored(server: &Server) {
    for _ in 0..400 {
        let view = server.get("/api/v1/views/v").json();
        if view["unstored_events"] == 0 && view["last_run"]["status"] == "succeeded" {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the view was not made again: {}", server.log());
}

#[test]
fn answers_survive_a_clean_stop_and_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    let before = answers(&server);
    server.kill();
    let server = Server::start(folder.path(), &[]);
    let view = server.get("/api/v1/views/v").json();
    assert_eq!(
        view["cut"],
        serde_json::json!([100]),
        "the batch cut is far below: {view}"
    );
    assert!(
        !view["panes"].as_array().expect("panes").is_empty(),
        "{view}"
    );
    assert_eq!(answers(&server), before);
    server.stop();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(answers(&server), before);
}

#[test]
fn lost_panes_and_lost_versions_are_mapped_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    let before = answers(&server);
    server.kill();
    let panes = files(folder.path(), "views", "pane-");
    assert!(!panes.is_empty());
    panes
        .iter()
        .for_each(|pane| std::fs::remove_file(pane).expect("removed"));
    let server = Server::start(folder.path(), &[]);
    assert_eq!(answers(&server), before);
    assert!(
        server.log().contains("mapped from the master dataset"),
        "{}",
        server.log()
    );
    wait_until_stored(&server);
    assert_eq!(answers(&server), before);
    server.kill();
    for file in files(folder.path(), "views", "") {
        std::fs::remove_file(file).expect("removed");
    }
    let server = Server::start(folder.path(), &[]);
    assert_eq!(answers(&server), before);
    wait_until_stored(&server);
    assert_eq!(answers(&server), before);
}

#[test]
fn a_torn_log_tail_is_cut_and_nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    let before = answers(&server);
    server.kill();
    let segment = files(folder.path(), "log", "").pop().expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes.extend_from_slice(&[0x5a; 999]);
    std::fs::write(&segment, bytes).expect("written");
    let server = Server::start(folder.path(), &[]);
    assert_eq!(answers(&server), before);
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let _first = Server::start(folder.path(), &[]);
    let said = Server::try_start(folder.path(), &[])
        .err()
        .expect("refused");
    assert!(said.contains("in use by another process"), "{said}");
}

#[test]
fn a_new_column_survives_a_kill_flushed_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", "{\"a\": 1}\n");
    server.ingest("s", "ndjson", "{\"a\": 2, \"b\": {\"c\": \"x\"}}\n");
    let query = "SELECT a, b['c'] AS c, d FROM s ORDER BY a";
    server.kill();
    let server = Server::start(folder.path(), &[]);
    server.sql("FLUSH s");
    server.ingest(
        "s",
        "ndjson",
        "{\"a\": 3, \"b\": {\"c\": \"y\", \"e\": 1}, \"d\": true}\n",
    );
    let before = server.rows(query);
    let expected = serde_json::json!([
        {"a": 1, "c": null, "d": null},
        {"a": 2, "c": "x", "d": null},
        {"a": 3, "c": "y", "d": true}
    ]);
    assert_eq!(Value::Array(before.clone()), expected);
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.rows(query), before);
    server.sql("FLUSH s");
    assert_eq!(server.rows(query), before);
}

#[test]
fn a_request_sent_twice_with_one_key_is_stored_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let send = |server: &Server, key: &str| {
        let path = "/api/v1/streams/s/events?format=ndjson";
        let answer = server.post(path, &[("idempotency-key", key)], body(0, 10).as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let first = send(&server, "one");
    assert_eq!(send(&server, "one"), first);
    assert_eq!(server.value("SELECT count(*) FROM s"), 10);
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(send(&server, "one"), first);
    assert_eq!(server.value("SELECT count(*) FROM s"), 10);
    send(&server, "two");
    assert_eq!(server.value("SELECT count(*) FROM s"), 20);
}
