//! Where the rows of a body lie: its lines, or the objects of its JSON documents.
//!
//! Objects are delimited by counting brackets outside of strings, without recursion and
//! without checking what is between. So a row that turns out bad has known ends, and its
//! neighbours can be kept.

use super::InputError;

/// One row's bytes and its 1-based number.
pub(super) struct Row<'a> {
    pub number: u64,
    /// Where in the body it starts.
    pub start: usize,
    pub bytes: &'a [u8],
}

/// Without a byte order mark, which some editors put first.
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)
}

/// Lines that are not blank, without their line end (LF or CRLF).
pub(super) fn lines(body: &[u8]) -> impl Iterator<Item = Row<'_>> {
    let mut next = 0;
    let numbered = (1..).zip(body.split(|&byte| byte == b'\n'));
    numbered
        .map(move |(number, line)| {
            let start = next;
            next += line.len() + 1;
            Row {
                number,
                start,
                bytes: line.strip_suffix(b"\r").unwrap_or(line),
            }
        })
        .filter(|row| !row.bytes.iter().all(|byte| is_space(*byte)))
}

/// Visits the rows of JSON documents: each element of an array, each other value as a whole.
///
/// # Errors
///
/// [`InputError::Syntax`] when brackets, quotes or commas between elements do not match,
/// and what `visit` returns.
pub(super) fn documents<'a>(
    body: &'a [u8],
    visit: impl FnMut(Row<'a>) -> Result<(), InputError>,
) -> Result<(), InputError> {
    let mut scan = Documents {
        body,
        at: 0,
        rows: 0,
        visit,
    };
    scan.skip_space();
    while scan.at < body.len() {
        if scan.peek() == Some(b'[') {
            scan.array()?;
        } else {
            scan.value()?;
        }
        scan.skip_space();
    }
    Ok(())
}

/// A syntax error at a byte of the body.
pub(super) fn syntax(body: &[u8], offset: usize, message: String) -> InputError {
    let before = &body[..offset.min(body.len())];
    let line_start = before
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    InputError::Syntax {
        line: before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1,
        column: column(&before[line_start..]),
        message,
    }
}

/// The 1-based column of the character after `before`, which starts its line.
pub(super) fn column(before: &[u8]) -> u64 {
    String::from_utf8_lossy(before).chars().count() as u64 + 1
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

struct Documents<'a, V> {
    body: &'a [u8],
    at: usize,
    rows: u64,
    visit: V,
}

impl<'a, V: FnMut(Row<'a>) -> Result<(), InputError>> Documents<'a, V> {
    fn array(&mut self) -> Result<(), InputError> {
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.skip_space();
            self.value()?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.broken("expected `,` or `]` after an element of the array")),
            }
        }
    }

    fn value(&mut self) -> Result<(), InputError> {
        let start = self.at;
        match self.peek() {
            Some(b'{' | b'[') => self.brackets()?,
            Some(b'"') => self.string()?,
            _ => {
                let ends = |byte: &u8| is_space(*byte) || b",:[]{}\"".contains(byte);
                let rest = &self.body[start..];
                self.at += rest.iter().position(ends).unwrap_or(rest.len());
            }
        }
        if self.at == start {
            return Err(self.broken("expected a value"));
        }
        self.rows += 1;
        (self.visit)(Row {
            number: self.rows,
            start,
            bytes: &self.body[start..self.at],
        })
    }

    fn brackets(&mut self) -> Result<(), InputError> {
        let mut open = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' | b'[' => open += 1,
                b'}' | b']' => open -= 1,
                b'"' => {
                    self.string()?;
                    continue;
                }
                _ => {}
            }
            self.at += 1;
            if open == 0 {
                return Ok(());
            }
        }
        Err(self.broken("the document ends within an object or array"))
    }

    fn string(&mut self) -> Result<(), InputError> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return Ok(()),
                b'\\' => self.at += 1,
                _ => {}
            }
        }
        self.at = start;
        Err(self.broken("the string does not end"))
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn broken(&self, message: &str) -> InputError {
        syntax(self.body, self.at, message.to_owned())
    }
}
