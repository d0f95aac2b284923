//! Queries and connections end when they should, and give everything back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lambdalake_serving::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::{Server, eventually, read_response};

fn post(sql: &str) -> Vec<u8> {
    let length = sql.len();
    format!("POST /api/v1/sql HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{sql}")
        .into_bytes()
}

async fn running(server: &Server) -> Vec<String> {
    let json = server.get("/api/v1/queries").await.json();
    let queries = json["queries"].as_array().unwrap();
    queries
        .iter()
        .map(|query| query["query_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_query() {
    let server = Server::start().await;
    for sql in [
        "SELECT 'never starts'",
        "SELECT 'never ends'",
        "SELECT 'endless'",
    ] {
        let mut stream = server.connect().await;
        stream.write_all(&post(sql)).await.unwrap();
        eventually("the query runs", || server.engine.alive() == 1).await;
        if !sql.contains("starts") {
            let mut head = [0; 15];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
        }
        assert_eq!(running(&server).await.len(), 1);
        drop(stream);
        eventually("the query is dropped", || server.engine.alive() == 0).await;
        assert!(running(&server).await.is_empty());
    }
}

#[tokio::test]
async fn delete_cancels() {
    let server = Server::start().await;
    let missing = server.send("DELETE", "/api/v1/queries/none", "", b"").await;
    assert_eq!(
        (missing.status, missing.code()),
        (404, "unknown_query".to_owned())
    );

    for (sql, status) in [("SELECT 'never starts'", 409), ("SELECT 'never ends'", 200)] {
        let mut stream = server.connect().await;
        stream.write_all(&post(sql)).await.unwrap();
        eventually("the query runs", || server.engine.alive() == 1).await;
        let id = loop {
            if let [id] = &running(&server).await[..] {
                break id.clone();
            }
        };
        if status == 200 {
            // Wait for the first rows: before them it would still be an error answer.
            let mut byte = [0; 1];
            stream.peek(&mut byte).await.unwrap();
        }
        let path = format!("/api/v1/queries/{id}");
        let response = server.send("DELETE", &path, "", b"").await;
        assert_eq!(
            (response.status, &response.json()["cancelled"]),
            (200, &true.into())
        );
        eventually("the query is dropped", || server.engine.alive() == 0).await;
        stream.shutdown().await.unwrap();
        let response = read_response(stream).await;
        assert_eq!(response.status, status);
        if status == 409 {
            assert_eq!(response.code(), "query_cancelled");
        } else {
            assert!(!response.is_whole, "a cancelled answer looks complete");
        }
    }
}

#[tokio::test]
async fn time_runs_out() {
    let server = Server::start().await;
    let path = "/api/v1/sql?timeout_ms=100";
    let response = server
        .send("POST", path, "", b"SELECT 'never starts'")
        .await;
    assert_eq!(
        (response.status, response.code()),
        (408, "query_timeout".to_owned())
    );
    let response = server.send("POST", path, "", b"SELECT 'never ends'").await;
    assert_eq!(response.status, 200);
    assert!(!response.is_whole);
    eventually("the queries are dropped", || server.engine.alive() == 0).await;

    // A client that stops reading does not keep its query past the deadline.
    let mut stream = server.connect().await;
    let request = post("SELECT 'endless'");
    let request = String::from_utf8(request)
        .unwrap()
        .replace("/sql", "/sql?timeout_ms=300");
    stream.write_all(request.as_bytes()).await.unwrap();
    eventually("the query runs", || server.engine.alive() == 1).await;
    eventually("the query is dropped", || server.engine.alive() == 0).await;
    drop(stream);
}

#[tokio::test]
async fn a_small_answer_that_fails_is_an_error_answer() {
    let server = Server::start().await;
    for format in ["json", "ndjson", "csv", "arrow", "table"] {
        let response = server.sql_as("SELECT 'fails soon'", format).await;
        let answer = (response.status, response.code());
        assert_eq!(answer, (422, "memory_limit".to_owned()), "{format}");
        assert!(response.is_whole, "{format}");
    }
}

#[tokio::test]
async fn a_late_failure_breaks_the_body() {
    let server = Server::start().await;
    for format in ["json", "ndjson", "csv", "arrow"] {
        let response = server.sql_as("SELECT 'fails later'", format).await;
        assert_eq!(response.status, 200);
        assert!(!response.is_whole, "{format}");
        assert!(
            !String::from_utf8_lossy(&response.body).contains("pool"),
            "{format}"
        );
    }
    eventually("the queries are dropped", || server.engine.alive() == 0).await;
}

#[tokio::test]
async fn only_so_many_queries_run() {
    let server = Server::with(Limits {
        max_concurrent_queries: 1,
        ..Limits::default()
    })
    .await;
    let mut stream = server.connect().await;
    stream
        .write_all(&post("SELECT 'never ends'"))
        .await
        .unwrap();
    eventually("the query runs", || server.engine.alive() == 1).await;
    let response = server.sql("SELECT 1").await;
    assert_eq!(
        (response.status, response.code()),
        (429, "too_many_queries".to_owned())
    );
    assert_eq!(response.header("retry-after"), Some("1"));
    drop(stream);
    eventually("the query is dropped", || server.engine.alive() == 0).await;
    assert_eq!(server.sql("SELECT 1").await.status, 200);
}

#[tokio::test]
async fn health_tells_alive_from_ready() {
    let server = Server::start().await;
    for path in ["/health", "/health/livez", "/health/readyz"] {
        assert_eq!(server.get(path).await.status, 200);
    }
    server.engine.is_ready.store(false, Ordering::SeqCst);
    assert_eq!(server.get("/health/livez").await.status, 200);
    let response = server.get("/health/readyz").await;
    assert_eq!(
        (response.status, response.code()),
        (503, "not_ready".to_owned())
    );
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.json()["details"]["streams"], 1);
}

#[tokio::test]
async fn heads_have_a_size_and_a_time() {
    let header_timeout = Duration::from_millis(100);
    let server = Server::with(Limits {
        header_timeout,
        ..Limits::default()
    })
    .await;
    let big = format!(
        "GET /health HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n",
        "x".repeat(1_000_000)
    );
    let mut stream = server.connect().await;
    // The server may close while this is still being sent, and the reset may eat its 431.
    let _ = stream.write_all(big.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
        "a huge head was taken"
    );

    let mut stream = server.connect().await;
    stream.write_all(b"GET /health HTT").await.unwrap();
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a half head holds its connection");
}

#[tokio::test]
async fn shutdown_lets_open_requests_end_but_not_forever() {
    let shutdown_grace = Duration::from_millis(200);
    let mut server = Server::with(Limits {
        shutdown_grace,
        ..Limits::default()
    })
    .await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(&post("SELECT 'never ends'")).await.unwrap();
    eventually("the query runs", || server.engine.alive() == 1).await;
    server.stop.take().unwrap().send(()).unwrap();
    timeout(Duration::from_secs(5), &mut server.task)
        .await
        .unwrap()
        .unwrap();
    eventually("the query is dropped", || server.engine.alive() == 0).await;
    let mut rest = Vec::new();
    assert_eq!(idle.read_to_end(&mut rest).await.unwrap_or(0), 0);
    assert!(!read_response(busy).await.is_whole);
}

#[tokio::test]
async fn only_so_many_connections_are_served() {
    let server = Server::with(Limits {
        max_connections: 1,
        ..Limits::default()
    })
    .await;
    let mut held = server.connect().await;
    held.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0; 1];
    held.read_exact(&mut byte).await.unwrap();
    let waiting = timeout(Duration::from_millis(200), server.get("/health")).await;
    assert!(waiting.is_err(), "a second connection was served");
    drop(held);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn a_body_that_nobody_reads_leaves_the_connection_usable() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    for path in [
        "/api/v1/views/hits/recompute",
        "/nowhere",
        "/api/v1/streams/1/events",
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"{\"a\": 1}\n").await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(read > 0, "{path}: the connection was closed");
        assert!(answer.starts_with(b"HTTP/1.1 "), "{path}");
    }
}
