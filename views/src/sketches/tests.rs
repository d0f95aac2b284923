use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Float64Type, UInt64Type};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use proptest::prelude::*;

use super::distinct::DistinctValues;
use super::groups::{Groups, Summary};
use super::quantile::Quantile;

/// The state of one group that has seen these values.
fn state<S: Summary>(summary: &S, values: ArrayRef) -> ArrayRef {
    let groups = vec![0; values.len()];
    let mut accumulator = Groups::new(summary.clone());
    accumulator
        .update_batch(&[values], &groups, None, 1)
        .expect("values");
    accumulator.state(EmitTo::All).expect("a state").remove(0)
}

/// States of one group become one.
fn merged<S: Summary>(summary: &S, states: &[ArrayRef]) -> Groups<S> {
    let mut accumulator = Groups::new(summary.clone());
    for state in states {
        accumulator
            .merge_batch(std::slice::from_ref(state), &[0], 1)
            .expect("a state");
    }
    accumulator
}

fn count(states: &[ArrayRef]) -> u64 {
    let estimates = merged(&DistinctValues, states).evaluate(EmitTo::All);
    estimates
        .expect("estimates")
        .as_primitive::<UInt64Type>()
        .value(0)
}

fn integers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// From lists of values to full registers, and on both sides of where one becomes the other.
    #[test]
    fn any_split_counts_what_one_pass_counts(
        distinct in 1..6_000_i64,
        parts in 1..7_usize,
        seed in any::<u64>(),
    ) {
        // Each value in one or two of the parts.
        let of_part = |value: i64, shift: u32| {
            ((value as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize % parts
        };
        let mut states: Vec<ArrayRef> = (0..parts)
            .map(|part| {
                let here = |value: &i64| [32, 48].iter().any(|&shift| of_part(*value, shift) == part);
                state(&DistinctValues, integers((0..distinct).filter(here)))
            })
            .collect();
        let at_once = count(&[state(&DistinctValues, integers(0..distinct))]);
        prop_assert_eq!(count(&states), at_once);
        states.reverse();
        let (left, right) = states.split_at(parts / 2);
        let halves: Vec<ArrayRef> = [left, right]
            .iter()
            .filter(|half| !half.is_empty())
            .map(|half| merged(&DistinctValues, half).state(EmitTo::All).expect("a state").remove(0))
            .collect();
        prop_assert_eq!(count(&halves), at_once);
        let error = (at_once as f64 - distinct as f64).abs() / distinct as f64;
        prop_assert!(error < 0.04, "{} for {}", at_once, distinct);
    }

    #[test]
    fn a_merged_quantile_is_near_the_rank_and_exact_of_a_few_values(
        cuts in prop::collection::vec(prop_oneof![1..60_usize, 1..2_000_usize], 1..6),
        rank in 0.01..0.99_f64,
    ) {
        let summary = Quantile::at(rank, DataType::Float64);
        let total: usize = cuts.iter().sum();
        // A permutation of 0..total, cut into parts.
        let value = |at: usize| ((at * 7_919) % total) as f64;
        prop_assume!(!total.is_multiple_of(7_919));
        let mut from = 0;
        let mut states = Vec::new();
        for cut in &cuts {
            let values = Float64Array::from_iter_values((from..from + cut).map(value));
            states.push(state(&summary, Arc::new(values)));
            from += cut;
        }
        let estimate = merged(&summary, &states).evaluate(EmitTo::All).expect("estimates");
        let estimate = estimate.as_primitive::<Float64Type>().value(0);
        let error = (estimate - rank * (total - 1) as f64).abs() / total as f64;
        let allowed = if total <= 128 { 1e-9 } else { 0.02 };
        prop_assert!(error < allowed, "{} of {}: {}", rank, total, estimate);
    }
}

#[test]
fn groups_rows_without_a_value_and_filtered_rows_are_kept_apart() {
    let values: ArrayRef = Arc::new(Int64Array::from(vec![
        Some(1),
        None,
        Some(2),
        Some(2),
        Some(3),
        Some(4),
    ]));
    let filter = BooleanArray::from(vec![
        Some(true),
        Some(true),
        Some(true),
        Some(true),
        None,
        Some(false),
    ]);
    let mut groups = Groups::new(DistinctValues);
    groups
        .update_batch(&[values], &[0, 0, 2, 0, 0, 1], Some(&filter), 4)
        .expect("values");
    let first_two = groups.evaluate(EmitTo::First(2)).expect("estimates");
    assert_eq!(first_two.as_primitive::<UInt64Type>().values(), &[2, 0]);
    let others = groups.evaluate(EmitTo::All).expect("estimates");
    assert_eq!(others.as_primitive::<UInt64Type>().values(), &[1, 0]);
    assert_eq!(groups.size() / 1024, 0, "what was emitted is held no more");
}

#[test]
fn a_row_becomes_a_state_by_itself() {
    let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(7)]));
    let groups = Groups::new(DistinctValues);
    let states = groups.convert_to_state(&[values], None).expect("states");
    let one = |row| states[0].slice(row, 1);
    assert_eq!(count(&[one(0), one(1), one(2)]), 1);
    assert_eq!(count(&[one(1)]), 0);
}

#[test]
fn a_digest_passes_over_what_is_no_number() {
    let summary = Quantile::at(1.0, DataType::Float64);
    let values = Float64Array::from(vec![f64::NAN, 1.0, f64::INFINITY, f64::NEG_INFINITY]);
    let state = state(&summary, Arc::new(values));
    let estimate = merged(&summary, &[state]).evaluate(EmitTo::All);
    let estimate = estimate.expect("an estimate");
    assert_eq!(estimate.as_primitive::<Float64Type>().value(0), 1.0);
}

#[test]
fn a_state_that_is_none_is_an_error() {
    fn complaint<S: Summary>(summary: &S, damaged: &[u8]) -> String {
        let damaged: ArrayRef = Arc::new(BinaryArray::from_vec(vec![damaged]));
        let estimates = merged(summary, &[damaged]).evaluate(EmitTo::All);
        estimates.expect_err("no estimate").to_string()
    }
    let found = complaint(&DistinctValues, b"no sketch");
    assert!(found.contains("invalid family"), "{found}");
    let median = Quantile::at(0.5, DataType::Float64);
    let found = complaint(&median, b"no sketch");
    assert!(found.contains("invalid family"), "{found}");
    let found = complaint(&median, b"\0half a");
    assert!(found.contains("end within one"), "{found}");
}

#[test]
fn values_that_are_no_numbers_do_not_crowd_out_a_few_that_are() {
    let summary = Quantile::at(0.5, DataType::Float64);
    let noise = Float64Array::from_iter_values([f64::NAN; 120]);
    let few = Float64Array::from_iter_values((0..100).map(f64::from));
    let mixed = Float64Array::from_iter_values(noise.values().iter().chain(few.values()).copied());
    let at_once = [state(&summary, Arc::new(mixed))];
    let split = [
        state(&summary, Arc::new(noise)),
        state(&summary, Arc::new(few)),
    ];
    for states in [at_once.as_slice(), &split] {
        let estimate = merged(&summary, states)
            .evaluate(EmitTo::All)
            .expect("an estimate");
        assert_eq!(estimate.as_primitive::<Float64Type>().value(0), 49.5);
    }
}

#[test]
fn between_two_huge_values_lies_a_number() {
    let far_apart = [f64::MAX, f64::MIN];
    for (rank, expected) in [(0.0, -1.0), (0.25, -0.5), (0.5, 0.0), (1.0, 1.0)] {
        let summary = Quantile::at(rank, DataType::Float64);
        let state = state(&summary, Arc::new(Float64Array::from(far_apart.to_vec())));
        let estimate = merged(&summary, &[state]).evaluate(EmitTo::All);
        let estimate = estimate.expect("an estimate");
        let share = estimate.as_primitive::<Float64Type>().value(0) / f64::MAX;
        assert!(
            (share - expected).abs() < 1e-9,
            "{rank}: {share} of the largest"
        );
    }
}
