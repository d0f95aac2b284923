//! The description at /openapi.json is true: real answers fit it, and a fuzzer that reads it
//! finds no answer that does not.

mod schema;

use std::process::Command;

use serde_json::{Value, json};

use self::schema::Description;
use super::python::{python, script};
use super::server::{Answer, Server};

/// Seconds after which the fuzzer is stopped, on a machine that is busy with other things. Alone
/// it takes about ten.
const FUZZ_SECONDS: &str = "240";

/// Events of a kilobyte each, more than one block of the server under test.
const BROKEN_BODY_EVENTS: usize = 3_000;

/// A server with the stream and the view that the description's examples name.
fn serve(folder: &std::path::Path) -> Server {
    let server = Server::start(folder, &["--ingest-block-bytes", "1MiB"]);
    server.sql("CREATE TABLE access_log (ts TIMESTAMP, status BIGINT) WITH (event_time = 'ts')");
    server.sql(
        "CREATE MATERIALIZED VIEW by_status WITH (recompute = '1 day') AS \
         SELECT status, count(*) AS n FROM access_log GROUP BY status",
    );
    server.ingest(
        "access_log",
        "ndjson",
        "{\"status\":200}\n{\"status\":404}\n",
    );
    server.sql("FLUSH access_log");
    server.ingest("access_log", "ndjson", "{\"status\":200}\n");
    server
}

/// Asks and compares: the operation's status must be the expected one, and fit.
struct Asked<'a> {
    server: &'a Server,
    description: &'a Description,
    seen: Vec<(&'static str, &'static str)>,
}

impl Asked<'_> {
    fn fits(&mut self, method: &'static str, template: &'static str, status: u16, answer: &Answer) {
        let what = format!("{method} {template}: {}", answer.text);
        assert_eq!(answer.status, status, "{what}\n{}", self.server.log());
        self.description.check(method, template, answer);
        self.seen.push((method, template));
    }

    fn get(&mut self, template: &'static str, path: &str, status: u16) -> Value {
        let answer = self.server.get(path);
        self.fits("get", template, status, &answer);
        let head = self.server.head(path);
        assert_eq!(head.text, "", "{path}");
        self.fits("head", template, status, &head);
        serde_json::from_str(&answer.text).unwrap_or_default()
    }

    /// A client that takes no coding of an answer, not even none.
    fn refused_coding(&mut self, path: &'static str) {
        let none = [("accept-encoding", "identity;q=0")];
        let answer = self.server.get_with(path, &none);
        self.fits("get", path, 406, &answer);
    }

    fn post(&mut self, template: &'static str, path: &str, body: &str, status: u16) -> Value {
        let answer = self.server.post(path, &[], body.as_bytes());
        self.fits("post", template, status, &answer);
        serde_json::from_str(&answer.text).unwrap_or_default()
    }
}

const STREAM: &str = "/api/v1/streams/{stream}";
const EVENTS: &str = "/api/v1/streams/{stream}/events";
const VIEW: &str = "/api/v1/views/{view}";
const RECOMPUTE: &str = "/api/v1/views/{view}/recompute";
const VERIFY: &str = "/api/v1/views/{view}/verify";
const SQL: &str = "/api/v1/sql";
const RUN: &str = "/api/v1/runs/{id}";
const RUN_EVENTS: &str = "/api/v1/runs/{id}/events";
const QUERY: &str = "/api/v1/queries/{id}";

fn resources(asked: &mut Asked<'_>) {
    let run = asked.post(RECOMPUTE, "/api/v1/views/by_status/recompute", "", 202);
    let run = format!("/api/v1/runs/{}", run["run_id"].as_str().expect("an id"));
    asked.get(RUN, &run, 200);
    asked.server.sql("REFRESH MATERIALIZED VIEW by_status");
    let ended = asked.server.delete(&run);
    asked.fits("delete", RUN, 409, &ended);
    asked
        .server
        .ingest("access_log", "ndjson", "{\"status\":500}\n");
    asked.server.sql("FLUSH");
    for path in [
        "/api/v1/streams",
        "/api/v1/views",
        "/api/v1/runs",
        "/api/v1/queries",
    ] {
        let list = asked.get(path, path, 200);
        let name = path.rsplit('/').next().expect("a name");
        let is_empty = list[name].as_array().expect("a list").is_empty();
        assert_eq!(is_empty, name == "queries", "{list}");
        asked.get(path, &format!("{path}?x=1"), 400);
    }
    for path in [
        "/health",
        "/health/readyz",
        "/health/livez",
        "/metrics",
        "/openapi.json",
    ] {
        asked.get(path, path, 200);
        asked.refused_coding(path);
    }
    asked.get(STREAM, "/api/v1/streams/access_log", 200);
    asked.get(STREAM, "/api/v1/streams/nothing", 404);
    let view = asked.get(VIEW, "/api/v1/views/by_status", 200);
    assert_eq!(view["panes"].as_array().expect("panes").len(), 1, "{view}");
    asked.get(VIEW, "/api/v1/views/access_log", 404);
    asked.get(RUN, &run, 200);
    asked.get(RUN, "/api/v1/runs/nothing", 404);
    asked.get(RUN_EVENTS, &format!("{run}/events"), 200);
    asked.get(RUN_EVENTS, &format!("{run}/events?x=1"), 400);
    asked.get(RUN_EVENTS, "/api/v1/runs/nothing/events", 404);
    asked.post(RECOMPUTE, "/api/v1/views/nothing/recompute", "", 404);
    asked.post(VERIFY, "/api/v1/views/by_status/verify", "", 202);
    asked.post(VERIFY, "/api/v1/views/nothing/verify", "", 404);
    let cancelled = asked.server.delete("/api/v1/queries/nothing");
    asked.fits("delete", QUERY, 404, &cancelled);
    let cancelled = asked.server.delete("/api/v1/runs/nothing");
    asked.fits("delete", RUN, 404, &cancelled);
}

fn events(asked: &mut Asked<'_>) {
    let path = "/api/v1/streams/access_log/events";
    let answer = asked.post(EVENTS, path, "{\"status\":1}\n{\"status\":\"x\"}\n", 200);
    assert_eq!(answer["rejected"], 1, "{answer}");
    asked.post(EVENTS, path, "", 200);
    asked.post(EVENTS, path, "{\"status\":\"x\"}", 400);
    asked.post(EVENTS, &format!("{path}?format=xml"), "", 400);
    asked.post(EVENTS, "/api/v1/streams/1/events", "{\"status\":1}", 400);
    for (format, body) in [("csv", "status\n7\n"), ("auto", "{\"status\":8}")] {
        asked.post(EVENTS, &format!("{path}?format={format}"), body, 200);
    }
    for format in ["arrow", "parquet"] {
        asked.post(EVENTS, &format!("{path}?format={format}"), "no file", 400);
        let rows = asked.server.post(
            &format!("{SQL}?format={format}"),
            &[],
            b"SELECT 9 AS status",
        );
        asked.fits("post", SQL, 200, &rows);
    }
    for (encoding, status) in [("br", 415), ("gzip", 400), ("zstd", 400), ("snappy", 400)] {
        let headers = [("content-encoding", encoding)];
        let answer = asked.server.post(path, &headers, b"{\"status\":1}");
        asked.fits("post", EVENTS, status, &answer);
    }
    let head = asked.server.head(path);
    asked.fits("head", EVENTS, 200, &head);
}

fn sql(asked: &mut Asked<'_>) {
    for format in ["json", "ndjson", "csv", "arrow", "parquet", "table"] {
        let path = format!("{SQL}?format={format}&width=80");
        let statement = "SELECT * FROM by_status ORDER BY status";
        let answer = asked.server.post(&path, &[], statement.as_bytes());
        if !["arrow", "parquet"].contains(&format) {
            assert!(answer.text.contains("404"), "{}", answer.text);
        }
        asked.fits("post", SQL, 200, &answer);
    }
    for (statement, status) in [
        ("SELECT", 400),
        ("SELECT 1/0", 400),
        ("SELECT $1", 400),
        ("SELECT arrow_typeof(now())", 200),
        ("SELECT regexp_like('a', '(')", 400),
        ("COMMENT ON TABLE access_log IS 'requests'", 200),
        (
            "COMMENT ON COLUMN access_log.status IS 'of the answer'",
            200,
        ),
        ("INSERT INTO access_log (status) SELECT 201", 200),
        ("DROP TABLE nothing", 404),
        ("DROP TABLE access_log", 409),
        ("SHOW TABLES", 200),
        ("SELECT count(*) FROM access_log", 200),
        ("EXPLAIN PROVENANCE SELECT * FROM by_status", 200),
        ("EXPLAIN PROVENANCE SHOW TABLES", 400),
        ("EXPLAIN RECOMPUTE by_status", 200),
        ("EXPLAIN RECOMPUTE nothing", 404),
    ] {
        asked.post(SQL, SQL, statement, status);
    }
    let json = [("content-type", "application/json")];
    let small = json!({"query": "SELECT * FROM access_log", "max_rows": 1}).to_string();
    let answer = asked.server.post(SQL, &json, small.as_bytes());
    asked.fits("post", SQL, 422, &answer);
    let named = json!({
        "query": "SELECT n FROM by_status WHERE status = $status",
        "params": {"status": 404},
        "format": "csv",
    });
    let answer = asked.server.post(SQL, &json, named.to_string().as_bytes());
    assert_eq!(answer.text, "n\n1\n");
    asked.fits("post", SQL, 200, &answer);
    let large = "SELECT repeat('the same again', 500) AS x";
    let coding = [("accept-encoding", "zstd"), ("accept", "text/csv")];
    let answer = asked.server.post(SQL, &coding, large.as_bytes());
    assert_eq!(answer.headers["content-encoding"], "zstd");
    asked.fits("post", SQL, 200, &answer);
    let answer = asked
        .server
        .post(SQL, &[("accept", "image/png")], b"SHOW TABLES");
    asked.fits("post", SQL, 406, &answer);
    let answer = asked
        .server
        .post(SQL, &[("content-type", "image/png")], b"x");
    asked.fits("post", SQL, 415, &answer);
    let answer = asked
        .server
        .get("/api/v1/sql?q=SELECT%20*%20FROM%20by_status");
    asked.fits("get", SQL, 200, &answer);
    let answer = asked.server.get("/api/v1/sql");
    asked.fits("get", SQL, 400, &answer);
    let answer = asked.server.get("/api/v1/sql?q=FLUSH");
    asked.fits("get", SQL, 405, &answer);
    let answer = asked
        .server
        .get("/api/v1/sql?q=SELECT%20$1%20AS%20x&params=%5B1%5D&format=ndjson");
    assert_eq!(answer.text, "{\"x\":1}\n");
    asked.fits("get", SQL, 200, &answer);
}

/// A body of several blocks that breaks: what was stored is told beside the error.
fn partial(asked: &mut Asked<'_>) {
    let event = format!("{{\"status\":1,\"pad\":\"{}\"}}", "x".repeat(1000));
    let mut body = String::from("[");
    for _ in 0..BROKEN_BODY_EVENTS {
        body.push_str(&event);
        body.push(',');
    }
    body.push_str("{\"status\"");
    let path = "/api/v1/streams/broken/events?format=json";
    let answer = asked.post(EVENTS, path, &body, 400);
    assert_eq!(
        answer["error"]["code"], "invalid_json",
        "{}",
        answer["error"]
    );
    assert!(answer["accepted"].as_u64() > Some(0), "{answer}");
    let stored = asked.server.value("SELECT count(*) FROM broken");
    assert_eq!(stored, answer["accepted"]);
}

/// No answer repeats a name without end, and each names its request.
fn names(asked: &mut Asked<'_>) {
    let long = "x".repeat(60_000);
    for (method, template, path) in [
        ("get", STREAM, format!("/api/v1/streams/{long}")),
        ("get", VIEW, format!("/api/v1/views/{long}")),
        ("get", RUN, format!("/api/v1/runs/{long}")),
        ("post", EVENTS, format!("/api/v1/streams/{long}/events")),
        ("post", RECOMPUTE, format!("/api/v1/views/{long}/recompute")),
        ("delete", QUERY, format!("/api/v1/queries/{long}")),
    ] {
        let answer = match method {
            "get" => asked.server.get(&path),
            "delete" => asked.server.delete(&path),
            _ => asked.server.post(&path, &[], b"{\"a\":1}"),
        };
        let status = if template == EVENTS { 400 } else { 404 };
        asked.fits(method, template, status, &answer);
        assert!(answer.text.len() < 500, "{}", answer.text.len());
    }
    let mine = [("x-request-id", "mine-1")];
    let answer = asked.server.get_with("/api/v1/streams", &mine);
    assert_eq!(answer.headers["x-request-id"], "mine-1");
}

#[test]
fn answers_are_as_described() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path());
    let description = Description::new(server.get("/openapi.json").json());
    let mut asked = Asked {
        server: &server,
        description: &description,
        seen: Vec::new(),
    };
    resources(&mut asked);
    events(&mut asked);
    sql(&mut asked);
    partial(&mut asked);
    names(&mut asked);
    for (path, method) in description.operations() {
        let is_seen = asked.seen.contains(&(method.as_str(), path.as_str()));
        assert!(is_seen, "{method} {path} is described and not asked here");
    }
}

/// What `LAMBDALAKE_FUZZ` adds to the fuzzer's arguments, such as `--max-examples=300 --seed=7`.
fn longer() -> Vec<String> {
    let given = std::env::var("LAMBDALAKE_FUZZ").unwrap_or_default();
    given.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_fuzzer_finds_no_answer_that_is_not_described() {
    let Some(python) = python("a_fuzzer_finds_no_answer_that_is_not_described") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path());
    let url = server.address();
    let fuzz_seconds = std::env::var("LAMBDALAKE_FUZZ_SECONDS");
    let fuzz_seconds = fuzz_seconds.unwrap_or_else(|_| FUZZ_SECONDS.to_owned());
    let output = Command::new("timeout")
        .args(["--kill-after=5", &fuzz_seconds])
        .arg(python.with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(script("schemathesis.toml"))
        .args(["--no-color", "run", &format!("{url}/openapi.json")])
        .args(longer())
        .env("SCHEMATHESIS_HOOKS", script("hooks.py"))
        // Where it keeps what it learned: nothing may be left in the checkout.
        .current_dir(folder.path())
        .output()
        .expect("the fuzzer runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}: {said}\n{complained}\n{}",
        output.status,
        server.log()
    );
    assert!(said.contains("Tested:"), "{said}");
    assert_eq!(server.get("/health/readyz").status, 200, "{}", server.log());
}
