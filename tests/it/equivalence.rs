//! The promise of the engine, tried at random: whatever the views, and however the events
//! were split into requests, flushes, panes, recomputes and restarts, the merged answer
//! equals one direct pass over all events.
//!
//! Every case has a seed, which a failure names. `LAMBDALAKE_PROP_CASES` runs more cases,
//! `LAMBDALAKE_PROP_SEED` starts at another seed.

mod aggregates;
mod events;
mod oracle;
mod views;
mod world;

use std::collections::BTreeSet;

use datafusion::execution::SessionStateDefaults;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};

use oracle::{Oracle, difference};
use views::{RandomView, random_view};
use world::World;

const CASES: u64 = 24;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Names the seed if the case panics.
struct Case(u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("this was LAMBDALAKE_PROP_SEED={seed} LAMBDALAKE_PROP_CASES=1");
        }
    }
}

#[test]
fn merged_answers_equal_one_direct_pass() {
    let first = number("LAMBDALAKE_PROP_SEED").unwrap_or(1);
    let cases = number("LAMBDALAKE_PROP_CASES").unwrap_or(CASES);
    for seed in first..first + cases {
        let case = Case(seed);
        run_case(&mut StdRng::seed_from_u64(seed));
        drop(case);
    }
}

fn run_case(rng: &mut StdRng) {
    let shards = rng.random_range(1..=3);
    let key = match shards {
        1 => None,
        _ => ["k", "i", "s"].choose(rng).copied(),
    };
    let declared = rng.random_bool(0.5);
    let mut world = World::open(declared, shards, key);
    let mut id = 0;
    let mut late_column = false;
    if !declared {
        world.ingest(vec![events::full_event(id)], 0);
        id += 1;
    }
    world
        .create_view("total", "SELECT k, count(*) AS n FROM events GROUP BY k")
        .expect("create the view of the invariant");
    let mut views = Vec::new();
    add_view(rng, &world, &mut views);
    for _ in 0..rng.random_range(8..16) {
        match rng.random_range(0..20) {
            0..8 => {
                late_column |= rng.random_bool(0.1);
                let count = rng.random_range(0..80);
                let events = (0..count).map(|at| events::random_event(rng, id + at, late_column));
                let events: Vec<_> = events.collect();
                id += count;
                let bad = rng.random_range(0..20_usize).saturating_sub(17);
                world.ingest(events, bad);
            }
            8..12 => world.flush(),
            12..15 => {
                let view: Option<&RandomView> = views.choose(rng);
                if let Some(view) = view {
                    world.recompute(&view.name, rng.random_bool(0.5));
                }
            }
            15 => add_view(rng, &world, &mut views),
            16 => world.restart(rng.random_bool(0.5)),
            17 => holds(&world, &views),
            _ => one_view_holds(rng, &world, &views),
        }
    }
    holds(&world, &views);
    world.recompute("total", true);
    world.runs_end_well();
    holds(&world, &views);
}

fn add_view(rng: &mut StdRng, world: &World, views: &mut Vec<RandomView>) {
    let list = aggregates::calls();
    loop {
        let count = rng.random_range(1..6);
        let calls: Vec<_> = list.choose_multiple(rng, count).cloned().collect();
        let view = random_view(rng, &format!("view{}", views.len()), &calls);
        if made(world, &view) {
            views.push(view);
            return;
        }
    }
}

/// Creates the view. What one pass could not compute either may be refused: lists in orders
/// that no one sort satisfies.
fn made(world: &World, view: &RandomView) -> bool {
    const CONFLICT: &str = "Conflicting ordering requirements";
    let Err(error) = world.create_view(&view.name, &view.select) else {
        return true;
    };
    let sql = &view.select;
    assert!(error.to_string().contains(CONFLICT), "{sql}: {error}");
    match Oracle::new(world.events()).try_run(&view.direct) {
        Err(direct) => assert!(direct.to_string().contains(CONFLICT), "{sql}: {direct}"),
        Ok(_) => panic!("refused, but one pass computes it: {sql}: {error}"),
    }
    false
}

fn one_view_holds(rng: &mut StdRng, world: &World, views: &[RandomView]) {
    if let Some(view) = views.choose(rng) {
        view_holds(world, &Oracle::new(world.events()), view);
    }
}

fn holds(world: &World, views: &[RandomView]) {
    let both = world.query(
        "SELECT (SELECT CAST(coalesce(sum(n), 0) AS BIGINT) FROM total) - \
         (SELECT count(*) FROM events) = 0 AS same",
    );
    use datafusion::arrow::array::AsArray;
    assert!(both.column(0).as_boolean().value(0), "the counts differ");
    let oracle = Oracle::new(world.events());
    for view in views {
        view_holds(world, &oracle, view);
    }
}

fn view_holds(world: &World, oracle: &Oracle, view: &RandomView) {
    let mut queries = vec![String::new()];
    queries.extend(view.condition.iter().map(|c| format!(" WHERE {c}")));
    for condition in queries {
        let merged = world.query(&format!("SELECT * FROM {}{condition}", view.name));
        let direct = oracle.run(&format!("SELECT * FROM ({}){condition}", view.direct));
        if let Some(found) = difference(&merged, &direct, &view.columns) {
            panic!("{}\n{condition}\n{}\n{found}", view.select, view.direct);
        }
    }
}

/// No chance here: each call of the list is in a view, over a version, panes and a tail.
#[test]
fn every_aggregate_of_the_list_is_exact() {
    let rng = &mut StdRng::seed_from_u64(7);
    let mut world = World::open(true, 2, Some("k"));
    let mut list = aggregates::calls();
    list.shuffle(rng);
    let mut views = Vec::new();
    world
        .create_view("total", "SELECT k, count(*) AS n FROM events GROUP BY k")
        .expect("create the view of the invariant");
    let mut id = 0;
    let send = |rng: &mut StdRng, world: &mut World, id: &mut u64| {
        let events = (*id..*id + 60).map(|id| events::random_event(rng, id, false));
        world.ingest(events.collect(), 0);
        *id += 60;
    };
    send(rng, &mut world, &mut id);
    // Halved until its orders agree; one call alone must do.
    let mut rest: Vec<_> = list.chunks(8).map(<[_]>::to_vec).collect();
    while let Some(mut calls) = rest.pop() {
        let view = random_view(rng, &format!("view{}", views.len()), &calls);
        if made(&world, &view) {
            views.push(view);
            continue;
        }
        assert!(calls.len() > 1, "{}", view.select);
        rest.push(calls.split_off(calls.len() / 2));
        rest.push(calls);
    }
    send(rng, &mut world, &mut id);
    world.flush();
    send(rng, &mut world, &mut id);
    world.runs_end_well();
    for view in &views {
        world.recompute(&view.name, true);
    }
    send(rng, &mut world, &mut id);
    world.flush();
    send(rng, &mut world, &mut id);
    holds(&world, &views);
    world.restart(false);
    world.runs_end_well();
    holds(&world, &views);
}

/// Every aggregate of the engine underneath, with and without DISTINCT, is either in the list
/// above or refused with a reason.
#[test]
fn every_registered_aggregate_is_tested_or_refused() {
    let world = World::open(true, 1, None);
    let list = aggregates::calls();
    let find = |function: &str, distinct: bool| {
        list.iter()
            .find(|call| call.function == function && call.sql.contains("DISTINCT") == distinct)
    };
    let mut tried = 0;
    let mut accepts = |select: &str| -> bool {
        tried += 1;
        match world.create_view(&format!("tried{tried}"), select) {
            Ok(()) => true,
            Err(error) => {
                let text = error.to_string();
                let coded = ["view_cannot_be_split", "invalid_view"].contains(&error.code);
                assert!(coded && text.len() > 20, "{select}: {} {text}", error.code);
                false
            }
        }
    };
    let registered: BTreeSet<String> = SessionStateDefaults::default_aggregate_functions()
        .iter()
        .map(|function| function.name().to_owned())
        .collect();
    assert!(registered.len() > 30, "{registered:?}");
    for function in registered {
        if function == "grouping" {
            assert!(accepts(
                "SELECT k, grouping(k) AS g FROM events GROUP BY ROLLUP (k)"
            ));
            continue;
        }
        let Some(sample) = find(&function, false) else {
            for arguments in ["x", "i", "s", "y, x"] {
                let select = format!("SELECT {function}({arguments}) FROM events");
                assert!(!accepts(&select), "not in the list of this test: {select}");
            }
            continue;
        };
        let call = sample.sql.replace("{f}", "");
        assert!(
            accepts(&format!("SELECT {call} AS a FROM events")),
            "{call}"
        );
        let distinct = call.replacen('(', "(DISTINCT ", 1);
        if call != "count(*)" && accepts(&format!("SELECT {distinct} AS a FROM events")) {
            let listed = find(&function, true).is_some();
            assert!(listed, "not in the list of this test: {distinct}");
        }
    }
}
