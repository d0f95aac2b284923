//! Statements whose shape, not whose text, is large: answered or refused, and the server lives.

use crate::server::Server;

fn repeated(unit: &str, times: usize, between: &str) -> String {
    vec![unit; times].join(between)
}

#[test]
fn statements_of_any_shape_are_answered_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let refused = [
        format!("SELECT {}", repeated("1", 400_000, "+")),
        format!("SELECT 1{}", repeated("::BIGINT", 50_000, "")),
        format!("SELECT 1{}", repeated(" IS NULL", 50_000, "")),
        format!("SELECT x{}", repeated("[1]", 100_000, "")),
        repeated("SELECT 1, 2", 20_000, " UNION ALL "),
        format!("SELECT {}", repeated("(1, (2))", 5_000, "+")),
        format!("SELECT {}", "(".repeat(300_000)),
        format!("SELECT {}1", repeated("- ", 300_000, "")),
        format!(
            "SELECT 1 FROM {}",
            repeated("lambdalake.runs", 3_000, " CROSS JOIN ")
        ),
        format!("SELECT 1 FROM {}", repeated("lambdalake.runs", 3_000, ", ")),
    ];
    for sql in refused {
        let answer = server.try_sql(&sql);
        assert_eq!(answer.status, 400, "{}: {}", &sql[..40], answer.text);
        let code = answer.json()["error"]["code"].clone();
        assert_eq!(code, "statement_too_complex", "{}", &sql[..40]);
    }
    let conditions = repeated("name = 'x'", 600, " OR ");
    let names = repeated("'x'", 50_000, ", ");
    for condition in [conditions, format!("name IN ({names})")] {
        let sql = format!("SELECT count(*) FROM lambdalake.streams WHERE {condition}");
        assert_eq!(server.value(&sql), 0);
    }
}

#[test]
fn a_view_of_a_long_expression_is_planned_on_every_thread_that_needs_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.sql("CREATE TABLE s (ts TIMESTAMP, n BIGINT) WITH (event_time = 'ts')");
    let terms = repeated("n", 500, " + ");
    server.sql(&format!(
        "CREATE MATERIALIZED VIEW v AS SELECT sum({terms}) AS total FROM s"
    ));
    server.ingest("s", "ndjson", "{\"n\":1}\n");
    assert_eq!(server.value("SELECT total FROM v"), 500);
    server.sql("FLUSH s");
    server.sql("REFRESH MATERIALIZED VIEW v");
    server.ingest("s", "ndjson", "{\"n\":2}\n");
    assert_eq!(server.value("SELECT total FROM v"), 1_500);
    server.kill();
    let server = Server::start(folder.path(), &[]);
    assert_eq!(server.value("SELECT total FROM v"), 1_500);
}
