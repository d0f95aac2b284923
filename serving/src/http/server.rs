//! The accept loop: connections in, bounded in number, time and size; out gracefully.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use warp::filters::BoxedFilter;
use warp::reply::Response;

use super::closed::{Closed, refuse_during};
use super::{App, routes};
use crate::engine::Engine;
use crate::limits::Limits;

/// Pause after an accept that failed, which is mostly "too many open files": trying again at
/// once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a server ended other than by its shutdown signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection gate closed: a bug.
    #[error("the server cannot count its connections any more")]
    Gate(#[from] tokio::sync::AcquireError),
}

/// Serves until `shutdown` completes; then lets open requests end for `limits.shutdown_grace`
/// while new ones are told that the node stops, and breaks what is left.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<dyn Engine>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let mut connections = Connections::new(&limits);
    let app = App::new(engine, limits.clone());
    let routes = routes(Arc::clone(&app));
    connections.accept(&listener, routes, shutdown).await?;
    // They would take all of the grace time.
    app.run_events.stop();
    refuse_during(&listener, Closed::Stopping, &limits, connections.drain()).await
}

/// The connections of one service. Dropping it, in whichever way, ends them.
pub(super) struct Connections {
    gate: Arc<Semaphore>,
    graceful: GracefulShutdown,
    open: JoinSet<()>,
    builder: http1::Builder,
    grace: Duration,
}

impl Connections {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes.max(8_192))
            .max_headers(limits.max_headers);
        Self {
            gate: Arc::new(Semaphore::new(limits.max_connections)),
            graceful: GracefulShutdown::new(),
            open: JoinSet::new(),
            builder,
            grace: limits.shutdown_grace,
        }
    }

    /// Takes connections until `until` is ready, and returns what it made.
    pub(super) async fn accept<T>(
        &mut self,
        listener: &TcpListener,
        routes: BoxedFilter<(Response,)>,
        until: impl Future<Output = T>,
    ) -> Result<T, ServeError> {
        let service = TowerToHyperService::new(warp::service(routes));
        let mut until = std::pin::pin!(until);
        loop {
            // The gate first: a connection that cannot be served yet stays in the kernel's backlog.
            let permit = tokio::select! {
                biased;
                made = &mut until => return Ok(made),
                permit = Arc::clone(&self.gate).acquire_owned() => permit?,
            };
            let accepted = tokio::select! {
                biased;
                made = &mut until => return Ok(made),
                accepted = listener.accept() => accepted,
            };
            let stream: TcpStream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Answers are written in whole pieces; waiting to fill packets only delays small ones.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection closed before it began");
                continue;
            }
            let io = TokioIo::new(stream);
            let connection = self.builder.serve_connection(io, service.clone());
            let connection = self.graceful.watch(connection);
            self.open.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection broke");
                }
                drop(permit);
            });
            while self.open.try_join_next().is_some() {}
        }
    }

    /// Lets open requests end within the grace time and breaks what is left.
    pub(super) async fn drain(self) {
        if timeout(self.grace, self.graceful.shutdown()).await.is_err() {
            let open = self.open.len();
            tracing::warn!(open, "connections are still open: breaking them");
        }
    }
}
