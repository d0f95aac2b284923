//! Arrow's many types into the engine's seven.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, PrimitiveArray, StringArray,
    StructArray,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, DecimalType, FieldRef, Fields, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::column::nullable;
use super::super::{InputError, MAX_DEPTH};

/// Rows that have a value which no type of the engine holds.
pub(super) struct Bad {
    pub rows: BooleanBuffer,
    /// The column, such as `payload.size`.
    pub field: String,
    pub reason: &'static str,
}

const DAY_MICROS: i64 = 86_400_000_000;

/// A column in one of the engine's types; `None` if its type has no values at all. Values
/// that fit no type become null, and their rows are told in `bad`.
///
/// # Errors
///
/// [`InputError::Invalid`] for a type that has no counterpart, naming the column.
pub(super) fn convert(
    array: &ArrayRef,
    path: &str,
    bad: &mut Vec<Bad>,
) -> Result<Option<ArrayRef>, InputError> {
    Converter {
        path: path.to_owned(),
        bad,
    }
    .convert(array, 0)
}

struct Converter<'b> {
    path: String,
    bad: &'b mut Vec<Bad>,
}

impl Converter<'_> {
    fn convert(&mut self, array: &ArrayRef, depth: usize) -> Result<Option<ArrayRef>, InputError> {
        use DataType as D;
        if depth > MAX_DEPTH {
            return Err(self.unsupported("a type nested too deeply"));
        }
        let converted: ArrayRef = match array.data_type() {
            D::Null => return Ok(None),
            D::Boolean | D::Int64 | D::Float64 | D::Utf8 => Arc::clone(array),
            D::Int8 | D::Int16 | D::Int32 | D::UInt8 | D::UInt16 | D::UInt32 => {
                cast(array, &D::Int64)?
            }
            D::UInt64 => {
                let whole = cast(array, &D::Int64)?;
                self.lost(array, whole, "beyond 64-bit integers")
            }
            D::Float16 | D::Float32 => cast(array, &D::Float64)?,
            D::Decimal32(..) => self.decimal(array.as_primitive::<Decimal32Type>()),
            D::Decimal64(..) => self.decimal(array.as_primitive::<Decimal64Type>()),
            D::Decimal128(..) => self.decimal(array.as_primitive::<Decimal128Type>()),
            D::Decimal256(..) => self.decimal(array.as_primitive::<Decimal256Type>()),
            D::Date32 => self.time(array.as_primitive::<Date32Type>(), |days| {
                i64::from(days).checked_mul(DAY_MICROS)
            }),
            D::Date64 => self.time(array.as_primitive::<Date64Type>(), |ms| {
                ms.checked_mul(1_000)
            }),
            D::Timestamp(unit, _) => self.timestamp(array, *unit),
            D::LargeUtf8 | D::Utf8View => cast(array, &D::Utf8)?,
            D::Binary | D::LargeBinary | D::FixedSizeBinary(_) | D::BinaryView => base64(array)?,
            D::Dictionary(_, values) => {
                let plain = cast(array, values)?;
                return self.convert(&plain, depth + 1);
            }
            D::RunEndEncoded(_, values) => {
                let plain = cast(array, values.data_type())?;
                return self.convert(&plain, depth + 1);
            }
            D::Struct(_) => return self.object(array.as_struct(), depth),
            D::List(_) => return self.list(array.as_list::<i32>(), depth),
            D::LargeList(item)
            | D::FixedSizeList(item, _)
            | D::ListView(item)
            | D::LargeListView(item) => {
                let list = cast(array, &D::List(Arc::clone(item)))?;
                return self.list(list.as_list::<i32>(), depth);
            }
            D::Map(..) => return self.map(array, depth),
            other => return Err(self.unsupported(&format!("the type {other}"))),
        };
        Ok(Some(converted))
    }

    /// Notes values that a conversion made null.
    fn lost(&mut self, before: &dyn Array, after: ArrayRef, reason: &'static str) -> ArrayRef {
        if after.null_count() > before.null_count() {
            let rows = (0..after.len()).map(|row| after.is_null(row) && before.is_valid(row));
            self.bad.push(Bad {
                rows: rows.collect(),
                field: self.path.clone(),
                reason,
            });
        }
        after
    }

    fn decimal<T: DecimalType + ArrowPrimitiveType>(
        &mut self,
        array: &PrimitiveArray<T>,
    ) -> ArrayRef {
        let scale = usize::try_from(array.scale()).unwrap_or(0);
        let text = |row| array.is_valid(row).then(|| array.value_as_string(row));
        let texts = (0..array.len()).map(text);
        if scale == 0 {
            let whole: Int64Array = texts.map(|text| text?.parse().ok()).collect();
            return self.lost(array, Arc::new(whole), "a decimal beyond 64-bit integers");
        }
        let exact = |text: Option<String>| {
            let text = text?;
            let number: f64 = text.parse().ok()?;
            let again = format!("{number:.scale$}");
            (again.trim_start_matches('-') == text.trim_start_matches('-')).then_some(number)
        };
        let floats: Float64Array = texts.map(exact).collect();
        self.lost(
            array,
            Arc::new(floats),
            "a decimal with more digits than 64-bit floats keep",
        )
    }

    fn time<T: ArrowPrimitiveType>(
        &mut self,
        array: &PrimitiveArray<T>,
        micros: impl Fn(T::Native) -> Option<i64>,
    ) -> ArrayRef {
        let times: PrimitiveArray<TimestampMicrosecondType> = array.unary_opt(micros);
        let times = Arc::new(times.with_timezone("UTC"));
        self.lost(array, times, "a time beyond 64 bits of microseconds")
    }

    fn timestamp(&mut self, array: &ArrayRef, unit: TimeUnit) -> ArrayRef {
        match unit {
            TimeUnit::Second => {
                let array = array.as_primitive::<TimestampSecondType>();
                self.time(array, |s| s.checked_mul(1_000_000))
            }
            TimeUnit::Millisecond => {
                let array = array.as_primitive::<TimestampMillisecondType>();
                self.time(array, |ms| ms.checked_mul(1_000))
            }
            TimeUnit::Microsecond => {
                let array = array.as_primitive::<TimestampMicrosecondType>();
                Arc::new(array.clone().with_timezone("UTC"))
            }
            TimeUnit::Nanosecond => {
                let array = array.as_primitive::<TimestampNanosecondType>();
                self.time(array, |ns| Some(ns.div_euclid(1_000)))
            }
        }
    }

    fn object(
        &mut self,
        array: &StructArray,
        depth: usize,
    ) -> Result<Option<ArrayRef>, InputError> {
        let (mut fields, mut arrays): (Vec<FieldRef>, _) = (Vec::new(), Vec::new());
        for (field, member) in array.fields().iter().zip(array.columns()) {
            if fields.iter().any(|other| other.name() == field.name()) {
                return Err(self.unsupported(&format!("two members {:?}", field.name())));
            }
            let length = self.path.len();
            self.path.push('.');
            self.path.push_str(field.name());
            let member = self.convert(member, depth + 1);
            self.path.truncate(length);
            if let Some(member) = member? {
                fields.push(nullable(field.name(), member.data_type().clone()));
                arrays.push(member);
            }
        }
        if fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(StructArray::try_new(
            Fields::from(fields),
            arrays,
            array.nulls().cloned(),
        )?)))
    }

    fn list(&mut self, array: &ListArray, depth: usize) -> Result<Option<ArrayRef>, InputError> {
        let before = self.bad.len();
        let Some(values) = self.convert(array.values(), depth + 1)? else {
            return Ok(None);
        };
        // What was told of elements is true of the rows they are in.
        for bad in &mut self.bad[before..] {
            let offsets = array.value_offsets();
            let has_bad = |row: usize| {
                (offsets[row]..offsets[row + 1]).any(|index| bad.rows.value(index as usize))
            };
            bad.rows = (0..array.len())
                .map(|row| array.is_valid(row) && has_bad(row))
                .collect();
        }
        let item = nullable("element", values.data_type().clone());
        Ok(Some(Arc::new(ListArray::try_new(
            item,
            array.offsets().clone(),
            values,
            array.nulls().cloned(),
        )?)))
    }

    /// A list of objects with `key` and `value`.
    fn map(&mut self, array: &ArrayRef, depth: usize) -> Result<Option<ArrayRef>, InputError> {
        let map = array.as_map();
        let named = |name: &str, array: &ArrayRef| nullable(name, array.data_type().clone());
        let fields = [named("key", map.keys()), named("value", map.values())];
        let arrays = vec![Arc::clone(map.keys()), Arc::clone(map.values())];
        let entries = StructArray::try_new(Fields::from(fields.to_vec()), arrays, None)?;
        let list = ListArray::try_new(
            nullable("element", entries.data_type().clone()),
            map.offsets().clone(),
            Arc::new(entries),
            map.nulls().cloned(),
        )?;
        self.list(&list, depth)
    }

    fn unsupported(&self, what: &str) -> InputError {
        let message = format!(
            "column {} has {what}, which a stream cannot hold: convert it or leave it out",
            self.path
        );
        InputError::invalid("unsupported_type", message)
    }
}

fn base64(array: &ArrayRef) -> Result<ArrayRef, InputError> {
    let binary = cast(array, &DataType::LargeBinary)?;
    let texts = binary.as_binary::<i64>().iter();
    let texts: StringArray = texts.map(|bytes| Some(STANDARD.encode(bytes?))).collect();
    Ok(Arc::new(texts))
}
