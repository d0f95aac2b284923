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

/// Serves until `shutdown` completes; then takes no more connections, lets open requests end
/// for `limits.shutdown_grace` and breaks what is left.
pub async fn serve(
    listener: TcpListener,
    engine: Arc<dyn Engine>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let gate = Arc::new(Semaphore::new(limits.max_connections));
    let service = TowerToHyperService::new(warp::service(routes(App::new(engine, limits.clone()))));
    let graceful = GracefulShutdown::new();
    // Holds the connections: dropping it, in whichever way this function ends, ends them.
    let mut connections = JoinSet::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes.max(8_192))
        .max_headers(limits.max_headers);

    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // The gate first: a connection that cannot be served yet stays in the kernel's backlog.
        let permit = tokio::select! {
            biased;
            () = &mut shutdown => break,
            permit = Arc::clone(&gate).acquire_owned() => permit?,
        };
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
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
        let connection = builder.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(permit);
        });
        while connections.try_join_next().is_some() {}
    }

    drop(listener);
    if timeout(limits.shutdown_grace, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(
            open = connections.len(),
            "connections are still open: breaking them"
        );
    }
    Ok(())
}
