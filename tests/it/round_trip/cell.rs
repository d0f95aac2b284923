//! One value of the engine's seven types, and how it stands in Arrow, JSON and CSV.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::value::RawValue;

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    /// The bits, so that -0.0 differs from 0.0 and NaN equals itself.
    Float(u64),
    Text(String),
    /// Microseconds since 1970.
    Time(i64),
    List(Vec<Cell>),
    /// By the order of the struct's members.
    Object(Vec<Cell>),
}

pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl Cell {
    pub fn float(number: f64) -> Self {
        let number = if number.is_nan() { f64::NAN } else { number };
        Cell::Float(number.to_bits())
    }

    pub fn text(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }

    /// As JSON has it: NaN and infinity are null.
    pub fn finite(&self) -> Self {
        match self {
            Cell::Float(bits) if !f64::from_bits(*bits).is_finite() => Cell::Null,
            Cell::List(cells) => Cell::List(cells.iter().map(Cell::finite).collect()),
            Cell::Object(cells) => Cell::Object(cells.iter().map(Cell::finite).collect()),
            other => other.clone(),
        }
    }

    /// As CSV has it: numbers that JSON lacks are text in a cell of their own only.
    pub fn finite_inside(&self) -> Self {
        match self {
            Cell::List(_) | Cell::Object(_) => self.finite(),
            other => other.clone(),
        }
    }

    pub fn to_json(&self, data_type: &DataType) -> String {
        match (self, data_type) {
            (Cell::Null, _) => "null".to_owned(),
            (Cell::Bool(flag), _) => flag.to_string(),
            (Cell::Int(number), _) => number.to_string(),
            (Cell::Float(bits), _) => format!("{:?}", f64::from_bits(*bits)),
            (Cell::Text(text), _) => serde_json::to_string(text).expect("text"),
            (Cell::Time(micros), _) => format!("\"{}\"", rfc3339(*micros)),
            (Cell::List(cells), DataType::List(item)) => {
                let cells = cells.iter().map(|cell| cell.to_json(item.data_type()));
                format!("[{}]", cells.collect::<Vec<_>>().join(","))
            }
            (Cell::Object(cells), DataType::Struct(fields)) => {
                let members = fields.iter().zip(cells).map(|(field, cell)| {
                    let name = serde_json::to_string(field.name()).expect("text");
                    format!("{name}:{}", cell.to_json(field.data_type()))
                });
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }
            (cell, data_type) => panic!("{cell:?} is no {data_type}"),
        }
    }

    pub fn from_json(json: &str, data_type: &DataType) -> Self {
        fn read<'a, T: serde::Deserialize<'a>>(json: &'a str) -> T {
            serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
        }
        if json == "null" {
            return Cell::Null;
        }
        match data_type {
            DataType::Boolean => Cell::Bool(read(json)),
            DataType::Int64 => Cell::Int(read(json)),
            // The standard library reads the nearest float, serde_json a near one.
            DataType::Float64 => Cell::float(json.parse().expect("a number")),
            DataType::Utf8 => Cell::Text(read(json)),
            DataType::Timestamp(..) => Cell::Time(micros(&read::<String>(json))),
            DataType::List(item) => {
                let cells: Vec<Box<RawValue>> = read(json);
                let cells = cells.iter();
                Cell::List(
                    cells
                        .map(|cell| Self::from_json(cell.get(), item.data_type()))
                        .collect(),
                )
            }
            DataType::Struct(fields) => {
                let members: BTreeMap<String, Box<RawValue>> = read(json);
                assert_eq!(members.len(), fields.len(), "{json}");
                let cell = |field: &arrow::datatypes::FieldRef| {
                    Self::from_json(members[field.name()].get(), field.data_type())
                };
                Cell::Object(fields.iter().map(cell).collect())
            }
            other => panic!("a type of the engine is expected, found {other}"),
        }
    }

    /// A value of CSV without its quotes; null is no value.
    pub fn to_csv(&self, data_type: &DataType) -> Option<String> {
        match self {
            Cell::Null => None,
            Cell::Text(text) => Some(text.clone()),
            Cell::Time(micros) => Some(rfc3339(*micros)),
            other => Some(other.to_json(data_type)),
        }
    }

    pub fn from_csv(text: Option<&str>, data_type: &DataType) -> Self {
        let Some(text) = text else { return Cell::Null };
        match data_type {
            DataType::Utf8 => Cell::text(text),
            DataType::Timestamp(..) => Cell::Time(micros(text)),
            other => Self::from_json(text, other),
        }
    }

    pub fn from_array(array: &dyn Array, row: usize) -> Self {
        if array.is_null(row) {
            return Cell::Null;
        }
        match array.data_type() {
            DataType::Boolean => Cell::Bool(array.as_boolean().value(row)),
            DataType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(row)),
            DataType::Float64 => Cell::float(array.as_primitive::<Float64Type>().value(row)),
            DataType::Utf8 => Cell::text(array.as_string::<i32>().value(row)),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
                Cell::Time(array.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>().value(row);
                Cell::List(
                    (0..list.len())
                        .map(|row| Self::from_array(&list, row))
                        .collect(),
                )
            }
            DataType::Struct(_) => {
                let members = array.as_struct().columns().iter();
                Cell::Object(
                    members
                        .map(|member| Self::from_array(member, row))
                        .collect(),
                )
            }
            other => panic!("a type of the engine is expected, found {other}"),
        }
    }
}

/// A column of the cells, which are of that type or null.
pub fn to_array(data_type: &DataType, cells: &[&Cell]) -> ArrayRef {
    fn each<T>(cells: &[&Cell], read: impl Fn(&Cell) -> T) -> Vec<Option<T>> {
        let value = |cell: &&Cell| (**cell != Cell::Null).then(|| read(cell));
        cells.iter().map(value).collect()
    }
    fn wrong<T>(cell: &Cell) -> T {
        panic!("{cell:?} is of another type")
    }
    let is_valid = || NullBuffer::from_iter(cells.iter().map(|cell| **cell != Cell::Null));
    match data_type {
        DataType::Boolean => Arc::new(BooleanArray::from(each(cells, |cell| match cell {
            Cell::Bool(flag) => *flag,
            other => wrong(other),
        }))),
        DataType::Int64 => Arc::new(Int64Array::from(each(cells, |cell| match cell {
            Cell::Int(number) => *number,
            other => wrong(other),
        }))),
        DataType::Float64 => Arc::new(Float64Array::from(each(cells, |cell| match cell {
            Cell::Float(bits) => f64::from_bits(*bits),
            other => wrong(other),
        }))),
        DataType::Utf8 => Arc::new(StringArray::from(each(cells, |cell| match cell {
            Cell::Text(text) => text.clone(),
            other => wrong(other),
        }))),
        DataType::Timestamp(..) => {
            let times = each(cells, |cell| match cell {
                Cell::Time(micros) => *micros,
                other => wrong(other),
            });
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        }
        DataType::List(item) => {
            let (mut elements, mut lengths) = (Vec::new(), Vec::new());
            for cell in cells {
                let list: &[Cell] = match cell {
                    Cell::List(list) => list,
                    _ => &[],
                };
                lengths.push(list.len());
                elements.extend(list);
            }
            let values = to_array(item.data_type(), &elements);
            let offsets = OffsetBuffer::from_lengths(lengths);
            let list = ListArray::try_new(Arc::clone(item), offsets, values, Some(is_valid()));
            Arc::new(list.expect("a list"))
        }
        DataType::Struct(fields) => {
            let member = |index: usize| {
                let cell = |cell: &&'_ Cell| match cell {
                    Cell::Object(members) => members[index].clone(),
                    _ => Cell::Null,
                };
                let members: Vec<Cell> = cells.iter().map(cell).collect();
                to_array(
                    fields[index].data_type(),
                    &members.iter().collect::<Vec<_>>(),
                )
            };
            let members = (0..fields.len()).map(member).collect();
            let array = StructArray::try_new(fields.clone(), members, Some(is_valid()));
            Arc::new(array.expect("a struct"))
        }
        other => panic!("a type of the engine is expected, found {other}"),
    }
}

fn rfc3339(micros: i64) -> String {
    let time = DateTime::from_timestamp_micros(micros).expect("a time of the calendar");
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

pub fn micros(text: &str) -> i64 {
    let time: DateTime<Utc> = text
        .parse()
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    time.timestamp_micros()
}
