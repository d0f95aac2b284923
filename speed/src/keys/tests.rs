use lambdalake_data::{Cut, CutRange, Digester};

use super::*;

const HOUR: i64 = 3_600_000_000;

fn digest(text: &str) -> Digest {
    let mut digester = Digester::default();
    digester.part(text.as_bytes());
    digester.finish()
}

fn keys(hours: u64, count: usize, running: &Arc<RunningKeys>) -> RememberedKeys {
    let window = Window {
        age: Duration::from_secs(3_600 * hours),
        keys: count,
    };
    RememberedKeys::new("s", window, Arc::clone(running), [])
}

/// The frame of a block with one row at this offset.
fn frame(key: &str, number: u64, text: &str, at: i64, began: i64, is_last: bool) -> FrameHeader {
    let (mut from, mut to) = (Cut::start(1), Cut::start(1));
    from.advance(0, at as u64);
    to.advance(0, at as u64 + 1);
    FrameHeader {
        group: at as u64,
        is_first: true,
        request_id: String::new(),
        ingested_at_micros: at,
        schema_id: 1,
        new_columns: None,
        range: CutRange::new(from, to),
        idempotency_key: Some(key.to_owned()),
        block: Some(BlockMark {
            number,
            began_micros: began,
            digest: digest(text),
            rejected: 3,
            is_last,
            block_bytes: 77,
        }),
    }
}

fn is_stored(keys: &RememberedKeys, key: &str, number: u64, text: &str) -> bool {
    matches!(
        keys.look_up(key, number, digest(text)),
        Known::Stored { .. }
    )
}

#[test]
fn a_block_is_known_by_its_place_and_digest() {
    let keys = keys(1, 10, &Arc::default());
    assert_eq!(keys.look_up("k", 0, digest("a")), Known::New);
    keys.remember(&frame("k", 0, "a", 5, 5, false));
    keys.remember(&frame("k", 1, "b", 6, 5, true));
    let Known::Stored { block, is_last } = keys.look_up("k", 1, digest("b")) else {
        panic!("not stored");
    };
    assert!(is_last);
    assert_eq!((block.rejected, block.offsets[0].from), (3, 6));
    assert_eq!(keys.look_up("k", 0, digest("b")), Known::Other);
    assert_eq!(
        keys.look_up("k", 2, digest("c")),
        Known::Other,
        "beyond the end"
    );
    assert_eq!(keys.began("k"), Some(5));
    assert_eq!(keys.begin("k", 7), Some(77));
}

#[test]
fn the_oldest_bodies_are_forgotten_whole() {
    let keys = keys(2, 2, &Arc::default());
    keys.remember(&frame("a", 0, "a", 1, 1, false));
    keys.remember(&frame("b", 0, "b", 2, 2, true));
    keys.remember(&frame("a", 1, "a", 3, 1, true));
    keys.remember(&frame("c", 0, "c", 4, 4, true));
    keys.expire(4);
    assert!(!is_stored(&keys, "b", 0, "b"), "the oldest by its end");
    assert!(is_stored(&keys, "a", 0, "a") && is_stored(&keys, "a", 1, "a"));
    keys.expire(3 + 2 * HOUR);
    assert!(!is_stored(&keys, "a", 0, "a") && is_stored(&keys, "c", 0, "c"));
    // Too old, though nothing has expired it yet.
    assert_eq!(keys.begin("c", 4 + 2 * HOUR), None);
    assert_eq!(keys.look_up("c", 0, digest("other")), Known::New);
}

#[test]
fn a_body_that_is_being_sent_is_not_forgotten() {
    let running = Arc::default();
    let keys = keys(1, 1, &running);
    let guard = running.begin("s", "a").expect("it is free");
    assert!(running.begin("s", "a").is_none());
    assert!(running.begin("t", "a").is_some(), "of another stream");
    keys.remember(&frame("a", 0, "a", 1, 1, false));
    for at in 2..5 {
        keys.remember(&frame(&format!("b{at}"), 0, "b", at, at, true));
        keys.expire(at + 2 * HOUR);
    }
    assert!(is_stored(&keys, "a", 0, "a"));
    drop(guard);
    assert!(running.begin("s", "a").is_some());
    keys.expire(2 * HOUR);
    assert!(!is_stored(&keys, "a", 0, "a"));
}

#[test]
fn what_is_replayed_twice_or_is_of_an_older_body_changes_nothing() {
    let all = keys(1, 10, &Arc::default());
    let frames = [
        frame("k", 0, "old", 1, 1, false),
        frame("k", 1, "older end", 2, 1, true),
        frame("k", 0, "new", 5, 5, false),
        frame("k", 1, "new end", 6, 5, true),
    ];
    frames.iter().for_each(|frame| all.remember(frame));
    let saved = all.unsaved(6);
    assert_eq!((saved.bodies.len(), saved.oldest_micros), (1, 6));
    all.saved(5);
    assert_eq!(all.unsaved_count(), 1, "changed by a later group");
    all.saved(6);
    assert_eq!(all.unsaved_count(), 0);

    // Whatever of the log is still there besides the file.
    for kept in 0..frames.len() {
        let window = Window {
            age: Duration::from_secs(3_600),
            keys: 10,
        };
        let bodies = saved.bodies.clone();
        let again = RememberedKeys::new("s", window, Arc::default(), bodies);
        frames[kept..]
            .iter()
            .for_each(|frame| again.remember(frame));
        assert_eq!(again.unsaved_count(), 0, "{kept}");
        assert!(is_stored(&again, "k", 0, "new") && is_stored(&again, "k", 1, "new end"));
    }
}

#[test]
fn frames_of_older_versions_are_known_by_their_key_alone() {
    let keys = keys(1, 10, &Arc::default());
    for (key, at) in [("k", 1), ("k\u{1f}1", 2)] {
        let header = FrameHeader {
            block: None,
            ..frame(key, 0, "", at, at, false)
        };
        keys.remember(&header);
    }
    assert!(is_stored(&keys, "k", 0, "anything"));
    assert!(is_stored(&keys, "k", 1, "anything"));
    assert_eq!(keys.look_up("k", 2, digest("more")), Known::New);
    assert_eq!(keys.unsaved(2).bodies.len(), 1);
}
