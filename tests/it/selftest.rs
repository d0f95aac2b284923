//! The engine in its simulated world: a fixed set of seeds, and that a seed means one run.
//!
//! `lambdalake selftest --minutes 60` does the same for as long as one likes.

use std::time::Duration;

use lambdalake::selftest::{plan, report, run};

const STEPS: usize = 250;

fn holds(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let steps = plan(seed, STEPS);
        match run(seed, &steps) {
            Ok((tally, ..)) => {
                // A run in which nothing happens proves nothing.
                assert!(tally.acknowledged > 20, "seed {seed}: {tally:?}");
                assert!(
                    tally.faults > 5 && tally.starts > 5,
                    "seed {seed}: {tally:?}"
                );
            }
            Err(failure) => panic!(
                "{}",
                report(seed, &steps, failure, Duration::from_secs(300))
            ),
        }
    }
}

#[test]
fn what_is_acknowledged_survives_every_fault_of_seeds_1_to_3() {
    holds(1..4);
}

#[test]
fn what_is_acknowledged_survives_every_fault_of_seeds_11_to_13() {
    holds(11..14);
}

#[test]
fn a_seed_means_the_same_decisions_and_disk_operations_again() {
    let steps = plan(42, 120);
    let first = run(42, &steps).expect("it holds");
    let second = run(42, &steps).expect("it holds");
    assert_eq!(first, second);
    let (tally, (operations, _), _) = first;
    assert!(
        tally.faults > 3 && operations > 500,
        "{tally:?}, {operations}"
    );
    assert_ne!(first, run(43, &plan(43, 120)).expect("it holds"));
}
