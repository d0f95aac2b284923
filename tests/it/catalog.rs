//! System tables, `information_schema` and comments on the real binary.

use serde_json::{Value, json};

use crate::server::Server;

fn start(folder: &std::path::Path) -> Server {
    let server = Server::start(folder, &["--flush-age", "1h", "--flush-rows", "12345"]);
    server.sql(
        "CREATE TABLE IF NOT EXISTS streams (ts TIMESTAMP COMMENT 'when', k TEXT NOT NULL, n BIGINT) \
         WITH (event_time = 'ts') COMMENT 'named like a system table'",
    );
    server.sql(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS by_k AS SELECT k, count(*) AS n FROM streams GROUP BY k",
    );
    server
}

fn texts(rows: &[Value], column: &str) -> Vec<String> {
    rows.iter()
        .map(|row| row[column].as_str().unwrap_or("null").to_owned())
        .collect()
}

#[test]
fn system_tables_join_and_filter_like_any_table() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    server.ingest(
        "streams",
        "ndjson",
        "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\"}\n",
    );
    server.sql("FLUSH streams");
    server.ingest("streams", "ndjson", "{\"k\":\"c\"}\n");
    server.sql("REFRESH MATERIALIZED VIEW by_k");

    assert_eq!(
        server.value("SELECT count(*) FROM streams"),
        3,
        "the user's"
    );
    for name in ["lambdalake.streams", "lambdalake.lambdalake.streams"] {
        let rows = server.rows(&format!(
            "SELECT name, rows, master_rows, tail_rows, files, event_time, comment FROM {name}"
        ));
        let expected = json!([{"name": "streams", "rows": 3, "master_rows": 3, "tail_rows": 0,
            "files": 2, "event_time": "ts", "comment": "named like a system table"}]);
        assert_eq!(json!(rows), expected);
    }
    let joined = server.rows(
        "SELECT v.name, v.stream, n.number, n.events, r.status, r.audit, r.rows_read
         FROM lambdalake.views v
         JOIN lambdalake.versions n ON n.view = v.name AND n.number = v.version
         JOIN lambdalake.runs r ON r.run_id = n.run_id",
    );
    assert_eq!(joined.len(), 1, "{joined:?}");
    assert_eq!(
        (
            &joined[0]["stream"],
            &joined[0]["events"],
            &joined[0]["status"]
        ),
        (&json!("streams"), &json!(3), &json!("succeeded"))
    );
    assert_eq!(joined[0]["rows_read"], 3);

    let settings = server.rows(
        "SELECT name, value, \"default\", unit FROM lambdalake.settings WHERE name LIKE 'flush_%' \
         ORDER BY name",
    );
    assert_eq!(
        texts(&settings, "name"),
        ["flush_age", "flush_bytes", "flush_rows"]
    );
    assert_eq!(texts(&settings, "value"), ["1h", "64MiB", "12345"]);
    assert_eq!(texts(&settings, "default"), ["60s", "64MiB", "500000"]);

    let running =
        server.rows("SELECT sql, layer, elapsed_ms >= 0 AS counted, rows FROM lambdalake.queries");
    assert_eq!(running.len(), 1, "this query: {running:?}");
    assert!(texts(&running, "sql")[0].starts_with("SELECT sql, layer"));
    assert_eq!(
        (
            &running[0]["layer"],
            &running[0]["counted"],
            &running[0]["rows"]
        ),
        (&json!("merged"), &json!(true), &json!(0))
    );
}

#[test]
fn columns_and_the_standard_schema_tell_hidden_columns_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    let columns = |filter: &str| {
        let sql = format!(
            "SELECT name FROM lambdalake.columns WHERE schema = 'public' AND {filter} \
             ORDER BY \"table\", position"
        );
        texts(&server.rows(&sql), "name")
    };
    assert_eq!(columns("\"table\" = 'by_k'"), ["k", "n"]);
    assert_eq!(
        columns("table = 'streams' AND NOT hidden"),
        ["ts", "k", "n"]
    );
    assert_eq!(
        columns("table = 'streams' AND hidden AND comment IS NOT NULL"),
        ["_shard", "_offset", "_ingested_at", "_producer"]
    );
    let standard = server.rows(
        "SELECT c.column_name, c.is_nullable, c.data_type
         FROM information_schema.tables t
         JOIN information_schema.columns c USING (table_schema, table_name)
         WHERE t.table_type = 'BASE TABLE' AND c.is_hidden = 'NO' ORDER BY c.ordinal_position",
    );
    assert_eq!(texts(&standard, "column_name"), ["ts", "k", "n"]);
    assert_eq!(texts(&standard, "is_nullable"), ["YES", "NO", "YES"]);
    assert_eq!(texts(&standard, "data_type")[1], "Utf8");
    let schemata = server.rows("SELECT schema_name FROM information_schema.schemata");
    assert_eq!(texts(&schemata, "schema_name").len(), 3);
    let views = server.rows("SELECT view_definition FROM information_schema.views");
    assert!(texts(&views, "view_definition")[0].starts_with("SELECT k"));

    // What the documentation lists is what a query of the table has.
    let tables = server.rows(
        "SELECT table_schema, table_name FROM information_schema.tables \
         WHERE table_type = 'SYSTEM VIEW'",
    );
    assert!(tables.len() >= 11, "{tables:?}");
    for table in &tables {
        let (schema, name) = (&table["table_schema"], &table["table_name"]);
        let name = format!(
            "{}.{}",
            schema.as_str().expect("text"),
            name.as_str().expect("text")
        );
        let queried = server.sql(&format!("SELECT * FROM {name}"))["meta"].clone();
        let queried: Vec<Value> = queried
            .as_array()
            .expect("columns")
            .iter()
            .map(|column| column["name"].clone())
            .collect();
        let described = server.rows(&format!("DESCRIBE {name}"));
        let described: Vec<Value> = described
            .iter()
            .map(|it| it["column_name"].clone())
            .collect();
        assert_eq!(queried, described, "{name}");
    }
    assert_eq!(
        texts(&server.rows("SHOW TABLES LIKE 'by%'"), "name"),
        ["by_k"]
    );
    for sql in [
        "SELECT * FROM lambdalake.nope",
        "SELECT * FROM other.streams",
    ] {
        assert_eq!(server.try_sql(sql).status, 400, "{sql}");
    }
}

#[test]
fn comments_are_shown_and_survive_flushes_and_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path());
    for sql in [
        "COMMENT ON TABLE streams IS 'all events'",
        "COMMENT ON COLUMN streams.k IS 'the key'",
        "COMMENT ON COLUMN streams.n IS 'to go'",
        "COMMENT ON COLUMN streams.n IS NULL",
        "COMMENT ON MATERIALIZED VIEW by_k IS 'per key'",
        "COMMENT ON COLUMN by_k.n IS 'how many'",
    ] {
        server.sql(sql);
    }
    for (sql, status, code) in [
        (
            "COMMENT ON COLUMN streams.nope IS 'x'",
            404,
            "unknown_column",
        ),
        (
            "COMMENT ON COLUMN streams._offset IS 'x'",
            400,
            "hidden_column",
        ),
        ("COMMENT ON COLUMN nowhere.k IS 'x'", 404, "unknown_table"),
        ("COMMENT ON TABLE by_k IS 'x'", 404, "unknown_stream"),
        ("COMMENT ON VIEW streams IS 'x'", 404, "unknown_view"),
    ] {
        let answer = server.try_sql(sql);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (status, &json!(code))
        );
    }
    server.ingest(
        "streams",
        "ndjson",
        "{\"k\":\"a\",\"n\":1,\"extra\":true}\n",
    );
    server.sql("FLUSH streams");
    server.sql("REFRESH MATERIALIZED VIEW by_k");
    let check = |server: &Server, when: &str| {
        let said = server.rows(
            "SELECT name, comment FROM lambdalake.columns \
             WHERE schema = 'public' AND NOT hidden AND comment IS NOT NULL ORDER BY comment",
        );
        assert_eq!(
            texts(&said, "comment"),
            ["how many", "the key", "when"],
            "{when}"
        );
        let stream = server.get("/api/v1/streams/streams").json();
        assert_eq!(stream["comment"], "all events", "{when}");
        assert_eq!(stream["schema"][1]["comment"], "the key", "{when}");
        assert_eq!(
            server.get("/api/v1/views/by_k").json()["comment"],
            "per key",
            "{when}"
        );
        let described = server.rows("DESCRIBE streams");
        assert_eq!(
            texts(&described, "comment")[..3],
            ["when", "the key", "null"],
            "{when}"
        );
    };
    check(&server, "before");
    server.kill();
    check(&Server::start(folder.path(), &[]), "after a kill");
}
