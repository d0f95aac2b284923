//! How one value is written in JSON.
//!
//! arrow-json has most of it right: exact 64-bit integers and decimals, NaN and infinity as
//! null, ISO dates. This adds what it has not: binary as base64, timestamps always in UTC with
//! a `Z`, and nulls inside of dictionaries.

use arrow::array::{Array, ArrayRef, AsArray, types};
use arrow::datatypes::{ArrowTimestampType, DataType, FieldRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use arrow::temporal_conversions::as_datetime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, SecondsFormat, Utc};

/// The options all JSON values are written with.
pub(super) fn options() -> EncoderOptions {
    EncoderOptions::default()
        .with_explicit_nulls(true)
        .with_encoder_factory(std::sync::Arc::new(Cells))
}

/// An encoder of one column or struct; ask it `is_null` before `encode`.
pub(super) fn encoder<'a>(
    field: &'a FieldRef,
    array: &'a ArrayRef,
    options: &'a EncoderOptions,
) -> Result<NullableEncoder<'a>, ArrowError> {
    make_encoder(field, array.as_ref(), options)
}

#[derive(Debug)]
struct Cells;

impl EncoderFactory for Cells {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Binary => base64(array.as_binary::<i32>()),
            DataType::LargeBinary => base64(array.as_binary::<i64>()),
            DataType::BinaryView => base64(array.as_binary_view()),
            DataType::FixedSizeBinary(_) => base64(array.as_fixed_size_binary()),
            DataType::Timestamp(TimeUnit::Second, _) => {
                timestamps::<types::TimestampSecondType>(array)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                timestamps::<types::TimestampMillisecondType>(array)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                timestamps::<types::TimestampMicrosecondType>(array)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                timestamps::<types::TimestampNanosecondType>(array)
            }
            DataType::Dictionary(..) => {
                let dictionary = array.as_any_dictionary();
                if dictionary.values().is_empty() {
                    Box::new(Nulls)
                } else {
                    Box::new(Looked {
                        keys: dictionary.normalized_keys(),
                        values: make_encoder(field, dictionary.values().as_ref(), options)?,
                    })
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.logical_nulls())))
    }
}

/// Writes by a function of the row.
struct By<F>(F);

impl<F: Fn(usize, &mut Vec<u8>)> Encoder for By<F> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        (self.0)(row, out);
    }
}

fn base64<'a, B>(array: B) -> Box<dyn Encoder + 'a>
where
    B: arrow::array::ArrayAccessor<Item = &'a [u8]> + 'a,
{
    Box::new(By(move |row: usize, out: &mut Vec<u8>| {
        out.push(b'"');
        out.extend_from_slice(BASE64.encode(array.value(row)).as_bytes());
        out.push(b'"');
    }))
}

fn timestamps<'a, T: ArrowTimestampType>(array: &'a dyn Array) -> Box<dyn Encoder + 'a> {
    let values = array.as_primitive::<T>();
    Box::new(By(move |row: usize, out: &mut Vec<u8>| {
        let value = values.value(row);
        match as_datetime::<T>(value) {
            Some(time) => {
                let time = DateTime::<Utc>::from_naive_utc_and_offset(time, Utc);
                let text = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            // Outside of the calendar (year 262,143): the raw number keeps the value.
            None => out.extend_from_slice(value.to_string().as_bytes()),
        }
    }))
}

/// A dictionary's rows, each the value its key points to.
struct Looked<'a> {
    keys: Vec<usize>,
    values: NullableEncoder<'a>,
}

impl Encoder for Looked<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        self.values.encode(self.keys[row], out);
    }
}

/// A dictionary without values: every row is null and nobody asks.
struct Nulls;

impl Encoder for Nulls {
    fn encode(&mut self, _row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"null");
    }
}
