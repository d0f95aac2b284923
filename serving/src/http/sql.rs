//! `POST /api/v1/sql` and the read-only `GET /api/v1/sql?q=`.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::task::spawn_blocking;
use warp::http::{Method, header};
use warp::reply::Response;

use super::errors::Failure;
use super::request::{Params, Request, invalid};
use super::{App, answer, catalog};
use crate::encode::Format;
use crate::engine::{Layer, QueryRequest};
use crate::error::{EngineError, ErrorKind};
use crate::statement::Statement;

/// Runs one statement.
pub(super) async fn sql(app: &Arc<App>, request: Request, id: &str) -> Result<Response, Failure> {
    let is_get = request.method == Method::GET;
    let mut params = request.params()?;
    let format = match params.take("format") {
        Some(name) => Format::parse(&name).ok_or_else(|| unknown_format(&name))?,
        None => accepted(&request)?,
    };
    let text = if is_get { params.take("q") } else { None };
    let mut asked = Asked::from_params(&mut params)?;
    params.finish()?;
    match text {
        Some(text) => asked.query = text,
        None if is_get => return Err(invalid("the parameter q is missing".to_owned()).into()),
        None => asked.read_body(app, request).await?,
    }
    let query = asked.resolve(app, id)?;

    // Parsing is CPU work, and a megabyte of it is not nothing.
    let sql = query.sql.clone();
    let statement = spawn_blocking(move || Statement::parse(&sql))
        .await
        .map_err(|error| EngineError::internal("parsing a statement failed").because(error))??;
    if is_get && !statement.is_read_only() {
        return Err(Failure::MethodNotAllowed {
            allow: "POST",
            message: "GET only runs queries, SHOW TABLES and DESCRIBE: use POST".to_owned(),
        });
    }
    run(app, statement, query, format).await
}

async fn run(
    app: &Arc<App>,
    statement: Statement,
    mut query: QueryRequest,
    format: Format,
) -> Result<Response, Failure> {
    let ticket = app.queries.admit(&query)?;
    let answer = match statement {
        Statement::Query(text) => {
            query.sql = text;
            ticket.run(app.engine.query(query)).await??
        }
        other => {
            ticket
                .run(catalog::carry_out(
                    app.engine.as_ref(),
                    other,
                    query,
                    &app.limits,
                ))
                .await??
        }
    };
    Ok(answer::respond(app, ticket, answer, format).await?)
}

/// What the client asked for, in the URL and in the body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    query: String,
    timeout_ms: Option<u64>,
    max_rows: Option<u64>,
    layer: Option<String>,
}

impl Asked {
    fn from_params(params: &mut Params) -> Result<Self, EngineError> {
        Ok(Self {
            query: String::new(),
            timeout_ms: params.take_number("timeout_ms")?,
            max_rows: params.take_number("max_rows")?,
            layer: params.take("layer"),
        })
    }

    /// Reads SQL or JSON; what the JSON says wins over the URL.
    async fn read_body(&mut self, app: &App, request: Request) -> Result<(), EngineError> {
        if let Some(encoding) = request.header("content-encoding")?
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(unsupported_media(format!(
                "the Content-Encoding {encoding:?} is not understood here: send SQL as it is"
            )));
        }
        let content_type = request.header("content-type")?.unwrap_or("text/plain");
        let media_type = media_type(content_type);
        let is_json = media_type == "application/json";
        // What `curl -d` says about every body is not held against it.
        let is_text = media_type.starts_with("text/")
            || media_type == "application/sql"
            || media_type == "application/x-www-form-urlencoded";
        if !is_json && !is_text {
            return Err(unsupported_media(format!(
                "the Content-Type {content_type:?} is not understood: allowed are text/plain, \
                 application/sql and application/json"
            )));
        }
        let (body, _memory) = request.body(app, app.limits.sql_bytes).await?;
        if !is_json {
            let text = std::str::from_utf8(&body).map_err(|error| {
                EngineError::bad_request("invalid_body", "the statement is not UTF-8")
                    .because(error)
            })?;
            self.query = text.to_owned();
            return Ok(());
        }
        let json: Self = serde_json::from_slice(&body).map_err(|error| {
            let (line, column) = (error.line() as u64, error.column() as u64);
            EngineError::bad_request("invalid_body", format!("the body is not valid: {error}"))
                .at(line, column)
                .because(error)
        })?;
        self.query = json.query;
        self.timeout_ms = json.timeout_ms.or(self.timeout_ms);
        self.max_rows = json.max_rows.or(self.max_rows);
        self.layer = json.layer.or(self.layer.take());
        Ok(())
    }

    fn resolve(self, app: &App, id: &str) -> Result<QueryRequest, EngineError> {
        let limits = &app.limits;
        let timeout = match self.timeout_ms.map(Duration::from_millis) {
            None => limits.default_query_timeout,
            Some(asked) if !asked.is_zero() && asked <= limits.max_query_timeout => asked,
            Some(_) => {
                let most = limits.max_query_timeout.as_millis();
                return Err(invalid(format!("timeout_ms is not from 1 to {most}")));
            }
        };
        let max_rows = match self.max_rows {
            None => limits.max_result_rows,
            Some(asked) if asked > 0 && asked <= limits.max_result_rows => asked,
            Some(_) => {
                let most = limits.max_result_rows;
                return Err(invalid(format!("max_rows is not from 1 to {most}")));
            }
        };
        let layer = match &self.layer {
            None => Layer::default(),
            Some(name) => Layer::parse(name).ok_or_else(|| {
                invalid(format!(
                    "layer is {name:?}: allowed are merged, batch, speed"
                ))
            })?,
        };
        Ok(QueryRequest {
            sql: self.query,
            layer,
            timeout,
            max_rows,
            query_id: id.to_owned(),
        })
    }
}

/// The format that the Accept header likes most; JSON without one.
fn accepted(request: &Request) -> Result<Format, EngineError> {
    let Some(accept) = request.header(header::ACCEPT.as_str())? else {
        return Ok(Format::Json);
    };
    let mut best: Option<(f32, Format)> = None;
    for range in accept.split(',') {
        let Some(format) = Format::from_media_type(&media_type(range)) else {
            continue;
        };
        let weight = weight(range);
        // The earlier of two equals wins: clients list what they like most first.
        if weight > 0.0 && best.is_none_or(|(other, _)| weight > other) {
            best = Some((weight, format));
        }
    }
    best.map(|(_, format)| format)
        .ok_or_else(|| unknown_format(accept))
}

fn weight(range: &str) -> f32 {
    range
        .split(';')
        .skip(1)
        .find_map(|parameter| parameter.trim().strip_prefix("q=")?.trim().parse().ok())
        .unwrap_or(1.0)
}

/// `Text/Plain; charset=utf-8` -> `text/plain`.
fn media_type(text: &str) -> String {
    text.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

fn unknown_format(name: &str) -> EngineError {
    EngineError::bad_request(
        "unknown_format",
        format!(
            "the format {name:?} is not known: allowed are {}",
            Format::ALLOWED
        ),
    )
}

fn unsupported_media(message: String) -> EngineError {
    EngineError::new(
        ErrorKind::UnsupportedMedia,
        "unsupported_media_type",
        message,
    )
}
