//! kill -9 at random moments under concurrent ingest, queries, flushes and recomputes; a real
//! file system that fills up; the order of syncs and answers, as the system sees it.
//!
//! `LAMBDALAKE_CRASH_CYCLES=500 cargo test --workspace --test it crash` kills more often.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::server::Server;

const CYCLES: u64 = 20;
/// A folder with very many small files makes the checks slow, not sharper.
const CYCLES_OF_A_FOLDER: u64 = 50;
const PRODUCERS: u64 = 3;
/// Small, so that every cycle has flushes, several segments and combined panes.
const FLAGS: [&str; 6] = [
    "--flush-rows",
    "400",
    "--flush-age",
    "200ms",
    "--log-segment-bytes",
    "32KiB",
];

/// A request: its rows, and whether its answer came.
#[derive(Clone, Copy)]
struct Sent {
    rows: u64,
    is_acknowledged: bool,
}

type Requests = Arc<Mutex<BTreeMap<u64, Sent>>>;

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .build()
        .into()
}

fn body(request: u64, rows: u64) -> String {
    (0..rows)
        .map(|row| {
            let kind = ["a", "b", "c"][(row % 3) as usize];
            format!("{{\"r\":{request},\"i\":{row},\"k\":\"{kind}\"}}\n")
        })
        .collect()
}

/// Sends a request with its own key; true if it was acknowledged.
fn send(agent: &ureq::Agent, address: &str, request: u64, rows: u64) -> bool {
    let url = format!("{address}/api/v1/streams/s/events?format=ndjson");
    let sent = agent
        .post(url)
        .header("idempotency-key", format!("request-{request}"))
        .send(body(request, rows));
    sent.is_ok_and(|answer| answer.status() == 200)
}

fn ask(agent: &ureq::Agent, address: &str, sql: &str) -> Option<String> {
    let url = format!("{address}/api/v1/sql?format=csv");
    let mut answer = agent.post(url).send(sql).ok()?;
    let text = answer.body_mut().read_to_string().ok()?;
    (answer.status() == 200).then_some(text)
}

/// Load until the server is gone.
fn load(address: &str, requests: &Requests, next: &AtomicU64, cycle: u64, is_over: &AtomicBool) {
    std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            scope.spawn(move || {
                let agent = agent();
                let mut random = StdRng::seed_from_u64(cycle * PRODUCERS + producer);
                while !is_over.load(Ordering::SeqCst) {
                    let request = next.fetch_add(1, Ordering::SeqCst);
                    let rows = random.random_range(1..60);
                    let sent = |is_acknowledged| Sent {
                        rows,
                        is_acknowledged,
                    };
                    requests
                        .lock()
                        .expect("requests")
                        .insert(request, sent(false));
                    if send(&agent, address, request, rows) {
                        requests
                            .lock()
                            .expect("requests")
                            .insert(request, sent(true));
                    }
                }
            });
        }
        scope.spawn(|| {
            let agent = agent();
            let sql =
                "SELECT (SELECT coalesce(sum(n), 0) FROM v) = (SELECT count(*) FROM s) AS same";
            while !is_over.load(Ordering::SeqCst) {
                if let Some(answer) = ask(&agent, address, sql) {
                    assert_eq!(answer, "same\ntrue\n", "cycle {cycle}");
                }
            }
        });
        scope.spawn(|| {
            let agent = agent();
            while !is_over.load(Ordering::SeqCst) {
                let answer = ask(&agent, address, "REFRESH MATERIALIZED VIEW v");
                // Most end with the server, some are refused as busy.
                drop(answer);
            }
        });
    });
}

/// Everything acknowledged is there once; everything else entirely or not at all.
fn check(server: &Server, requests: &BTreeMap<u64, Sent>, cycle: u64) {
    let found: BTreeMap<u64, (u64, u64)> = server
        .rows("SELECT r, count(*) AS n, count(DISTINCT i) AS d FROM s GROUP BY r")
        .iter()
        .map(|row| {
            let number = |name: &str| row[name].as_u64().expect("a number");
            (number("r"), (number("n"), number("d")))
        })
        .collect();
    for (request, sent) in requests {
        match found.get(request) {
            Some(rows) => assert_eq!(*rows, (sent.rows, sent.rows), "cycle {cycle}: {request}"),
            None => assert!(!sent.is_acknowledged, "cycle {cycle}: {request} is lost"),
        }
    }
    assert!(found.keys().all(|request| requests.contains_key(request)));
    let sparse = "SELECT count(*) FROM (SELECT _shard FROM s GROUP BY _shard \
                  HAVING count(*) <> max(_offset) + 1 OR count(DISTINCT _offset) <> count(*))";
    assert_eq!(server.value(sparse), 0, "cycle {cycle}: offsets are dense");
    assert_eq!(
        server.rows("SELECT k, n, s FROM v ORDER BY k"),
        server.rows("SELECT k, count(*) AS n, sum(i) AS s FROM s GROUP BY k ORDER BY k"),
        "cycle {cycle}"
    );
}

#[test]
fn kill_nine_at_random_moments_loses_and_doubles_nothing() {
    let asked = std::env::var("LAMBDALAKE_CRASH_CYCLES").ok();
    let cycles = asked.map_or(CYCLES, |text| text.parse().expect("a number of cycles"));
    let (mut acknowledged, mut in_doubt) = (0, 0);
    for first in (0..cycles).step_by(CYCLES_OF_A_FOLDER as usize) {
        let last = cycles.min(first + CYCLES_OF_A_FOLDER);
        let found = kill_again_and_again(first..last);
        acknowledged += found.0;
        in_doubt += found.1;
        println!("{last} kills, {acknowledged} requests acknowledged, {in_doubt} in doubt");
    }
    assert!(acknowledged > cycles, "too few requests to prove anything");
    assert!(in_doubt > 0, "no kill hit a request");
}

/// Returns how many requests were acknowledged, and how many were in doubt and sent again.
fn kill_again_and_again(cycles: Range<u64>) -> (u64, u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let requests = Requests::default();
    let next = AtomicU64::new(0);
    let mut random = StdRng::seed_from_u64(cycles.start + 9);
    for cycle in cycles.clone() {
        let server = Server::start(folder.path(), &FLAGS);
        if cycle == cycles.start {
            server.sql(
                "CREATE TABLE s (r BIGINT, i BIGINT, k TEXT) WITH (shard_key = 'k', shards = 2)",
            );
            server.sql(
                "CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n, sum(i) AS s FROM s GROUP BY k",
            );
        }
        check(&server, &requests.lock().expect("requests"), cycle);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let address = server.address();
            let (requests, next, is_over) = (&requests, &next, &is_over);
            scope.spawn(move || load(&address, requests, next, cycle, is_over));
            std::thread::sleep(Duration::from_millis(random.random_range(20..900)));
            server.kill_now();
            is_over.store(true, Ordering::SeqCst);
        });
    }
    let server = Server::start(folder.path(), &FLAGS);
    let mut requests = requests.lock().expect("requests").clone();
    check(&server, &requests, cycles.end);
    let in_doubt: Vec<u64> = requests
        .iter()
        .filter(|(_, sent)| !sent.is_acknowledged)
        .map(|(request, _)| *request)
        .collect();
    let acknowledged = requests.len() - in_doubt.len();
    // A producer that sends what it has no answer for again, with its key, doubles nothing.
    for request in &in_doubt {
        let sent = requests.get_mut(request).expect("sent");
        assert!(send(&agent(), &server.address(), *request, sent.rows));
        sent.is_acknowledged = true;
    }
    check(&server, &requests, cycles.end);
    (acknowledged as u64, in_doubt.len() as u64)
}

/// A file system of its own, of so many bytes; `None` after saying that the test is skipped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            other => {
                println!("SKIPPED: no file system can be mounted here: {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_is_said_and_survived_without_a_restart() {
    let Some(disk) = SmallDisk::mount(6 << 20) else {
        return;
    };
    let data = disk.path().join("data");
    let server = Server::start(&data, &["--flush-age", "1h"]);
    server.sql("CREATE TABLE s (r BIGINT, i BIGINT, k TEXT)");
    server.sql(
        "CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n, sum(i) AS s FROM s GROUP BY k",
    );
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).expect("room for it");
    let mut requests = BTreeMap::new();
    let refused = (0..10_000).find_map(|request| {
        let path = "/api/v1/streams/s/events?format=ndjson";
        let answer = server.post(path, &[], body(request, 500).as_bytes());
        if answer.status == 200 {
            let sent = Sent {
                rows: 500,
                is_acknowledged: true,
            };
            requests.insert(request, sent);
            return None;
        }
        Some(answer)
    });
    let refused = refused.expect("a disk that fills up");
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.json()["error"]["code"], "disk_full");
    assert!(
        refused.headers.contains_key("retry-after"),
        "{}",
        refused.text
    );
    // A small Parquet file might still fit where a request did not.
    let filler = std::fs::write(disk.path().join("filler"), vec![1; 1 << 20]);
    assert!(filler.is_err(), "the disk is full");
    // Reads go on, of everything acknowledged and of nothing else; a flush fails and says so.
    check(&server, &requests, 0);
    let flush = server.try_sql("FLUSH s");
    assert_eq!(
        (flush.status, &flush.json()["error"]["code"]),
        (503, &json!("disk_full")),
        "{} {}",
        flush.text,
        server.log()
    );
    check(&server, &requests, 0);
    std::fs::remove_file(&ballast).expect("removed");
    for request in 20_000..20_010 {
        server.ingest("s", "ndjson", &body(request, 500));
        let sent = Sent {
            rows: 500,
            is_acknowledged: true,
        };
        requests.insert(request, sent);
    }
    server.sql("FLUSH s");
    server.sql("REFRESH MATERIALIZED VIEW v");
    check(&server, &requests, 0);
    server.kill();
    let server = Server::start(&data, &[]);
    check(&server, &requests, 0);
}

/// What the system was asked for, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    LogWritten,
    LogSynced,
    Answered,
}

/// The calls in the output of `strace -f -y`, each where it ended.
fn calls(trace: &str) -> Vec<Call> {
    // By thread: a sync of the log that has begun and not ended.
    let mut syncing: BTreeMap<&str, bool> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let of_log = call.contains("/log/s-");
        let has_ended = !call.contains("<unfinished");
        if call.starts_with("write(") && of_log {
            calls.push(Call::LogWritten);
        } else if call.starts_with("fdatasync(") && of_log {
            if has_ended && call.ends_with("= 0") {
                calls.push(Call::LogSynced);
            }
            syncing.insert(thread, !has_ended);
        } else if call.contains("fdatasync resumed") && call.ends_with("= 0") {
            if syncing.insert(thread, false) == Some(true) {
                calls.push(Call::LogSynced);
            }
        } else if call.contains("HTTP/1.1 200 OK") {
            calls.push(Call::Answered);
        }
    }
    calls
}

#[test]
fn events_are_on_the_medium_before_they_are_acknowledged() {
    const REQUESTS: usize = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(&folder.path().join("data"), &[]);
    server.sql("CREATE TABLE s (r BIGINT, i BIGINT, k TEXT)");
    let output = folder.path().join("trace");
    let traced = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "64",
            "-e",
            "trace=write,writev,sendto,sendmsg,fdatasync,fsync",
        ])
        .args(["-p", &server.pid().to_string()])
        .arg("-o")
        .arg(&output)
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut strace) = traced else {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed");
        println!("SKIPPED: strace is not installed");
        return;
    };
    let mut said = String::new();
    // Kept open: strace tells each thread that begins, and would end at a closed pipe.
    let mut stderr = BufReader::new(strace.stderr.take().expect("piped"));
    let attached = stderr.read_line(&mut said);
    if attached.is_err() || !said.contains("attached") {
        println!("SKIPPED: strace may not look at a process here: {said}");
        return;
    }
    // The end of the trace may be missing: the answers come before strace writes them down.
    for request in 0..REQUESTS as u64 + 2 {
        server.ingest("s", "ndjson", &body(request, 3));
    }
    let told = Command::new("kill")
        .args(["-INT", &strace.id().to_string()])
        .status();
    assert!(told.is_ok_and(|status| status.success()));
    strace.wait().expect("ended");
    let trace = std::fs::read_to_string(&output).expect("a trace");
    let calls = calls(&trace);
    let answers = calls.split(|call| *call == Call::Answered).count() - 1;
    assert!(answers >= REQUESTS, "{answers} answers\n{trace}");
    for before in calls.split(|call| *call == Call::Answered).take(REQUESTS) {
        let written = before.iter().rposition(|call| *call == Call::LogWritten);
        let synced = before.iter().rposition(|call| *call == Call::LogSynced);
        assert!(written.is_some() && synced > written, "{before:?}\n{trace}");
    }
}
