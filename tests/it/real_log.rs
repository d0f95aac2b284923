//! A real access log, and eighteen questions with known answers: from the raw stream, and
//! from views with half of the events in batch and half in speed.

use std::path::Path;

use serde_json::Value;

use crate::server::{Server, real_data};

const DATASET: &str = "truth/elastic_apache_logs";

struct Question {
    name: String,
    sql: String,
    rows: Vec<Vec<Value>>,
    tolerance: f64,
}

fn questions(data: &Path) -> Vec<Question> {
    let folder = data.join(DATASET);
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("truth");
    let manifest: Value = serde_json::from_str(&read("manifest.json")).expect("a manifest");
    let questions = manifest["questions"].as_array().expect("questions");
    let question = |entry: &Value| {
        let name = entry["name"].as_str().expect("a name").to_owned();
        let expected: Value = serde_json::from_str(&read(&format!("{name}.json"))).expect("rows");
        let sql = read(&format!("{name}.sql"));
        // The first line is a comment.
        let sql = sql
            .split_once('\n')
            .map_or(sql.clone(), |(_, query)| query.to_owned());
        Question {
            rows: serde_json::from_value(expected["rows"].clone()).expect("rows"),
            tolerance: entry["rel_tol"].as_f64().expect("a tolerance"),
            name,
            sql,
        }
    };
    questions.iter().map(question).collect()
}

/// Timestamps are compared as instants: without a zone and trailing zeros.
fn plain(text: &str) -> &str {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let is_time = text.len() >= 19 && text.as_bytes()[10] == b'T' && text.as_bytes()[4] == b'-';
    match text.split_once('.') {
        Some((_, fraction)) if is_time && fraction.bytes().all(|b| b == b'0') => &text[..19],
        _ => text,
    }
}

fn same(expected: &Value, found: &Value, tolerance: f64) -> bool {
    match (expected, found) {
        (Value::String(a), Value::String(b)) => plain(a) == plain(b),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => {
                let (a, b) = (a.as_f64().expect("a float"), b.as_f64().expect("a float"));
                (a - b).abs() <= 1e-9_f64.max(tolerance * a.abs().max(b.abs()))
            }
        },
        _ => expected == found,
    }
}

fn check(question: &Question, answer: &Value) {
    let name = &question.name;
    let columns = answer["meta"].as_array().expect("columns");
    let rows = answer["data"].as_array().expect("rows");
    assert_eq!(rows.len(), question.rows.len(), "{name}");
    for (number, (expected, found)) in question.rows.iter().zip(rows).enumerate() {
        assert_eq!(expected.len(), columns.len(), "{name}");
        for (value, column) in expected.iter().zip(columns) {
            let column = column["name"].as_str().expect("a name");
            assert!(
                same(value, &found[column], question.tolerance),
                "{name}, row {number}, {column}: expected {value}, found {}",
                found[column]
            );
        }
    }
}

fn log_lines(data: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(data.join("elastic_apache_logs/apache_logs")).expect("a log");
    log.split_inclusive('\n').map(str::to_owned).collect()
}

#[test]
fn the_real_log_answers_every_question_from_the_stream() {
    let Some(data) = real_data("the_real_log_answers_every_question_from_the_stream") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let reply = server.ingest("access_log", "combined", &log_lines(&data).concat());
    assert_eq!(reply["accepted"], 9_999);
    assert_eq!(reply["rejected"], 1);
    assert_eq!(reply["errors"][0]["line"], 8_899);
    for flushed in [false, true] {
        if flushed {
            server.sql("FLUSH access_log");
        }
        let questions = questions(&data);
        assert_eq!(questions.len(), 18);
        for question in &questions {
            let sql = format!("WITH events AS (SELECT * FROM access_log) {}", question.sql);
            check(question, &server.sql(&sql));
        }
    }
}

/// A question as a view and what is asked of the view: what a view keeps is the aggregate;
/// windows, and nested queries over it, are asked on top.
fn as_view(question: &Question) -> Option<(String, String)> {
    let name = format!("q{}", question.name);
    let over = |sql: &str| sql.replace("FROM events", "FROM access_log");
    match &question.name[..2] {
        "16" => {
            let select = "SELECT date_trunc('day', ts) AS day, path, count(*) AS n FROM \
                          access_log WHERE path IS NOT NULL GROUP BY date_trunc('day', ts), path";
            let nested = question.sql.split_once("FROM (\n    SELECT date_trunc");
            let top = nested.map(|(top, _)| format!("{top}FROM {name}) b"))?;
            let end = question.sql.rsplit_once(") b").map(|(_, end)| end)?;
            Some((select.to_owned(), format!("{top}{end}")))
        }
        // Sessions come from a window over raw events: not an aggregate.
        "17" => None,
        _ => {
            let order = question.sql.rfind("ORDER BY");
            // WITHIN GROUP (ORDER BY ...) belongs to the aggregate.
            let order = order.filter(|&at| !question.sql[at..].contains("FROM"));
            let (select, asked) =
                order.map_or((&question.sql[..], ""), |at| question.sql.split_at(at));
            Some((over(select.trim()), format!("SELECT * FROM {name} {asked}")))
        }
    }
}

#[test]
fn the_real_log_answers_from_views_half_batch_half_speed() {
    let Some(data) = real_data("the_real_log_answers_from_views_half_batch_half_speed") else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let lines = log_lines(&data);
    let (first, second) = lines.split_at(5_000);
    server.ingest("access_log", "combined", &first.concat());
    let questions = questions(&data);
    let views: Vec<_> = questions
        .iter()
        .filter_map(|q| Some((q, as_view(q)?)))
        .collect();
    assert_eq!(views.len(), 17);
    for (question, (select, _)) in &views {
        server.sql(&format!(
            "CREATE MATERIALIZED VIEW q{} AS {select}",
            question.name
        ));
        server.sql(&format!("REFRESH MATERIALIZED VIEW q{}", question.name));
    }
    server.ingest("access_log", "combined", &second.concat());
    for (question, (_, asked)) in &views {
        let answer = server.sql(asked);
        check(question, &answer);
        assert_eq!(answer["stats"]["from_batch"], 5_000, "{}", question.name);
        assert_eq!(answer["stats"]["from_speed"], 4_999, "{}", question.name);
    }
    let count = |layer| server.sql_layer("SELECT sum(n) AS n FROM q05_bytes_by_status", layer);
    assert_eq!(count("batch")["data"][0]["n"], 5_000);
    assert_eq!(count("speed")["data"][0]["n"], 4_999);
    assert_eq!(count("merged")["data"][0]["n"], 9_999);
}
