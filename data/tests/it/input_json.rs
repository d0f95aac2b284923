use lambdalake_data::input::{Format, InputError, parse, sniff};
use serde_json::json;

use super::input_support::*;

#[test]
fn bad_lines_are_rejected_by_number_and_good_ones_beside_them_kept() {
    let body = b"{\"a\":1}\r\n\n{\"a\":\n  \t\n[1]\n{\"a\":\"\xff\"}\n{\"a\":\"\\ud800\"}\n\"x\"\n{\"a\":2}{\"a\":3}\n{\"a\":4}";
    let parsed = parse(body, Format::Ndjson, &no_columns(), &LIMITS).unwrap();
    assert_eq!(
        rejected(&parsed),
        [
            (3, "invalid_json", Some("a")),
            (5, "not_an_object", None),
            (6, "invalid_utf8", None),
            (7, "invalid_json", Some("a")),
            (8, "not_an_object", None),
            (9, "invalid_json", None),
        ]
    );
    assert_eq!(rows(&parsed), [json!({"a": 1}), json!({"a": 4})]);
    let messages: Vec<_> = parsed
        .rejections
        .iter()
        .map(|r| r.message.as_str())
        .collect();
    assert_eq!(
        messages[0],
        "line 3, field a: column 6: expected a value, but the input ends"
    );
    assert_eq!(messages[1], "line 5: expected an object, found list");
    assert_eq!(messages[2], "line 6: column 7: not UTF-8");
    assert_eq!(messages[5], "line 9: column 8: expected the end, found '{'");
}

#[test]
fn the_engines_names_are_reserved_at_the_top_only() {
    let parsed = ndjson(
        "{\"_offset\":1}\n{\"_shard_x\":1}\n{\"_ingested_at\":1}\n{\"_producer_id\":1}\n\
         {\"a\":{\"_offset\":1},\"_off\":1}\n",
    );
    let fields: Vec<_> = parsed
        .rejections
        .iter()
        .map(|r| (r.code, r.field.clone()))
        .collect();
    let reserved = |name: &str| ("reserved_field", Some(name.to_owned()));
    assert_eq!(
        fields,
        ["_offset", "_shard_x", "_ingested_at", "_producer_id"].map(reserved)
    );
    assert_eq!(rows(&parsed), [json!({"a": {"_offset": 1}, "_off": 1})]);
}

#[test]
fn duplicate_keys_are_rejected_in_small_and_large_objects() {
    let many: Vec<_> = (0..100).map(|n| format!("\"k{n}\":1")).collect();
    let body = format!(
        "{{\"a\":1,\"\\u0061\":2}}\n{{{},\"k50\":1}}\n",
        many.join(",")
    );
    let parsed = ndjson(&body);
    assert_eq!(
        rejected(&parsed),
        [
            (1, "duplicate_key", Some("a")),
            (2, "duplicate_key", Some("k50"))
        ]
    );
}

#[test]
fn json_takes_an_object_an_array_and_several_of_them() {
    let one = json(" {\n \"a\": 1\n}\n").unwrap();
    assert_eq!(rows(&one), [json!({"a": 1})]);
    let array = json("\u{feff}[{\"a\":1}, 7,\n {\"a\":\"]}\"},{\"a\":2}]").unwrap();
    assert_eq!(
        rejected(&array),
        [(2, "not_an_object", None), (3, "type_conflict", Some("a"))]
    );
    assert_eq!(
        array.rejections[1].message,
        "object 3, field a: expected int64, found string \"]}\""
    );
    assert_eq!(array.batch.num_rows(), 2);
    let several = json("{\"a\":1}{\"a\":2}\n[{\"a\":3}] [] ").unwrap();
    assert_eq!(several.batch.num_rows(), 3);
    for empty in ["", " \n", "[]"] {
        assert_eq!(json(empty).unwrap().batch.num_rows(), 0);
    }
}

#[test]
fn a_broken_document_is_an_error_with_its_place() {
    let table = [
        ("[{\"a\":1},\n {\"a\":}]", 2, 7),
        ("[{\"a\":1}\n,,{}]", 2, 2),
        ("[{\"a\":1},]", 1, 10),
        ("[{\"a\":1}", 1, 9),
        ("{\"a\":1", 1, 7),
        ("{\"a\":\"x", 1, 6),
        ("[{]}", 1, 3),
        ("]", 1, 1),
        ("{\"a\":1} x", 1, 9),
    ];
    for (body, line, column) in table {
        match json(body) {
            Err(InputError::Syntax {
                line: l, column: c, ..
            }) => {
                assert_eq!((l, c), (line, column), "{body}")
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn a_row_wrong_in_meaning_does_not_break_the_document() {
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let body = format!(
        "[{{\"a\":1,\"a\":2}},{{\"b\":1e999}},{{\"c\":{deep}}},{{\"d\":\"\\udc00\"}},{{\"e\":1}}]"
    );
    let parsed = json(&body).unwrap();
    let codes: Vec<_> = parsed.rejections.iter().map(|r| (r.line, r.code)).collect();
    assert_eq!(
        codes,
        [
            (1, "duplicate_key"),
            (2, "out_of_range"),
            (3, "too_deep"),
            (4, "invalid_json")
        ]
    );
    assert_eq!(rows(&parsed), [json!({"e": 1})]);
}

#[test]
fn the_format_is_guessed_from_the_body_and_its_media_type() {
    let log = "::1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.1\" 200 1";
    let combined = format!("{log} \"-\" \"-\"\n");
    let table = [
        ("{\"a\":1}\n{\"a\":2}\n", None, Format::Ndjson),
        (
            "{\"a\":1}\n{\"a\":2}\n",
            Some("application/json"),
            Format::Ndjson,
        ),
        (
            "{\"a\":\n1}",
            Some("application/json; charset=utf-8"),
            Format::Json,
        ),
        ("{\n  \"a\": 1\n}\n", None, Format::Json),
        ("{\"a\":\n{\"a\":1}\n", None, Format::Ndjson),
        (" {\"a\":1}\n{\"a\":2}\n", None, Format::Ndjson),
        ("{\"a\":1}{\"a\":2}\n", None, Format::Json),
        (" [{\"a\":1}]", None, Format::Json),
        ("[{\"a\":1}]", Some("application/x-ndjson"), Format::Ndjson),
        (log, Some("text/plain"), Format::Common),
        (&combined, None, Format::Combined),
        ("broken\n", None, Format::Ndjson),
        ("", None, Format::Ndjson),
    ];
    for (body, media_type, format) in table {
        assert_eq!(sniff(body.as_bytes(), media_type), format, "{body}");
    }
}

#[test]
fn formats_have_the_names_of_the_api() {
    for name in ["ndjson", "json", "combined", "common"] {
        assert_eq!(name.parse::<Format>().unwrap().to_string(), name);
    }
    assert!(matches!(
        "xml".parse::<Format>(),
        Err(InputError::UnknownFormat { .. })
    ));
}
