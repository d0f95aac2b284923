//! `lambdalake recompute`: starts a batch run and follows it to its end.

use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::Value;

use super::args::RecomputeArgs;
use super::client::{Client, Payload, Repeat};
use super::{ClientError, Exit};

/// First wait between two looks at a run; grows to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What the server tells of a run. A field that is missing is not known yet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Run {
    status: String,
    rows_read: u64,
    rows_total: u64,
    duration_ms: u64,
    audit: Value,
    error: Value,
}

/// Ends with [`Exit::Other`] if a run failed.
pub fn run(args: RecomputeArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    let Some(view) = &args.view else {
        return all(&client, args.no_wait);
    };
    let run_id = start(&client, view)?;
    if args.no_wait {
        println!("{run_id}");
        return Ok(Exit::Ok);
    }
    let run = follow(&client, &run_id)?;
    Ok(print_result(view, &run_id, &run))
}

/// Recomputes every view, one after the other. One that fails does not keep the others from it.
fn all(client: &Client, no_wait: bool) -> anyhow::Result<Exit> {
    let answer = client.get(&client.url(&["api", "v1", "views"], &[]))?;
    let views = answer["views"].as_array().cloned().unwrap_or_default();
    let mut exit = Exit::Ok;
    for view in views.iter().filter_map(|view| view["name"].as_str()) {
        let outcome = start(client, view)
            .map_err(anyhow::Error::from)
            .and_then(|run_id| {
                if no_wait {
                    println!("{view} {run_id}");
                    return Ok(Exit::Ok);
                }
                let run = follow(client, &run_id)?;
                Ok(print_result(view, &run_id, &run))
            });
        match outcome {
            Ok(Exit::Ok) => {}
            Ok(_) => exit = Exit::Other,
            // Nobody will answer for the other views either.
            Err(error) if Exit::of(&error) == Exit::Unreachable => return Err(error),
            Err(error) => {
                eprintln!("error: {view}: {error}");
                exit = Exit::Other;
            }
        }
    }
    Ok(exit)
}

/// Starts a run and returns its id.
fn start(client: &Client, view: &str) -> Result<String, ClientError> {
    let url = client.url(&["api", "v1", "views", view, "recompute"], &[]);
    // A second try would find the run of the first in its way.
    let nothing = Payload::Bytes(b"");
    let answer = client.post(&url, &[], &nothing, Repeat::Harmful, &|_| {})?;
    let started = answer.into_json(&url)?;
    started["run_id"]
        .as_str()
        .map(str::to_owned)
        .or_else(|| started["run_id"].as_u64().map(|id| id.to_string()))
        .ok_or_else(|| ClientError::UnexpectedAnswer {
            url: url.to_string(),
            reason: "it names no run".to_owned(),
        })
}

/// Looks at the run until it is over. The server bounds how long that takes; a server that
/// is gone ends it too.
fn follow(client: &Client, run_id: &str) -> anyhow::Result<Run> {
    let url = client.url(&["api", "v1", "runs", run_id], &[]);
    let style = ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} rows {elapsed}");
    let progress = ProgressBar::new(0).with_style(style.unwrap_or(ProgressStyle::default_bar()));
    let mut wait = FIRST_WAIT;
    loop {
        let run: Run = serde_json::from_value(client.get(&url)?).map_err(|error| {
            ClientError::UnexpectedAnswer {
                url: url.to_string(),
                reason: error.to_string(),
            }
        })?;
        if !["queued", "pending", "running"].contains(&run.status.as_str()) {
            progress.finish_and_clear();
            return Ok(run);
        }
        progress.set_length(run.rows_total);
        progress.set_position(run.rows_read);
        std::thread::sleep(wait);
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

fn print_result(view: &str, run_id: &str, run: &Run) -> Exit {
    if run.status != "succeeded" {
        let reason = match readable(&run.error) {
            reason if reason.is_empty() => "the server gives no reason".to_owned(),
            reason => reason,
        };
        eprintln!("error: run {run_id} of {view} {}: {reason}", run.status);
        return Exit::Other;
    }
    let audit = match readable(&run.audit) {
        audit if audit.is_empty() => String::new(),
        audit => format!(", audit: {audit}"),
    };
    println!(
        "{view}: run {run_id} succeeded, {} rows in {:.1} s{audit}",
        HumanCount(run.rows_read),
        Duration::from_millis(run.duration_ms).as_secs_f64(),
    );
    Exit::Ok
}

/// The words in a value that may be a plain string or an object with a message.
fn readable(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => match fields.get("message") {
            Some(Value::String(text)) => text.clone(),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}
