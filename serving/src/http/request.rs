//! A request in parts: parameters that must be known, and a body that must be small enough.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, Method, header};

use super::App;
use crate::engine::IngestBody;
use crate::error::{EngineError, ErrorKind};

/// Bytes of a refused body that are read and thrown away. A client that is still sending when
/// the connection closes sees a reset instead of the 413, so most bodies are let run out.
const DRAIN_BYTES: usize = 16 * 1024 * 1024;

/// How long a refused body is read and thrown away.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Characters of an idempotency key: it is stored with the request's frame.
const MAX_KEY_CHARS: usize = 255;

type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// A request whose path is known.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    query: String,
    body: Lent,
}

/// A body that goes home when its user drops it: what is left of it is drained there, so that a
/// client that is still sending can read its answer and use the connection again.
struct Lent {
    /// `None` only while it is dropped.
    body: Option<BodyStream>,
    home: Arc<Mutex<Option<BodyStream>>>,
}

impl Lent {
    async fn next(&mut self, idle_timeout: Duration) -> Result<Option<Bytes>, EngineError> {
        match &mut self.body {
            Some(body) => next_piece(body, idle_timeout).await,
            None => Ok(None),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        *home = self.body.take();
    }
}

/// Takes a request apart.
pub(super) fn parts() -> BoxedFilter<(Request,)> {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::body::stream().map(|body| -> BodyStream { Box::pin(bytes_of(body)) }))
        .map(|method, headers, query, body| Request {
            method,
            headers,
            query,
            body: Lent {
                body: Some(body),
                home: Arc::default(),
            },
        })
        .boxed()
}

fn bytes_of<S, B>(body: S) -> impl Stream<Item = Result<Bytes, warp::Error>> + Send
where
    S: Stream<Item = Result<B, warp::Error>> + Send,
    B: Buf,
{
    body.map(|piece| piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
}

impl Request {
    /// The parameters after the question mark.
    pub(super) fn params(&self) -> Result<Params, EngineError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in url::form_urlencoded::parse(self.query.as_bytes()) {
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format!("the parameter {name:?} is given twice")));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Params { pairs })
    }

    /// A header's text; an error if it is there but not readable text.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, EngineError> {
        let Some(value) = self.headers.get(name) else {
            return Ok(None);
        };
        match value.to_str() {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(EngineError::bad_request(
                "invalid_header",
                format!("the header {name} is not printable ASCII"),
            )
            .because(error)),
        }
    }

    /// The client's idempotency key.
    pub(super) fn idempotency_key(&self) -> Result<Option<String>, EngineError> {
        let invalid = |message: String| Err(EngineError::bad_request("invalid_header", message));
        if self.headers.get_all("idempotency-key").iter().count() > 1 {
            return invalid("a request has one Idempotency-Key, not several".to_owned());
        }
        match self.header("idempotency-key")? {
            Some(key) if key.contains('\t') => {
                invalid("an Idempotency-Key is printable ASCII, without tabs".to_owned())
            }
            Some(key) if key.is_empty() || key.len() > MAX_KEY_CHARS => invalid(format!(
                "an Idempotency-Key has 1 to {MAX_KEY_CHARS} characters"
            )),
            key => Ok(key.map(str::to_owned)),
        }
    }

    /// Refuses an idempotency key where a repeated request could not be recognised.
    pub(super) fn refuse_idempotency_key(&self) -> Result<(), EngineError> {
        if !self.headers.contains_key("idempotency-key") {
            return Ok(());
        }
        Err(EngineError::bad_request(
            "invalid_header",
            "a statement takes no Idempotency-Key: leave it out, or send events to \
             /api/v1/streams/{stream}/events with it",
        ))
    }

    /// What the handler will leave of the body.
    pub(super) fn rest(&self) -> Rest {
        Rest {
            body: Arc::clone(&self.body.home),
            // A client that waits for "100 Continue" has sent nothing, and polling would invite it.
            is_waiting: self.headers.contains_key(header::EXPECT),
        }
    }

    /// The whole body, at most `limit` bytes, and the permit for its memory: keep it while the
    /// body lives.
    pub(super) async fn body(
        mut self,
        app: &App,
        limit: usize,
    ) -> Result<(Bytes, OwnedSemaphorePermit), EngineError> {
        self.check_length(limit)?;
        let mut permit = hold(&app.body_kib, 0)?;
        let mut held = 0;
        let mut body = BytesMut::new();
        while let Some(piece) = self.body.next(app.limits.body_idle_timeout).await? {
            if body.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            body.extend_from_slice(&piece);
            let needed = body.len().div_ceil(1024);
            if needed > held {
                permit.merge(hold(&app.body_kib, needed - held)?);
                held = needed;
            }
        }
        Ok((body.freeze(), permit))
    }

    /// Refuses a body that says itself that it is too large.
    fn check_length(&self, limit: usize) -> Result<(), EngineError> {
        let declared: Option<u64> = match self.header("content-length")? {
            Some(text) => text.parse().ok(),
            None => None,
        };
        if declared.is_some_and(|bytes| bytes > limit as u64) {
            return Err(too_large(limit));
        }
        Ok(())
    }

    /// The body in the pieces in which it arrives, at most `limit` bytes in all.
    pub(super) fn pieces(self, app: &App, limit: usize) -> Result<IngestBody, EngineError> {
        self.check_length(limit)?;
        let pieces = Pieces {
            body: self.body,
            memory: Arc::clone(&app.body_kib),
            permit: hold(&app.body_kib, 0)?,
            held_kib: 0,
            received: 0,
            has_failed: false,
            limit,
            idle_timeout: app.limits.body_idle_timeout,
            buffered: app.limits.body_buffer_bytes,
        };
        let stream = futures::stream::unfold(pieces, |mut pieces| async move {
            if pieces.has_failed {
                return None;
            }
            let piece = pieces.next().await.transpose()?;
            pieces.has_failed = piece.is_err();
            Some((piece, pieces))
        });
        Ok(Box::pin(stream))
    }
}

/// A body that the engine reads.
struct Pieces {
    body: Lent,
    memory: Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    held_kib: usize,
    received: usize,
    has_failed: bool,
    limit: usize,
    idle_timeout: Duration,
    /// Bytes of the body that the engine holds at most, so that more need no room.
    buffered: usize,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        let Some(piece) = self.body.next(self.idle_timeout).await? else {
            return Ok(None);
        };
        self.received += piece.len();
        if self.received > self.limit {
            return Err(too_large(self.limit));
        }
        let needed = self.received.min(self.buffered).div_ceil(1024);
        if needed > self.held_kib {
            let more = hold(&self.memory, needed - self.held_kib)?;
            self.permit.merge(more);
            self.held_kib = needed;
        }
        Ok(Some(piece))
    }
}

/// What a handler left of a body.
pub(super) struct Rest {
    body: Arc<Mutex<Option<BodyStream>>>,
    is_waiting: bool,
}

impl Rest {
    /// Lets a client that is still sending read its answer. Returns at once if all was read.
    pub(super) async fn drain(self) {
        let body = {
            let mut home = self.body.lock().unwrap_or_else(PoisonError::into_inner);
            home.take()
        };
        if let (Some(mut body), false) = (body, self.is_waiting) {
            drain(&mut body).await;
        }
    }
}

/// `None` at the end of the body.
async fn next_piece(
    body: &mut BodyStream,
    idle_timeout: Duration,
) -> Result<Option<Bytes>, EngineError> {
    match timeout(idle_timeout, body.next()).await {
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(None) => Ok(None),
        Ok(Some(Err(error))) => Err(EngineError::bad_request(
            "broken_body",
            "the body ended early or is not valid HTTP",
        )
        .because(error)),
        Err(_) => Err(EngineError::new(
            ErrorKind::Timeout,
            "body_timeout",
            "no more of the body came in time",
        )),
    }
}

async fn drain(body: &mut BodyStream) {
    let deadline = Instant::now() + DRAIN_TIME;
    let mut drained = 0;
    while let Ok(Some(Ok(piece))) = timeout_at(deadline, body.next()).await {
        drained += piece.len();
        if drained > DRAIN_BYTES {
            return;
        }
    }
}

fn too_large(limit: usize) -> EngineError {
    EngineError::new(
        ErrorKind::TooLarge,
        "body_too_large",
        format!("the body is larger than {limit} bytes: send it in parts"),
    )
}

fn hold(memory: &Arc<Semaphore>, kib: usize) -> Result<OwnedSemaphorePermit, EngineError> {
    let permits = u32::try_from(kib).unwrap_or(u32::MAX);
    Arc::clone(memory)
        .try_acquire_many_owned(permits)
        .map_err(|error| {
            EngineError::new(
                ErrorKind::Busy,
                "too_many_bytes_in_flight",
                "the bodies of other requests fill the memory set aside for them: send it again",
            )
            .because(error)
        })
}

/// Parameters, each taken once; what is left over is an error.
pub(super) struct Params {
    pairs: Vec<(String, String)>,
}

impl Params {
    /// The value of a parameter.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.pairs.iter().position(|(other, _)| other == name)?;
        Some(self.pairs.swap_remove(index).1)
    }

    /// The value of a parameter that is a number.
    pub(super) fn take_number(&mut self, name: &str) -> Result<Option<u64>, EngineError> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(invalid(format!(
                "the parameter {name} is {text:?}, not a number"
            ))),
        }
    }

    /// Names the first parameter that nobody took.
    pub(super) fn finish(self) -> Result<(), EngineError> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(EngineError::bad_request(
                "unknown_parameter",
                format!("the parameter {name:?} is not known here"),
            )),
        }
    }
}

/// A parameter with a value that cannot be.
pub(super) fn invalid(message: String) -> EngineError {
    EngineError::bad_request("invalid_parameter", message)
}
