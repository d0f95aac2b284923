//! Dates, times, durations and intervals as ISO 8601 text, the same in JSON, CSV and tables.
//!
//! A timestamp is RFC 3339 in UTC. A duration counts seconds (`PT90.5S`). An interval keeps its
//! parts apart, each with its own sign, as PostgreSQL does (`P1Y2M-3DT4H`): a month has no fixed
//! number of days. A value outside of the calendar (year 262,143) has no text and is written as
//! the raw number, which keeps it.

use std::fmt::Write as _;

use arrow::array::{Array, ArrowPrimitiveType, AsArray, types};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use arrow::json::Encoder;
use arrow::temporal_conversions::{as_date, as_datetime, as_time};
use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};

use super::cells::By;

const MILLIS_PER_DAY: i64 = 86_400_000;
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// The encoder of a column of dates or times; `None` for any other type.
pub(super) fn encoder<'a>(array: &'a dyn Array) -> Option<Box<dyn Encoder + 'a>> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    Some(match array.data_type() {
        DataType::Date32 => quoted::<types::Date32Type>(array, |days| {
            Some(date(as_date::<types::Date32Type>(i64::from(days))?))
        }),
        DataType::Date64 => quoted::<types::Date64Type>(array, |millis| {
            if millis % MILLIS_PER_DAY == 0 {
                return Some(date(as_date::<types::Date64Type>(millis)?));
            }
            // Against its definition, but seen: the time of day is not thrown away.
            timestamp::<types::TimestampMillisecondType>(millis)
        }),
        DataType::Time32(Second) => quoted::<types::Time32SecondType>(array, |time| {
            Some(time_of_day(as_time::<types::Time32SecondType>(
                time.into(),
            )?))
        }),
        DataType::Time32(_) => quoted::<types::Time32MillisecondType>(array, |time| {
            Some(time_of_day(as_time::<types::Time32MillisecondType>(
                time.into(),
            )?))
        }),
        DataType::Time64(Nanosecond) => quoted::<types::Time64NanosecondType>(array, |time| {
            Some(time_of_day(as_time::<types::Time64NanosecondType>(time)?))
        }),
        DataType::Time64(_) => quoted::<types::Time64MicrosecondType>(array, |time| {
            Some(time_of_day(as_time::<types::Time64MicrosecondType>(time)?))
        }),
        DataType::Timestamp(Second, _) => {
            quoted::<types::TimestampSecondType>(array, timestamp::<types::TimestampSecondType>)
        }
        DataType::Timestamp(Millisecond, _) => quoted::<types::TimestampMillisecondType>(
            array,
            timestamp::<types::TimestampMillisecondType>,
        ),
        DataType::Timestamp(Microsecond, _) => quoted::<types::TimestampMicrosecondType>(
            array,
            timestamp::<types::TimestampMicrosecondType>,
        ),
        DataType::Timestamp(Nanosecond, _) => quoted::<types::TimestampNanosecondType>(
            array,
            timestamp::<types::TimestampNanosecondType>,
        ),
        DataType::Duration(Second) => {
            quoted::<types::DurationSecondType>(array, |value| Some(duration(value, 1_000_000_000)))
        }
        DataType::Duration(Millisecond) => {
            quoted::<types::DurationMillisecondType>(array, |value| {
                Some(duration(value, 1_000_000))
            })
        }
        DataType::Duration(Microsecond) => {
            quoted::<types::DurationMicrosecondType>(array, |value| Some(duration(value, 1_000)))
        }
        DataType::Duration(Nanosecond) => {
            quoted::<types::DurationNanosecondType>(array, |value| Some(duration(value, 1)))
        }
        DataType::Interval(IntervalUnit::YearMonth) => {
            quoted::<types::IntervalYearMonthType>(array, |months| Some(interval(months, 0, 0)))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            quoted::<types::IntervalDayTimeType>(array, |value| {
                let nanos = i64::from(value.milliseconds) * 1_000_000;
                Some(interval(0, value.days, nanos))
            })
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            quoted::<types::IntervalMonthDayNanoType>(array, |value| {
                Some(interval(value.months, value.days, value.nanoseconds))
            })
        }
        _ => return None,
    })
}

/// Writes the text that `write` makes of a value, or the raw value if it makes none.
fn quoted<'a, T: ArrowPrimitiveType>(
    array: &'a dyn Array,
    write: impl Fn(T::Native) -> Option<String> + 'a,
) -> Box<dyn Encoder + 'a> {
    let values = array.as_primitive::<T>();
    Box::new(By(move |row: usize, out: &mut Vec<u8>| {
        let value = values.value(row);
        match write(value) {
            Some(text) => {
                out.push(b'"');
                out.extend_from_slice(text.as_bytes());
                out.push(b'"');
            }
            None => out.extend_from_slice(format!("{value:?}").as_bytes()),
        }
    }))
}

fn date(date: NaiveDate) -> String {
    date.to_string()
}

fn time_of_day(time: NaiveTime) -> String {
    time.to_string()
}

fn timestamp<T: types::ArrowTimestampType>(value: i64) -> Option<String> {
    let time = DateTime::<Utc>::from_naive_utc_and_offset(as_datetime::<T>(value)?, Utc);
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `-PT1.5S`: whole and fractional seconds, one sign for all.
fn duration(value: i64, nanos_per_unit: i128) -> String {
    let nanos = i128::from(value) * nanos_per_unit;
    let sign = if nanos < 0 { "-" } else { "" };
    let mut text = format!("{sign}PT");
    push_seconds(nanos.abs(), &mut text);
    text
}

/// `P1Y2M3DT4H5M6.7S`, without the parts that are zero.
fn interval(months: i32, days: i32, nanos: i64) -> String {
    let mut text = String::from("P");
    let part = |text: &mut String, value: i64, unit: char| {
        if value != 0 {
            text.push_str(&value.to_string());
            text.push(unit);
        }
    };
    part(&mut text, i64::from(months / 12), 'Y');
    part(&mut text, i64::from(months % 12), 'M');
    part(&mut text, i64::from(days), 'D');
    if nanos != 0 || text.len() == 1 {
        text.push('T');
        let seconds = nanos / 1_000_000_000;
        part(&mut text, seconds / 3_600, 'H');
        part(&mut text, seconds / 60 % 60, 'M');
        let rest = i128::from(nanos % 60_000_000_000);
        if rest != 0 || text.ends_with('T') {
            if rest < 0 {
                text.push('-');
            }
            push_seconds(rest.abs(), &mut text);
        }
    }
    text
}

/// Seconds with as many digits behind the point as they need.
fn push_seconds(nanos: i128, text: &mut String) {
    let (seconds, fraction) = (nanos / NANOS_PER_SECOND, nanos % NANOS_PER_SECOND);
    // Writing into a String cannot fail.
    let _ = write!(text, "{seconds}");
    if fraction != 0 {
        let digits = format!("{fraction:09}");
        text.push('.');
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('S');
}

#[cfg(test)]
mod tests {
    use super::{duration, interval};

    #[test]
    fn durations_keep_every_digit() {
        assert_eq!(duration(0, 1), "PT0S");
        assert_eq!(duration(-1_500, 1_000_000), "-PT1.5S");
        assert_eq!(duration(1, 1), "PT0.000000001S");
        assert_eq!(duration(i64::MIN, 1_000_000_000), "-PT9223372036854775808S");
    }

    #[test]
    fn intervals_keep_their_parts_apart() {
        assert_eq!(interval(0, 0, 0), "PT0S");
        assert_eq!(interval(14, -3, 0), "P1Y2M-3D");
        assert_eq!(interval(-14, 0, 0), "P-1Y-2M");
        assert_eq!(interval(0, 0, 3_723_000_000_001), "PT1H2M3.000000001S");
        assert_eq!(interval(0, 1, -60_500_000_000), "P1DT-1M-0.5S");
        assert_eq!(
            interval(i32::MIN, i32::MIN, i64::MIN),
            "P-178956970Y-8M-2147483648DT-2562047H-47M-16.854775808S"
        );
    }
}
