//! Filters of text give the same rows whether files have dictionaries, have none, or the rows are
//! not flushed yet.

use serde_json::{Value, json};

use crate::server::Server;

type Row = (usize, Option<String>, Option<String>);

/// Paths repeat themselves, or do not; every seventh row has none.
fn rows(from: usize, count: usize, repeats: bool) -> Vec<Row> {
    (from..from + count)
        .map(|n| {
            let path = match (n % 7, repeats) {
                (0, _) => None,
                (_, true) => Some(format!("/shop/Item{}", n % 23)),
                (_, false) => Some(format!("/shop/Item{n}/of/{}", n * 31)),
            };
            let agent = (n % 5 != 0).then(|| ["curl/8", "Firefox", ""][n % 3].to_owned());
            (n, path, agent)
        })
        .collect()
}

fn send(server: &Server, rows: &[Row]) {
    let line =
        |(n, path, agent): &Row| format!("{}\n", json!({"n": n, "path": path, "agent": agent}));
    let body: String = rows.iter().map(line).collect();
    server.ingest("s", "ndjson", &body);
}

type Passes = fn(Option<&str>, Option<&str>) -> bool;

/// What is asked of a row, in SQL and here. Nothing but `true` passes.
const FILTERS: [(&str, Passes); 17] = [
    ("path LIKE '%Item1%'", |p, _| {
        p.is_some_and(|p| p.contains("Item1"))
    }),
    ("path NOT LIKE '%Item1%'", |p, _| {
        p.is_some_and(|p| !p.contains("Item1"))
    }),
    ("path ILIKE '%ITEM2'", |p, _| {
        p.is_some_and(|p| p.ends_with("Item2"))
    }),
    ("path = '/shop/Item3'", |p, _| p == Some("/shop/Item3")),
    ("path <> '/shop/Item3'", |p, _| {
        p.is_some_and(|p| p != "/shop/Item3")
    }),
    ("path > '/shop/Item3'", |p, _| p > Some("/shop/Item3")),
    ("path IN ('/shop/Item3', '/shop/Item4', 'x')", |p, _| {
        matches!(p, Some("/shop/Item3" | "/shop/Item4"))
    }),
    ("path IS NULL", |p, _| p.is_none()),
    ("path IS NOT NULL", |p, _| p.is_some()),
    ("coalesce(path, 'none') = 'none'", |p, _| p.is_none()),
    ("path IS DISTINCT FROM '/shop/Item3'", |p, _| {
        p != Some("/shop/Item3")
    }),
    ("length(path) = 11", |p, _| p.is_some_and(|p| p.len() == 11)),
    ("upper(path) ~ 'ITEM1[0-4]$'", |p, _| {
        let ends = ["Item10", "Item11", "Item12", "Item13", "Item14"];
        p.is_some_and(|p| ends.iter().any(|end| p.ends_with(end)))
    }),
    ("path LIKE '%Item1%' AND agent LIKE '%fox%'", |p, a| {
        p.is_some_and(|p| p.contains("Item1")) && a.is_some_and(|a| a.contains("fox"))
    }),
    ("path LIKE '%Item1%' OR agent = ''", |p, a| {
        p.is_some_and(|p| p.contains("Item1")) || a == Some("")
    }),
    ("agent = '' AND path > agent", |p, a| {
        a == Some("") && p > Some("")
    }),
    (
        "agent IN ('curl/8', '') AND n >= 0 AND path IS NOT NULL",
        |p, a| p.is_some() && matches!(a, Some("curl/8" | "")),
    ),
];

fn check(server: &Server, all: &[Row], layer: &str) {
    for (filter, passes) in FILTERS {
        let expected: Vec<&Row> = all
            .iter()
            .filter(|(_, path, agent)| passes(path.as_deref(), agent.as_deref()))
            .collect();
        let ask = |sql: &str| server.sql_layer(sql, layer)["data"].clone();
        let as_json = |rows: &[&Row]| -> Value {
            let row = |(n, path, agent): &&Row| json!({"n": n, "path": path, "agent": agent});
            rows.iter().map(row).collect()
        };
        let counted = ask(&format!("SELECT count(*) AS c FROM s WHERE {filter}"));
        assert_eq!(counted[0]["c"], expected.len(), "{layer}: {filter}");
        let whole = ask(&format!(
            "SELECT n, path, agent FROM s WHERE {filter} ORDER BY n"
        ));
        assert_eq!(whole, as_json(&expected), "{layer}: {filter}");
        let last: Vec<&Row> = expected.iter().rev().take(3).copied().collect();
        let order = "ORDER BY n DESC LIMIT 3";
        let top = ask(&format!(
            "SELECT n, path, agent FROM s WHERE {filter} {order}"
        ));
        assert_eq!(top, as_json(&last), "{layer}: {filter}");
        let some = ask(&format!("SELECT agent FROM s WHERE {filter} LIMIT 5"));
        let some = some.as_array().expect("rows").len();
        assert_eq!(some, expected.len().min(5), "{layer}: {filter}");
        let groups = ask(&format!(
            "SELECT count(*) AS c FROM (SELECT path FROM s WHERE {filter} GROUP BY path)"
        ));
        let mut paths: Vec<_> = expected.iter().map(|(_, path, _)| path).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(groups[0]["c"], paths.len(), "{layer}: {filter}");
    }
}

#[test]
fn filters_of_text_are_exact_on_dictionaries_plain_text_and_the_tail() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    server.sql("CREATE TABLE s (n BIGINT, path TEXT, agent TEXT)");
    let mut all = Vec::new();
    for part in 0..4 {
        // Files one and two have dictionaries for paths, the third has none.
        let more = rows(part * 1_000, 1_000, part != 2);
        send(&server, &more);
        all.extend(more);
        if part < 3 {
            check(&server, &all, "merged");
            server.sql("FLUSH s");
        }
        if part == 1 {
            let plan = server.rows("EXPLAIN SELECT count(*) FROM s WHERE path LIKE '%1%'");
            let plan = plan.last().expect("a plan")["plan"].to_string();
            assert!(plan.contains("per value of path"), "{plan}");
        }
    }
    check(&server, &all, "merged");
    check(&server, &all[..3_000], "batch");
    check(&server, &all[3_000..], "speed");
    let plan = server.rows("EXPLAIN SELECT count(*) FROM s WHERE path LIKE '%1%'");
    let plan = plan.last().expect("a plan")["plan"].to_string();
    assert!(
        !plan.contains("per value"),
        "one file has no dictionary: {plan}"
    );
    let plan = server.rows("EXPLAIN SELECT count(*) FROM s WHERE agent LIKE '%1%'");
    let plan = plan.last().expect("a plan")["plan"].to_string();
    assert!(plan.contains("per value of agent"), "{plan}");
}
