//! The client commands and the shell against the real server.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::client::ScriptedServer;
use crate::server::Server;

/// Plays steps on a terminal; see the file for what a step is.
const TERMINAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/terminal.py");

fn command(program: &str, url: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LAMBDALAKE_")) {
        command.env_remove(name);
    }
    command.env("LAMBDALAKE_URL", url).env("TERM", "xterm");
    command
}

pub fn run(url: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = command(env!("CARGO_BIN_EXE_lambdalake"), url)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    // A command that does not read its input may end before all of it is written.
    child.stdin.take().expect("a pipe").write_all(input).ok();
    child.wait_with_output().expect("an end")
}

/// Stdout of a command that must end with this code.
#[track_caller]
pub fn out(output: &Output, code: i32) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}\n{}", err(output));
    text
}

pub fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn start(folder: &Path) -> (Server, String) {
    let server = Server::start(folder, &["--flush-age", "1h"]);
    let url = server.address();
    (server, url)
}

#[test]
fn files_of_every_compression_are_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(folder.path());
    let events: String = (0..500).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(events.as_bytes()).expect("gzip");
    let mut snappy = snap::write::FrameEncoder::new(Vec::new());
    snappy.write_all(events.as_bytes()).expect("snappy");
    let document = format!("[{}]", events.trim_end().replace('\n', ","));
    let files = [
        ("events.ndjson", events.clone().into_bytes()),
        ("events.ndjson.gz", gzip.finish().expect("gzip")),
        (
            "events.zst",
            zstd::encode_all(events.as_bytes(), 1).expect("zstd"),
        ),
        ("events.sz", snappy.into_inner().expect("snappy")),
        ("document.json", document.clone().into_bytes()),
        (
            "document.json.zst",
            zstd::encode_all(document.as_bytes(), 1).expect("zstd"),
        ),
    ];
    let mut arguments = vec!["ingest", "s", "--batch-bytes", "1KiB", "--json"];
    arguments.push("--no-idempotency-key");
    let paths: Vec<String> = files
        .iter()
        .map(|(name, bytes)| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("a file");
            path.to_str().expect("a name").to_owned()
        })
        .collect();
    arguments.extend(paths.iter().map(String::as_str));
    let summary: Value = serde_json::from_str(&out(&run(&url, &arguments, b""), 0)).expect("json");
    assert_eq!(summary["accepted"], 3_000, "{summary}");
    assert_eq!(summary["rejected"], 0);
    assert_eq!(summary["complete"], true);
    let wanted = json!({"rows": 3_000, "sum": 6 * (0..500).sum::<i64>(), "ns": 500});
    let rows =
        server.rows("SELECT count(*) AS rows, sum(n) AS sum, count(DISTINCT n) AS ns FROM s");
    assert_eq!(rows, [wanted]);
}

#[test]
fn what_sql_writes_ingest_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(&folder.path().join("data"));
    let events: String = (0..500)
        .map(|n| format!("{{\"n\": {n}, \"t\": \"a \\\"{n}\\\",\\nb\"}}\n"))
        .collect();
    server.ingest("s", "ndjson", &events);
    for format in ["ndjson", "csv", "arrow", "parquet"] {
        let path = folder.path().join(format!("answer.{format}"));
        let file = path.to_str().expect("a name");
        let all = "SELECT n, t FROM s";
        let sql = ["sql", "--format", format, "-o", file, all];
        out(&run(&url, &sql, b""), 0);
        let stream = format!("from_{format}");
        let ingest = [
            "ingest",
            &stream,
            file,
            "--batch-bytes",
            "1KiB",
            "--no-idempotency-key",
        ];
        out(&run(&url, &ingest, b""), 0);
        // The same command again stores nothing twice.
        let keyed = format!("keyed_{format}");
        let again = ["ingest", &keyed, file];
        out(&run(&url, &again, b""), 0);
        out(&run(&url, &again, b""), 0);
        for stream in [stream, keyed] {
            let sums = format!("SELECT count(*) AS rows, sum(n) AS n, max(t) AS t FROM {stream}");
            let wanted = json!({"rows": 500, "n": 500 * 499 / 2, "t": "a \"99\",\nb"});
            assert_eq!(server.rows(&sums), [wanted], "{stream}");
        }
    }
    let bound = [
        "sql",
        "--param",
        "1=499",
        "SELECT count(*) AS n FROM s WHERE n >= $1",
    ];
    assert_eq!(out(&run(&url, &bound, b""), 0), "{\"n\":1}\n");
    let named = [
        "sql",
        "--param",
        "least=498",
        "SELECT count(*) AS n FROM s WHERE n >= $least",
    ];
    assert_eq!(out(&run(&url, &named, b""), 0), "{\"n\":2}\n");
}

#[test]
fn the_commands_work_on_a_real_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(folder.path());
    let generate = ["generate", "access-log", "--events", "300", "--seed", "5"];
    let log = run(&url, &generate, b"").stdout;
    assert_eq!(log.split_inclusive(|byte| *byte == b'\n').count(), 300);
    assert_eq!(run(&url, &generate, b"").stdout, log, "the same seed");

    // One bad line among good ones: the good ones are kept, the exit code tells.
    let input = [&log[..], b"broken\n"].concat();
    let mixed = run(
        &url,
        &["ingest", "logs", "--format", "combined", "-"],
        &input,
    );
    out(&mixed, 2);
    assert!(err(&mixed).contains("stdin:301: "), "{}", err(&mixed));
    assert_eq!(server.value("SELECT count(*) FROM logs"), 300);

    for (view, key) in [("v", "status"), ("w", "method")] {
        let sql = format!(
            "CREATE MATERIALIZED VIEW {view} AS SELECT {key}, count(*) AS n FROM logs GROUP BY {key}"
        );
        out(&run(&url, &["sql", &sql], b""), 0);
    }
    let all = out(&run(&url, &["recompute", "--all"], b""), 0);
    assert!(all.contains("v: run") && all.contains("w: run"), "{all}");
    let sum = [
        "sql",
        "--layer",
        "batch",
        "--format",
        "csv",
        "SELECT sum(n) AS n FROM v",
    ];
    assert_eq!(out(&run(&url, &sum, b""), 0), "n\n300\n");
    assert!(out(&run(&url, &["recompute", "v"], b""), 0).starts_with("v: run "));

    let status = out(&run(&url, &["status"], b""), 0);
    for word in [
        "health: ok",
        "logs",
        "300",
        "freshness",
        "last run",
        "succeeded ",
        " ago in ",
    ] {
        assert!(status.contains(word), "{word}: {status}");
    }
    let status = out(&run(&url, &["status", "--json"], b""), 0);
    let status: Value = serde_json::from_str(&status).expect("json");
    assert_eq!(status["health"]["ready"], true);
    assert_eq!(
        (&status["problems"], &status["runs"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(status["streams"][0]["rows"], 300);
    assert_eq!(status["views"][1]["name"], "w");
}

#[test]
fn what_goes_wrong_sets_the_exit_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(folder.path());
    for arguments in [
        &["sql", "SELEC 1"][..],
        &["sql", "SELECT * FROM nowhere"],
        &["sql", ""],
        &["sql", "--param", "x", "SELECT 1"],
        &["recompute", "nowhere"],
        &["recompute"],
        &["recompute", "v", "--all"],
        &["ingest", "s", "/no/such/file"],
        &["ingest", "s", "--idempotency-key", "a b"],
        &["ingest"],
        &["serve", "--flush-rows", "none"],
    ] {
        let output = run(&url, arguments, b"");
        out(&output, 2);
        assert!(err(&output).contains("error"), "{arguments:?}");
    }
    let bad = run(
        &url,
        &["sql", "SELECT 1,\n  nope FROM (VALUES (1)) AS t(x)"],
        b"",
    );
    out(&bad, 2);
    assert!(err(&bad).contains("nope"), "{}", err(&bad));
    let syntax = run(&url, &["sql", "SELECT 1\nFROM logs )"], b"");
    assert!(
        err(&syntax).contains("LINE 2: FROM logs )\n"),
        "{}",
        err(&syntax)
    );
    server.stop();
    for arguments in [
        &["sql", "SELECT 1"][..],
        &["status"],
        &["recompute", "--all"],
    ] {
        let output = run(&url, arguments, b"");
        out(&output, 3);
        assert!(err(&output).contains(url.trim_start_matches("http://")));
    }
}

#[test]
fn a_script_stops_at_its_first_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(folder.path());
    let script = b"-- makes a stream; and asks it
CREATE TABLE s (n BIGINT);
SELECT count(*) AS n
  FROM s; SELECT 'a;b' AS t;
\\x on
SELECT 7 AS seven;
";
    assert_eq!(
        out(&run(&url, &["sql"], script), 0),
        "{\"result\":\"stream s created\"}\n{\"n\":0}\n{\"t\":\"a;b\"}\n\
         -[ ROW 1 ]---------\nseven | 7\n"
    );
    let broken =
        b"CREATE TABLE t (n BIGINT);\n\nSELECT 1,\n  FROM t );\nCREATE TABLE u (n BIGINT);";
    let output = run(&url, &["sql", "-"], broken);
    out(&output, 2);
    let said = err(&output);
    assert!(said.starts_with("error: line 4: "), "{said}");
    assert!(said.contains("LINE 4:   FROM t )\n"), "{said}");
    let tables = server.get("/api/v1/streams").text;
    assert!(
        tables.contains("\"t\"") && !tables.contains("\"u\""),
        "{tables}"
    );
    let output = run(&url, &["sql"], b"SELECT 1;\n\\nope\n");
    out(&output, 2);
    assert!(
        err(&output).starts_with("error: line 2: "),
        "{}",
        err(&output)
    );
}

#[test]
fn an_output_file_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_server, url) = start(&folder.path().join("data"));
    let path = folder.path().join("answer.csv");
    let file = path.to_str().expect("a name");
    let ask = |sql: &str| {
        run(
            &url,
            &["sql", "--format", "csv", "--output", file, sql],
            b"",
        )
    };
    assert_eq!(
        out(&ask("SELECT 1 AS n UNION ALL SELECT 2 ORDER BY n"), 0),
        ""
    );
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "n\n1\n2\n");
    out(&ask("SELECT nope"), 2);
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "n\n1\n2\n");

    let path = folder.path().join("answer.arrow");
    let file = path.to_str().expect("a name");
    let arrow = ["sql", "--format", "arrow", "-o", file];
    let two = [&arrow[..], &["SELECT 1; SELECT 2"]].concat();
    let refused = run(&url, &two, b"");
    out(&refused, 2);
    assert!(
        err(&refused).contains("a file of its own"),
        "{}",
        err(&refused)
    );
    assert!(!path.exists());
    out(&run(&url, &[&arrow[..], &["SELECT 1"]].concat(), b""), 0);
    assert!(std::fs::metadata(&path).expect("a file").len() > 100);
}

#[test]
fn the_demo_ends_by_itself() {
    let demo = [
        "demo",
        "--once",
        "--events",
        "5000",
        "--listen",
        "127.0.0.1:0",
    ];
    let said = out(&run("http://127.0.0.1:1", &demo, b""), 0);
    assert!(said.contains("5000") || said.contains("5,000"), "{said}");
}

#[test]
fn every_command_shows_examples() {
    for command in [
        "serve",
        "ingest",
        "sql",
        "recompute",
        "runs",
        "status",
        "verify",
        "demo",
    ] {
        let help = out(&run("http://127.0.0.1:1", &[command, "--help"], b""), 0);
        let example = format!("lambdalake {command}");
        assert!(
            help.contains("Examples:") && help.contains(&example),
            "{help}"
        );
    }
    let help = ["generate", "access-log", "--help"];
    assert!(out(&run("http://127.0.0.1:1", &help, b""), 0).contains("Examples:"));
}

/// What was on the terminal while the steps were played; `None` after saying that the test is
/// skipped.
pub fn play(
    test: &str,
    url: &str,
    history: &Path,
    arguments: &[&str],
    steps: &[(&str, &str)],
) -> Option<String> {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("SKIPPED: {test}: there is no python3 for a terminal");
        return None;
    }
    let output = command("python3", url)
        .env("LAMBDALAKE_HISTORY", history)
        .arg(TERMINAL)
        .arg(json!(steps).to_string())
        .arg(env!("CARGO_BIN_EXE_lambdalake"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("python3");
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{screen}\n{}", err(&output));
    Some(screen)
}

#[test]
fn a_session_in_the_shell() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(&folder.path().join("data"));
    server.ingest("logs", "ndjson", "{\"status\": 200}\n{\"status\": 404}\n");
    let history = folder.path().join("state/history");
    let saved = folder.path().join("saved.csv");
    let script = folder.path().join("script.sql");
    std::fs::write(&script, "SELECT 40 + 2 AS included;\n").expect("a file");
    let view = "CREATE MATERIALIZED VIEW by_status AS\rSELECT status, count(*) AS n\r\
                FROM logs GROUP BY status;\r";
    let steps = [
        ("type", view),
        ("expect", "view by_status created"),
        // The new name is completed, in the new view.
        ("type", "SELECT * FROM by_st\t ORDER BY status;\r"),
        ("expect", "|    200 | 1 |"),
        ("expect", "(2 rows)"),
        ("type", "\\timing\r"),
        ("expect", "timing is on"),
        ("type", "\\x on\r"),
        ("expect", "expanded display is on"),
        ("type", "SELECT sum(n) AS total FROM by_status;\r"),
        ("expect", "-[ ROW 1 ]"),
        ("expect", "total | 2"),
        ("expect", "from speed)"),
        ("type", "\\x off\r"),
        ("expect", "expanded display is off"),
        ("type", "\\timing off\r"),
        ("expect", "timing is off"),
        ("type", "SELECT oops\rFROM logs;\r"),
        ("expect", "error: "),
        ("type", "SELECT 1\rFROM logs );\r"),
        ("expect", "LINE 2: FROM logs )"),
        ("expect", "^"),
        ("type", "\\d\r"),
        ("expect", "by_status  view"),
        ("type", "\\d by_status\r"),
        ("expect", "view by_status over logs"),
        ("expect", "definition:"),
        ("type", "\\dv\r"),
        ("expect", "stream"),
        ("type", "\\l\r"),
        ("expect", "shards"),
        ("type", "REFRESH MATERIALIZED VIEW by_status;\r"),
        ("expect", "(1 row)"),
        ("type", "\\layer speed\r"),
        ("expect", "layer is speed"),
        ("type", "SELECT * FROM by_status;\r"),
        ("expect", "(0 rows)"),
        ("type", "\\layer merged\r"),
        ("expect", "layer is merged"),
        ("type", &format!("\\i {}\r", script.display())),
        ("expect", "|       42 |"),
        ("type", "\\format csv\r"),
        ("expect", "format is csv"),
        ("type", &format!("\\o {}\r", saved.display())),
        ("type", "SELECT 1 AS kept;\r"),
        ("type", "\\o\r"),
        ("type", "\\format arrow\r"),
        ("expect", "format is arrow"),
        ("type", "SELECT 1;\r"),
        ("expect", "arrow is binary"),
        // Typed and thought better of.
        ("type", "SELECT 'abc\u{3}"),
        ("type", "\\?\r"),
        ("expect", "\\timing [on|off]"),
        ("type", "\u{4}"),
    ];
    let Some(screen) = play("a_session_in_the_shell", &url, &history, &["sql"], &steps) else {
        return;
    };
    assert!(screen.ends_with("exit 0\n"), "{screen}");
    let saved = std::fs::read_to_string(saved).expect("the output");
    assert_eq!(saved, "kept\n1\n");
    let history = std::fs::read_to_string(history).expect("the history");
    assert!(
        history.contains("SELECT sum(n) AS total FROM by_status;"),
        "{history}"
    );
}

#[test]
fn ctrl_c_cancels_the_query_and_not_the_shell() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, url) = start(&folder.path().join("data"));
    let events: String = (0..5_000).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    server.ingest("s", "ndjson", &events);
    let queries = format!("{url}/api/v1/queries");
    let steps = [
        (
            "type",
            "SELECT count(*) FROM s a, s b, s c WHERE a.n + b.n + c.n < 0;\r",
        ),
        ("until", &format!("{queries} a.n + b.n")),
        ("send", "\u{3}"),
        ("expect", "the query was cancelled"),
        ("type", "SELECT count(*) + 1 AS still FROM s;\r"),
        ("expect", "|  5001 |"),
        ("until", &format!("{queries} \"queries\":[]")),
        ("type", "\\q\r"),
    ];
    let history = folder.path().join("history");
    let test = "ctrl_c_cancels_the_query_and_not_the_shell";
    if let Some(screen) = play(test, &url, &history, &["sql"], &steps) {
        assert!(screen.ends_with("exit 0\n"), "{screen}");
    }
}

#[test]
fn a_shell_without_a_server_ends_with_code_3() {
    let folder = tempfile::tempdir().expect("a folder");
    let history = folder.path().join("history");
    let steps = [("expect", "error: cannot reach")];
    let url = "http://127.0.0.1:9";
    let test = "a_shell_without_a_server_ends_with_code_3";
    if let Some(screen) = play(test, url, &history, &["sql"], &steps) {
        assert!(screen.ends_with("exit 3\n"), "{screen}");
    }
}

#[test]
fn a_table_is_asked_for_in_the_width_of_the_terminal() {
    let server = ScriptedServer::start(vec![(200, "", "drawn by the server\n")]);
    let folder = tempfile::tempdir().expect("a folder");
    let history = folder.path().join("history");
    let test = "a_table_is_asked_for_in_the_width_of_the_terminal";
    let steps = [("expect", "drawn by the server")];
    let query = ["sql", "SELECT 1"];
    if let Some(screen) = play(test, &server.url, &history, &query, &steps) {
        assert!(screen.ends_with("exit 0\n"), "{screen}");
        let asked = server.seen();
        assert_eq!(asked[0].line, "POST /api/v1/sql?format=table&width=100");
    }
}
