//! A client that shows what others hide: whether a chunked body ended properly, and the bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lambdalake_serving::Limits;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fake::Fake;

/// A server of its own for one test.
pub struct Server {
    pub address: SocketAddr,
    pub engine: Arc<Fake>,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<()>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub async fn with(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let engine = Arc::new(Fake::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let served: Arc<dyn lambdalake_serving::Engine> = engine.clone();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            lambdalake_serving::serve(listener, served, limits, shutdown)
                .await
                .unwrap();
        });
        Self {
            address,
            engine,
            stop: Some(stop),
            task,
        }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends raw bytes and reads to the end of the connection.
    pub async fn raw(&self, request: &[u8]) -> Response {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_response(stream).await
    }

    pub async fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n");
        request.push_str(headers);
        if !body.is_empty() || method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes).await
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send("GET", path, "", b"").await
    }

    pub async fn sql(&self, sql: &str) -> Response {
        self.send("POST", "/api/v1/sql", "", sql.as_bytes()).await
    }

    pub async fn sql_as(&self, sql: &str, format: &str) -> Response {
        self.send(
            "POST",
            &format!("/api/v1/sql?format={format}"),
            "",
            sql.as_bytes(),
        )
        .await
    }
}

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body has the end that its framing promises.
    pub is_whole: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The error's code, after checking the shape that all errors have.
    pub fn code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

pub async fn read_response(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    // A reset after the answer is fine: what was read before it stays.
    let _ = stream.read_to_end(&mut bytes).await;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Response {
    let head_end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no response head in {:?}", String::from_utf8_lossy(bytes)));
    let head = std::str::from_utf8(&bytes[..head_end]).unwrap();
    let rest = &bytes[head_end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    if status == 100 {
        return parse(rest);
    }
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let is_chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let (body, is_whole) = if is_chunked {
        unchunk(rest)
    } else {
        let promised = length.map(|(_, value)| value.parse::<usize>().unwrap());
        (
            rest.to_vec(),
            promised.is_none_or(|promised| promised == rest.len()),
        )
    };
    Response {
        status,
        headers,
        body,
        is_whole,
    }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&rest[..line_end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[line_end + 2..];
        if size == 0 {
            return (body, rest == b"\r\n");
        }
        if rest.len() < size + 2 {
            return (body, false);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

/// Waits until a condition holds; panics after ten seconds.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
