//! Answers tell where they come from, and it is true: under load each agrees with a model in all
//! its figures, and any can be repeated from them alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Answer, Server};
use crate::settings::until;

const SHARDS: usize = 3;
const QUERIES: u64 = 250;

/// The load keeps pace with the queries, or a slow machine would query ever more files.
const EVENTS_PER_QUERY: u64 = 40;
const EVENTS_PER_REQUEST: u64 = 25;
const QUERIES_PER_RECOMPUTE: u64 = 12;
const PAUSE: Duration = Duration::from_millis(5);

const BY_SHARD: &str = "SELECT _shard, count(*) AS c, max(_offset) AS last, \
                        max(_ingested_at) AS newest FROM s GROUP BY _shard";

/// The cut and the run of a version.
type Version = (Vec<u64>, String);

/// What clients know while they send and ask.
#[derive(Default)]
struct Known {
    /// Next offsets by the answers of ingest.
    acknowledged: Mutex<[u64; SHARDS]>,
    /// Cut and run of every version that anything told of, by view.
    versions: Mutex<BTreeMap<(String, u64), Version>>,
    queries: AtomicU64,
    stop: AtomicBool,
}

impl Known {
    fn acknowledge(&self, answer: &Value) {
        let mut known = self.acknowledged.lock().expect("known");
        for (shard, range) in answer["offsets"].as_object().expect("offsets") {
            let shard: usize = shard.parse().expect("a shard");
            known[shard] = known[shard].max(range["to"].as_u64().expect("an offset"));
        }
    }

    /// A version has one cut and one run, whoever tells of it.
    fn version(&self, view: &str, number: u64, cut: Vec<u64>, run_id: &str) {
        let told = (cut, run_id.to_owned());
        let mut versions = self.versions.lock().expect("known");
        let first = versions
            .entry((view.to_owned(), number))
            .or_insert(told.clone());
        assert_eq!(*first, told, "version {number} of {view}");
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn queries(&self) -> u64 {
        self.queries.load(Ordering::SeqCst)
    }
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn offsets(cut: &Value) -> Vec<u64> {
    cut.as_array().expect("a cut").iter().map(number).collect()
}

fn micros(time: &Value) -> i64 {
    let time = chrono::DateTime::parse_from_rfc3339(time.as_str().expect("a time"));
    time.expect("RFC 3339").timestamp_micros()
}

fn ask(server: &Server, sql: &str, layer: &str) -> Answer {
    let path = format!("/api/v1/sql?format=json&layer={layer}");
    let answer = server.post(&path, &[], sql.as_bytes());
    assert_eq!(
        answer.status,
        200,
        "{sql}: {}\n{}",
        answer.text,
        server.log()
    );
    answer
}

/// The figures of an answer, which must agree with each other and with its headers.
fn figures(answer: &Answer, layer: &str) -> (Value, Value) {
    let json = answer.json();
    let stats = &json["stats"];
    for (header, member) in [
        ("x-freshness-ms", "freshness_ms"),
        ("x-batch-version", "batch_version"),
        ("x-lag-events", "lag_events"),
    ] {
        let sent = answer
            .headers
            .get(header)
            .map(|it| it.to_str().expect("text"));
        let told = stats.get(member).map(Value::to_string);
        assert_eq!(sent, told.as_deref(), "{header}: {stats}");
    }
    let (mut batch, mut speed, mut lag) = (0, 0, 0);
    for table in stats["provenance"].as_array().expect("provenance") {
        let [cut, from, to] = ["cut", "from", "to"].map(|name| offsets(&table[name]));
        let [from_batch, panes, gaps, tail] = ["batch", "panes", "gaps", "tail"]
            .map(|part| number(&table[format!("events_from_{part}")]));
        let from_speed = panes + gaps + tail;
        let total = to.iter().sum::<u64>() - from.iter().sum::<u64>();
        assert_eq!(from_batch + from_speed, total, "{table}");
        let own_lag = number(&table["lag_events"]);
        let cut: u64 = cut.iter().sum();
        match layer {
            "batch" => assert_eq!((from_batch, from_speed), (cut, 0), "{table}"),
            "speed" => assert_eq!((from_batch, from_speed), (0, own_lag), "{table}"),
            _ => assert_eq!((from_batch, from_speed), (cut, own_lag), "{table}"),
        }
        for (name, events) in [("batch", from_batch), ("speed", from_speed)] {
            let share = &table[format!("share_from_{name}")];
            match total {
                0 => assert_eq!(*share, Value::Null, "{table}"),
                _ => {
                    let share = share.as_f64().expect("a share") * total as f64;
                    assert!((share - events as f64).abs() < 1e-6, "{table}");
                }
            }
        }
        if layer != "batch" {
            let flushed: u64 = offsets(&table["master_cut"]).iter().sum();
            assert_eq!(panes + gaps, flushed - cut, "{table}");
        }
        (batch, speed, lag) = (batch + from_batch, speed + from_speed, lag.max(own_lag));
    }
    assert_eq!(stats["from_batch"], batch, "{stats}");
    assert_eq!(stats["from_speed"], speed, "{stats}");
    assert_eq!(stats["rows_read"], batch + speed, "{stats}");
    assert_eq!(stats["lag_events"], lag, "{stats}");
    (json["data"].clone(), stats.clone())
}

/// What one client saw last; nothing of it goes back.
#[derive(Default)]
struct Last(BTreeMap<String, Vec<u64>>);

impl Last {
    fn grows(&mut self, table: &Value) {
        let name = table["name"].as_str().expect("a name");
        let mut now = vec![
            table["version"].as_u64().unwrap_or(0),
            number(&table["master_version"]),
            number(&table["publication"]),
        ];
        for cut in ["cut", "master_cut", "to"] {
            now.extend(offsets(&table[cut]));
        }
        if let Some(before) = self.0.insert(name.to_owned(), now.clone()) {
            let is_ahead = before.iter().zip(&now).all(|(before, now)| before <= now);
            assert!(is_ahead, "{before:?}, then {now:?}");
        }
    }
}

/// One answer of a view that counts each shard of its stream, against all that is known.
fn check_by_shard(server: &Server, known: &Known, last: &mut Last) {
    let before = *known.acknowledged.lock().expect("known");
    let sql = "SELECT _shard, c, last, newest, now() AS asked FROM by_shard";
    let (rows, stats) = figures(&ask(server, sql, "merged"), "merged");
    let table = &stats["provenance"][0];
    assert_eq!(
        stats["provenance"].as_array().map(Vec::len),
        Some(1),
        "{stats}"
    );
    assert_eq!(table["name"], "by_shard");
    assert_eq!(offsets(&table["from"]), [0; SHARDS]);
    let to = offsets(&table["to"]);
    let mut counted = [0; SHARDS];
    let mut age = None;
    for row in rows.as_array().expect("rows") {
        let shard = number(&row["_shard"]) as usize;
        counted[shard] = number(&row["c"]);
        assert_eq!(number(&row["last"]) + 1, counted[shard], "{row}");
        let of_shard = (micros(&row["asked"]) - micros(&row["newest"])) / 1_000;
        age = Some(age.map_or(of_shard, |age: i64| age.min(of_shard)));
    }
    assert_eq!(to, counted, "{stats}");
    assert!(
        to.iter().zip(&before).all(|(to, before)| to >= before),
        "{before:?}: {stats}"
    );
    assert_eq!(
        stats.get("freshness_ms"),
        age.map(Value::from).as_ref(),
        "{stats}"
    );
    assert_eq!(
        stats.get("batch_version"),
        Some(&table["version"]).filter(|it| !it.is_null())
    );
    if let Some(version) = table["version"].as_u64() {
        let run_id = table["run_id"].as_str().expect("a run");
        known.version("by_shard", version, offsets(&table["cut"]), run_id);
    }
    last.grows(table);
}

/// Views and their stream in one answer are of one snapshot; the header tells of the view that is
/// furthest behind.
fn check_together(server: &Server, last: &mut Last) {
    let sql = "SELECT (SELECT coalesce(sum(c), 0) FROM by_shard) AS a, \
               (SELECT coalesce(sum(n), 0) FROM w) AS b, (SELECT count(*) FROM s) AS s";
    let (rows, stats) = figures(&ask(server, sql, "merged"), "merged");
    let tables = stats["provenance"].as_array().expect("provenance");
    let names: Vec<&str> = tables.iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["by_shard", "s", "w"]);
    for table in tables {
        for member in [
            "to",
            "publication",
            "master_version",
            "master_cut",
            "stream",
        ] {
            assert_eq!(table[member], tables[0][member], "{stats}");
        }
        last.grows(table);
    }
    let all: u64 = offsets(&tables[0]["to"]).iter().sum();
    assert_eq!(rows[0], json!({"a": all, "b": all, "s": all}), "{stats}");
    let (first, second) = (&tables[0], &tables[2]);
    let behind = match number(&first["lag_events"]) >= number(&second["lag_events"]) {
        true => first,
        false => second,
    };
    assert_eq!(stats["lag_events"], behind["lag_events"], "{stats}");
    assert_eq!(stats["batch_version"], behind["version"], "{stats}");
}

/// Half an answer rests on the events of that half.
fn check_layer(server: &Server, layer: &str) {
    let sql = "SELECT coalesce(sum(c), 0) AS c FROM by_shard";
    let (rows, stats) = figures(&ask(server, sql, layer), layer);
    assert_eq!(rows[0]["c"], stats["rows_read"], "{layer}: {stats}");
}

/// The newest event is at most as old as the clock says since before it was sent.
fn check_freshness(server: &Server, known: &Known) {
    let before = micros(&server.value("SELECT now()"));
    known.acknowledge(&server.ingest("s", "ndjson", "{\"k\":\"mine\",\"x\":1}"));
    let sql = "SELECT now() AS asked, sum(c) FROM by_shard";
    let (rows, stats) = figures(&ask(server, sql, "merged"), "merged");
    let most = (micros(&rows[0]["asked"]) - before) / 1_000;
    assert!(
        number(&stats["freshness_ms"]) <= most as u64,
        "{most}: {stats}"
    );
}

fn write(server: &Server, known: &Known, writer: u64) {
    let mut sent = 0;
    while !known.is_stopped() {
        if sent > (known.queries() + 1) * EVENTS_PER_QUERY / 2 {
            std::thread::sleep(PAUSE);
            continue;
        }
        let body: String = (sent..sent + EVENTS_PER_REQUEST)
            .map(|x| format!("{{\"k\":\"k{writer}-{}\",\"x\":{x}}}\n", x % 13))
            .collect();
        known.acknowledge(&server.ingest("s", "ndjson", &body));
        sent += EVENTS_PER_REQUEST;
    }
}

fn recompute(server: &Server, known: &Known) {
    let mut due = 0;
    while !known.is_stopped() {
        if known.queries() < due {
            std::thread::sleep(PAUSE);
            continue;
        }
        due += QUERIES_PER_RECOMPUTE;
        server.sql("REFRESH MATERIALIZED VIEW by_shard");
        server.sql("FLUSH s");
        server.sql("REFRESH MATERIALIZED VIEW w");
    }
}

/// Takes in what the other ways say of versions.
fn watch(server: &Server, known: &Known) {
    while !known.is_stopped() {
        for version in server.get("/api/v1/views/by_shard").json()["versions"]
            .as_array()
            .expect("versions")
        {
            let run_id = version["run_id"].as_str().expect("a run");
            let cut = offsets(&version["cut"]);
            known.version("by_shard", number(&version["number"]), cut, run_id);
        }
        for row in server.rows("SELECT view, number, cut, run_id FROM lambdalake.versions") {
            let text = row["cut"].as_str().expect("a cut");
            let cut = serde_json::from_str(text).expect("a list of offsets");
            let name = row["view"].as_str().expect("a name");
            let run_id = row["run_id"].as_str().expect("a run");
            known.version(name, number(&row["number"]), offsets(&cut), run_id);
        }
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn under_load_every_answer_tells_where_it_comes_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-rows", "600"]);
    server.sql(&format!(
        "CREATE TABLE s (k TEXT, x BIGINT) WITH (shard_key = 'k', shards = {SHARDS})"
    ));
    server.sql(&format!("CREATE MATERIALIZED VIEW by_shard AS {BY_SHARD}"));
    server
        .sql("CREATE MATERIALIZED VIEW w AS SELECT x % 100 AS r, count(*) AS n FROM s GROUP BY 1");
    let known = Known::default();
    std::thread::scope(|scope| {
        let (server, known) = (&server, &known);
        scope.spawn(|| write(server, known, 0));
        scope.spawn(|| write(server, known, 1));
        scope.spawn(|| recompute(server, known));
        scope.spawn(|| watch(server, known));
        // Whatever fails here, the other threads must end, or the scope waits for ever.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut last = Last::default();
            for query in 0..QUERIES {
                known.queries.store(query, Ordering::SeqCst);
                match query % 5 {
                    1 => check_together(server, &mut last),
                    2 => check_layer(server, ["batch", "speed", "merged"][query as usize / 5 % 3]),
                    3 => check_freshness(server, known),
                    _ => check_by_shard(server, known, &mut last),
                }
            }
        }));
        known.stop.store(true, Ordering::SeqCst);
        checked.expect("every answer agrees");
    });
    let versions = known.versions.lock().expect("known");
    assert!(versions.len() > 4, "{versions:?}");
}

/// The events of a range of offsets, in the place of the stream.
fn restricted(table: &Value) -> String {
    let (from, to) = (offsets(&table["from"]), offsets(&table["to"]));
    let shards = from.iter().zip(&to).enumerate().map(|(shard, (from, to))| {
        format!("(_shard = {shard} AND _offset >= {from} AND _offset < {to})")
    });
    let shards: Vec<String> = shards.collect();
    format!("(SELECT * FROM s WHERE {}) AS s", shards.join(" OR "))
}

fn sorted(rows: &Value) -> Vec<String> {
    let rows = rows.as_array().expect("rows").iter();
    let mut rows: Vec<String> = rows.map(Value::to_string).collect();
    rows.sort();
    rows
}

/// Definitions with `{s}` for the stream.
const REPEATED: [(&str, &str); 3] = [
    (
        "by_key",
        "SELECT k, count(*) AS c, sum(x) AS x, max(ts) AS t FROM {s} WHERE x > 3 GROUP BY k",
    ),
    (
        "by_hour",
        "SELECT date_trunc('hour', ts) AS hour, count(DISTINCT k) AS k, sum(x) AS x FROM {s} \
         GROUP BY date_trunc('hour', ts) HAVING count(*) > 1",
    ),
    (
        "total",
        "SELECT count(*) AS c, min(x) AS l, max(x) AS m FROM {s}",
    ),
];

fn hours(range: std::ops::Range<u64>) -> String {
    range
        .map(|x| {
            let (hour, minute) = (x / 20 % 24, x % 60);
            let ts = format!("2026-03-01T{hour:02}:{minute:02}:00Z");
            format!("{{\"ts\":\"{ts}\",\"k\":\"k{}\",\"x\":{x}}}\n", x % 11)
        })
        .collect()
}

#[test]
fn an_answer_can_be_repeated_from_what_it_tells() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    server.sql(
        "CREATE TABLE s (ts TIMESTAMP, k TEXT, x BIGINT)
         WITH (event_time = 'ts', shard_key = 'k', shards = 2)",
    );
    let mut taken = Vec::new();
    let mut take = |when: &str| {
        for (view, _) in REPEATED {
            for layer in ["merged", "batch", "speed"] {
                let sql = format!("SELECT * FROM {view}");
                let (rows, stats) = figures(&ask(&server, &sql, layer), layer);
                let table = stats["provenance"][0].clone();
                let described = server.get(&format!("/api/v1/views/{view}")).json();
                assert_eq!(table["definition_hash"], described["definition_hash"]);
                taken.push((when.to_owned(), view, layer, rows, table));
            }
        }
    };
    server.ingest("s", "ndjson", &hours(0..200));
    for (view, definition) in REPEATED {
        let definition = definition.replace("{s}", "s");
        server.sql(&format!("CREATE MATERIALIZED VIEW {view} AS {definition}"));
    }
    take("with a tail only");
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", &hours(200..240));
    take("with a pane and a tail");
    for (view, _) in REPEATED {
        server.sql(&format!("REFRESH MATERIALIZED VIEW {view}"));
    }
    take("with a version");
    server.ingest("s", "ndjson", &hours(230..300));
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", &hours(290..310));
    take("with a version, a pane and a tail");
    // What comes after is in none of the ranges.
    server.ingest("s", "ndjson", &hours(0..500));
    for (view, _) in REPEATED {
        server.sql(&format!("REFRESH MATERIALIZED VIEW {view}"));
    }
    for (when, view, layer, rows, table) in &taken {
        let (_, definition) = REPEATED.iter().find(|(name, _)| name == view).expect("it");
        let again = server.sql(&definition.replace("{s}", &restricted(table)));
        let what = format!("{view} {when}, {layer}: {table}");
        assert_eq!(sorted(&again["data"]), sorted(rows), "{what}");
    }
    let in_panes = |(.., table): &&(_, _, _, _, Value)| number(&table["panes"]) > 0;
    assert!(taken.iter().filter(in_panes).count() > 3);
}

/// Has the Delta table of a new stream made, so that no flush comes by itself any more.
fn settle(server: &Server) {
    server.sql("FLUSH s");
    until("a Delta table", || {
        let text = server.get("/metrics").text;
        text.contains("lambdalake_delta_behind{stream=\"s\"} 0")
    });
}

/// A version of 20 hours, a pane with the next hours and a tail with the last one.
fn with_hours(folder: &Path) -> Server {
    let server = Server::start(folder, &["--flush-age", "1h"]);
    server.sql("CREATE TABLE s (ts TIMESTAMP, k TEXT, x BIGINT) WITH (event_time = 'ts')");
    server.sql(
        "CREATE MATERIALIZED VIEW by_hour AS
         SELECT date_trunc('hour', ts) AS hour, k, count(*) AS c FROM s GROUP BY 1, 2",
    );
    settle(&server);
    server.ingest("s", "ndjson", &hours(0..400));
    server.sql("REFRESH MATERIALIZED VIEW by_hour");
    server.ingest("s", "ndjson", &hours(400..440));
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", &hours(440..450));
    server
}

#[test]
fn explain_provenance_counts_what_was_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_hours(folder.path());
    let all = server.rows("EXPLAIN PROVENANCE SELECT * FROM by_hour");
    assert_eq!(all.len(), 1, "{all:?}");
    let expected = json!({
        "name": "by_hour", "kind": "view", "stream": "s", "version": 1, "cut": "[400]",
        "master_version": 2, "master_cut": "[440]", "from": "[0]", "to": "[450]",
        "lag_events": 50, "panes": 1, "panes_from": "[400]", "panes_to": "[440]", "gaps": 0,
        "events_from_batch": 400, "events_from_panes": 40, "events_from_gaps": 0,
        "events_from_tail": 10, "rows_from_batch": 220, "rows_from_panes": 22,
        "rows_from_gaps": 0, "rows_from_tail": 10,
    });
    for (name, value) in expected.as_object().expect("members") {
        assert_eq!(all[0][name], *value, "{name}: {}", all[0]);
    }
    // A filter on the time leaves most of the version alone, and never changes what is told of it.
    let narrow = "SELECT sum(c) FROM by_hour WHERE hour = '2026-03-01T22:00:00Z'";
    let told = &server.rows(&format!("EXPLAIN PROVENANCE {narrow}"))[0];
    assert_eq!(told["events_from_batch"], 400, "{told}");
    assert!(number(&told["rows_from_batch"]) < 20, "{told}");
    assert_eq!(told["rows_from_tail"], 10, "{told}");
    // The answer itself tells the same.
    let stats = server.sql(narrow)["stats"].clone();
    let own = &stats["provenance"][0];
    for (name, value) in told.as_object().expect("members") {
        let own = match &own[name] {
            Value::Array(cut) => json!(cut).to_string().into(),
            other => other.clone(),
        };
        assert_eq!(*value, own, "{name}");
    }
    let of_stream = &server.rows("EXPLAIN PROVENANCE SELECT x FROM s")[0];
    assert_eq!(of_stream["version"], Value::Null, "{of_stream}");
    assert_eq!(of_stream["rows_from_batch"], 440, "{of_stream}");
    assert_eq!(of_stream["rows_from_tail"], 10, "{of_stream}");
}

#[test]
fn explain_provenance_is_a_statement_like_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = with_hours(folder.path());
    let sql = "EXPLAIN PROVENANCE SELECT * FROM by_hour WHERE c > $1";
    for format in ["json", "ndjson", "csv", "arrow", "parquet", "table"] {
        let path = format!("/api/v1/sql?format={format}&params=%5B0%5D&max_rows=1&layer=batch");
        let answer = server.post(&path, &[], sql.as_bytes());
        assert_eq!(answer.status, 200, "{format}: {}", answer.text);
        assert!(
            answer.text.contains("definition_hash"),
            "{format}: {}",
            answer.text
        );
        assert_eq!(answer.headers["x-lag-events"], "50", "{format}");
        assert_eq!(answer.headers["x-batch-version"], "1", "{format}");
    }
    let read_only = "/api/v1/sql?q=explain%20Provenance%20SELECT%20*%20FROM%20by_hour&layer=speed";
    let answer = server.get(read_only);
    assert_eq!(answer.json()["data"][0]["from"], "[400]", "{}", answer.text);
    let none = server.rows("EXPLAIN PROVENANCE SELECT * FROM lambdalake.views;");
    assert_eq!(none, [Value::Null; 0]);
    for (sql, status, code) in [
        ("EXPLAIN PROVENANCE", 400, "unsupported_statement"),
        (
            "EXPLAIN PROVENANCE DROP TABLE s",
            400,
            "unsupported_statement",
        ),
        (
            "EXPLAIN PROVENANCE EXPLAIN SELECT 1",
            400,
            "unsupported_statement",
        ),
        (
            "EXPLAIN PROVENANCE INSERT INTO s SELECT * FROM s",
            400,
            "unsupported_statement",
        ),
        (
            "EXPLAIN PROVENANCE SELECT x INTO t FROM s",
            400,
            "unsupported_statement",
        ),
        ("EXPLAIN PROVENANCE SELEC 1", 400, "syntax_error"),
        (
            "EXPLAIN PROVENANCE SELECT 1; SELECT 2",
            400,
            "unsupported_statement",
        ),
        ("EXPLAIN PROVENANCE SELECT $1", 400, "missing_parameter"),
        ("EXPLAIN RECOMPUTE", 400, "unsupported_statement"),
        ("EXPLAIN RECOMPUTE s", 404, "unknown_view"),
        ("EXPLAIN RECOMPUTE SELECT 1", 400, "syntax_error"),
        ("EXPLAIN RECOMPUTE by_hour, by_hour", 400, "syntax_error"),
    ] {
        let answer = server.try_sql(sql);
        assert_eq!(answer.status, status, "{sql}: {}", answer.text);
        assert_eq!(
            answer.json()["error"]["code"],
            code,
            "{sql}: {}",
            answer.text
        );
    }
    assert_eq!(server.value("SELECT count(*) FROM s"), 450);
}

#[test]
fn freshness_outlives_a_flush_and_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--flush-age", "1h"];
    let server = Server::start(folder.path(), &flags);
    server.sql("CREATE TABLE s (k TEXT)");
    server.sql("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS c, max(_ingested_at) AS t FROM s");
    let check = |server: &Server| {
        let sql = "SELECT c, t, now() AS asked FROM v";
        let (rows, stats) = figures(&ask(server, sql, "merged"), "merged");
        let age = match rows[0]["t"].is_null() {
            true => None,
            false => Some((micros(&rows[0]["asked"]) - micros(&rows[0]["t"])) / 1_000),
        };
        assert_eq!(
            stats.get("freshness_ms"),
            age.map(Value::from).as_ref(),
            "{stats}"
        );
    };
    check(&server);
    // Keys and refused rows are no events.
    server.post(
        "/api/v1/streams/s/events",
        &[("idempotency-key", "a")],
        b"{\"k\":1}",
    );
    check(&server);
    server.ingest("s", "ndjson", "{\"k\":\"x\"}");
    check(&server);
    server.sql("REFRESH MATERIALIZED VIEW v");
    server.stop();
    let server = Server::start(folder.path(), &flags);
    check(&server);
    server.post(
        "/api/v1/streams/s/events",
        &[("idempotency-key", "b")],
        b"{\"k\":1}",
    );
    check(&server);
    server.kill();
    let server = Server::start(folder.path(), &flags);
    check(&server);
    let listed = server.get("/api/v1/streams/s").json();
    assert!(listed["freshness_ms"].is_u64(), "{listed}");
}

/// The figures of a recompute by name.
fn expected(server: &Server, view: &str) -> BTreeMap<String, Option<String>> {
    let rows = server.rows(&format!("EXPLAIN RECOMPUTE {view}"));
    let figure = |row: &Value| {
        let text = |member: &str| row[member].as_str().map(str::to_owned);
        assert!(text("about").is_some_and(|about| about.len() > 3), "{row}");
        (text("name").expect("a name"), text("value"))
    };
    rows.iter().map(figure).collect()
}

#[test]
fn explain_recompute_tells_what_a_run_would_be_and_runs_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &["--flush-age", "1h"]);
    server
        .sql("CREATE TABLE s (ts TIMESTAMP, k TEXT, x BIGINT, pad TEXT) WITH (event_time = 'ts')");
    server.sql(
        "CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS c, sum(x) AS x FROM s GROUP BY k",
    );
    let figure = |name: &str| expected(&server, "v").get(name).cloned().flatten();
    let number = |name: &str| -> u64 {
        let value = figure(name).unwrap_or_else(|| panic!("{name} is not known"));
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value}"))
    };
    settle(&server);
    server.ingest("s", "ndjson", &hours(0..1_000));
    assert_eq!(figure("compared_with").as_deref(), Some("nothing"));
    assert_eq!((number("events"), number("tail_events")), (1_000, 1_000));
    assert_eq!(
        (number("files"), number("bytes"), number("bytes_of_columns")),
        (0, 0, 0)
    );
    assert_eq!((number("states"), figure("states_bytes")), (100, None));
    assert_eq!((number("time"), figure("last_run")), (21, None));
    server.sql("FLUSH s");
    assert_eq!(figure("compared_with").as_deref(), Some("1 panes"));
    assert_eq!(number("states"), 11);
    assert_eq!(server.get("/api/v1/runs").json()["runs"], json!([]));

    server.sql("REFRESH MATERIALIZED VIEW v");
    server.ingest("s", "ndjson", &hours(0..500));
    server.sql("FLUSH s");
    server.ingest("s", "ndjson", &hours(0..10));
    let stream = server.get("/api/v1/streams/s").json();
    let told = expected(&server, "v");
    let is = |name: &str, value: &str| assert_eq!(told[name].as_deref(), Some(value), "{name}");
    is("view", "v");
    is("stream", "s");
    is("run", "recompute");
    is("compared_with", "version 1 and 1 panes");
    is("cut", "[1510]");
    is("events", "1510");
    is("tail_events", "10");
    is("files", &stream["files"].to_string());
    is("bytes", &stream["bytes"].to_string());
    is("columns", "k, x");
    is("spills", "no");
    is("runs_before", "0");
    is("last_run_events", "1000");
    is("last_run_states", "11");
    is("memory_limit", &(1_u64 << 30).to_string());
    let runs = server.get("/api/v1/runs").json()["runs"].clone();
    is("last_run", runs[0]["run_id"].as_str().expect("an id"));
    is("last_run_time", &runs[0]["duration_ms"].to_string());
    assert_eq!(
        runs.as_array().map(Vec::len),
        Some(1),
        "nothing ran: {runs}"
    );
    let bytes = number("bytes_of_columns");
    assert!(
        bytes > 0 && bytes < number("bytes") / 2,
        "two of five columns and more"
    );
    let states = number("states");
    assert!((11..=22).contains(&states), "{states}");
    assert!(number("states_bytes") > 0 && number("memory") > 11 * 24);
}

#[test]
fn explain_recompute_tells_that_a_run_would_spill() {
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--batch-memory-bytes", "4MiB", "--flush-age", "1h"];
    let server = Server::start(folder.path(), &flags);
    server.sql("CREATE TABLE s (k TEXT, x BIGINT)");
    server
        .sql("CREATE MATERIALIZED VIEW few AS SELECT x % 7 AS r, count(*) AS c FROM s GROUP BY 1");
    server.sql("CREATE MATERIALIZED VIEW many AS SELECT k, count(*) AS c FROM s GROUP BY k");
    let body: String = (0..20_000)
        .map(|x| format!("{{\"k\":\"key {x}\",\"x\":{x}}}\n"))
        .collect();
    settle(&server);
    server.ingest("s", "ndjson", &body);
    server.sql("FLUSH s");
    for (view, states, spills) in [("few", "7", "no"), ("many", "20000", "yes")] {
        let told = expected(&server, view);
        assert_eq!(told["states"].as_deref(), Some(states), "{told:?}");
        assert_eq!(told["spills"].as_deref(), Some(spills), "{told:?}");
    }
}

#[test]
fn the_guide_explains_every_column() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/http.md");
    let guide = std::fs::read_to_string(guide).expect("the guide");
    for (name, ..) in lambdalake_serving::provenance::COLUMNS {
        assert!(
            guide.contains(&format!("`{name}`")),
            "docs/http.md does not explain {name}"
        );
    }
}
