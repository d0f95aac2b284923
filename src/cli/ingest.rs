//! `lambdalake ingest`: files to a stream, chunk by chunk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Deserialize;
use uuid::Uuid;

use super::args::{IngestArgs, IngestFormat};
use super::chunks::{self, Chunk, Input, LineChunks};
use super::client::{Answer, Client, Repeat};
use super::{ClientError, Exit};

/// Rejected lines printed one by one; the others are only counted.
const MAX_REPORTED_LINES: u64 = 100;

/// Sends the files in their order. Ends with [`Exit::BadInput`] if lines were rejected.
pub fn run(args: IngestArgs) -> anyhow::Result<Exit> {
    let mut sender = Sender::new(&args)?;
    let outcome = args.files.iter().try_for_each(|file| sender.file(file));
    sender.progress.finish_and_clear();
    println!("{}", sender.summary());
    outcome?;
    Ok(match sender.totals.rejected {
        0 => Exit::Ok,
        _ => Exit::BadInput,
    })
}

struct Sender<'a> {
    client: Client,
    args: &'a IngestArgs,
    progress: ProgressBar,
    /// Stored bytes read so far, over all files.
    done_bytes: u64,
    /// Makes the idempotency keys of this run unlike those of any other.
    run_id: Uuid,
    sent_chunks: u64,
    totals: Totals,
}

#[derive(Default)]
struct Totals {
    accepted: u64,
    rejected: u64,
    bytes: u64,
    reported: u64,
}

/// What the server answers to a request it has looked into.
#[derive(Debug, Deserialize)]
struct Ingested {
    #[serde(default)]
    accepted: u64,
    rejected: u64,
    #[serde(default)]
    errors: Vec<RejectedLine>,
}

#[derive(Debug, Deserialize)]
struct RejectedLine {
    line: Option<u64>,
    #[serde(default)]
    code: String,
    field: Option<String>,
    #[serde(default)]
    message: String,
}

impl<'a> Sender<'a> {
    fn new(args: &'a IngestArgs) -> anyhow::Result<Sender<'a>> {
        Ok(Sender {
            client: Client::new(&args.server.url),
            args,
            progress: progress_bar(total_bytes(&args.files)?),
            done_bytes: 0,
            run_id: Uuid::new_v4(),
            sent_chunks: 0,
            totals: Totals::default(),
        })
    }

    fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let name = match path == Path::new("-") {
            true => "stdin".to_owned(),
            false => path.display().to_string(),
        };
        let bad = |error: std::io::Error| ClientError::BadInput(format!("{name}: {error}"));
        self.progress.set_message(name.clone());

        let input = Input::open(path).map_err(bad)?;
        let (format, reader) =
            chunks::settle_format(self.args.format, input.reader).map_err(bad)?;
        if format == IngestFormat::Json {
            let chunk = chunks::whole(reader).map_err(bad)?;
            if !chunk.bytes.trim_ascii().is_empty() {
                self.chunk(&name, format, chunk, &input.read_bytes)?;
            }
        } else {
            for chunk in LineChunks::new(reader, self.args.batch_bytes) {
                self.chunk(&name, format, chunk.map_err(bad)?, &input.read_bytes)?;
            }
        }
        self.done_bytes += input.read_bytes.load(Ordering::Relaxed);
        Ok(())
    }

    fn chunk(
        &mut self,
        file: &str,
        format: IngestFormat,
        chunk: Chunk,
        read_bytes: &Arc<AtomicU64>,
    ) -> anyhow::Result<()> {
        let answer = self.send(format, &chunk.bytes)?;
        let rejected_all = answer.status == 400;
        let ingested = match serde_json::from_str::<Ingested>(&answer.text) {
            Ok(ingested) if answer.is_success() || rejected_all => ingested,
            _ if answer.is_success() => {
                return Err(ClientError::UnexpectedAnswer {
                    url: self.client.url(&[], &[]).to_string(),
                    reason: "it does not say how many events were rejected".to_owned(),
                }
                .into());
            }
            _ => return Err(refused(file, &chunk, answer).into()),
        };
        self.totals.accepted += ingested.accepted;
        self.totals.rejected += ingested.rejected;
        self.totals.bytes += chunk.bytes.len() as u64;
        for line in &ingested.errors {
            self.report(file, &chunk, line);
        }
        let read = self.done_bytes + read_bytes.load(Ordering::Relaxed);
        self.progress.set_position(read);
        Ok(())
    }

    fn send(&mut self, format: IngestFormat, body: &[u8]) -> Result<Answer, ClientError> {
        let value = format.to_possible_value();
        let format = value.as_ref().map_or("auto", |value| value.get_name());
        let url = self.client.url(
            &["api", "v1", "streams", &self.args.stream, "events"],
            &[("format", format)],
        );
        self.sent_chunks += 1;
        let key = format!("{}-{}", self.run_id, self.sent_chunks);
        let content_type = match format {
            "ndjson" => "application/x-ndjson",
            "json" => "application/json",
            _ => "text/plain",
        };
        let headers = [
            ("content-type", content_type),
            ("idempotency-key", key.as_str()),
        ];
        self.client
            .post(&url, &headers, body, Repeat::Harmless, &|wait: Duration| {
                let seconds = wait.as_secs_f32();
                self.progress.suspend(|| {
                    eprintln!("the server is busy, trying again in {seconds:.1} s");
                });
            })
    }

    fn report(&mut self, file: &str, chunk: &Chunk, rejected: &RejectedLine) {
        self.totals.reported += 1;
        if self.totals.reported > MAX_REPORTED_LINES {
            return;
        }
        let place = place(file, chunk, rejected.line);
        let field = rejected.field.as_deref();
        let field = field.map_or_else(String::new, |field| format!("field {field}: "));
        let RejectedLine { message, code, .. } = rejected;
        self.progress
            .suspend(|| eprintln!("{place}: {field}{message} [{code}]"));
    }

    fn summary(&self) -> String {
        let Totals {
            accepted,
            rejected,
            bytes,
            reported,
        } = self.totals;
        let elapsed = self.progress.elapsed();
        let per_second = (accepted as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        let not_shown = match rejected.saturating_sub(reported.min(MAX_REPORTED_LINES)) {
            0 => String::new(),
            more => format!(" ({} of them not shown)", HumanCount(more)),
        };
        format!(
            "{}: {} accepted, {} rejected{not_shown}, {} in {:.1} s, {} events/s",
            self.args.stream,
            HumanCount(accepted),
            HumanCount(rejected),
            HumanBytes(bytes),
            elapsed.as_secs_f64(),
            HumanCount(per_second),
        )
    }
}

/// The server would not look into the chunk at all: say where it began.
fn refused(file: &str, chunk: &Chunk, answer: Answer) -> ClientError {
    let line = answer.body["error"]["line"].as_u64();
    match answer.into_error() {
        ClientError::Refused {
            status,
            code,
            message,
        } => ClientError::Refused {
            status,
            code,
            message: format!("{}: {message}", place(file, chunk, line.or(Some(1)))),
        },
        other => other,
    }
}

/// The server counts lines from 1 in each request.
fn place(file: &str, chunk: &Chunk, line: Option<u64>) -> String {
    match line {
        Some(line) => format!("{file}:{}", chunk.first_line + line.saturating_sub(1)),
        None => file.to_owned(),
    }
}

/// Stored bytes of all files; none if stdin is among them. A file that is not there is an
/// error now, before anything has been sent.
fn total_bytes(files: &[PathBuf]) -> Result<Option<u64>, ClientError> {
    files.iter().try_fold(Some(0), |total, path| {
        if path == Path::new("-") {
            return Ok(None);
        }
        let metadata = std::fs::metadata(path)
            .map_err(|error| ClientError::BadInput(format!("{}: {error}", path.display())))?;
        Ok(total.map(|total| total + metadata.len()))
    })
}

fn progress_bar(total_bytes: Option<u64>) -> ProgressBar {
    // Drawn on stderr; hidden by itself when that is not a terminal.
    let (bar, template) = match total_bytes {
        Some(total) => (
            ProgressBar::new(total),
            "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {bytes} {bytes_per_sec} {msg}",
        ),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_of_the_file() {
        let chunk = Chunk {
            first_line: 101,
            bytes: Vec::new(),
        };
        assert_eq!(place("a.log", &chunk, Some(1)), "a.log:101");
        assert_eq!(place("a.log", &chunk, Some(5)), "a.log:105");
        assert_eq!(place("a.log", &chunk, None), "a.log");
    }

    #[test]
    fn every_format_has_a_name_for_the_server() {
        for format in IngestFormat::value_variants() {
            assert!(format.to_possible_value().is_some());
        }
    }
}
