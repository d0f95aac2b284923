use super::cut::{Csv, Step, is_one_value};
use super::text::{lines, without_mark};
use super::{Format, InputError, access_log};

/// How many lines are looked at before giving up on an access log.
const LINES: usize = 10;

/// Bytes by which a format or a byte order mark is known.
pub(super) const MAGIC_BYTES: usize = 4;

/// Media types that a body of events never has. A client that sends one has mixed up its
/// files; what the bytes look like does not matter then.
const NEVER_EVENTS: [&str; 6] = [
    "image/",
    "audio/",
    "video/",
    "multipart/",
    "application/pdf",
    "application/zip",
];

/// Guesses the format of a body whose client named none.
///
/// The body decides wherever it can, since clients send NDJSON and arrays alike as
/// `application/json`. Anything unclear is NDJSON, whose rejections say what is wrong.
pub fn sniff(body: &[u8], content_type: Option<&str>) -> Format {
    guess(body, false, &media_type(content_type))
}

/// The same of the beginning of a body; `is_cut` if more follows.
///
/// # Errors
///
/// [`InputError::UnsupportedMedia`] for a content type that never holds events.
pub(super) fn sniff_start(
    body: &[u8],
    is_cut: bool,
    content_type: Option<&str>,
) -> Result<Format, InputError> {
    let media_type = media_type(content_type);
    if NEVER_EVENTS
        .iter()
        .any(|never| media_type.starts_with(never))
    {
        return Err(InputError::UnsupportedMedia {
            content_type: media_type,
        });
    }
    Ok(guess(body, is_cut, &media_type))
}

fn media_type(content_type: Option<&str>) -> String {
    let media_type = content_type.and_then(|value| value.split(';').next());
    media_type.unwrap_or_default().trim().to_ascii_lowercase()
}

fn guess(body: &[u8], is_cut: bool, media_type: &str) -> Format {
    if let Some(format) = clear(body, media_type) {
        return format;
    }
    let body = without_mark(body);
    match lines(body)
        .take(LINES)
        .find_map(|row| log_format(row.bytes))
    {
        Some(format) => return format,
        None if media_type == "application/json" && !starts_with_object(body) => {
            return Format::Json;
        }
        None => {}
    }
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Format::Json,
        Some(b'{') if is_spread_over_lines(body, is_cut) => Format::Json,
        Some(b'{') => Format::Ndjson,
        _ if looks_like_csv(body, is_cut) => Format::Csv,
        _ => Format::Ndjson,
    }
}

/// A body that begins so is text, for all that its sender and its first bytes say.
pub(super) fn is_text(beginning: &[u8], content_type: Option<&str>) -> bool {
    let format = clear(beginning, &media_type(content_type));
    !format.is_some_and(Format::is_binary)
}

/// The format that the first bytes or the content type leave no doubt about.
fn clear(body: &[u8], media_type: &str) -> Option<Format> {
    if body.starts_with(b"PAR1") {
        return Some(Format::Parquet);
    }
    if body.starts_with(b"ARROW1") || body.starts_with(&[0xff; 4]) {
        return Some(Format::Arrow);
    }
    named(media_type)
}

/// The format of a content type that leaves no doubt.
fn named(media_type: &str) -> Option<Format> {
    let is_json_lines = ["ndjson", "jsonl", "jsonlines", "json-lines", "json-seq"]
        .iter()
        .any(|name| media_type.ends_with(name));
    match media_type {
        _ if is_json_lines => Some(Format::Ndjson),
        "text/csv" | "application/csv" => Some(Format::Csv),
        "application/vnd.apache.arrow.stream" | "application/vnd.apache.arrow.file" => {
            Some(Format::Arrow)
        }
        "application/vnd.apache.parquet" | "application/parquet" | "application/x-parquet" => {
            Some(Format::Parquet)
        }
        _ => None,
    }
}

/// A line with a client address is no JSON, whatever else there is.
fn log_format(line: &[u8]) -> Option<Format> {
    let line = std::str::from_utf8(line).ok()?;
    if access_log::parse(line, true, &[]).is_ok() {
        return Some(Format::Combined);
    }
    access_log::parse(line, false, &[])
        .is_ok()
        .then_some(Format::Common)
}

fn starts_with_object(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// The first line is not one object, and neither is the second, which would tell that only
/// the first is broken. A line of which only the beginning is known may be one.
fn is_spread_over_lines(body: &[u8], is_cut: bool) -> bool {
    let is_object = |row: super::text::Row<'_>| {
        let is_last = row.start + row.bytes.len() >= body.len();
        is_one_object(row.bytes) || (is_cut && is_last && starts_with_object(row.bytes))
    };
    !lines(body).take(2).any(is_object)
}

fn is_one_object(line: &[u8]) -> bool {
    starts_with_object(line) && is_one_value(line)
}

/// A header of names without spaces around them, and a second record of as many values.
fn looks_like_csv(body: &[u8], is_cut: bool) -> bool {
    let mut rest = body;
    let (Some(header), second) = (fields(&mut rest, is_cut), fields(&mut rest, is_cut)) else {
        return false;
    };
    let is_name = |name: &[u8]| {
        let name = name.strip_prefix(b"\"").unwrap_or(name);
        name.first()
            .is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
            && !name.iter().any(|byte| b"{}[]<>".contains(byte))
    };
    header.len() > 1
        && header.iter().all(|name| is_name(name))
        && second.is_none_or(|second| second.len() == header.len())
}

/// The fields of the first record; `None` if there is none that is known whole.
fn fields<'a>(body: &mut &'a [u8], is_cut: bool) -> Option<Vec<&'a [u8]>> {
    let (mut state, mut start, mut fields) = (Csv::default(), 0, Vec::new());
    for (at, &byte) in body.iter().enumerate() {
        match state.step(byte) {
            Step::FieldEnd => {}
            Step::RecordEnd => {
                fields.push(&body[start..at]);
                *body = &body[at + 1..];
                return Some(fields);
            }
            Step::Value | Step::Quote => continue,
        }
        fields.push(&body[start..at]);
        start = at + 1;
    }
    if is_cut || body.is_empty() {
        return None;
    }
    fields.push(&body[start..]);
    *body = &[];
    Some(fields)
}
