//! The SQL of views and streams on the real binary: every answer of a view is compared with
//! its SELECT run directly over the stream.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Server;
use super::settings::until;

/// Events `from..to`: a key of four, a number, a list and a nested object.
fn events(range: std::ops::Range<u64>) -> String {
    range
        .map(|n| {
            let key = ["a", "b", "c", "d"][(n % 4) as usize];
            let who = json!({"city": format!("c{}", n % 3), "age": n % 50});
            let event = json!({"k": key, "n": n, "half": n as f64 / 2.0, "who": who});
            format!("{event}\n")
        })
        .collect()
}

fn sorted(server: &Server, sql: &str) -> Vec<String> {
    let mut rows: Vec<String> = server.rows(sql).iter().map(Value::to_string).collect();
    rows.sort();
    rows
}

/// The view answers what its SELECT answers.
fn same(server: &Server, view: &str, select: &str, when: &str) {
    let of_view = sorted(server, &format!("SELECT * FROM {view}"));
    assert!(!of_view.is_empty(), "{view} {when}: no rows");
    assert_eq!(of_view, sorted(server, select), "{view} {when}: {select}");
}

fn create(server: &Server, view: &str, select: &str) {
    server.sql(&format!("CREATE MATERIALIZED VIEW {view} AS {select}"));
}

/// Recomputes; waits for a run that is under way since the view was made.
fn refresh(server: &Server, view: &str) {
    for _ in 0..600 {
        let answer = server.try_sql(&format!("REFRESH MATERIALIZED VIEW {view}"));
        if answer.status == 200 {
            return;
        }
        let code = &answer.json()["error"]["code"];
        assert_eq!(code, "already_running", "{}\n{}", answer.text, server.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{view} is never free to recompute");
}

fn start(folder: &Path) -> Server {
    Server::start(folder, &[])
}

#[test]
fn a_view_that_is_made_during_a_flush_is_stored_soon() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    for part in 0..6 {
        server.ingest("s", "ndjson", &events(part * 20_000..(part + 1) * 20_000));
    }
    let select = "SELECT k, count(*) AS n FROM s GROUP BY k";
    std::thread::scope(|scope| {
        scope.spawn(|| server.sql("FLUSH s"));
        std::thread::sleep(Duration::from_millis(100));
        create(&server, "v", select);
    });
    let described = || server.get("/api/v1/views/v").json();
    until("stored states", || described()["unstored_events"] == 0);
    same(&server, "v", select, "made during a flush");
}

const SHAPES: &[(&str, &str)] = &[
    (
        "having",
        "SELECT k, count(*) AS c, sum(n) AS s FROM e GROUP BY k HAVING sum(n) > 100",
    ),
    (
        "top",
        "SELECT n % 17 AS m, sum(n) AS s FROM e GROUP BY m ORDER BY s DESC, m LIMIT 5",
    ),
    (
        "up",
        "SELECT k, n % 2 AS o, count(*) AS c, min(n) AS lo FROM e GROUP BY ROLLUP (k, n % 2)",
    ),
    (
        "total",
        "SELECT count(*) AS c, sum(n) AS s, avg(half) AS a, max(n) AS hi FROM e",
    ),
    (
        "filtered",
        "SELECT k, count(*) FILTER (WHERE n % 2 = 0) AS even, sum(half) FILTER (WHERE n > 9) AS h \
         FROM e WHERE n <> 5 GROUP BY k",
    ),
    (
        "uniq",
        "SELECT k, count(DISTINCT n % 7) AS d, sum(DISTINCT n % 5) AS s FROM e GROUP BY k",
    ),
    ("kinds", "SELECT DISTINCT k, n % 3 AS m FROM e"),
    (
        "nested",
        "SELECT who['city'] AS city, max(who['age']) AS oldest, count(*) AS c FROM e \
         GROUP BY who['city']",
    ),
];

#[test]
fn a_view_over_history_and_tail_is_exact_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.ingest("e", "ndjson", &events(0..200));
    server.sql("FLUSH e");
    server.ingest("e", "ndjson", &events(200..300));
    for (view, select) in SHAPES {
        create(&server, view, select);
        same(&server, view, select, "at the first query");
    }
    assert_eq!(server.value("SELECT c FROM total"), 300);
    server.ingest("e", "ndjson", &events(300..340));
    for (view, select) in SHAPES {
        same(&server, view, select, "with new events");
        refresh(&server, view);
        same(&server, view, select, "after a refresh");
    }
    assert_eq!(server.value("SELECT c FROM total"), 340);
    server.stop();
    let server = start(folder.path());
    for (view, select) in SHAPES {
        same(&server, view, select, "after a restart");
    }
}

#[test]
fn an_ordered_view_answers_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    let (view, select) = SHAPES[1];
    server.ingest("e", "ndjson", &events(0..100));
    create(&server, view, select);
    server.sql("FLUSH e");
    server.ingest("e", "ndjson", &events(100..250));
    let rows = server.rows("SELECT * FROM top ORDER BY s DESC, m");
    assert_eq!(rows.len(), 5);
    assert_eq!(rows, server.rows(select));
}

#[test]
fn a_view_without_groups_has_one_row_even_on_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.sql("CREATE TABLE e (k TEXT, n BIGINT)");
    let select = "SELECT count(*) AS c, sum(n) AS s, min(k) AS k FROM e";
    create(&server, "total", select);
    create(
        &server,
        "grouped",
        "SELECT k, count(*) AS c FROM e GROUP BY k",
    );
    let empty = json!({"c": 0, "s": null, "k": null});
    assert_eq!(
        server.rows("SELECT * FROM total"),
        std::slice::from_ref(&empty)
    );
    assert_eq!(server.rows("SELECT * FROM grouped"), Vec::<Value>::new());
    same(&server, "total", select, "on an empty stream");
    refresh(&server, "total");
    assert_eq!(
        server.rows("SELECT * FROM total"),
        [empty],
        "after a refresh"
    );
    server.ingest("e", "ndjson", "{\"k\":\"x\",\"n\":4}\n");
    assert_eq!(
        server.rows("SELECT * FROM total"),
        [json!({"c": 1, "s": 4, "k": "x"})]
    );
    server.sql("FLUSH e");
    same(&server, "total", select, "after a flush");
}

#[test]
fn three_shards_answer_as_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.sql(
        "CREATE TABLE e (k TEXT, n BIGINT, half DOUBLE, who STRUCT<city TEXT, age BIGINT>) \
         WITH (shard_key = 'k', shards = 3)",
    );
    for (view, select) in SHAPES {
        create(&server, view, select);
    }
    let check = |when: &str| {
        for (view, select) in SHAPES {
            same(&server, view, select, when);
        }
    };
    server.ingest("e", "ndjson", &events(0..150));
    let shards = server.value("SELECT count(DISTINCT _shard) AS c FROM e");
    assert!(shards.as_u64() > Some(1), "four keys in {shards} shards");
    let split = "SELECT k FROM e GROUP BY k HAVING count(DISTINCT _shard) > 1";
    assert_eq!(server.rows(split), Vec::<Value>::new());
    check("in the tail");
    server.sql("FLUSH e");
    check("flushed");
    for (view, _) in SHAPES {
        refresh(&server, view);
    }
    check("refreshed");
    server.ingest("e", "ndjson", &events(150..260));
    check("with more events");
    server.sql("FLUSH e");
    server.ingest("e", "ndjson", &events(260..270));
    check("flushed again");
    assert_eq!(server.value("SELECT c FROM total"), 270);
}

#[test]
fn the_catalog_shows_streams_and_views() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.sql("CREATE TABLE e (k TEXT NOT NULL, n BIGINT)");
    let select = "SELECT k, count(*) AS c FROM e GROUP BY k";
    create(&server, "by_k", select);
    server.ingest("e", "ndjson", "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\"}\n");
    let tables = server.rows("SHOW TABLES");
    assert_eq!(tables.len(), 2, "{tables:?}");
    assert_eq!(
        (&tables[0]["name"], &tables[0]["kind"]),
        (&json!("e"), &json!("stream"))
    );
    assert_eq!(tables[0]["rows"], 2);
    assert_eq!(
        (&tables[1]["name"], &tables[1]["kind"]),
        (&json!("by_k"), &json!("view"))
    );
    assert_eq!(tables[1]["definition"], select);

    let columns = server.rows("DESCRIBE e");
    let column = |name: &str| {
        let found = columns.iter().find(|column| column["column_name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {columns:?}"))
    };
    assert_eq!(column("k")["nullable"], false);
    assert_eq!(column("n")["nullable"], true);
    assert_ne!(column("k")["data_type"], column("n")["data_type"]);
    let columns = server.rows("DESCRIBE by_k");
    let names: Vec<&Value> = columns
        .iter()
        .map(|column| &column["column_name"])
        .collect();
    assert_eq!(names, ["k", "c"]);
}

#[test]
fn explain_shows_both_layers_and_the_filter_on_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.ingest("e", "ndjson", &events(0..100));
    server.sql("FLUSH e");
    let select = "SELECT k, count(*) AS c FROM e GROUP BY k";
    create(&server, "by_k", select);
    refresh(&server, "by_k");
    server.ingest("e", "ndjson", &events(100..110));
    let plan = server.sql("EXPLAIN SELECT * FROM by_k")["data"].to_string();
    assert!(plan.contains("batch: version"), "{plan}");
    assert!(plan.contains("speed: 10 events"), "{plan}");
    let plan = server.sql("EXPLAIN SELECT * FROM by_k WHERE k = 'a'")["data"].to_string();
    assert!(plan.contains("predicate=k0"), "{plan}");
    let filtered = sorted(&server, "SELECT * FROM by_k WHERE k = 'a'");
    assert_eq!(
        filtered,
        sorted(
            &server,
            "SELECT k, count(*) AS c FROM e WHERE k='a' GROUP BY k"
        )
    );
    assert_eq!(filtered.len(), 1);
    assert_eq!(
        sorted(&server, "SELECT * FROM by_k WHERE k = 'z'"),
        Vec::<String>::new()
    );
}

#[test]
fn a_dropped_view_leaves_its_name_free() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.ingest("e", "ndjson", &events(0..100));
    server.sql("FLUSH e");
    let first = "SELECT k, count(*) AS c FROM e GROUP BY k";
    create(&server, "v", first);
    refresh(&server, "v");
    same(&server, "v", first, "first");
    server.sql("DROP MATERIALIZED VIEW v");
    assert_eq!(server.try_sql("SELECT * FROM v").status, 400);
    let second = "SELECT n % 3 AS m, sum(n) AS s FROM e GROUP BY m";
    create(&server, "v", second);
    same(&server, "v", second, "at once under the old name");
    server.ingest("e", "ndjson", &events(100..120));
    refresh(&server, "v");
    same(&server, "v", second, "refreshed under the old name");
    server.stop();
    let server = start(folder.path());
    same(&server, "v", second, "after a restart");
    server.sql("DROP MATERIALIZED VIEW v");
    server.sql("DROP TABLE e");
    assert_eq!(server.rows("SHOW TABLES"), Vec::<Value>::new());
    server.ingest("e", "ndjson", &events(0..7));
    create(&server, "v", first);
    same(&server, "v", first, "over a new stream of the old name");
    assert_eq!(server.value("SELECT count(*) AS c FROM e"), 7);
}

#[test]
fn new_columns_are_null_in_old_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.ingest("e", "ndjson", "{\"k\":\"a\"}\n{\"k\":\"b\"}\n");
    server.sql("FLUSH e");
    server.ingest("e", "ndjson", "{\"k\":\"c\"}\n");
    server.ingest(
        "e",
        "ndjson",
        "{\"k\":\"d\",\"extra\":5,\"who\":{\"age\":1}}\n",
    );
    server.ingest(
        "e",
        "ndjson",
        "{\"k\":\"e\",\"who\":{\"age\":2,\"city\":\"x\"}}\n",
    );
    let select = "SELECT extra, who['city'] AS city, count(*) AS c FROM e GROUP BY 1, 2";
    create(&server, "v", select);
    let expected = json!([
        {"k": "a", "extra": null, "age": null, "city": null},
        {"k": "b", "extra": null, "age": null, "city": null},
        {"k": "c", "extra": null, "age": null, "city": null},
        {"k": "d", "extra": 5, "age": 1, "city": null},
        {"k": "e", "extra": null, "age": 2, "city": "x"},
    ]);
    let check = |when: &str| {
        let sql = "SELECT k, extra, who['age'] AS age, who['city'] AS city FROM e ORDER BY k";
        assert_eq!(server.sql(sql)["data"], expected, "{when}");
        same(&server, "v", select, when);
    };
    check("in the tail");
    let columns = server.rows("DESCRIBE e");
    for name in ["extra", "who"] {
        let column = columns.iter().find(|column| column["column_name"] == name);
        assert_eq!(
            column.map(|column| &column["nullable"]),
            Some(&json!(true)),
            "{name}"
        );
    }
    server.sql("FLUSH e");
    check("flushed");
    refresh(&server, "v");
    check("refreshed");
}
