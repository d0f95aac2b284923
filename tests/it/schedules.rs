//! What recomputes a view without being asked, on the real binary: triggers, pauses, the queue,
//! cancelling, and what was missed while the server was down.

use std::time::Duration;

use serde_json::Value;

use crate::server::Server;

const VIEW: &str = "SELECT k, count(*) AS n, sum(x) AS total FROM s GROUP BY k";

fn ingest(server: &Server, from: u64, count: u64) {
    let line = |x: u64| format!("{{\"k\": \"k{}\", \"x\": {x}}}\n", x % 7);
    let body: String = (from..from + count).map(line).collect();
    server.ingest("s", "ndjson", &body);
}

fn create(server: &Server, name: &str, with: &str) {
    server.sql(&format!("CREATE MATERIALIZED VIEW {name} {with} AS {VIEW}"));
}

fn alter(server: &Server, view: &str, change: &str) {
    server.sql(&format!("ALTER MATERIALIZED VIEW {view} {change}"));
}

fn view(server: &Server, name: &str) -> Value {
    server.get(&format!("/api/v1/views/{name}")).json()
}

/// Newest first.
fn runs(server: &Server, view: &str) -> Vec<Value> {
    let all = server.get("/api/v1/runs").json();
    let all = all["runs"].as_array().expect("runs").iter();
    all.filter(|run| run["view"] == view).cloned().collect()
}

/// The value once it is there.
fn eventually<T>(what: &str, server: &Server, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..600 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} did not come: {}", server.log());
}

fn is_exact(server: &Server, name: &str) {
    let merged = server.rows(&format!("SELECT * FROM {name} ORDER BY k"));
    let direct = server.rows(&format!("SELECT * FROM ({VIEW}) ORDER BY k"));
    assert_eq!(merged, direct);
}

fn succeeded(run: &Value) -> bool {
    run["status"] == "succeeded"
}

#[test]
fn triggers_start_runs_until_the_view_is_paused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    ingest(&server, 0, 50);
    create(&server, "clock", "WITH (recompute = '* * * * * *')");
    create(&server, "events", "WITH (recompute = 'after 100 events')");
    create(
        &server,
        "lag",
        "WITH (recompute = 'lag over 2 s or 0 0 1 1 *')",
    );
    let clock = eventually("a second run of the clock", &server, || {
        let runs = runs(&server, "clock");
        let by_clock = runs.iter().filter(|run| run["started_by"] == "* * * * * *");
        by_clock.filter(|run| succeeded(run)).nth(1).cloned()
    });
    assert_eq!(clock["audit"], "equal");
    assert!(view(&server, "clock")["next_run_at"].is_string());
    assert!(view(&server, "events")["next_run_at"].is_null());
    let new_year = view(&server, "lag")["next_run_at"].to_string();
    assert!(new_year.contains("-01-01T00:00:00"), "{new_year}");

    alter(&server, "clock", "PAUSE");
    let paused = view(&server, "clock");
    assert_eq!(paused["paused"], true);
    assert!(paused["next_run_at"].is_null());
    // One may just have begun.
    eventually("the end of the last run", &server, || {
        runs(&server, "clock").iter().all(succeeded).then_some(())
    });
    let before = runs(&server, "clock").len();

    server.sql("REFRESH MATERIALIZED VIEW events");
    let of_events = runs(&server, "events").len();
    ingest(&server, 50, 99);
    eventually("the run for the lag", &server, || {
        let newest = runs(&server, "lag").first().cloned()?;
        (newest["started_by"] == "lag over 2s" && succeeded(&newest)).then_some(())
    });
    assert_eq!(
        runs(&server, "events").len(),
        of_events,
        "99 events are not 100"
    );
    ingest(&server, 149, 1);
    eventually("the run for 100 events", &server, || {
        let newest = runs(&server, "events").first().cloned()?;
        (newest["started_by"] == "after 100 events" && succeeded(&newest)).then_some(())
    });
    assert_eq!(view(&server, "events")["lag_events"], 0);
    assert_eq!(runs(&server, "clock").len(), before, "it is paused");
    for name in ["clock", "events", "lag"] {
        is_exact(&server, name);
    }

    alter(&server, "clock", "RESUME");
    eventually("a run after RESUME", &server, || {
        (runs(&server, "clock").len() > before).then_some(())
    });
    alter(&server, "clock", "RESET (recompute)");
    let reset = view(&server, "clock");
    assert!(
        reset["recompute"].is_null() && reset["next_run_at"].is_null(),
        "{reset}"
    );
    let told = server.rows("SELECT recompute, paused FROM lambdalake.views ORDER BY name LIMIT 2");
    assert_eq!(told[0]["recompute"], Value::Null);
    assert_eq!(told[1]["recompute"], "after 100 events");
    assert_eq!(told[1]["paused"], false);
    let started_by = server
        .value("SELECT count(DISTINCT started_by) FROM lambdalake.runs WHERE status = 'succeeded'");
    assert_eq!(started_by, 4, "request and three triggers");
}

#[test]
fn a_bad_schedule_is_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    ingest(&server, 0, 10);
    create(&server, "v", "WITH (recompute = '0 3 * * *')");
    for (options, reason) in [
        ("recompute = '0 25 * * *'", "its hour is \"25\""),
        ("recompute = '0 3 30 2 *'", "no such time comes"),
        ("recompute = 'soon'", "10 minutes"),
        ("recompute = 'every 1 ms'", "less than a second"),
        ("recompute = '0 3 * * * or after lunch'", "after lunch"),
        ("recompute_time_zone = 'Middle/Earth'", "Europe/Zurich"),
        (
            "every = '1 hour'",
            "recompute, recompute_time_zone and on_mismatch",
        ),
    ] {
        for sql in [
            format!("CREATE MATERIALIZED VIEW w WITH ({options}) AS {VIEW}"),
            format!("ALTER MATERIALIZED VIEW v SET ({options})"),
        ] {
            let answer = server.try_sql(&sql);
            assert_eq!(answer.status, 400, "{sql}");
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "invalid_option", "{sql}");
            let message = error["message"].as_str().expect("a message");
            assert!(message.contains(reason), "{sql}: {message}");
        }
    }
    let missing = server.try_sql("ALTER MATERIALIZED VIEW w PAUSE");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"]["code"], "unknown_view");
    let kept = view(&server, "v");
    assert_eq!(kept["recompute"], "0 3 * * *");
    alter(&server, "v", "SET (recompute_time_zone = 'Asia/Tokyo')");
    let next = view(&server, "v")["next_run_at"].to_string();
    assert!(next.contains("T18:00:00"), "three in Tokyo: {next}");
}

#[test]
fn runs_wait_for_each_other_and_can_be_cancelled() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    for part in 0..4 {
        ingest(&server, part * 50_000, 50_000);
    }
    server.sql("FLUSH s");
    for name in ["a", "b", "c"] {
        create(&server, name, "");
    }
    let newest = |view: &str| runs(&server, view).first().cloned();
    let queued = newest("c").expect("a run");
    assert_eq!(
        (&queued["status"], &queued["started_by"]),
        (&"queued".into(), &"new_view".into())
    );
    let id = queued["run_id"].as_str().expect("an id");
    let path = format!("/api/v1/runs/{id}");
    let answer = server.delete(&path);
    assert_eq!(answer.status, 202);
    assert_eq!(newest("c").expect("the run")["status"], "cancelled");
    let again = server.delete(&path);
    assert_eq!(
        (again.status, &again.json()["error"]["code"]),
        (409, &"run_ended".into())
    );
    let unknown = server.delete("/api/v1/runs/1-x");
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["code"]),
        (404, &"unknown_run".into())
    );

    let ended = |run: &Value| {
        !["queued", "running"]
            .map(Value::from)
            .contains(&run["status"])
    };
    eventually("the end of all runs", &server, || {
        let all = server.get("/api/v1/runs").json();
        all["runs"]
            .as_array()
            .expect("runs")
            .iter()
            .all(ended)
            .then_some(())
    });
    let times = |view: &str| {
        let run = newest(view).expect("a run");
        assert!(succeeded(&run), "{run}");
        let started = run["started_at"].as_str().expect("a time");
        let started = chrono::DateTime::parse_from_rfc3339(started).expect("a time");
        let took = run["duration_ms"].as_i64().expect("a duration");
        (
            started.timestamp_millis(),
            started.timestamp_millis() + took,
        )
    };
    assert!(
        times("a").1 <= times("b").0 + 1,
        "{:?}, {:?}",
        times("a"),
        times("b")
    );

    // A running one ends, too, and the version before it stays.
    let version = view(&server, "a")["version"].clone();
    let answer = server.post("/api/v1/views/a/recompute", &[], b"").json();
    let id = answer["run_id"].as_str().expect("an id");
    assert_eq!(server.delete(&format!("/api/v1/runs/{id}")).status, 202);
    let run = eventually("the end of the run", &server, || newest("a").filter(ended));
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!(view(&server, "a")["version"], version);
    for name in ["a", "b", "c"] {
        is_exact(&server, name);
    }
    // A check is no recompute: what the schedule counts from stays as it is.
    alter(&server, "a", "SET (recompute = 'every 1 day')");
    let next = view(&server, "a")["next_run_at"].clone();
    server.sql("VERIFY MATERIALIZED VIEW a");
    assert_eq!(runs(&server, "a")[0]["kind"], "verify");
    assert_eq!(view(&server, "a")["next_run_at"], next);
    // A view that is dropped takes its queued run with it.
    let answer = server.post("/api/v1/views/b/recompute", &[], b"");
    assert_eq!(answer.status, 202);
    assert_eq!(
        server.post("/api/v1/views/c/recompute", &[], b"").status,
        202
    );
    server.sql("DROP MATERIALIZED VIEW c");
    eventually("the end of its run", &server, || newest("c").filter(ended));
    eventually("the end of the run", &server, || newest("b").filter(ended));
    create(&server, "c", "");
    is_exact(&server, "c");
    // As soon as it says that it has ended, there may be another.
    for _ in 0..3 {
        let started = server.post("/api/v1/views/b/recompute", &[], b"");
        assert_eq!(started.status, 202, "{}", started.json());
        eventually("the end of the run", &server, || newest("b").filter(ended));
    }
}

#[test]
fn schedules_and_runs_survive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    ingest(&server, 0, 20);
    create(&server, "v", "WITH (recompute = 'every 1 s')");
    let by_clock = |server: &Server| {
        let runs = runs(server, "v").into_iter();
        let mut by_clock = runs.filter(|run| run["started_by"] == "every 1s" && succeeded(run));
        by_clock.next()
    };
    let before = eventually("a run", &server, || by_clock(&server));
    server.kill();

    let server = Server::start(folder.path(), &[]);
    eventually("the next run", &server, || {
        by_clock(&server).filter(|run| run["run_id"] != before["run_id"])
    });
    alter(&server, "v", "PAUSE");
    alter(&server, "v", "SET (recompute = 'every 10 minutes')");
    server.stop();

    let server = Server::start(folder.path(), &["--recompute-runs-kept", "2"]);
    let kept = view(&server, "v");
    assert_eq!(kept["paused"], true);
    assert_eq!(kept["recompute"], "every 10m");
    assert!(
        runs(&server, "v")
            .iter()
            .any(|run| run["run_id"] == before["run_id"])
    );
    server.sql("REFRESH MATERIALIZED VIEW v");
    assert_eq!(runs(&server, "v").len(), 2);
    assert_eq!(runs(&server, "v")[0]["started_by"], "request");
    is_exact(&server, "v");
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(runs(&server, "v").len(), 2, "older ones are gone for good");
}
