//! JSON objects as a table with aligned columns.

use serde_json::Value;

/// Lines of a table: one column for each name that at least one object has a value for, one
/// row for each object. Numbers stand to the right. Empty for no objects.
pub fn lines(objects: &[Value], columns: &[&str]) -> Vec<String> {
    let columns: Vec<&str> = columns
        .iter()
        .copied()
        .filter(|column| objects.iter().any(|object| !object[*column].is_null()))
        .collect();
    if columns.is_empty() {
        return Vec::new();
    }
    let header = columns.iter().map(|name| name.replace('_', " ")).collect();
    let rows = objects.iter().map(|object| {
        let cells = columns.iter().map(|column| cell(column, &object[*column]));
        cells.collect::<Vec<String>>()
    });
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let layout: Vec<(usize, bool)> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let width = rows.iter().map(|row| row[at].chars().count()).max();
            let is_number = objects.iter().any(|object| object[*column].is_number());
            (width.unwrap_or(0), is_number)
        })
        .collect();
    rows.iter().map(|row| line(row, &layout)).collect()
}

fn line(row: &[String], layout: &[(usize, bool)]) -> String {
    let cells = row
        .iter()
        .zip(layout)
        .map(|(text, (width, is_number))| match is_number {
            true => format!("{text:>width$}"),
            false => format!("{text:<width$}"),
        });
    let line = cells.collect::<Vec<String>>().join("  ");
    line.trim_end().to_owned()
}

/// A value as a reader wants it: sizes with units, runs by their status.
pub fn cell(column: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (column.ends_with("bytes"), number.as_u64()) {
            (true, Some(bytes)) => indicatif::HumanBytes(bytes).to_string(),
            (false, Some(count)) => indicatif::HumanCount(count).to_string(),
            (_, None) => number.to_string(),
        },
        Value::Object(fields) => match fields.get("status").or_else(|| fields.get("state")) {
            Some(Value::String(status)) => status.clone(),
            _ => value.to_string(),
        },
        // Shards, panes: how many there are says enough in a table.
        Value::Array(items) => items.len().to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned_and_missing_ones_left_out() {
        let objects = [
            json!({"name": "access_log", "rows": 1234567, "bytes": 2048, "last_run": null}),
            json!({"name": "b", "rows": 5}),
        ];
        assert_eq!(
            lines(
                &objects,
                &["name", "rows", "bytes", "lag_events", "last_run"]
            ),
            [
                "name             rows     bytes",
                "access_log  1,234,567  2.00 KiB",
                "b                   5         -",
            ]
        );
        assert_eq!(lines(&[], &["name"]), Vec::<String>::new());
    }

    #[test]
    fn a_run_is_shown_by_its_status() {
        assert_eq!(
            cell("last_run", &json!({"run_id": "7", "status": "succeeded"})),
            "succeeded"
        );
    }
}
