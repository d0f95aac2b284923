use arrow::util::display::array_value_to_string;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::{Params, bind};
use crate::error::EngineError;

/// The first row of the answer, its values as text.
async fn ask(sql: &str, params: &str) -> Result<Vec<String>, EngineError> {
    let config = SessionConfig::new().with_information_schema(false);
    let context = SessionContext::new_with_config(config);
    let events = "CREATE TABLE events AS SELECT * FROM (VALUES \
         (TIMESTAMP '2026-11-01T10:00:00', 'a', 1), (TIMESTAMP '2026-11-02T10:00:00', 'b', 2), \
         (TIMESTAMP '2026-11-03T10:00:00', 'c''; DROP TABLE events; --', 3)) AS t(ts, name, n)";
    context.sql(events).await?.collect().await?;
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(sql, &dialect)?;
    bind(&mut statement, &Params::from_json(params)?)?;
    let plan = state.statement_to_plan(statement).await?;
    let batches = context.execute_logical_plan(plan).await?.collect().await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else {
        return Ok(Vec::new());
    };
    Ok(batch
        .columns()
        .iter()
        .map(|column| array_value_to_string(column, 0).unwrap())
        .collect())
}

async fn refused(sql: &str, params: &str) -> (&'static str, String) {
    let error = ask(sql, params).await.unwrap_err();
    (error.code, error.message)
}

#[tokio::test]
async fn values_have_the_types_of_json() {
    let sql = "SELECT $1, arrow_typeof($1), $2, arrow_typeof($2), $3, arrow_typeof($3), \
               $4, arrow_typeof($4), $5 IS NULL, $6";
    let params = r#"[-9223372036854775808, 18446744073709551615, 1.0, "it's", null, true]"#;
    assert_eq!(
        ask(sql, params).await.unwrap(),
        [
            "-9223372036854775808",
            "Int64",
            "18446744073709551615",
            "UInt64",
            "1.0",
            "Float64",
            "it's",
            "Utf8",
            "true",
            "true"
        ]
    );
}

#[tokio::test]
async fn values_are_cast_to_what_they_meet() {
    for (sql, params, expected) in [
        (
            "SELECT count(*) FROM events WHERE ts >= $1 AND ts < $2",
            r#"["2026-11-02T00:00:00Z", "2026-11-03"]"#,
            "1",
        ),
        (
            "SELECT n FROM events WHERE name = $name",
            r#"{"name": "b"}"#,
            "2",
        ),
        ("SELECT count(*) FROM events WHERE n > $1", r#"["1"]"#, "2"),
        (
            "SELECT name FROM events ORDER BY n LIMIT $1 OFFSET $2",
            "[1, 1]",
            "b",
        ),
        (
            "SELECT count(*) FROM events WHERE n IN ($a, $b, $a)",
            r#"{"a": 1, "b": 3.0}"#,
            "2",
        ),
        (
            "SELECT round($1 * 2) + coalesce($2, 1)",
            "[1.5, null]",
            "4.0",
        ),
        (
            "SELECT count(*) FROM events WHERE n = (SELECT max(n) FROM events WHERE n < $1)",
            "[3]",
            "1",
        ),
        (
            "SELECT CAST($1 AS DECIMAL(38, 0))",
            r#"["123456789012345678901234567890"]"#,
            "123456789012345678901234567890",
        ),
    ] {
        assert_eq!(ask(sql, params).await.unwrap(), [expected], "{sql}");
    }
}

#[tokio::test]
async fn a_value_stays_a_value() {
    let nasty = r#"{"name": "c'; DROP TABLE events; --"}"#;
    let sql = "SELECT n FROM events WHERE name = $name";
    assert_eq!(ask(sql, nasty).await.unwrap(), ["3"]);
    for text in ["' OR ''='", "$1", "\\", "--", "/*", "\u{0}"] {
        let params = serde_json::json!([text]).to_string();
        assert_eq!(ask("SELECT $1", &params).await.unwrap(), [text]);
    }
    // An ordinal would sort by the first column, descending.
    let sql = "SELECT n FROM events ORDER BY $1 DESC, name";
    assert_eq!(ask(sql, "[1]").await.unwrap(), ["1"]);
}

#[tokio::test]
async fn explain_takes_values_too() {
    let plan = ask("EXPLAIN SELECT n FROM events WHERE n = $1", "[2]").await;
    assert!(plan.unwrap().join(" ").contains("Int64(2)"));
}

#[tokio::test]
async fn missing_and_surplus_values_are_named() {
    for (sql, params, code, named) in [
        ("SELECT $1, $2", "[1]", "missing_parameter", "$2"),
        ("SELECT $1", "null", "missing_parameter", "$1"),
        ("SELECT $who", "[1]", "missing_parameter", "$who"),
        ("SELECT $1", "[1, 2, 3]", "surplus_parameter", "$2"),
        ("SELECT $1, $3", "[1, 2, 3]", "surplus_parameter", "$2"),
        ("SELECT 1", r#"{"who": 1}"#, "surplus_parameter", "$who"),
        ("SELECT ?", "[1]", "invalid_placeholder", "?"),
    ] {
        let (found, message) = refused(sql, params).await;
        assert_eq!(found, code, "{sql}: {message}");
        assert!(message.contains(named), "{sql}: {message}");
    }
}

#[tokio::test]
async fn values_that_cannot_be_exact_are_refused() {
    for params in [
        "[18446744073709551616]",
        "[1e400]",
        "[[1]]",
        r#"[{"a": 1}]"#,
        "7",
        "[1",
        "",
        r#"["\ud800"]"#,
    ] {
        let (code, _) = refused("SELECT $1", params).await;
        assert_eq!(code, "invalid_parameter", "{params}");
    }
}
