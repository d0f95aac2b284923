//! Events of a run: what is news, what is silence, and that nothing of a stream stays behind.

use std::time::Duration;

use lambdalake_serving::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{Server, eventually};

const PATH: &str = "/api/v1/runs/run-slow/events";

const REQUEST: &[u8] = b"GET /api/v1/runs/run-slow/events HTTP/1.1\r\nHost: t\r\n\r\n";

/// Looks often, and is soon silent for too long.
fn limits() -> Limits {
    Limits {
        run_event_pause: Duration::from_millis(2),
        run_event_silence: Duration::from_millis(20),
        max_run_events: 1,
        ..Limits::default()
    }
}

/// The lines of an open stream that say something, head and chunk sizes included.
struct Stream(BufReader<TcpStream>);

impl Stream {
    async fn open(server: &Server) -> Self {
        let mut stream = server.connect().await;
        stream.write_all(REQUEST).await.unwrap();
        Self(BufReader::new(stream))
    }

    /// Reads up to a line that begins so, and gives all lines on the way.
    async fn until(&mut self, start: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let mut line = String::new();
            let read = timeout(Duration::from_secs(30), self.0.read_line(&mut line));
            let read = read.await.unwrap().unwrap();
            assert_ne!(read, 0, "no {start:?} after {seen:?}");
            seen.push(line.trim_end().to_owned());
            if line.starts_with(start) {
                return seen;
            }
        }
    }
}

fn progress_in(lines: &[String]) -> usize {
    let is_progress = |line: &&String| line.as_str() == "event:progress";
    lines.iter().filter(is_progress).count()
}

#[tokio::test]
async fn only_news_is_told_and_silence_is_commented() {
    let server = Server::with(limits()).await;
    let mut stream = Stream::open(&server).await;
    let head = stream.until("event:progress").await;
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    assert!(
        head.contains(&"content-type: text/event-stream".to_owned()),
        "{head:?}"
    );
    let told = stream.until("data:").await;
    assert_eq!(
        told.last().unwrap(),
        r#"data:{"id":"run-slow","status":"running"}"#
    );
    let change = |more: Value| {
        let mut run = json!({"id": "run-slow", "status": "running"});
        run.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        server.engine.slow_run.send_replace(run);
    };
    for elapsed in 1..4 {
        change(json!({"duration_ms": elapsed, "eta_ms": 10 - elapsed}));
        assert_eq!(progress_in(&stream.until(":").await), 0);
    }
    change(json!({"rows_read": 7}));
    stream.until("event:progress").await;
    assert_eq!(
        stream.until("data:").await.last().unwrap(),
        r#"data:{"id":"run-slow","rows_read":7,"status":"running"}"#
    );
    server
        .engine
        .slow_run
        .send_replace(json!({"status": "failed"}));
    let rest = stream.until("event:end").await;
    assert_eq!(progress_in(&rest), 0);
    stream.until("0").await;
    eventually("the task is gone", || server.engine.alive() == 0).await;

    let again = server.get(PATH).await;
    assert!(again.is_whole);
    assert_eq!(again.text(), "event:end\ndata:{\"status\":\"failed\"}\n\n");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let server = Server::with(limits()).await;
    for _ in 0..3 {
        let mut stream = Stream::open(&server).await;
        stream.until("event:progress").await;
        let refused = server.get(PATH).await;
        let answer = (refused.status, refused.code());
        assert_eq!(answer, (429, "too_many_run_events".to_owned()));
        assert_eq!(refused.header("retry-after"), Some("1"));
        drop(stream);
        eventually("the task is gone", || server.engine.alive() == 0).await;
    }
    let unknown = server.get("/api/v1/runs/none/events").await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (404, "unknown_run".to_owned())
    );
}

#[tokio::test]
async fn a_stop_ends_open_streams_properly() {
    let mut server = Server::with(Limits {
        shutdown_grace: Duration::from_secs(3_600),
        ..limits()
    })
    .await;
    let mut stream = Stream::open(&server).await;
    stream.until("event:progress").await;
    server.stop.take().unwrap().send(()).unwrap();
    let rest = stream.until("0").await;
    assert!(!rest.contains(&"event:end".to_owned()), "{rest:?}");
    let stopped = timeout(Duration::from_secs(30), &mut server.task).await;
    stopped.unwrap().unwrap();
    assert_eq!(server.engine.alive(), 0);
}
