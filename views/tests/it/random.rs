//! Random views over random splits.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::support::*;

fn views() -> impl Strategy<Value = String> {
    let calls = vec![
        "count(*)",
        "count(i)",
        "sum(i)",
        "sum(x)",
        "avg(x)",
        "min(s)",
        "max(ts)",
        "bool_or(b)",
        "count(DISTINCT s)",
        "var(x)",
        "median(i)",
        "sum(d)",
        "max(u)",
        "avg(i)",
        "corr(x, y)",
        "first_value(s ORDER BY ts, _shard, _offset)",
        "array_agg(i ORDER BY _shard, _offset)",
        "array_agg(DISTINCT i ORDER BY i)",
    ];
    let filters = vec![
        "",
        " FILTER (WHERE b)",
        " FILTER (WHERE x > 0.0 OR s IS NULL)",
    ];
    let wheres = vec![
        "",
        " WHERE i % 3 = 0",
        " WHERE s > 'word3' AND NOT b",
        " WHERE x IS NULL",
    ];
    let keys = vec![
        "",
        "k",
        "g",
        "k, g",
        "i % 4",
        "ROLLUP (k, g)",
        "CUBE (k, g)",
        "GROUPING SETS ((k), (g, k), ())",
        "date_trunc('second', ts)",
        "upper(k), b",
    ];
    let picked = (
        subsequence(calls, 1..5),
        prop::collection::vec(select(filters), 5),
    );
    (picked, select(wheres), select(keys)).prop_map(|((calls, filters), wheres, keys)| {
        let columns: Vec<String> = calls
            .iter()
            .zip(filters)
            .enumerate()
            .map(|(at, (call, filter))| format!("{call}{filter} AS a{at}"))
            .collect();
        let group = if keys.is_empty() {
            String::new()
        } else {
            format!(" GROUP BY {keys}")
        };
        let shown = match keys {
            "" => String::new(),
            keys if keys.starts_with(['R', 'C', 'G']) => "k, g, ".to_string(),
            keys => format!("{keys}, "),
        };
        format!("SELECT {shown}{} FROM s{wheres}{group}", columns.join(", "))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_view_any_split(sql in views(), seed in 0..1000u64, count in 0..150usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(&sql, &events(seed, count), seed, Tolerance::Rounding));
    }
}
