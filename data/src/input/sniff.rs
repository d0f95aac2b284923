use super::documents::{documents, lines, without_mark};
use super::{Format, access_log};

/// How many lines are looked at before giving up on an access log.
const LINES: usize = 10;

/// Guesses the format of a body whose client named none.
///
/// The body decides wherever it can, since clients send NDJSON and arrays alike as
/// `application/json`. Anything unclear is NDJSON, whose rejections say what is wrong.
pub fn sniff(body: &[u8], content_type: Option<&str>) -> Format {
    let body = without_mark(body);
    let media_type = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    let is_json_lines = ["ndjson", "jsonl", "jsonlines", "json-lines", "json-seq"]
        .iter()
        .any(|name| media_type.ends_with(name));
    if is_json_lines {
        return Format::Ndjson;
    }
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
        Some(b'{') if is_spread_over_lines(body) => Format::Json,
        _ => Format::Ndjson,
    }
}

/// A line with a client address is no JSON, whatever else there is.
fn log_format(line: &[u8]) -> Option<Format> {
    let line = std::str::from_utf8(line).ok()?;
    if access_log::parse(line, true).is_ok() {
        return Some(Format::Combined);
    }
    access_log::parse(line, false)
        .is_ok()
        .then_some(Format::Common)
}

fn starts_with_object(body: &[u8]) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// The first line is not one object, and neither is the second, which would tell that only
/// the first is broken.
fn is_spread_over_lines(body: &[u8]) -> bool {
    !lines(body).take(2).any(|row| is_one_object(row.bytes))
}

fn is_one_object(line: &[u8]) -> bool {
    let mut count = 0;
    let counted = documents(line, |_| {
        count += 1;
        Ok(())
    });
    starts_with_object(line) && counted.is_ok() && count == 1
}
