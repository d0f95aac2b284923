//! Request ids: taken over, answered, and on every line that a request's work writes.

use serde_json::Value;

use super::server::Server;

fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let parsed = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    parsed.collect()
}

/// Waits for a line: the log is read in another thread.
fn line_of(server: &Server, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        if let Some(line) = lines(server).into_iter().find(|line| is_it(line)) {
            return line;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("no line {what} in\n{}", server.log());
}

fn id_of(line: &Value) -> &str {
    line["span"]["request_id"].as_str().unwrap_or_default()
}

#[test]
fn a_sane_request_id_is_taken_over_and_any_other_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let answered = |given: &str| {
        let answer = server.post("/api/v1/sql", &[("x-request-id", given)], b"SELECT 1");
        answer.headers["x-request-id"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(answered("trace-1/abc"), "trace-1/abc");
    let long = "x".repeat(129);
    for odd in ["two words", &long] {
        let made = answered(odd);
        assert!(made != odd && !made.is_empty() && made.len() < 64, "{made}");
    }
    // Errors and unknown paths have one too.
    assert!(
        server
            .get("/no/such/path")
            .headers
            .contains_key("x-request-id")
    );
    // Two requests may share an id, two queries never do.
    let query_id = || {
        let answer = server.post("/api/v1/sql", &[("x-request-id", "same")], b"SELECT 1");
        answer.headers["x-query-id"]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_ne!(query_id(), query_id());
}

#[test]
fn lines_of_a_request_name_it_on_every_runtime() {
    let folder = tempfile::tempdir().expect("a folder");
    let level = "info,lambdalake_serving=debug,datafusion_optimizer=debug";
    let server = Server::start(
        folder.path(),
        &["--log-format", "json", "--log-level", level],
    );
    server.ingest("s", "ndjson", "{\"a\": 1}\n");
    let sql = "SELECT 'hunter2' AS secret, count(*) FROM s";
    server.post(
        "/api/v1/sql",
        &[("x-request-id", "planned")],
        sql.as_bytes(),
    );
    line_of(&server, "of the planner, on the compute runtime", |line| {
        let target = line["target"].as_str().unwrap_or_default();
        target.starts_with("datafusion") && id_of(line) == "planned"
    });

    server.post(
        "/api/v1/sql",
        &[("x-request-id", "refused")],
        b"SELECT nothing FROM s",
    );
    let refused = line_of(&server, "of the refusal", |line| {
        line["code"] == "plan_error"
    });
    assert_eq!(id_of(&refused), "refused", "{refused}");

    server.post(
        "/api/v1/streams/s/events",
        &[("x-request-id", "sent")],
        b"{\"a\": 2}",
    );
    let access = line_of(&server, "of access", |line| {
        line["message"] == "request answered" && id_of(line) == "sent"
    });
    assert_eq!(access["status"], 200, "{access}");
    assert_eq!(
        access["span"]["route"], "/api/v1/streams/{stream}/events",
        "{access}"
    );
    assert_eq!(access["level"], "DEBUG", "{access}");
    let ours = |line: &&Value| {
        line["target"]
            .as_str()
            .is_some_and(|t| t.starts_with("lambdalake"))
    };
    let told = lines(&server)
        .iter()
        .filter(ours)
        .any(|line| line.to_string().contains("hunter2"));
    assert!(!told, "our lines repeat no text of a client");
}

#[test]
fn an_error_in_the_writer_names_its_requests() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--log-segment-bytes", "1", "--log-format", "json"];
    let server = Server::start(folder.path(), &flags);
    server.ingest("s", "ndjson", "{\"a\": 1}\n");
    let log = std::fs::read_dir(folder.path().join("log"))
        .expect("logs")
        .next();
    let log = log.expect("a log").expect("an entry").path();
    std::fs::remove_dir_all(&log).expect("removed");
    std::fs::write(&log, "a file").expect("written");
    let path = "/api/v1/streams/s/events";
    assert_eq!(
        server
            .post(path, &[("x-request-id", "lost")], b"{\"a\": 2}")
            .status,
        503
    );
    line_of(&server, "of the writer", |line| {
        line["level"] == "ERROR"
            && line["requests"]
                .as_str()
                .is_some_and(|requests| requests.contains("\"lost\""))
    });
    line_of(&server, "of the failed request", |line| {
        line["level"] == "ERROR" && id_of(line) == "lost"
    });
    let access = line_of(&server, "of access", |line| {
        line["message"] == "request answered"
    });
    assert_eq!(
        (&access["level"], &access["status"]),
        (&"INFO".into(), &503.into())
    );
}
