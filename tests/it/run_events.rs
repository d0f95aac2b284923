//! Runs as server-sent events, on the real binary: what they tell, when they end, how many there may
//! be, and what the client shows of them.

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::cli::play;
use crate::server::Server;

/// Events of each file of the master dataset. The last one is read by one thread, however many there
/// are, batch by batch: a run that is cancelled ends with the batch that it is at.
const FILE_ROWS: [u64; 4] = [100, 100, 100, 300_000];

/// Streams of events that one server keeps open.
const MAX_STREAMS: usize = 64;

/// A server on which the view `slow` is being recomputed, for minutes, and a run of `quick` waits
/// for it. Gives the ids of both runs.
pub fn start(folder: &Path) -> (Server, String, String) {
    let server = Server::start(folder, &["--flush-age", "1h"]);
    for rows in FILE_ROWS {
        let line = |k: u64| format!("{{\"k\": {}}}\n", 100_000 + k);
        server.ingest("s", "ndjson", &(0..rows).map(line).collect::<String>());
        server.sql("FLUSH s");
    }
    let create = |name: &str, repeated: u64| {
        server.sql(&format!(
            "CREATE MATERIALIZED VIEW {name} AS SELECT k % 100 AS k, count(*) AS n, \
             max(encode(sha256(repeat(CAST(k AS VARCHAR), {repeated})), 'hex')) AS hash \
             FROM s GROUP BY k % 100"
        ));
        newest_run(&server, name)
    };
    let (slow, quick) = (create("slow", 1_000), create("quick", 1));
    (server, slow, quick)
}

pub fn newest_run(server: &Server, view: &str) -> String {
    let runs = server.get("/api/v1/runs").json();
    let mut runs = runs["runs"].as_array().expect("runs").iter();
    let run = runs.find(|run| run["view"] == view).expect("a run");
    run["run_id"].as_str().expect("an id").to_owned()
}

fn run(server: &Server, id: &str) -> Value {
    server.get(&format!("/api/v1/runs/{id}")).json()
}

pub fn cancel(server: &Server, id: &str) {
    assert_eq!(server.delete(&format!("/api/v1/runs/{id}")).status, 202);
}

pub fn eventually(what: &str, server: &Server, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_200 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} did not come: {}", server.log());
}

/// The events of a run, with their names. Ends as the body does, which must not break off.
struct Events(Lines<BufReader<Box<dyn Read>>>);

impl Events {
    fn of(server: &Server, id: &str) -> Self {
        let body = server.stream(&format!("/api/v1/runs/{id}/events"));
        Self(BufReader::new(Box::new(body) as Box<dyn Read>).lines())
    }
}

impl Iterator for Events {
    type Item = (String, Value);

    fn next(&mut self) -> Option<(String, Value)> {
        let (mut name, mut data) = (String::new(), Value::Null);
        for line in &mut self.0 {
            let line = line.expect("a whole body");
            match line.split_once(':') {
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => data = serde_json::from_str(value).expect("JSON"),
                Some(("", _)) => {}
                Some(other) => panic!("what is {other:?}"),
                None if data.is_null() => {}
                None => return Some((name, data)),
            }
        }
        assert!(data.is_null(), "half an event");
        None
    }
}

const COUNTS: [&str; 3] = ["rows", "bytes", "files"];

fn count(run: &Value, what: &str) -> (u64, u64) {
    let of = |name: String| run[name].as_u64().expect("a number");
    (of(format!("{what}_read")), of(format!("{what}_total")))
}

#[test]
fn events_tell_a_run_from_its_queue_to_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, slow, quick) = start(folder.path());

    let mut of_slow = Events::of(&server, &slow);
    let reading = of_slow.find(|(_, run)| run["files_total"] != 0);
    let (name, reading) = reading.expect("it reads");
    assert_eq!(
        (name.as_str(), &reading["status"]),
        ("progress", &"running".into())
    );
    assert_eq!(reading["phase"], "reading");
    assert_eq!(count(&reading, "rows").1, FILE_ROWS.iter().sum::<u64>());
    assert_eq!(count(&reading, "files").1, FILE_ROWS.len() as u64);
    let stream = server.get("/api/v1/streams/s").json();
    assert_eq!(reading["bytes_total"], stream["bytes"]);

    let (_, later) = of_slow
        .find(|(_, run)| run["files_read"] != 0)
        .expect("it goes on");
    for what in COUNTS {
        let (read, total) = count(&later, what);
        assert!(0 < read && read < total, "{what}: {later}");
    }

    let mut of_quick = Events::of(&server, &quick);
    let (name, queued) = of_quick.next().expect("an event");
    assert_eq!(
        (name.as_str(), &queued["status"]),
        ("progress", &"queued".into())
    );
    assert_eq!(
        (&queued["phase"], &queued["eta_ms"]),
        (&"queued".into(), &Value::Null)
    );
    let told = server.rows("SELECT view, phase FROM lambdalake.runs ORDER BY view LIMIT 2");
    assert_eq!(told[0]["phase"], "queued", "{told:?}");
    assert_eq!(told[1]["phase"], "reading", "{told:?}");

    // A run that is cancelled ends its stream, and the next one begins.
    cancel(&server, &slow);
    let (name, cancelled) = of_slow.last().expect("an end");
    assert_eq!(
        (name.as_str(), &cancelled["status"]),
        ("end", &"cancelled".into())
    );
    assert_eq!(cancelled["phase"], Value::Null);
    let (read, total) = count(&cancelled, "files");
    assert!(read < total, "{cancelled}");

    let mut before = queued;
    let mut names = vec![name];
    for (name, run) in of_quick {
        for what in COUNTS {
            let ((read_before, _), (read, total)) = (count(&before, what), count(&run, what));
            assert!(read_before <= read && read <= total, "{before}\n{run}");
        }
        assert_eq!(run["run_id"], *quick);
        before = run;
        names.push(name);
    }
    let ends = names.iter().filter(|name| *name == "end").count();
    assert_eq!((names.last().map(String::as_str), ends), (Some("end"), 2));
    assert_eq!(before["status"], "succeeded", "{before}");
    assert_eq!(
        (&before["phase"], &before["eta_ms"]),
        (&Value::Null, &Value::Null)
    );
    for what in COUNTS {
        let (read, total) = count(&before, what);
        assert!(read == total && total > 0, "{before}");
    }
    assert_eq!(run(&server, &quick), before);

    // What has ended ends at once, also after a restart.
    server.stop();
    let server = Server::start(folder.path(), &[]);
    let again: Vec<(String, Value)> = Events::of(&server, &quick).collect();
    assert_eq!(again, [("end".to_owned(), before)]);
    let unknown = server.get("/api/v1/runs/1-x/events");
    let code = &unknown.json()["error"]["code"];
    assert_eq!((unknown.status, code), (404, &"unknown_run".into()));
}

#[test]
fn so_many_streams_are_open_and_a_stop_ends_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, slow, _) = start(folder.path());
    let open = || {
        let mut events = Events::of(&server, &slow);
        assert_eq!(events.next().expect("an event").0, "progress");
        events
    };
    let mut streams: Vec<Events> = (0..MAX_STREAMS).map(|_| open()).collect();
    let path = format!("/api/v1/runs/{slow}/events");
    let refused = server.get(&path);
    let code = refused.json()["error"]["code"].clone();
    assert_eq!((refused.status, code), (429, "too_many_run_events".into()));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(server.head(&path).status, 200, "a head takes no place");
    assert_eq!(run(&server, &slow)["status"], "running");

    // Who goes away gives his place to the next.
    streams.pop();
    eventually("a place", &server, || server.status_of(&path) == 200);

    // Their bodies end properly: they are not what is broken once the time to end is over.
    server.stop();
    for stream in streams {
        assert!(stream.last().is_none_or(|(name, _)| name == "progress"));
    }
}

#[test]
fn a_terminal_shows_how_far_a_run_is_and_leaves_it_alone() {
    let test = "a_terminal_shows_how_far_a_run_is_and_leaves_it_alone";
    let folder = tempfile::tempdir().expect("a folder");
    let (server, slow, quick) = start(&folder.path().join("data"));
    let url = server.address();
    let on_terminal = |arguments: &[&str], steps: &[(&str, &str)]| {
        play(test, &url, &folder.path().join("history"), arguments, steps)
    };
    let ended = |id: &str| {
        let ended = |status: &Value| status != "queued" && status != "running";
        eventually("the end of a run", &server, || {
            ended(&run(&server, id)["status"])
        });
    };
    let Some(screen) = on_terminal(
        &["runs", "--follow"],
        &[("expect", "/4 files"), ("send", "\x03")],
    ) else {
        return;
    };
    assert!(screen.contains("% reading, "), "{screen}");
    cancel(&server, &quick);
    cancel(&server, &slow);
    ended(&slow);

    let steps = [("expect", "reading, "), ("send", "\x03")];
    let screen = on_terminal(&["recompute", "slow"], &steps).expect("a terminal");
    let slow = newest_run(&server, "slow");
    let says = format!(
        "run {slow} of slow goes on; to cancel it: lambdalake runs --url {url} --cancel {slow}"
    );
    let plain = screen.replace("\r\n", "");
    assert!(plain.contains(&says), "{screen}");
    assert!(screen.ends_with("\nexit 130\n"), "{screen}");
    assert_eq!(run(&server, &slow)["status"], "running");
    cancel(&server, &slow);
    ended(&slow);

    // Without a terminal there is no bar, and the same words.
    let mut child = Command::new(env!("CARGO_BIN_EXE_lambdalake"))
        .args(["recompute", "slow", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    eventually("its run", &server, || newest_run(&server, "slow") != slow);
    let slow = newest_run(&server, "slow");
    let open = || server.get("/metrics").text.contains("runs/{id}/events");
    eventually("its stream", &server, open);
    let told = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(told.expect("kill runs").success());
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut said)
        .expect("text");
    assert!(
        said.starts_with(&format!("run {slow} of slow goes on; ")),
        "{said}"
    );
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert_eq!(run(&server, &slow)["status"], "running");
}
