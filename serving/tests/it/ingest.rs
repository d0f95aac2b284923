//! Events in.

use lambdalake_data::input::Encoding;
use lambdalake_serving::Limits;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::client::{Server, read_response};

const EVENTS: &str = "/api/v1/streams/access_log/events";

#[tokio::test]
async fn what_was_taken_is_counted() {
    let server = Server::start().await;
    let response = server.send("POST", EVENTS, "", b"{}\n{}\nx\n").await;
    assert_eq!(response.status, 200);
    assert_eq!(
        response.json(),
        json!({"accepted": 2, "rejected": 1, "offsets": {"0": {"from": 0, "to": 2}}, "errors": [
            {"line": 3, "code": "invalid_json", "message": "not an object"}
        ]})
    );
    let response = server.send("POST", EVENTS, "", b"x\ny").await;
    assert_eq!(
        (response.status, response.code()),
        (400, "no_valid_rows".to_owned())
    );
    let body = response.json();
    assert_eq!(
        (&body["accepted"], &body["rejected"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(body["errors"].as_array().unwrap().len(), 2);

    assert_eq!(server.send("POST", EVENTS, "", b"").await.status, 200);
    let head = server.send("HEAD", EVENTS, "", b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn headers_and_parameters_reach_the_engine() {
    let server = Server::start().await;
    let headers = "Content-Type: application/x-ndjson\r\nContent-Encoding: GZIP\r\n\
                   Idempotency-Key: k-1\r\n";
    let path = format!("{EVENTS}?format=ndjson&producer=vector%2F1");
    assert_eq!(server.send("POST", &path, headers, b"{}").await.status, 200);
    assert_eq!(
        server
            .send("POST", "/api/v1/streams/%61b/events", "", b"{}")
            .await
            .status,
        200
    );
    let ingested = server.engine.ingested.lock().unwrap();
    let (first, body) = &ingested[0];
    let (second, _) = &ingested[1];
    assert_eq!(first.stream, "access_log");
    assert_eq!(first.format.as_deref(), Some("ndjson"));
    assert_eq!(first.content_type.as_deref(), Some("application/x-ndjson"));
    assert_eq!(first.encoding, Encoding::Gzip);
    assert_eq!(first.producer.as_deref(), Some("vector/1"));
    assert_eq!(first.idempotency_key.as_deref(), Some("k-1"));
    assert_eq!(&body[..], b"{}");
    assert_eq!(second.encoding, Encoding::Identity);
    assert_eq!(second.stream, "ab");
    assert_ne!(first.request_id, second.request_id);
}

#[tokio::test]
async fn other_encodings_are_refused() {
    let server = Server::start().await;
    let response = server
        .send("POST", EVENTS, "Content-Encoding: br\r\n", b"{}")
        .await;
    assert_eq!(
        (response.status, response.code()),
        (415, "unsupported_encoding".to_owned())
    );
    assert!(response.text().contains("gzip, zstd, snappy, identity"));
    let long = format!("Idempotency-Key: {}\r\n", "x".repeat(256));
    let response = server.send("POST", EVENTS, &long, b"{}").await;
    assert_eq!(
        (response.status, response.code()),
        (400, "invalid_header".to_owned())
    );
}

#[tokio::test]
async fn a_body_has_a_size_also_when_it_does_not_say() {
    let server = Server::with(Limits {
        body_bytes: 10_000,
        ..Limits::default()
    })
    .await;
    let body = vec![b'{'; 10_001];
    let response = server.send("POST", EVENTS, "", &body).await;
    assert_eq!(
        (response.status, response.code()),
        (413, "body_too_large".to_owned())
    );
    assert_eq!(
        server.send("POST", EVENTS, "", &body[1..]).await.status,
        200
    );

    let mut stream = server.connect().await;
    let head = format!(
        "POST {EVENTS} HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..50 {
        stream.write_all(b"3e8\r\n").await.unwrap();
        stream.write_all(&[b'{'; 1_000]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let response = read_response(stream).await;
    assert_eq!(
        (response.status, response.code()),
        (413, "body_too_large".to_owned())
    );
    assert_eq!(server.engine.ingested.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn all_bodies_together_have_a_size() {
    let limits = Limits {
        body_bytes_in_flight: 4_096,
        ..Limits::default()
    };
    let server = Server::with(limits).await;
    for _ in 0..3 {
        let response = server.send("POST", EVENTS, "", &[b'{'; 5_000]).await;
        assert_eq!(
            (response.status, response.code()),
            (429, "too_many_bytes_in_flight".to_owned())
        );
        assert_eq!(response.header("retry-after"), Some("1"));
        assert_eq!(
            server.send("POST", EVENTS, "", &[b'{'; 4_000]).await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up() {
    let idle = std::time::Duration::from_millis(100);
    let server = Server::with(Limits {
        body_idle_timeout: idle,
        ..Limits::default()
    })
    .await;
    let request = format!("POST {EVENTS} HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n{{");
    let response = server.raw(request.as_bytes()).await;
    assert_eq!(
        (response.status, response.code()),
        (408, "body_timeout".to_owned())
    );
}
