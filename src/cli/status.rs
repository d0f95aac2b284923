//! `lambdalake status`: health, streams and views, for reading.

use serde_json::Value;

use super::args::StatusArgs;
use super::client::Client;
use super::{Exit, table};

/// Columns in their order; one that no stream or view has a value for is left out.
const STREAM_COLUMNS: &[&str] = &[
    "name",
    "rows",
    "bytes",
    "shards",
    "version",
    "lag_events",
    "tail_rows",
    "tail_bytes",
    "freshness_ms",
    "state",
];
const VIEW_COLUMNS: &[&str] = &[
    "name",
    "stream",
    "version",
    "panes",
    "lag_events",
    "state_bytes",
    "state",
    "last_run",
    "audit",
];

/// Ends with [`Exit::Other`] if the server answers and says that it is not healthy.
pub fn run(args: StatusArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    // An unhealthy server answers 503 with the same details; that is what we came for.
    let health = client.get_any(&client.url(&["health"], &[]))?;
    println!("health");
    match &health.body {
        Value::Object(fields) => print_fields(fields),
        _ => println!("  {}", health.text.trim()),
    }
    if !health.is_success() {
        return Ok(Exit::Other);
    }
    for (title, columns) in [("streams", STREAM_COLUMNS), ("views", VIEW_COLUMNS)] {
        let answer = client.get(&client.url(&["api", "v1", title], &[]))?;
        let objects = answer[title].as_array().cloned().unwrap_or_default();
        println!("\n{title}");
        for line in table::lines(&objects, columns) {
            println!("  {line}");
        }
        if objects.is_empty() {
            println!("  none");
        }
    }
    Ok(Exit::Ok)
}

fn print_fields(fields: &serde_json::Map<String, Value>) {
    let width = fields.keys().map(|name| name.chars().count()).max();
    let width = width.unwrap_or(0);
    for (name, value) in fields {
        println!("  {name:<width$}  {}", table::cell(name, value));
    }
}
