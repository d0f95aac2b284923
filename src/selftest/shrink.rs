//! Fewer steps that fail too: parts of the list are left out as long as it still fails.

use std::time::{Duration, Instant};

use super::{Failure, Step, run};

/// Leaves out halves, quarters ... single steps (delta debugging), for as long as `patience`.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a person waits is real time"
)]
pub fn shrink(
    seed: u64,
    steps: &[Step],
    failure: Failure,
    patience: Duration,
) -> (Vec<Step>, Failure) {
    let start = Instant::now();
    let (mut few, mut failure) = (steps.to_vec(), failure);
    let mut part = few.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut has_shrunk = false;
        while at < few.len() {
            if start.elapsed() > patience {
                return (few, failure);
            }
            let mut fewer = few.clone();
            fewer.drain(at..(at + part).min(few.len()));
            match run(seed, &fewer) {
                Err(next) if next.step > 0 => {
                    fewer.truncate(next.step);
                    few = fewer;
                    failure = next;
                    has_shrunk = true;
                }
                _ => at += part,
            }
        }
        if !has_shrunk || part > few.len() {
            part /= 2;
        }
    }
    (few, failure)
}
