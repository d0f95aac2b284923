//! How one value is written in JSON.
//!
//! arrow-json has most of it right: exact 64-bit integers and decimals, NaN and infinity as
//! null. This adds what it has not: binary as base64, dates and times that never turn into an
//! error text ([`times`]), maps with keys that are no text, and nulls inside of dictionaries.

use arrow::array::{Array, ArrayRef, AsArray, MapArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use arrow::json::writer::{NullableEncoder, make_encoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::times;

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
            DataType::Map(..) => Box::new(Map::try_new(field, array.as_map(), options)?),
            _ => match times::encoder(array) {
                Some(encoder) => encoder,
                None => return Ok(None),
            },
        };
        Ok(Some(NullableEncoder::new(encoder, array.logical_nulls())))
    }
}

/// Writes by a function of the row.
pub(super) struct By<F>(pub(super) F);

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

/// A map as an object: the keys are the text that the key has elsewhere.
struct Map<'a> {
    offsets: &'a OffsetBuffer<i32>,
    keys: NullableEncoder<'a>,
    values: NullableEncoder<'a>,
}

impl<'a> Map<'a> {
    fn try_new(
        field: &'a FieldRef,
        array: &'a MapArray,
        options: &'a EncoderOptions,
    ) -> Result<Self, ArrowError> {
        Ok(Self {
            offsets: array.offsets(),
            keys: make_encoder(field, array.keys(), options)?,
            values: make_encoder(field, array.values(), options)?,
        })
    }
}

impl Encoder for Map<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        // Offsets are never negative: an OffsetBuffer checks that when it is made.
        let (from, to) = (self.offsets[row] as usize, self.offsets[row + 1] as usize);
        for entry in from..to {
            if entry > from {
                out.push(b',');
            }
            let mut key = Vec::new();
            write_or_null(&mut self.keys, entry, &mut key);
            push_key(&key, out);
            out.push(b':');
            write_or_null(&mut self.values, entry, out);
        }
        out.push(b'}');
    }
}

fn write_or_null(encoder: &mut NullableEncoder<'_>, row: usize, out: &mut Vec<u8>) {
    if encoder.is_null(row) {
        out.extend_from_slice(b"null");
    } else {
        encoder.encode(row, out);
    }
}

/// A JSON value as the key of an object: text is one, everything else is put in quotes.
fn push_key(key: &[u8], out: &mut Vec<u8>) {
    if key.first() == Some(&b'"') {
        out.extend_from_slice(key);
        return;
    }
    out.push(b'"');
    for byte in key {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out.push(b'"');
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
