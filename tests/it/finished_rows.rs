//! Groups that the speed layer has not touched are answered from rows that are finished already.

use serde_json::Value;

use crate::server::Server;

/// An event a minute from this hour on. Every ninth has no time to group by.
fn events(hour: usize, count: usize) -> String {
    (0..count)
        .map(|event| {
            let time = format!("2026-03-01T{:02}:{:02}:00Z", hour + event / 60, event % 60);
            let due = match event % 9 {
                0 => "null".to_owned(),
                _ => format!("\"{time}\""),
            };
            let (k, n) = (event % 3, (event * 7_919) % 1_000);
            format!("{{\"ts\":\"{time}\",\"due\":{due},\"k\":\"k{k}\",\"n\":{n}}}\n")
        })
        .collect()
}

const AGGREGATES: &str = "count(*) AS c, sum(n) AS s, avg(n) AS a, min(n) AS l, approx_distinct(n) AS d, \
                          count(DISTINCT n) AS u, median(n) AS m";

fn with_views(folder: &std::path::Path) -> Server {
    let server = Server::start(folder, &["--flush-age", "1h"]);
    server.sql(
        "CREATE TABLE s (ts TIMESTAMP, due TIMESTAMP, k TEXT, n BIGINT) WITH (event_time = 'ts')",
    );
    for (view, keys) in VIEWS {
        server.sql(&format!(
            "CREATE MATERIALIZED VIEW {view} AS {}",
            select(keys)
        ));
    }
    server
}

const VIEWS: [(&str, &str); 4] = [
    ("by_hour", "date_trunc('hour', ts) AS hour, k"),
    ("by_due", "k, date_trunc('hour', due) AS due"),
    ("by_key", "k"),
    ("by_day", "date_trunc('day', ts) AS day"),
];

fn select(keys: &str) -> String {
    let groups = keys.matches(", k").count() + keys.matches("k, ").count() + 1;
    let groups = if groups == 2 { "1, 2" } else { "1" };
    format!("SELECT {keys}, {AGGREGATES} FROM s GROUP BY {groups}")
}

/// Every view, whole and in parts, against the same question of all events.
fn check(server: &Server) {
    for (view, keys) in VIEWS {
        let of_events = select(keys);
        for question in [
            "SELECT * FROM {} ORDER BY 1, 2, 3",
            "SELECT count(*) AS rows, sum(c) AS c, max(d) AS d FROM {}",
            "SELECT * FROM {} WHERE c > 3 ORDER BY 1, 2, 3 LIMIT 5",
        ] {
            let asked = question.replace("{}", view);
            let expected = server.rows(&question.replace("{}", &format!("({of_events})")));
            assert_eq!(server.rows(&asked), expected, "{asked}");
        }
    }
    let narrow =
        "WHERE hour >= '2026-03-01T03:00:00Z' AND hour < '2026-03-01T05:00:00Z' ORDER BY 1, 2";
    let of_events = select(VIEWS[0].1);
    assert_eq!(
        server.rows(&format!("SELECT * FROM by_hour {narrow}")),
        server.rows(&format!("SELECT * FROM ({of_events}) {narrow}")),
    );
}

fn plan(server: &Server, view: &str) -> String {
    let rows = server.rows(&format!("EXPLAIN SELECT * FROM {view}"));
    let plan = &rows.last().expect("a plan")["plan"];
    plan.as_str().expect("text").to_owned()
}

fn stats(server: &Server, sql: &str) -> Value {
    server.sql(sql)["stats"].clone()
}

#[test]
fn answers_are_exact_whatever_of_a_version_is_finished() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_views(folder.path());
    server.ingest("s", "ndjson", &events(0, 300));
    for (view, _) in VIEWS {
        server.sql(&format!("REFRESH MATERIALIZED VIEW {view}"));
    }
    check(&server);
    for (view, _) in VIEWS {
        let plan = plan(&server, view);
        assert!(plan.contains("finished rows"), "{view}: {plan}");
        assert!(
            !plan.contains(" states"),
            "nothing to merge in {view}: {plan}"
        );
    }

    // The last hour again and two more, first in the tail, then in panes.
    server.ingest("s", "ndjson", &events(4, 180));
    for flush in [false, true] {
        if flush {
            server.sql("FLUSH s");
        }
        check(&server);
        let by_hour = plan(&server, "by_hour");
        assert!(
            by_hour.contains("finished rows") && by_hour.contains(" states"),
            "{by_hour}"
        );
        let by_key = plan(&server, "by_key");
        assert!(
            !by_key.contains("finished rows"),
            "no key is a time: {by_key}"
        );
        let whole = stats(&server, "SELECT * FROM by_hour");
        let files = if flush { 2 } else { 1 };
        assert_eq!(
            whole["files_total"], files,
            "a version file counts once: {whole}"
        );
    }
    // An event that comes late touches a group that was finished.
    server.ingest("s", "ndjson", &events(1, 2));
    check(&server);
    // So do many, at more places than are told apart.
    for hour in [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20] {
        server.ingest("s", "ndjson", &events(hour, 10));
        server.sql("FLUSH s");
    }
    check(&server);

    let server = {
        server.kill();
        Server::start(folder.path(), &["--flush-age", "1h"])
    };
    check(&server);
    let asked = "SELECT * FROM by_hour ORDER BY 1, 2";
    let version = server.sql_layer(asked, "batch")["data"].clone();
    assert_eq!(version.as_array().expect("rows").len(), 15);
    server.sql("REFRESH MATERIALIZED VIEW by_hour");
    let refreshed = server.sql_layer(asked, "batch")["data"].clone();
    assert_eq!(refreshed, Value::from(server.rows(asked)));
    assert_eq!(
        server.sql_layer(asked, "speed")["data"],
        serde_json::json!([])
    );
}
