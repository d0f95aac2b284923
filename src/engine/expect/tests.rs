use lambdalake_batch::history::RunKind;
use lambdalake_batch::progress::Counts;

use super::*;

fn run(view: &str, rows_read: u64, duration_ms: u64, status: RunStatus) -> Run {
    Run {
        status,
        duration_ms,
        counts: Counts {
            rows_read,
            rows_total: rows_read,
            ..Counts::default()
        },
        ..Run::queued(String::new(), view, RunKind::Recompute, String::new(), 0)
    }
}

fn own(run: &Run) -> bool {
    run.view == "v"
}

#[test]
fn time_rests_on_the_runs_of_the_view_before_those_of_others() {
    let done = RunStatus::Succeeded;
    let none = time_ms(&[], own, 1_000_000);
    assert_eq!(none.value, 1_020);
    assert!(none.about.contains("assumed"), "{}", none.about);
    let other = [run("w", 100_000, 1_020, done)];
    let by_other = time_ms(&other, own, 200_000);
    assert_eq!(by_other.value, 2_020);
    assert!(by_other.about.contains("runs of other views: 1"));
    let runs = [
        run("v", 1_000_000, 1_020, done),
        run("w", 100_000, 1_020, done),
        run("v", 10, 9_000, RunStatus::Failed),
        run("v", 0, 5, done),
    ];
    let by_own = time_ms(&runs, own, 2_000_000);
    assert_eq!(by_own.value, 2_020, "{}", by_own.about);
    assert!(by_own.about.contains("runs of this view: 1"));
}

#[test]
fn short_runs_do_not_make_a_recompute_free() {
    let short = [run("v", 200, 3, RunStatus::Succeeded)];
    let time = time_ms(&short, own, 1_000_000);
    assert_eq!(time.value, 1_520, "{}", time.about);
}

#[test]
fn only_the_newest_runs_count() {
    let mut runs = vec![run("v", 1_000, 60_020, RunStatus::Succeeded); 3];
    runs.extend(vec![run("v", 100_000, 1_020, RunStatus::Succeeded); 5]);
    assert_eq!(time_ms(&runs, own, 100_000).value, 1_020);
}

#[test]
fn groups_grow_with_events_but_never_beyond_the_states_of_these() {
    assert_eq!(grown((1_000, 100), (500, 400), 3).value, 150);
    assert_eq!(grown((1_000, 100), (500, 7), 3).value, 107);
    assert_eq!(grown((1_000, 100), (0, 0), 3).value, 100);
    assert_eq!(grown((0, 0), (50, 50), 1).value, 0);
}

#[test]
fn a_sample_is_spread_and_small() {
    let files: Vec<usize> = (0..1_000).collect();
    let few: Vec<&usize> = sample(&files).collect();
    assert!(few.len() <= SAMPLED_FILES && few.len() > SAMPLED_FILES / 2);
    assert!(**few.last().expect("some") > 900);
    assert_eq!(sample(&files[..3]).count(), 3);
    assert_eq!(sample(&files[..0]).count(), 0);
}
