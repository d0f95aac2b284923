//! A query reads only the files and row groups that it must, told by counters.

use serde_json::Value;

use crate::server::Server;

/// Files of the history; each holds one day.
const DAYS: usize = 20;

/// Events of a day, one a minute.
const EVENTS_A_DAY: usize = 300;

fn day(day: usize) -> String {
    (0..EVENTS_A_DAY)
        .map(|event| {
            format!(
                "{{\"ts\":\"2026-03-{:02}T{:02}:{:02}:00Z\",\"k\":\"k{}\",\"n\":{event}}}\n",
                day + 1,
                event / 60,
                event % 60,
                event % 3
            )
        })
        .collect()
}

/// Many flushed days and one in the tail.
fn with_history(folder: &std::path::Path) -> Server {
    let server = Server::start(folder, &["--flush-age", "1h", "--merge-files", "false"]);
    server.sql("CREATE TABLE s (ts TIMESTAMP, k TEXT, n BIGINT) WITH (event_time = 'ts')");
    server.sql(
        "CREATE MATERIALIZED VIEW by_hour AS
         SELECT date_trunc('hour', ts) AS hour, k, count(*) AS c FROM s GROUP BY 1, 2",
    );
    for number in 0..DAYS {
        server.ingest("s", "ndjson", &day(number));
        server.sql("FLUSH s");
    }
    server.ingest("s", "ndjson", &day(DAYS));
    server
}

fn stats(server: &Server, sql: &str) -> (Vec<Value>, Value) {
    let answer = server.sql(sql);
    let rows = answer["data"].as_array().expect("rows").clone();
    (rows, answer["stats"].clone())
}

#[test]
fn a_narrow_range_of_time_opens_only_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    let (rows, all) = stats(&server, "SELECT count(*) AS n FROM s");
    assert_eq!(rows[0]["n"], (DAYS + 1) * EVENTS_A_DAY);
    assert_eq!(all["files_total"], DAYS, "{all}");
    assert_eq!(all["files_read"], DAYS, "{all}");

    for (filter, files, count) in [
        (
            "ts >= '2026-03-05T01:00:00Z' AND ts < '2026-03-05T02:00:00Z'",
            1,
            60,
        ),
        (
            "ts BETWEEN TIMESTAMP '2026-03-05 04:59:00' AND TIMESTAMP '2026-03-06 00:00:00'",
            2,
            2,
        ),
        ("ts < '2026-03-03'", 2, 2 * EVENTS_A_DAY),
        ("ts >= '2026-03-21T00:00:00Z'", 0, EVENTS_A_DAY),
        ("ts = '2030-01-01T00:00:00Z'", 0, 0),
        ("ts IS NULL", 0, 0),
        ("_offset < 450", 2, 450),
        ("n < 0", DAYS, 0),
    ] {
        let sql = format!("SELECT count(*) AS n FROM s WHERE {filter}");
        let (rows, stats) = stats(&server, &sql);
        assert_eq!(rows[0]["n"], count, "{filter}");
        assert_eq!(stats["files_total"], DAYS, "{filter}: {stats}");
        assert_eq!(stats["files_read"], files, "{filter}: {stats}");
        let groups = stats["row_groups_total"].as_u64().expect("a count");
        assert_eq!(
            groups, files as u64,
            "one a file, of opened files only: {stats}"
        );
    }
    let (_, none) = stats(&server, "SELECT count(*) AS n FROM s WHERE n < 0");
    assert_eq!(none["row_groups_read"], 0, "told by the footers: {none}");
    let (_, one) = stats(&server, "SELECT n FROM s WHERE ts = '2026-03-05T01:00:00Z'");
    assert!(one["bytes_scanned"].as_u64() > Some(0), "{one}");
    assert!(
        one["rows_scanned"].as_u64() <= Some(2 * EVENTS_A_DAY as u64),
        "{one}"
    );
}

#[test]
fn a_filter_on_the_key_of_a_view_skips_files_of_states() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    let view = server.get("/api/v1/views/by_hour").json();
    let panes = view["panes"].as_array().expect("panes").len();
    assert!(panes > 1, "{view}");
    let sql = "SELECT sum(c) AS c FROM by_hour WHERE hour >= '2026-03-20T00:00:00Z'";
    let (rows, stats_of) = stats(&server, sql);
    assert_eq!(
        rows[0]["c"],
        2 * EVENTS_A_DAY,
        "the newest flushed day and the tail"
    );
    assert_eq!(stats_of["files_total"], panes, "{stats_of}");
    assert_eq!(stats_of["files_read"], 1, "{stats_of}");
    assert_eq!(stats_of["row_groups_read"], 1, "{stats_of}");

    server.sql("REFRESH MATERIALIZED VIEW by_hour");
    let sql = "SELECT sum(c) AS c FROM by_hour WHERE hour = '2025-01-01T00:00:00Z'";
    let (rows, stats_of) = stats(&server, sql);
    assert_eq!(rows[0]["c"], Value::Null);
    assert_eq!(stats_of["files_read"], 0, "{stats_of}");
    assert_eq!(
        server.value("SELECT sum(c) FROM by_hour"),
        server.value("SELECT count(*) FROM s")
    );
}

#[test]
fn explain_names_layers_files_and_what_was_skipped() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    let explained = |sql: &str| {
        let rows = server.rows(sql);
        let plan = rows.last().expect("a plan")["plan"].clone();
        plan.as_str().expect("text").to_owned()
    };
    let narrow = "SELECT count(*), sum(n) FROM s WHERE ts >= '2026-03-05T01:00:00Z' \
                  AND ts < '2026-03-05T02:00:00Z'";
    let path = "/api/v1/sql?format=table&width=40";
    let table = server
        .post(path, &[], format!("EXPLAIN {narrow}").as_bytes())
        .text;
    assert!(table.contains("\nphysical_plan\n"), "{table}");
    assert!(
        table.contains("1 of 20 files may match, with 300 of 6000 rows\n"),
        "{table}"
    );
    let plan = explained(&format!("EXPLAIN {narrow}"));
    assert!(plan.contains("batch: master version 20"), "{plan}");
    assert!(
        plan.contains("1 of 20 files may match, with 300 of 6000 rows"),
        "{plan}"
    );
    assert!(plan.contains("speed: 300 tail rows"), "{plan}");
    let plan = explained(&format!("EXPLAIN ANALYZE {narrow}"));
    for metric in [
        "files_ranges_pruned_statistics",
        "row_groups_pruned_statistics",
        "page_index_rows_pruned",
        "pushdown_rows_pruned",
        "bytes_scanned",
        "1 of 20 files may match",
    ] {
        assert!(plan.contains(metric), "{metric}: {plan}");
    }
    let batch = plan.lines().find(|line| line.contains("LayerExec: batch"));
    assert!(batch.expect("a layer").contains("output_rows=60"), "{plan}");
    let plan =
        explained("EXPLAIN ANALYZE SELECT * FROM by_hour WHERE hour = '2026-03-20T00:00:00Z'");
    assert!(plan.contains("speed: 6300 events"), "{plan}");
    assert!(plan.contains("pane files may match"), "{plan}");
}

#[test]
fn files_of_before_the_bounds_are_read_and_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_history(folder.path());
    server.sql("REFRESH MATERIALIZED VIEW by_hour");
    server.stop();
    let newest = std::fs::read_dir(folder.path().join("publications"))
        .expect("publications")
        .map(|entry| entry.expect("an entry").path())
        .max()
        .expect("one");
    let mut entry: Value =
        serde_json::from_slice(&std::fs::read(&newest).expect("read")).expect("JSON");
    let streams = &mut entry["body"]["streams"];
    for file in streams["s"]["files"].as_array_mut().expect("files") {
        assert!(
            file.as_object_mut()
                .expect("a file")
                .remove("bounds")
                .is_some()
        );
    }
    let body = entry["body"].to_string();
    let crc32c = crc32c_of(body.as_bytes());
    let text = format!("{{\"format_version\":1,\"crc32c\":{crc32c},\"body\":{body}}}");
    std::fs::write(&newest, text).expect("written");

    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let sql = "SELECT count(*) AS n FROM s WHERE ts >= '2026-03-05T01:00:00Z' \
               AND ts < '2026-03-05T02:00:00Z'";
    let (rows, stats) = stats(&server, sql);
    assert_eq!(rows[0]["n"], 60);
    assert_eq!(stats["files_read"], DAYS + 1, "{stats}");
    assert_eq!(stats["row_groups_read"], 1, "{stats}");
}

/// CRC-32C (Castagnoli), bit by bit: the test must not depend on the engine's own code.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = (crc >> 1) ^ (0x82F6_3B78 * low);
        }
    }
    !crc
}
