//! `lambdalake ingest` run again on the same files, after whatever ended it the first time.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::server::Server;
use super::settings::until;

fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lambdalake"));
    command.args(arguments).env("LAMBDALAKE_URL", url);
    command
}

fn ingest(server: &Server, arguments: &[&str]) -> Output {
    let all = [&["ingest", "s"], arguments].concat();
    command(&server.address(), &all).output().expect("it runs")
}

/// As [`ingest`], which must end well.
fn stored(server: &Server, arguments: &[&str]) -> u64 {
    let output = ingest(server, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    count(server)
}

fn count(server: &Server) -> u64 {
    let answer = server.try_sql("SELECT count(*) AS n FROM s").json();
    answer["data"][0]["n"].as_u64().unwrap_or(0)
}

fn lines(from: u64, to: u64) -> String {
    let pad = "x".repeat(80);
    (from..to)
        .map(|n| format!("{{\"n\": {n}, \"pad\": \"{pad}\"}}\n"))
        .collect()
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

#[test]
fn a_command_that_was_killed_is_completed_by_the_next_one() {
    const ROWS: u64 = 250_000;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let flags = ["--flush-rows", "20000", "--log-segment-bytes", "1"];
    let file = folder.path().join("events.ndjson");
    write(&file, &lines(0, ROWS));
    let file = file.to_str().expect("a name");
    let begin = |server: &Server| {
        let mut command = command(&server.address(), &["ingest", "s", file]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("it runs")
    };
    let wait_for = |server: &Server, rows: u64| until("rows", || count(server) >= rows);
    let server = Server::start(&data, &flags);
    let mut killed = begin(&server);
    wait_for(&server, 1);
    killed.kill().expect("killed");
    killed.wait().expect("ended");
    let first = count(&server);
    assert!(first > 0 && first < ROWS, "{first}");

    // This time the server goes, and the command with it.
    let mut orphan = begin(&server);
    wait_for(&server, first + 1);
    server.kill();
    let status = orphan.wait().expect("ended");
    assert_eq!(status.code(), Some(3), "the server is gone");

    let server = Server::start(&data, &flags);
    let second = count(&server);
    assert!(second > first && second < ROWS, "{second}");
    assert_eq!(stored(&server, &[file]), ROWS);
    assert_eq!(stored(&server, &[file]), ROWS);
    let sums = server.rows("SELECT count(DISTINCT n) AS d, sum(n) AS s FROM s");
    assert_eq!(sums, [json!({"d": ROWS, "s": ROWS * (ROWS - 1) / 2})]);
}

#[test]
fn a_file_that_has_changed_is_told_from_another_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&folder.path().join("data"), &[]);
    let path = folder.path().join("events.ndjson");
    let file = path.to_str().expect("a name");
    write(&path, &lines(0, 100));
    assert_eq!(stored(&server, &[file]), 100);
    assert_eq!(stored(&server, &[file, "--format", "ndjson"]), 100);

    write(&path, &lines(0, 150));
    let grown = ingest(&server, &[file]);
    let said = String::from_utf8_lossy(&grown.stderr).into_owned();
    assert_eq!(grown.status.code(), Some(2), "{said}");
    for part in [
        file,
        "has changed",
        "--no-idempotency-key",
        "idempotency_key_reused",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(count(&server), 100, "nothing of it is stored");
    // A file of more than one request has grown: its beginning is known, its end is not.
    let long = folder.path().join("long.ndjson");
    let long_file = long.to_str().expect("a name");
    write(&long, &lines(0, 60_000));
    assert_eq!(stored(&server, &[long_file]), 60_100);
    write(&long, &lines(0, 60_001));
    let grown = ingest(&server, &[long_file]);
    let said = String::from_utf8_lossy(&grown.stderr).into_owned();
    assert_eq!(grown.status.code(), Some(2), "{said}");
    assert!(said.contains("somewhere from line 4"), "{said}");
    assert_eq!(count(&server), 60_100);

    // Another log after a rotation, and the same path by another name for the load.
    write(&path, &lines(1_000_000, 1_000_100));
    assert_eq!(stored(&server, &[file]), 60_200);
    let again = ingest(&server, &[file]);
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(
        said.contains("100 accepted (100 of them stored before)"),
        "{said}"
    );
    let load = [file, "--idempotency-key", "load-2"];
    assert_eq!(stored(&server, &load), 60_300);
    assert_eq!(stored(&server, &load), 60_300);
    // Named twice it is sent twice, and only once in all.
    assert_eq!(stored(&server, &[file, file]), 60_400);
    assert_eq!(stored(&server, &[file, file]), 60_400);
    let again = [file, "--no-idempotency-key"];
    assert_eq!(stored(&server, &again), 60_500);
    assert_eq!(stored(&server, &again), 60_600);

    for bad in [
        &[file, "--batch-bytes", "1KiB"][..],
        &["-", "--idempotency-key", "k", "--batch-bytes", "1KiB"],
        &[file, "--idempotency-key", "k", "--no-idempotency-key"],
    ] {
        assert_eq!(ingest(&server, bad).status.code(), Some(2), "{bad:?}");
    }
    assert_eq!(count(&server), 60_600);
}

#[test]
fn stdin_is_another_input_each_time_unless_it_has_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let pipe = |arguments: &[&str]| {
        let all = [&["ingest", "s"], arguments].concat();
        let mut child = command(&server.address(), &all)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("it runs");
        let mut input = child.stdin.take().expect("piped");
        std::io::Write::write_all(&mut input, lines(0, 10).as_bytes()).expect("sent");
        drop(input);
        assert!(child.wait().expect("ended").success());
        count(&server)
    };
    assert_eq!((pipe(&[]), pipe(&[])), (10, 20));
    let key = ["--idempotency-key", "k"];
    assert_eq!((pipe(&key), pipe(&key)), (30, 30));
}
