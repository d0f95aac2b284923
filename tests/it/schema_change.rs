//! Streams whose columns change: integers that meet fractions, new columns by ALTER TABLE and
//! by themselves. Answers are exact at every step, before and after a kill.

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::server::Server;

const VIEW: &str = "SELECT k, count(*) AS n, sum(x) AS total, max(x) AS most FROM s GROUP BY k";

fn body(from: u64, to: u64) -> String {
    (from..to)
        .map(|x| {
            format!(
                "{{\"k\": \"k{}\", \"x\": {x}, \"o\": {{\"y\": {x}}}}}\n",
                x % 3
            )
        })
        .collect()
}

/// A view with version 1, a pane and a tail, over integers.
fn with_integers(folder: &Path) -> Server {
    let server = Server::start(folder, &[]);
    server.ingest("s", "ndjson", &body(0, 100));
    server.sql(&format!("CREATE MATERIALIZED VIEW v AS {VIEW}"));
    server.sql("CREATE MATERIALIZED VIEW only_k AS SELECT k, count(*) AS n FROM s GROUP BY k");
    server.sql("REFRESH MATERIALIZED VIEW v");
    server.sql("REFRESH MATERIALIZED VIEW only_k");
    server.ingest("s", "ndjson", &body(100, 150));
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", &body(150, 160));
    server
}

fn assert_exact(server: &Server) -> Vec<Value> {
    let view = server.rows("SELECT * FROM v ORDER BY k");
    let direct = server.rows(&format!("SELECT * FROM ({VIEW}) ORDER BY k"));
    assert_eq!(view, direct, "{}", server.log());
    view
}

fn type_of(server: &Server, stream: &str, column: &str) -> String {
    let stream = server.get(&format!("/api/v1/streams/{stream}")).json();
    let columns = stream["schema"].as_array().expect("columns");
    let found = columns.iter().find(|found| found["name"] == column);
    let found = found.unwrap_or_else(|| panic!("no column {column} in {columns:?}"));
    found["type"].as_str().expect("a type").to_owned()
}

pub fn wait_until(what: &str, server: &Server, done: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not {what} in 20 seconds\n{}", server.log());
}

#[test]
fn an_integer_column_that_meets_a_fraction_becomes_a_float_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_integers(folder.path());
    assert_eq!(type_of(&server, "s", "x"), "Int64");
    let untouched = server.get("/api/v1/views/only_k").json();

    let reply = server.ingest(
        "s",
        "ndjson",
        "{\"k\": \"k0\", \"x\": 0.5, \"o\": {\"y\": 1.25}}",
    );
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(type_of(&server, "s", "x"), "Float64");
    assert_eq!(type_of(&server, "s", "o"), "Struct(\"y\": Float64)");
    let first = assert_exact(&server);
    assert_eq!(first[0]["n"], 55);
    let total: f64 = (0..160).filter(|x| x % 3 == 0).map(f64::from).sum();
    assert_eq!(first[0]["total"], total + 0.5);
    let after = server.get("/api/v1/views/only_k").json();
    assert_eq!(
        after["versions"], untouched["versions"],
        "it reads no changed column"
    );

    wait_until("filled again", &server, || {
        server.get("/api/v1/views/v").json()["version"].is_u64()
    });
    assert_eq!(assert_exact(&server), first);
    server.ingest("s", "ndjson", &body(160, 170));
    server.ingest(
        "s",
        "ndjson",
        "{\"k\": \"k1\", \"x\": 1e3, \"o\": {\"y\": 7}}",
    );
    let second = assert_exact(&server);
    server.sql("REFRESH MATERIALIZED VIEW v");
    let last = server.get("/api/v1/views/v").json()["last_run"].clone();
    assert_eq!(last["audit"], "equal", "{last}");

    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(assert_exact(&server), second);
    assert_eq!(type_of(&server, "s", "x"), "Float64");
}

#[test]
fn files_of_the_narrow_type_are_written_again_for_other_readers() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_integers(folder.path());
    server.sql("FLUSH s");
    let events = "SELECT * FROM s ORDER BY _shard, _offset";
    server.ingest("s", "ndjson", "{\"k\": \"k0\", \"x\": 0.5}");
    let before = server.rows(events);
    server.sql("FLUSH s");
    wait_until("written again", &server, || {
        server.get("/api/v1/streams/s").json()["files_to_rewrite"] == 0
    });
    assert_eq!(server.rows(events), before);
    assert_exact(&server);
    let stream = server.get("/api/v1/streams/s").json();
    server.stop();
    // Restarted: what nothing names is gone, and the newest Delta version lists what is there.
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.rows(events), before);
    let dataset = folder
        .path()
        .join(stream["delta_table"].as_str().expect("a folder"));
    let files: Vec<_> = std::fs::read_dir(&dataset)
        .expect("the dataset")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "parquet"))
        .collect();
    assert_eq!(
        files.len() as u64,
        stream["files"].as_u64().expect("a number")
    );
    let mut rows = 0;
    for file in files {
        let file = std::fs::File::open(file).expect("opens");
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)
            .expect("Parquet");
        let schema = reader.schema().clone();
        let x = schema.field_with_name("x").expect("a column").data_type();
        assert_eq!(x, &arrow::datatypes::DataType::Float64);
        rows += reader.metadata().file_metadata().num_rows();
    }
    assert_eq!(rows, 161);
}

#[test]
fn integers_that_no_float_can_hold_keep_their_column() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let wide = (1_u64 << 53) + 1;
    server.ingest(
        "s",
        "ndjson",
        &format!("{{\"id\": {wide}, \"x\": 1, \"l\": [1]}}"),
    );
    let mixed =
        "{\"id\": 0.5, \"x\": 1}\n{\"id\": 2, \"x\": 0.5, \"l\": [2.5]}\n{\"id\": 3, \"x\": 4}";
    let check = |reply: Value| {
        assert_eq!(reply["accepted"], 2, "{reply}");
        assert_eq!(reply["rejected"], 1, "{reply}");
        let error = &reply["errors"][0];
        assert_eq!(error["line"], 1);
        assert_eq!(error["code"], "type_conflict");
        assert_eq!(error["field"], "id");
    };
    check(server.ingest("s", "ndjson", mixed));
    assert_eq!(type_of(&server, "s", "id"), "Int64");
    assert_eq!(type_of(&server, "s", "x"), "Float64");
    server.sql("FLUSH s");
    server.kill();
    // Now the number is in a master file only.
    let server = Server::start(folder.path(), &[]);
    check(server.ingest("s", "ndjson", mixed));
    assert_eq!(type_of(&server, "s", "id"), "Int64");
    assert_eq!(server.value("SELECT max(id) FROM s"), json!(wide));
    let refused = server.try_sql("ALTER TABLE s ALTER COLUMN id TYPE DOUBLE");
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(refused.text.contains("2^53"), "{}", refused.text);
    // A float column takes no such integer either.
    let path = "/api/v1/streams/s/events";
    let refused = server.post(path, &[], format!("{{\"x\": {wide}}}").as_bytes());
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["errors"][0]["code"], "out_of_range");
}

#[test]
fn a_view_that_needs_integers_keeps_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", "{\"x\": 6}\n{\"x\": 3}");
    server.sql("CREATE MATERIALIZED VIEW bits AS SELECT bit_and(x) AS b FROM s");
    let answer = server.post("/api/v1/streams/s/events", &[], b"{\"x\": 0.5}");
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert_eq!(answer.json()["errors"][0]["code"], "type_conflict");
    let refused = server.try_sql("ALTER TABLE s ALTER COLUMN x TYPE DOUBLE");
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("view bits"), "{}", refused.text);
    server.sql("DROP VIEW bits");
    server.sql("ALTER TABLE s ALTER COLUMN x SET DATA TYPE DOUBLE");
    assert_eq!(type_of(&server, "s", "x"), "Float64");
    server.ingest("s", "ndjson", "{\"x\": 0.5}");
    assert_eq!(server.value("SELECT sum(x) FROM s"), json!(9.5));
}

#[test]
fn columns_are_added_by_alter_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_integers(folder.path());
    server.sql("ALTER TABLE s ADD COLUMN tag TEXT, ADD COLUMN IF NOT EXISTS x DOUBLE");
    assert_eq!(type_of(&server, "s", "x"), "Int64", "it was there");
    server.ingest(
        "s",
        "ndjson",
        "{\"tag\": \"new\", \"k\": \"k0\", \"x\": 1000}",
    );
    assert_eq!(server.value("SELECT count(tag) FROM s"), json!(1));
    assert_eq!(
        server.value("SELECT count(*) FROM s WHERE tag IS NULL"),
        json!(160)
    );
    assert_exact(&server);
    for (sql, status, text) in [
        ("ALTER TABLE s ADD COLUMN tag TEXT", 409, "exists"),
        (
            "ALTER TABLE nowhere ADD COLUMN a TEXT",
            404,
            "no stream nowhere",
        ),
        ("ALTER TABLE s ADD COLUMN a TEXT NOT NULL", 400, "NOT NULL"),
        ("ALTER TABLE s ADD COLUMN _rest TEXT", 400, "_rest"),
        (
            "ALTER TABLE s ADD COLUMN a GEOMETRY",
            400,
            "does not exist here",
        ),
        ("ALTER TABLE s DROP COLUMN k", 400, "cannot be dropped"),
        (
            "ALTER TABLE s RENAME COLUMN k TO l",
            400,
            "cannot be renamed",
        ),
        (
            "ALTER TABLE s ALTER COLUMN k TYPE DOUBLE",
            400,
            "only BIGINT",
        ),
        (
            "ALTER TABLE s ALTER COLUMN nix TYPE DOUBLE",
            404,
            "no column nix",
        ),
        (
            "ALTER TABLE s ADD COLUMN b TEXT, ADD COLUMN b TEXT",
            409,
            "exists",
        ),
        ("ALTER VIEW v RENAME TO w", 400, "only ALTER TABLE"),
    ] {
        let answer = server.try_sql(sql);
        assert_eq!(answer.status, status, "{sql}: {}", answer.text);
        assert!(answer.text.contains(text), "{sql}: {}", answer.text);
    }
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT count(tag) FROM s"), json!(1));
    server.sql("ALTER TABLE s ADD COLUMN later BIGINT[]");
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", "{\"later\": [1, 2]}");
    assert_eq!(server.value("SELECT count(later) FROM s"), json!(1));
    assert_exact(&server);
}

#[test]
fn columns_come_in_any_order_at_any_time_and_missing_is_null() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let body = [
        json!({"a": 1, "b": "x", "n": {"p": 1}}),
        json!({"b": null, "a": 2}),
        json!({"n": {"q": [{"r": true}], "p": null}, "c": 2.5, "b": ""}),
        json!({"a": 4, "n": {}}),
    ];
    let lines: Vec<String> = body.iter().map(Value::to_string).collect();
    server.ingest("s", "ndjson", &lines.join("\n"));
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", "{\"n\": {\"z\": \"new\"}, \"a\": 5}");
    let rows = server.rows("SELECT a, b, n, c FROM s ORDER BY _offset");
    let n = |p: Value, q: Value, z: Value| json!({"p": p, "q": q, "z": z});
    let null = Value::Null;
    let expected = [
        json!({"a": 1, "b": "x", "n": n(json!(1), null.clone(), null.clone()), "c": null}),
        json!({"a": 2, "b": null, "n": null, "c": null}),
        json!({"a": null, "b": "", "n": n(null.clone(), json!([{"r": true}]), null.clone()), "c": 2.5}),
        json!({"a": 4, "b": null, "n": n(null.clone(), null.clone(), null.clone()), "c": null}),
        json!({"a": 5, "b": null, "n": n(null.clone(), null.clone(), json!("new")), "c": null}),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn rows_that_do_not_fit_are_kept_where_the_stream_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.sql("CREATE TABLE kept (n BIGINT, s TEXT) WITH (on_conflict = 'rest')");
    server.sql("CREATE TABLE strict (n BIGINT, s TEXT) WITH (on_conflict = 'reject')");
    let body = "{\"n\":1,\"s\":\"a\"}\n{\"n\":\"one\", \"s\":\"b\", \"m\":[1]}\nnonsense";
    let reply = server.ingest("kept", "ndjson", body);
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(reply["errors"][0]["line"], 3);
    let reply = server.ingest("strict", "ndjson", body);
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(1), &json!(2))
    );

    server.sql("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, count(_rest) AS odd FROM kept");
    server.sql("FLUSH kept");
    server.kill();
    let server = Server::start(folder.path(), &[]);
    let rows = server.rows("SELECT n, s, m, _rest FROM kept ORDER BY _offset");
    let raw = "{\"n\":\"one\", \"s\":\"b\", \"m\":[1]}";
    assert_eq!(
        rows,
        [
            json!({"n": 1, "s": "a", "m": null, "_rest": null}),
            json!({"n": null, "s": "b", "m": [1], "_rest": raw}),
        ]
    );
    assert_eq!(server.rows("SELECT * FROM v"), [json!({"n": 2, "odd": 1})]);

    server.sql("ALTER TABLE strict SET (on_conflict = 'rest')");
    let stream = server.get("/api/v1/streams/strict").json();
    assert_eq!(stream["on_conflict"], "rest");
    server.ingest("strict", "ndjson", "{\"n\": {}}");
    assert_eq!(
        server.value("SELECT _rest FROM strict WHERE n IS NULL"),
        json!("{\"n\": {}}")
    );
    for (sql, text) in [
        (
            "CREATE TABLE x WITH (on_conflict = 'keep')",
            "neither 'reject' nor 'rest'",
        ),
        ("CREATE TABLE x (_rest TEXT)", "_rest"),
        (
            "ALTER TABLE kept SET (on_conflict = 'reject')",
            "cannot go back",
        ),
        ("ALTER TABLE kept SET (shards = 2)", "does not exist"),
    ] {
        let answer = server.try_sql(sql);
        assert_eq!(answer.status, 400, "{sql}: {}", answer.text);
        assert!(answer.text.contains(text), "{sql}: {}", answer.text);
    }
}

/// Views whose keys, aggregates or filters read the column that widens.
const WIDENING_VIEWS: [&str; 4] = [
    "SELECT k, count(*) AS n, sum(v) AS total, min(v) AS least, max(v) AS most FROM s GROUP BY k",
    "SELECT v, count(*) AS n FROM s GROUP BY v",
    "SELECT count(*) AS n, count(DISTINCT v) AS different FROM s WHERE v > 3",
    "SELECT k, median(v) AS middle, avg(v) AS mean FROM s GROUP BY k",
];

#[test]
fn answers_stay_exact_however_history_goes_on_when_a_column_widens() {
    for seed in 1..=2 {
        let mut rng = StdRng::seed_from_u64(seed);
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::start(folder.path(), &[]);
        server.sql("CREATE TABLE s (k TEXT, v BIGINT) WITH (shard_key = 'k', shards = 2)");
        for (at, view) in WIDENING_VIEWS.iter().enumerate() {
            server.sql(&format!("CREATE MATERIALIZED VIEW v{at} AS {view}"));
        }
        let widens_at = rng.random_range(4..15);
        let mut sum = 0.0;
        for step in 0..20 {
            // Quarters are exact in floats, so that sums are in any order.
            let scale = if step >= widens_at { 4 } else { 1 };
            match rng.random_range(0..10) {
                0..5 => {
                    let values: Vec<i32> = (0..rng.random_range(1..40))
                        .map(|_| rng.random_range(-50..50))
                        .collect();
                    let lines: String = values
                        .iter()
                        .map(|value| match scale {
                            1 => format!("{{\"k\":\"k{}\",\"v\":{value}}}\n", value % 3),
                            _ => format!(
                                "{{\"k\":\"k{}\",\"v\":{}}}\n",
                                value % 3,
                                f64::from(*value) / 4.0
                            ),
                        })
                        .collect();
                    let reply = server.ingest("s", "ndjson", &lines);
                    assert_eq!(reply["accepted"], values.len(), "seed {seed}: {reply}");
                    sum += f64::from(values.iter().sum::<i32>()) / f64::from(scale);
                }
                5 | 6 => drop(server.sql("FLUSH s")),
                7 | 8 => {
                    let at = rng.random_range(0..WIDENING_VIEWS.len());
                    // A run that fills the view may be under way.
                    let answer = server.try_sql(&format!("REFRESH MATERIALIZED VIEW v{at}"));
                    assert!([200, 409].contains(&answer.status), "{}", answer.text);
                }
                _ => {
                    server.kill();
                    server = Server::start(folder.path(), &[]);
                }
            }
            let total = server.value("SELECT coalesce(sum(v), 0) FROM s");
            assert_eq!(total.as_f64(), Some(sum), "seed {seed}, step {step}");
            let at = rng.random_range(0..WIDENING_VIEWS.len());
            let view = server.rows(&format!("SELECT * FROM v{at} ORDER BY 1"));
            let direct = format!("SELECT * FROM ({}) ORDER BY 1", WIDENING_VIEWS[at]);
            assert_eq!(
                view,
                server.rows(&direct),
                "seed {seed}, step {step}, v{at}"
            );
        }
    }
}
