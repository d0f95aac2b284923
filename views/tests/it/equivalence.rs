//! Split anywhere, stored, combined in any order: the same rows as a direct run.

use lambdalake_views::{Class, aggregate_table};

use crate::support::*;

/// Quotients of sums that nearly cancel may differ by more than this; the random data of
/// these tests is well conditioned.
/// Without a total ORDER BY a direct run may answer otherwise than we do, and be right.
fn comparable(call: &str) -> bool {
    ![
        "first_value",
        "last_value",
        "any_value",
        "nth_value",
        "array_agg",
        "string_agg",
    ]
    .iter()
    .any(|name| call.starts_with(name))
}

/// The same call with the order spelled out, as the view completes it.
fn spelled_out(call: &str) -> String {
    if comparable(call) {
        return call.to_string();
    }
    let (head, _) = call.split_at(call.len() - 1);
    if let Some(rest) = head.strip_prefix("any_value") {
        format!("first_value{rest} ORDER BY _shard, _offset) IGNORE NULLS")
    } else if head.contains("DISTINCT") {
        let argument = head
            .split("DISTINCT ")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap();
        format!("{head} ORDER BY {argument})")
    } else if head.contains("ORDER BY") {
        format!("{head}, _shard, _offset)")
    } else {
        format!("{head} ORDER BY _shard, _offset)")
    }
}

fn filtered(call: &str) -> String {
    match call.strip_suffix(" IGNORE NULLS") {
        Some(_) => call.to_string(),
        None => format!("{call} FILTER (WHERE i > 0)"),
    }
}

#[tokio::test]
async fn every_aggregate_equals_a_direct_run() {
    let rows = events(1, 300);
    let nothing = rows.slice(0, 0);
    for rule in aggregate_table() {
        for call in rule.samples {
            let tolerance = if rule.class == Class::Sketch {
                Tolerance::Ranks
            } else {
                Tolerance::Rounding
            };
            let call = spelled_out(call);
            for (at, calls) in [call.clone(), filtered(&call)].into_iter().enumerate() {
                let seed = at as u64;
                let grouped = format!("SELECT k, {calls} AS a FROM s GROUP BY k");
                check(&grouped, &rows, seed, tolerance).await;
                let plain = format!("SELECT {calls} AS a FROM s");
                check(&plain, &rows, seed, tolerance).await;
                check(&plain, &nothing, seed, tolerance).await;
            }
            let sets = format!("SELECT k, g, {call} AS a FROM s GROUP BY CUBE (k, g)");
            check(&sets, &rows, 3, tolerance).await;
        }
    }
}

#[tokio::test]
async fn an_order_that_is_missing_is_supplied() {
    let rows = events(2, 200);
    for rule in aggregate_table() {
        for call in rule.samples.iter().filter(|call| !comparable(call)) {
            let sql = format!("SELECT k, {call} AS a FROM s GROUP BY k");
            let spelled = format!("SELECT k, {} AS a FROM s GROUP BY k", spelled_out(call));
            let view = compile(&sql);
            let ours = answer(&view, finished(&view, &rows, 7).await).await;
            let ours = one_batch(view.output_schema(), &ours, true);
            let theirs = direct(&view, &spelled, &rows).await;
            let theirs = one_batch(view.output_schema(), &theirs, true);
            assert_same(&sql, &ours, &theirs, Tolerance::Rounding);
        }
    }
}

#[tokio::test]
async fn clauses_around_the_aggregate() {
    let rows = events(3, 300);
    for sql in [
        "SELECT k, count(*) AS n FROM s WHERE i > 0 AND s LIKE 'word1%' GROUP BY k",
        "SELECT k, count(*) AS n FROM s GROUP BY k HAVING count(*) > 50",
        "SELECT k, sum(i) * 2 + count(*) AS m, upper(k) AS up FROM s GROUP BY k",
        "SELECT date_trunc('second', ts) AS t, g % 2 AS h, avg(x) AS a FROM s GROUP BY 1, 2",
        "SELECT k, count(*) AS n FROM s GROUP BY k ORDER BY n DESC, k LIMIT 3",
        "SELECT k, g, count(*), grouping(k) AS gk FROM s GROUP BY ROLLUP (k, g)",
        "SELECT k, g, sum(d) FROM s GROUP BY GROUPING SETS ((k), (g), ())",
        "SELECT DISTINCT k, g FROM s",
        "SELECT k, g FROM s GROUP BY k, g",
        "SELECT count(*) FROM s",
        "SELECT sum(i + 1), sum(i + 2), sum(i) FROM s",
        "SELECT sum(i), sum(i) FILTER (WHERE b), sum(i) FILTER (WHERE NOT b) FROM s",
        "SELECT t.k, max(t.z) FROM (SELECT k, i * 2 AS z FROM s WHERE b) AS t GROUP BY t.k",
        "WITH t AS (SELECT k, x FROM s) SELECT k, sum(x) FROM t GROUP BY k",
        "SELECT * FROM (SELECT k, count(*) AS n FROM s GROUP BY k) AS v WHERE n > 10",
        "SELECT k, rank() OVER (ORDER BY count(*) DESC, k) AS r FROM s GROUP BY k",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x DESC) AS m FROM s",
        "SELECT g, percentile_cont(0.0) WITHIN GROUP (ORDER BY x) AS m FROM s GROUP BY g",
        "SELECT g, percentile_cont(DISTINCT x, 0.3) AS m FROM s GROUP BY g",
        "SELECT string_agg(s, '-' ORDER BY _shard, _offset) AS l, percentile_cont(x, 0.1) FROM s",
        "SELECT count(*) FROM s WHERE false",
        "SELECT k, count(*) FROM s WHERE false GROUP BY k",
        "SELECT 1 AS one, count(*) FROM s GROUP BY 1",
        "SELECT d, u, b, ts, count(*) FROM s GROUP BY d, u, b, ts",
        "SELECT sum(d), avg(d), min(d), sum(u), avg(u), max(ts), count(DISTINCT d) FROM s",
        "SELECT DISTINCT count(*) > 50 AS many FROM s GROUP BY k",
        "SELECT CASE WHEN i > 0 THEN 'up' ELSE 'down' END AS way, count(*) FROM s GROUP BY way",
        "SELECT k, array_agg(i ORDER BY ts, _shard, _offset) AS l, \
         first_value(s ORDER BY ts, _shard, _offset) AS f, \
         last_value(s ORDER BY ts, _shard, _offset) AS z FROM s GROUP BY k",
        "SELECT k, array_agg(i ORDER BY x, _shard, _offset) AS l, \
         array_agg(s ORDER BY ts DESC, _shard, _offset) AS m FROM s GROUP BY k",
    ] {
        for seed in 0..3 {
            check(sql, &rows, seed, Tolerance::Rounding).await;
        }
        check(sql, &rows.slice(0, 0), 1, Tolerance::Rounding).await;
    }
}

#[tokio::test]
async fn a_derived_table_keeps_the_position() {
    let rows = events(4, 200);
    let sql =
        "SELECT k, array_agg(z) AS l FROM (SELECT k, i * 2 AS z FROM s WHERE b) AS t GROUP BY k";
    let spelled =
        "SELECT k, array_agg(i * 2 ORDER BY _shard, _offset) AS l FROM s WHERE b GROUP BY k";
    let view = compile(sql);
    let ours = answer(&view, finished(&view, &rows, 7).await).await;
    let ours = one_batch(view.output_schema(), &ours, true);
    let theirs = one_batch(
        view.output_schema(),
        &direct(&view, spelled, &rows).await,
        true,
    );
    assert_same(sql, &ours, &theirs, Tolerance::Rounding);
}

#[tokio::test]
async fn constant_arguments_may_be_expressions() {
    let rows = events(11, 200);
    for sql in [
        "SELECT percentile_cont(x, 0.5 + 0.25) AS p FROM s",
        "SELECT g, nth_value(i, 1 + 1 ORDER BY _shard, _offset) AS n FROM s GROUP BY g",
        "SELECT g, string_agg(s, concat(',', ' ') ORDER BY _shard, _offset) AS l FROM s GROUP BY g",
        "SELECT date_bin(INTERVAL '2 seconds', ts) AS t, count(*) FROM s GROUP BY t",
        "SELECT g, count(*) FILTER (WHERE ts > TIMESTAMP '1970-01-01T00:00:03Z') FROM s GROUP BY g",
    ] {
        check(sql, &rows, 5, Tolerance::Rounding).await;
    }
}

#[tokio::test]
async fn the_grand_total_of_no_states_is_a_row() {
    let none = events(1, 0);
    for sets in [
        "ROLLUP (k, g)",
        "CUBE (k, g)",
        "GROUPING SETS ((k, g), ())",
        "GROUPING SETS ((k), (g))",
    ] {
        let sql = format!(
            "SELECT k, g, count(*) AS n, sum(x) AS t, array_agg(i ORDER BY _offset) AS l \
             FROM s GROUP BY {sets}"
        );
        let view = compile(&sql);
        let rows = finish(&view, vec![vec![]]).await;
        let answered = one_batch(view.output_schema(), &answer(&view, rows).await, true);
        let direct = one_batch(
            view.output_schema(),
            &direct(&view, &sql, &none).await,
            true,
        );
        assert_same(&sql, &answered, &direct, Tolerance::Rounding);
    }
}
