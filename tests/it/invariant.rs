//! The invariant any client can test at any moment: in one query, a view counts exactly the
//! events of its stream, and everything acknowledged before the query is among them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::server::Server;

const QUERIES: u32 = 1_000;

/// The load keeps pace with the queries, or a slow machine would query ever more files.
const EVENTS_PER_QUERY: u64 = 25;
const QUERIES_PER_RECOMPUTE: u64 = 25;
const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn views_count_their_stream_under_ingest_flushes_and_recomputes() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-rows", "500"]);
    server.sql("CREATE TABLE s (k TEXT, x BIGINT) WITH (shard_key = 'k', shards = 2)");
    server.sql("CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n FROM s GROUP BY k");
    server.sql(
        "CREATE MATERIALIZED VIEW w AS SELECT x % 100 AS r, count(*) AS n FROM s GROUP BY x % 100",
    );
    let acknowledged = AtomicU64::new(0);
    let queries = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 0;
            while !stop.load(Ordering::SeqCst) {
                if next > (queries.load(Ordering::SeqCst) + 1) * EVENTS_PER_QUERY {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                let body: String = (next..next + 25)
                    .map(|x| format!("{{\"k\": \"k{}\", \"x\": {x}}}\n", x % 13))
                    .collect();
                server.ingest("s", "ndjson", &body);
                next += 25;
                acknowledged.store(next, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            let mut due = 0;
            while !stop.load(Ordering::SeqCst) {
                if queries.load(Ordering::SeqCst) < due {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                due += QUERIES_PER_RECOMPUTE;
                server.sql("REFRESH MATERIALIZED VIEW v");
                server.sql("FLUSH s");
                server.sql("REFRESH MATERIALIZED VIEW w");
            }
        });
        // Whatever fails here, the other threads must end, or the scope waits for ever.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for query in 0..QUERIES {
                queries.store(query.into(), Ordering::SeqCst);
                let before = acknowledged.load(Ordering::SeqCst);
                let view = if query % 2 == 0 { "v" } else { "w" };
                let rows = server.rows(&format!(
                    "SELECT (SELECT coalesce(sum(n), 0) FROM {view}) AS view, \
                     (SELECT count(*) FROM s) AS s"
                ));
                let count = |column: &str| rows[0][column].as_u64().expect("a count");
                assert_eq!(count("view"), count("s"), "query {query} over {view}");
                assert!(
                    count("s") >= before,
                    "query {query}: {} of {before}",
                    count("s")
                );
            }
        }));
        stop.store(true, Ordering::SeqCst);
        checked.expect("the invariant holds");
    });
    let view = server.get("/api/v1/views/v").json();
    assert!(view["version"].as_u64().expect("a version") > 2, "{view}");
    let stream = server.get("/api/v1/streams/s").json();
    assert!(
        stream["master_version"].as_u64().expect("flushes") > 3,
        "{stream}"
    );
    for run in server.get("/api/v1/runs").json()["runs"]
        .as_array()
        .expect("runs")
    {
        assert_eq!(run["status"], "succeeded", "{run}");
        assert!(
            run["audit"] == "equal" || run["audit"] == "nothing_to_compare",
            "{run}"
        );
    }
}
