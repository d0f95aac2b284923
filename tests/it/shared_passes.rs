//! Several views that are recomputed in one pass over their stream.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::Server;

/// The last file is read by one thread, batch by batch: see `run_events`.
const FILE_ROWS: [u64; 4] = [100, 100, 100, 300_000];

const COUNTS: &str = "SELECT k % 100 AS k, count(*) AS n, sum(k) AS s FROM s GROUP BY k % 100";
const SKETCHES: &str =
    "SELECT k % 7 AS k, approx_distinct(k) AS d, avg(k) AS m FROM s GROUP BY k % 7";
const LISTS: &str = "SELECT count(DISTINCT k) AS n FROM s";

/// A run of it takes minutes.
const SLOW: &str =
    "SELECT max(encode(sha256(repeat(CAST(k AS VARCHAR), 1000)), 'hex')) AS hash FROM s";

/// A server on which a run goes on for as long as it is not cancelled. Gives its id, too.
fn start(folder: &Path) -> (Server, String) {
    let flags = ["--flush-age", "1h", "--batch-states-bytes", "64KiB"];
    let server = Server::start(folder, &flags);
    for rows in FILE_ROWS {
        let line = |k: u64| format!("{{\"k\": {}}}\n", 100_000 + k);
        server.ingest("s", "ndjson", &(0..rows).map(line).collect::<String>());
        server.sql("FLUSH s");
    }
    let first = create(&server, "first", SLOW);
    (server, first)
}

/// The id of the run that fills the view.
fn create(server: &Server, view: &str, select: &str) -> String {
    server.sql(&format!("CREATE MATERIALIZED VIEW {view} AS {select}"));
    run_of(server, view)["run_id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

fn run_of(server: &Server, view: &str) -> Value {
    let runs = server.get("/api/v1/runs").json();
    let mut runs = runs["runs"].as_array().expect("runs").iter();
    runs.find(|run| run["view"] == view).expect("a run").clone()
}

fn wait_for(server: &Server, view: &str, status: &str) -> Value {
    for _ in 0..1_200 {
        let run = run_of(server, view);
        if run["status"] == status {
            return run;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{view} is not {status}: {}", run_of(server, view));
}

fn cancel(server: &Server, id: &str) {
    assert_eq!(server.delete(&format!("/api/v1/runs/{id}")).status, 202);
}

fn assert_right(server: &Server, view: &str, select: &str) {
    let rows = |sql: &str| server.sql(sql)["data"].clone();
    let direct = rows(&format!("{select} ORDER BY k"));
    assert_eq!(rows(&format!("SELECT * FROM {view} ORDER BY k")), direct);
    // From the version alone, as nothing came after it.
    let stats = server.sql(&format!("SELECT * FROM {view}"))["stats"].clone();
    assert_eq!(
        (&stats["batch_version"], &stats["from_speed"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn what_one_view_does_in_a_shared_pass_is_nothing_to_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, first) = start(folder.path());
    create(&server, "counts", COUNTS);
    create(&server, "sketches", SKETCHES);
    create(&server, "lists", LISTS);
    let slow = create(&server, "slow", SLOW);
    server.ingest("other", "ndjson", "{\"k\": 1}\n");
    server.sql("FLUSH other");
    create(&server, "elsewhere", "SELECT count(*) AS n FROM other");
    assert_eq!(run_of(&server, "counts")["status"], "queued");
    cancel(&server, &first);
    // One of them sets the pace, and none has ended before it is cancelled.
    wait_for(&server, "slow", "running");
    for view in ["counts", "sketches", "lists"] {
        let run = wait_for(&server, view, "running");
        let mut others = run["shared_with"].as_array().expect("views").clone();
        others.push(json!(view));
        others.sort_by_key(ToString::to_string);
        assert_eq!(others, ["counts", "lists", "sketches", "slow"], "{run}");
    }
    // They count as one, and one may go on at a time.
    assert_eq!(run_of(&server, "elsewhere")["status"], "queued");
    cancel(&server, &slow);
    wait_for(&server, "slow", "cancelled");
    // Its list is longer than it may be.
    let lists = wait_for(&server, "lists", "over_budget");
    let error = lists["error"].as_str().expect("an error");
    assert!(
        error.contains("64.0 KiB") && error.contains("batch_states_bytes"),
        "{error}"
    );
    for view in ["counts", "sketches"] {
        let run = wait_for(&server, view, "succeeded");
        assert_eq!(run["rows_read"], 300_300, "{run}");
        assert_eq!(
            run["cut"],
            run_of(&server, "lists")["cut"],
            "one cut for all"
        );
    }
    assert_right(&server, "counts", COUNTS);
    assert_right(&server, "sketches", SKETCHES);
    wait_for(&server, "elsewhere", "succeeded");
    // What could not be published is answered from the events.
    assert_eq!(server.value("SELECT n FROM lists"), 300_000);
    let health = server.get("/health").json();
    assert_eq!(
        health["details"]["failed_recomputes"][0]["view"], "lists",
        "{health}"
    );
}
