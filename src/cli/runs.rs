//! `lambdalake runs`: what recomputes did and do, and how to end one.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::MultiProgress;
use serde_json::{Value, json};

use super::args::RunsArgs;
use super::client::Client;
use super::follow::{Run, RunBar, follow as follow_run};
use super::moment::{Moment, time};
use super::{ClientError, Exit, table};

/// Columns in their order; one that no run has a value for is left out.
const COLUMNS: &[&str] = &[
    "view",
    "run_id",
    "kind",
    "status",
    "doing",
    "started_by",
    "started",
    "took",
    "rows_read",
    "audit",
    "version",
];

/// Where what is stored and what was recomputed differ.
pub(super) const DIFFERENCE_COLUMNS: &[&str] = &["key", "column", "stored", "recomputed"];

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
    if let Some(run_id) = &args.run {
        let run = client.get(&client.url(&["api", "v1", "runs", run_id], &[]))?;
        match args.json {
            true => println!("{run}"),
            false => details(&run).iter().for_each(|line| println!("{line}")),
        }
        return Ok(Exit::Ok);
    }
    let (runs, now) = wanted(&client, &args)?;
    if args.json {
        runs.iter().rev().for_each(|run| println!("{run}"));
    } else if runs.is_empty() {
        if let Some(view) = &args.view {
            client.get(&client.url(&["api", "v1", "views", view], &[]))?;
        }
        println!("no runs");
    } else {
        let lines = list(&runs, now, table::terminal_width());
        lines.iter().for_each(|line| println!("{line}"));
    }
    if args.follow {
        follow(&client, &args, &runs)?;
    }
    Ok(Exit::Ok)
}

/// A row for each run, and under it why it failed.
fn list(runs: &[Value], now: Moment, width: Option<u16>) -> Vec<String> {
    let rows: Vec<Value> = runs.iter().map(|run| row(run, now)).collect();
    let mut rows = table::lines(&rows, COLUMNS).into_iter();
    let mut lines: Vec<String> = rows.next().into_iter().collect();
    for (row, run) in rows.zip(runs) {
        lines.push(row);
        lines.extend(run["error"].as_str().map(|error| format!("  {error}")));
    }
    let fitting = lines.iter().map(|line| table::one_line(line, width));
    fitting.collect()
}

fn row(run: &Value, now: Moment) -> Value {
    let has_begun = run["status"] != "queued";
    let doing = Run::of(run).briefly();
    json!({
        "view": run["view"],
        "run_id": run["run_id"],
        // Most are recomputes.
        "kind": Some(&run["kind"]).filter(|kind| *kind != "recompute"),
        "status": run["status"],
        "doing": Some(doing).filter(|doing| has_begun && !doing.is_empty()),
        "started_by": run["started_by"],
        "started": now.since(time(&run["started_at"])).filter(|_| has_begun),
        "took": has_begun.then(|| table::cell("duration_ms", &run["duration_ms"])),
        "rows_read": Some(&run["rows_read"]).filter(|_| has_begun),
        "audit": run["audit"].as_str().filter(|audit| !audit.is_empty()),
        "version": run["version"],
    })
}

/// All that is known of a run, a line each; last what its audit found.
fn details(run: &Value) -> Vec<String> {
    let fields = run.as_object().into_iter().flatten();
    let known = fields.filter(|(name, value)| {
        let is_empty = value.is_null() || *value == "" || **value == json!([]);
        !is_empty && name.as_str() != "differences"
    });
    let known: Vec<(&String, &Value)> = known.collect();
    let width = known.iter().map(|(name, _)| name.len()).max();
    let width = width.unwrap_or(0);
    let line = |(name, value): &(&String, &Value)| {
        let value = match value.as_array() {
            Some(names) => names
                .iter()
                .map(|value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                })
                .collect::<Vec<_>>()
                .join(", "),
            None => table::cell(name, value),
        };
        format!("{name:<width$}  {value}")
    };
    let mut lines: Vec<String> = known.iter().map(line).collect();
    let differences = run["differences"].as_array().map_or(&[][..], Vec::as_slice);
    lines.extend(table::lines(differences, DIFFERENCE_COLUMNS));
    lines
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
        let (runs, _) = wanted(client, args)?;
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

/// The newest runs that were asked for, newest first, and when the server said so.
fn wanted(client: &Client, args: &RunsArgs) -> Result<(Vec<Value>, Moment), ClientError> {
    let url = client.url(&["api", "v1", "runs"], &[]);
    let answer = client.get_any(&url)?;
    let now = Moment::of(&answer);
    let mut runs = match answer.into_json(&url)?["runs"].take() {
        Value::Array(runs) => runs,
        _ => Vec::new(),
    };
    runs.retain(|run| args.view.as_ref().is_none_or(|view| run["view"] == **view));
    runs.truncate(args.limit);
    Ok((runs, now))
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
    use super::*;

    #[test]
    fn a_list_says_why_a_run_failed() {
        let run = |status: &str| {
            json!({
                "run_id": "7-v", "view": "v", "kind": "recompute", "status": status,
                "started_by": "request", "started_at": "2026-05-02T03:00:00Z", "audit": "",
                "duration_ms": 1500, "rows_read": 250, "rows_total": 1000, "version": null,
            })
        };
        let (mut running, mut failed) = (run("running"), run("failed"));
        (running["phase"], running["eta_ms"]) = (json!("reading"), json!(4500));
        failed["error"] = json!("the disk\nis full");
        let runs = [run("queued"), running, failed.clone()];
        let now = Moment::at(time(&json!("2026-05-02T03:01:00Z")));
        assert_eq!(
            list(&runs, now, None),
            [
                "view  run id  status   doing                    started by  started  took   rows read",
                "v     7-v     queued   -                        request     -        -              -",
                "v     7-v     running  reading 25%, 4.5 s left  request     1m ago   1.5 s        250",
                "v     7-v     failed   -                        request     1m ago   1.5 s        250",
                "  the disk is full",
            ]
        );
        assert_eq!(list(&[failed.clone()], now, Some(12))[2], "  the disk …");
        failed["differences"] =
            json!([{"key": "k=1", "column": "n", "stored": "2", "recomputed": "3"}]);
        let shown = details(&failed);
        assert_eq!(shown[0], "duration_ms  1.5 s");
        assert_eq!(shown[1], "error        the disk\nis full");
        assert_eq!(
            shown[shown.len() - 2..],
            ["key  column  stored  recomputed", "k=1  n       2       3"]
        );
    }

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
