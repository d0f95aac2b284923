//! Requests with an `Idempotency-Key` on the real binary: stored once, answered the same again,
//! through flushes, restarts and kills.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use super::metrics::sample;
use super::server::{Answer, Server};
use super::settings::until;

/// Every group gets a log segment of its own, so that a flush forgets what it can.
const FORGETFUL: [&str; 2] = ["--log-segment-bytes", "1"];
const STREAM: &str = "/api/v1/streams/s/events?format=ndjson";

fn send(server: &Server, key: &str, body: &str) -> Answer {
    server.post(STREAM, &[("idempotency-key", key)], body.as_bytes())
}

fn refused(answer: &Answer, status: u16, code: &str) {
    let found = (answer.status, answer.json()["error"]["code"].clone());
    assert_eq!(found, (status, json!(code)), "{}", answer.text);
}

fn count(server: &Server) -> Value {
    server.value("SELECT count(*) FROM s")
}

fn lines(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("{{\"n\": {n}}}\n")).collect()
}

fn files(folder: &Path, root: &str) -> Vec<String> {
    let Ok(streams) = std::fs::read_dir(folder.join(root)) else {
        return Vec::new();
    };
    let streams = streams.map(|entry| entry.expect("an entry").path());
    streams
        .flat_map(|stream| std::fs::read_dir(stream).expect("a folder"))
        .map(|entry| entry.expect("an entry").path().display().to_string())
        .collect()
}

#[test]
fn a_key_gives_the_first_answer_again_and_refuses_another_body() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.sql("CREATE TABLE s (n BIGINT)");
    let mixed = "{\"n\": 1}\n{\"n\": \"x\"}\n{\"n\": 2}\n";
    let bad = "{\"n\": \"x\"}\n{\"n\": \"y\"}\n";
    for (key, body, status) in [("mixed", mixed, 200), ("bad", bad, 400), ("empty", "", 200)] {
        let first = send(&server, key, body);
        assert_eq!(first.status, status, "{}", first.text);
        for _ in 0..2 {
            let again = send(&server, key, body);
            assert_eq!((again.status, again.json()), (status, first.json()));
        }
        refused(
            &send(&server, key, "{\"n\": 3}\n"),
            422,
            "idempotency_key_reused",
        );
        let csv = "/api/v1/streams/s/events?format=csv";
        let other = server.post(csv, &[("idempotency-key", key)], b"n\n7\n");
        refused(&other, 422, "idempotency_key_reused");
    }
    assert_eq!(count(&server), 2);
    // What counts is what was sent, not how it was packed.
    let packed = zstd::encode_all(mixed.as_bytes(), 1).expect("packed");
    let headers = [("idempotency-key", "mixed"), ("content-encoding", "zstd")];
    let again = server.post(STREAM, &headers, &packed);
    assert_eq!((again.status, &again.json()["accepted"]), (200, &json!(2)));
    // Nor do the columns of today: the answer is the one of then.
    server.sql("ALTER TABLE s ADD COLUMN m TEXT");
    send(&server, "other", "{\"n\": 1.5, \"m\": \"x\"}\n");
    assert_eq!(send(&server, "bad", bad).json()["rejected"], 2);
    assert_eq!(count(&server), 3);

    server.sql("DROP TABLE s");
    let anew = send(&server, "mixed", "{\"n\": 9}\n");
    assert_eq!(
        anew.json()["accepted"],
        1,
        "another stream of that name: {}",
        anew.text
    );

    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    refused(&server.post(STREAM, &twice, b"{}"), 400, "invalid_header");
    let tab = [("idempotency-key", "a\tb")];
    refused(&server.post(STREAM, &tab, b"{}"), 400, "invalid_header");
    let insert = server.post("/api/v1/sql", &twice[..1], b"INSERT INTO s VALUES (1)");
    refused(&insert, 400, "invalid_header");
    assert_eq!(count(&server), 1);
}

#[test]
fn a_key_whose_request_runs_is_refused_until_it_has_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    let body = lines(0, 100);
    let begin = |key: &str| {
        let address = server.address();
        let mut slow =
            TcpStream::connect(address.trim_start_matches("http://")).expect("connected");
        let length = body.len();
        write!(
            slow,
            "POST {STREAM} HTTP/1.1\r\nhost: s\r\nconnection: close\r\nidempotency-key: {key}\r\n\
             content-length: {length}\r\n\r\n{}",
            &body[..200]
        )
        .expect("sent");
        slow
    };
    let is_running = |key: &str| {
        until("a request in progress", || {
            // What cannot be unpacked is not remembered, should it come before the slow one.
            let headers = [("idempotency-key", key), ("content-encoding", "gzip")];
            let answer = server.post(STREAM, &headers, b"no gzip");
            if answer.status == 409 {
                refused(&answer, 409, "idempotency_key_in_progress");
                assert_eq!(answer.headers["retry-after"], "1");
            }
            answer.status == 409
        });
    };
    let mut slow = begin("ends");
    // A probe that comes before it would have the key itself, and turn it away.
    std::thread::sleep(Duration::from_millis(500));
    is_running("ends");
    assert_eq!(
        send(&server, "another", "{\"n\": -1}").status,
        200,
        "its own key"
    );
    slow.write_all(&body.as_bytes()[200..]).expect("sent");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let again = send(&server, "ends", &body);
    assert_eq!(
        (again.status, &again.json()["accepted"]),
        (200, &json!(100))
    );

    let slow = begin("leaves");
    std::thread::sleep(Duration::from_millis(500));
    is_running("leaves");
    drop(slow);
    until("the key is free", || {
        send(&server, "leaves", &body).status == 200
    });
    assert_eq!(count(&server), 201);
}

#[test]
fn keys_outlive_the_log_that_they_were_in() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut server = Server::start(folder.path(), &FORGETFUL);
    let mut firsts = Vec::new();
    for round in 0..8 {
        for n in 0..5 {
            let from = round * 50 + n * 10;
            let (key, body) = (format!("k{round}-{n}"), lines(from, from + 10));
            let first = send(&server, &key, &body);
            assert_eq!(first.status, 200, "{}", first.text);
            firsts.push((key, body, first.json()));
        }
        // Stored without a row: nothing in the master dataset will stand for it.
        let empty = send(&server, &format!("empty{round}"), "\n");
        firsts.push((format!("empty{round}"), "\n".to_owned(), empty.json()));
        server.sql("FLUSH s");
        if round % 3 == 2 {
            server.kill();
            server = Server::start(folder.path(), &FORGETFUL);
        }
    }
    assert!(
        files(folder.path(), "log").len() < 8,
        "the log was forgotten"
    );
    let kept = files(folder.path(), "keys").len();
    assert!((1..=5).contains(&kept), "{kept} files of 48 keys");
    for restarted in [false, true] {
        if restarted {
            server.stop();
            server = Server::start(folder.path(), &FORGETFUL);
        }
        for (key, body, first) in &firsts {
            let again = send(&server, key, body);
            assert_eq!((again.status, &again.json()), (200, first), "{key}");
            let repeated = again.headers.get("x-repeated-events");
            let expected = (!key.starts_with("empty")).then_some("10");
            assert_eq!(
                repeated.map(|count| count.to_str().expect("text")),
                expected
            );
            let other = format!("{body}{{\"n\": -1}}\n");
            refused(&send(&server, key, &other), 422, "idempotency_key_reused");
        }
        assert_eq!(count(&server), 400);
    }
    // Without one of its files the promise cannot be kept: the stream is stopped.
    server.stop();
    let file = files(folder.path(), "keys").pop().expect("a file");
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[40] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let server = Server::start(folder.path(), &[]);
    let answer = send(&server, &firsts[0].0, &firsts[0].1);
    refused(&answer, 503, "stream_damaged");
    assert!(answer.text.contains("keys/"), "{}", answer.text);
    let text = server.get("/metrics").text;
    let found = sample(&text, "lambdalake_damaged_files_total", &[("kind", "keys")]);
    assert_eq!(found, Some(1.0));
}

#[test]
fn a_body_of_many_blocks_is_one_body() {
    const ROWS: u64 = 150_000;
    let folder = tempfile::tempdir().expect("a folder");
    let blocks = ["--ingest-block-bytes", "32KiB"];
    let server = Server::start(folder.path(), &[&FORGETFUL[..], &blocks].concat());
    let body = lines(0, ROWS);
    let beginning = &body[..body.len() / 4 * 3];
    // Broken off in the middle: what is stored of it is completed after a restart, cut in the
    // same places although the setting is another one now.
    let head = format!(
        "POST {STREAM} HTTP/1.1\r\nhost: s\r\nidempotency-key: k\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut broken =
        TcpStream::connect(server.address().trim_start_matches("http://")).expect("connected");
    broken
        .write_all(format!("{head}{beginning}").as_bytes())
        .expect("sent");
    let rows = || server.try_sql("SELECT count(*) AS n FROM s").json()["data"][0]["n"].as_u64();
    until("the first blocks", || rows() >= Some(500));
    server.sql("FLUSH s");
    drop(broken);
    server.kill();
    let server = Server::start(folder.path(), &FORGETFUL);
    let stored = count(&server).as_u64().expect("a count");
    assert!((500..ROWS).contains(&stored), "{stored}");
    for _ in 0..2 {
        let answer = send(&server, "k", &body);
        assert_eq!(
            (answer.status, &answer.json()["accepted"]),
            (200, &json!(ROWS))
        );
        assert_eq!(count(&server), ROWS);
    }
    // Neither a part of it nor more than it passes for it, wherever its blocks end.
    let lengths: Vec<usize> = body.match_indices('\n').map(|(at, _)| at + 1).collect();
    for end in lengths.iter().rev().skip(1).step_by(29_989) {
        refused(
            &send(&server, "k", &body[..*end]),
            422,
            "idempotency_key_reused",
        );
    }
    for more in ["{\"n\": -1}\n".to_owned(), lines(0, 20_000)] {
        let longer = send(&server, "k", &format!("{body}{more}"));
        refused(&longer, 422, "idempotency_key_reused");
        assert!(
            longer.json()["accepted"].as_u64() >= Some(100_000),
            "{}",
            longer.text
        );
    }
    assert_eq!(count(&server), ROWS);
}

#[test]
fn tables_are_recognised_after_a_restart() {
    let fields = vec![
        Field::new("n", DataType::Int64, true).with_metadata(metadata("field")),
        Field::new("t", DataType::Utf8, true),
    ];
    let schema = Arc::new(Schema::new(fields).with_metadata(metadata("schema")));
    let numbers = Int64Array::from_iter((0..9_000).map(|n| (n % 7 != 0).then_some(n)));
    let texts = StringArray::from_iter((0..9_000).map(|n| (n % 3 != 0).then(|| format!("t{n}"))));
    let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(texts)];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch");
    let mut arrow = StreamWriter::try_new(Vec::new(), &schema).expect("a stream");
    arrow.write(&batch).expect("written");
    let mut parquet = ArrowWriter::try_new(Vec::new(), schema, None).expect("a file");
    parquet.write(&batch).expect("written");
    let bodies = [
        ("arrow", arrow.into_inner().expect("ended")),
        ("parquet", parquet.into_inner().expect("ended")),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let flags = ["--ingest-block-bytes", "16KiB"];
    let server = Server::start(folder.path(), &flags);
    let post = |server: &Server, format: &str, body: &[u8]| {
        let path = format!("/api/v1/streams/s/events?format={format}");
        server.post(&path, &[("idempotency-key", format)], body)
    };
    let first = bodies
        .each_ref()
        .map(|(format, body)| post(&server, format, body).json());
    server.stop();
    let server = Server::start(folder.path(), &flags);
    for ((format, body), first) in bodies.iter().zip(&first) {
        assert_eq!(first["accepted"], 9_000, "{first}");
        let again = post(&server, format, body);
        assert_eq!((again.status, &again.json()), (200, first), "{format}");
    }
    refused(&post(&server, "arrow", &bodies[1].1), 400, "invalid_arrow");
    assert_eq!(count(&server), 18_000);
    let text = server.get("/metrics").text;
    let counted = |metric| sample(&text, metric, &[("stream", "s")]);
    assert_eq!(
        counted("lambdalake_ingest_repeated_rows_total"),
        Some(18_000.0)
    );
    assert_eq!(counted("lambdalake_ingest_rows_total"), None, "{text}");
}

/// Entries enough that a map of them has another order in each process.
fn metadata(of: &str) -> HashMap<String, String> {
    let entry = |n: u32| (format!("{of}{n}"), n.to_string());
    (0..12).map(entry).collect()
}

#[test]
fn producers_that_send_again_after_kills_store_everything_once() {
    const CYCLES: u64 = 5;
    const PRODUCERS: u64 = 3;
    const ROWS: u64 = 30;
    let folder = tempfile::tempdir().expect("a folder");
    let flags = [
        &FORGETFUL[..],
        &["--flush-rows", "70", "--ingest-block-bytes", "256"],
    ]
    .concat();
    // By producer: the body that it has no answer for yet.
    let mut next = [0; PRODUCERS as usize];
    for cycle in 0..CYCLES {
        let server = Server::start(folder.path(), &flags);
        if cycle == 0 {
            server.sql("CREATE TABLE s (n BIGINT, k TEXT) WITH (shard_key = 'k', shards = 2)");
        }
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (producer, next) in next.iter_mut().enumerate() {
                let (stop, address) = (&stop, server.address());
                scope.spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let from = (producer as u64 * 1_000_000) + *next * ROWS;
                        let url = format!("{address}{STREAM}");
                        let sent = ureq::post(url)
                            .header("idempotency-key", format!("p{producer}-{next}"))
                            .send(lines(from, from + ROWS));
                        *next += u64::from(sent.is_ok());
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(400 + 150 * cycle));
            server.kill_now();
            stop.store(true, Ordering::SeqCst);
        });
    }
    let server = Server::start(folder.path(), &flags);
    let mut acknowledged = 0;
    for (producer, next) in next.iter().enumerate() {
        // The one in doubt, and all those before, once more.
        for number in 0..=*next {
            let from = (producer as u64 * 1_000_000) + number * ROWS;
            let answer = send(
                &server,
                &format!("p{producer}-{number}"),
                &lines(from, from + ROWS),
            );
            assert_eq!(answer.json()["accepted"], ROWS, "{}", answer.text);
            acknowledged += ROWS;
        }
    }
    let found = server.rows("SELECT count(*) AS c, count(DISTINCT n) AS d FROM s");
    assert_eq!(found, [json!({"c": acknowledged, "d": acknowledged})]);
    assert!(acknowledged > PRODUCERS * ROWS * 3, "{acknowledged}");
}
