//! Lines and places in text.

/// One row's bytes and its 1-based number.
pub(super) struct Row<'a> {
    pub number: u64,
    /// Where in the block it starts.
    pub start: usize,
    pub bytes: &'a [u8],
}

/// Without a byte order mark, which some editors put first.
pub(super) fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body)
}

/// Lines that are not blank, without their line end (LF or CRLF).
pub(super) fn lines(body: &[u8]) -> impl Iterator<Item = Row<'_>> {
    let ends = memchr::memchr_iter(b'\n', body).chain([body.len()]);
    let mut next = 0;
    (1..)
        .zip(ends)
        .map(move |(number, end)| {
            let start = next;
            next = end + 1;
            let line = &body[start..end];
            Row {
                number,
                start,
                bytes: line.strip_suffix(b"\r").unwrap_or(line),
            }
        })
        .filter(|row| !row.bytes.iter().all(|byte| is_space(*byte)))
}

/// The 1-based column of the character after `before`, which starts its line.
pub(super) fn column(before: &[u8]) -> u64 {
    String::from_utf8_lossy(before).chars().count() as u64 + 1
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
