//! What is refused, and how: status, code, and a message that names the thing. What was stored
//! before stays, and the server goes on.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::server::{Answer, Server};

const EVENTS: &str = "/api/v1/streams/good/events?format=ndjson";
const GOOD: &str = "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"n\":2}\n{\"k\":\"a\",\"n\":3}\n";
const GOOD_ROWS: u64 = 3;
const VIEW: &str = "SELECT k, count(*) AS c, sum(n) AS s FROM good GROUP BY k";

/// A server with three good events in `good` and the view `by_k` over them.
struct Table {
    server: Server,
    rows: u64,
    _folder: tempfile::TempDir,
}

impl Table {
    fn new(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(folder.path(), flags);
        server.sql("CREATE TABLE good (k TEXT, n BIGINT)");
        server.sql(&format!("CREATE MATERIALIZED VIEW by_k AS {VIEW}"));
        server.ingest("good", "ndjson", GOOD);
        Self {
            server,
            rows: GOOD_ROWS,
            _folder: folder,
        }
    }

    fn all_there(&self, after: &str) {
        let count = self.server.value("SELECT count(*) AS c FROM good");
        assert_eq!(count, json!(self.rows), "after {after}");
        let merged = self
            .server
            .value("SELECT CAST(sum(c) AS BIGINT) AS c FROM by_k");
        assert_eq!(merged, json!(self.rows), "in the view after {after}");
    }

    /// The answer is this refusal, and nothing was lost by it.
    fn refused(&self, what: &str, answer: &Answer, status: u16, code: &str, named: &[&str]) {
        assert_eq!(answer.status, status, "{what}: {}", answer.text);
        let error = &answer.json()["error"];
        assert_eq!(error["code"], code, "{what}: {}", answer.text);
        names(what, &error["message"], named);
        self.all_there(what);
    }

    fn sql_refused(&self, sql: &str, status: u16, code: &str, named: &[&str]) -> Value {
        let answer = self.server.try_sql(sql);
        self.refused(sql, &answer, status, code, named);
        answer.json()["error"].clone()
    }

    fn query(&self, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.server.post(
            "/api/v1/sql?format=json",
            &headers,
            body.to_string().as_bytes(),
        )
    }
}

fn names(what: &str, message: &Value, named: &[&str]) {
    let message = message.as_str().unwrap_or_default();
    for name in named {
        assert!(
            message.contains(name),
            "{what}: {message:?} does not name {name:?}"
        );
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).expect("packed");
    encoder.finish().expect("packed")
}

#[test]
fn bad_rows_are_named_and_their_neighbours_kept() {
    let mut table = Table::new(&[]);
    let cases = [
        (
            "{\"k\":\"a\",\"n\": oops}",
            "invalid_json",
            None,
            vec!["line 2"],
        ),
        (
            "{\"k\":\"a\",\"n\":\"many\"}",
            "type_conflict",
            Some("n"),
            vec!["line 2", "field n", "expected int64", "found", "many"],
        ),
        (
            "{\"k\":\"a\",\"_offset\":7}",
            "reserved_field",
            Some("_offset"),
            vec!["_offset"],
        ),
        (
            "{\"k\":\"a\",\"_shard\":7}",
            "reserved_field",
            Some("_shard"),
            vec!["_shard"],
        ),
    ];
    for (bad, code, field, named) in cases {
        let body = format!("{{\"k\":\"c\",\"n\":4}}\n{bad}\n{{\"k\":\"d\",\"n\":5}}\n");
        let reply = table.server.ingest("good", "ndjson", &body);
        assert_eq!(
            (&reply["accepted"], &reply["rejected"]),
            (&json!(2), &json!(1)),
            "{reply}"
        );
        let error = &reply["errors"][0];
        assert_eq!(error["line"], 2, "{reply}");
        assert_eq!(error["code"], code, "{reply}");
        if let Some(field) = field {
            assert_eq!(error["field"], field, "{reply}");
        }
        names(bad, &error["message"], &named);
        table.rows += 2;
        table.all_there(bad);
    }
}

#[test]
fn a_body_without_a_good_row_is_a_bad_request() {
    let table = Table::new(&[]);
    let body = "{\"k\":\"x\",\"n\":\"one\"}\n{\"k\":\"x\",\"n\":[2]}\nnot json\n";
    let answer = table.server.post(EVENTS, &[], body.as_bytes());
    table.refused("all rows bad", &answer, 400, "no_valid_rows", &["no row"]);
    let reply = answer.json();
    assert_eq!(
        (&reply["accepted"], &reply["rejected"]),
        (&json!(0), &json!(3)),
        "{reply}"
    );
    let errors = reply["errors"].as_array().expect("a list");
    let lines: Vec<&Value> = errors.iter().map(|error| &error["line"]).collect();
    assert_eq!(lines, [1, 2, 3]);
}

#[test]
fn bodies_that_cannot_be_read() {
    let table = Table::new(&["--max-body-bytes", "1MiB", "--max-line-bytes", "64KiB"]);
    let packed = gzip(GOOD.as_bytes());
    let gzipped = [("content-encoding", "gzip")];
    let cut = table
        .server
        .post(EVENTS, &gzipped, &packed[..packed.len() - 6]);
    table.refused("truncated gzip", &cut, 400, "invalid_gzip", &["gzip"]);
    let plain = table.server.post(EVENTS, &gzipped, GOOD.as_bytes());
    table.refused("no gzip", &plain, 400, "invalid_gzip", &["gzip"]);

    let brotli = table
        .server
        .post(EVENTS, &[("content-encoding", "br")], GOOD.as_bytes());
    table.refused(
        "brotli",
        &brotli,
        415,
        "unsupported_encoding",
        &["br", "gzip"],
    );

    let large = GOOD.repeat(40_000);
    assert!(large.len() > 1024 * 1024);
    let sent = table.server.post(EVENTS, &[], large.as_bytes());
    table.refused("large body", &sent, 413, "body_too_large", &["1048576"]);
    let bomb = gzip(&GOOD.as_bytes().repeat(400_000));
    assert!(
        bomb.len() < 1024 * 1024,
        "{} bytes are refused as sent",
        bomb.len()
    );
    let sent = table.server.post(EVENTS, &gzipped, &bomb);
    table.refused(
        "gzip bomb",
        &sent,
        413,
        "body_too_large",
        &["decompressed", "1048576"],
    );

    let path = "/api/v1/streams/good/events?format=xml";
    let xml = table.server.post(path, &[], GOOD.as_bytes());
    table.refused("xml", &xml, 400, "unknown_format", &["xml", "ndjson"]);
    let xml = table
        .server
        .post("/api/v1/sql?format=xml", &[], b"SELECT 1");
    table.refused("xml answer", &xml, 400, "unknown_format", &["xml", "json"]);
}

#[test]
fn names_that_are_unknown_or_taken() {
    let table = Table::new(&["--auto-create-streams", "false"]);
    let path = "/api/v1/streams/nowhere/events?format=ndjson";
    let unknown = table.server.post(path, &[], GOOD.as_bytes());
    table.refused(
        "unknown stream",
        &unknown,
        404,
        "unknown_stream",
        &["nowhere"],
    );
    assert_eq!(table.server.get("/api/v1/streams/nowhere").status, 404);

    let unknown = table
        .server
        .post("/api/v1/views/nothing/recompute", &[], b"");
    table.refused("unknown view", &unknown, 404, "unknown_view", &["nothing"]);
    table.sql_refused(
        "REFRESH MATERIALIZED VIEW nothing",
        404,
        "unknown_view",
        &["nothing"],
    );
    table.sql_refused(
        "DROP MATERIALIZED VIEW nothing",
        404,
        "unknown_view",
        &["nothing"],
    );
    table.sql_refused("DROP TABLE nowhere", 404, "unknown_stream", &["nowhere"]);
    table.sql_refused("DESCRIBE nowhere", 404, "unknown_table", &["nowhere"]);
    table.sql_refused("SELECT * FROM nowhere", 400, "plan_error", &["nowhere"]);
    table.sql_refused("SELECT nofield FROM good", 400, "plan_error", &["nofield"]);

    table.sql_refused("CREATE TABLE good (k TEXT)", 409, "exists", &["good"]);
    table.sql_refused("CREATE TABLE by_k (k TEXT)", 409, "exists", &["by_k"]);
    let view = format!("CREATE MATERIALIZED VIEW by_k AS {VIEW}");
    table.sql_refused(&view, 409, "exists", &["by_k"]);
    table.sql_refused(&view.replace("by_k", "good"), 409, "exists", &["good"]);
    table.sql_refused("DROP TABLE good", 409, "in_use", &["by_k", "good"]);
}

#[test]
fn sql_that_is_no_sql_says_where() {
    let table = Table::new(&[]);
    let error = table.sql_refused("SELECT k\n  FORM good", 400, "syntax_error", &["good"]);
    assert_eq!(
        (&error["line"], &error["position"]),
        (&json!(2), &json!(8)),
        "{error}"
    );
    let error = table.sql_refused(
        "SELECT 1 FROM good GROUP k",
        400,
        "syntax_error",
        &["GROUP"],
    );
    assert_eq!(
        (&error["line"], &error["position"]),
        (&json!(1), &json!(20)),
        "{error}"
    );
    table.sql_refused("", 400, "syntax_error", &["empty"]);
}

#[test]
fn views_that_cannot_be_kept_are_refused_with_a_hint() {
    let table = Table::new(&[]);
    let cases = [
        (
            "SELECT now() AS t, count(*) AS c FROM good",
            vec!["now()", "when you query the view"],
        ),
        (
            "SELECT a.k, count(*) AS c FROM good a JOIN good b ON a.k = b.k GROUP BY a.k",
            vec!["(", "join"],
        ),
        (
            "SELECT count(DISTINCT k, n) AS c FROM good",
            vec!["(", "DISTINCT"],
        ),
        (
            "SELECT count(*) AS c FROM good WHERE n > (SELECT avg(n) FROM good)",
            vec!["(", "query"],
        ),
        (
            "SELECT k FROM good",
            vec!["no aggregate", "query the stream directly"],
        ),
    ];
    for (select, named) in cases {
        let sql = format!("CREATE MATERIALIZED VIEW refused AS {select}");
        table.sql_refused(&sql, 400, "view_cannot_be_split", &named);
        assert_eq!(
            table.server.get("/api/v1/views/refused").status,
            404,
            "{select}"
        );
    }
}

#[test]
fn sql_reaches_no_files_and_no_settings() {
    let table = Table::new(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("out.csv");
    for path in ["/etc/passwd", "file:///etc/passwd", "/etc/passwd.csv"] {
        let answer = table.server.try_sql(&format!("SELECT * FROM '{path}'"));
        table.refused(path, &answer, 400, "plan_error", &["passwd"]);
        assert!(!answer.text.contains("root:"), "{}", answer.text);
    }
    let unsupported = "unsupported_statement";
    let copy = format!("COPY (SELECT * FROM good) TO '{}'", target.display());
    table.sql_refused(&copy, 400, unsupported, &["COPY", "files"]);
    assert!(!target.exists());
    let external = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'";
    table.sql_refused(external, 400, unsupported, &["CREATE", "files"]);
    let set = "SET datafusion.execution.target_partitions = 1";
    table.sql_refused(set, 400, unsupported, &["SET", "parameters"]);
    table.sql_refused(
        "INSERT INTO good VALUES ('z', 9) ON CONFLICT DO NOTHING",
        400,
        unsupported,
        &["INSERT", "events"],
    );
    table.sql_refused(
        "DELETE FROM good",
        400,
        unsupported,
        &["DELETE", "immutable"],
    );
}

#[test]
fn queries_over_their_limits() {
    let table = Table::new(&["--query-memory-bytes", "4MiB"]);
    let mut body = String::new();
    for n in 0..3_000 {
        body.push_str(&format!("{{\"n\":{n},\"s\":\"{n:0>200}\"}}\n"));
    }
    assert_eq!(
        table.server.ingest("many", "ndjson", &body)["accepted"],
        3_000
    );

    let cross = "SELECT sum(sqrt(CAST(a.n * b.n AS DOUBLE))) AS x FROM many a CROSS JOIN many b";
    let answer = table.query(&json!({"query": cross, "timeout_ms": 100}));
    table.refused("timeout", &answer, 408, "query_timeout", &["timeout_ms"]);

    let all = "SELECT n FROM many";
    let answer = table.query(&json!({"query": all, "max_rows": 10}));
    table.refused("row cap", &answer, 422, "row_limit", &["10 rows", "LIMIT"]);
    let answer = table.query(&json!({"query": "SELECT k FROM good", "max_rows": GOOD_ROWS}));
    assert_eq!(
        answer.status, 200,
        "a full answer is not over its cap: {}",
        answer.text
    );

    let group = "SELECT array_agg(s) AS l FROM (SELECT a.s FROM many a CROSS JOIN (SELECT n FROM many LIMIT 50) b)";
    let answer = table.query(&json!({"query": group, "max_rows": 10}));
    table.refused("memory", &answer, 422, "memory_limit", &[]);
    assert_eq!(table.server.value("SELECT count(*) AS c FROM many"), 3_000);

    for (name, value) in [("timeout_ms", 0), ("max_rows", 0)] {
        let answer = table.query(&json!({"query": all, name: value}));
        table.refused(name, &answer, 400, "invalid_parameter", &[name]);
    }
    let answer = table.query(&json!({"query": all, "layer": "middle"}));
    table.refused(
        "layer",
        &answer,
        400,
        "invalid_parameter",
        &["middle", "merged"],
    );
    let answer = table.query(&json!({"query": all, "rows": 1}));
    table.refused("unknown member", &answer, 400, "invalid_body", &["rows"]);
}

#[test]
fn paths_and_methods_that_do_not_exist() {
    let table = Table::new(&[]);
    let answer = table.server.get("/api/v2/streams");
    table.refused("unknown route", &answer, 404, "unknown_route", &["path"]);
    let answer = table.server.get("/api/v1/streams/good/events");
    table.refused(
        "GET of events",
        &answer,
        405,
        "method_not_allowed",
        &["POST", "GET"],
    );
    assert_eq!(answer.headers["allow"], "HEAD, POST");
    let answer = table.server.delete("/api/v1/sql");
    table.refused(
        "DELETE of SQL",
        &answer,
        405,
        "method_not_allowed",
        &["POST", "DELETE"],
    );
    let answer = table
        .server
        .get("/api/v1/sql?q=DROP%20MATERIALIZED%20VIEW%20by_k");
    table.refused("DROP by GET", &answer, 405, "method_not_allowed", &["POST"]);
    let answer = table.server.get("/api/v1/streams?color=red");
    table.refused("parameter", &answer, 400, "unknown_parameter", &["color"]);
}
