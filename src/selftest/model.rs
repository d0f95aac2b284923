//! The model: a list of requests, and plain passes over what was acknowledged.
//!
//! It knows nothing of logs, panes or versions. It is right because it is too simple to be
//! wrong.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const SHARDS: u32 = 3;
const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
const HOUR_MICROS: i64 = 3_600_000_000;
/// 2026-11-02T00:00:00Z
const FIRST_MICROS: i64 = 1_793_577_600_000_000;

#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub ts: i64,
    pub request: i64,
    pub index: i64,
    pub k: Option<&'static str>,
    pub n: Option<i64>,
    /// A multiple of a quarter, so that every sum is exact.
    pub x: f64,
}

impl Row {
    /// The shard is part of an event's identity: it must never change.
    pub fn shard(&self) -> u32 {
        self.k.map_or(0, |k| crc32c::crc32c(k.as_bytes()) % SHARDS)
    }

    fn json(&self) -> String {
        let ts = chrono::DateTime::from_timestamp_micros(self.ts).unwrap_or_default();
        let line = serde_json::json!({
            "ts": ts.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            "r": self.request, "i": self.index, "k": self.k, "n": self.n, "x": self.x,
        });
        line.to_string()
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// Its rows are there and stay.
    Stored,
    /// No answer, or an error: entirely there or not at all after the next start, and not to be
    /// seen before.
    InDoubt,
    /// Not there.
    Absent,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub rows: Vec<Row>,
    pub bad: usize,
    pub key: Option<String>,
    pub fate: Fate,
    /// The shard's first offset, of a stored request.
    pub offsets: BTreeMap<u32, u64>,
}

impl Request {
    pub fn new(number: usize, good: usize, bad: usize, seed: u64, keyed: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let rows = (0..good).map(|index| Row {
            ts: FIRST_MICROS + random.random_range(0..4 * HOUR_MICROS / 1_000_000) * 1_000_000,
            request: number as i64,
            index: index as i64,
            k: KEYS.get(random.random_range(0..=KEYS.len())).copied(),
            n: (random.random_range(0..5) > 0).then(|| random.random_range(-10..=10)),
            x: f64::from(random.random_range(-100..100_i32)) / 4.0,
        });
        Self {
            rows: rows.collect(),
            bad,
            key: keyed.then(|| format!("key-{number}")),
            fate: Fate::Absent,
            offsets: BTreeMap::new(),
        }
    }

    pub fn body(&self) -> String {
        let bad = ["{\"r\":\"no number\"}", "{\"r\":", "[1]"];
        let mut lines: Vec<String> = self.rows.iter().map(Row::json).collect();
        for index in 0..self.bad {
            let at = (index * 7) % (lines.len() + 1);
            lines.insert(at, bad[index % bad.len()].to_owned());
        }
        lines.join("\n")
    }

    /// The rows by their place, if the request begins at these offsets.
    pub fn placed(&self, offsets: &BTreeMap<u32, u64>) -> Vec<((u32, u64), Row)> {
        let mut next = offsets.clone();
        let place = |row: &Row| {
            let offset = next.entry(row.shard()).or_default();
            *offset += 1;
            ((row.shard(), *offset - 1), row.clone())
        };
        self.rows.iter().map(place).collect()
    }
}

/// The key as one of those that requests have.
pub fn known_key(text: &str) -> Option<&'static str> {
    KEYS.into_iter()
        .find(|key| *key == text)
        .or(Some("unknown"))
}

pub type Places = BTreeMap<(u32, u64), Row>;

/// A stream as it must be.
#[derive(Clone, Debug, Default)]
pub struct StreamModel {
    pub requests: Vec<Request>,
    pub places: Places,
    pub views: BTreeSet<usize>,
    /// The log failed: only a restart opens the stream again.
    pub log_failed: bool,
}

impl StreamModel {
    pub fn store(&mut self, nth: usize, offsets: BTreeMap<u32, u64>) {
        let request = &mut self.requests[nth];
        self.places.extend(request.placed(&offsets));
        request.fate = Fate::Stored;
        request.offsets = offsets;
    }

    /// Takes in what is found after a start: requests in doubt are entirely there, or not.
    ///
    /// # Errors
    ///
    /// What was found that cannot be.
    pub fn settle(&mut self, found: &Places) -> Result<(), String> {
        for nth in 0..self.requests.len() {
            if self.requests[nth].fate != Fate::InDoubt {
                continue;
            }
            let number = self.requests[nth]
                .rows
                .first()
                .map_or(-1, |row| row.request);
            let mut offsets = BTreeMap::new();
            for ((shard, offset), row) in found {
                if row.request == number {
                    offsets.entry(*shard).or_insert(*offset);
                }
            }
            if offsets.is_empty() {
                self.requests[nth].fate = Fate::Absent;
                continue;
            }
            for (place, row) in self.requests[nth].placed(&offsets) {
                if found.get(&place) != Some(&row) {
                    return Err(format!("request {number} is there in part: {row:?} is not"));
                }
            }
            self.store(nth, offsets);
        }
        self.check(found)
    }

    /// # Errors
    ///
    /// The first difference between what is there and what must be.
    pub fn check(&self, found: &Places) -> Result<(), String> {
        for (place, row) in &self.places {
            match found.get(place) {
                Some(other) if other == row => {}
                Some(other) => return Err(format!("at {place:?}: {other:?} in place of {row:?}")),
                None => return Err(format!("lost at {place:?}: {row:?}")),
            }
        }
        if let Some((place, row)) = found.iter().find(|(at, _)| !self.places.contains_key(at)) {
            return Err(format!("not acknowledged, at {place:?}: {row:?}"));
        }
        for shard in 0..SHARDS {
            let offsets = found.keys().filter(|(s, _)| *s == shard).map(|(_, o)| *o);
            for (expected, offset) in (0..).zip(offsets) {
                if offset != expected {
                    return Err(format!("shard {shard} has no offset {expected}"));
                }
            }
        }
        Ok(())
    }

    /// The next offset of each shard.
    pub fn ends(&self) -> Vec<u64> {
        let next = |shard| {
            let places = self.places.keys().filter(|(of, _)| *of == shard);
            places.map(|(_, offset)| offset + 1).max().unwrap_or(0)
        };
        (0..SHARDS).map(next).collect()
    }

    /// How many events are before a cut, and how many after it.
    pub fn events_around(&self, cut: &[u64]) -> (u64, u64) {
        let is_before = |place: &&(u32, u64)| Some(&place.1) < cut.get(place.0 as usize);
        let before = self.places.keys().filter(is_before).count();
        (before as u64, (self.places.len() - before) as u64)
    }

    /// The rows of a view, as text, in the order of the text.
    pub fn view(&self, kind: usize) -> Vec<String> {
        let mut rows = match kind {
            0 => self.by_key(),
            1 => self.by_hour(),
            _ => self.total(),
        };
        rows.sort();
        rows
    }

    fn by_key(&self) -> Vec<String> {
        let mut groups: BTreeMap<Option<&str>, Vec<&Row>> = BTreeMap::new();
        for row in self.places.values() {
            groups.entry(row.k).or_default().push(row);
        }
        let line = |(k, rows): (Option<&str>, Vec<&Row>)| {
            let numbers: Vec<i64> = rows.iter().filter_map(|row| row.n).collect();
            let sum = (!numbers.is_empty()).then(|| numbers.iter().sum::<i64>());
            let (low, high) = (numbers.iter().min(), numbers.iter().max());
            cells(&[
                text(k),
                rows.len().to_string(),
                text(sum),
                text(low),
                text(high),
            ])
        };
        groups.into_iter().map(line).collect()
    }

    fn by_hour(&self) -> Vec<String> {
        let mut groups: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
        for row in self.places.values().filter(|row| row.n >= Some(0)) {
            let hour = row.ts.div_euclid(HOUR_MICROS);
            groups.entry(hour).or_default().push(row);
        }
        let line = |(hour, rows): (i64, Vec<&Row>)| {
            let keys: BTreeSet<&str> = rows.iter().filter_map(|row| row.k).collect();
            let sum: f64 = rows.iter().map(|row| row.x).sum();
            let mean = sum / rows.len() as f64;
            let hour = chrono::DateTime::from_timestamp_micros(hour * HOUR_MICROS);
            let hour = hour.unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ");
            cells(&[hour.to_string(), keys.len().to_string(), text(Some(mean))])
        };
        groups.into_iter().map(line).collect()
    }

    fn total(&self) -> Vec<String> {
        let sum =
            (!self.places.is_empty()).then(|| self.places.values().map(|row| row.x).sum::<f64>());
        let last = self
            .places
            .iter()
            .max_by_key(|(place, row)| (row.ts, **place));
        vec![cells(&[
            self.places.len().to_string(),
            text(sum),
            text(last.map(|(_, row)| row.request)),
        ])]
    }
}

fn text(value: Option<impl std::fmt::Debug + std::fmt::Display>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}

fn cells(cells: &[String]) -> String {
    cells.join("|")
}

/// The SELECT that [`StreamModel::view`] does by hand.
pub fn select(stream: &str, kind: usize) -> String {
    match kind {
        0 => format!(
            "SELECT k, count(*) AS c, sum(n) AS s, min(n) AS lo, max(n) AS hi FROM {stream} GROUP BY k"
        ),
        1 => format!(
            "SELECT date_trunc('hour', ts) AS h, count(DISTINCT k) AS d, avg(x) AS a \
             FROM {stream} WHERE n >= 0 GROUP BY date_trunc('hour', ts)"
        ),
        _ => format!(
            "SELECT count(*) AS c, sum(x) AS s, last_value(r ORDER BY ts) AS l FROM {stream}"
        ),
    }
}
