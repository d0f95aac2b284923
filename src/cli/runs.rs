//! `lambdalake runs`: what recomputes did and do, and how to end one.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::MultiProgress;
use serde_json::Value;

use super::args::RunsArgs;
use super::client::Client;
use super::follow::{RunBar, follow as follow_run};
use super::{ClientError, Exit, table};

/// Columns in their order; one that no run has a value for is left out.
const COLUMNS: &[&str] = &[
    "run_id",
    "view",
    "status",
    "started_by",
    "started_at",
    "duration_ms",
    "phase",
    "eta_ms",
    "rows_read",
    "audit",
    "version",
    "error",
];

/// Pause between two looks at the runs.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Shows runs, follows them, or cancels one.
pub fn run(args: RunsArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    if let Some(run_id) = &args.cancel {
        let url = client.url(&["api", "v1", "runs", run_id], &[]);
        client.delete(&url)?.into_json(&url)?;
        println!("run {run_id} is cancelled");
        return Ok(Exit::Ok);
    }
    let runs = wanted(&client, &args)?;
    if args.json {
        runs.iter().rev().for_each(|run| println!("{run}"));
    } else if runs.is_empty() {
        println!("no runs");
    } else {
        table::lines(&runs, COLUMNS)
            .iter()
            .for_each(|line| println!("{line}"));
    }
    if args.follow {
        follow(&client, &args, &runs)?;
    }
    Ok(Exit::Ok)
}

/// A line for each run that begins or ends from now on, and on a terminal a bar for each that runs;
/// until interrupted, or an error.
fn follow(client: &Client, args: &RunsArgs, seen: &[Value]) -> anyhow::Result<()> {
    let bars = stderr().is_terminal().then(MultiProgress::new);
    let mut known = statuses(seen);
    let show = |run: &Value| match &bars {
        Some(bars) if run["status"] == "running" => show_bar(args, run, bars),
        _ => Ok(()),
    };
    seen.iter().rev().try_for_each(show)?;
    loop {
        std::thread::sleep(FOLLOW_EVERY);
        let runs = wanted(client, args)?;
        for run in runs.iter().rev() {
            let (id, status) = (text(run, "run_id"), text(run, "status"));
            if known.get(&id) == Some(&status) {
                continue;
            }
            let line = match args.json {
                true => run.to_string(),
                false => news(run),
            };
            match &bars {
                // Not through the bars.
                Some(bars) => bars.suspend(|| println!("{line}")),
                None => println!("{line}"),
            }
            show(run)?;
        }
        known = statuses(&runs);
    }
}

/// Shows how far a run is until it ends, beside everything else.
fn show_bar(args: &RunsArgs, run: &Value, bars: &MultiProgress) -> anyhow::Result<()> {
    let bar = RunBar::new(&text(run, "view")).among(bars);
    let (url, run_id) = (args.server.url.clone(), text(run, "run_id"));
    let shown = move || {
        let client = Client::new(&url);
        // Whatever became of it, who follows the runs will see.
        follow_run(&client, &run_id, |run| bar.show(run)).ok();
        bar.clear();
    };
    std::thread::Builder::new()
        .name("bar".to_owned())
        .spawn(shown)?;
    Ok(())
}

/// The newest runs that were asked for, newest first.
fn wanted(client: &Client, args: &RunsArgs) -> Result<Vec<Value>, ClientError> {
    let answer = client.get(&client.url(&["api", "v1", "runs"], &[]))?;
    let mut runs = answer["runs"].as_array().cloned().unwrap_or_default();
    runs.retain(|run| args.view.as_ref().is_none_or(|view| run["view"] == **view));
    runs.truncate(args.limit);
    Ok(runs)
}

fn statuses(runs: &[Value]) -> BTreeMap<String, String> {
    let status = |run: &Value| (text(run, "run_id"), text(run, "status"));
    runs.iter().map(status).collect()
}

fn text(run: &Value, name: &str) -> String {
    run[name].as_str().unwrap_or_default().to_owned()
}

/// What has changed of a run, in a line.
fn news(run: &Value) -> String {
    let cell = |name| table::cell(name, &run[name]);
    let head = format!("{} {} {}", cell("view"), cell("status"), cell("run_id"));
    match run["status"].as_str() {
        Some("queued") => format!("{head} (by {})", cell("started_by")),
        Some("running") => format!("{head}: {} events", cell("rows_total")),
        Some("succeeded") => format!(
            "{head}: version {}, {} events in {}, audit {}",
            cell("version"),
            cell("rows_read"),
            cell("duration_ms"),
            cell("audit")
        ),
        _ => format!("{head}: {}", cell("error")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_a_line() {
        let run = |status: &str| {
            json!({
                "run_id": "7-v", "view": "v", "status": status, "started_by": "0 3 * * *",
                "rows_read": 1200, "rows_total": 1200, "duration_ms": 1500, "audit": "equal",
                "version": 3, "error": "no space",
            })
        };
        assert_eq!(news(&run("queued")), "v queued 7-v (by 0 3 * * *)");
        assert_eq!(news(&run("running")), "v running 7-v: 1,200 events");
        let succeeded = "v succeeded 7-v: version 3, 1,200 events in 1.5 s, audit equal";
        assert_eq!(news(&run("succeeded")), succeeded);
        assert_eq!(news(&run("failed")), "v failed 7-v: no space");
    }
}
