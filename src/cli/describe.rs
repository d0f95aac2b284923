//! `\d`: what there is, and one stream or view in detail.

use serde_json::{Value, json};

use super::ClientError;
use super::client::Client;
use super::table;

/// Columns in their order; one that no stream or view has a value for is left out.
const STREAM_COLUMNS: &[&str] = &[
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
const VIEW_COLUMNS: &[&str] = &[
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

/// All streams, all views or all runs.
pub fn catalog(client: &Client, kind: &str) -> Result<Vec<Value>, ClientError> {
    let answer = client.get(&client.url(&["api", "v1", kind], &[]))?;
    Ok(answer[kind].as_array().cloned().unwrap_or_default())
}

/// Lines about all streams.
pub fn streams(client: &Client) -> Result<Vec<String>, ClientError> {
    Ok(or_none(
        table::lines(&catalog(client, "streams")?, STREAM_COLUMNS),
        "streams",
    ))
}

/// Lines about all views.
pub fn views(client: &Client) -> Result<Vec<String>, ClientError> {
    Ok(or_none(
        table::lines(&catalog(client, "views")?, VIEW_COLUMNS),
        "views",
    ))
}

/// Lines about all that can be queried.
pub fn tables(client: &Client) -> Result<Vec<String>, ClientError> {
    let mut tables = Vec::new();
    for (kind, one) in [("streams", "stream"), ("views", "view")] {
        for mut table in catalog(client, kind)? {
            table["kind"] = json!(one);
            tables.push(table);
        }
    }
    let columns = [
        "name",
        "kind",
        "rows",
        "lag_events",
        "freshness_ms",
        "comment",
    ];
    Ok(or_none(
        table::lines(&tables, &columns),
        "streams and no views",
    ))
}

fn or_none(lines: Vec<String>, what: &str) -> Vec<String> {
    match lines.is_empty() {
        true => vec![format!("there are no {what} yet")],
        false => lines,
    }
}

/// Lines about one stream or view; `None` if there is neither.
pub fn table(client: &Client, name: &str) -> Result<Option<Vec<String>>, ClientError> {
    for kind in ["streams", "views"] {
        let url = client.url(&["api", "v1", kind, name], &[]);
        let answer = client.get_any(&url)?;
        if answer.status != 404 {
            return Ok(Some(details(name, kind, &answer.into_json(&url)?)));
        }
    }
    Ok(None)
}

fn details(name: &str, kind: &str, table: &Value) -> Vec<String> {
    let text = |key: &str| table[key].as_str();
    let mut lines = vec![match kind {
        "views" => format!("view {name} over {}", text("stream").unwrap_or("?")),
        _ => format!("stream {name}"),
    }];
    lines.extend(text("comment").map(|comment| format!("comment: {comment}")));
    let columns = table["schema"].as_array().map_or(&[][..], Vec::as_slice);
    let shown: Vec<Value> = columns
        .iter()
        .filter(|column| column["hidden"] != true)
        .cloned()
        .collect();
    let columns = table::lines(&shown, &["name", "type", "nullable", "comment"]);
    lines.extend(columns.into_iter().map(|line| format!("  {line}")));
    lines.extend(text("event_time").map(|column| format!("event time: {column}")));
    if let Some(key) = text("shard_key") {
        lines.push(format!("shard key: {key}, {} shards", table["shards"]));
    }
    if let Some(triggers) = text("recompute") {
        let zone = text("recompute_time_zone").map_or(String::new(), |zone| format!(" ({zone})"));
        let paused = if table["paused"] == true {
            ", paused"
        } else {
            ""
        };
        lines.push(format!("recompute: {triggers}{zone}{paused}"));
    }
    if let Some(definition) = text("definition") {
        lines.push("definition:".to_owned());
        lines.extend(definition.lines().map(|line| format!("  {line}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_shown_with_its_definition() {
        let view = json!({
            "name": "v", "stream": "logs", "comment": "hits", "recompute": "0 3 * * *",
            "recompute_time_zone": "Europe/Zurich", "paused": true,
            "definition": "SELECT status,\n count(*) AS n",
            "schema": [
                {"name": "status", "type": "Int64", "nullable": true},
                {"name": "_x", "type": "Int64", "nullable": false, "hidden": true},
            ],
        });
        assert_eq!(
            details("v", "views", &view),
            [
                "view v over logs",
                "comment: hits",
                "  name    type   nullable",
                "  status  Int64  true",
                "recompute: 0 3 * * * (Europe/Zurich), paused",
                "definition:",
                "  SELECT status,",
                "   count(*) AS n",
            ]
        );
    }

    #[test]
    fn a_stream_is_shown_with_its_shards() {
        let stream = json!({"event_time": "ts", "shard_key": "ip", "shards": 4, "schema": []});
        assert_eq!(
            details("s", "streams", &stream),
            ["stream s", "event time: ts", "shard key: ip, 4 shards"]
        );
    }
}
