//! `POST /api/v1/streams/{stream}/events`.

use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::errors::Failure;
use super::request::Request;
use super::{App, json_response};
use crate::engine::IngestRequest;
use crate::error::{EngineError, ErrorKind};

/// Characters of an idempotency key: it is stored with the request's frame.
const MAX_KEY_CHARS: usize = 255;

/// Takes one body of events. 200 if any row was taken or none was there; 400 with the same body
/// and an `error` if there were rows and none was valid.
pub(super) async fn events(
    app: &App,
    stream: String,
    request: Request,
    request_id: &str,
) -> Result<Response, Failure> {
    let mut params = request.params()?;
    let format = params.take("format");
    let producer = params.take("producer");
    params.finish()?;
    let gzip = is_gzip(request.header("content-encoding")?)?;
    let content_type = request.header("content-type")?.map(str::to_owned);
    let idempotency_key = request.header("idempotency-key")?.map(str::to_owned);
    if idempotency_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_CHARS)
    {
        return Err(EngineError::bad_request(
            "invalid_header",
            format!("an Idempotency-Key has 1 to {MAX_KEY_CHARS} characters"),
        )
        .into());
    }
    let (body, _memory) = request.body(app, app.limits.body_bytes).await?;
    let mut reply = app
        .engine
        .ingest(IngestRequest {
            stream,
            format,
            content_type,
            gzip,
            producer,
            idempotency_key,
            body,
            request_id: request_id.to_owned(),
        })
        .await?;
    reply.errors.truncate(app.limits.row_errors);
    let mut body = json!(reply);
    if reply.accepted > 0 || reply.rejected == 0 {
        return Ok(json_response(StatusCode::OK, &body));
    }
    body["error"] = json!({"code": "no_valid_rows", "message": "no row of the body is valid"});
    Ok(json_response(StatusCode::BAD_REQUEST, &body))
}

fn is_gzip(content_encoding: Option<&str>) -> Result<bool, EngineError> {
    match content_encoding
        .map(|text| text.trim().to_ascii_lowercase())
        .as_deref()
    {
        None | Some("" | "identity") => Ok(false),
        Some("gzip" | "x-gzip") => Ok(true),
        Some(other) => Err(EngineError::new(
            ErrorKind::UnsupportedMedia,
            "unsupported_encoding",
            format!("the Content-Encoding {other:?} is not understood: allowed are gzip, identity"),
        )),
    }
}
