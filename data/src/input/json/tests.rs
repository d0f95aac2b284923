use proptest::prelude::*;

use super::parse;
use crate::input::Limits;
use crate::input::value::Value;

const LIMITS: Limits = Limits {
    max_rejections: 10,
    max_line_bytes: 1 << 20,
    max_fields: 100,
    max_depth: 100,
};

/// The same value by serde_json's model; `None` where that one has none.
fn as_serde(value: &Value<'_>) -> Option<serde_json::Value> {
    Some(match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Int(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::Text(text) => (&**text).into(),
        Value::List(values) => values
            .iter()
            .map(as_serde)
            .collect::<Option<Vec<_>>>()?
            .into(),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(k, v)| Some((k.to_string(), as_serde(v)?)));
            members.collect::<Option<serde_json::Map<_, _>>>()?.into()
        }
        Value::Wide(_) | Value::Micros(_) => return None,
    })
}

fn agrees_with_serde_json(text: &str) -> Result<(), String> {
    // It may read a float one unit off, and reads the integer -0 as a float.
    let loose = text.contains(['e', 'E', '.']) || text.contains("-0");
    let theirs = serde_json::from_str::<serde_json::Value>(text);
    match (parse(text, &LIMITS), theirs) {
        (Ok(ours), Ok(theirs)) => match as_serde(&ours) {
            Some(ours) if !loose && ours != theirs => {
                Err(format!("{text}: {ours} against {theirs}"))
            }
            _ => Ok(()),
        },
        (Err(_), Err(_)) => Ok(()),
        (Ok(Value::Wide(_)), Err(_)) => Ok(()),
        (Err(flaw), Ok(_)) if flaw.code == "duplicate_key" => Ok(()),
        (ours, theirs) => Err(format!("{text}: {ours:?} against {theirs:?}")),
    }
}

proptest! {
    #[test]
    fn accepts_what_serde_json_accepts(text in r#"[\[\]{}",:0-9aeE.+\\ tfn-]{0,24}"#) {
        agrees_with_serde_json(&text).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn reads_tokens_as_serde_json_does(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\\n\"", "1", "-0", "true", "null", "1.5",
            " ", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "\"é\"", "01", "-", "false", "\t",
        ]), 0..12)
    ) {
        agrees_with_serde_json(&tokens.concat()).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_string_comes_back(text in any::<String>()) {
        let written = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(parse(&written, &LIMITS).unwrap(), Value::Text(text.into()));
    }

    #[test]
    fn any_number_comes_back(int in any::<i64>(), float in any::<f64>()) {
        let written = int.to_string();
        prop_assert_eq!(parse(&written, &LIMITS).unwrap(), Value::Int(int));
        if float.is_finite() {
            let written = format!("{float:?}");
            prop_assert_eq!(parse(&written, &LIMITS).unwrap(), Value::Float(float));
        }
    }
}

#[test]
fn integers_beyond_64_bits_stay_apart_from_floats() {
    let wide = "123456789012345678901234567890";
    assert_eq!(parse(wide, &LIMITS).unwrap(), Value::Wide(wide));
    assert_eq!(
        parse("9223372036854775808", &LIMITS).unwrap(),
        Value::Wide("9223372036854775808")
    );
    assert_eq!(parse("-0", &LIMITS).unwrap(), Value::Int(0));
    assert_eq!(parse("1e30", &LIMITS).unwrap(), Value::Float(1e30));
    assert_eq!(parse("1e400", &LIMITS).unwrap_err().code, "out_of_range");
}

#[test]
fn flaws_name_the_way_to_the_place() {
    let flaw = parse(r#"{"a":{"b":[1,{"c":1,"c":2}]}}"#, &LIMITS).unwrap_err();
    assert_eq!(
        (flaw.code, flaw.field().as_deref()),
        ("duplicate_key", Some("a.b[1].c"))
    );
    let flaw = parse(r#"{"a" 1}"#, &LIMITS).unwrap_err();
    assert_eq!((flaw.code, flaw.offset), ("invalid_json", Some(5)));
}
