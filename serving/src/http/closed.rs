//! What clients hear before the engine is open and while it closes: 503 and the reason.
//!
//! `GET /health/livez` answers 200 all the same: the process lives, and killing it would only
//! begin its replay anew.

use serde_json::json;
use tokio::net::TcpListener;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::server::{Connections, ServeError};
use super::{errors, json_response};
use crate::limits::Limits;

/// Why a node takes no traffic although its process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The data folder is being opened and the logs replayed.
    Starting,
    /// The node was told to stop.
    Stopping,
}

impl Closed {
    fn code(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Stopping => "shutting_down",
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Starting => "starting: the data folder is being opened and its logs replayed",
            Self::Stopping => "shutting down: requests that are open may end, no new ones begin",
        }
    }

    fn answer(self) -> Response {
        let (code, reason) = (self.code(), self.reason());
        let body = json!({
            "ready": false,
            "details": {"status": code, "reason": reason},
            "error": {"code": code, "message": reason},
        });
        let mut response = json_response(StatusCode::SERVICE_UNAVAILABLE, &body);
        errors::retry_later(&mut response);
        response
    }
}

/// Refuses every request until `work` is done, and returns what it made.
pub async fn refuse_during<T>(
    listener: &TcpListener,
    why: Closed,
    limits: &Limits,
    work: impl Future<Output = T>,
) -> Result<T, ServeError> {
    let mut connections = Connections::new(limits);
    let made = connections.accept(listener, routes(why), work).await?;
    // Kept-alive connections must go over to the real service: they end after their answer.
    connections.drain().await;
    Ok(made)
}

fn routes(why: Closed) -> BoxedFilter<(Response,)> {
    warp::path!("health" / "livez")
        .map(|| json_response(StatusCode::OK, &json!({"status": "ok"})))
        .or(warp::any().map(move || why.answer()))
        .unify()
        .boxed()
}
