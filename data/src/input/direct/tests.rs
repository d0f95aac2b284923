//! What is read directly is what the general way reads.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Fields, Float64Type, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use proptest::sample::select;

use super::super::block::{Block, Lines, Target};
use super::super::parse::Rows;
use super::super::shape::Shape;
use super::super::{EpochUnit, Format, InputOptions, Limits, Parsed, json, text};
use super::DirectRows;
use crate::widen::never_widening;

const LIMITS: Limits = Limits {
    max_rejections: 1_000,
    max_line_bytes: 1 << 20,
    max_fields: 12,
    max_depth: 4,
};

fn schema(keeps_rest: bool) -> SchemaRef {
    let nullable = |name: &str, data_type| Field::new(name, data_type, true);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let pair = Fields::from(vec![
        nullable("x", DataType::Int64),
        nullable("y", DataType::Utf8),
    ]);
    let integers = DataType::List(Arc::new(nullable("element", DataType::Int64)));
    let mut fields = vec![
        Field::new("r", DataType::Int64, false),
        nullable("b", DataType::Boolean),
        nullable("i", DataType::Int64),
        nullable("f", DataType::Float64),
        nullable("s", DataType::Utf8),
        nullable("t", utc.clone()),
        nullable("u", utc),
        nullable("o", DataType::Struct(pair)),
        nullable("l", integers),
        nullable("n", DataType::Int64),
    ];
    if keeps_rest {
        fields.push(nullable("_rest", DataType::Utf8));
    }
    let schema = Arc::new(Schema::new(fields));
    never_widening(&schema, &["n".to_owned()].into())
}

/// Every row by the general way.
fn generally(body: &str, target: &Target<'_>) -> Parsed {
    let mut shape = Shape::new(&target.schema.fields, LIMITS.max_fields).expect("a shape");
    let mut rows = Rows::new(LIMITS.max_rejections);
    for row in text::lines(body.as_bytes()) {
        let line = std::str::from_utf8(row.bytes).expect("text");
        let value = json::parse(line, &LIMITS).map_err(|mut flaw| {
            if let Some(offset) = flaw.offset {
                let column = text::column(&row.bytes[..offset]);
                flaw.message = format!("column {column}: {}", flaw.message);
            }
            flaw
        });
        rows.add(row.number, value, Some(row.bytes), target, &mut shape);
    }
    let parsed = rows.finish(&shape, target.schema, Format::Ndjson);
    parsed.expect("a batch")
}

fn as_block(body: &str) -> Block {
    Block::Lines(Lines {
        format: Format::Ndjson,
        bytes: body.as_bytes().to_vec(),
        first: 1,
        skipped: Vec::new(),
    })
}

fn assert_same(body: &str, keeps_rest: bool, unit: EpochUnit) {
    let schema = schema(keeps_rest);
    let options = InputOptions {
        event_time_unit: unit,
        ..InputOptions::default()
    };
    let target = Target {
        schema: &schema,
        event_time: Some("t"),
        options: &options,
    };
    let found = as_block(body).parse(&target, &LIMITS).expect("a batch");
    let expected = generally(body, &target);
    assert_eq!(found.batch, expected.batch, "{body}");
    // Equal floats may differ in the sign of zero.
    if let Some(floats) = found.batch.column_by_name("f") {
        let bits = |array: &dyn Array| -> Vec<Option<u64>> {
            let floats = array.as_primitive::<Float64Type>();
            floats.iter().map(|value| value.map(f64::to_bits)).collect()
        };
        let others = expected
            .batch
            .column_by_name("f")
            .expect("the same columns");
        assert_eq!(bits(floats), bits(others), "{body}");
    }
    assert_eq!(found.rejections, expected.rejections, "{body}");
    assert_eq!(
        (found.rejected, found.new_fields),
        (expected.rejected, expected.new_fields),
        "{body}"
    );
}

const NAMES: &[&str] = &[
    "r", "r", "b", "i", "i", "f", "f", "s", "s", "t", "t", "u", "o", "l", "n", "new", "newer",
    "_offset", "_rest", "\\u0069", "",
];

const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "7",
    "-12",
    "01",
    "1.",
    ".5",
    "1.5",
    "-0.0",
    "1e3",
    "2E-2",
    "1e400",
    "100.0",
    "0.1",
    "123456.789",
    "0.12345678901234567",
    "123456789012345.6",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740993",
    "999999999999999999",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1793577600",
    "1793577600000",
    "1793577600.5",
    "\"\"",
    "\"abc\"",
    "\"12345678\"",
    "\"a\\\"b\\u00e9\\\\\"",
    "\"é漢\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\"\\x\"",
    "\"tab\there\"",
    "\"open",
    "tru",
    "nul",
    "\"2026-11-02T10:00:00Z\"",
    "\"2026-11-02T10:00:00.123456789+02:00\"",
    "\"2026-02-30T10:00:00Z\"",
    "\"2026-11-02 10:00:00\"",
    "\"17/May/2015:10:05:03 +0000\"",
    "{}",
    "{\"x\":1}",
    "{\"x\":9007199254740993,\"y\":\"z\"}",
    "{ \"y\" : null , \"x\" : 2.5 }",
    "{\"x\":1,\"x\":2}",
    "{\"z\":1}",
    "{\"x\":{\"deep\":[[1]]}}",
    "[]",
    "[1,2]",
    "[ 1 , null ]",
    "[1.5]",
    "[1,]",
    "[\"a\"]",
    "[[1]]",
];

/// Mostly what fits, so that most rows are read directly and others are between them.
fn member() -> impl Strategy<Value = String> {
    let any = (select(NAMES), select(VALUES));
    let fits = select(vec![
        ("i", "7"),
        ("i", "-3"),
        ("f", "1.25"),
        ("f", "3"),
        ("s", "\"abc\""),
        ("s", "null"),
        ("b", "true"),
        ("t", "\"2026-11-02T10:00:00.5Z\""),
        ("u", "1793577600"),
        ("o", "{\"x\":1}"),
        ("l", "[1,null]"),
        ("n", "9007199254740993"),
    ]);
    let space = || select(vec!["", "", "", " ", "\t "]);
    (prop_oneof![1 => any, 6 => fits], space(), space(), space())
        .prop_map(|((name, value), a, b, c)| format!("{a}\"{name}\"{b}:{c}{value}{a}"))
}

fn line() -> impl Strategy<Value = String> {
    let row = (prop::collection::vec(member(), 0..5), 0..20_u8).prop_map(|(members, kind)| {
        let required = if kind == 0 { "" } else { "\"r\":1" };
        let separator = if required.is_empty() || members.is_empty() {
            ""
        } else {
            ","
        };
        let row = format!("{{{required}{separator}{}}}", members.join(","));
        match kind {
            1 => format!("{row}x"),
            2 => row[..row.len() - 1].to_owned(),
            3 => format!(" {row}\r"),
            4 => format!("[{row}]"),
            _ => row,
        }
    });
    prop_oneof![20 => row, 1 => select(vec!["", "  ", "null", "{", "1"]).prop_map(str::to_owned)]
}

proptest! {
    #[test]
    fn rows_read_directly_are_those_of_the_general_way(
        lines in prop::collection::vec(line(), 0..40),
        keeps_rest: bool,
        unit in select(vec![EpochUnit::Auto, EpochUnit::Ms, EpochUnit::Ns]),
    ) {
        assert_same(&lines.join("\n"), keeps_rest, unit);
    }
}

#[test]
fn each_value_in_each_column() {
    for name in NAMES {
        for value in VALUES {
            let row = format!("{{\"r\":1,\"{name}\":{value}}}");
            let body = format!("{{\"r\":0,\"i\":5}}\n{row}\n{{\"r\":2,\"f\":1.5}}\n{row}");
            assert_same(&body, false, EpochUnit::Auto);
            assert_same(&body, true, EpochUnit::Us);
        }
    }
}

#[test]
fn plain_rows_are_read_directly() {
    let schema = schema(false);
    let target = Target {
        schema: &schema,
        event_time: Some("t"),
        options: &InputOptions::default(),
    };
    let shape = Shape::new(&schema.fields, LIMITS.max_fields).expect("a shape");
    let mut rows = DirectRows::new(&target, &shape, &LIMITS, 1);
    for row in [
        r#"{"r":1,"b":true,"i":7,"f":0.25,"s":"a","t":"2026-11-02T10:00:00Z","o":{"x":1},"l":[1]}"#,
        r#"{"s": "with \"escapes\"", "r": 2, "n": 9007199254740993, "u": 1793577600}"#,
        r#"{"r":3,"s":null,"o":null,"l":[null]}"#,
    ] {
        assert!(rows.push(row), "{row}");
    }
    assert_eq!(rows.count(), 3);
}
