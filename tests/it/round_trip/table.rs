//! A table of cells, and the tables that every format carries.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::answer::{bytes, names, select};
use super::body::{post, send};
use super::cell::{timestamp, to_array};
use super::{Cell, INPUTS, OUTPUTS};
use crate::server::Server;

/// Rows under an `id` that counts from 0.
#[derive(Debug)]
pub struct Table {
    /// With `id`.
    pub fields: Fields,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Puts `id` in front.
    pub fn new(columns: Vec<(&str, DataType)>, rows: Vec<Vec<Cell>>) -> Self {
        let id = Field::new("id", DataType::Int64, true);
        let others = columns
            .into_iter()
            .map(|(name, data_type)| Field::new(name, data_type, true));
        let number = |(id, mut row): (i64, Vec<Cell>)| {
            row.insert(0, Cell::Int(id));
            row
        };
        Self {
            fields: std::iter::once(id).chain(others).collect(),
            rows: (0..).zip(rows).map(number).collect(),
        }
    }

    pub fn batch(&self) -> RecordBatch {
        let column = |index: usize| {
            let cells: Vec<&Cell> = self.rows.iter().map(|row| &row[index]).collect();
            to_array(self.fields[index].data_type(), &cells)
        };
        let schema = Arc::new(Schema::new(self.fields.clone()));
        let columns = (0..self.fields.len()).map(column).collect();
        RecordBatch::try_new(schema, columns).expect("a batch")
    }

    /// What a format keeps of it.
    pub fn carried_by(&self, format: &str) -> Self {
        let keep = |cell: &Cell| match format {
            "json" | "ndjson" => cell.finite(),
            "csv" => cell.finite_inside(),
            _ => cell.clone(),
        };
        let rows = self.rows.iter();
        Self {
            fields: self.fields.clone(),
            rows: rows.map(|row| row.iter().map(keep).collect()).collect(),
        }
    }

    pub fn create(&self, server: &Server, stream: &str) {
        server.sql(&format!(
            "CREATE TABLE {stream} ({})",
            columns(&self.fields)
        ));
    }

    /// Asks for the rows in every format and compares.
    pub fn check(&self, server: &Server, stream: &str, context: &str) {
        for format in OUTPUTS {
            let expected = self.carried_by(format);
            let found = select(server, stream, &self.fields, format);
            assert_eq!(found.len(), expected.rows.len(), "{context} -> {format}");
            for (found, expected) in found.iter().zip(&expected.rows) {
                assert_eq!(found, expected, "{context} -> {format}");
            }
        }
    }
}

/// The list of columns of a CREATE TABLE.
pub fn columns(fields: &Fields) -> String {
    let column = |field: &Arc<Field>| format!("{} {}", quoted(field), sql(field.data_type()));
    fields.iter().map(column).collect::<Vec<_>>().join(", ")
}

fn quoted(field: &Field) -> String {
    format!("\"{}\"", field.name())
}

fn sql(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Utf8 => "TEXT".to_owned(),
        DataType::Timestamp(..) => "TIMESTAMP".to_owned(),
        DataType::List(item) => format!("{}[]", sql(item.data_type())),
        DataType::Struct(fields) => format!("STRUCT<{}>", columns(fields)),
        other => panic!("a type of the engine is expected, found {other}"),
    }
}

pub fn list_of(data_type: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", data_type, true)))
}

pub fn struct_of(members: Vec<(&str, DataType)>) -> DataType {
    let field = |(name, data_type)| Field::new(name, data_type, true);
    DataType::Struct(members.into_iter().map(field).collect())
}

/// The ends and the turning points of each type.
fn extremes() -> Table {
    let exact = 1_i64 << 53;
    let whole = [i64::MIN, i64::MAX, exact - 1, exact + 1, -exact - 1, 0, -1];
    let real = [
        0.1,
        1e308,
        f64::MAX,
        5e-324,
        -0.0,
        0.0,
        1e30,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let text = [
        "",
        " ",
        "null",
        "NULL",
        "-",
        "0",
        "true",
        "\u{0}",
        "\r\n",
        "\"\"",
        ",",
        "\u{feff}x",
    ];
    // The years 0 and 9999, between which RFC 3339 is, and -1, 10000 and 262142 beyond.
    let times = [
        0,
        -1,
        1,
        -62_167_219_200_000_000,
        253_402_300_799_999_999,
        -62_167_219_200_000_001,
        253_402_300_800_000_000,
        8_210_266_876_799_999_999,
    ];
    let pick = |cells: &[Cell], row: usize| cells[row % cells.len()].clone();
    let with_null =
        |cells: Vec<Cell>| -> Vec<Cell> { cells.into_iter().chain([Cell::Null]).collect() };
    let whole = with_null(whole.map(Cell::Int).to_vec());
    let real = with_null(real.map(Cell::float).to_vec());
    let text = with_null(text.map(Cell::text).to_vec());
    let times = with_null(times.map(Cell::Time).to_vec());
    let flags = with_null(vec![Cell::Bool(true), Cell::Bool(false)]);
    let lists = with_null(vec![
        Cell::List(vec![]),
        Cell::List(vec![Cell::Null]),
        Cell::List(vec![Cell::Int(i64::MAX), Cell::Null, Cell::Int(i64::MIN)]),
    ]);
    let inner = |real: Cell, lists: Cell| Cell::Object(vec![real, lists]);
    let row = |row: usize| {
        let outer = match row % 4 {
            0 => Cell::Null,
            1 => Cell::Object(vec![Cell::Null, Cell::Null]),
            2 => Cell::Object(vec![pick(&text, row), inner(Cell::Null, Cell::Null)]),
            _ => Cell::Object(vec![
                pick(&text, row),
                inner(pick(&real, row), Cell::List(vec![pick(&times, row)])),
            ]),
        };
        vec![
            pick(&whole, row),
            pick(&real, row),
            pick(&text, row),
            pick(&times, row),
            pick(&flags, row),
            pick(&lists, row),
            outer,
        ]
    };
    let outer = struct_of(vec![
        ("$type", DataType::Utf8),
        (
            "inner",
            struct_of(vec![
                ("real", DataType::Float64),
                ("times", list_of(timestamp())),
            ]),
        ),
    ]);
    Table::new(
        vec![
            ("i", DataType::Int64),
            ("f", DataType::Float64),
            ("s", DataType::Utf8),
            ("t", timestamp()),
            ("b", DataType::Boolean),
            ("l", list_of(DataType::Int64)),
            ("o", outer),
        ],
        (0..140).map(row).collect(),
    )
}

#[test]
fn extremes_of_every_type_come_back_from_every_format_in_every_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    let table = extremes();
    for format in INPUTS {
        table.create(&server, format);
        let sent = table.carried_by(format);
        send(&server, format, &sent, format, None);
        sent.check(&server, format, format);
        server.sql(&format!("FLUSH {format}"));
    }
    server.kill();
    let server = Server::start(folder.path(), &[]);
    for format in INPUTS {
        table
            .carried_by(format)
            .check(&server, format, &format!("{format}, flushed"));
    }
}

const LETTERS: [&str; 14] = [
    "a",
    "Z",
    "0",
    " ",
    "\"",
    ",",
    "\n",
    "\r",
    "\\",
    "'",
    "\u{0}",
    "é",
    "語",
    "\u{1f30a}",
];

fn random_type(random: &mut StdRng, depth: usize) -> DataType {
    match random.random_range(0..if depth < 3 { 7 } else { 5 }) {
        0 => DataType::Boolean,
        1 => DataType::Int64,
        2 => DataType::Float64,
        3 => DataType::Utf8,
        4 => timestamp(),
        5 => list_of(random_type(random, depth + 1)),
        _ => {
            let names = ["m", "MixedCase", "ü$"];
            let members = names[..random.random_range(1..=3)].iter();
            struct_of(
                members
                    .map(|name| (*name, random_type(random, depth + 1)))
                    .collect(),
            )
        }
    }
}

fn random_cell(random: &mut StdRng, data_type: &DataType) -> Cell {
    if random.random_bool(0.15) {
        return Cell::Null;
    }
    match data_type {
        DataType::Boolean => Cell::Bool(random.random()),
        DataType::Int64 => Cell::Int(random.random::<i64>() >> random.random_range(0..64)),
        DataType::Float64 => Cell::float(match random.random_range(0..3) {
            0 => f64::from_bits(random.random()),
            1 => f64::from(random.random::<i32>()),
            _ => random.random_range(-1.0..1.0),
        }),
        DataType::Utf8 => {
            let length = random.random_range(0..6);
            let letter = |_| LETTERS[random.random_range(0..LETTERS.len())];
            Cell::Text((0..length).map(letter).collect())
        }
        DataType::Timestamp(..) => {
            Cell::Time(random.random_range(-62_167_219_200_000_000..253_402_300_800_000_000))
        }
        DataType::List(item) => {
            let length = random.random_range(0..4);
            Cell::List(
                (0..length)
                    .map(|_| random_cell(random, item.data_type()))
                    .collect(),
            )
        }
        DataType::Struct(fields) => Cell::Object(
            fields
                .iter()
                .map(|field| random_cell(random, field.data_type()))
                .collect(),
        ),
        other => panic!("a type of the engine is expected, found {other}"),
    }
}

fn random_table(random: &mut StdRng) -> Table {
    let names = ["a", "b", "c", "d"];
    let columns: Vec<_> = names[..random.random_range(1..=4)]
        .iter()
        .map(|name| (*name, random_type(random, 0)))
        .collect();
    let row = |_| -> Vec<Cell> {
        columns
            .iter()
            .map(|(_, data_type)| random_cell(random, data_type))
            .collect()
    };
    let rows = (0..30).map(row).collect();
    Table::new(columns, rows)
}

/// How many random tables; each one is sent in one format and read in all, and one of the
/// answers is sent again.
const TABLES: u64 = 12;

/// The formats of answers that are bodies as well.
const BOTH_WAYS: [&str; 4] = ["ndjson", "csv", "arrow", "parquet"];

#[test]
fn random_tables_come_back_equal() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    for seed in 0..TABLES {
        let mut random = StdRng::seed_from_u64(seed);
        let format = INPUTS[random.random_range(0..INPUTS.len())];
        let table = random_table(&mut random).carried_by(format);
        let stream = format!("t{seed}");
        table.create(&server, &stream);
        send(&server, &stream, &table, format, None);
        if random.random() {
            server.sql(&format!("FLUSH {stream}"));
        }
        let context = format!("seed {seed}, {format}");
        table.check(&server, &stream, &context);

        let format = BOTH_WAYS[random.random_range(0..BOTH_WAYS.len())];
        let again = format!("again{seed}");
        table.create(&server, &again);
        let sql = format!("SELECT {} FROM {stream}", names(&table.fields));
        let counts = post(&server, &again, format, None, &bytes(&server, &sql, format));
        assert_eq!(counts.json()["rejected"], 0, "{context}: {}", counts.text);
        let context = format!("{context}, sent again as {format}");
        table.carried_by(format).check(&server, &again, &context);
    }
}
