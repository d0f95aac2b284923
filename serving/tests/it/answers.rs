//! What answers look like, value by value.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use arrow::ipc::reader::StreamReader;
use serde_json::json;

use crate::client::Server;

/// Two rows of everything that JSON gets wrong easily: one of edge values, one of nulls.
fn edges() -> RecordBatch {
    let inner = Arc::new(Field::new("a b", DataType::Int64, true));
    let nested = StructArray::try_new(
        vec![inner].into(),
        vec![Arc::new(Int64Array::from(vec![Some(i64::MIN), None]))],
        None,
    )
    .unwrap();
    let keys = arrow::array::Int32Array::from(vec![Some(0), Some(1)]);
    let words = Arc::new(StringArray::from(vec![Some("w\"x"), None]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "big",
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None])),
        ),
        (
            "huge",
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
        ),
        (
            "nan",
            Arc::new(Float64Array::from(vec![
                Some(f64::NAN),
                Some(f64::NEG_INFINITY),
            ])),
        ),
        ("tenth", Arc::new(Float64Array::from(vec![Some(0.1), None]))),
        (
            "money",
            Arc::new(
                Decimal128Array::from(vec![Some(123_456_789_012_345_678_901_234_567_890), None])
                    .with_precision_and_scale(38, 2)
                    .unwrap(),
            ),
        ),
        (
            "at",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None])
                    .with_timezone("UTC"),
            ),
        ),
        (
            "elsewhere",
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_000), None])
                    .with_timezone("+02:00"),
            ),
        ),
        (
            "plain",
            Arc::new(TimestampNanosecondArray::from(vec![
                Some(1_700_000_000_000_000_001),
                None,
            ])),
        ),
        ("day", Arc::new(Date32Array::from(vec![Some(19_675), None]))),
        (
            "raw",
            Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff~"[..]), None])),
        ),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<
                arrow::datatypes::Int64Type,
                _,
                _,
            >(vec![Some(vec![Some(1), None]), None])),
        ),
        ("nested", Arc::new(nested)),
        (
            "word",
            Arc::new(DictionaryArray::<Int32Type>::try_new(keys, words).unwrap()),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![Some("a,\"b\"\n"), Some("")])),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

async fn with_edges() -> Server {
    let server = Server::start().await;
    server
        .engine
        .context
        .register_batch("edges", edges())
        .unwrap();
    server
}

const FIRST: &str = concat!(
    r#"{"big":9223372036854775807,"huge":18446744073709551615,"nan":null,"tenth":0.1,"#,
    r#""money":1234567890123456789012345678.90,"at":"2023-11-14T22:13:20.123456Z","#,
    r#""elsewhere":"2023-11-14T22:13:20Z","plain":"2023-11-14T22:13:20.000000001Z","#,
    r#""day":"2023-11-14","raw":"AP9+","list":[1,null],"#,
    r#""nested":{"a b":-9223372036854775808},"word":"w\"x","text":"a,\"b\"\n"}"#,
);

const SECOND: &str = concat!(
    r#"{"big":null,"huge":null,"nan":null,"tenth":null,"money":null,"at":null,"#,
    r#""elsewhere":null,"plain":null,"day":null,"raw":null,"list":null,"#,
    r#""nested":{"a b":null},"word":null,"text":""}"#,
);

#[tokio::test]
async fn json_is_exact() {
    let server = with_edges().await;
    let response = server.sql("SELECT * FROM edges").await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(response.is_whole);
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("x-freshness-ms"), Some("25"));
    assert_eq!(response.header("x-batch-version"), Some("4"));
    assert_eq!(response.header("x-lag-events"), Some("0"));
    assert!(response.header("x-query-id").is_some());
    let rows = format!("\"data\":[\n{FIRST},\n{SECOND}\n],\"rows\":2,\"stats\":");
    assert!(response.text().contains(&rows), "{}", response.text());
    let json = response.json();
    assert_eq!(json["meta"][0], json!({"name": "big", "type": "Int64"}));
    assert_eq!(json["meta"].as_array().unwrap().len(), 14);
    assert_eq!(json["stats"]["rows_read"], 12);
    assert_eq!(json["stats"]["from_batch"], 10);
    assert_eq!(json["stats"]["from_speed"], 2);
    assert!(json["stats"]["elapsed_ms"].is_number());
}

#[tokio::test]
async fn ndjson_is_the_same_rows() {
    let server = with_edges().await;
    let response = server.sql_as("SELECT * FROM edges", "ndjson").await;
    assert_eq!(
        response.header("content-type"),
        Some("application/x-ndjson")
    );
    assert_eq!(response.text(), format!("{FIRST}\n{SECOND}\n"));
}

#[tokio::test]
async fn csv_tells_null_from_empty() {
    let server = with_edges().await;
    let response = server.sql_as("SELECT * FROM edges", "csv").await;
    assert!(
        response
            .header("content-type")
            .unwrap()
            .starts_with("text/csv")
    );
    assert_eq!(
        response.text(),
        concat!(
            "big,huge,nan,tenth,money,at,elsewhere,plain,day,raw,list,nested,word,text\n",
            "9223372036854775807,18446744073709551615,NaN,0.1,1234567890123456789012345678.90,",
            "2023-11-14T22:13:20.123456Z,2023-11-14T22:13:20Z,2023-11-14T22:13:20.000000001Z,",
            "2023-11-14,AP9+,\"[1,null]\",\"{\"\"a b\"\":-9223372036854775808}\",\"w\"\"x\",",
            "\"a,\"\"b\"\"\n\"\n",
            ",,-inf,,,,,,,,,\"{\"\"a b\"\":null}\",,\"\"\n",
        )
    );
}

#[tokio::test]
async fn arrow_comes_back_as_it_was() {
    let server = with_edges().await;
    let accept = "Accept: application/vnd.apache.arrow.stream\r\n";
    let response = server
        .send("POST", "/api/v1/sql", accept, b"SELECT * FROM edges")
        .await;
    let reader = StreamReader::try_new(Cursor::new(&response.body), None).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(batches, [edges()]);
}

#[tokio::test]
async fn tables_are_for_eyes_and_end() {
    let server = Server::start().await;
    let response = server.sql_as("SELECT 1 AS a, 'x' AS b", "table").await;
    assert_eq!(
        response.text(),
        "+---+---+\n| a | b |\n+---+---+\n| 1 | x |\n+---+---+\n(1 row)\n"
    );
    let response = server.sql_as("SELECT 'endless'", "table").await;
    assert!(response.is_whole);
    assert!(
        response
            .text()
            .contains("the first 1000 rows; there are more")
    );
    assert_eq!(response.text().lines().count(), 1_005);
}

#[tokio::test]
async fn no_rows_still_have_columns() {
    let server = Server::start().await;
    let empty = "SELECT 1 AS a WHERE false";
    let json = server.sql(empty).await.json();
    assert_eq!(json["meta"], json!([{"name": "a", "type": "Int64"}]));
    assert_eq!((&json["data"], &json["rows"]), (&json!([]), &json!(0)));
    assert_eq!(server.sql_as(empty, "ndjson").await.text(), "");
    assert_eq!(server.sql_as(empty, "csv").await.text(), "a\n");
    let arrow = server.sql_as(empty, "arrow").await;
    let reader = StreamReader::try_new(Cursor::new(&arrow.body), None).unwrap();
    assert_eq!(reader.schema().field(0).name(), "a");
}

#[tokio::test]
async fn columns_of_one_name_all_arrive() {
    let server = Server::start().await;
    let sql = "SELECT a.x, b.x, c.x_2 FROM (SELECT 1 AS x) a, (SELECT 2 AS x) b, \
               (SELECT 3 AS x_2) c";
    let json = server.sql(sql).await.json();
    assert_eq!(json["data"], json!([{"x": 1, "x_3": 2, "x_2": 3}]));
    assert_eq!(json["meta"][1]["name"], "x_3");
    assert_eq!(server.sql_as(sql, "csv").await.text(), "x,x,x_2\n1,2,3\n");
}

#[tokio::test]
async fn many_batches_are_one_document() {
    let server = Server::start().await;
    let sql = "SELECT value AS n FROM generate_series(1, 50000) ORDER BY n";
    let response = server.sql(sql).await;
    assert!(response.is_whole);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    let json = response.json();
    assert_eq!(json["rows"], 50_000);
    let data = json["data"].as_array().unwrap();
    assert!(
        data.iter()
            .enumerate()
            .all(|(index, row)| row["n"] == index + 1)
    );
    let lines = server.sql_as(sql, "ndjson").await;
    assert_eq!(lines.text().lines().count(), 50_000);
}

#[tokio::test]
async fn formats_are_chosen_by_parameter_then_by_header() {
    let server = Server::start().await;
    for (path, accept, content_type) in [
        ("/api/v1/sql", "", "application/json"),
        ("/api/v1/sql", "Accept: */*\r\n", "application/json"),
        (
            "/api/v1/sql",
            "Accept: text/html, */*;q=0.8\r\n",
            "application/json",
        ),
        (
            "/api/v1/sql",
            "Accept: application/json;q=0.5, text/csv\r\n",
            "text/csv",
        ),
        ("/api/v1/sql", "Accept: text/plain\r\n", "text/plain"),
        (
            "/api/v1/sql?format=ndjson",
            "Accept: text/csv\r\n",
            "application/x-ndjson",
        ),
    ] {
        let response = server.send("POST", path, accept, b"SELECT 1").await;
        assert!(
            response
                .header("content-type")
                .unwrap()
                .starts_with(content_type),
            "{accept}"
        );
    }
}

#[tokio::test]
async fn what_is_asked_reaches_the_engine() {
    let server = Server::start().await;
    let body = br#"{"query": "SELECT 1;", "timeout_ms": 1500, "max_rows": 7, "layer": "speed"}"#;
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    let response = server
        .send("POST", "/api/v1/sql?layer=batch", json, body)
        .await;
    assert_eq!(response.status, 200);
    let queries = server.engine.queries.lock().unwrap();
    assert_eq!(queries[0].sql, "SELECT 1");
    assert_eq!(queries[0].timeout.as_millis(), 1_500);
    assert_eq!(queries[0].max_rows, 7);
    assert_eq!(queries[0].layer, lambdalake_serving::engine::Layer::Speed);
    assert_eq!(
        Some(queries[0].query_id.as_str()),
        response.header("x-query-id")
    );
}

#[tokio::test]
async fn statements_answer_with_a_row() {
    let server = Server::start().await;
    for (sql, result) in [
        (
            "CREATE TABLE access_log (a INT)",
            "stream access_log created",
        ),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "view v created"),
        ("DROP TABLE IF EXISTS t", "stream t dropped"),
        ("DROP MATERIALIZED VIEW v", "view v dropped"),
        ("FLUSH", "all streams flushed"),
        ("FLUSH t", "stream t flushed"),
    ] {
        let json = server.sql(sql).await.json();
        assert_eq!(json["data"], json!([{"result": result}]), "{sql}");
        assert_eq!(json["rows"], 1);
    }
    assert_eq!(
        *server.engine.asked.lock().unwrap(),
        [
            "create_stream access_log",
            "create_view v: SELECT 1",
            "drop_stream t true",
            "drop_view v false",
            "flush None",
            "flush Some(\"t\")"
        ]
    );
    let run = server.sql("REFRESH MATERIALIZED VIEW hits").await.json();
    assert_eq!(
        run["data"],
        json!([{"id": "run-hits", "status": "done", "rows": 5, "seconds": 0.5, "error": null,
                "audit": "{\"checked\":3}"}])
    );
    assert_eq!(
        server.sql_as("EXPLAIN RECOMPUTE hits", "csv").await.text(),
        "name,value,unit,about\nevents,12,events,of the stream\ntime,,events,of the stream\n"
    );
    assert_eq!(
        server.sql_as("SHOW TABLES", "csv").await.text(),
        "name,kind,rows,definition\naccess_log,stream,7,\n\
         hits,view,,SELECT count(*) FROM access_log\n"
    );
    assert_eq!(
        server.sql_as("DESCRIBE access_log", "csv").await.text(),
        "column_name,data_type,nullable,hidden,comment\n\
         ts,\"Timestamp(µs, \"\"UTC\"\")\",true,false,\nip,Utf8,false,false,\n"
    );
}

#[tokio::test]
async fn resources_are_json() {
    let server = Server::start().await;
    for (path, key) in [
        ("/api/v1/streams", "streams"),
        ("/api/v1/views", "views"),
        ("/api/v1/runs", "runs"),
        ("/api/v1/queries", "queries"),
    ] {
        assert!(server.get(path).await.json()[key].is_array(), "{path}");
    }
    assert_eq!(
        server.get("/api/v1/streams/access_log").await.json()["rows"],
        7
    );
    assert_eq!(
        server.get("/api/v1/views/hits").await.json()["name"],
        "hits"
    );
    assert_eq!(
        server.get("/api/v1/runs/run-hits").await.json()["id"],
        "run-hits"
    );
    for (path, code) in [
        ("/api/v1/streams/nope", "unknown_stream"),
        ("/api/v1/views/nope", "unknown_view"),
        ("/api/v1/runs/nope", "unknown_run"),
    ] {
        let response = server.get(path).await;
        assert_eq!((response.status, response.code()), (404, code.to_owned()));
    }
    let response = server
        .send("POST", "/api/v1/views/hits/recompute", "", b"")
        .await;
    assert_eq!(
        (response.status, response.json()),
        (202, json!({"run_id": "run-hits"}))
    );
    let response = server
        .send("POST", "/api/v1/views/running/recompute", "", b"")
        .await;
    assert_eq!(
        (response.status, response.code()),
        (409, "run_active".to_owned())
    );
}
