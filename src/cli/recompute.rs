//! `lambdalake recompute`: starts a batch run and follows it to its end.

use std::time::Duration;

use indicatif::HumanCount;
use serde_json::Value;

use super::args::RecomputeArgs;
use super::client::{Client, Payload, Repeat};
use super::describe::catalog;
use super::follow::{Follower, Run};
use super::{ClientError, Exit};

/// Ends with [`Exit::Other`] if a run failed.
pub fn run(args: RecomputeArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    let follower = match args.no_wait {
        true => None,
        false => Some(Follower::begin(&client, &args.server.url)?),
    };
    let Some(view) = &args.view else {
        return all(&client, follower.as_ref());
    };
    let Some(follower) = follower else {
        println!("{}", start(&client, view, "recompute")?);
        return Ok(Exit::Ok);
    };
    let (run_id, run) = start_and_follow(&client, &follower, view, "recompute")?;
    Ok(print_result(view, &run_id, &run))
}

/// Recomputes every view, one after the other. One that fails does not keep the others from it.
fn all(client: &Client, follower: Option<&Follower<'_>>) -> anyhow::Result<Exit> {
    let answer = client.get(&client.url(&["api", "v1", "views"], &[]))?;
    let views = answer["views"].as_array().cloned().unwrap_or_default();
    let mut exit = Exit::Ok;
    for view in views.iter().filter_map(|view| view["name"].as_str()) {
        let outcome = match follower {
            None => start(client, view, "recompute").map(|run_id| {
                println!("{view} {run_id}");
                Exit::Ok
            }),
            Some(follower) => start_and_follow(client, follower, view, "recompute")
                .map(|(run_id, run)| print_result(view, &run_id, &run)),
        };
        match outcome.map_err(anyhow::Error::from) {
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

/// Starts a run and waits for its end. A run of the view that began earlier is let through.
pub(super) fn start_and_follow(
    client: &Client,
    follower: &Follower<'_>,
    view: &str,
    kind: &str,
) -> Result<(String, Run), ClientError> {
    let run_id = loop {
        match start(client, view, kind) {
            Err(ClientError::Refused(refusal)) if refusal.code == "already_running" => {}
            started => break started?,
        }
        let runs = catalog(client, "runs")?;
        let is_open = |run: &&Value| run["status"] == "running" || run["status"] == "queued";
        let open = runs.iter().filter(is_open).find(|run| run["view"] == view);
        // It may just have ended.
        if let Some(run_id) = open.and_then(|run| run["run_id"].as_str()) {
            follower.follow_to_start(view, run_id, Some(kind))?;
        }
    };
    let run = follower.follow(view, &run_id)?;
    Ok((run_id, run))
}

/// Starts a run of a view, `recompute` or `verify`, and returns its id.
pub(super) fn start(client: &Client, view: &str, kind: &str) -> Result<String, ClientError> {
    let url = client.url(&["api", "v1", "views", view, kind], &[]);
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

fn print_result(view: &str, run_id: &str, run: &Run) -> Exit {
    if run.status != "succeeded" {
        eprintln!("error: {}", failure(view, run_id, run));
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

/// Why a run did not succeed.
pub(super) fn failure(view: &str, run_id: &str, run: &Run) -> String {
    let reason = match readable(&run.error) {
        reason if reason.is_empty() => "the server gives no reason".to_owned(),
        reason => reason,
    };
    format!("run {run_id} of {view} {}: {reason}", run.status)
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
