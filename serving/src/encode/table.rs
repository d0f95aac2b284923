//! A drawn table for people at a terminal.
//!
//! The widths need all rows, so it holds them, as the text they are shown as: at most
//! `Shape::rows`, and at most [`TABLE_CHARS`] when drawn; then it says that there are more.
//!
//! A row stays one line: line breaks and other control characters are shown as escapes, and a
//! cell that is too long ends in `…`. With a width, all columns together keep to it.
//!
//! A plan (the answer of EXPLAIN) is no table: it is written line by line, as it is.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table};
use serde_json::Value;

use super::{Encoder, Shape, text};

/// Characters of one cell that are shown.
const CELL_CHARS: usize = 256;

/// Characters of one drawn table, padding included: past it the rest of the rows is left out.
const TABLE_CHARS: usize = 8 * 1024 * 1024;

/// How a null looks; an empty text is just empty.
const NULL: &str = "NULL";

/// The lines of a table, as they were drawn before: see `comfy_table::presets` for the order.
const LINES: &str = "||--+-++|    ++++++";

/// No cell has this character, so comfy-table never breaks a line early to keep a word whole.
const NO_WORD_END: char = '\0';

/// The columns that an answer of EXPLAIN has.
const PLAN: [&str; 2] = ["plan_type", "plan"];

pub(super) struct DrawnTable {
    schema: SchemaRef,
    is_plan: bool,
    shape: Shape,
    rows: Vec<Vec<String>>,
    /// Characters of the widest cell of each column.
    widest: Vec<usize>,
    is_cut: bool,
}

impl DrawnTable {
    pub(super) fn new(schema: SchemaRef, shape: Shape) -> Self {
        Self {
            widest: vec![NULL.len(); schema.fields().len()],
            is_plan: schema.fields().iter().map(|field| field.name()).eq(PLAN),
            schema,
            shape,
            rows: Vec::new(),
            is_cut: false,
        }
    }

    /// Takes a row if the drawn table has room for it.
    fn push(&mut self, row: Vec<String>) {
        let mut widest = self.widest.clone();
        for (widest, cell) in widest.iter_mut().zip(&row) {
            *widest = (*widest).max(cell.chars().count());
        }
        let chars = widest.iter().sum::<usize>() * (self.rows.len() + 1);
        if self.rows.len() >= self.shape.rows || (chars > TABLE_CHARS && !self.rows.is_empty()) {
            self.is_cut = true;
            return;
        }
        self.widest = widest;
        self.rows.push(row);
    }

    fn draw(&mut self) -> String {
        let mut table = Table::new();
        table
            .force_no_tty()
            .load_preset(LINES)
            .set_delimiter(NO_WORD_END)
            .set_truncation_indicator("…");
        if self.shape.width > 0 {
            table
                .set_content_arrangement(ContentArrangement::Dynamic)
                .set_width(self.shape.width);
        } else {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
        let names = self.schema.fields().iter().map(|field| {
            let mut name = String::new();
            push_visible(field.name(), &mut name);
            name
        });
        table.set_header(one_line(names.collect()));
        table.add_rows(self.rows.drain(..).map(one_line));
        for (column, field) in table.column_iter_mut().zip(self.schema.fields()) {
            if is_number(field.data_type()) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

impl Encoder for DrawnTable {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let options = text::Options::new();
        let mut columns = text::columns(batch, &options)?;
        let mut cell = Vec::new();
        for row in 0..batch.num_rows() {
            if self.is_cut {
                break;
            }
            let mut cells = Vec::with_capacity(columns.len());
            for column in &mut columns {
                let mut shown = String::new();
                if !column.write(row, &mut cell)? {
                    shown.push_str(NULL);
                } else if self.is_plan {
                    shown.push_str(&String::from_utf8_lossy(&cell));
                } else {
                    push_visible(&String::from_utf8_lossy(&cell), &mut shown);
                }
                cells.push(shown);
            }
            self.push(cells);
        }
        Ok(Vec::new())
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        if self.is_plan {
            let plans = self.rows.drain(..).map(|row| row.join("\n"));
            return Ok(plans
                .map(|plan| format!("{plan}\n\n"))
                .collect::<String>()
                .into_bytes());
        }
        let rows = self.rows.len();
        let drawn = self.draw();
        let footer = if self.is_cut {
            format!("(the first {rows} rows; there are more rows; add LIMIT or use another format)")
        } else if rows == 1 {
            "(1 row)".to_owned()
        } else {
            format!("({rows} rows)")
        };
        Ok(format!("{drawn}\n{footer}\n").into_bytes())
    }

    fn wants_more(&self) -> bool {
        !self.is_cut
    }
}

/// A row that is cut instead of wrapped.
fn one_line(cells: Vec<String>) -> Row {
    let mut row = Row::from(cells);
    row.max_height(1);
    row
}

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_number(values),
        other => other.is_numeric(),
    }
}

/// Adds the start of a text with everything visible that would move the cursor or hide.
fn push_visible(text: &str, out: &mut String) {
    for (index, letter) in text.chars().enumerate() {
        if index == CELL_CHARS {
            out.push('…');
            return;
        }
        match letter {
            '\n' | '\r' | '\t' => out.extend(letter.escape_default()),
            _ if letter.is_control() || is_invisible(letter) => {
                out.extend(letter.escape_unicode());
            }
            _ => out.push(letter),
        }
    }
}

/// Line separators, zero-width marks, and the marks that turn the writing direction. The
/// zero-width joiner is not among them: emoji are made with it.
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}
