//! The parts of JSON that are read directly. `None` means: not so simple, or wrong.

use std::borrow::Cow;

use super::super::json;

/// Digits of an integer that cannot overflow.
const SURE_DIGITS: usize = 18;
/// Digits of a number that a float holds exactly, so that one division rounds it right.
const EXACT_DIGITS: usize = 15;
const POWERS_OF_TEN: [f64; EXACT_DIGITS + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];

#[derive(Clone, Copy)]
pub enum Number {
    Int(i64),
    Float(f64),
}

pub struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Reader {
            text,
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    /// The next byte that is no white space.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    #[inline]
    pub fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    #[inline]
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }

    /// A text without white space around it.
    #[inline]
    pub fn take_all(&mut self, text: &[u8]) -> bool {
        let is_there = self.bytes[self.at..].starts_with(text);
        if is_there {
            self.at += text.len();
        }
        is_there
    }

    pub fn end(&mut self) -> Option<()> {
        self.peek().is_none().then_some(())
    }

    /// A string without escapes.
    #[inline]
    pub fn plain_string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let start = self.at;
        let end = json::plain_end(self.bytes, start);
        if *self.bytes.get(end)? != b'"' {
            return None;
        }
        self.at = end + 1;
        Some(&self.text[start..end])
    }

    #[inline]
    pub fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        if let Some(plain) = self.plain_string() {
            return Some(Cow::Borrowed(plain));
        }
        self.at = start;
        let (text, end) = json::string_at(self.text, start)?;
        self.at = end;
        Some(text)
    }

    #[inline]
    pub fn number(&mut self) -> Option<Number> {
        let start = self.at;
        let is_negative = self.take_all(b"-");
        let first = self.at;
        let whole = self.digits(0);
        let length = self.at - first;
        if length == 0 || length > SURE_DIGITS || (length > 1 && self.bytes[first] == b'0') {
            return None;
        }
        match self.bytes.get(self.at) {
            Some(b'.' | b'e' | b'E') => self.fraction(start, whole, length, is_negative),
            // At most 18 digits.
            _ => Some(Number::Int(if is_negative {
                -(whole as i64)
            } else {
                whole as i64
            })),
        }
    }

    fn fraction(
        &mut self,
        start: usize,
        whole: u64,
        length: usize,
        is_negative: bool,
    ) -> Option<Number> {
        let mut exact = Some(whole);
        let mut decimals = 0;
        if self.take_all(b".") {
            let first = self.at;
            let digits = self.digits(whole);
            decimals = self.at - first;
            if decimals == 0 {
                return None;
            }
            exact = (length + decimals <= EXACT_DIGITS).then_some(digits);
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            let first = self.at;
            self.digits(0);
            if self.at == first {
                return None;
            }
            exact = None;
        }
        let number = match exact {
            Some(digits) => {
                let number = digits as f64 / POWERS_OF_TEN[decimals];
                if is_negative { -number } else { number }
            }
            None => self.text[start..self.at].parse().ok()?,
        };
        number.is_finite().then_some(Number::Float(number))
    }

    /// Digits behind those of `before`; too many of them wrap around.
    #[inline]
    fn digits(&mut self, before: u64) -> u64 {
        let mut number = before;
        while let Some(digit) = self.bytes.get(self.at).map(|byte| byte.wrapping_sub(b'0'))
            && digit < 10
        {
            number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        number
    }
}
