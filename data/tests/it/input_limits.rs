use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use lambdalake_data::input::{Format, InputError, Limits, parse, sniff};
use proptest::prelude::*;

use super::input_support::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn gzip_of_several_members_is_unpacked_up_to_the_limit() {
    let body = [gzip(b"hello "), gzip(b""), gzip(b"world")].concat();
    assert_eq!(decompress_gzip(&body, 11).unwrap(), b"hello world");
    let error = decompress_gzip(&body, 10).unwrap_err();
    assert!(
        matches!(error, InputError::TooLarge { limit: 10, .. }),
        "{error}"
    );
    assert_eq!(decompress_gzip(&gzip(b""), 0).unwrap(), b"");
}

#[test]
fn gzip_that_is_cut_or_damaged_is_an_error() {
    let body = gzip(b"hello hello hello hello hello");
    for end in 0..body.len() {
        let error = decompress_gzip(&body[..end], 100).unwrap_err();
        assert!(
            matches!(error, InputError::Compression { .. }),
            "{end}: {error}"
        );
    }
    let mut wrong_checksum = body.clone();
    wrong_checksum[body.len() - 6] ^= 1;
    let garbage_after = [&body[..], b"garbage"].concat();
    for wrong in [&wrong_checksum[..], &garbage_after, b"{\"a\":1}"] {
        let error = decompress_gzip(wrong, 100).unwrap_err();
        assert!(matches!(error, InputError::Compression { .. }), "{error}");
    }
}

#[test]
fn rows_over_a_limit_are_rejected_alone() {
    let limits = Limits {
        max_rejections: 9,
        max_line_bytes: 40,
        max_fields: 3,
        max_depth: 3,
    };
    let body = "{\"a\":1}\n\
        {\"a\":1,\"long\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}\n\
        {\"a\":{\"b\":{\"c\":{}}}}\n\
        {\"a\":1,\"b\":1,\"c\":1,\"d\":1}\n\
        {\"b\":1}\n\
        {\"c\":{\"d\":1}}\n\
        {\"c\":1}\n\
        {\"e\":1}\n\
        {\"e\":null}\n";
    let parsed = parse(body.as_bytes(), Format::Ndjson, &no_columns(), &limits).unwrap();
    assert_eq!(
        rejected(&parsed),
        [
            (2, "line_too_long", None),
            (3, "too_deep", Some("a.b.c")),
            (4, "too_many_fields", None),
            (6, "too_many_fields", Some("c.d")),
            (8, "too_many_fields", Some("e")),
        ]
    );
    assert_eq!(parsed.batch.num_rows(), 4);
    assert_eq!(parsed.batch.num_columns(), 3);
}

#[test]
fn all_rejections_are_counted_and_the_first_kept() {
    let limits = Limits {
        max_rejections: 2,
        ..LIMITS
    };
    let body = "x\n".repeat(50) + "{\"a\":1}\n";
    let parsed = parse(body.as_bytes(), Format::Ndjson, &no_columns(), &limits).unwrap();
    assert_eq!((parsed.rejected, parsed.rejections.len()), (50, 2));
    assert_eq!(parsed.rejections[1].line, 2);
}

#[test]
fn ten_thousand_levels_do_not_exhaust_the_stack() {
    let limits = Limits {
        max_depth: usize::MAX,
        max_line_bytes: usize::MAX,
        ..LIMITS
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for levels in [100, 10_000, 1_000_000] {
            let nested = open.repeat(levels) + "1" + &close.repeat(levels);
            let body = format!(
                "{{\"x\":{nested}}}\n{{\"x\":{}\n{{}}\n",
                open.repeat(levels)
            );
            let parsed = parse(body.as_bytes(), Format::Ndjson, &no_columns(), &limits).unwrap();
            assert_eq!(parsed.rejected, if levels == 100 { 1 } else { 2 });
            let body = format!("[{{\"x\":{nested}}},{{}}]");
            let parsed = parse(body.as_bytes(), Format::Json, &no_columns(), &limits).unwrap();
            assert_eq!(parsed.rejected, u64::from(levels > 100));
        }
    }
}

#[test]
fn a_small_body_cannot_make_a_huge_batch() {
    let wide: Vec<_> = (0..1000).map(|n| format!("\"k{n}\":1")).collect();
    let body = format!("{{{}}}\n", wide.join(",")) + &"{}\n".repeat(40_000);
    let error = parse(body.as_bytes(), Format::Ndjson, &no_columns(), &LIMITS).unwrap_err();
    assert!(matches!(error, InputError::TooLarge { .. }), "{error}");
}

fn parse_all_ways(body: &[u8]) {
    let known = columns(vec![
        ("a", timestamp()),
        (
            "b",
            structure(vec![("a", list(arrow::datatypes::DataType::Float64))]),
        ),
    ]);
    sniff(body, None);
    let _ = decompress_gzip(body, 1000);
    for format in [
        Format::Ndjson,
        Format::Json,
        Format::Combined,
        Format::Common,
    ] {
        for schema in [&no_columns(), &known] {
            if let Ok(parsed) = parse(body, format, schema, &LIMITS) {
                assert_eq!(parsed.rejected, parsed.rejections.len() as u64);
                let grown = parsed.batch.schema();
                assert!(grown.fields.len() >= schema.fields.len());
                parse(body, format, &grown, &LIMITS).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        parse_all_ways(&body);
    }

    #[test]
    fn random_pieces_of_json_never_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\n", "\"a\":", "\"b\":", "{\"a\":", "\"a\"", "1", "1.5",
            "9007199254740993", "null", "true", "\"2015-05-17T10:05:03Z\"", "{}", "[]", "}\n{\"a\":",
            "}\n{\"b\":", "\\", "\"", "é",
        ]), 0..30)
    ) {
        parse_all_ways(pieces.concat().as_bytes());
    }

    #[test]
    fn random_changes_of_a_log_line_never_panic(
        changes in prop::collection::vec((0usize..76, any::<u8>()), 0..4),
        end in 0usize..100,
    ) {
        let mut line = b"1.2.3.4 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 1 \"-\" \"a \\\" b\"".to_vec();
        for (at, byte) in changes {
            line[at] = byte;
        }
        line.truncate(end);
        parse_all_ways(&line);
    }
}
