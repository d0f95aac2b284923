//! Before the engine is open and while it closes, clients hear the reason.

use std::sync::Arc;
use std::time::Duration;

use lambdalake_serving::Limits;
use lambdalake_serving::http::closed::{Closed, refuse_during};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::client::{Response, Server, eventually, read_response};
use crate::fake::Fake;

async fn ask(address: std::net::SocketAddr, path: &str) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_response(stream).await
}

fn is_refused(response: &Response, code: &str) {
    assert_eq!((response.status, &*response.code()), (503, code));
    assert_eq!(response.header("retry-after"), Some("1"));
    let json = response.json();
    assert_eq!(json["ready"], false);
    assert!(json["details"]["reason"].is_string(), "{json}");
}

#[tokio::test]
async fn a_starting_node_answers_and_then_serves_on_the_same_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (opened, opening) = oneshot::channel::<u32>();
    let task = tokio::spawn(async move {
        let limits = Limits::default();
        let made = refuse_during(&listener, Closed::Starting, &limits, opening).await;
        assert_eq!(made.unwrap().unwrap(), 7, "what the work made comes back");
        let engine = Arc::new(Fake::new());
        lambdalake_serving::serve(listener, engine, limits, std::future::pending()).await
    });
    for path in ["/health/readyz", "/health", "/metrics", "/api/v1/streams"] {
        is_refused(&ask(address, path).await, "starting");
    }
    assert_eq!(ask(address, "/health/livez").await.status, 200);
    // A client that keeps its connection must not be kept from the real service.
    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0; 1];
    kept.read_exact(&mut byte).await.unwrap();
    opened.send(7).unwrap();
    let mut rest = Vec::new();
    kept.read_to_end(&mut rest).await.unwrap();
    assert_eq!(ask(address, "/health/readyz").await.status, 200);
    task.abort();
}

#[tokio::test]
async fn a_stopping_node_says_so_while_open_requests_end() {
    let mut server = Server::with(Limits {
        shutdown_grace: Duration::from_secs(5),
        ..Limits::default()
    })
    .await;
    let sql = "SELECT 'never ends'";
    let mut busy = server.connect().await;
    let head = format!(
        "POST /api/v1/sql HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{sql}",
        sql.len()
    );
    busy.write_all(head.as_bytes()).await.unwrap();
    eventually("the query runs", || server.engine.alive() == 1).await;
    server.stop.take().unwrap().send(()).unwrap();
    for _ in 0..500 {
        if server.get("/health/readyz").await.status == 503 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    is_refused(&server.get("/health/readyz").await, "shutting_down");
    is_refused(&server.sql("SELECT 1").await, "shutting_down");
    assert_eq!(server.get("/health/livez").await.status, 200);
    drop(busy);
    tokio::time::timeout(Duration::from_secs(10), &mut server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let server = Server::start().await;
    let mine = "X-Request-Id: mine\r\n";
    for (method, path) in [
        ("GET", "/health/livez"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("DELETE", "/api/v1/sql"),
        ("POST", "/api/v1/streams/busy/events"),
    ] {
        let response = server.send(method, path, mine, b"").await;
        assert_eq!(response.header("x-request-id"), Some("mine"), "{path}");
        let made = server.send(method, path, "", b"").await;
        let id = made.header("x-request-id").unwrap();
        assert!(!id.is_empty() && id != "mine", "{path}: {id}");
    }
}
