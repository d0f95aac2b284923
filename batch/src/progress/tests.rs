use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// Time goes on when a test says so.
#[derive(Debug, Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_micros(&self) -> i64 {
        (self.0.load(Ordering::Relaxed) * 1000) as i64
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

fn begin() -> (Arc<Hand>, Progress) {
    let hand = Arc::new(Hand::default());
    let progress = Progress::new(Arc::clone(&hand) as Arc<dyn Clock>);
    (hand, progress)
}

fn wait(hand: &Hand, millis: u64) {
    hand.0.fetch_add(millis, Ordering::Relaxed);
}

fn files(rows: &[u64]) -> Vec<ScanFile> {
    let file = |&rows: &u64| ScanFile {
        path: "f".to_owned(),
        bytes: rows * 10,
        rows,
        bounds: Vec::new(),
    };
    rows.iter().map(file).collect()
}

fn left(progress: &Progress) -> Option<u64> {
    let left = progress.told().remaining;
    left.map(|left| left.as_millis() as u64)
}

const LAST_TIME: Timing = Timing {
    reading_ms: 1000,
    rest_ms: 500,
};

#[test]
fn nothing_is_said_before_enough_is_read() {
    let (hand, progress) = begin();
    assert_eq!(
        (progress.told().phase, left(&progress)),
        (Phase::Queued, None)
    );
    progress.enter(Phase::Flushing);
    wait(&hand, 60_000);
    assert_eq!(left(&progress), None);
    progress.begin_reading(&files(&[6_000, 4_000]), Timing::default());
    progress.read_rows(5_000);
    wait(&hand, 999);
    assert_eq!(left(&progress), None, "half of it, but too soon");

    progress.begin_reading(&files(&[6_000, 4_000]), Timing::default());
    wait(&hand, 2_000);
    assert_eq!(left(&progress), None, "nothing was read");
    progress.read_rows(99);
    assert_eq!(left(&progress), None, "less than one in a hundred");
    progress.read_rows(1);
    assert_eq!(left(&progress), Some(198_000));
}

#[test]
fn reading_goes_on_as_it_went() {
    let (hand, progress) = begin();
    progress.begin_reading(&files(&[6_000, 4_000]), Timing::default());
    wait(&hand, 4_000);
    progress.read_rows(2_000);
    assert_eq!(left(&progress), Some(16_000));
    wait(&hand, 1_000);
    assert_eq!(left(&progress), Some(20_000), "it became slower");
    progress.read_rows(3_000);
    assert_eq!(left(&progress), Some(5_000));
    progress.read_rows(5_000);
    assert_eq!(progress.told().phase, Phase::Sorting);
    assert_eq!(
        left(&progress),
        None,
        "of a first run the rest is not known"
    );
}

#[test]
fn what_follows_takes_as_long_as_last_time_in_proportion() {
    let (hand, progress) = begin();
    progress.begin_reading(&files(&[10_000]), LAST_TIME);
    wait(&hand, 4_000);
    progress.read_rows(5_000);
    assert_eq!(left(&progress), Some(4_000 + 4_000));
    wait(&hand, 4_000);
    progress.read_rows(5_000);
    assert_eq!(left(&progress), Some(4_000));
    wait(&hand, 1_000);
    for phase in [Phase::Writing, Phase::Comparing, Phase::Publishing] {
        progress.enter(phase);
        assert_eq!(left(&progress), Some(3_000), "{phase:?}");
    }
    wait(&hand, 3_000);
    assert_eq!(left(&progress), None, "it takes longer than last time");
    wait(&hand, 60_000);
    assert_eq!(left(&progress), None);
    let timing = progress.timing();
    assert_eq!((timing.reading_ms, timing.rest_ms), (8_000, 64_000));
}

#[test]
fn an_empty_stream_is_read_at_once() {
    let (hand, progress) = begin();
    progress.begin_reading(&[], LAST_TIME);
    wait(&hand, 5_000);
    assert_eq!(left(&progress), None);
    progress.enter(Phase::Writing);
    assert_eq!(progress.told().counts, Counts::default());
    assert_eq!(progress.timing().reading_ms, 5_000);
}

#[test]
fn all_is_read_when_the_last_event_is() {
    let (_hand, progress) = begin();
    progress.begin_reading(&files(&[6, 4]), Timing::default());
    progress.read_rows(6);
    progress.read_bytes(60);
    progress.read_file();
    let told = progress.told().counts;
    assert_eq!(
        (told.rows_read, told.bytes_read, told.files_read),
        (6, 60, 1)
    );
    progress.read_rows(4);
    let all = progress.told().counts;
    assert_eq!((all.bytes_read, all.files_read), (100, 2));
    // The reader of the last file hears of its end only now.
    progress.read_bytes(40);
    progress.read_file();
    assert_eq!(progress.told().counts, all);
}

#[test]
fn an_attempt_that_begins_again_neither_goes_back_nor_beyond() {
    let (_hand, progress) = begin();
    progress.begin_reading(&files(&[6, 4]), Timing::default());
    progress.read_rows(10);
    let first = progress.told().counts;
    assert_eq!((first.rows_read, first.rows_total), (10, 10));
    // Events came in between, and files were written again into smaller ones.
    progress.begin_reading(&files(&[12]), Timing::default());
    let again = progress.told();
    assert_eq!(again.phase, Phase::Reading);
    assert_eq!((again.counts.rows_read, again.counts.rows_total), (10, 12));
    assert_eq!(
        (again.counts.bytes_read, again.counts.bytes_total),
        (100, 120)
    );
    assert_eq!((again.counts.files_read, again.counts.files_total), (1, 1));
    progress.read_rows(8);
    assert_eq!(progress.told().counts.rows_read, 10);
    progress.read_rows(4);
    let counts = progress.told().counts;
    assert_eq!((counts.rows_read, counts.bytes_read), (12, 120));
}

#[test]
fn runs_of_older_versions_have_no_counts_of_files() {
    let old: Counts = serde_json::from_str(r#"{"rows_read": 7, "rows_total": 9}"#).unwrap();
    assert_eq!((old.rows_read, old.rows_total, old.bytes_total), (7, 9, 0));
}

#[tokio::test]
async fn cancelling_ends_work_that_waits() {
    let (_, progress) = begin();
    let done = progress.unless_cancelled(async { Ok(1) }).await;
    assert_eq!(done.expect("not cancelled"), 1);
    let never = progress.unless_cancelled(std::future::pending::<Result<(), _>>());
    let cancel = async { progress.cancel() };
    let (ended, ()) = tokio::join!(never, cancel);
    assert!(matches!(ended, Err(BatchError::Cancelled)), "{ended:?}");
    assert!(progress.is_cancelled() && progress.check().is_err());
}
