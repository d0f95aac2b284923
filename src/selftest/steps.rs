//! What can happen in a simulated run, and how a seed makes a list of it.
//!
//! A step carries all its randomness and names what it acts on by a number that is taken
//! modulo what there is, so that any part of a list is a list too. Shrinking needs that.

use lambdalake_data::sim::Fault;
use rand::Rng;
use rand::rngs::StdRng;

/// Streams that a run may make.
pub const STREAMS: usize = 2;
/// Kinds of views; each stream may have one of each.
pub const VIEWS: usize = 3;

/// What a kind of view is made with.
pub const SCHEDULES: [&str; VIEWS] = [
    "WITH (recompute = 'every 1 minute or after 30 events')",
    "WITH (recompute = '* * * * * or lag over 90 s', recompute_time_zone = 'Europe/Zurich')",
    "",
];

/// How a view is altered.
pub const CHANGES: [&str; 5] = [
    "PAUSE",
    "RESUME",
    "SET (recompute = 'every 10 s')",
    "SET (recompute = '0 3 * * * or speed layer over 1 kB')",
    "RESET (recompute)",
];

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    CreateStream {
        stream: usize,
    },
    /// With the views that read it.
    DropStream {
        stream: usize,
    },
    CreateView {
        stream: usize,
        kind: usize,
    },
    DropView {
        stream: usize,
        kind: usize,
    },
    /// What recomputes the first view of the first stream without being asked.
    AlterView {
        change: usize,
    },
    Ingest {
        stream: usize,
        good: usize,
        bad: usize,
        seed: u64,
        keyed: bool,
    },
    /// A keyed request again, whatever became of it; then its key with another body.
    Retry {
        stream: usize,
        nth: usize,
    },
    /// The steps happen while the flush has its file and has not published it.
    Flush {
        stream: usize,
        during: Vec<Step>,
    },
    /// The steps happen while the recompute has its states and has not published them.
    Recompute {
        stream: usize,
        kind: usize,
        during: Vec<Step>,
    },
    /// Compares the view's states with its events.
    Verify {
        stream: usize,
        kind: usize,
    },
    /// Every run that has not ended is cancelled.
    Cancel,
    /// Time passes, and what is due is done. The steps happen while the first recompute that was
    /// due has its states and has not published them.
    Upkeep {
        millis: u64,
        during: Vec<Step>,
    },
    /// With a power cut while it starts, after so many operations.
    Restart {
        how: Ending,
        again_after: Option<u64>,
    },
    Arm {
        after: u64,
        fault: Fault,
    },
    FreeSpace,
}

impl Step {
    /// The stream it acts on, if it is one.
    pub fn stream(&self) -> Option<usize> {
        match self {
            Self::CreateStream { stream }
            | Self::DropStream { stream }
            | Self::CreateView { stream, .. }
            | Self::DropView { stream, .. }
            | Self::Ingest { stream, .. }
            | Self::Retry { stream, .. }
            | Self::Flush { stream, .. }
            | Self::Verify { stream, .. }
            | Self::Recompute { stream, .. } => Some(*stream),
            // What is due is due of any; the first has most of it.
            Self::Upkeep { .. } | Self::AlterView { .. } => Some(0),
            Self::Restart { .. } | Self::Arm { .. } | Self::FreeSpace | Self::Cancel => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As SIGTERM: flushed.
    Clean,
    /// As kill -9: what was written stays.
    Kill,
    /// What was not synced may be lost.
    PowerCut,
}

/// The steps of a run. The first make something to act on.
pub fn plan(random: &mut StdRng, steps: usize) -> Vec<Step> {
    let mut plan = vec![Step::CreateStream { stream: 0 }];
    plan.extend((0..VIEWS).map(|kind| Step::CreateView { stream: 0, kind }));
    while plan.len() < steps {
        plan.push(step(random));
    }
    plan
}

fn step(random: &mut StdRng) -> Step {
    match random.random_range(0..100) {
        0..3 => Step::CreateStream {
            stream: stream(random),
        },
        3 => Step::DropStream {
            stream: stream(random),
        },
        4..8 => Step::CreateView {
            stream: stream(random),
            kind: random.random_range(0..VIEWS),
        },
        8..10 => Step::DropView {
            stream: stream(random),
            kind: random.random_range(0..VIEWS),
        },
        10..45 => ingest(random),
        45..55 => Step::Retry {
            stream: stream(random),
            nth: random.random_range(0..1_000),
        },
        55..67 => flush(random),
        67..77 => Step::Recompute {
            stream: stream(random),
            kind: random.random_range(0..VIEWS),
            during: some(random, 3, during_run),
        },
        77..80 => Step::Upkeep {
            millis: random.random_range(1..120_000),
            during: some(random, 3, during_run),
        },
        80..86 => Step::Restart {
            how: ending(random),
            again_after: random.random::<bool>().then(|| random.random_range(0..8)),
        },
        86..98 => Step::Arm {
            after: random.random_range(0..40),
            fault: fault(random),
        },
        98 => match random.random() {
            true => Step::FreeSpace,
            false => Step::Verify {
                stream: stream(random),
                kind: random.random_range(0..VIEWS),
            },
        },
        _ => Step::AlterView {
            change: random.random_range(0..CHANGES.len()),
        },
    }
}

/// Up to so many steps, often none.
fn some(random: &mut StdRng, most: usize, step: fn(&mut StdRng) -> Step) -> Vec<Step> {
    let count = random.random_range(0..=most);
    (0..count).map(|_| step(random)).collect()
}

fn flush(random: &mut StdRng) -> Step {
    Step::Flush {
        stream: stream(random),
        during: some(random, 2, during_flush),
    }
}

/// Nothing that waits for the run to end.
fn during_run(random: &mut StdRng) -> Step {
    match random.random_range(0..20) {
        0..9 => flush(random),
        9 => Step::Cancel,
        _ => during_flush(random),
    }
}

/// Nothing that waits for the flush to end.
fn during_flush(random: &mut StdRng) -> Step {
    match random.random_range(0..10) {
        0..8 => ingest(random),
        _ => Step::Arm {
            after: random.random_range(0..20),
            fault: fault(random),
        },
    }
}

/// Mostly the first, so that enough happens to one.
fn stream(random: &mut StdRng) -> usize {
    usize::from(random.random_range(0..4) == 0)
}

fn ingest(random: &mut StdRng) -> Step {
    Step::Ingest {
        stream: stream(random),
        good: random.random_range(1..12),
        bad: random.random_range(0..6_usize).saturating_sub(3),
        seed: random.random(),
        keyed: random.random(),
    }
}

fn ending(random: &mut StdRng) -> Ending {
    match random.random_range(0..5) {
        0 => Ending::Clean,
        1 => Ending::Kill,
        _ => Ending::PowerCut,
    }
}

fn fault(random: &mut StdRng) -> Fault {
    match random.random_range(0..10) {
        0..5 => Fault::PowerCut {
            done: random.random(),
        },
        5 => Fault::Kill {
            done: random.random(),
        },
        6..8 => Fault::Fail,
        _ => Fault::Full,
    }
}
