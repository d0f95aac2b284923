//! `lambdalake status`: what is wrong, what is fresh, what runs; for reading or as JSON.

use serde_json::{Value, json};

use super::args::StatusArgs;
use super::client::Client;
use super::describe::catalog;
use super::follow::Run;
use super::moment::{Moment, ended_at, time};
use super::problems::{Problem, problems, runs_of};
use super::{Exit, table};

/// Columns in their order; one that no stream, view or run has a value for is left out.
const STREAM_COLUMNS: &[&str] = &["name", "rows", "lag_events", "freshness_ms", "state"];
/// What matters most comes first: a narrow terminal cuts off the others.
const VIEW_COLUMNS: &[&str] = &[
    "name",
    "version",
    "made",
    "lag_events",
    "last_run",
    "next_run",
    "schedule",
    "stream",
];
const RUN_COLUMNS: &[&str] = &["view", "run_id", "doing", "started_by"];

/// Everything that is shown.
struct Seen {
    now: Moment,
    /// As the server tells it.
    health: Value,
    streams: Option<Vec<Value>>,
    views: Option<Vec<Value>>,
    /// Newest first.
    runs: Option<Vec<Value>>,
}

/// Ends with [`Exit::Other`] if the server answers and says that it takes no traffic.
pub fn run(args: StatusArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    // A server that is not ready answers 503 with the same details; that is what we came for.
    let health = client.get_any(&client.url(&["health"], &[]))?;
    let exit = match health.is_success() {
        true => Exit::Ok,
        false => Exit::Other,
    };
    // What a node that takes no traffic cannot tell is null.
    let all = |kind| match catalog(&client, kind) {
        Ok(objects) => Ok(Some(objects)),
        Err(_) if exit == Exit::Other => Ok(None),
        Err(error) => Err(error),
    };
    let now = Moment::of(&health);
    let seen = Seen {
        now,
        streams: all("streams")?,
        views: all("views")?,
        runs: all("runs")?,
        health: match health.body {
            Value::Null => json!({"ready": false, "details": {"reason": health.text.trim()}}),
            body => body,
        },
    };
    let found = seen.problems();
    if args.json {
        println!("{}", seen.json(&found));
    } else {
        let lines = seen.lines(exit == Exit::Ok, &found, table::terminal_width());
        lines.iter().for_each(|line| println!("{line}"));
    }
    Ok(exit)
}

impl Seen {
    fn problems(&self) -> Vec<Problem> {
        let list = |of: &Option<Vec<Value>>| of.clone().unwrap_or_default();
        let (streams, views, runs) = (list(&self.streams), list(&self.views), list(&self.runs));
        problems(&self.health["details"], &streams, &views, &runs)
    }

    /// Runs that go on or wait, those that go on first.
    fn under_way(&self) -> Option<Vec<Value>> {
        let of = |status: &'static str| {
            let runs = self.runs.iter().flatten().rev();
            runs.filter(move |run| run["status"] == status).cloned()
        };
        self.runs.as_ref()?;
        Some(of("running").chain(of("queued")).collect())
    }

    fn json(&self, problems: &[Problem]) -> Value {
        json!({
            "problems": problems,
            "health": self.health,
            "streams": self.streams,
            "views": self.views,
            "runs": self.under_way(),
        })
    }

    /// One screen: problems, streams, views, and runs that go on or wait.
    fn lines(&self, is_ready: bool, problems: &[Problem], width: Option<u16>) -> Vec<String> {
        let headline = self.headline(is_ready, problems.len());
        let mut lines = vec![table::one_line(&headline, width)];
        let inner = width.map(|width| width.saturating_sub(2));
        let indented = |line: String| format!("  {}", table::one_line(&line, inner));
        lines.extend(problems.iter().map(|problem| indented(problem.line())));
        let rows = |of: &Option<Vec<Value>>, row: &dyn Fn(&Value) -> Value| {
            let objects = of.as_ref()?;
            Some(objects.iter().map(row).collect::<Vec<Value>>())
        };
        let streams = rows(&self.streams, &|stream| self.stream(stream));
        let views = rows(&self.views, &|view| self.view(view));
        let runs = rows(&self.under_way(), &under_way);
        for (title, rows, columns) in [
            ("streams", streams, STREAM_COLUMNS),
            ("views", views, VIEW_COLUMNS),
            ("runs", runs, RUN_COLUMNS),
        ] {
            let Some(rows) = rows else { continue };
            lines.extend([String::new(), title.to_owned()]);
            match rows.is_empty() {
                true => lines.push(indented("none".to_owned())),
                false => lines.extend(table::lines(&rows, columns).into_iter().map(indented)),
            }
        }
        lines
    }

    /// Whether all is well, in a line.
    fn headline(&self, is_ready: bool, problems: usize) -> String {
        let details = &self.health["details"];
        let state = match (is_ready, problems) {
            (true, 0) => "ok".to_owned(),
            (true, 1) => "1 problem".to_owned(),
            (true, _) => format!("{problems} problems"),
            (false, _) => {
                let status = details["status"].as_str().unwrap_or("it says no more");
                format!("not ready ({status})")
            }
        };
        match details["version"].as_str() {
            Some(version) => format!("health: {state}, version {version}"),
            None => format!("health: {state}"),
        }
    }

    fn stream(&self, stream: &Value) -> Value {
        let workers = self.health["details"]["workers"].as_array();
        let mut workers = workers.into_iter().flatten();
        let writer = workers.find(|it| it["worker"] == "writer" && it["stream"] == stream["name"]);
        let writer = writer.and_then(|it| it["state"].as_str());
        let state = match writer {
            Some(state) if state != "running" => Some(state),
            _ if stream["error"].is_string() => Some("in trouble"),
            _ => None,
        };
        json!({
            "name": stream["name"],
            "rows": stream["rows"],
            "lag_events": stream["lag_events"],
            "freshness_ms": stream["freshness_ms"],
            "state": state,
        })
    }

    fn view(&self, view: &Value) -> Value {
        let made = time(&view["versions"][0]["created_at"]);
        let schedule = view["recompute"]
            .as_str()
            .map(|triggers| match view["recompute_time_zone"].as_str() {
                Some(zone) => format!("{triggers} ({zone})"),
                None => triggers.to_owned(),
            });
        let next_run = match view["paused"] == true {
            true => Some("paused".to_owned()),
            false => self.now.until(time(&view["next_run_at"])),
        };
        let runs = self.runs.as_deref().unwrap_or_default();
        let last_run = runs_of(view, runs).next().map(|run| self.ended(run));
        json!({
            "name": view["name"],
            "stream": view["stream"],
            "version": view["version"],
            "made": self.now.since(made),
            "lag_events": view["lag_events"],
            "schedule": schedule,
            "next_run": next_run,
            "last_run": last_run,
        })
    }

    /// A run that has ended, in a few words. Why it failed stands among the problems.
    fn ended(&self, run: &Value) -> String {
        let mut words = Vec::new();
        if run["kind"] == "verify" {
            words.push("VERIFY".to_owned());
        }
        words.push(table::cell("status", &run["status"]));
        words.extend(self.now.since(ended_at(run)));
        if run["status"] == "succeeded" {
            words.push(format!(
                "in {}",
                table::cell("duration_ms", &run["duration_ms"])
            ));
        }
        if run["audit"] == "differences" {
            words.push("(differences)".to_owned());
        }
        words.join(" ")
    }
}

/// A run that goes on or waits.
fn under_way(run: &Value) -> Value {
    json!({
        "view": run["view"],
        "run_id": run["run_id"],
        "doing": Run::of(run).briefly(),
        "started_by": run["started_by"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let at = |time: &str| format!("2026-05-02T{time}:00.000000Z");
        let run = |view: &str, status: &str, kind: &str| {
            json!({
                "run_id": format!("7-{view}"), "view": view, "kind": kind, "status": status,
                "started_by": "0 3 * * *", "started_at": at("02:00"), "duration_ms": 1500,
                "audit": "equal", "version": 3, "error": null,
            })
        };
        let mut running = run("a", "running", "recompute");
        running["phase"] = json!("reading");
        (running["rows_read"], running["rows_total"]) = (json!(250), json!(1000));
        running["eta_ms"] = json!(61_000);
        let mut queued = run("b", "queued", "recompute");
        queued["phase"] = json!("queued");
        let mut failed = run("b", "failed", "recompute");
        failed["error"] = json!("the disk\nis full");
        Seen {
            now: Moment::at(time(&json!(at("03:00")))),
            health: json!({
                "ready": true,
                "details": {
                    "status": "ready", "version": "0.1.0",
                    "workers": [{"worker": "writer", "stream": "s", "state": "running"}],
                },
            }),
            streams: Some(vec![
                json!({"name": "s", "rows": 1200, "lag_events": 7, "freshness_ms": 1500}),
            ]),
            views: Some(vec![
                json!({
                    "name": "a", "stream": "s", "version": 3, "lag_events": 200,
                    "versions": [{"created_at": at("01:00")}], "recompute": "0 3 * * *",
                    "recompute_time_zone": "Europe/Zurich", "next_run_at": at("07:00"),
                }),
                json!({"name": "b", "stream": "s", "lag_events": 1200, "paused": true}),
            ]),
            runs: Some(vec![
                queued,
                running,
                failed,
                run("a", "succeeded", "verify"),
            ]),
        }
    }

    #[test]
    fn a_screen_says_what_is_wrong_first() {
        let seen = seen();
        let found = seen.problems();
        assert_eq!(
            seen.lines(true, &found, None),
            [
                "health: 1 problem, version 0.1.0",
                "  view b: recompute failed: the disk is full",
                "",
                "streams",
                "  name   rows  lag events  freshness",
                "  s     1,200           7      1.5 s",
                "",
                "views",
                "  name  version  made    lag events  last run                               next run  \
                 schedule                   stream",
                "  a           3  2h ago         200  VERIFY succeeded 59m 58s ago in 1.5 s  in 4h     \
                 0 3 * * * (Europe/Zurich)  s",
                "  b           -  -            1,200  failed 59m 58s ago                     paused    \
                 -                          s",
                "",
                "runs",
                "  view  run id  doing                    started by",
                "  a     7-a     reading 25%, 1m 1s left  0 3 * * *",
                "  b     7-b     queued                   0 3 * * *",
            ]
        );
        let narrow = seen.lines(true, &found, Some(20));
        assert_eq!(narrow[1], "  view b: recompute…");
        assert!(narrow.iter().all(|line| line.chars().count() <= 20));
        let json = seen.json(&found);
        assert_eq!(json["problems"][0]["run_id"], "7-b");
        assert_eq!(json["runs"][0]["run_id"], "7-a");
        assert_eq!(json["runs"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn a_server_that_is_not_ready_shows_what_it_can() {
        let seen = Seen {
            now: Moment::default(),
            health: json!({"details": {"status": "failed", "reason": "dead: maintenance"}}),
            streams: Some(vec![]),
            views: None,
            runs: None,
        };
        assert_eq!(
            seen.lines(false, &seen.problems(), None),
            [
                "health: not ready (failed)",
                "  server: dead: maintenance",
                "",
                "streams",
                "  none",
            ]
        );
    }
}
