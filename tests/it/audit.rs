//! Stored states that are wrong, though every checksum is right, are caught and named: on demand,
//! and before a recompute takes their place.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::Server;
use crate::verify::{newest_publication, with_more, write_publication};

pub const VIEW: &str = "SELECT k, count(*) AS n, avg(x) AS mean FROM s GROUP BY k";

pub fn body() -> String {
    let line = |x: u32| {
        format!(
            "{}\n",
            json!({"k": format!("k{}", x % 7), "x": f64::from(x)})
        )
    };
    (0..100).map(line).collect()
}

/// Adds one to a column of the version's states, and makes the checksums right.
pub fn plant(folder: &Path, column: &str) {
    let path = newest_publication(folder);
    let entry: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
    let mut body = entry["body"].clone();
    let file = &mut body["views"]["v"]["version"]["files"][0];
    let states = folder.join(file["path"].as_str().expect("a path"));
    let (bytes, crc32c) = with_more(&states, column);
    (file["bytes"], file["crc32c"]) = (bytes.into(), crc32c.into());
    write_publication(&path, &body);
}

/// The column of the states that holds the sum of floats.
pub fn sums(folder: &Path) -> String {
    let path = newest_publication(folder);
    let entry: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
    let file = &entry["body"]["views"]["v"]["version"]["files"][0]["path"];
    let file = std::fs::File::open(folder.join(file.as_str().expect("a path"))).expect("a file");
    let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
    let schema = builder.expect("a footer").schema().clone();
    let mut names = schema
        .fields()
        .iter()
        .filter(|field| field.name().starts_with('s') && field.data_type().is_floating());
    names.next().expect("a sum").name().clone()
}

fn differences(server: &Server) -> String {
    let text = server.get("/metrics").text;
    let of_view = |line: &&str| line.starts_with("lambdalake_audit_differences_total{view=\"v\"}");
    text.lines().find(of_view).unwrap_or_default().to_owned()
}

#[test]
fn a_planted_mismatch_is_named_held_back_and_then_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", &body());
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    server.sql("REFRESH MATERIALIZED VIEW v");
    let right = server.rows("VERIFY MATERIALIZED VIEW v").remove(0);
    assert_eq!(
        (&right["kind"], &right["audit"]),
        (&json!("verify"), &json!("equal")),
        "{right}"
    );
    assert_eq!(
        (&right["groups_compared"], &right["version"]),
        (&json!(7), &Value::Null)
    );
    server.kill();
    let column = sums(folder.path());
    plant(folder.path(), &column);

    let server = Server::start(folder.path(), &[]);
    let files = |server: &Server| server.get("/api/v1/views/v").json()["versions"].clone();
    let before = files(&server);
    let found = server.rows("VERIFY MATERIALIZED VIEW v").remove(0);
    assert_eq!(
        (&found["status"], &found["audit"]),
        (&json!("succeeded"), &json!("differences"))
    );
    let run = server.get("/api/v1/runs").json()["runs"][0].clone();
    let named = run["differences"].as_array().expect("differences");
    assert_eq!(named.len(), 7, "every group has another mean: {run}");
    assert_eq!(named[0]["key"], "k=k0");
    assert_eq!(named[0]["column"], "mean", "as the view calls it");
    assert_eq!(named[0]["recomputed"], "49.0");
    assert_ne!(named[0]["stored"], "49.0");
    assert_eq!(files(&server), before, "VERIFY publishes nothing");
    let health = || server.get("/health").json()["details"].clone();
    let differing = health();
    assert_eq!(differing["status"], "degraded", "{differing}");
    assert_eq!(differing["audit_differences"][0]["view"], "v");
    assert_eq!(differing["audit_differences"][0]["run_id"], run["run_id"]);
    assert_eq!(differing["failed_recomputes"], json!([]));

    let held = server.try_sql("REFRESH MATERIALIZED VIEW v");
    assert!(held.status >= 400);
    let message = held.json()["error"]["message"].to_string();
    for part in ["k=k0", "recomputed 49.0", "on_mismatch = 'publish'"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(files(&server), before, "the old version stays");
    assert_eq!(health()["failed_recomputes"][0]["view"], "v");
    assert!(
        differences(&server).ends_with(" 2"),
        "{}",
        differences(&server)
    );

    server.sql("ALTER MATERIALIZED VIEW v SET (on_mismatch = 'publish')");
    let published = server.rows("REFRESH MATERIALIZED VIEW v").remove(0);
    assert_eq!(published["audit"], "differences");
    assert_eq!(published["version"], 2);
    let merged = server.rows("SELECT * FROM v ORDER BY k");
    assert_eq!(
        merged,
        server.rows(&format!("SELECT * FROM ({VIEW}) ORDER BY k"))
    );
    assert_eq!(
        health()["status"],
        "ready",
        "what differed is served no more"
    );
    let found = server.rows("VERIFY MATERIALIZED VIEW v").remove(0);
    assert_eq!(found["audit"], "equal");
    server.sql("ALTER MATERIALIZED VIEW v RESET (on_mismatch)");
    assert_eq!(server.get("/api/v1/views/v").json()["on_mismatch"], "hold");
    let refused = server.try_sql("ALTER MATERIALIZED VIEW v SET (on_mismatch = 'ignore')");
    assert_eq!(refused.json()["error"]["code"], "invalid_option");
    let unknown = server.try_sql("VERIFY MATERIALIZED VIEW w");
    assert_eq!(unknown.json()["error"]["code"], "unknown_view");
}

#[test]
fn a_pane_that_lost_its_states_is_caught_and_its_groups_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    server.ingest("s", "ndjson", &body());
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    server.sql("REFRESH MATERIALIZED VIEW v");
    server.ingest(
        "s",
        "ndjson",
        "{\"k\": \"k3\", \"x\": 1}\n{\"k\": \"new\", \"x\": 2}\n",
    );
    server.sql("FLUSH s");
    server.kill();
    let path = newest_publication(folder.path());
    let entry: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
    let mut body = entry["body"].clone();
    let panes = body["views"]["v"]["panes"].as_array_mut().expect("panes");
    assert_eq!(panes.len(), 1);
    // Its range is still said to be covered.
    panes[0]["files"] = json!([]);
    write_publication(&path, &body);

    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let found = server.rows("VERIFY MATERIALIZED VIEW v").remove(0);
    assert_eq!(found["audit"], "differences");
    let run = server.get("/api/v1/runs").json()["runs"][0].clone();
    let named = run["differences"].as_array().expect("differences");
    let keys = named.iter().map(|it| it["key"].to_string());
    let keys: std::collections::BTreeSet<String> = keys.collect();
    assert_eq!(
        keys.into_iter().collect::<Vec<_>>(),
        ["\"k=k3\"", "\"k=new\""],
        "{run}"
    );
    let count = named
        .iter()
        .find(|it| it["key"] == "k=k3" && it["column"] == "n");
    let count = count.unwrap_or_else(|| panic!("{run}"));
    assert_eq!(
        (&count["stored"], &count["recomputed"]),
        (&json!("14"), &json!("15"))
    );
    server.sql("ALTER MATERIALIZED VIEW v SET (on_mismatch = 'publish')");
    server.sql("REFRESH MATERIALIZED VIEW v");
    assert_eq!(server.value("SELECT n FROM v WHERE k = 'k3'"), 15);
}
