//! What a client is willing to read: `Accept` and `Accept-Encoding`, as RFC 9110 has them.

use warp::http::{HeaderMap, header};

use crate::encode::Format;
use crate::encode::pack::Coding;
use crate::error::{EngineError, ErrorKind};

/// The format that the `Accept` header likes most; JSON without one.
///
/// Among formats liked alike, one that is named goes before one under a wildcard, and what is
/// named first goes before the rest.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, EngineError> {
    let accept = text(headers, header::ACCEPT)?;
    let ranges: Vec<Range> = accept.split(',').filter_map(Range::parse).collect();
    if accept.trim().is_empty() {
        return Ok(Format::Json);
    }
    let mut best: Option<(f32, Precision, Format)> = None;
    for format in Format::ALL {
        // The most precise range decides about a format, also when it says no.
        let Some((precision, weight)) = ranges
            .iter()
            .enumerate()
            .filter_map(|(index, range)| Some((range.precision(format, index)?, range.weight)))
            .min_by_key(|(precision, _)| *precision)
        else {
            continue;
        };
        let is_better = best.is_none_or(|(other_weight, other_precision, _)| {
            weight > other_weight || (weight == other_weight && precision < other_precision)
        });
        if weight > 0.0 && is_better {
            best = Some((weight, precision, format));
        }
    }
    best.map(|(_, _, format)| format).ok_or_else(|| {
        let types: Vec<&str> = Format::ALL
            .iter()
            .flat_map(|format| format.media_types().first().copied())
            .collect();
        not_acceptable(format!(
            "the Accept header {accept:?} names no type that an answer can have: there are {}; \
             the parameter format ({}) goes before the header",
            types.join(", "),
            Format::ALLOWED
        ))
    })
}

/// The coding that the `Accept-Encoding` header likes most. Nothing is compressed for a client
/// that does not ask, and `*` alone is not asking.
pub(super) fn coding(headers: &HeaderMap) -> Result<Coding, EngineError> {
    let accept = text(headers, header::ACCEPT_ENCODING)?;
    let ranges: Vec<Range> = accept.split(',').filter_map(Range::parse).collect();
    let weight_of = |names: &[&str]| {
        let range = ranges.iter().find(|range| names.contains(&&*range.name));
        range.map(|range| range.weight)
    };
    // Clients that list codings mean them before the identity, which needs no word to be taken.
    let identity = weight_of(&["identity"]).or(match weight_of(&["*"]) {
        Some(weight) if weight <= 0.0 => Some(0.0),
        _ => None,
    });
    let mut best = (identity.unwrap_or(0.0), Coding::Identity);
    // zstd is cheaper at the same size, so it wins where both are liked alike.
    for (coding, names) in [
        (Coding::Gzip, &["gzip", "x-gzip"][..]),
        (Coding::Zstd, &["zstd"]),
    ] {
        if let Some(weight) = weight_of(names)
            && weight >= best.0
            && weight > identity.unwrap_or(0.0)
        {
            best = (weight, coding);
        }
    }
    if best.1 == Coding::Identity && identity.is_some_and(|weight| weight <= 0.0) {
        return Err(not_acceptable(format!(
            "the Accept-Encoding header {accept:?} refuses all that there is: identity, gzip, zstd"
        )));
    }
    Ok(best.1)
}

/// How exactly a range names a format, and where: smaller is more precise.
type Precision = (u8, usize);

/// One item of a header's list.
struct Range {
    name: String,
    weight: f32,
}

impl Range {
    /// Reads `name;q=0.5`. An item whose weight is no number from 0 to 1 is passed over.
    fn parse(item: &str) -> Option<Self> {
        let mut parts = item.split(';');
        let name = parts.next()?.trim().to_ascii_lowercase();
        let weight = parts.find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim()
                .eq_ignore_ascii_case("q")
                .then(|| value.trim().parse::<f32>().unwrap_or(-1.0))
        });
        let weight = weight.unwrap_or(1.0);
        (!name.is_empty() && (0.0..=1.0).contains(&weight)).then_some(Self { name, weight })
    }

    fn precision(&self, format: Format, index: usize) -> Option<Precision> {
        let types = format.media_types();
        if types.contains(&&*self.name) {
            return Some((0, index));
        }
        let family = self.name.strip_suffix("/*")?;
        if family == "*" {
            // Wildcards leave the choice to the order of `Format::ALL`.
            return Some((2, 0));
        }
        types
            .iter()
            .any(|name| name.split('/').next() == Some(family))
            .then_some((1, 0))
    }
}

/// All lines of a header as one list, as if they had been sent as one.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Result<String, EngineError> {
    let mut lines = Vec::new();
    for line in headers.get_all(&name) {
        lines.push(line.to_str().map_err(|error| {
            EngineError::bad_request(
                "invalid_header",
                format!("the header {name} is not printable ASCII"),
            )
            .because(error)
        })?);
    }
    Ok(lines.join(","))
}

fn not_acceptable(message: String) -> EngineError {
    EngineError::new(ErrorKind::NotAcceptable, "not_acceptable", message)
}

#[cfg(test)]
mod tests {
    use warp::http::{HeaderMap, HeaderValue, header};

    use super::{coding, format};
    use crate::encode::Format;
    use crate::encode::pack::Coding;

    fn with(name: header::HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_best_liked_format_is_chosen() {
        for (accept, expected) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/*", Format::Csv),
            ("Text/Plain; charset=utf-8", Format::Table),
            ("application/*", Format::Json),
            ("text/csv, */*", Format::Csv),
            ("*/*, text/csv", Format::Csv),
            ("text/csv, application/json", Format::Csv),
            ("application/json;q=0.5, text/csv;q=0.6", Format::Csv),
            ("text/html, application/xhtml+xml, */*;q=0.8", Format::Json),
            ("application/json;q=0, */*;q=0.1", Format::Ndjson),
            ("application/*;q=0.2, text/*;q=0.3", Format::Csv),
            ("application/vnd.apache.parquet", Format::Parquet),
            ("text/csv;q=nan, text/plain;q=0.1", Format::Table),
        ] {
            let headers = with(header::ACCEPT, &[accept]);
            assert_eq!(format(&headers).ok(), Some(expected), "{accept}");
        }
        let lines = with(header::ACCEPT, &["image/png", "text/csv"]);
        assert_eq!(format(&lines).ok(), Some(Format::Csv));
    }

    #[test]
    fn formats_that_are_unknown_or_refused_are_no_answer() {
        for accept in [
            "image/png",
            "*/*;q=0",
            "text/csv;q=0",
            "text",
            "text/csv;q=7",
        ] {
            let refused = format(&with(header::ACCEPT, &[accept])).unwrap_err();
            assert_eq!(refused.code, "not_acceptable", "{accept}");
        }
    }

    #[test]
    fn the_best_liked_coding_is_chosen() {
        for (accept, expected) in [
            ("", Coding::Identity),
            ("*", Coding::Identity),
            ("br, deflate", Coding::Identity),
            ("gzip", Coding::Gzip),
            ("X-GZIP", Coding::Gzip),
            ("gzip, deflate, br, zstd", Coding::Zstd),
            ("gzip;q=0.9, zstd;q=0.1", Coding::Gzip),
            ("gzip;q=0.2", Coding::Gzip),
            ("gzip;q=0, zstd;q=0", Coding::Identity),
            ("identity, gzip;q=0.5", Coding::Identity),
            ("identity;q=0.5, gzip", Coding::Gzip),
            ("identity, gzip", Coding::Identity),
            ("identity;q=0, gzip;q=0.1", Coding::Gzip),
            ("*;q=0, zstd", Coding::Zstd),
        ] {
            let headers = with(header::ACCEPT_ENCODING, &[accept]);
            assert_eq!(coding(&headers).ok(), Some(expected), "{accept}");
        }
        for accept in ["identity;q=0", "*;q=0", "identity;q=0, br"] {
            let refused = coding(&with(header::ACCEPT_ENCODING, &[accept])).unwrap_err();
            assert_eq!(refused.code, "not_acceptable", "{accept}");
        }
    }
}
