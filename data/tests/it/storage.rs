//! The log, the disk, the publication log and the Delta mirror, on a real folder.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use lambdalake_data::delta::{Agreement, DeltaMirror, Entries, look_at};
use lambdalake_data::log::{Frame, FrameHeader, Log};
use lambdalake_data::master::{merge_files, write_part};
use lambdalake_data::publication::{Publication, PublicationLog, StreamState};
use lambdalake_data::schema::{Column, ColumnType, StreamDefinition};
use lambdalake_data::tail::{Chunk, TailPart};
use lambdalake_data::{Cut, CutRange, DataError, Disk};

fn definition() -> StreamDefinition {
    StreamDefinition {
        name: "s".to_owned(),
        incarnation: 1,
        schema_id: 1,
        types_since: 0,
        columns: vec![Column {
            name: "x".to_owned(),
            column_type: ColumnType::Int64,
            nullable: true,
        }],
        event_time: None,
        shard_key: None,
        shards: 1,
        input: Default::default(),
    }
}

fn cut(offset: u64) -> Cut {
    let mut cut = Cut::start(1);
    cut.set_offset(0, offset);
    cut
}

/// Events `from..to` of shard 0; the value of each is its offset.
fn events(from: u64, to: u64) -> RecordBatch {
    let offsets: Vec<i64> = (from as i64..to as i64).collect();
    let rows = offsets.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(offsets.clone())),
        Arc::new(Int32Array::from(vec![0; rows])),
        Arc::new(Int64Array::from(offsets)),
        Arc::new(TimestampMicrosecondArray::from(vec![7; rows]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec![None::<&str>; rows])),
    ];
    RecordBatch::try_new(definition().stored_schema(), columns).unwrap()
}

fn frame(group: u64, from: u64, to: u64) -> Vec<u8> {
    frame_of(group, true, from, to)
}

fn frame_of(group: u64, is_first: bool, from: u64, to: u64) -> Vec<u8> {
    let header = FrameHeader {
        group,
        is_first,
        request_id: format!("r{from}"),
        ingested_at_micros: 7,
        schema_id: 1,
        new_columns: None,
        range: CutRange::new(cut(from), cut(to)),
        idempotency_key: None,
        block: None,
    };
    Frame {
        header,
        events: events(from, to),
    }
    .encode()
    .unwrap()
}

type Replayed = Vec<(u64, u64, Option<RecordBatch>)>;

fn open(disk: &Arc<Disk>, covered: u64) -> (Result<Log, DataError>, Replayed) {
    let mut replayed = Vec::new();
    let log = Log::open(
        Arc::clone(disk) as _,
        "log/s-1",
        1 << 20,
        &cut(covered),
        &mut |h, e| {
            replayed.push((h.range.from.offset(0), h.range.to.offset(0), e));
            Ok(())
        },
    );
    (log, replayed)
}

fn append(log: &mut Log, ranges: &[(u64, u64)]) {
    let group = log.next_group();
    let frames: Vec<_> = ranges
        .iter()
        .map(|&(from, to)| frame(group, from, to))
        .collect();
    log.append(&frames, &cut(ranges.last().unwrap().1)).unwrap();
}

fn segment(disk: &Disk) -> std::path::PathBuf {
    let newest = disk.list("log/s-1").unwrap().pop().unwrap();
    disk.shown(&newest.path)
}

#[test]
fn what_was_appended_is_replayed_and_covered_frames_come_without_events() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let mut log = open(&disk, 0).0.unwrap();
    append(&mut log, &[(0, 3), (3, 5)]);
    append(&mut log, &[(5, 6)]);
    drop(log);
    let (_, replayed) = open(&disk, 3);
    let ranges: Vec<_> = replayed.iter().map(|(from, to, _)| (*from, *to)).collect();
    assert_eq!(ranges, [(0, 3), (3, 5), (5, 6)]);
    assert!(replayed[0].2.is_none());
    assert_eq!(replayed[1].2.as_ref().unwrap(), &events(3, 5));
}

#[test]
fn a_torn_tail_is_cut_at_every_byte_and_the_log_goes_on() {
    let whole = frame(2, 3, 4);
    for kept in (0..whole.len()).step_by(37) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let mut log = open(&disk, 0).0.unwrap();
        append(&mut log, &[(0, 3)]);
        drop(log);
        let path = segment(&disk);
        let mut bytes = std::fs::read(&path).unwrap();
        let good = bytes.len();
        bytes.extend_from_slice(&whole[..kept]);
        std::fs::write(&path, &bytes).unwrap();
        let (log, replayed) = open(&disk, 0);
        assert_eq!(replayed.len(), 1, "torn after {kept} bytes");
        assert_eq!(std::fs::read(&path).unwrap().len(), good);
        append(&mut log.unwrap(), &[(3, 4)]);
        assert_eq!(open(&disk, 0).1.len(), 2);
    }
}

#[test]
fn a_segment_whose_beginning_a_power_cut_lost_has_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let (path, bytes) = with_groups(&disk, 1);
    let group = [bytes, frame_of(1, false, 1, 3), frame_of(1, false, 3, 4)].concat();
    let next = frame(2, 4, 5);
    for lost in [9, 100, 512, group.len() / 2] {
        let mut torn = group.clone();
        torn[..lost].fill(0);
        // A group of one sync that never came: nothing of it was acknowledged.
        std::fs::write(&path, &torn).unwrap();
        let (log, replayed) = open(&disk, 0);
        assert!(replayed.is_empty(), "{lost} bytes lost");
        append(&mut log.unwrap(), &[(0, 2)]);
        assert_eq!(open(&disk, 0).1.len(), 1);
        // The next group says that there was one.
        std::fs::write(&path, [torn, next.clone()].concat()).unwrap();
        let error = open(&disk, 0)
            .0
            .err()
            .expect("acknowledged events are lost");
        assert!(matches!(error, DataError::Damaged { .. }), "{error}");
    }
}

#[test]
fn segments_that_hold_nothing_may_lose_their_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let (path, bytes) = with_groups(&disk, 1);
    let beside = |number: u32| path.with_file_name(format!("{number:020}"));
    std::fs::write(beside(2), [0; 6]).unwrap();
    std::fs::write(beside(3), &bytes[..1]).unwrap();
    let (log, replayed) = open(&disk, 0);
    assert_eq!(replayed.len(), 1);
    append(&mut log.unwrap(), &[(1, 2)]);
    assert_eq!(open(&disk, 0).1.len(), 2);
    // One that held something is missed by what follows it.
    std::fs::write(&path, &bytes[..7]).unwrap();
    let error = open(&disk, 0).0.err().expect("an event is lost");
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
}

#[test]
fn segments_behind_the_last_one_with_frames_do_not_take_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let (path, bytes) = with_groups(&disk, 1);
    // A process died before it wrote a frame into the segment that it had begun.
    let begun = path.with_file_name(format!("{:020}", 2));
    std::fs::write(&begun, &bytes[..8]).unwrap();
    let mut log = open(&disk, 0).0.unwrap();
    log.forget(&cut(1), log.last_group()).unwrap();
    assert!(path.exists() && begun.exists());
    drop(log);
    let mut log = open(&disk, 1).0.unwrap();
    append(&mut log, &[(1, 2)]);
    log.forget(&cut(2), log.last_group()).unwrap();
    assert!(!path.exists() && !begun.exists());
    assert_eq!(open(&disk, 2).1.len(), 1);
}

#[test]
fn damage_before_acknowledged_frames_is_an_error_that_names_the_segment() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let mut log = open(&disk, 0).0.unwrap();
    for from in 0..4 {
        append(&mut log, &[(from, from + 1)]);
    }
    drop(log);
    let path = segment(&disk);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0xff;
    std::fs::write(&path, &bytes).unwrap();
    let error = open(&disk, 0).0.err().expect("damage is found");
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
    assert!(
        error.to_string().contains("log/s-1/00000000000000000001"),
        "{error}"
    );
}

#[test]
fn segments_are_forgotten_only_when_they_are_covered() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let mut log = Log::open(
        Arc::clone(&disk) as _,
        "log/s-1",
        1,
        &cut(0),
        &mut |_, _| Ok(()),
    )
    .unwrap();
    for from in 0..4 {
        append(&mut log, &[(from, from + 1)]);
    }
    log.forget(&cut(2), 0).unwrap();
    let kept = || disk.list("log/s-1").unwrap().len();
    assert_eq!(kept(), 4, "keys of its groups are not saved yet");
    log.forget(&cut(2), log.last_group()).unwrap();
    drop(log);
    let replayed = open(&disk, 2).1;
    let first = replayed.first().unwrap().0;
    assert!(first == 2, "kept from {first}");
    let error = open(&disk, 1).0.err().expect("the event at 1 is gone");
    assert!(matches!(error, DataError::Damaged { .. }), "{error}");
}

#[test]
fn a_second_owner_of_the_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Disk::open(folder.path()).unwrap();
    let second = Disk::open(folder.path()).unwrap_err();
    assert!(matches!(second, DataError::Locked { .. }), "{second}");
}

#[test]
fn a_shared_file_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    disk.put_if_absent("views/a", b"one").unwrap();
    let error = disk.put_if_absent("views/a", b"two").unwrap_err();
    assert!(matches!(error, DataError::Exists { .. }), "{error}");
    assert_eq!(disk.read("views/a").unwrap().unwrap().as_ref(), b"one");
    assert!(disk.list("staging").unwrap().is_empty());
}

#[test]
fn a_damaged_publication_is_named_and_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let (log, first) = PublicationLog::open(Arc::clone(&disk) as _).unwrap();
    assert_eq!(first, Publication::default());
    log.publish(&Publication {
        number: 1,
        ..Publication::default()
    })
    .unwrap();
    assert!(matches!(
        log.publish(&Publication {
            number: 1,
            ..Publication::default()
        }),
        Err(DataError::Exists { .. })
    ));
    assert_eq!(
        PublicationLog::open(Arc::clone(&disk) as _)
            .unwrap()
            .1
            .number,
        1
    );
    let path = disk.shown("publications/00000000000000000001");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"number\":1", "\"number\":2")).unwrap();
    let error = PublicationLog::open(Arc::clone(&disk) as _).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn delta_is_rolled_forward_once_whatever_was_missed() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let shared: Arc<Disk> = Arc::clone(&disk) as _;
    let runtime = runtime();
    let mut state = empty_state();
    let mut mirror = DeltaMirror::new(Arc::clone(&shared), &definition());
    for skip in [false, true, false, false] {
        flush_ten(shared.as_ref(), &mut state);
        if skip {
            // As after a crash: a fresh handle that has to find out how far Delta is.
            mirror = DeltaMirror::new(Arc::clone(&shared), &definition());
            continue;
        }
        runtime.block_on(mirror.roll_forward(&state)).unwrap();
        runtime.block_on(mirror.roll_forward(&state)).unwrap();
    }
    let log = disk.shown("streams/s-1/_delta_log");
    let mut added = Vec::new();
    for entry in std::fs::read_dir(log).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(path) = action["add"]["path"].as_str() {
                added.push(path.to_owned());
            }
        }
    }
    added.sort();
    let mut published: Vec<_> = state.files.iter().map(|file| file.path.clone()).collect();
    published.sort();
    assert_eq!(added, published);
}

#[test]
fn delta_makes_checkpoints_and_merged_files_change_no_data() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<Disk> = Disk::open(folder.path()).unwrap();
    let runtime = runtime();
    let mut state = empty_state();
    let mut mirror = DeltaMirror::new(Arc::clone(&disk), &definition());
    for _ in 0..30 {
        flush_ten(disk.as_ref(), &mut state);
        runtime.block_on(mirror.roll_forward(&state)).unwrap();
    }
    let log = folder.path().join("streams/s-1/_delta_log");
    assert!(log.join("_last_checkpoint").exists());
    assert!(log.join("00000000000000000020.checkpoint.parquet").exists());

    let merged = merge_files(disk.as_ref(), &definition(), &state.files[3..20], 31);
    let merged = merged.unwrap().expect("a file");
    assert_eq!(merged.range, CutRange::new(cut(30), cut(200)));
    assert_eq!(merged.rows, 170);
    state.files.splice(3..20, [merged]);
    state.master_version = 31;
    let damage = runtime.block_on(mirror.roll_forward(&state)).unwrap();
    assert_eq!(damage, None);
    let commit = std::fs::read_to_string(log.join(format!("{:020}.json", 31))).unwrap();
    let actions = commit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let changed = actions.filter_map(|action: serde_json::Value| {
        let of = |kind: &str| {
            action[kind]["dataChange"]
                .as_bool()
                .map(|it| (kind == "add", it))
        };
        of("add").or_else(|| of("remove"))
    });
    let changed: Vec<_> = changed.collect();
    assert_eq!(
        changed.iter().filter(|it| **it == (false, false)).count(),
        17
    );
    assert_eq!(changed.iter().filter(|it| **it == (true, false)).count(), 1);
    assert_eq!(changed.len(), 18);
    // A fresh handle begins at the checkpoint and finds the same.
    let mut fresh = DeltaMirror::new(Arc::clone(&disk), &definition());
    let damage = runtime.block_on(fresh.roll_forward(&state)).unwrap();
    assert_eq!(damage, None);
}

/// Adds a file of ten events.
fn flush_ten(disk: &Disk, state: &mut StreamState) {
    let (from, to) = (state.cut.offset(0), state.cut.offset(0) + 10);
    let chunk = Chunk {
        range: CutRange::new(cut(from), cut(to)),
        events: events(from, to),
        bytes: 0,
    };
    let part = TailPart {
        number: 0,
        from: cut(from),
        chunks: Arc::from(vec![Arc::new(chunk)]),
    };
    state.master_version += 1;
    let file = write_part(disk, &definition(), &part, state.master_version).unwrap();
    state.files.extend(file);
    state.cut = cut(to);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn empty_state() -> StreamState {
    StreamState {
        definition: definition(),
        master_version: 0,
        cut: cut(0),
        files: Vec::new(),
        created_at_micros: 0,
        comments: Default::default(),
        keys: Vec::new(),
    }
}

#[test]
fn delta_forgets_entries_that_are_older_than_a_month() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<Disk> = Disk::open(folder.path()).unwrap();
    let runtime = runtime();
    let mut state = empty_state();
    let mut mirror = DeltaMirror::new(Arc::clone(&disk), &definition());
    let log = folder.path().join("streams/s-1/_delta_log");
    let entry = |version: u64| log.join(format!("{version:020}.json"));
    let found = |state: &StreamState| {
        let found = runtime
            .block_on(look_at(&disk, state, Entries::All))
            .unwrap();
        assert_eq!(found.agreement, Agreement::Same);
        found.broken
    };
    for _ in 1..100 {
        flush_ten(disk.as_ref(), &mut state);
        runtime.block_on(mirror.roll_forward(&state)).unwrap();
    }
    for path in std::fs::read_dir(&log).unwrap() {
        let path = path.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let number = name.split('.').next().unwrap().parse::<u64>();
        if !number.is_ok_and(|number| number < 50) {
            continue;
        }
        let file = File::options().append(true).open(&path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let month_ago = modified - Duration::from_secs(31 * 24 * 3600);
        file.set_modified(month_ago).unwrap();
    }
    assert!(entry(0).exists());
    flush_ten(disk.as_ref(), &mut state);
    runtime.block_on(mirror.roll_forward(&state)).unwrap();
    // Every version of the last month can be read: the checkpoint before it stays.
    let kept: Vec<u64> = (0..=100)
        .filter(|&version| entry(version).exists())
        .collect();
    assert_eq!(kept, (40..=100).collect::<Vec<_>>());
    assert_eq!(found(&state), []);
    let mut fresh = DeltaMirror::new(Arc::clone(&disk), &definition());
    flush_ten(disk.as_ref(), &mut state);
    assert_eq!(runtime.block_on(fresh.roll_forward(&state)).unwrap(), None);
    assert_eq!(found(&state), []);
    std::fs::remove_file(entry(70)).unwrap();
    assert!(found(&state)[0].0.contains("0070.json"));
}

/// A log with one event in each group, and its bytes.
fn with_groups(disk: &Arc<Disk>, groups: u64) -> (std::path::PathBuf, Vec<u8>) {
    let mut log = open(disk, 0).0.unwrap();
    for from in 0..groups {
        append(&mut log, &[(from, from + 1)]);
    }
    let path = segment(disk);
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn no_flipped_bit_of_a_marked_log_is_taken_for_a_torn_tail() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let (path, mut bytes) = with_groups(&disk, 2);
    let data_ends = bytes.len();
    // The mark: a group without events.
    bytes.extend(frame(3, 2, 2));
    for at in (0..data_ends).step_by(41) {
        let mut broken = bytes.clone();
        broken[at] ^= 4;
        std::fs::write(&path, &broken).unwrap();
        match open(&disk, 0) {
            (Err(DataError::Damaged { .. }), _) => {}
            // The bytes that only say that it is a segment.
            (Ok(_), replayed) => assert!(at < 8 && replayed.len() == 3, "byte {at}"),
            (Err(error), _) => panic!("byte {at}: {error}"),
        }
        assert_eq!(
            std::fs::read(&path).unwrap(),
            broken,
            "byte {at}: nothing is cut off"
        );
    }
    // The mark itself may go: it holds nothing.
    std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
    assert_eq!(open(&disk, 0).1.len(), 2);
}

#[test]
fn what_the_master_dataset_covers_may_be_damaged_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path()).unwrap();
    let (path, mut bytes) = with_groups(&disk, 4);
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(open(&disk, 0).0.is_err());
    let (log, replayed) = open(&disk, 1);
    assert!(log.is_ok());
    let ranges: Vec<_> = replayed.iter().map(|(from, to, _)| (*from, *to)).collect();
    assert_eq!(ranges, [(1, 2), (2, 3), (3, 4)]);
    // Nothing behind the flush cut may be missing, at the end neither.
    assert!(open(&disk, 5).0.is_err());
}
