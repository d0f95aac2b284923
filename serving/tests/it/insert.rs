//! INSERT over HTTP: what reaches the engine, and what is refused before it does.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimeUnit};
use arrow::ipc::reader::StreamReader;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use lambdalake_serving::Limits;
use serde_json::json;

use crate::client::Server;

async fn server_with(limits: Limits) -> Server {
    let server = Server::with(limits).await;
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("ts", time, true),
        Field::new("ip", DataType::Utf8, false),
        Field::new("n", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("_shard", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
    ]));
    let table = MemTable::try_new(schema, vec![vec![]]).expect("a table");
    let context = &server.engine.context;
    context
        .register_table("access_log", Arc::new(table))
        .expect("registered");
    let words: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..10_000).map(|n| format!("a longer word {n}")),
    ));
    let words = RecordBatch::try_from_iter([("word", words)]).expect("a batch");
    context.register_batch("words", words).expect("registered");
    server
}

fn received(server: &Server) -> RecordBatch {
    let ingested = server.engine.ingested.lock().unwrap();
    let (request, body) = ingested.last().expect("something was ingested");
    assert_eq!(request.stream, "access_log");
    assert_eq!(request.format.as_deref(), Some("arrow"));
    let mut batches = StreamReader::try_new(&body[..], None).expect("a stream");
    batches.next().expect("a batch").expect("whole")
}

#[tokio::test]
async fn values_come_in_the_types_of_the_columns() {
    let server = server_with(Limits::default()).await;
    let sql = "INSERT INTO access_log VALUES \
        ('2026-11-02T10:00:00Z', '192.0.2.7', 9007199254740993, 2), (NULL, 'b', NULL, 0.5)";
    let response = server.sql(sql).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["data"], json!([{"inserted": 2}]));
    let batch = received(&server);
    let names: Vec<String> = batch
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    assert_eq!(names, ["ts", "ip", "n", "x"], "without hidden columns");
    let shown = pretty_format_batches(std::slice::from_ref(&batch)).expect("shown");
    assert!(
        shown.to_string().contains("2026-11-02T10:00:00Z"),
        "{shown}"
    );
    let numbers = batch.column(2).as_primitive::<Int64Type>();
    assert_eq!(numbers.value(0), 9_007_199_254_740_993);
    assert_eq!(batch.column(3).as_primitive::<Float64Type>().value(0), 2.0);
}

#[tokio::test]
async fn named_columns_and_a_query_fill_the_rest_with_null() {
    let server = server_with(Limits::default()).await;
    let sql = "INSERT INTO access_log (n, ip) SELECT 7, word FROM words LIMIT 3";
    assert_eq!(
        server.sql(sql).await.json()["data"],
        json!([{"inserted": 3}])
    );
    let batch = received(&server);
    assert_eq!(batch.num_rows(), 3);
    assert_eq!(batch.column(0).null_count(), 3);
    assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(2), 7);
    let none = "INSERT INTO access_log (ip) SELECT word FROM words WHERE word = 'none'";
    assert_eq!(
        server.sql(none).await.json()["data"],
        json!([{"inserted": 0}])
    );
    assert_eq!(
        server.engine.ingested.lock().unwrap().len(),
        1,
        "nothing to send"
    );
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_nothing_is_stored() {
    let server = server_with(Limits::default()).await;
    for (rest, status, code, hint) in [
        (
            "access_log (nope) VALUES (1)",
            400,
            "unknown_column",
            "nope",
        ),
        (
            "access_log (ip, _offset) VALUES ('a', 1)",
            400,
            "hidden_column",
            "_offset",
        ),
        (
            "access_log (ip, ip) VALUES ('a', 'b')",
            400,
            "wrong_number_of_columns",
            "twice",
        ),
        (
            "access_log (ip, n) VALUES ('a')",
            400,
            "wrong_number_of_columns",
            "names 2",
        ),
        (
            "access_log VALUES (NULL, 'a', 1, 1, 1)",
            400,
            "wrong_number_of_columns",
            "only 4",
        ),
        ("access_log (n) VALUES (1)", 400, "null_value", "ip"),
        ("access_log (ip) VALUES (NULL)", 400, "null_value", "ip"),
        (
            "access_log (ip, n) VALUES ('a', 'many')",
            400,
            "invalid_value",
            "column n",
        ),
        (
            "access_log (ip, n) VALUES ('a', 2.5)",
            400,
            "invalid_value",
            "change a number",
        ),
        (
            "access_log (ip, ts) VALUES ('a', 17)",
            400,
            "type_mismatch",
            "to_timestamp",
        ),
        (
            "access_log (ip, n) VALUES ('a', [1])",
            400,
            "type_mismatch",
            "column n",
        ),
        ("hits VALUES (1)", 400, "not_a_stream", "view"),
        ("nowhere VALUES (1)", 404, "unknown_stream", "CREATE TABLE"),
    ] {
        let response = server.sql(&format!("INSERT INTO {rest}")).await;
        let text = response.text();
        assert_eq!(
            (response.status, response.code()),
            (status, code.to_owned()),
            "{text}"
        );
        assert!(text.contains(hint), "{rest}: {text}");
    }
    let response = server
        .get("/api/v1/sql?q=INSERT+INTO+access_log+(ip)+VALUES+('a')")
        .await;
    assert_eq!(response.status, 405, "{}", response.text());
    assert!(server.engine.ingested.lock().unwrap().is_empty());
}

#[tokio::test]
async fn names_are_listed_by_pattern_and_system_tables_described() {
    let server = Server::start().await;
    assert_eq!(
        server.sql_as("SHOW TABLES LIKE 'acc%'", "csv").await.text(),
        "name,kind,rows,definition\naccess_log,stream,7,\n"
    );
    assert_eq!(
        server
            .sql_as("SHOW TABLES ILIKE 'HIT_'", "csv")
            .await
            .text(),
        "name,kind,rows,definition\nhits,view,,SELECT count(*) FROM access_log\n"
    );
    for name in ["lambdalake.runs", "lambdalake.lambdalake.runs"] {
        let described = server.sql(&format!("DESCRIBE {name}")).await.json();
        let first = &described["data"][0];
        assert_eq!(first["column_name"], "run_id", "{described}");
        assert_eq!(first["comment"], "Name of the run.");
    }
    for name in ["public.access_log", "lambdalake.public.access_log"] {
        let described = server
            .sql(&format!("SHOW COLUMNS FROM {name}"))
            .await
            .json();
        assert_eq!(described["data"][1]["column_name"], "ip", "{described}");
    }
    for name in ["lambdalake.nope", "other.access_log", "a.b.c.d"] {
        let response = server.sql(&format!("DESCRIBE {name}")).await;
        assert_eq!(
            (response.status, response.code()),
            (404, "unknown_table".to_owned())
        );
    }
    let response = server.sql("COMMENT ON TABLE access_log IS 'x'").await;
    assert_eq!(response.status, 200);
    assert_eq!(
        server
            .engine
            .asked
            .lock()
            .unwrap()
            .last()
            .map(String::as_str),
        Some("comment Stream(\"access_log\") Some(\"x\")")
    );
}
