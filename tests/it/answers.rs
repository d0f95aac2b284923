//! Answers of the real engine: large ones, bound ones, page by page.

use std::io::Read;

use serde_json::{Value, json};

use super::server::Server;

/// Rows of the stream that is joined with itself.
const SEEDS: usize = 1_000;

/// What a streaming answer may add to the memory of the process, whatever its size.
const GROWTH_BYTES: usize = 96 * 1024 * 1024;

fn seeded(folder: &tempfile::TempDir) -> Server {
    let server = Server::start(folder.path(), &[]);
    server.sql("CREATE TABLE seed (n BIGINT, ts TIMESTAMP, name TEXT)");
    let events: Vec<String> = (0..SEEDS)
        .map(|n| {
            let second = n % 60;
            let minute = n / 60;
            format!(
                "{{\"n\":{n},\"ts\":\"2026-11-01T10:{minute:02}:{second:02}Z\",\"name\":\"s{n}\"}}"
            )
        })
        .collect();
    server.ingest("seed", "ndjson", &events.join("\n"));
    server
}

/// Reads an answer to its end without keeping it: its bytes, its lines, and the most memory that
/// the server had meanwhile.
fn drink(server: &Server, sql: &str, format: &str) -> (usize, usize, usize) {
    let mut reader = server.stream_sql(sql, format);
    let mut buffer = vec![0; 256 * 1024];
    let (mut bytes, mut lines, mut most) = (0, 0, 0);
    let mut sampled = 0;
    loop {
        let read = reader.read(&mut buffer).expect("a whole body");
        if read == 0 {
            return (bytes, lines, most);
        }
        bytes += read;
        lines += buffer[..read].iter().filter(|byte| **byte == b'\n').count();
        if bytes > sampled {
            most = most.max(server.resident_bytes());
            sampled = bytes + 1024 * 1024;
        }
    }
}

/// `LAMBDALAKE_TEST_ROWS` makes it larger, for measuring.
#[test]
fn large_answers_need_little_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = seeded(&folder);
    let rows = std::env::var("LAMBDALAKE_TEST_ROWS").map_or(500_000, |rows| {
        rows.parse::<usize>().expect("a number of rows")
    });
    // Warm: what planning and the threads need once is not the answer's.
    server.value("SELECT count(*) AS n FROM seed a CROSS JOIN seed b");
    let join = "SELECT a.n AS n, b.name AS name, a.ts AS ts \
                FROM seed a CROSS JOIN seed b CROSS JOIN (SELECT n FROM seed LIMIT 10) c";
    let sql = format!("{join} LIMIT {rows}");
    for (format, extra) in [("json", 2), ("csv", 1), ("arrow", 0), ("parquet", 0)] {
        let resting = server.resident_bytes();
        let (bytes, lines, most) = drink(&server, &sql, format);
        let grown = most.saturating_sub(resting);
        println!("{format}: {rows} rows, {bytes} bytes, {grown} bytes over {resting}");
        if extra > 0 {
            assert_eq!(lines, rows + extra, "{format}");
        }
        assert!(bytes > rows / 10, "{format}: {bytes} bytes");
        assert!(
            grown < GROWTH_BYTES,
            "{format}: {grown} bytes over {resting}"
        );
    }
}

#[test]
fn more_rows_than_allowed_are_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = seeded(&folder);
    let headers = [("content-type", "application/json")];
    for format in ["json", "ndjson", "csv", "arrow", "parquet"] {
        let body = json!({"query": "SELECT n FROM seed", "max_rows": 999, "format": format});
        let answer = server.post("/api/v1/sql", &headers, body.to_string().as_bytes());
        assert_eq!(answer.status, 422, "{format}");
        assert_eq!(answer.json()["error"]["code"], "row_limit", "{format}");
    }
}

/// The one value of a query with values.
fn bound(server: &Server, query: &str, params: Value) -> Value {
    let body = json!({"query": query, "params": params}).to_string();
    let headers = [("content-type", "application/json")];
    let answer = server.post("/api/v1/sql", &headers, body.as_bytes());
    assert_eq!(answer.status, 200, "{query}: {}", answer.text);
    let row = answer.json()["data"][0].clone();
    let value = row.as_object().and_then(|row| row.values().next()).cloned();
    value.expect("a value")
}

#[test]
fn values_are_bound_by_the_real_planner() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = seeded(&folder);
    server.sql("CREATE MATERIALIZED VIEW v AS SELECT name, sum(n) AS s FROM seed GROUP BY name");
    for (query, params, expected) in [
        (
            "SELECT count(*) FROM seed WHERE ts >= $1 AND ts < $2",
            json!(["2026-11-01T10:01:00Z", "2026-11-01 10:02:00"]),
            json!(60),
        ),
        (
            "SELECT s FROM v WHERE name = $name",
            json!({"name": "s41"}),
            json!(41),
        ),
        (
            "SELECT count(*) FROM seed WHERE n BETWEEN $1 AND $2",
            json!([10, 19.0]),
            json!(10),
        ),
        (
            "SELECT n FROM seed ORDER BY n DESC LIMIT $1 OFFSET $2",
            json!([1, 9]),
            json!(990),
        ),
        (
            "SELECT count(*) FROM seed WHERE name = $1",
            json!(["s1' OR '1'='1"]),
            json!(0),
        ),
        ("SELECT $1 IS NULL", json!([null]), json!(true)),
    ] {
        assert_eq!(bound(&server, query, params), expected, "{query}");
    }
    let body = json!({"query": "SELECT $1, $2", "params": [1]}).to_string();
    let headers = [("content-type", "application/json")];
    let answer = server.post("/api/v1/sql", &headers, body.as_bytes());
    assert_eq!(answer.status, 400, "{}", answer.text);
    assert_eq!(answer.json()["error"]["code"], "missing_parameter");
}

#[test]
fn pages_of_a_stream_and_a_view_fit_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = seeded(&folder);
    server.sql("CREATE MATERIALIZED VIEW v AS SELECT n, count(*) AS c FROM seed GROUP BY n");
    for table in ["seed", "v"] {
        for format in ["ndjson", "csv"] {
            let mut lines = Vec::new();
            for offset in (0..SEEDS).step_by(300) {
                let sql = format!("SELECT n FROM {table} ORDER BY n LIMIT 300 OFFSET {offset}");
                let path = format!("/api/v1/sql?format={format}");
                let answer = server.post(&path, &[], sql.as_bytes());
                let header = usize::from(format == "csv");
                lines.extend(answer.text.lines().skip(header).map(str::to_owned));
            }
            let expected: Vec<String> = (0..SEEDS)
                .map(|n| match format {
                    "csv" => n.to_string(),
                    _ => json!({"n": n}).to_string(),
                })
                .collect();
            assert_eq!(lines, expected, "{table} as {format}");
        }
    }
}
