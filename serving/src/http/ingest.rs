//! `POST /api/v1/streams/{stream}/events`.

use lambdalake_data::input::{Encoding, InputError};
use serde_json::json;
use warp::http::StatusCode;
use warp::reply::Response;

use super::errors::{self, Failure};
use super::request::Request;
use super::{App, json_response};
use crate::engine::{IngestReply, IngestRequest};
use crate::error::{EngineError, ErrorKind};

/// How many of the accepted events were stored before, by a request with the same key. Not in the
/// body, which is the first answer again.
const REPEATED_EVENTS: &str = "x-repeated-events";

/// Takes one body of events. 200 if any row was taken or none was there; 400 with the same body
/// and an `error` if there were rows and none was valid. If only the beginning of a body could
/// be stored, the status is that of the error, with the counts beside it.
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
    let encoding = encoding(&request)?;
    let content_type = request.header("content-type")?.map(str::to_owned);
    let idempotency_key = request.idempotency_key()?;
    let body = request.pieces(app, app.limits.body_bytes)?;
    let answered = app
        .engine
        .ingest(IngestRequest {
            stream,
            format,
            content_type,
            encoding,
            producer,
            idempotency_key,
            body,
            request_id: request_id.to_owned(),
        })
        .await;
    let mut reply = answered?;
    reply.errors.truncate(app.limits.row_errors);
    let mut response = respond(&reply, request_id);
    if reply.repeated > 0 {
        let headers = response.headers_mut();
        headers.insert(REPEATED_EVENTS, reply.repeated.into());
    }
    Ok(response)
}

fn respond(reply: &IngestReply, request_id: &str) -> Response {
    let mut body = json!(reply);
    if let Some(error) = &reply.failure {
        return errors::partial(body, error, request_id);
    }
    if reply.accepted > 0 || reply.rejected == 0 {
        return json_response(StatusCode::OK, &body);
    }
    body["error"] = json!({"code": "no_valid_rows", "message": "no row of the body is valid"});
    json_response(StatusCode::BAD_REQUEST, &body)
}

/// One encoding of those there are, whether it comes in one header line or several.
fn encoding(request: &Request) -> Result<Encoding, EngineError> {
    let name = "content-encoding";
    let unsupported = |message: String| {
        EngineError::new(ErrorKind::UnsupportedMedia, "unsupported_encoding", message)
    };
    if request.headers.get_all(name).iter().count() > 1 {
        let message = "more than one Content-Encoding is not understood: compress the body once";
        return Err(unsupported(message.to_owned()));
    }
    let token = request.header(name)?.unwrap_or_default();
    token
        .parse()
        .map_err(|error: InputError| unsupported(error.to_string()))
}
