//! Health names the worker that is dead, after a real failure of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lambdalake::engine::{Engine, Port, Surroundings};
use lambdalake::settings::{Settings, SettingsFlags};
use lambdalake_data::{Clock, Disk, SystemClock};
use lambdalake_serving::Engine as _;
use serde_json::Value;

use super::metrics::sample;
use super::server::Server;

fn worker<'a>(details: &'a Value, name: &str, stream: Option<&str>) -> &'a Value {
    let workers = details["workers"].as_array().expect("workers");
    let found = workers
        .iter()
        .find(|worker| worker["worker"] == name && worker["stream"].as_str() == stream);
    found.unwrap_or_else(|| panic!("no {name} in {details}"))
}

/// Makes a stream and waits until its Delta table is there. Rolling it forward for the first
/// time flushes what has come meanwhile, which a test that counts must not meet.
pub fn make_settled(server: &Server, stream: &str, columns: &str) {
    server.sql(&format!("CREATE TABLE {stream} ({columns})"));
    for _ in 0..400 {
        let health = server.get("/health").json();
        if worker(&health["details"], "delta", Some(stream))["state"] == "current" {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the Delta table stays behind: {}", server.log());
}

#[test]
fn a_healthy_server_shows_each_worker_and_since_when() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", "{\"a\": 1}\n");
    let health = server.get("/health").json();
    assert_eq!(health["ready"], true, "{health}");
    let details = &health["details"];
    for (name, stream) in [
        ("maintenance", None),
        ("compute", None),
        ("batch", None),
        ("writer", Some("s")),
    ] {
        let worker = worker(details, name, stream);
        assert_eq!(worker["state"], "running", "{details}");
        assert!(
            worker["since"]
                .as_str()
                .is_some_and(|at| at.starts_with("20")),
            "{worker}"
        );
    }
    assert_eq!(worker(details, "flush", Some("s"))["state"], "ok");
}

#[test]
fn a_log_that_cannot_be_written_makes_health_fail_and_names_the_writer() {
    let folder = tempfile::tempdir().expect("a folder");
    // Each group gets a segment of its own, so the next one meets the broken folder.
    let server = Server::start(folder.path(), &["--log-segment-bytes", "1"]);
    for stream in ["whole", "broken"] {
        server.ingest(stream, "ndjson", "{\"a\": 1}\n");
    }
    let log = std::fs::read_dir(folder.path().join("log")).expect("logs");
    let broken = log
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.to_string_lossy().contains("/broken-"))
        .expect("its log");
    std::fs::remove_dir_all(&broken).expect("removed");
    std::fs::write(&broken, "a file where the folder was").expect("written");

    let path = "/api/v1/streams/broken/events?format=ndjson";
    let answer = server.post(path, &[], b"{\"a\": 2}\n");
    assert_eq!(answer.status, 503, "{}", answer.text);
    for path in ["/health", "/health/readyz"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 503, "{path}: {}", answer.text);
        assert!(answer.headers.contains_key("retry-after"));
        let health = answer.json();
        let details = &health["details"];
        assert_eq!(health["ready"], false);
        let reason = details["reason"].as_str().expect("a reason");
        assert!(reason.contains("writer of stream broken"), "{reason}");
        let dead = worker(details, "writer", Some("broken"));
        assert_eq!(dead["state"], "failed");
        assert!(dead["error"].is_string(), "{dead}");
        assert_eq!(worker(details, "writer", Some("whole"))["state"], "running");
    }
    assert_eq!(server.get("/health/livez").status, 200);
    let text = server.get("/metrics").text;
    let up = |stream| {
        sample(
            &text,
            "lambdalake_worker_up",
            &[("worker", "writer"), ("stream", stream)],
        )
    };
    assert_eq!((up("broken"), up("whole")), (Some(0.0), Some(1.0)));
    let failures = sample(
        &text,
        "lambdalake_log_failures_total",
        &[("stream", "broken")],
    );
    assert_eq!(failures, Some(1.0));
    // What was acknowledged is still there, and the other stream goes on.
    assert_eq!(server.value("SELECT count(*) FROM broken"), 1);
    server.ingest("whole", "ndjson", "{\"a\": 2}\n");
}

/// The machine's clock, until the maintenance thread is to meet a bug.
#[derive(Debug, Default)]
struct BrokenClock {
    system: SystemClock,
    is_broken: AtomicBool,
}

impl Clock for BrokenClock {
    fn now_micros(&self) -> i64 {
        self.system.now_micros()
    }

    fn monotonic(&self) -> Duration {
        let is_maintenance = std::thread::current().name() == Some("maintenance");
        assert!(
            !(is_maintenance && self.is_broken.load(Ordering::SeqCst)),
            "this panic is meant"
        );
        self.system.monotonic()
    }
}

#[test]
fn a_maintenance_thread_that_panicked_makes_health_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = Settings::resolve(SettingsFlags::default(), None).expect("settings");
    settings.data_dir = folder.path().join("data");
    let disk: Arc<Disk> = Disk::open(&settings.data_dir).expect("a disk");
    let clock = Arc::new(BrokenClock::default());
    let surroundings = Surroundings {
        disk,
        clock: Arc::clone(&clock) as _,
        spill: folder.path().to_owned(),
        cores: 2,
        has_upkeep: true,
    };
    let engine = Engine::open_in(settings, surroundings);
    let port = Port(engine.expect("it opens"));
    assert!(port.health().ready);
    clock.is_broken.store(true, Ordering::SeqCst);
    for _ in 0..200 {
        if !port.health().ready {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let health = port.health();
    assert!(!health.ready, "{}", health.details);
    let reason = health.details["reason"].as_str().expect("a reason");
    assert!(reason.contains("maintenance"), "{reason}");
    assert_eq!(
        worker(&health.details, "maintenance", None)["state"],
        "stopped"
    );
    let up = sample(
        &port.metrics_text(),
        "lambdalake_worker_up",
        &[("worker", "maintenance")],
    );
    assert_eq!(up, Some(0.0));
    port.0.shut_down();
    let stopping = port.health().details;
    assert_eq!(stopping["status"], "shutting_down");
}
