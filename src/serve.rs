//! Opens the engine on its data folder and serves it over HTTP until told to stop.

use std::sync::Arc;

use anyhow::Context;
use clap::CommandFactory;
use lambdalake_serving::Limits;
use lambdalake_serving::http::closed::{Closed, refuse_during};
use lambdalake_serving::statement::Statement;
use lambdalake_views::PLANNING_STACK_BYTES;

use crate::cli::args::Cli;
use crate::engine::{Engine, Port};
use crate::logging;
use crate::settings::{Settings, environment};

/// Runs the engine until SIGINT or SIGTERM.
///
/// The port is taken first: while the engine opens its folder and replays its logs, clients
/// get 503 and the reason instead of a refused connection.
pub fn run(settings: Settings) -> anyhow::Result<()> {
    logging::start(settings.log_format, &settings.log_level)?;
    let variables = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for message in environment::unknown_variables(&Cli::command(), variables) {
        tracing::warn!("{message}");
    }
    let init = read_init(&settings)?;
    let limits = limits(&settings);
    let runtime = io_runtime()?;
    let listen = settings.listen;
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(listen))
        .with_context(|| format!("listen on {listen}"))?;
    let opening = {
        let settings = settings.clone();
        runtime.spawn_blocking(move || Engine::open(settings))
    };
    let opened = refuse_during(&listener, Closed::Starting, &limits, async {
        let engine = opening.await.context("the engine's start panicked")??;
        let done = run_init(&engine, init).await;
        anyhow::Ok((engine, done))
    });
    let (engine, done) = runtime.block_on(opened)??;
    let result = done.and_then(|()| {
        runtime.block_on(async {
            tracing::info!("listening on http://{}", listener.local_addr()?);
            serve_engine(&engine, &settings, listener, stop_signal()).await
        })
    });
    drop(runtime);
    engine.shut_down();
    result
}

/// The runtime for HTTP: I/O only, so one thread is plenty beside the engine's own.
pub fn io_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(PLANNING_STACK_BYTES)
        .thread_name("http")
        .enable_all()
        .build()
        .context("start the HTTP runtime")
}

/// Serves until `shutdown` is ready, then lets running requests finish within a grace time.
pub async fn serve_engine(
    engine: &Arc<Engine>,
    settings: &Settings,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let limits = limits(settings);
    let port = Arc::new(Port(Arc::clone(engine)));
    lambdalake_serving::serve(listener, port, limits, shutdown).await?;
    Ok(())
}

/// The bounds of the HTTP surface, as set.
fn limits(settings: &Settings) -> Limits {
    let limits = Limits {
        body_bytes: settings.max_body_bytes,
        // One record more than a block, as a block ends with the record that fills it.
        body_buffer_bytes: settings
            .ingest_block_bytes
            .saturating_add(settings.max_line_bytes),
        default_query_timeout: settings.query_timeout,
        max_result_rows: settings.max_result_rows,
        max_concurrent_queries: settings.max_concurrent_queries,
        slow_query: settings.slow_query,
        ..Limits::default()
    };
    Limits {
        body_bytes_in_flight: limits.body_bytes_in_flight.max(limits.body_buffer_bytes),
        max_query_timeout: limits.max_query_timeout.max(limits.default_query_timeout),
        ..limits
    }
}

/// Ready at SIGINT or SIGTERM.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        result = tokio::signal::ctrl_c() => if let Err(error) = result {
            tracing::warn!(%error, "cannot listen for SIGINT");
        },
        () = terminate => {}
    }
    tracing::info!("stopping");
}

/// The statements of `--init`, split at semicolons by the SQL tokenizer.
fn read_init(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let Some(path) = &settings.init else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    lambdalake_serving::statement::split(&text)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

/// Runs DDL at start. What exists already stays as it is, so the file may stay in place (an
/// ADD COLUMN says IF NOT EXISTS for that).
async fn run_init(engine: &Arc<Engine>, statements: Vec<String>) -> anyhow::Result<()> {
    use lambdalake_serving::Engine as _;
    let port = Port(Arc::clone(engine));
    for text in statements {
        let parsed = Statement::parse(&text);
        let done = match parsed.map_err(|e| anyhow::anyhow!("--init: {e}: {text}"))? {
            Statement::CreateStream(mut spec) => {
                spec.if_not_exists = true;
                port.create_stream(spec).await
            }
            Statement::CreateView(mut spec) => {
                spec.if_not_exists = true;
                port.create_view(spec).await
            }
            Statement::AlterStream(spec) => port.alter_stream(spec).await,
            _ => anyhow::bail!("--init takes CREATE and ALTER statements only, not: {text}"),
        };
        match done {
            // The other streams go on, and so does the script.
            Err(error) if error.code == "stream_damaged" => {
                tracing::error!(statement = text, %error, "--init: not carried out");
            }
            done => done.map_err(|error| anyhow::anyhow!("--init: {error}: {text}"))?,
        }
    }
    Ok(())
}
