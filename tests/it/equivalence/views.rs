//! Random views: keys, grouping sets, filters and calls drawn from the whole list.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::aggregates::{Call, Judge};

/// A view and the SELECT of the direct pass that it must equal.
#[derive(Debug, Clone)]
pub struct RandomView {
    pub name: String,
    pub select: String,
    /// The same SELECT with the order of events spelled out, and hidden columns at the end.
    pub direct: String,
    /// One for each column of the view.
    pub columns: Vec<Column>,
    /// A condition over the view's key columns.
    pub condition: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Column {
    pub judge: Judge,
    /// Columns of the direct pass.
    pub hidden: Vec<usize>,
}

const KEYS: &[&[&str]] = &[
    &[],
    &["k"],
    &["k"],
    &["g"],
    &["k", "g"],
    &["i % 4"],
    &["date_trunc('second', ts)"],
    &["upper(k)", "b"],
    &["n['a']"],
    &["n['c']", "k"],
    &["CASE WHEN x > 0.0 THEN 'above' WHEN x <= 0.0 THEN 'below' END"],
    &["ts"],
    &["s"],
    &["x"],
    &["_shard"],
];
const SETS: &[&str] = &[
    "ROLLUP (k, g)",
    "CUBE (k, g)",
    "GROUPING SETS ((k), (g, k), ())",
    "GROUPING SETS ((k, g), (g))",
];
const WHERES: &[&str] = &[
    "",
    "",
    "",
    " WHERE i % 3 = 0",
    " WHERE s > 'word3' AND NOT b",
    " WHERE x IS NULL",
    " WHERE n['a'] >= 1",
    " WHERE _offset % 2 = 0",
    " WHERE ts >= '2026-01-01T00:00:04Z'",
    " WHERE i > 1000000000000000",
];
const FILTERS: &[&str] = &[
    "",
    "",
    "",
    " FILTER (WHERE b)",
    " FILTER (WHERE x > 0.0 OR s IS NULL)",
    " FILTER (WHERE g = 7)",
];
const HAVINGS: &[&str] = &[
    "",
    "",
    "",
    " HAVING count(*) > 1",
    " HAVING max(i) > 0 OR count(*) % 2 = 0",
    " HAVING count(DISTINCT g) > 1",
];

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

/// A view with these calls, random in everything else.
pub fn random_view(rng: &mut StdRng, name: &str, calls: &[Call]) -> RandomView {
    let grouped_in_sets = rng.random_bool(0.2);
    let keys: &[&str] = match grouped_in_sets {
        true => &["k", "g"],
        false => KEYS.choose(rng).copied().unwrap_or_default(),
    };
    let mut shown: Vec<String> = (0..)
        .zip(keys)
        .map(|(at, key)| format!("{key} AS k{at}"))
        .collect();
    let group = match (grouped_in_sets, keys) {
        (true, _) => format!(" GROUP BY {}", pick(rng, SETS)),
        (false, []) => String::new(),
        (false, keys) => format!(" GROUP BY {}", keys.join(", ")),
    };
    if grouped_in_sets {
        shown.push("grouping(k) AS gk".to_owned());
        shown.push("grouping(g) AS gg".to_owned());
    }
    // An expression over aggregates is computed above them.
    if rng.random_bool(0.3) {
        shown.push("count(*) * 2 - count(i) AS e".to_owned());
    }
    let plain = Column {
        judge: Judge::Exact,
        hidden: vec![],
    };
    let mut columns = vec![plain; shown.len()];
    let mut direct = shown.clone();
    let mut hidden = Vec::new();
    for (at, call) in calls.iter().enumerate() {
        let filter = pick(rng, FILTERS);
        let with = |text: &str| text.replace("{f}", filter);
        shown.push(format!("{} AS a{at}", with(&call.sql)));
        direct.push(format!("{} AS a{at}", with(&call.direct)));
        let first = hidden.len();
        hidden.extend(call.hidden.iter().map(|h| with(h)));
        columns.push(Column {
            judge: call.judge,
            hidden: (first..hidden.len()).collect(),
        });
    }
    let visible = columns.len();
    for column in &mut columns {
        column.hidden.iter_mut().for_each(|at| *at += visible);
    }
    direct.extend(
        hidden
            .iter()
            .enumerate()
            .map(|(at, h)| format!("{h} AS h{at}")),
    );
    let mut tail = format!(
        " FROM events{}{group}{}",
        pick(rng, WHERES),
        pick(rng, HAVINGS)
    );
    if !grouped_in_sets && !keys.is_empty() && rng.random_bool(0.2) {
        let by: Vec<String> = (0..keys.len()).map(|at| format!("k{at}")).collect();
        tail += &format!(" ORDER BY count(*) DESC, {} LIMIT 4", by.join(", "));
    }
    let condition = match keys.first().copied() {
        Some("k") => Some("k0 = 'key1' OR k0 IS NULL"),
        Some("g") => Some("k0 >= 1"),
        Some("i % 4") => Some("k0 IN (1, -1, 3)"),
        Some("upper(k)") => Some("k0 LIKE 'KEY%' AND k1"),
        Some("s") => Some("k0 BETWEEN 'word2' AND 'word7'"),
        Some("_shard") => Some("k0 = 0"),
        _ => None,
    };
    RandomView {
        name: name.to_owned(),
        select: format!("SELECT {}{tail}", shown.join(", ")),
        direct: format!("SELECT {}{tail}", direct.join(", ")),
        columns,
        condition: condition.map(str::to_owned),
    }
}
