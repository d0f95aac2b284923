//! What is wrong with a server, from what it tells of itself: one problem, one line.

use serde::Serialize;
use serde_json::Value;

use super::moment::time;

/// One thing that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `server`, `stream`, `view`, `worker` or `file`.
    pub kind: &'static str,
    /// Of the stream, view, worker or file; empty for the server.
    pub name: String,
    pub reason: String,
    /// The run that found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

impl Problem {
    fn new(kind: &'static str, name: &str, reason: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            reason: reason.to_owned(),
            run_id: None,
        }
    }

    /// In words, however many lines the reason has.
    pub fn line(&self) -> String {
        match &*self.name {
            "" => format!("{}: {}", self.kind, self.reason),
            name => format!("{} {name}: {}", self.kind, self.reason),
        }
    }
}

/// All that is wrong: the gravest first, each once. `details` are those of the health, `runs` the
/// newest first.
pub fn problems(
    details: &Value,
    streams: &[Value],
    views: &[Value],
    runs: &[Value],
) -> Vec<Problem> {
    let mut found = Vec::new();
    if details["status"] == "failed" || details["status"] == "shutting_down" {
        found.push(Problem::new("server", "", text(details, "reason")));
    }
    for stream in streams {
        if let Some(reason) = stream["error"].as_str() {
            found.push(Problem::new("stream", text(stream, "name"), reason));
        }
    }
    for worker in list(details, "workers") {
        let Some(reason) = worker["error"].as_str() else {
            continue;
        };
        // Its stream has said so.
        let is_known = |problem: &Problem| problem.reason == reason;
        if !found.iter().any(is_known) {
            let title = match worker["stream"].as_str() {
                Some(stream) => format!("{} of {stream}", text(worker, "worker")),
                None => text(worker, "worker").to_owned(),
            };
            let reason = format!("{}: {reason}", text(worker, "state"));
            found.push(Problem::new("worker", &title, &reason));
        }
    }
    for file in list(details, "damaged_files") {
        let path = text(file, "path");
        if !found.iter().any(|problem| problem.reason.contains(path)) {
            found.push(Problem::new("file", path, text(file, "reason")));
        }
    }
    found.extend(views.iter().flat_map(|view| of_view(view, runs)));
    found
}

/// What the newest recompute of a view says, and a check that came after it.
fn of_view(view: &Value, runs: &[Value]) -> Vec<Problem> {
    let name = text(view, "name");
    let mut found = Vec::new();
    for run in runs_of(view, runs) {
        // Nobody's fault, and no news of what was before.
        if run["status"] == "cancelled" {
            continue;
        }
        let is_check = run["kind"] == "verify";
        let reason = match text(run, "status") {
            "succeeded" if is_check && run["audit"] == "differences" => Some(format!(
                "VERIFY: the stored states differ from a recompute: {}",
                differences(run)
            )),
            "succeeded" => None,
            status => {
                let what = if is_check { "VERIFY" } else { "recompute" };
                Some(match text(run, "error") {
                    "" => format!("{what} {status}"),
                    error => format!("{what} {status}: {error}"),
                })
            }
        };
        if let Some(reason) = reason {
            found.push(Problem {
                run_id: run["run_id"].as_str().map(str::to_owned),
                ..Problem::new("view", name, &reason)
            });
        }
        if !is_check || !found.is_empty() {
            break;
        }
    }
    found
}

/// Runs of a view that have ended, newest first; none of another one that had its name.
pub fn runs_of<'a>(view: &'a Value, runs: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    let created = time(&view["created_at"]);
    runs.iter().filter(move |run| {
        let has_ended = run["status"] != "queued" && run["status"] != "running";
        has_ended && run["view"] == view["name"] && time(&run["started_at"]) >= created
    })
}

fn differences(run: &Value) -> String {
    let told = list(run, "differences").iter().map(|it| {
        let [key, column, stored, recomputed] =
            ["key", "column", "stored", "recomputed"].map(|name| text(it, name));
        format!("{key} {column}: stored {stored}, recomputed {recomputed}")
    });
    told.collect::<Vec<_>>().join("; ")
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(details: &Value, streams: &[Value], views: &[Value], runs: &[Value]) -> Vec<String> {
        let found = problems(details, streams, views, runs);
        found.iter().map(Problem::line).collect()
    }

    #[test]
    fn what_a_stream_says_is_not_said_again() {
        let details = json!({
            "status": "degraded", "reason": "stopped: writer of stream s; the others go on",
            "workers": [
                {"worker": "writer", "stream": "s", "state": "stopped", "error": "log/s-1/7: cut off"},
                {"worker": "flush", "stream": "t", "state": "retrying", "error": "no space"},
                {"worker": "delta", "stream": "t", "state": "current", "error": null},
                {"worker": "batch", "stream": null, "state": "stalled", "error": "no task was run"},
            ],
            "damaged_files": [
                {"path": "streams/t-2/a.parquet", "reason": "checksum"},
                {"path": "streams/u-3/b.parquet", "reason": "length"},
            ],
        });
        let streams = [
            json!({"name": "s", "error": "log/s-1/7: cut off"}),
            json!({"name": "t", "error": "streams/t-2/a.parquet: checksum"}),
            json!({"name": "u", "error": null}),
        ];
        assert_eq!(
            lines(&details, &streams, &[], &[]),
            [
                "stream s: log/s-1/7: cut off",
                "stream t: streams/t-2/a.parquet: checksum",
                "worker flush of t: retrying: no space",
                "worker batch: stalled: no task was run",
                "file streams/u-3/b.parquet: length",
            ]
        );
        let failed = json!({"status": "failed", "reason": "dead: maintenance; restart the node"});
        assert_eq!(
            lines(&failed, &[], &[], &[]),
            ["server: dead: maintenance; restart the node"]
        );
        assert_eq!(lines(&json!({"status": "ready"}), &[], &[], &[]), [""; 0]);
    }

    #[test]
    fn the_newest_recompute_of_a_view_counts_and_checks_after_it() {
        let view = [json!({"name": "v", "created_at": "2026-05-02T03:00:00Z"})];
        let run = |status: &str, kind: &str, minute: u32| {
            json!({
                "run_id": format!("{minute}-v"), "view": "v", "status": status, "kind": kind,
                "started_at": format!("2026-05-02T03:{minute:02}:00Z"), "duration_ms": 5,
                "audit": "equal", "version": null, "error": null,
            })
        };
        let failed = |minute| {
            let mut run = run("failed", "recompute", minute);
            run["error"] = json!("no space");
            run
        };
        let differs = |minute| {
            let mut run = run("succeeded", "verify", minute);
            run["audit"] = json!("differences");
            let differences =
                json!([{"key": "k=1", "column": "n", "stored": "2", "recomputed": "3"}]);
            run["differences"] = differences;
            run
        };
        let said = |runs: &[Value]| lines(&json!({}), &[], &view, runs);
        let no_space = "view v: recompute failed: no space";
        let wrong = "view v: VERIFY: the stored states differ from a recompute: k=1 n: \
                     stored 2, recomputed 3";
        let (ok, check) = (
            run("succeeded", "recompute", 9),
            run("succeeded", "verify", 9),
        );
        let (cancelled, runs) = (
            run("cancelled", "recompute", 9),
            run("running", "recompute", 9),
        );
        for (newest, expected) in [
            (vec![ok, failed(8)], ""),
            (vec![check, failed(8)], no_space),
            (vec![cancelled.clone(), failed(8)], no_space),
            (vec![runs, failed(8)], no_space),
            (vec![differs(9), failed(8)], wrong),
            (vec![cancelled, differs(8)], wrong),
            (vec![], ""),
        ] {
            assert_eq!(said(&newest).concat(), expected, "{newest:?}");
        }
        let mut published = differs(9);
        (published["kind"], published["version"]) = (json!("recompute"), json!(2));
        assert_eq!(said(&[published, failed(8)]), [""; 0]);
        let mut earlier = failed(8);
        earlier["started_at"] = json!("2026-05-02T02:00:00Z");
        assert_eq!(said(&[earlier]), [""; 0], "of a view that was dropped");
    }
}
