//! `POST /api/v1/sql` and the read-only `GET /api/v1/sql?q=`.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::task::spawn_blocking;
use warp::http::Method;
use warp::reply::Response;

use super::errors::Failure;
use super::query_record::QueryRecord;
use super::request::{Params, Request, invalid};
use super::trace::Names;
use super::{App, answer, catalog, negotiate};
use crate::encode::Format;
use crate::engine::{Layer, Params as Values, QueryRequest};
use crate::error::{EngineError, ErrorKind};
use crate::statement::Statement;

/// Columns of the widest terminal that a table is drawn for.
const MAX_WIDTH: u16 = 10_000;

/// Runs one statement.
pub(super) async fn sql(
    app: &Arc<App>,
    request: Request,
    names: &Names,
) -> Result<Response, Failure> {
    let is_get = request.method == Method::GET;
    request.refuse_idempotency_key()?;
    let mut params = request.params()?;
    let headers = request.headers.clone();
    let width = width(&mut params)?;
    let text = if is_get { params.take("q") } else { None };
    let mut asked = Asked::from_params(&mut params)?;
    params.finish()?;
    match text {
        Some(text) => asked.query = text,
        None if is_get => return Err(invalid("the parameter q is missing".to_owned()).into()),
        None => asked.read_body(app, request).await?,
    }
    let shown = answer::Shown {
        format: match &asked.format {
            Some(name) => Format::parse(name).ok_or_else(|| unknown_format(name))?,
            None => negotiate::format(&headers)?,
        },
        width,
        coding: negotiate::coding(&headers)?,
    };
    let query = asked.resolve(app, &names.query_id)?;
    let record = QueryRecord::begin(app, &query, names);
    let result = parse_and_run(app, query, shown, is_get, &record).await;
    if let Err(Failure::Engine(error)) = &result {
        record.failed(error);
    }
    result
}

async fn parse_and_run(
    app: &Arc<App>,
    query: QueryRequest,
    shown: answer::Shown,
    is_get: bool,
    record: &Arc<QueryRecord>,
) -> Result<Response, Failure> {
    // Parsing is CPU work, and a megabyte of it is not nothing.
    let sql = query.sql.clone();
    let statement = spawn_blocking(move || Statement::parse(&sql))
        .await
        .map_err(|error| EngineError::internal("parsing a statement failed").because(error))??;
    if is_get && !statement.is_read_only() {
        return Err(Failure::MethodNotAllowed {
            allow: "POST",
            message: "GET only runs queries, EXPLAIN, SHOW TABLES and DESCRIBE: use POST"
                .to_owned(),
        });
    }
    run(app, statement, query, shown, record).await
}

async fn run(
    app: &Arc<App>,
    statement: Statement,
    mut query: QueryRequest,
    shown: answer::Shown,
    record: &Arc<QueryRecord>,
) -> Result<Response, Failure> {
    let takes_params = matches!(
        statement,
        Statement::Query(_) | Statement::Insert(_) | Statement::ExplainProvenance(_)
    );
    if !takes_params {
        query.params.refuse()?;
    }
    let ticket = app.queries.admit(&query)?;
    let answer = match statement {
        Statement::Query(text) => {
            query.sql = text;
            ticket.run(app.engine.query(query)).await??
        }
        other => {
            let starts_run = matches!(other, Statement::Refresh(_) | Statement::Verify(_));
            let done = ticket.run(catalog::carry_out(app.engine.as_ref(), other, query));
            done.await.map_err(|mut error| {
                if starts_run {
                    error.message += "; a run that it has started goes on: see GET /api/v1/runs";
                }
                error
            })??
        }
    };
    Ok(answer::respond(app, ticket, answer, shown, record).await?)
}

/// What the client asked for, in the URL and in the body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    query: String,
    params: Option<Box<RawValue>>,
    format: Option<String>,
    timeout_ms: Option<u64>,
    max_rows: Option<u64>,
    layer: Option<String>,
}

impl Asked {
    fn from_params(params: &mut Params) -> Result<Self, EngineError> {
        Ok(Self {
            query: String::new(),
            params: params.take("params").map(raw_json).transpose()?,
            format: params.take("format"),
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
        self.params = json.params.or(self.params.take());
        self.format = json.format.or(self.format.take());
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
        let params = match &self.params {
            None => Values::default(),
            Some(json) => Values::from_json(json.get())?,
        };
        Ok(QueryRequest {
            sql: self.query,
            params,
            layer,
            timeout,
            max_rows,
            query_id: id.to_owned(),
        })
    }
}

/// The columns of the client's terminal; 0, the default, is without end.
fn width(params: &mut Params) -> Result<u16, EngineError> {
    let asked = params.take_number("width")?.unwrap_or(0);
    u16::try_from(asked)
        .ok()
        .filter(|width| *width <= MAX_WIDTH)
        .ok_or_else(|| invalid(format!("width is not from 0 to {MAX_WIDTH}")))
}

/// The parameter `params`, which is JSON as text.
fn raw_json(text: String) -> Result<Box<RawValue>, EngineError> {
    RawValue::from_string(text).map_err(|error| {
        invalid(format!("the parameter params is not valid JSON: {error}")).because(error)
    })
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
