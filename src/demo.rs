//! `lambdalake demo`: the whole engine on a fresh folder, explained as it goes.
//!
//! It does what a user would do, over HTTP: makes a stream and four views, streams a part of
//! an access log in, recomputes, streams the rest, and then shows for one view what came
//! from batch, what from speed, what they make together, and that every view equals the same
//! SQL run from scratch over all events. It fails if one does not.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use lambdalake_data::{Clock, SystemClock};
use serde_json::{Value, json};
use url::Url;

use crate::cli::args::DemoArgs;
use crate::cli::chunks::LineChunks;
use crate::cli::client::{Client, Payload, Repeat};
use crate::cli::input::Input;
use crate::engine::Engine;
use crate::generate::AccessLog;
use crate::logging;
use crate::serve::{io_runtime, serve_engine, stop_signal};
use crate::settings::{Settings, SettingsFlags};

/// Bytes of one request; small, so that the log shows many of them.
const CHUNK_BYTES: usize = 512 << 10;

/// The made-up log is the same in every demo.
const SEED: u64 = 7;

const TABLE: &str = "CREATE TABLE access_log (ts TIMESTAMP, client_ip TEXT, ident TEXT, \
    auth_user TEXT, request TEXT, method TEXT, path TEXT, protocol TEXT, status BIGINT, \
    bytes BIGINT, referer TEXT, user_agent TEXT) WITH (event_time = 'ts')";

/// Name and definition of each view, ordered by their first column for comparison.
const VIEWS: [(&str, &str); 4] = [
    (
        "requests_by_status",
        "SELECT status, count(*) AS requests, sum(bytes) AS bytes FROM access_log GROUP BY status",
    ),
    (
        "visitors_by_hour",
        "SELECT date_trunc('hour', ts) AS hour, count(*) AS requests, \
         count(DISTINCT client_ip) AS visitors FROM access_log GROUP BY date_trunc('hour', ts)",
    ),
    (
        "paths",
        "SELECT path, count(*) AS requests, count(*) FILTER (WHERE status >= 400) AS errors, \
         max(bytes) AS largest FROM access_log GROUP BY path",
    ),
    (
        "totals",
        "SELECT count(*) AS requests, sum(bytes) AS bytes, avg(bytes) AS mean_bytes, \
         min(ts) AS first, max(ts) AS last FROM access_log",
    ),
];

/// Runs the demo.
pub fn run(args: DemoArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder for the demo")?;
    let mut settings = Settings::resolve(SettingsFlags::default(), None)?;
    settings.data_dir = folder.path().to_path_buf();
    settings.listen = args.listen;
    logging::start(settings.log_format, &settings.log_level)?;
    let engine = Engine::open(settings.clone())?;
    let runtime = io_runtime()?;
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind(args.listen))
        .with_context(|| format!("listen on {} (choose another with --listen)", args.listen))?;
    let address = listener.local_addr()?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = {
        let engine = Arc::clone(&engine);
        runtime.spawn(async move {
            let told = async {
                // Told to stop or the demo is gone: the same.
                drop(stopped.await);
            };
            serve_engine(&engine, &settings, listener, told).await
        })
    };
    println!("Lambdalake demo: an engine on a fresh folder, serving http://{address}\n");
    let shown = Demo::new(address)?.show(&args);
    if shown.is_ok() && !args.once {
        println!("\nServing until Ctrl-C; the folder goes with the demo.");
        runtime.block_on(stop_signal());
    }
    // The server may have failed and gone already; its own result tells.
    let told = stop.send(());
    let served = runtime.block_on(server)?;
    engine.shut_down();
    shown?;
    served?;
    told.map_err(|()| anyhow::anyhow!("the demo's server ended early"))
}

/// A running demo, as its client sees it.
struct Demo {
    client: Client,
    base: Url,
    clock: SystemClock,
}

impl Demo {
    fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let base = Url::parse(&format!("http://{address}"))?;
        Ok(Self {
            client: Client::new(&base),
            base,
            clock: SystemClock::default(),
        })
    }

    fn show(&self, args: &DemoArgs) -> anyhow::Result<()> {
        println!("1. One stream and four views, each defined once, in SQL:");
        self.sql(TABLE, "merged")?;
        for (name, select) in VIEWS {
            self.sql(
                &format!("CREATE MATERIALIZED VIEW {name} AS {select}"),
                "merged",
            )?;
            println!("     {name:<20} {select}");
        }
        let total = input_bytes(args)?;
        let mut chunks = LineChunks::new(open(args)?, CHUNK_BYTES);
        println!("\n2. Streaming the first 60% of the log over HTTP ...");
        let first = self.stream(&mut chunks, Some(total * 6 / 10))?;
        println!("\n3. Recomputing the views from the master dataset (the batch layer) ...");
        for (name, _) in VIEWS {
            let answer = self.sql(&format!("REFRESH MATERIALIZED VIEW {name}"), "merged")?;
            let run = &answer["data"][0];
            println!(
                "     {name:<20} {} events in {} ms, audit against the speed layer: {}",
                run["rows_read"],
                run["duration_ms"],
                run["audit"].as_str().unwrap_or("?")
            );
        }
        println!("\n4. Streaming the rest; the speed layer covers it, nothing is recomputed ...");
        let second = self.stream(&mut chunks, None)?;
        self.show_layers()?;
        self.check_views(first + second)?;
        self.show_next_steps();
        Ok(())
    }

    /// Posts chunks until `limit` bytes are sent, or all. Returns the accepted events.
    fn stream<R: Read>(
        &self,
        chunks: &mut LineChunks<R>,
        limit: Option<u64>,
    ) -> anyhow::Result<u64> {
        let started = self.clock.monotonic();
        let (mut sent, mut accepted, mut rejected) = (0, 0, 0);
        while limit.is_none_or(|limit| sent < limit) {
            let Some(chunk) = chunks.next() else { break };
            let chunk = chunk?;
            sent += chunk.bytes.len() as u64;
            let url = self
                .client
                .url(&["api", "v1", "streams", "access_log", "events"], &[]);
            let answer = self
                .client
                .post(
                    &url,
                    &[],
                    &Payload::Bytes(&chunk.bytes),
                    Repeat::Harmful,
                    &|_| {},
                )?
                .into_json(&url)?;
            accepted += answer["accepted"].as_u64().unwrap_or(0);
            rejected += answer["rejected"].as_u64().unwrap_or(0);
            if let Some(error) = answer["errors"].get(0) {
                let line = chunk.first_line + error["line"].as_u64().unwrap_or(1) - 1;
                let message = error["message"].as_str().unwrap_or_default();
                let reason = message
                    .split_once(", ")
                    .map_or(message, |(_, reason)| reason);
                println!("     line {line} of the log was rejected: {reason}");
            }
        }
        let seconds = (self.clock.monotonic() - started).as_secs_f64().max(1e-9);
        println!(
            "     {accepted} events accepted, {rejected} rejected, each on disk before its answer \
             ({:.0} events/s)",
            accepted as f64 / seconds
        );
        Ok(accepted)
    }

    fn show_layers(&self) -> anyhow::Result<()> {
        println!("\n5. SELECT status, requests FROM requests_by_status, layer by layer:\n");
        let of = |layer| self.counts("SELECT status, requests FROM requests_by_status", layer);
        let (batch, speed, merged) = (of("batch")?, of("speed")?, of("merged")?);
        let scratch = self.counts(
            "SELECT status, count(*) AS requests FROM access_log GROUP BY status",
            "merged",
        )?;
        println!("     status      batch +     speed =    merged    from scratch");
        for (status, merged) in &merged {
            let value = |rows: &[(String, u64)]| {
                rows.iter()
                    .find(|(key, _)| key == status)
                    .map_or(0, |(_, count)| *count)
            };
            let (batch, speed, scratch) = (value(&batch), value(&speed), value(&scratch));
            println!("     {status:<7} {batch:>9} {speed:>11} {merged:>11} {scratch:>15}");
            ensure!(
                batch + speed == *merged && *merged == scratch,
                "status {status}: batch {batch} + speed {speed}, merged {merged}, from scratch \
                 {scratch} do not agree"
            );
        }
        ensure!(
            merged.len() == scratch.len(),
            "the view has other keys than the stream"
        );
        Ok(())
    }

    fn counts(&self, query: &str, layer: &str) -> anyhow::Result<Vec<(String, u64)>> {
        let answer = self.sql(&format!("{query} ORDER BY 1"), layer)?;
        let rows = answer["data"]
            .as_array()
            .context("an answer without data")?;
        Ok(rows
            .iter()
            .map(|row| {
                (
                    row["status"].to_string(),
                    row["requests"].as_u64().unwrap_or(0),
                )
            })
            .collect())
    }

    fn check_views(&self, accepted: u64) -> anyhow::Result<()> {
        println!("\n6. Every view against the same SQL run from scratch over all events:\n");
        for (name, select) in VIEWS {
            let view = self.sql(&format!("SELECT * FROM {name} ORDER BY 1"), "merged")?;
            let scratch = self.sql(&format!("SELECT * FROM ({select}) ORDER BY 1"), "merged")?;
            ensure!(
                view["data"] == scratch["data"],
                "view {name} differs from its own SQL"
            );
            let stats = &view["stats"];
            println!(
                "     {name:<20} {:>6} rows, equal; {} events from batch, {} from speed, {} ms \
                 (from scratch {} ms)",
                view["rows"],
                stats["from_batch"],
                stats["from_speed"],
                stats["elapsed_ms"],
                scratch["stats"]["elapsed_ms"]
            );
        }
        let totals = self.sql("SELECT requests FROM totals", "merged")?;
        let counted = totals["data"][0]["requests"].as_u64();
        ensure!(
            counted == Some(accepted),
            "{accepted} accepted, but the view counts {counted:?}"
        );
        println!("\n     {accepted} events were accepted, and the views count {accepted}: exact.");
        Ok(())
    }

    fn show_next_steps(&self) {
        let base = self.base.as_str().trim_end_matches('/');
        println!("\nTry next:\n");
        println!("  curl '{base}/api/v1/sql?format=table' -d 'SELECT * FROM requests_by_status'");
        println!(
            "  curl '{base}/api/v1/sql?format=table' -d 'SELECT * FROM paths ORDER BY requests DESC LIMIT 5'"
        );
        println!("  curl '{base}/api/v1/sql?format=table' -d 'EXPLAIN SELECT * FROM totals'");
        println!("  lambdalake generate access-log --events 1000 --seed 8 \\");
        println!(
            "    | curl '{base}/api/v1/streams/access_log/events?format=combined' --data-binary @-"
        );
        println!("  curl -X POST {base}/api/v1/views/totals/recompute");
        println!("  curl {base}/api/v1/views/totals");
    }

    fn sql(&self, query: &str, layer: &str) -> anyhow::Result<Value> {
        let url = self
            .client
            .url(&["api", "v1", "sql"], &[("format", "json")]);
        let body = serde_json::to_vec(&json!({"query": query, "layer": layer}))?;
        let headers = [("content-type", "application/json")];
        let answer = self.client.post(
            &url,
            &headers,
            &Payload::Bytes(&body),
            Repeat::Harmful,
            &|_| {},
        )?;
        answer.into_json(&url).with_context(|| query.to_owned())
    }
}

/// The log to stream: the given file, or made-up lines.
fn open(args: &DemoArgs) -> anyhow::Result<Box<dyn Read>> {
    match &args.input {
        Some(path) => {
            let input = Input::open(path).with_context(|| format!("open {}", path.display()))?;
            Ok(input.reader)
        }
        None => {
            let lines = AccessLog::new(SEED).take(args.events as usize);
            Ok(Box::new(Lines {
                lines: lines.map(|event| event.combined() + "\n"),
                line: Vec::new(),
            }))
        }
    }
}

/// How long the log is, decompressed; it is read once for this.
fn input_bytes(args: &DemoArgs) -> anyhow::Result<u64> {
    Ok(std::io::copy(&mut open(args)?, &mut std::io::sink())?)
}

/// Lines as a reader, made when read.
struct Lines<I> {
    lines: I,
    line: Vec<u8>,
}

impl<I: Iterator<Item = String>> Read for Lines<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.line.is_empty()
            && let Some(line) = self.lines.next()
        {
            self.line = line.into_bytes();
        }
        let length = self.line.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.line[..length]);
        self.line.drain(..length);
        Ok(length)
    }
}
