//! Random events as NDJSON: nulls, missing fields, nested ones, few and many distinct values.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use datafusion::arrow::datatypes::{DataType, Field, Fields, TimeUnit};

/// The columns a stream is declared with; `id` tells the events of one test apart.
pub fn fields() -> Vec<Field> {
    let nested = Fields::from(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("c", DataType::Utf8, true),
    ]);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    vec![
        Field::new("id", DataType::Int64, true),
        Field::new("k", DataType::Utf8, true),
        Field::new("g", DataType::Int64, true),
        Field::new("i", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("y", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("ts", utc, true),
        Field::new("n", DataType::Struct(nested), true),
    ]
}

/// An event with a value in every field: the first of a stream whose columns are not declared.
pub fn full_event(id: u64) -> Value {
    json!({
        "id": id, "k": "key0", "g": 1, "i": 3, "x": 1.5, "y": -0.5, "s": "word1", "b": true,
        "ts": "2026-01-01T00:00:01Z", "n": {"a": 1, "c": "red"},
    })
}

pub fn random_event(rng: &mut StdRng, id: u64, late_column: bool) -> Value {
    let mut event = Map::new();
    event.insert("id".to_owned(), id.into());
    let key = match rng.random_range(0..6) {
        0 => String::new(),
        1 => "ключ".to_owned(),
        at => format!("key{at}"),
    };
    put(rng, &mut event, "k", key);
    let value = rng.random_range(0..4);
    put(rng, &mut event, "g", value);
    let value = match rng.random_bool(0.05) {
        true => rng.random_range(-1_i64 << 50..1 << 50),
        false => rng.random_range(-20..20),
    };
    put(rng, &mut event, "i", value);
    let value = match rng.random_range(0..20) {
        0 => 0.0,
        1 => -0.0,
        2 => rng.random_range(-1e12..1e12),
        3 => rng.random_range(-1e-9..1e-9),
        4..8 => f64::from(rng.random_range(-3..3)) * 0.1,
        _ => rng.random_range(-100.0..100.0),
    };
    put(rng, &mut event, "x", value);
    let value = rng.random_range(-1.0..1.0);
    put(rng, &mut event, "y", value);
    let words = if rng.random_bool(0.7) { 12 } else { 100_000 };
    let value = format!("word{}", rng.random_range(0..words));
    put(rng, &mut event, "s", value);
    let value = rng.random_bool(0.6);
    put(rng, &mut event, "b", value);
    // Few distinct times, in no order: ties are the rule.
    let value = format!("2026-01-01T00:00:0{}.25Z", rng.random_range(0..10));
    put(rng, &mut event, "ts", value);
    let mut nested = Map::new();
    let value = rng.random_range(0..3);
    put(rng, &mut nested, "a", value);
    let value = ["red", "green", "blue"][rng.random_range(0..3)];
    put(rng, &mut nested, "c", value);
    if !nested.is_empty() {
        put(rng, &mut event, "n", nested);
    }
    if late_column {
        let value = rng.random_range(0..9);
        put(rng, &mut event, "z", value);
    }
    Value::Object(event)
}

/// A value, a null or nothing.
fn put(rng: &mut StdRng, into: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    match rng.random_range(0..20) {
        0 => {}
        1 => {
            into.insert(name.to_owned(), Value::Null);
        }
        _ => {
            into.insert(name.to_owned(), value.into());
        }
    }
}
