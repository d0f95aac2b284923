//! JSON objects as a table with aligned columns.

use std::time::Duration;

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
    let header = columns.iter().map(|name| heading(name)).collect();
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
        Value::Number(number) if column.ends_with("_ms") => match number.as_u64() {
            Some(millis) => age(Duration::from_millis(millis)),
            None => number.to_string(),
        },
        Value::Number(number) => match (column.ends_with("bytes"), number.as_u64()) {
            (true, Some(bytes)) => indicatif::HumanBytes(bytes).to_string(),
            (false, Some(count)) => indicatif::HumanCount(count).to_string(),
            (_, None) => number.to_string(),
        },
        Value::Object(fields) => match fields.get("status").or_else(|| fields.get("state")) {
            Some(Value::String(status)) => match fields.get("started_at") {
                Some(Value::String(time)) => format!("{status} {}", whole_seconds(time)),
                _ => status.clone(),
            },
            _ => value.to_string(),
        },
        // Shards, panes: how many there are says enough in a table.
        Value::Array(items) => items.len().to_string(),
        other => other.to_string(),
    }
}

/// A time span as precise as a reader needs it: `12 ms`, `3.4 s`, `5m 12s`, `3days 4h`.
pub fn age(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return format!("{} ms", span.as_millis());
    }
    if span < Duration::from_secs(60) {
        return format!("{:.1} s", span.as_secs_f64());
    }
    let minutes = span.as_secs() / 60;
    let rounded = match minutes {
        ..60 => span.as_secs(),
        60..1_440 => minutes * 60,
        _ => minutes / 60 * 3_600,
    };
    humantime::format_duration(Duration::from_secs(rounded)).to_string()
}

/// The columns of the terminal on stdout; `None` if it is none.
pub fn terminal_width() -> Option<u16> {
    comfy_table::Table::new().width()
}

/// A text in one line, of at most `width` characters if there is one.
pub fn one_line(text: &str, width: Option<u16>) -> String {
    let lines = text.lines().map(str::trim_end);
    let line = lines.collect::<Vec<_>>().join(" ");
    match width.map(usize::from) {
        Some(width) if line.chars().count() > width => {
            let kept = line.chars().take(width.saturating_sub(1));
            kept.chain(['…']).collect()
        }
        _ => line,
    }
}

/// A time in RFC 3339 without its fraction of a second.
pub fn whole_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

/// The name of a column as a heading.
fn heading(column: &str) -> String {
    column.trim_end_matches("_ms").replace('_', " ")
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
    fn a_line_fits_the_terminal() {
        assert_eq!(one_line("a\n  b  \nc", None), "a   b c");
        assert_eq!(one_line("größer", Some(6)), "größer");
        assert_eq!(one_line("größer", Some(5)), "größ…");
        assert_eq!(one_line("ab", Some(0)), "…");
    }

    #[test]
    fn a_run_is_shown_by_its_status() {
        assert_eq!(
            cell("last_run", &json!({"run_id": "7", "status": "succeeded"})),
            "succeeded"
        );
        let run = json!({"status": "failed", "started_at": "2026-01-02T03:04:05.678901Z"});
        assert_eq!(cell("last_run", &run), "failed 2026-01-02T03:04:05Z");
    }

    #[test]
    fn spans_are_as_precise_as_a_reader_needs() {
        for (millis, shown) in [
            (12, "12 ms"),
            (3_449, "3.4 s"),
            (312_000, "5m 12s"),
            (3_912_000, "1h 5m"),
            (100 * 3_600_000 + 59_000, "4days 4h"),
        ] {
            assert_eq!(age(Duration::from_millis(millis)), shown);
        }
        assert_eq!(cell("freshness_ms", &json!(1500)), "1.5 s");
        assert_eq!(heading("freshness_ms"), "freshness");
    }
}
