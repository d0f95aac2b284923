//! What every request leaves behind: its id, its span, one access line, and its metrics.
//!
//! The id is the client's `X-Request-Id` if that is a sane one, so that a trace through
//! several systems has one name; else it is made. It is answered in `X-Request-Id`, and the
//! span with it goes along wherever the request's work does, so error lines carry it.

use tokio::time::Instant;
use tracing::Span;
use warp::http::{HeaderMap, HeaderValue, Method};
use warp::reply::Response;

use super::errors::Failure;
use super::{App, Route};
use crate::error::ErrorKind;
use crate::metrics::{HTTP_BUSY, HTTP_IN_FLIGHT, HTTP_REQUESTS, HTTP_SECONDS, Meters};

/// Characters of a request id that is taken over: more would only fill the log.
const MAX_ID_CHARS: usize = 128;

/// The status under which a client that left is counted; nginx made it known.
const CLIENT_LEFT: &str = "499";

/// The names one request goes by.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// In logs, in the frame of an ingest and in `X-Request-Id`.
    pub(super) request_id: String,
    /// In `X-Query-Id` and in the list of running queries; unique, whatever clients send.
    pub(super) query_id: String,
}

impl Names {
    /// `made` is unique in this process.
    pub(super) fn new(headers: &HeaderMap, made: String) -> Self {
        let sane = |id: &&str| {
            (1..=MAX_ID_CHARS).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
        };
        let given = headers
            .get("x-request-id")
            .and_then(|value| value.to_str().ok())
            .filter(sane);
        Self {
            request_id: given.map_or_else(|| made.clone(), str::to_owned),
            query_id: made,
        }
    }
}

/// One request from its head to the head of its answer. Dropped before that, it is counted
/// as a client that left.
pub(super) struct Trace {
    meters: Meters,
    span: Span,
    request_id: String,
    route: &'static str,
    method: &'static str,
    started: Instant,
    is_answered: bool,
}

impl Trace {
    pub(super) fn begin(app: &App, route: &Route, method: &Method, names: &Names) -> Self {
        let method = method_label(method);
        let template = route.template();
        let span = tracing::info_span!(
            "request",
            request_id = names.request_id,
            method,
            route = template,
            resource = route.name(),
            query_id = tracing::field::Empty,
        );
        if matches!(route, Route::Sql) {
            span.record("query_id", &names.query_id);
        }
        let meters = app.engine.meters();
        meters.gauge(&HTTP_IN_FLIGHT, &[]).increment(1);
        Self {
            meters,
            span,
            request_id: names.request_id.clone(),
            route: template,
            method,
            started: Instant::now(),
            is_answered: false,
        }
    }

    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Counts what was full.
    pub(super) fn failed(&self, failure: &Failure) {
        if let Failure::Engine(error) = failure
            && error.kind == ErrorKind::Busy
        {
            self.meters.counter(&HTTP_BUSY, &[error.code]).increment(1);
        }
    }

    /// Writes the access line and the metrics, and names the request in its answer.
    pub(super) fn end(mut self, mut response: Response) -> Response {
        self.is_answered = true;
        let status = response.status();
        self.count(status.as_str());
        let elapsed_ms = self.started.elapsed().as_secs_f64() * 1e3;
        let status_code = status.as_u16();
        if status.is_server_error() {
            tracing::info!(status = status_code, elapsed_ms, "request answered");
        } else {
            tracing::debug!(status = status_code, elapsed_ms, "request answered");
        }
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            response.headers_mut().insert("x-request-id", id);
        }
        response
    }

    fn count(&self, status: &str) {
        let labels = [self.route, self.method];
        self.meters
            .counter(&HTTP_REQUESTS, &[self.route, self.method, status])
            .increment(1);
        self.meters
            .histogram(&HTTP_SECONDS, &labels)
            .record(self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.meters.gauge(&HTTP_IN_FLIGHT, &[]).decrement(1);
        if !self.is_answered {
            self.count(CLIENT_LEFT);
        }
    }
}

/// A method as a label: clients may invent methods, labels must not be invented by them.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_str(given).unwrap());
        Names::new(&headers, "made".to_owned()).request_id
    }

    #[test]
    fn only_sane_request_ids_are_taken_over() {
        assert_eq!(id_for("abc-123_X.y/z"), "abc-123_X.y/z");
        assert_eq!(id_for(&"x".repeat(128)), "x".repeat(128));
        for odd in ["", "a b", "a\tb", "caf\u{e9}", &"x".repeat(129)] {
            assert_eq!(id_for(odd), "made", "{odd:?}");
        }
    }

    #[test]
    fn a_query_id_is_made_even_if_the_request_id_is_given() {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("mine"));
        let names = Names::new(&headers, "made".to_owned());
        assert_eq!((&*names.request_id, &*names.query_id), ("mine", "made"));
    }
}
