//! The client commands, run as a user runs them, against a server that answers by script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde_json::Value;

/// A request as the server saw it.
pub struct Seen {
    /// Method and path with query.
    pub line: String,
    headers: String,
    body: String,
}

/// Answers one request after the other, each on its own connection, and remembers them.
pub struct ScriptedServer {
    pub url: String,
    seen: Receiver<Seen>,
}

impl ScriptedServer {
    /// `answers` are (status, further header line or "", body).
    pub fn start(answers: Vec<(u16, &'static str, &'static str)>) -> ScriptedServer {
        let answers = answers.into_iter().map(|(status, header, body)| {
            let header = match header {
                "" => String::new(),
                header => format!("{header}\r\n"),
            };
            format!(
                "HTTP/1.1 {status} Scripted\r\n{header}content-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            )
        });
        ScriptedServer::raw(answers.collect())
    }

    /// The same for answers as they are on the wire; after each the connection is closed.
    fn raw(answers: Vec<String>) -> ScriptedServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = channel();
        let serve = move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let request = read_request(&stream);
                // Before the answer, which may be the last thing that the client waits for.
                sender.send(request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        };
        thread::Builder::new()
            .name("scripted-server".to_owned())
            .spawn(serve)
            .unwrap();
        ScriptedServer { url, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.try_iter().collect()
    }
}

fn read_request(stream: &TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "request ended");
    }
    let (line, headers) = head.split_once("\r\n").unwrap();
    let headers = headers.to_lowercase();
    let length = headers
        .lines()
        .find_map(|header| header.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    if headers.contains("expect: 100-continue") {
        let mut stream = stream;
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Seen {
        line: line.trim_end_matches(" HTTP/1.1").to_owned(),
        headers,
        body: text(&body),
    }
}

fn lambdalake(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lambdalake"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LAMBDALAKE_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its stdin may have closed it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn rejected_lines_are_lines_of_the_file() {
    let server = ScriptedServer::start(vec![
        (200, "", r#"{"accepted": 2, "rejected": 0, "errors": []}"#),
        (
            400,
            "",
            r#"{"accepted": 0, "rejected": 1,
                "errors": [{"line": 1, "code": "bad_json", "message": "expected a value"}]}"#,
        ),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.ndjson.gz");
    let file = std::fs::File::create(&path).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(b"{\"a\":1}\n{\"a\":2}\n{\"a\":}\n").unwrap();
    gzip.finish().unwrap();

    let path = path.to_str().unwrap();
    let url = server.url.as_str();
    let output = lambdalake(
        &[
            "ingest",
            "my events",
            path,
            "--url",
            url,
            "--no-idempotency-key",
            "--batch-bytes",
            "16",
        ],
        "",
    );
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let expected = format!("{path}:3: expected a value [bad_json]");
    assert_eq!(stderr.trim(), expected);
    let stdout = text(&output.stdout);
    assert!(
        stdout.starts_with("my events: 2 accepted, 1 rejected, "),
        "{stdout}"
    );

    let seen = server.seen();
    let bodies: Vec<&str> = seen.iter().map(|seen| seen.body.as_str()).collect();
    assert_eq!(bodies, ["{\"a\":1}\n{\"a\":2}\n", "{\"a\":}\n"]);
    assert_eq!(
        seen[0].line,
        "POST /api/v1/streams/my%20events/events?format=ndjson"
    );
}

#[test]
fn a_busy_server_gets_the_same_chunk_again() {
    let server = ScriptedServer::start(vec![
        (429, "retry-after: 0", ""),
        (503, "retry-after: 0", ""),
        (200, "", r#"{"accepted": 1, "rejected": 0, "errors": []}"#),
    ]);
    let output = lambdalake(&["ingest", "s", "--url", &server.url], "{\"a\":1}\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let seen = server.seen();
    let key = |seen: &Seen| {
        let mut lines = seen.headers.lines();
        lines
            .find(|line| line.starts_with("idempotency-key: "))
            .map(str::to_owned)
    };
    assert_eq!(seen.len(), 3);
    assert!(key(&seen[0]).is_some());
    assert!(seen.iter().all(|again| key(again) == key(&seen[0])));
    assert!(seen.iter().all(|again| again.body == "{\"a\":1}\n"));
}

#[test]
fn a_server_that_stays_busy_is_exit_code_3() {
    let busy = r#"{"error": {"code": "tail_full", "message": "the tail is full"}}"#;
    let server = ScriptedServer::start(vec![(429, "retry-after: 0", busy); 40]);
    let output = lambdalake(
        &["ingest", "s", "--json", "--url", &server.url],
        "{\"a\":1}\n",
    );
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("error: stdin:1: the tail is full [tail_full]"),
        "{said}"
    );
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["complete"], false);
    assert_eq!(summary["accepted"], 0);
    let tries = server.seen().len();
    assert!((5..40).contains(&tries), "{tries} tries");
}

#[test]
fn a_refused_chunk_ends_the_command_with_its_place() {
    let server = ScriptedServer::start(vec![(
        404,
        "",
        r#"{"error": {"code": "stream_not_found", "message": "no stream s"}}"#,
    )]);
    let output = lambdalake(&["ingest", "s", "--url", &server.url], "{\"a\":1}\n");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr).trim(),
        "error: stdin:1: no stream s [stream_not_found]"
    );
}

#[test]
fn a_file_that_is_not_there_sends_nothing() {
    let output = lambdalake(&["ingest", "s", "-", "/nowhere/a.log"], "{\"a\":1}\n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nowhere/a.log"));
}

#[test]
fn sql_asks_for_ndjson_in_a_pipe_and_streams_it() {
    let server = ScriptedServer::start(vec![(200, "", "{\"n\":18446744073709551615}\n")]);
    let url = server.url.as_str();
    let output = lambdalake(&["sql", "-", "--layer", "batch", "--url", url], "SELECT 1");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "{\"n\":18446744073709551615}\n");
    let seen = server.seen();
    assert_eq!(seen[0].line, "POST /api/v1/sql?format=ndjson");
    let body: Value = serde_json::from_str(&seen[0].body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({"query": "SELECT 1", "layer": "batch"})
    );
}

#[test]
fn an_answer_that_breaks_off_is_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answer");
    let file = path.to_str().unwrap();
    for arguments in [
        ["sql", "SELECT 1"].as_slice(),
        &["sql", "SELECT 1", "--format", "csv", "--output", file],
    ] {
        // A chunked body without its last chunk, as a query that fails late ends.
        let broken = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n{\"n\":1}\n\r\n";
        let server = ScriptedServer::raw(vec![broken.to_owned()]);
        let output = lambdalake(&[arguments, &["--url", &server.url]].concat(), "");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let said = text(&output.stderr);
        assert!(
            said.contains("the rows above are not all of them"),
            "{said}"
        );
        assert!(!path.exists(), "no half of a file");
    }
}

#[test]
fn parameters_and_timeout_are_sent_with_the_query() {
    let server = ScriptedServer::start(vec![(200, "", ""), (200, "", "")]);
    let url = server.url.as_str();
    let query = ["sql", "SELECT $1, $2", "--url", url, "--timeout", "90s"];
    let numbered = [&query[..], &["--param", "1=7", "-p", "2=x"]].concat();
    let named = ["sql", "SELECT $a", "--url", url, "--param", "a=null"];
    for arguments in [&numbered[..], &named] {
        let output = lambdalake(arguments, "");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let bodies: Vec<Value> = server
        .seen()
        .iter()
        .map(|seen| serde_json::from_str(&seen.body).unwrap())
        .collect();
    let timeout_ms = 90_000;
    assert_eq!(
        bodies,
        [
            serde_json::json!({
                "query": "SELECT $1, $2", "params": [7, "x"], "timeout_ms": timeout_ms
            }),
            serde_json::json!({"query": "SELECT $a", "params": {"a": null}}),
        ]
    );
}

#[test]
fn every_chunk_of_csv_begins_with_the_header() {
    const TAKEN: &str = r#"{"accepted": 1, "rejected": 0, "errors": []}"#;
    let bad = r#"{"accepted": 0, "rejected": 1,
        "errors": [{"line": 2, "code": "bad_value", "field": "n", "message": "not a number"}]}"#;
    let server = ScriptedServer::start(vec![(200, "", TAKEN), (400, "", bad)]);
    let url = server.url.as_str();
    let output = lambdalake(
        &["ingest", "s", "--url", url, "--batch-bytes", "12"],
        "t,n\n\"a\nb\",1\nc,x\n",
    );
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stderr),
        "stdin:4: field n: not a number [bad_value]\n"
    );
    let seen = server.seen();
    assert!(seen[0].line.ends_with("?format=csv"), "{}", seen[0].line);
    let bodies: Vec<&str> = seen.iter().map(|seen| seen.body.as_str()).collect();
    assert_eq!(bodies, ["t,n\n\"a\nb\",1\n", "t,n\nc,x\n"]);
}

#[test]
fn parquet_and_arrow_are_streamed_as_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let filler = "x".repeat(3 << 20);
    for (format, magic, compressed) in [
        ("parquet", "PAR1", false),
        ("parquet", "PAR1", true),
        ("arrow", "ARROW1", false),
    ] {
        let bytes = format!("{magic}{filler}");
        let path = folder.path().join("some-file");
        match compressed {
            true => std::fs::write(&path, zstd::encode_all(bytes.as_bytes(), 1).unwrap()),
            false => std::fs::write(&path, &bytes),
        }
        .unwrap();
        let server = ScriptedServer::start(vec![
            (503, "retry-after: 0", ""),
            (200, "", r#"{"accepted": 9, "rejected": 0, "errors": []}"#),
        ]);
        let path = path.to_str().unwrap();
        let output = lambdalake(&["ingest", "s", path, "--url", &server.url, "--json"], "");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["accepted"], 9);
        assert_eq!(summary["bytes"], bytes.len());
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        for again in seen {
            assert!(again.line.ends_with(&format!("?format={format}")));
            assert!(again.headers.contains("expect: 100-continue"));
            assert!(again.body == bytes, "{} bytes came", again.body.len());
        }
    }
}

#[test]
fn sql_prints_the_error_of_the_server() {
    let server = ScriptedServer::start(vec![(
        400,
        "",
        r#"{"error": {"code": "plan", "message": "no column x"}, "query_id": "1"}"#,
    )]);
    let output = lambdalake(&["sql", "SELECT x", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "error: no column x [plan]\n");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_server_that_is_not_there_is_exit_code_3() {
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{address}");
    for arguments in [
        ["sql", "SELECT 1"].as_slice(),
        &["status"],
        &["recompute", "v"],
    ] {
        let output = lambdalake(&[arguments, &["--url", &url]].concat(), "");
        assert_eq!(output.status.code(), Some(3), "{arguments:?}");
        assert!(text(&output.stderr).starts_with("error: cannot reach http://"));
    }
}

const EVENTS: &str = "content-type: text/event-stream";

const FAILED: &str = "event:end\ndata:{\"status\":\"failed\",\"error\":\"audit differs\"}\n\n";

#[test]
fn recompute_follows_the_run_to_its_end() {
    let server = ScriptedServer::start(vec![
        (202, "", r#"{"run_id": "r7"}"#),
        // Broken off in the middle of an event, as when the server restarts.
        (
            200,
            EVENTS,
            "event:progress\ndata:{\"status\":\"running\",\"rows_read\":1}\n\nevent:end\ndata:{",
        ),
        (
            503,
            "retry-after: 0",
            r#"{"error": {"code": "starting", "message": "wait"}}"#,
        ),
        (
            200,
            EVENTS,
            ":\n\nevent:end\ndata:{\"status\":\"succeeded\",\"rows_read\":1200,\
             \"duration_ms\":1500,\"audit\":\"equal\"}\n\n",
        ),
    ]);
    let output = lambdalake(&["recompute", "v", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "v: run r7 succeeded, 1,200 rows in 1.5 s, audit: equal\n"
    );
    let lines: Vec<String> = server.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(
        lines,
        [
            "POST /api/v1/views/v/recompute",
            "GET /api/v1/runs/r7/events",
            "GET /api/v1/runs/r7/events",
            "GET /api/v1/runs/r7/events"
        ]
    );
}

#[test]
fn a_failed_run_does_not_keep_other_views_from_theirs() {
    let server = ScriptedServer::start(vec![
        (200, "", r#"{"views": [{"name": "v"}, {"name": "w"}]}"#),
        (202, "", r#"{"run_id": "r1"}"#),
        (200, EVENTS, FAILED),
        (202, "", r#"{"run_id": "r2"}"#),
        (
            200,
            EVENTS,
            "event:end\ndata:{\"status\":\"succeeded\",\"rows_read\":5,\"duration_ms\":10}\n\n",
        ),
    ]);
    let output = lambdalake(&["recompute", "--all", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("run r1 of v failed: audit differs"));
    assert_eq!(
        text(&output.stdout),
        "w: run r2 succeeded, 5 rows in 0.0 s\n"
    );
}

#[test]
fn a_failed_run_is_exit_code_1() {
    let server = ScriptedServer::start(vec![
        (202, "", r#"{"run_id": "r7"}"#),
        (200, EVENTS, FAILED),
    ]);
    let output = lambdalake(&["recompute", "v", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: run r7 of v failed: audit differs\n"
    );
}

#[test]
fn a_server_that_tells_nothing_of_a_run_is_given_up() {
    let mut answers = vec![(202, "", r#"{"run_id": "r7"}"#)];
    answers.extend([(200, EVENTS, ":\n\n"); 4]);
    let server = ScriptedServer::start(answers);
    let output = lambdalake(&["recompute", "v", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("it ends without telling anything"), "{said}");

    let server = ScriptedServer::start(vec![
        (202, "", r#"{"run_id": "r7"}"#),
        (
            404,
            "",
            r#"{"error": {"code": "unknown_run", "message": "no r7"}}"#,
        ),
    ]);
    let output = lambdalake(&["recompute", "v", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "error: no r7 [unknown_run]\n");
}

#[test]
fn status_shows_what_there_is() {
    let server = ScriptedServer::start(vec![
        (200, "", r#"{"status": "ok"}"#),
        (
            200,
            "",
            r#"{"streams": [{"name": "access_log", "rows": 1000}]}"#,
        ),
        (200, "", r#"{"views": []}"#),
        (200, "", r#"{"runs": []}"#),
    ]);
    let output = lambdalake(&["status", "--url", &server.url], "");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "health: ok\n\nstreams\n  name         rows\n  access_log  1,000\n\n\
         views\n  none\n\nruns\n  none\n"
    );
}

#[test]
fn a_bad_settings_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lambdalake.toml");
    std::fs::write(&path, "flush_byte = 1").unwrap();
    let path = path.to_str().unwrap();
    let output = lambdalake(&["serve", "--config", path], "");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        format!(
            "error: {path}: unknown setting `flush_byte` in the settings file; did you mean \
             `flush_bytes`?\n"
        )
    );
}
