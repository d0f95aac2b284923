//! Answers drawn on this side: a table, one block for each row, and what a statement cost.

use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde_json::Value;
use ureq::http::HeaderMap;

use super::answer::{Column, More, Rows};
use super::table::age;

/// Rows of a drawn table: its widths need all of them, and nobody reads more.
const MAX_TABLE_ROWS: usize = 1_000;
/// Lines as the server draws them.
const LINES: &str = "||--+-++|    ++++++";

/// Keeps rows until their widths are known.
#[derive(Default)]
pub struct DrawnTable {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    is_cut: bool,
}

impl Rows for DrawnTable {
    fn columns(&mut self, columns: Vec<Column>) -> io::Result<()> {
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, cells: Vec<String>) -> io::Result<More> {
        if self.rows.len() == MAX_TABLE_ROWS {
            self.is_cut = true;
            return Ok(More::Enough);
        }
        self.rows.push(cells);
        Ok(More::Wanted)
    }
}

impl DrawnTable {
    /// The table for a terminal of this width; as wide as it likes without.
    pub fn draw(self, width: Option<u16>) -> String {
        // A plan is no table: its lines are read as they are.
        if self
            .columns
            .iter()
            .map(|column| &*column.name)
            .eq(["plan_type", "plan"])
        {
            let plans = self.rows.iter().map(|row| row.join("\n"));
            return plans.map(|plan| format!("{plan}\n\n")).collect();
        }
        let mut table = Table::new();
        table.load_preset(LINES);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
        }
        table.set_header(self.columns.iter().map(|column| Cell::new(&column.name)));
        let rows = self.rows.len();
        for row in self.rows {
            let cells = row.into_iter().zip(&self.columns);
            table.add_row(cells.map(|(text, column)| match column.is_number() {
                true => Cell::new(text).set_alignment(CellAlignment::Right),
                false => Cell::new(text),
            }));
        }
        let footer = match (self.is_cut, rows) {
            (true, _) => format!(
                "(the first {rows} rows; there are more: add LIMIT, or use \\format csv and \\o FILE)"
            ),
            (false, 1) => "(1 row)".to_owned(),
            (false, _) => format!("({rows} rows)"),
        };
        format!("{table}\n{footer}\n")
    }
}

/// Writes one block for each row, as it comes.
///
/// ```text
/// -[ ROW 1 ]---
/// status | 200
/// n      | 5
/// ```
pub struct Expanded<'a> {
    out: &'a mut dyn Write,
    columns: Vec<Column>,
    width: usize,
    rows: u64,
}

impl<'a> Expanded<'a> {
    pub fn new(out: &'a mut dyn Write) -> Expanded<'a> {
        Expanded {
            out,
            columns: Vec::new(),
            width: 0,
            rows: 0,
        }
    }

    pub fn finish(self) -> io::Result<()> {
        if self.rows == 0 {
            writeln!(self.out, "(0 rows)")?;
        }
        self.out.flush()
    }
}

impl Rows for Expanded<'_> {
    fn columns(&mut self, columns: Vec<Column>) -> io::Result<()> {
        let widths = columns.iter().map(|column| column.name.chars().count());
        self.width = widths.max().unwrap_or(0);
        self.columns = columns;
        Ok(())
    }

    fn row(&mut self, cells: Vec<String>) -> io::Result<More> {
        self.rows += 1;
        let width = self.width;
        let head = format!("-[ ROW {} ]", self.rows);
        writeln!(self.out, "{head:-<rule$}", rule = width + 14)?;
        for (column, text) in self.columns.iter().zip(&cells) {
            let mut name = column.name.as_str();
            for line in text.split('\n') {
                writeln!(
                    self.out,
                    "{}",
                    format!("{name:<width$} | {line}").trim_end()
                )?;
                name = "";
            }
        }
        Ok(More::Wanted)
    }
}

/// What a statement cost and how fresh its answer is, from the statistics or from the headers.
pub fn timing(elapsed: Duration, stats: &Value, headers: &HeaderMap) -> String {
    let header = |name: &str| -> Option<u64> { headers.get(name)?.to_str().ok()?.parse().ok() };
    let count = |number: u64| indicatif::HumanCount(number).to_string();
    let mut parts = vec![format!("Time: {:.1} ms", elapsed.as_secs_f64() * 1e3)];
    if let Some(server) = stats["elapsed_ms"].as_f64() {
        parts.push(format!("server {server:.1} ms"));
    }
    if let Some(read) = stats["rows_read"].as_u64() {
        let from = |layer: &str| count(stats[layer].as_u64().unwrap_or(0));
        parts.push(format!(
            "read {} events ({} from batch, {} from speed)",
            count(read),
            from("from_batch"),
            from("from_speed")
        ));
    }
    if let Some(freshness) = stats["freshness_ms"].as_u64().or(header("x-freshness-ms")) {
        let old = age(Duration::from_millis(freshness));
        parts.push(format!("newest event {old} old"));
    }
    if let Some(version) = stats["batch_version"]
        .as_u64()
        .or(header("x-batch-version"))
    {
        parts.push(format!("batch version {version}"));
    }
    if let Some(lag) = stats["lag_events"].as_u64().or(header("x-lag-events")) {
        parts.push(format!("lag {} events", count(lag)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn columns() -> Vec<Column> {
        [("status", "Int64"), ("path", "Utf8")]
            .map(|(name, data_type)| Column {
                name: name.to_owned(),
                data_type: data_type.to_owned(),
            })
            .into()
    }

    fn drawn(rows: &[[&str; 2]], width: Option<u16>) -> String {
        let mut table = DrawnTable::default();
        table.columns(columns()).unwrap();
        for row in rows {
            table.row(row.map(str::to_owned).into()).unwrap();
        }
        table.draw(width)
    }

    #[test]
    fn numbers_stand_to_the_right() {
        assert_eq!(
            drawn(&[["200", "/"], ["5", "/index"]], None),
            "+--------+--------+\n\
             | status | path   |\n\
             +--------+--------+\n\
             |    200 | /      |\n\
             |      5 | /index |\n\
             +--------+--------+\n\
             (2 rows)\n"
        );
        assert!(drawn(&[], None).ends_with("(0 rows)\n"));
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let long = "/a long path with many words in it that does not fit";
        let table = drawn(&[["200", long]], Some(40));
        let widest = table.lines().map(|line| line.chars().count()).max();
        assert!(widest.unwrap() <= 40, "{table}");
        assert!(
            table.contains("does not fit") || table.contains("fit"),
            "{table}"
        );
    }

    #[test]
    fn a_long_table_says_that_there_is_more() {
        let mut table = DrawnTable::default();
        table.columns(columns()).unwrap();
        let row = || vec!["1".to_owned(), String::new()];
        for _ in 0..MAX_TABLE_ROWS {
            assert_eq!(table.row(row()).unwrap(), More::Wanted);
        }
        assert_eq!(table.row(row()).unwrap(), More::Enough);
        assert!(
            table
                .draw(None)
                .contains("(the first 1000 rows; there are more")
        );
    }

    #[test]
    fn expanded_rows_are_blocks() {
        let mut out = Vec::new();
        let mut rows = Expanded::new(&mut out);
        rows.columns(columns()).unwrap();
        rows.row(vec!["200".to_owned(), "two\nlines".to_owned()])
            .unwrap();
        rows.row(vec!["7".to_owned(), String::new()]).unwrap();
        rows.finish().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "-[ ROW 1 ]----------\n\
             status | 200\n\
             path   | two\n       | lines\n\
             -[ ROW 2 ]----------\n\
             status | 7\n\
             path   |\n"
        );
    }

    #[test]
    fn timing_tells_the_layers_and_the_freshness() {
        let stats = json!({"elapsed_ms": 1.25, "rows_read": 1500, "from_batch": 1000,
            "from_speed": 500, "lag_events": 500, "freshness_ms": 1200, "batch_version": 3});
        let headers = HeaderMap::new();
        assert_eq!(
            timing(Duration::from_micros(2_500), &stats, &headers),
            "Time: 2.5 ms, server 1.2 ms, read 1,500 events (1,000 from batch, 500 from speed), \
             newest event 1.2 s old, batch version 3, lag 500 events"
        );
        let mut headers = HeaderMap::new();
        headers.insert("x-freshness-ms", 40.into());
        assert_eq!(
            timing(Duration::from_millis(1), &Value::Null, &headers),
            "Time: 1.0 ms, newest event 40 ms old"
        );
    }
}
