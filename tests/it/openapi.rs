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

/// A server with the stream and the view that the description's examples name.
fn serve(folder: &std::path::Path) -> Server {
    let server = Server::start(folder, &[]);
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
        answer.json()
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
const SQL: &str = "/api/v1/sql";
const RUN: &str = "/api/v1/runs/{id}";
const QUERY: &str = "/api/v1/queries/{id}";

fn resources(asked: &mut Asked<'_>) {
    let run = asked.post(RECOMPUTE, "/api/v1/views/by_status/recompute", "", 202);
    let run = format!("/api/v1/runs/{}", run["run_id"].as_str().expect("an id"));
    asked.get(RUN, &run, 200);
    asked.server.sql("REFRESH MATERIALIZED VIEW by_status");
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
        "/openapi.json",
    ] {
        asked.get(path, path, 200);
    }
    asked.get(STREAM, "/api/v1/streams/access_log", 200);
    asked.get(STREAM, "/api/v1/streams/nothing", 404);
    let view = asked.get(VIEW, "/api/v1/views/by_status", 200);
    assert_eq!(view["panes"].as_array().expect("panes").len(), 1, "{view}");
    asked.get(VIEW, "/api/v1/views/access_log", 404);
    asked.get(RUN, &run, 200);
    asked.get(RUN, "/api/v1/runs/nothing", 404);
    asked.post(RECOMPUTE, "/api/v1/views/nothing/recompute", "", 404);
    let cancelled = asked.server.delete("/api/v1/queries/nothing");
    asked.fits("delete", QUERY, 404, &cancelled);
}

fn events(asked: &mut Asked<'_>) {
    let path = "/api/v1/streams/access_log/events";
    let answer = asked.post(EVENTS, path, "{\"status\":1}\n{\"status\":\"x\"}\n", 200);
    assert_eq!(answer["rejected"], 1, "{answer}");
    asked.post(EVENTS, path, "", 200);
    asked.post(EVENTS, path, "{\"status\":\"x\"}", 400);
    asked.post(EVENTS, &format!("{path}?format=xml"), "", 400);
    asked.post(EVENTS, "/api/v1/streams/1/events", "{\"status\":1}", 400);
    let brotli = asked.server.post(path, &[("content-encoding", "br")], b"");
    asked.fits("post", EVENTS, 415, &brotli);
    let head = asked.server.head(path);
    asked.fits("head", EVENTS, 200, &head);
}

fn sql(asked: &mut Asked<'_>) {
    for format in ["json", "ndjson", "csv", "arrow", "table"] {
        let path = format!("{SQL}?format={format}");
        let statement = "SELECT * FROM by_status ORDER BY status";
        let answer = asked.server.post(&path, &[], statement.as_bytes());
        if format != "arrow" {
            assert!(answer.text.contains("404"), "{}", answer.text);
        }
        asked.fits("post", SQL, 200, &answer);
    }
    for (statement, status) in [
        ("SELECT", 400),
        ("SELECT 1/0", 400),
        ("DROP TABLE nothing", 404),
        ("DROP TABLE access_log", 409),
        ("SHOW TABLES", 200),
    ] {
        asked.post(SQL, SQL, statement, status);
    }
    let json = [("content-type", "application/json")];
    let small = json!({"query": "SELECT * FROM access_log", "max_rows": 1}).to_string();
    let answer = asked.server.post(SQL, &json, small.as_bytes());
    asked.fits("post", SQL, 422, &answer);
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
    for (path, method) in description.operations() {
        let is_seen = asked.seen.contains(&(method.as_str(), path.as_str()));
        assert!(is_seen, "{method} {path} is described and not asked here");
    }
}

#[test]
fn a_fuzzer_finds_no_answer_that_is_not_described() {
    let Some(python) = python("a_fuzzer_finds_no_answer_that_is_not_described") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = serve(folder.path());
    let url = server.address();
    let output = Command::new("timeout")
        .args(["--kill-after=5", FUZZ_SECONDS])
        .arg(python.with_file_name("schemathesis"))
        .arg("--config-file")
        .arg(script("schemathesis.toml"))
        .args(["--no-color", "run", &format!("{url}/openapi.json")])
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
