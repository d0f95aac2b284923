//! `lambdalake status`: health, streams and views, for reading or as JSON.

use serde_json::{Map, Value, json};

use super::args::StatusArgs;
use super::client::Client;
use super::{ClientError, Exit, table};

/// Columns in their order; one that no stream or view has a value for is left out.
pub(super) const STREAM_COLUMNS: &[&str] = &[
    "name",
    "rows",
    "bytes",
    "files",
    "shards",
    "lag_events",
    "tail_bytes",
    "freshness_ms",
    "error",
];
pub(super) const VIEW_COLUMNS: &[&str] = &[
    "name",
    "stream",
    "version",
    "panes",
    "lag_events",
    "freshness_ms",
    "last_run",
    "audit",
    "error",
];
/// Of the health details, those that have tables of their own or are shown under them.
const NOT_SHOWN: &[&str] = &["streams", "views"];

/// Ends with [`Exit::Other`] if the server answers and says that it is not healthy.
pub fn run(args: StatusArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    // An unhealthy server answers 503 with the same details; that is what we came for.
    let health = client.get_any(&client.url(&["health"], &[]))?;
    let exit = match health.is_success() {
        true => Exit::Ok,
        false => Exit::Other,
    };
    if args.json {
        let mut all = json!({ "health": health.body });
        for kind in ["streams", "views"] {
            // What a node that takes no traffic cannot tell is null.
            all[kind] = match catalog(&client, kind) {
                Ok(objects) => objects.into(),
                Err(_) if exit == Exit::Other => Value::Null,
                Err(error) => return Err(error.into()),
            };
        }
        println!("{all}");
        return Ok(exit);
    }
    println!("health");
    match &health.body {
        Value::Object(fields) => print_health(fields),
        _ => println!("  {}", health.text.trim()),
    }
    if exit != Exit::Ok {
        return Ok(exit);
    }
    for (kind, columns) in [("streams", STREAM_COLUMNS), ("views", VIEW_COLUMNS)] {
        let objects = catalog(&client, kind)?;
        println!("\n{kind}");
        for line in table::lines(&objects, columns) {
            println!("  {line}");
        }
        if objects.is_empty() {
            println!("  none");
        }
    }
    Ok(exit)
}

/// All streams or all views.
pub(super) fn catalog(client: &Client, kind: &str) -> Result<Vec<Value>, ClientError> {
    let answer = client.get(&client.url(&["api", "v1", kind], &[]))?;
    Ok(answer[kind].as_array().cloned().unwrap_or_default())
}

/// The details in a column, then what is wrong with which stream.
fn print_health(fields: &Map<String, Value>) {
    let details = fields.get("details").and_then(Value::as_object);
    let details = details.unwrap_or(fields);
    let shown: Vec<(&String, &Value)> = details
        .iter()
        .filter(|(name, _)| !NOT_SHOWN.contains(&name.as_str()))
        .collect();
    let width = shown.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    for (name, value) in shown {
        let label = name.replace('_', " ");
        println!("  {label:<width$}  {}", table::cell(name, value));
    }
    let streams = details.get("streams").and_then(Value::as_object);
    for (name, stream) in streams.into_iter().flatten() {
        if let Some(error) = stream["error"].as_str() {
            println!("  stream {name}: {error}");
        }
    }
}
