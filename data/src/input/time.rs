//! The forms in which clients write a point in time, as microseconds since 1970 in UTC.

use super::value::Value;

const MICROS: i64 = 1_000_000;

/// Epoch numbers below this are seconds (up to the year 5138), below a thousand times this
/// milliseconds, then microseconds, then nanoseconds.
const EPOCH_SECONDS_END: u64 = 100_000_000_000;

/// What a timestamp column takes: RFC 3339 (without a zone: UTC), Common Log Format time,
/// epoch numbers by magnitude. Numbers in strings are not taken.
pub(super) fn from_value(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Micros(micros) => Some(*micros),
        Value::Int(number) => from_epoch(*number),
        Value::Float(number) => from_epoch_float(*number),
        Value::Text(text) => from_string(text),
        _ => None,
    }
}

pub(super) fn from_string(text: &str) -> Option<i64> {
    from_text(text).or_else(|| from_log(text))
}

/// A full RFC 3339 date-time: `T` and a zone are there.
pub(super) fn from_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let separated_by_t = matches!(bytes.get(10), Some(b'T' | b't'));
    let zoned = matches!(
        bytes,
        [.., b'Z' | b'z'] | [.., b'+' | b'-', _, _, b':', _, _]
    );
    if separated_by_t && zoned {
        from_text(text)
    } else {
        None
    }
}

/// RFC 3339 with the liberties clients take: a space for `T`, no zone, a zone without colon
/// or after a space; and the years with a sign that answers have beyond 0 to 9999.
fn from_text(text: &str) -> Option<i64> {
    let mut scan = Scan {
        rest: text.as_bytes(),
    };
    let year = scan.year()?;
    scan.byte(b'-')?;
    let month = scan.digits(2)?;
    scan.byte(b'-')?;
    let day = scan.digits(2)?;
    match scan.next()? {
        b'T' | b't' | b' ' => {}
        _ => return None,
    }
    let second_of_day = scan.clock()?;
    let fraction = scan.fraction()?;
    let offset = match scan.rest {
        [] => 0,
        [b'Z' | b'z'] => 0,
        [b' ', zone @ ..] => Scan { rest: zone }.offset()?,
        _ => scan.offset()?,
    };
    let seconds = days_from_civil(year, month, day)? * 86_400 + second_of_day - offset;
    seconds.checked_mul(MICROS)?.checked_add(fraction)
}

/// The time of an access log line, without its brackets: `17/May/2015:10:05:03 +0000`.
pub(super) fn from_log(text: &str) -> Option<i64> {
    let mut scan = Scan {
        rest: text.as_bytes(),
    };
    let day = scan.digits(2)?;
    scan.byte(b'/')?;
    let month = scan.month()?;
    scan.byte(b'/')?;
    let year = scan.digits(4)?;
    scan.byte(b':')?;
    let second_of_day = scan.clock()?;
    scan.byte(b' ')?;
    let offset = scan.offset()?;
    let seconds = days_from_civil(year, month, day)? * 86_400 + second_of_day - offset;
    Some(seconds * MICROS)
}

pub(super) fn from_epoch(number: i64) -> Option<i64> {
    match number.unsigned_abs() {
        size if size < EPOCH_SECONDS_END => number.checked_mul(MICROS),
        size if size < EPOCH_SECONDS_END * 1_000 => number.checked_mul(1_000),
        size if size < EPOCH_SECONDS_END * 1_000_000 => Some(number),
        _ => Some(number.div_euclid(1_000)),
    }
}

pub(super) fn from_epoch_float(number: f64) -> Option<i64> {
    let end = EPOCH_SECONDS_END as f64;
    let micros = match number.abs() {
        size if size < end => number * 1e6,
        size if size < end * 1e3 => number * 1e3,
        size if size < end * 1e6 => number,
        size if size < 9e18 => number / 1e3,
        _ => return None,
    };
    Some(micros.round() as i64)
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return None,
    };
    if day < 1 || day > length {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

struct Scan<'a> {
    rest: &'a [u8],
}

impl Scan<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn byte(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let mut number = 0;
        for _ in 0..count {
            let digit = self.next()?;
            if !digit.is_ascii_digit() {
                return None;
            }
            number = number * 10 + i64::from(digit - b'0');
        }
        Some(number)
    }

    /// Four digits, or a sign and four to six of them, as ISO 8601 expands years.
    fn year(&mut self) -> Option<i64> {
        let sign = match self.rest.first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return self.digits(4),
        };
        self.next()?;
        let is_digit = |byte: &&u8| byte.is_ascii_digit();
        let length = self.rest.iter().take_while(is_digit).count();
        let year = (4..=6).contains(&length).then(|| self.digits(length))?;
        Some(sign * year?)
    }

    fn month(&mut self) -> Option<i64> {
        const NAMES: [&[u8; 3]; 12] = [
            b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov",
            b"dec",
        ];
        let name = [self.next()?, self.next()?, self.next()?].map(|b| b.to_ascii_lowercase());
        let index = NAMES.iter().position(|known| **known == name)?;
        Some(index as i64 + 1)
    }

    /// `hh:mm:ss` in seconds. A leap second is the first second of the next minute.
    fn clock(&mut self) -> Option<i64> {
        let hour = self.digits(2)?;
        self.byte(b':')?;
        let minute = self.digits(2)?;
        self.byte(b':')?;
        let second = self.digits(2)?;
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        Some(hour * 3_600 + minute * 60 + second)
    }

    /// `.123456789` in whole microseconds, 0 when there is none.
    fn fraction(&mut self) -> Option<i64> {
        if self.rest.first() != Some(&b'.') {
            return Some(0);
        }
        self.next()?;
        let length = self
            .rest
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if length == 0 {
            return None;
        }
        let (digits, rest) = self.rest.split_at(length);
        self.rest = rest;
        let padded = digits
            .iter()
            .copied()
            .chain(std::iter::repeat(b'0'))
            .take(6);
        Some(padded.fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    /// `+02:00` or `+0200` in seconds, and nothing after it.
    fn offset(&mut self) -> Option<i64> {
        let sign = match self.next()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let hour = self.digits(2)?;
        if self.rest.first() == Some(&b':') {
            self.next()?;
        }
        let minute = self.digits(2)?;
        if hour > 23 || minute > 59 || !self.rest.is_empty() {
            return None;
        }
        Some(sign * (hour * 3_600 + minute * 60))
    }
}

#[cfg(test)]
mod tests;
