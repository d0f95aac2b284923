//! What is refused, and with which words.

use lambdalake_views::{View, ViewError, aggregate_table, session_state};

use crate::support::resolve;

#[test]
fn every_registered_aggregate_is_in_the_table() {
    let state = session_state();
    let known: Vec<&str> = aggregate_table().iter().map(|rule| rule.name).collect();
    for (name, function) in state.aggregate_functions() {
        assert!(
            known.contains(&function.name()),
            "{name} ({}) is not in the table",
            function.name()
        );
    }
    for name in known {
        assert!(
            state.aggregate_functions().contains_key(name),
            "{name} is not registered"
        );
    }
}

#[test]
fn refusals_have_a_reason_and_a_hint() {
    let table = [
        ("SELECT k FROM s", "no aggregate"),
        (
            "SELECT k, count(*) FROM s WHERE ts > now() GROUP BY k",
            "now()",
        ),
        (
            "SELECT k, count(*) FROM s WHERE random() > 0.5 GROUP BY k",
            "random()",
        ),
        ("SELECT uuid(), count(*) FROM s", "uuid()"),
        (
            "SELECT current_date() AS d, count(*) FROM s GROUP BY d",
            "another time",
        ),
        (
            "SELECT count(*) FROM s WHERE i > (SELECT avg(i) FROM s)",
            "subquery",
        ),
        (
            "SELECT count(*) FROM s WHERE i IN (SELECT i FROM s)",
            "subquery",
        ),
        (
            "SELECT count(*) FROM s AS a JOIN s AS b ON a.i = b.i",
            "join",
        ),
        ("SELECT count(*) FROM s, events", "several tables"),
        (
            "SELECT count(*) FROM (SELECT k FROM s UNION ALL SELECT k FROM s)",
            "UNION",
        ),
        (
            "SELECT count(*) FROM (SELECT DISTINCT k FROM s)",
            "another aggregate",
        ),
        (
            "SELECT max(n) FROM (SELECT k, count(*) AS n FROM s GROUP BY k)",
            "another aggregate",
        ),
        ("SELECT count(*) FROM (SELECT k FROM s LIMIT 5)", "LIMIT"),
        ("SELECT k, row_number() OVER (ORDER BY i) FROM s", "window"),
        (
            "SELECT sum(r) FROM (SELECT row_number() OVER (ORDER BY i) AS r FROM s)",
            "window",
        ),
        ("SELECT count(DISTINCT i, s) FROM s", "several columns"),
        ("SELECT bit_xor(DISTINCT i) FROM s", "bit_xor(DISTINCT"),
        (
            "SELECT approx_distinct(x) FROM s",
            "approx_distinct of Float64",
        ),
        ("SELECT nth_value(i, i) FROM s", "nth_value"),
        ("SELECT approx_percentile_cont(x, 1.5) FROM s", "1.5"),
        (
            "SELECT approx_percentile_cont(x, 0.5, 70000) FROM s",
            "at most 65535",
        ),
        ("SELECT count(*)", "without a stream"),
        ("SELECT count(*) FROM nowhere", "nowhere"),
        ("SELECT count(nothing) FROM s", "nothing"),
        ("SELECT frobnicate(i) FROM s", "frobnicate"),
        ("SELEKT 1", "SELEKT"),
        ("SELECT count(* FROM s", "syntax"),
        ("INSERT INTO s VALUES (1)", "SELECT"),
        ("SELECT count(*) FROM s; SELECT 1", "single SQL statement"),
        ("SELECT sum(s) FROM s", "sum"),
    ];
    for (sql, words) in table {
        let error = View::compile(sql, &resolve)
            .err()
            .unwrap_or_else(|| panic!("compiled: {sql}"));
        assert!(!matches!(error, ViewError::Plan(_)), "{sql}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(words), "{sql}: {text}");
        assert!(
            error.hint().is_some_and(|hint| !hint.is_empty()),
            "{sql}: no hint"
        );
    }
}

/// Such calls were taken by earlier versions and may stand in stored definitions.
#[test]
fn a_digest_of_very_few_centroids_is_made_with_the_least_number() {
    let sql = "SELECT approx_percentile_cont(x, 0.5, 1) FROM s";
    View::compile(sql, &resolve).expect("a view");
}
