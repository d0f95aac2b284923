//! The only place where an error becomes a status and a body.

use serde_json::json;
use warp::http::{HeaderValue, StatusCode, header};
use warp::reply::Response;

use super::json_response;
use crate::error::{EngineError, ErrorKind};

/// Seconds a client should wait after 429 and 503: the shortest the header can say. What is full
/// here (queries, memory for bodies) moves within a second.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no answer.
pub(super) enum Failure {
    /// The path exists, the method does not.
    MethodNotAllowed {
        allow: &'static str,
        message: String,
    },
    /// Everything else.
    Engine(EngineError),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl Failure {
    /// `{"error": {"code", "message", "line"?, "position"?}, "query_id"?}`.
    pub(super) fn into_response(self, id: &str, is_query: bool) -> Response {
        let (error, allow) = match self {
            Self::Engine(error) => (error, None),
            Self::MethodNotAllowed { allow, message } => (
                EngineError::bad_request("method_not_allowed", message),
                Some(allow),
            ),
        };
        log(&error, id);
        let mut body = json!({"error": error_json(&error)});
        if is_query {
            body["query_id"] = id.into();
        }
        let status = match allow {
            Some(_) => StatusCode::METHOD_NOT_ALLOWED,
            None => status(error.kind),
        };
        let mut response = json_response(status, &body);
        if let Some(allow) = allow {
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if is_passing(&error) {
            retry_later(&mut response);
        }
        if is_query && let Ok(id) = HeaderValue::from_str(id) {
            response.headers_mut().insert("x-query-id", id);
        }
        response
    }
}

/// What was stored of a body whose rest was not: the reply with an `error` beside it.
pub(super) fn partial(mut body: serde_json::Value, error: &EngineError, id: &str) -> Response {
    log(error, id);
    body["error"] = error_json(error);
    let mut response = json_response(status(error.kind), &body);
    if is_passing(error) {
        retry_later(&mut response);
    }
    response
}

/// Codes of what stays until somebody mends it.
const LASTING: [&str; 2] = ["stream_damaged", "data_damaged"];

/// The same request may well succeed shortly.
fn is_passing(error: &EngineError) -> bool {
    use ErrorKind::{Busy, InProgress, Unavailable};
    matches!(error.kind, Busy | InProgress | Unavailable) && !LASTING.contains(&error.code)
}

/// The `error` object.
pub(super) fn error_json(error: &EngineError) -> serde_json::Value {
    let mut object = json!({"code": error.code, "message": error.message});
    if let Some(line) = error.line {
        object["line"] = line.into();
    }
    if let Some(position) = error.position {
        object["position"] = position.into();
    }
    object
}

/// Tells the client to try again soon.
pub(super) fn retry_later(response: &mut Response) {
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
}

/// Writes down what the client is not told.
pub(super) fn log(error: &EngineError, id: &str) {
    let source = error.source.as_deref().map(tracing::field::display);
    match error.kind {
        ErrorKind::Internal | ErrorKind::Unavailable => {
            tracing::error!(id, code = error.code, message = %error, source, "request failed");
        }
        _ => tracing::debug!(id, code = error.code, message = %error, source, "request refused"),
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::Conflict | ErrorKind::InProgress => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorKind::OutOfMemory | ErrorKind::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
