//! Requests to a server: addresses, retries, and errors in the server's own words.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Request, Response};
use ureq::{Agent, Body, BodyReader, SendBody};
use url::{Host, Url};

use super::run_events::Events;
use super::{ClientError, Refusal};

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the first byte of an answer. Above any sensible query time-out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// Tries of a request that the server is too busy for (429, 503).
const BUSY_TRIES: u32 = 20;
/// Longest wait between two tries, whatever the server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Tries of a request that gets no answer at all. Few: nobody may be there.
const TRANSPORT_TRIES: u32 = 4;
/// First wait; doubles with each try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long a stream of events is read before it is asked for anew: a server that is gone without
/// a word is noticed then.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer read into memory. Query results are not; they are streamed.
const MAX_ANSWER_BYTES: u64 = 64 << 20;

/// A server, seen from outside. Sends one request at a time.
pub struct Client {
    agent: Agent,
    base: Url,
}

/// Ends what a [`Client`] is doing by closing its connection; the server cancels the query.
pub struct Canceller(Agent);

impl Canceller {
    pub fn cancel(self) {
        self.0.shutdown();
    }
}

/// Whether a request may be sent again when its connection broke and nobody knows whether
/// the server has acted on it. One that was refused is sent again in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It only reads, or carries an idempotency key.
    Harmless,
    /// Sent again, it might act twice: `INSERT INTO`.
    Harmful,
}

/// What is sent, in a form that can be sent again.
pub enum Payload<'a> {
    Bytes(&'a [u8]),
    /// A file from its beginning, streamed. `on_sent` hears how many bytes have gone.
    File {
        file: &'a File,
        bytes: u64,
        on_sent: &'a dyn Fn(u64),
    },
}

impl Payload<'_> {
    /// Sends it once.
    fn send(
        &self,
        agent: &Agent,
        request: ureq::http::request::Builder,
    ) -> Result<Response<Body>, ureq::Error> {
        match self {
            Payload::Bytes(bytes) => agent.run(request.body(*bytes)?),
            Payload::File {
                file,
                bytes,
                on_sent,
            } => {
                let mut file = *file;
                file.rewind()?;
                let mut reader = Sending {
                    file: file.take(*bytes),
                    sent: 0,
                    on_sent: *on_sent,
                };
                // A server that is busy says so before all of it has been sent in vain.
                let request = request
                    .header("content-length", *bytes)
                    .header("expect", "100-continue");
                agent.run(request.body(SendBody::from_reader(&mut reader))?)
            }
        }
    }
}

struct Sending<'a> {
    file: std::io::Take<&'a File>,
    sent: u64,
    on_sent: &'a dyn Fn(u64),
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.sent += read as u64;
        (self.on_sent)(self.sent);
        Ok(read)
    }
}

/// An answer read to its end, whatever its status.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
    /// The body as it came; `body` is null where this is not JSON.
    pub text: String,
}

impl Client {
    pub fn new(base: &Url) -> Client {
        Client::with_timeout(base, Duration::ZERO)
    }

    /// For requests that the server may need this long for.
    pub fn with_timeout(base: &Url, timeout: Duration) -> Client {
        let answer_timeout = ANSWER_TIMEOUT.max(timeout + CONNECT_TIMEOUT);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(answer_timeout));
        if is_loopback(base) {
            // A proxy from the environment cannot know this machine's loopback address.
            config = config.proxy(None);
        }
        Client {
            agent: config.build().into(),
            base: base.clone(),
        }
    }

    /// A handle that ends the request under way, from another thread. The client is of no use
    /// afterwards.
    pub fn canceller(&self) -> Canceller {
        Canceller(self.agent.clone())
    }

    /// The address of a resource; segments and query values are escaped as needed.
    pub fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// GET, and the JSON of a good answer.
    pub fn get(&self, url: &Url) -> Result<Value, ClientError> {
        self.get_any(url)?.into_json(url)
    }

    /// GET, whatever the status of the answer is; does not wait for a busy server.
    pub fn get_any(&self, url: &Url) -> Result<Answer, ClientError> {
        let request = || Request::get(url.as_str()).body(());
        let response = retry_transport(url, Repeat::Harmless, || self.agent.run(request()?))?;
        Answer::read(url, response)
    }

    /// GET of a stream of events, after waiting for a busy server. It may break off at any time:
    /// ask again then.
    pub fn events(&self, url: &Url) -> Result<Events<BodyReader<'static>>, ClientError> {
        let send = || {
            let request = Request::get(url.as_str()).body(())?;
            let request = self.agent.configure_request(request);
            let request = request.timeout_recv_body(Some(EVENTS_TIMEOUT)).build();
            self.agent.run(request)
        };
        let response = patiently(url, Repeat::Harmless, send, &|_| {})?;
        if !response.status().is_success() {
            return Err(Answer::read(url, response)?.into_error());
        }
        Ok(Events::of(response.into_body().into_reader()))
    }

    /// DELETE, and the answer whatever its status is.
    pub fn delete(&self, url: &Url) -> Result<Answer, ClientError> {
        let request = || Request::delete(url.as_str()).body(());
        let response = retry_transport(url, Repeat::Harmful, || self.agent.run(request()?))?;
        Answer::read(url, response)
    }

    /// POST, and the answer whatever its status is, after waiting for a busy server.
    /// `on_wait` hears of each wait.
    pub fn post(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
        payload: &Payload<'_>,
        repeat: Repeat,
        on_wait: &dyn Fn(Duration),
    ) -> Result<Answer, ClientError> {
        let response = self.post_streamed(url, headers, payload, repeat, on_wait)?;
        Answer::read(url, response)
    }

    /// POST, and the answer before its body is read.
    pub fn post_streamed(
        &self,
        url: &Url,
        headers: &[(&str, &str)],
        payload: &Payload<'_>,
        repeat: Repeat,
        on_wait: &dyn Fn(Duration),
    ) -> Result<Response<Body>, ClientError> {
        let send = || {
            let mut request = Request::post(url.as_str());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            payload.send(&self.agent, request)
        };
        patiently(url, repeat, send, on_wait)
    }
}

impl Answer {
    pub fn read(url: &Url, mut response: Response<Body>) -> Result<Answer, ClientError> {
        let text = response
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER_BYTES)
            .lossy_utf8(true)
            .read_to_string()
            .map_err(|error| unreachable_server(url, error))?;
        Ok(Answer {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        })
    }

    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The JSON of a good answer; a bad one as an error.
    pub fn into_json(self, url: &Url) -> Result<Value, ClientError> {
        match (self.is_success(), &self.body) {
            (false, _) => Err(self.into_error()),
            (true, Value::Null) => Err(ClientError::UnexpectedAnswer {
                url: url.to_string(),
                reason: "it is not JSON".to_owned(),
            }),
            (true, _) => Ok(self.body),
        }
    }

    /// The server's own words, from `{"error": {"code", "message"}}` or any other body.
    pub fn into_error(self) -> ClientError {
        let error = &self.body["error"];
        let code = error["code"]
            .as_str()
            .map_or_else(|| format!("http_{}", self.status), str::to_owned);
        let message = match error["message"].as_str().or(error.as_str()) {
            Some(message) => message.to_owned(),
            None if self.text.trim().is_empty() => "the server refused without a reason".to_owned(),
            None => self.text.trim().chars().take(300).collect(),
        };
        ClientError::Refused(Refusal {
            status: self.status,
            code,
            message,
            line: error["line"].as_u64(),
            column: error["position"].as_u64(),
            excerpt: None,
        })
    }
}

/// Sends until the server is not too busy for it, or has been for too long. `on_wait` hears of each
/// wait.
fn patiently(
    url: &Url,
    repeat: Repeat,
    send: impl Fn() -> Result<Response<Body>, ureq::Error>,
    on_wait: &dyn Fn(Duration),
) -> Result<Response<Body>, ClientError> {
    let mut wait = FIRST_WAIT;
    for tries_left in (0..BUSY_TRIES).rev() {
        let response = retry_transport(url, repeat, &send)?;
        if tries_left == 0 || !is_passing(&response) {
            return Ok(response);
        }
        let asked = retry_after(&response).unwrap_or(wait).min(LONGEST_WAIT);
        on_wait(asked);
        std::thread::sleep(asked);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    unreachable!("the last try returns")
}

fn retry_transport<T>(
    url: &Url,
    repeat: Repeat,
    send: impl Fn() -> Result<T, ureq::Error>,
) -> Result<T, ClientError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRANSPORT_TRIES {
        match send() {
            Ok(answer) => return Ok(answer),
            Err(error) if repeat.is_allowed_after(&error) => std::thread::sleep(wait),
            Err(error) => return Err(unreachable_server(url, error)),
        }
        wait *= 2;
    }
    send().map_err(|error| unreachable_server(url, error))
}

impl Repeat {
    fn is_allowed_after(self, error: &ureq::Error) -> bool {
        match error {
            ureq::Error::Io(error) if error.kind() == ErrorKind::ConnectionRefused => true,
            ureq::Error::Io(_) => self == Repeat::Harmless,
            _ => false,
        }
    }
}

fn unreachable_server(url: &Url, source: ureq::Error) -> ClientError {
    ClientError::Unreachable {
        url: url.to_string(),
        source: Box::new(source),
    }
}

/// The server asks for the same request again: it is busy, or busy with this very request.
fn is_passing(response: &Response<Body>) -> bool {
    match response.status().as_u16() {
        429 => true,
        // Without the header it is no matter of time.
        409 | 503 => retry_after(response).is_some(),
        _ => false,
    }
}

fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get("retry-after")?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_a_prefix_and_escape_names() {
        let client = Client::new(&"http://lake:1/pre/".parse().unwrap());
        let url = client.url(&["api", "v1", "streams", "a b/c"], &[("format", "json")]);
        assert_eq!(
            url.as_str(),
            "http://lake:1/pre/api/v1/streams/a%20b%2Fc?format=json"
        );
        let client = Client::new(&"http://lake:1".parse().unwrap());
        assert_eq!(
            client.url(&["health"], &[]).as_str(),
            "http://lake:1/health"
        );
    }

    #[test]
    fn errors_keep_the_words_of_the_server() {
        let error = |status, text: &str| {
            Answer {
                headers: HeaderMap::new(),
                status,
                body: serde_json::from_str(text).unwrap_or(Value::Null),
                text: text.to_owned(),
            }
            .into_error()
            .to_string()
        };
        assert_eq!(
            error(
                400,
                r#"{"error": {"code": "plan", "message": "no column x"}}"#
            ),
            "no column x [plan]"
        );
        assert_eq!(error(502, "bad gateway"), "bad gateway [http_502]");
        assert_eq!(
            error(500, ""),
            "the server refused without a reason [http_500]"
        );
    }
}
