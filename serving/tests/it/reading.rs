//! How answers are read: compressed, page by page, with values bound, in a terminal.

use std::io::Read;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Response, Server, eventually};

const ROWS: &str = "SELECT value AS n FROM generate_series(1, 50000) ORDER BY n";

async fn coded(server: &Server, sql: &str, format: &str, accept: &str) -> Response {
    let headers = format!("Accept-Encoding: {accept}\r\n");
    let path = format!("/api/v1/sql?format={format}");
    server.send("POST", &path, &headers, sql.as_bytes()).await
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut out)
        .unwrap();
    out
}

#[tokio::test]
async fn answers_are_compressed_for_who_asks() {
    let server = Server::start().await;
    for format in ["ndjson", "csv", "arrow", "table"] {
        let as_it_is = server.sql_as(ROWS, format).await;
        assert_eq!(as_it_is.header("content-encoding"), None);
        assert_eq!(as_it_is.header("vary"), Some("accept, accept-encoding"));
        let gzip = coded(&server, ROWS, format, "gzip").await;
        assert!(gzip.is_whole);
        assert_eq!(gzip.header("content-encoding"), Some("gzip"));
        assert_eq!(gzip.header("vary"), Some("accept, accept-encoding"));
        assert!(gunzip(&gzip.body) == as_it_is.body, "{format}");
        let zstd = coded(&server, ROWS, format, "gzip, zstd").await;
        assert_eq!(zstd.header("content-encoding"), Some("zstd"));
        assert!(zstd::decode_all(&zstd.body[..]).unwrap() == as_it_is.body);
        assert!(zstd.body.len() < as_it_is.body.len() / 2, "{format}");
    }
}

#[tokio::test]
async fn small_bodies_are_sent_as_they_are() {
    let server = Server::start().await;
    let small = coded(&server, "SELECT 1 AS a", "json", "gzip").await;
    assert_eq!(small.header("content-encoding"), None);
    assert_eq!(small.json()["data"], json!([{"a": 1}]));
    let long = format!("SELECT '{}' AS a", "x".repeat(2_000));
    let long = coded(&server, &long, "csv", "gzip").await;
    assert_eq!(long.header("content-encoding"), Some("gzip"));
    assert_eq!(gunzip(&long.body).len(), "a\n\n".len() + 2_000);
}

#[tokio::test]
async fn resources_are_compressed_unless_small() {
    let server = Server::start().await;
    let gzip = "Accept-Encoding: gzip\r\n";
    let small = server.send("GET", "/api/v1/views", gzip, b"").await;
    assert_eq!(small.header("content-encoding"), None);
    assert_eq!(small.header("vary"), Some("accept-encoding"));
    assert!(small.json()["views"].is_array());
    server
        .engine
        .many_runs
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let large = server.send("GET", "/api/v1/runs", gzip, b"").await;
    assert_eq!(large.header("content-encoding"), Some("gzip"));
    let runs: serde_json::Value = serde_json::from_slice(&gunzip(&large.body)).unwrap();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1_000);
}

/// A compressed row can be read although the query goes on.
#[tokio::test]
async fn every_piece_is_flushed() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    let request = "POST /api/v1/sql?format=ndjson HTTP/1.1\r\nHost: t\r\n\
         Accept-Encoding: gzip\r\nContent-Length: 19\r\n\r\nSELECT 'never ends'";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let rows = loop {
        let mut buffer = [0; 4_096];
        let read = stream.read(&mut buffer);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        bytes.extend_from_slice(&buffer[..read.expect("rows in time").unwrap()]);
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(chunk) = head.map(|end| &bytes[end + 4..]) else {
            continue;
        };
        let Some(line) = chunk.windows(2).position(|window| window == b"\r\n") else {
            continue;
        };
        let mut rows = [0; 8];
        let mut inflate = flate2::read::GzDecoder::new(&chunk[line + 2..]);
        if inflate.read_exact(&mut rows).is_ok() {
            break rows;
        }
    };
    assert_eq!(&rows, b"{\"n\":0}\n");
}

/// What waits for a client that does not read is a handful of pieces, not the answer.
#[tokio::test]
async fn a_client_that_does_not_read_holds_the_query_up() {
    let server = Server::start().await;
    for format in ["json", "csv", "arrow"] {
        server
            .engine
            .batches
            .store(0, std::sync::atomic::Ordering::SeqCst);
        let mut stream = server.connect().await;
        let request = format!(
            "POST /api/v1/sql?format={format} HTTP/1.1\r\nHost: t\r\n\
             Content-Length: 16\r\n\r\nSELECT 'endless'"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let made = || {
            server
                .engine
                .batches
                .load(std::sync::atomic::Ordering::SeqCst)
        };
        eventually("the first batch", || made() > 0).await;
        let mut before = 0;
        while made() > before {
            before = made();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        // The kernel's socket buffers take a few megabytes; a batch is at least 64 KiB.
        assert!(before < 300, "{format}: {before} batches");
    }
}

#[tokio::test]
async fn values_come_in_the_body_or_the_url() {
    let server = Server::start().await;
    let headers = "Content-Type: application/json\r\n";
    for (path, body, expected) in [
        (
            "/api/v1/sql",
            json!({"query": "SELECT $1 AS a, $2 AS b", "params": [i64::MIN, "x'y"]}),
            json!([{"a": i64::MIN, "b": "x'y"}]),
        ),
        (
            "/api/v1/sql?params=%7B%22a%22%3A1%7D",
            json!({"query": "SELECT $a AS a", "params": {"a": 2}}),
            json!([{"a": 2}]),
        ),
        (
            "/api/v1/sql?params=%5B7%5D",
            json!({"query": "SELECT $1 AS a"}),
            json!([{"a": 7}]),
        ),
    ] {
        let body = body.to_string();
        let answer = server.send("POST", path, headers, body.as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["data"], expected);
    }
    let path = "/api/v1/sql?q=SELECT%20$who%20AS%20who&params=%7B%22who%22:%22me%22%7D";
    assert_eq!(
        server.get(path).await.json()["data"],
        json!([{"who": "me"}])
    );
    let body = json!({"query": "SELECT 1 AS a", "format": "csv"}).to_string();
    let path = "/api/v1/sql?format=json";
    let answer = server.send("POST", path, headers, body.as_bytes()).await;
    assert_eq!(answer.text(), "a\n1\n");
}

#[tokio::test]
async fn pages_fit_together_in_every_format() {
    let server = Server::start().await;
    for format in ["ndjson", "csv"] {
        let mut pages = String::new();
        for page in 0..4 {
            let sql = format!(
                "SELECT value AS n FROM generate_series(1, 10) ORDER BY n DESC \
                 LIMIT 3 OFFSET {}",
                page * 3
            );
            let answer = server.sql_as(&sql, format).await;
            let header = if format == "csv" { "n\n" } else { "" };
            pages.push_str(answer.text().strip_prefix(header).unwrap());
        }
        let all = "SELECT value AS n FROM generate_series(1, 10) ORDER BY n DESC";
        let whole = server.sql_as(all, format).await;
        assert!(whole.text().ends_with(&pages), "{pages}");
        assert_eq!(pages.lines().count(), 10);
    }
}

#[tokio::test]
async fn csv_round_trips_any_text() {
    let server = Server::start().await;
    let nasty = [
        "",
        " ",
        "a,b",
        "\"",
        "\"\"",
        "line\nbreak",
        "\r\n",
        "tab\t",
        " led",
        "NULL",
        "日本",
        "\u{feff}bom",
        "'; --",
        "\\",
        "=1+1",
        "\u{0}",
        "#",
    ];
    let params = json!(nasty).to_string();
    let columns: Vec<String> = (1..=nasty.len())
        .map(|index| format!("${index} AS \"c {index}, \"\"x\"\"\""))
        .collect();
    let body = json!({
        "query": format!("SELECT {}, NULL AS last", columns.join(", ")),
        "params": nasty,
        "format": "csv",
    });
    let headers = "Content-Type: application/json\r\n";
    let body = body.to_string();
    let answer = server
        .send("POST", "/api/v1/sql", headers, body.as_bytes())
        .await;
    let mut reader = csv::Reader::from_reader(&answer.body[..]);
    assert_eq!(&reader.headers().unwrap()[0], "c 1, \"x\"");
    let row = reader.records().next().unwrap().unwrap();
    let read: Vec<&str> = row.iter().take(nasty.len()).collect();
    assert_eq!(read, nasty, "{params}");
    assert!(
        answer.text().ends_with(",\n"),
        "a null is empty, without quotes"
    );
    assert!(
        answer.text().contains("\n\"\",\" \","),
        "an empty text is quoted"
    );
}

#[tokio::test]
async fn tables_fit_the_terminal() {
    let server = Server::start().await;
    let sql = "SELECT 'a long text with many words in it' AS words, 12345 AS n, \
               'x' || chr(10) || chr(27) || '[1m' AS control, '日本語' AS wide, '' AS e, \
               CAST(NULL AS VARCHAR) AS missing UNION ALL \
               SELECT 'short', 7, 'y', 'abc', 'e', 'm' ORDER BY n DESC";
    let answer = server.sql_as(sql, "table").await;
    assert_eq!(
        answer.text(),
        "\
+-----------------------------------+-------+--------------+--------+---+---------+
| words                             |     n | control      | wide   | e | missing |
+-----------------------------------+-------+--------------+--------+---+---------+
| a long text with many words in it | 12345 | x\\n\\u{1b}[1m | 日本語 |   | NULL    |
| short                             |     7 | y            | abc    | e | m       |
+-----------------------------------+-------+--------------+--------+---+---------+
(2 rows)
"
    );
    let path = "/api/v1/sql?format=table&width=60";
    let answer = server.send("POST", path, "", sql.as_bytes()).await;
    let lines: Vec<&str> = answer.text().lines().collect();
    assert_eq!(lines.len(), 7, "{}", answer.text());
    assert!(lines[..6].iter().all(|line| line.chars().count() <= 60));
    assert!(
        lines[3].contains("…") && lines[3].contains("a long"),
        "{}",
        lines[3]
    );
    assert!(lines[3].contains("12345"), "{}", lines[3]);
}

#[tokio::test]
async fn tables_cut_long_cells_and_say_when_rows_are_left_out() {
    let server = Server::start().await;
    let long = format!("SELECT '{}' AS a", "x".repeat(10_000));
    let answer = server.sql_as(&long, "table").await;
    let row = answer.text().lines().nth(3).unwrap();
    assert_eq!(row, format!("| {}… |", "x".repeat(256)));
    let many = "SELECT value AS n FROM generate_series(1, 1001)";
    let answer = server.sql_as(many, "table").await;
    assert_eq!(answer.text().lines().count(), 1_005);
    assert_eq!(
        answer.text().lines().last(),
        Some("(the first 1000 rows; there are more rows; add LIMIT or use another format)")
    );
    let exactly = "SELECT value AS n FROM generate_series(1, 1000)";
    let answer = server.sql_as(exactly, "table").await;
    assert_eq!(answer.text().lines().last(), Some("(1000 rows)"));
}
