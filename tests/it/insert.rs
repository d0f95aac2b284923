//! INSERT on the real binary: rows come in like all events, exactly once.

use serde_json::json;

use crate::server::Server;

#[test]
fn inserted_rows_are_events_like_all_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    server.sql("CREATE TABLE s (ts TIMESTAMP, k TEXT NOT NULL, n BIGINT) WITH (event_time = 'ts')");
    server.sql(
        "CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS c, sum(n) AS n FROM s GROUP BY k",
    );
    let inserted = server.sql(
        "INSERT INTO s VALUES ('2026-11-02T10:00:00Z', 'a', 9007199254740993), (NULL, 'b', NULL)",
    );
    assert_eq!(inserted["data"], json!([{"inserted": 2}]));
    server.sql("FLUSH s");
    let again = server.sql("INSERT INTO s (k, n) SELECT k, n + 1 FROM s WHERE n IS NOT NULL");
    assert_eq!(
        again["data"],
        json!([{"inserted": 1}]),
        "reads one snapshot"
    );
    let expected = json!([
        {"k": "a", "c": 2, "n": 18014398509481987_i64},
        {"k": "b", "c": 1, "n": null},
        {"k": "p", "c": 1, "n": 4},
    ]);
    let with_params = json!({"query": "INSERT INTO s (k, n) VALUES ($1, $2)", "params": ["p", 4]});
    let headers = [("content-type", "application/json")];
    let body = with_params.to_string();
    let answer = server.post("/api/v1/sql?format=json", &headers, body.as_bytes());
    assert_eq!(
        answer.json()["data"],
        json!([{"inserted": 1}]),
        "{}",
        answer.text
    );
    let refused = server.try_sql("INSERT INTO v VALUES ('a', 1, 1)");
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert_eq!(json!(server.rows("SELECT * FROM v ORDER BY k")), expected);
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(json!(server.rows("SELECT * FROM v ORDER BY k")), expected);
    assert_eq!(
        server.value("SELECT count(*) FROM s WHERE ts = '2026-11-02T10:00:00Z'"),
        1
    );
}

#[test]
fn an_insert_is_as_large_as_a_body_at_most() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--max-body-bytes", "64KiB", "--max-line-bytes", "1KiB"];
    let server = Server::start(folder.path(), &flags);
    let lines = "{\"k\":\"a text that is neither short nor long\"}\n".repeat(1_000);
    for _ in 0..4 {
        server.ingest("s", "ndjson", &lines);
    }
    let answer = server.try_sql("INSERT INTO s (k) SELECT k FROM s");
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(answer.json()["error"]["code"], "body_too_large");
    assert_eq!(server.value("SELECT count(*) AS c FROM s"), json!(4_000));
}
