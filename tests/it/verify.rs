//! `lambdalake verify` finds each kind of damage, names it, and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::damage::{body, files_of, flip, with_two_streams};
use crate::old_formats::copy;
use crate::restart::files;
use crate::server::Server;

fn verify(folder: &Path, flags: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lambdalake"))
        .arg("verify")
        .arg("--data-dir")
        .arg(folder)
        .args(flags)
        .output()
        .expect("the binary runs")
}

/// The exit code and the report.
pub fn report(folder: &Path, flags: &[&str]) -> (i32, Value) {
    let output = verify(folder, &[&["--output", "json"], flags].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{said}"));
    (output.status.code().expect("a code"), report)
}

/// Everything in a folder, to see that nothing changes.
fn content(folder: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let modified = std::fs::metadata(&path)
                .expect("there")
                .modified()
                .expect("a time");
            if path.is_dir() {
                all.insert(path.clone(), (Vec::new(), modified));
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("read");
                all.insert(path, (bytes, modified));
            }
        }
    }
    all
}

fn check<'a>(report: &'a Value, name: &str, subject: &str) -> &'a Value {
    let checks = report["checks"].as_array().expect("checks");
    let found = checks
        .iter()
        .find(|it| it["check"] == name && it["subject"] == subject);
    found.unwrap_or_else(|| panic!("no {name} {subject} in {report}"))
}

#[test]
fn a_folder_after_a_kill_is_clean_and_stays_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).kill();
    // As a crash leaves them: half a frame, a flush that was not published, a spill.
    let segment = files_of(folder.path(), "log", "s", "")
        .pop()
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("read");
    bytes.extend_from_slice(&[0x5a; 99]);
    std::fs::write(&segment, bytes).expect("written");
    let master = files_of(folder.path(), "streams", "s", ".parquet");
    let orphan = master[0].with_file_name("0000000003-orphan.parquet");
    std::fs::copy(&master[0], orphan).expect("copied");
    std::fs::write(folder.path().join("staging/half"), "half").expect("written");

    let before = content(folder.path());
    let (code, found) = report(folder.path(), &["--deep"]);
    assert_eq!(code, 0, "{found}");
    assert!(content(folder.path()) == before, "nothing changes");
    assert_eq!(found["clean"], true);
    assert_eq!(check(&found, "master", "s")["files"], 2);
    assert_eq!(check(&found, "master", "s")["rows"], 150);
    assert_eq!(check(&found, "log", "s")["rows"], 40);
    assert_eq!(check(&found, "keys", "s")["rows"], 1);
    assert_eq!(check(&found, "states", "v")["files"], 2);
    assert_eq!(check(&found, "view", "v")["rows"], 190);
    assert_eq!(check(&found, "delta", "s")["rows"], 150);
    assert_eq!(check(&found, "unnamed", "")["files"], 1);
    let torn = check(&found, "log", "s")["notes"][0]
        .as_str()
        .expect("a note");
    assert!(torn.contains("no whole group"), "{torn}");

    let output = verify(folder.path(), &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("ok       master s") && text.contains("rows 150"),
        "{text}"
    );
    assert!(text.contains("all is well"), "{text}");

    Server::start(folder.path(), &[]).stop();
    let (code, found) = report(folder.path(), &["--deep"]);
    assert_eq!(code, 0, "{found}");
    assert_eq!(check(&found, "unnamed", "")["files"], 0, "{found}");
}

/// What is done to a folder; returns the file that the report must name.
type Harm = fn(&Path) -> PathBuf;

fn remove(path: PathBuf) -> PathBuf {
    std::fs::remove_file(&path).expect("removed");
    path
}

fn flipped(path: PathBuf) -> PathBuf {
    flip(&path);
    path
}

pub fn newest_publication(folder: &Path) -> PathBuf {
    publications(folder).pop().expect("one")
}

pub fn publications(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("publications")).expect("a folder");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("one").path()).collect();
    all.sort();
    all
}

fn delta_entries(folder: &Path) -> Vec<PathBuf> {
    let table = files_of(folder, "streams", "s", "_delta_log").remove(0);
    let entries = std::fs::read_dir(table).expect("a log");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("one").path()).collect();
    all.sort();
    all
}

const HARM: &[(&str, &str, Harm)] = &[
    ("log", "s", |folder| {
        let segments = files_of(folder, "log", "s", "");
        flipped(segments[segments.len() - 2].clone())
    }),
    ("log", "s", |folder| {
        let segments = files_of(folder, "log", "s", "");
        remove(segments[segments.len() - 2].clone());
        segments[0].parent().expect("its folder").to_path_buf()
    }),
    ("master", "s", |folder| {
        flipped(files_of(folder, "streams", "s", ".parquet").remove(0))
    }),
    ("master", "s", |folder| {
        remove(files_of(folder, "streams", "s", ".parquet").remove(1))
    }),
    ("states", "v", |folder| flipped(version_file(folder))),
    ("states", "v", |folder| {
        remove(files(folder, "views", "pane-").remove(0))
    }),
    ("keys", "s", |folder| {
        flipped(files_of(folder, "keys", "s", "").remove(0))
    }),
    ("keys", "s", |folder| {
        remove(files_of(folder, "keys", "s", "").remove(0))
    }),
    ("publications", "", |folder| {
        flipped(newest_publication(folder))
    }),
    ("publications", "", |folder| {
        flipped(publications(folder).remove(0))
    }),
    ("delta", "s", |folder| {
        let entry = delta_entries(folder).pop().expect("one");
        let mut bytes = std::fs::read(&entry).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x80;
        std::fs::write(&entry, bytes).expect("written");
        entry
    }),
    ("delta", "s", |folder| {
        remove(delta_entries(folder).remove(1))
    }),
    ("delta", "s", |folder| {
        let entry = delta_entries(folder).pop().expect("one");
        let text = std::fs::read_to_string(&entry).expect("read");
        let other = text.replace("numRecords\\\":50", "numRecords\\\":51");
        assert_ne!(other, text);
        std::fs::write(&entry, other).expect("written");
        entry.parent().expect("its folder").to_path_buf()
    }),
    ("runs", "", |folder| {
        let entries = std::fs::read_dir(folder.join("runs")).expect("runs");
        let run = entries
            .map(|entry| entry.expect("one").path())
            .next()
            .expect("one");
        std::fs::write(&run, "{").expect("written");
        run
    }),
];

fn version_file(folder: &Path) -> PathBuf {
    let all = files_of(folder, "views", "v", ".parquet");
    let is_version = |path: &PathBuf| !path.to_string_lossy().contains("/pane-");
    all.into_iter().find(is_version).expect("a version")
}

#[test]
fn each_kind_of_damage_is_named_and_the_exit_code_says_so() {
    let whole = tempfile::tempdir().expect("a folder");
    with_two_streams(whole.path()).kill();
    for (at, (kind, subject, harm)) in HARM.iter().enumerate() {
        let folder = tempfile::tempdir().expect("a folder");
        copy(whole.path(), folder.path());
        let named = harm(folder.path());
        let named = named
            .strip_prefix(folder.path())
            .expect("inside")
            .to_string_lossy();
        let (code, found) = report(folder.path(), &[]);
        assert_eq!(code, 4, "case {at}: {found}");
        assert_eq!(found["clean"], false);
        let findings = check(&found, kind, subject)["findings"]
            .as_array()
            .expect("a list");
        let is_named = |finding: &&Value| finding.to_string().contains(&*named);
        let finding = findings.iter().find(is_named);
        let finding = finding.unwrap_or_else(|| panic!("case {at}: no {named} in {found}"));
        for part in ["problem", "action"] {
            assert!(
                finding[part].as_str().is_some_and(|text| text.len() > 10),
                "{finding}"
            );
        }
        if *kind != "publications" {
            // The other stream is checked all the same, and is whole.
            assert_eq!(
                check(&found, "master", "other")["findings"],
                serde_json::json!([])
            );
        }
    }
}

pub fn write_publication(path: &Path, body: &Value) {
    let text = body.to_string();
    let crc = crc32c::crc32c(text.as_bytes());
    let entry = format!("{{\"format_version\":1,\"crc32c\":{crc},\"body\":{text}}}");
    std::fs::write(path, entry).expect("written");
}

/// The Parquet file with 1 added to a column of floats; its length and checksum.
pub fn with_more(path: &Path, column: &str) -> (usize, u32) {
    let file = std::fs::File::open(path).expect("a file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a footer");
    let batches: Vec<RecordBatch> = reader
        .build()
        .and_then(|batches| Ok(batches.collect::<Result<_, _>>()?))
        .expect("rows");
    let schema = batches[0].schema();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), None).expect("a writer");
    for batch in batches {
        let at = schema.index_of(column).expect("the column");
        let mut columns = batch.columns().to_vec();
        let more = columns[at]
            .as_primitive::<Float64Type>()
            .unary::<_, Float64Type>(|v| v + 1.0);
        columns[at] = Arc::new(more);
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch");
        writer.write(&batch).expect("written");
    }
    let bytes = writer.into_inner().expect("a file");
    std::fs::write(path, &bytes).expect("written");
    (bytes.len(), crc32c::crc32c(&bytes))
}

#[test]
fn finished_rows_that_differ_from_the_states_beside_them_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", &body(0, 100));
    server.sql("CREATE MATERIALIZED VIEW v AS SELECT k, avg(x) AS mean FROM s GROUP BY k");
    server.sql("REFRESH MATERIALIZED VIEW v");
    server.kill();
    let path = newest_publication(folder.path());
    let entry: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
    let mut body = entry["body"].clone();
    let file = &mut body["views"]["v"]["version"]["files"][0];
    let states = folder.path().join(file["path"].as_str().expect("a path"));
    let (bytes, crc32c) = with_more(&states, "v0");
    (file["bytes"], file["crc32c"]) = (bytes.into(), crc32c.into());
    write_publication(&path, &body);

    assert_eq!(report(folder.path(), &[]).0, 0, "the files are whole");
    let (code, found) = report(folder.path(), &["--deep"]);
    assert_eq!(code, 4, "{found}");
    let findings = check(&found, "view", "v")["findings"].to_string();
    assert!(
        findings.contains("k=k0 mean: stored 50.0, computed 49.0"),
        "{findings}"
    );
}

#[test]
fn states_that_say_other_things_than_the_events_are_found_from_scratch() {
    let folder = tempfile::tempdir().expect("a folder");
    with_two_streams(folder.path()).kill();
    // Every file is whole, but the pane is said to be in the file of the version.
    let path = newest_publication(folder.path());
    let entry: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("json");
    let mut body = entry["body"].clone();
    let version = body["views"]["v"]["version"]["files"].clone();
    body["views"]["v"]["panes"][0]["files"] = version;
    write_publication(&path, &body);

    assert_eq!(report(folder.path(), &[]).0, 0, "the files are whole");
    let (code, found) = report(folder.path(), &["--deep"]);
    assert_eq!(code, 4, "{found}");
    let finding = check(&found, "view", "v")["findings"][0].to_string();
    assert!(
        finding.contains("k=k0") && finding.contains("stored"),
        "{finding}"
    );
    assert_eq!(
        check(&found, "view", "w")["findings"],
        serde_json::json!([])
    );
}

#[test]
fn a_reader_that_leaves_is_no_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    Server::start(folder.path(), &[]).stop();
    let mut verify = Command::new(env!("CARGO_BIN_EXE_lambdalake"))
        .arg("verify")
        .arg("--data-dir")
        .arg(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(verify.stdout.take());
    let output = verify.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(141), ""));
}

#[test]
fn a_folder_in_use_and_one_that_is_not_there_cannot_be_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start(folder.path(), &[]);
    server.ingest("s", "ndjson", &body(0, 10));
    let output = verify(folder.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use by another process"), "{said}");
    assert_eq!(server.value("SELECT count(*) FROM s"), 10);
    server.stop();
    assert_eq!(verify(folder.path(), &[]).status.code(), Some(0));
    let stranger = tempfile::tempdir().expect("a folder");
    std::fs::write(stranger.path().join("file"), "text").expect("written");
    for folder in [&folder.path().join("nothing"), stranger.path()] {
        assert_eq!(verify(folder, &[]).status.code(), Some(2));
    }
}
