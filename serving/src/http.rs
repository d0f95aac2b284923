//! The HTTP surface, version 1: which path and method does what.
//!
//! warp only tells paths apart. Everything after that is a value: a handler returns a response
//! or a [`errors::Failure`], and one function (`errors::Failure::into_response`) writes it. So
//! unknown paths, wrong methods and engine errors all have the same JSON shape.

mod answer;
mod catalog;
pub mod closed;
mod errors;
mod ingest;
mod negotiate;
mod openapi;
mod queries;
mod query_record;
mod request;
mod run_events;
pub mod server;
mod sql;
mod trace;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::Instrument;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use self::errors::Failure;
use self::queries::Queries;
use self::request::Request;
use self::run_events::RunEvents;
use self::trace::{Names, Trace};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::limits::Limits;

/// Characters of the longest name of a stream or view; ids are shorter.
const MAX_NAME_CHARS: usize = 128;

/// What all requests of one server share.
struct App {
    engine: Arc<dyn Engine>,
    limits: Limits,
    queries: Queries,
    /// Permits are KiB of ingest bodies held. A semaphore, because a permit goes back by itself
    /// when its request is dropped.
    body_kib: Arc<Semaphore>,
    run_events: RunEvents,
    ids: Ids,
}

impl App {
    fn new(engine: Arc<dyn Engine>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            engine,
            queries: Queries::new(limits.max_concurrent_queries),
            body_kib: Arc::new(Semaphore::new(limits.body_bytes_in_flight / 1024)),
            run_events: RunEvents::new(&limits),
            ids: Ids::new(),
            limits,
        })
    }
}

/// Names of requests and queries: a prefix of this process and a counter.
struct Ids {
    prefix: u32,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        // The hasher's seed is all the randomness needed: it only tells two processes apart.
        let seed = RandomState::new().hash_one("lambdalake");
        Self {
            prefix: (seed >> 32) as u32,
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> String {
        format!(
            "{:08x}-{}",
            self.prefix,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }
}

/// A known path, with the names in it.
#[derive(Debug, Clone)]
enum Route {
    Unknown,
    Streams,
    Stream(String),
    Events(String),
    Sql,
    Queries,
    Query(String),
    Views,
    View(String),
    Recompute(String),
    Verify(String),
    Runs,
    Run(String),
    RunEvents(String),
    Live,
    Ready,
    Health,
    Metrics,
    OpenApi,
}

impl Route {
    /// The methods of this path, as the `Allow` header lists them.
    fn allow(&self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Events(_) => "HEAD, POST",
            Self::Sql => "GET, POST",
            Self::Query(_) => "DELETE",
            Self::Recompute(_) | Self::Verify(_) => "POST",
            Self::Run(_) => "DELETE, GET, HEAD",
            _ => "GET, HEAD",
        }
    }

    /// The path with its names left out, as a label of metrics and in logs.
    fn template(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Streams => "/api/v1/streams",
            Self::Stream(_) => "/api/v1/streams/{stream}",
            Self::Events(_) => "/api/v1/streams/{stream}/events",
            Self::Sql => "/api/v1/sql",
            Self::Queries => "/api/v1/queries",
            Self::Query(_) => "/api/v1/queries/{id}",
            Self::Views => "/api/v1/views",
            Self::View(_) => "/api/v1/views/{view}",
            Self::Recompute(_) => "/api/v1/views/{view}/recompute",
            Self::Verify(_) => "/api/v1/views/{view}/verify",
            Self::Runs => "/api/v1/runs",
            Self::Run(_) => "/api/v1/runs/{id}",
            Self::RunEvents(_) => "/api/v1/runs/{id}/events",
            Self::Live => "/health/livez",
            Self::Ready => "/health/readyz",
            Self::Health => "/health",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
        }
    }

    /// The name in the path.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Stream(name)
            | Self::Events(name)
            | Self::Query(name)
            | Self::View(name)
            | Self::Recompute(name)
            | Self::Verify(name)
            | Self::Run(name)
            | Self::RunEvents(name) => Some(name),
            _ => None,
        }
    }

    fn allows(&self, method: &Method) -> bool {
        self.allow()
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }
}

/// All routes as one filter, which never rejects.
fn routes(app: Arc<App>) -> BoxedFilter<(Response,)> {
    use warp::path;
    let streams = path!("api" / "v1" / "streams")
        .map(|| Route::Streams)
        .or(path!("api" / "v1" / "streams" / String).map(|name| Route::Stream(decoded(name))))
        .unify()
        .or(path!("api" / "v1" / "streams" / String / "events")
            .map(|name| Route::Events(decoded(name))))
        .unify()
        .boxed();
    let sql = path!("api" / "v1" / "sql")
        .map(|| Route::Sql)
        .or(path!("api" / "v1" / "queries").map(|| Route::Queries))
        .unify()
        .or(path!("api" / "v1" / "queries" / String).map(|id| Route::Query(decoded(id))))
        .unify()
        .boxed();
    let views = path!("api" / "v1" / "views")
        .map(|| Route::Views)
        .or(path!("api" / "v1" / "views" / String).map(|name| Route::View(decoded(name))))
        .unify()
        .or(path!("api" / "v1" / "views" / String / "recompute")
            .map(|name| Route::Recompute(decoded(name))))
        .unify()
        .or(path!("api" / "v1" / "views" / String / "verify")
            .map(|name| Route::Verify(decoded(name))))
        .unify()
        .or(path!("api" / "v1" / "runs").map(|| Route::Runs))
        .unify()
        .or(path!("api" / "v1" / "runs" / String).map(|id| Route::Run(decoded(id))))
        .unify()
        .or(path!("api" / "v1" / "runs" / String / "events")
            .map(|id| Route::RunEvents(decoded(id))))
        .unify()
        .boxed();
    let health = path!("health" / "livez")
        .map(|| Route::Live)
        .or(path!("health" / "readyz").map(|| Route::Ready))
        .unify()
        .or(path!("health").map(|| Route::Health))
        .unify()
        .or(path!("metrics").map(|| Route::Metrics))
        .unify()
        .or(path!("openapi.json").map(|| Route::OpenApi))
        .unify()
        .boxed();
    streams
        .or(sql)
        .unify()
        .or(views)
        .unify()
        .or(health)
        .unify()
        .or(warp::any().map(|| Route::Unknown))
        .unify()
        .and(request::parts())
        .then(move |route, request| answer(Arc::clone(&app), route, request))
        .boxed()
}

/// A path segment without its percent signs. Names are ASCII, so what is not UTF-8 names nothing.
/// Nor does what is longer than any name: it is cut, as errors and logs repeat it.
fn decoded(segment: String) -> String {
    let name = percent_decode_str(&segment).decode_utf8_lossy();
    match name.char_indices().nth(MAX_NAME_CHARS) {
        // The dots keep the cut name from naming something.
        Some((end, _)) => format!("{}...", &name[..end]),
        None => name.into_owned(),
    }
}

async fn answer(app: Arc<App>, route: Route, request: Request) -> Response {
    let names = Names::new(&request.headers, app.ids.next());
    let trace = Trace::begin(&app, &route, &request.method, &names);
    let span = trace.span();
    let is_sql = matches!(route, Route::Sql);
    let rest = request.rest();
    let work = async move {
        let response = match dispatch(&app, route, request, &names).await {
            Ok(response) => response,
            Err(failure) => {
                trace.failed(&failure);
                failure.into_response(&names.query_id, is_sql)
            }
        };
        rest.drain().await;
        trace.end(response)
    };
    work.instrument(span).await
}

async fn dispatch(
    app: &Arc<App>,
    route: Route,
    request: Request,
    names: &Names,
) -> Result<Response, Failure> {
    if let Route::Unknown = route {
        return Err(
            EngineError::not_found("unknown_route", "there is nothing at this path").into(),
        );
    }
    if !route.allows(&request.method) {
        let allow = route.allow();
        let message = format!("this path takes {allow}, not {}", request.method);
        return Err(Failure::MethodNotAllowed { allow, message });
    }
    match route {
        Route::Events(_) if request.method == Method::HEAD => Ok(Response::default()),
        Route::Events(stream) => ingest::events(app, stream, request, &names.request_id).await,
        Route::Sql => sql::sql(app, request, names).await,
        Route::RunEvents(id) => {
            request.params()?.finish()?;
            Ok(run_events::events(app, id, &request.method)?)
        }
        other => {
            request.params()?.finish()?;
            let coding = negotiate::coding(&request.headers)?;
            let answer = resource(app, other, &request.method).await?;
            Ok(answer::coded(answer, coding).await?)
        }
    }
}

/// What is said of a run that was asked for.
fn started(run_id: String) -> Response {
    json_response(StatusCode::ACCEPTED, &json!({"run_id": run_id}))
}

/// The routes that take no parameters and answer with JSON of the current state.
async fn resource(app: &App, route: Route, method: &Method) -> Result<Response, Failure> {
    let engine = &app.engine;
    let body = match route {
        Route::Streams => json!({"streams": engine.streams()}),
        Route::Stream(name) => found(engine.stream(&name), "unknown_stream", "stream", &name)?,
        Route::Views => json!({"views": engine.views()}),
        Route::View(name) => found(engine.view(&name), "unknown_view", "view", &name)?,
        Route::Recompute(view) => return Ok(started(engine.recompute(&view).await?)),
        Route::Verify(view) => return Ok(started(engine.verify_view(&view).await?)),
        Route::Runs => json!({"runs": engine.runs()}),
        Route::Run(id) if method == Method::DELETE => {
            engine.cancel_run(&id).await?;
            // It ends when its threads have seen that it should.
            let body = json!({"run_id": id, "cancelled": true});
            return Ok(json_response(StatusCode::ACCEPTED, &body));
        }
        Route::Run(id) => found(engine.run(&id), "unknown_run", "run", &id)?,
        Route::Queries => json!({"queries": app.queries.list()}),
        Route::Query(id) => {
            app.queries.cancel(&id)?;
            json!({"query_id": id, "cancelled": true})
        }
        Route::Live => json!({"status": "ok"}),
        Route::Ready | Route::Health => return Ok(health(app)),
        Route::Metrics => return Ok(metrics(app).await?),
        Route::OpenApi => return Ok(openapi::description()),
        Route::Unknown | Route::Events(_) | Route::RunEvents(_) | Route::Sql => {
            return Err(EngineError::internal("a route without a handler").into());
        }
    };
    Ok(json_response(StatusCode::OK, &body))
}

/// Prometheus text. Reading the state takes locks and walks every stream: not on the I/O threads.
async fn metrics(app: &App) -> Result<Response, EngineError> {
    let engine = Arc::clone(&app.engine);
    let text = tokio::task::spawn_blocking(move || engine.metrics_text())
        .await
        .map_err(|error| EngineError::internal("the metrics could not be read").because(error))?;
    let mut response = Response::new(text.into());
    let plain = warp::http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response
        .headers_mut()
        .insert(warp::http::header::CONTENT_TYPE, plain);
    Ok(response)
}

fn health(app: &App) -> Response {
    let health = app.engine.health();
    let mut body = json!({"ready": health.ready, "details": health.details});
    if health.ready {
        return json_response(StatusCode::OK, &body);
    }
    body["error"] = json!({"code": "not_ready", "message": "this node takes no traffic now"});
    let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
    errors::retry_later(&mut response);
    response
}

fn found(
    value: Option<Value>,
    code: &'static str,
    what: &str,
    name: &str,
) -> Result<Value, EngineError> {
    value.ok_or_else(|| EngineError::not_found(code, format!("there is no {what} {name:?}")))
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(body.to_string().into());
    *response.status_mut() = status;
    let json = warp::http::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(warp::http::header::CONTENT_TYPE, json);
    response
}
