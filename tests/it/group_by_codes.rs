//! Groups by one column are exact whether files have dictionaries, have none, or the rows are not
//! flushed yet, and whatever else the query asks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::server::Server;

struct Row {
    n: i64,
    path: Option<String>,
    status: Option<i64>,
}

fn rows(from: i64, count: i64, repeats: bool) -> Vec<Row> {
    let row = |n: i64| Row {
        n,
        path: match (n % 7, repeats) {
            (0, _) => None,
            (_, true) => Some(format!("/shop/Item{}", n % 23)),
            (_, false) => Some(format!("/shop/Item{n}/of/{}", n * 31)),
        },
        status: (n % 11 != 0).then(|| match (n % 5, repeats) {
            (0, _) => 404,
            (_, true) => 200,
            (_, false) => n * 1_000_003,
        }),
    };
    (from..from + count).map(row).collect()
}

fn send(server: &Server, rows: &[Row]) {
    let line = |row: &Row| {
        let event = json!({"n": row.n, "path": row.path, "status": row.status});
        format!("{event}\n")
    };
    server.ingest("s", "ndjson", &rows.iter().map(line).collect::<String>());
}

type Passes = fn(&Row) -> bool;

const FILTERS: [(&str, Passes); 6] = [
    ("true", |_| true),
    ("n % 3 = 1", |row| row.n % 3 == 1),
    ("status = 404", |row| row.status == Some(404)),
    ("path LIKE '%1%'", |row| {
        row.path.as_ref().is_some_and(|path| path.contains('1'))
    }),
    ("path = '/shop/Item5' OR n < 40", |row| {
        row.path.as_deref() == Some("/shop/Item5") || row.n < 40
    }),
    ("n < 0", |_| false),
];

/// Groups of rows by a key, each as an answer of [`AGGREGATES`].
fn expected(all: &[Row], passes: Passes, key: impl Fn(&Row) -> Value) -> Vec<Value> {
    let mut groups: BTreeMap<String, (Value, Vec<&Row>)> = BTreeMap::new();
    for row in all.iter().filter(|row| passes(row)) {
        let key = key(row);
        let group = groups.entry(key.to_string()).or_insert((key, Vec::new()));
        group.1.push(row);
    }
    let answer = |(key, rows): &(Value, Vec<&Row>)| {
        let even = rows.iter().filter(|row| row.n % 2 == 0);
        json!({
            "key": key,
            "c": rows.len(),
            "statuses": rows.iter().filter(|row| row.status.is_some()).count(),
            "total": rows.iter().map(|row| row.n).sum::<i64>(),
            "least": rows.iter().map(|row| row.n).min(),
            "even": even.count(),
        })
    };
    groups.values().map(answer).collect()
}

const AGGREGATES: &str = "count(*) AS c, count(status) AS statuses, sum(n) AS total, \
    min(n) AS least, count(*) FILTER (WHERE n % 2 = 0) AS even";

fn sorted(rows: &Value) -> Vec<Value> {
    let mut rows = rows.as_array().expect("rows").clone();
    rows.sort_by_key(|row| row["key"].to_string());
    rows
}

fn check(server: &Server, all: &[Row], layer: &str) {
    let ask = |sql: &str| server.sql_layer(sql, layer)["data"].clone();
    for (filter, passes) in FILTERS {
        let by_path = expected(all, passes, |row| json!(row.path));
        let by_status = expected(all, passes, |row| json!(row.status));
        for (key, expected) in [("path", &by_path), ("status", &by_status)] {
            let groups =
                format!("SELECT {key} AS key, {AGGREGATES} FROM s WHERE {filter} GROUP BY 1");
            assert_eq!(&sorted(&ask(&groups)), expected, "{layer}: {groups}");
            let distinct = format!("SELECT count(DISTINCT {key}) AS c FROM s WHERE {filter}");
            let values = expected.iter().filter(|row| !row["key"].is_null()).count();
            assert_eq!(ask(&distinct)[0]["c"], values, "{layer}: {distinct}");
            let distinct = format!("SELECT DISTINCT {key} AS key FROM s WHERE {filter}");
            let keys = expected.iter().map(|row| json!({"key": row["key"]}));
            assert_eq!(
                sorted(&ask(&distinct)),
                keys.collect::<Vec<_>>(),
                "{layer}: {distinct}"
            );
            let top = format!(
                "SELECT {key} AS key FROM s WHERE {filter} GROUP BY 1 \
                 ORDER BY sum(n) DESC, 1 NULLS LAST LIMIT 3"
            );
            let mut best = expected.clone();
            best.sort_by_key(|row| {
                let total = row["total"].as_i64().expect("a total");
                (
                    -total,
                    row["key"].is_null(),
                    row["key"].as_i64(),
                    row["key"].to_string(),
                )
            });
            let best = best.iter().take(3).map(|row| json!({"key": row["key"]}));
            assert_eq!(ask(&top), json!(best.collect::<Vec<_>>()), "{layer}: {top}");
        }
        // The key is read by a function, too.
        let lengths = format!(
            "SELECT path AS key, max(path) AS p, sum(length(path)) AS l FROM s WHERE {filter} GROUP BY 1"
        );
        let lengths = sorted(&ask(&lengths));
        assert_eq!(lengths.len(), by_path.len());
        for (row, group) in lengths.iter().zip(&by_path) {
            assert_eq!(row["p"], group["key"]);
            let length = group["key"].as_str().map(str::len);
            let total = length.map(|length| length as i64 * group["c"].as_i64().expect("a count"));
            assert_eq!(row["l"], json!(total), "{layer}: {filter}");
        }
    }
}

#[test]
fn groups_are_exact_on_dictionaries_plain_columns_and_the_tail() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    server.sql("CREATE TABLE s (n BIGINT, path TEXT, status BIGINT)");
    let mut all = rows(0, 900, true);
    send(&server, &all);
    server.sql("FLUSH s");
    let plan = |sql: &str| server.sql(&format!("EXPLAIN {sql}"))["data"].to_string();
    let by_path = "SELECT path, count(*) FROM s GROUP BY path";
    let by_status = "SELECT status, count(*) FROM s GROUP BY status";
    assert!(plan(by_path).contains("CodedAggregateExec: key=path"));
    assert!(plan(by_status).contains("CodedAggregateExec: key=status"));
    check(&server, &all, "merged");

    let tail = rows(900, 300, true);
    send(&server, &tail);
    all.extend(tail);
    check(&server, &all, "merged");
    check(&server, &all[..900], "batch");
    check(&server, &all[900..], "speed");

    // A file without dictionaries: text is read plainly again.
    let unlike = rows(1_200, 500, false);
    send(&server, &unlike);
    all.extend(unlike);
    server.sql("FLUSH s");
    check(&server, &all, "batch");
    assert!(!plan(by_path).contains("CodedAggregateExec"));
    assert!(plan(by_status).contains("CodedAggregateExec"));
}
