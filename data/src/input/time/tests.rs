use chrono::{DateTime, TimeZone, Utc};
use proptest::prelude::*;

use super::{from_log, from_rfc3339, from_value};
use crate::input::value::Value;

/// 2015-05-17T10:05:03Z
const SECOND: i64 = 1_431_857_103;

fn micros(text: &str) -> Option<i64> {
    from_value(&Value::Text(text.into()))
}

#[test]
fn every_documented_form_means_the_same_moment() {
    let forms = [
        "2015-05-17T10:05:03Z",
        "2015-05-17t10:05:03z",
        "2015-05-17 10:05:03",
        "2015-05-17T10:05:03",
        "2015-05-17T12:05:03+02:00",
        "2015-05-17 12:05:03 +0200",
        "2015-05-16T22:05:03.000-12:00",
        "17/May/2015:10:05:03 +0000",
        "18/May/2015:00:05:03 +1400",
    ];
    for form in forms {
        assert_eq!(micros(form), Some(SECOND * 1_000_000), "{form}");
    }
    for epoch in [
        SECOND,
        SECOND * 1_000,
        SECOND * 1_000_000,
        SECOND * 1_000_000_000,
    ] {
        assert_eq!(
            from_value(&Value::Int(epoch)),
            Some(SECOND * 1_000_000),
            "{epoch}"
        );
    }
    let float = SECOND as f64 + 0.123_456;
    assert_eq!(
        from_value(&Value::Float(float)),
        Some(SECOND * 1_000_000 + 123_456)
    );
}

#[test]
fn years_that_need_a_sign_are_read_as_they_are_written() {
    for time in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
        let text = time.to_rfc3339();
        assert_eq!(micros(&text), Some(time.timestamp_micros()), "{text}");
    }
    assert_eq!(micros("+2015-05-17T10:05:03Z"), Some(SECOND * 1_000_000));
    for wrong in ["+999999-01-01T00:00:00Z", "-99-01-01T00:00:00Z", "-T"] {
        assert_eq!(micros(wrong), None, "{wrong}");
    }
}

#[test]
fn what_is_no_time_is_refused() {
    let wrong = [
        "",
        "2015",
        "2015-05-17",
        "1431857103",
        "2015-02-29T00:00:00Z",
        "2015-13-01T00:00:00Z",
        "2015-05-17T24:00:00Z",
        "2015-05-17T10:60:00Z",
        "2015-05-17T10:05:03.Z",
        "2015-05-17T10:05:03Zx",
        "2015-05-17T10:05:03+2:00",
        "17/Mai/2015:10:05:03 +0000",
        "17/May/2015:10:05:03",
        "Thu Dec 28 14:40:08 2017 UTC",
    ];
    for text in wrong {
        assert_eq!(micros(text), None, "{text}");
    }
    assert_eq!(from_value(&Value::Float(1e300)), None);
    assert_eq!(from_value(&Value::Bool(true)), None);
}

#[test]
fn only_full_date_times_are_recognised_unasked() {
    assert!(from_rfc3339("2015-05-17T10:05:03.5+02:00").is_some());
    for text in [
        "2015-05-17 10:05:03Z",
        "2015-05-17T10:05:03",
        "2015-05-17T10:05:03+0200",
    ] {
        assert_eq!(from_rfc3339(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn agrees_with_chrono(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
        let time: DateTime<Utc> = Utc.timestamp_micros(micros).unwrap();
        prop_assert_eq!(from_rfc3339(&time.to_rfc3339()), Some(micros));
        let in_log = time.format("%d/%b/%Y:%H:%M:%S %z").to_string();
        prop_assert_eq!(from_log(&in_log), Some(micros.div_euclid(1_000_000) * 1_000_000));
    }

    #[test]
    fn any_text_and_number_is_taken_calmly(text in any::<String>(), a in any::<i64>(), b in any::<f64>()) {
        let _ = micros(&text);
        let _ = from_value(&Value::Int(a));
        let _ = from_value(&Value::Float(b));
    }
}
