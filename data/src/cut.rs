//! Positions in a stream.
//!
//! Every event has an offset in its shard. A [`Cut`] is one position per shard and says
//! "everything before here": it is the exclusive end of what a batch view covers and the
//! inclusive start of what the speed layer covers. Time never takes part.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A place in one shard: the offset of the first event that is *not* before it.
///
/// The epoch is 0 while one node numbers a shard; it exists so that a later owner of the
/// shard can be told from an earlier one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(from = "(u32, u64)", into = "(u32, u64)")]
pub struct Position {
    pub epoch: u32,
    pub offset: u64,
}

impl From<(u32, u64)> for Position {
    fn from((epoch, offset): (u32, u64)) -> Self {
        Self { epoch, offset }
    }
}

impl From<Position> for (u32, u64) {
    fn from(position: Position) -> Self {
        (position.epoch, position.offset)
    }
}

/// One position per shard of a stream; the index is the shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cut(Vec<Position>);

impl Cut {
    /// The cut before the first event of a stream with this many shards.
    pub fn start(shards: u32) -> Self {
        Self(vec![Position::default(); shards as usize])
    }

    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// The first offset of `shard` that lies after this cut.
    pub fn offset(&self, shard: usize) -> u64 {
        self.0.get(shard).map_or(0, |position| position.offset)
    }

    pub fn advance(&mut self, shard: usize, events: u64) {
        self.0[shard].offset += events;
    }

    pub fn set_offset(&mut self, shard: usize, offset: u64) {
        self.0[shard].offset = offset;
    }

    /// True when no shard of `other` reaches beyond this cut.
    pub fn covers(&self, other: &Cut) -> bool {
        self.0.len() == other.0.len() && other.0.iter().zip(&self.0).all(|(o, s)| o <= s)
    }

    /// How many events lie between `from` and this cut. Zero when `from` is not before it.
    pub fn events_since(&self, from: &Cut) -> u64 {
        (0..self.0.len())
            .map(|shard| self.offset(shard).saturating_sub(from.offset(shard)))
            .sum()
    }

    /// How many events lie before this cut.
    pub fn events(&self) -> u64 {
        self.0.iter().map(|position| position.offset).sum()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[")?;
        for (shard, position) in self.0.iter().enumerate() {
            let gap = if shard == 0 { "" } else { ", " };
            write!(f, "{gap}{}", position.offset)?;
        }
        write!(f, "]")
    }
}

/// The events from `from` (inclusive) up to `to` (exclusive), in every shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CutRange {
    pub from: Cut,
    pub to: Cut,
}

impl CutRange {
    pub fn new(from: Cut, to: Cut) -> Self {
        Self { from, to }
    }

    pub fn events(&self) -> u64 {
        self.to.events_since(&self.from)
    }

    pub fn is_empty(&self) -> bool {
        self.events() == 0
    }

    pub fn contains(&self, other: &CutRange) -> bool {
        other.from.covers(&self.from) && self.to.covers(&other.to)
    }

    /// True when the two ranges share at least one event.
    pub fn overlaps(&self, other: &CutRange) -> bool {
        (0..self.to.shards()).any(|shard| {
            self.from.offset(shard).max(other.from.offset(shard))
                < self.to.offset(shard).min(other.to.offset(shard))
        })
    }
}

/// The parts of `whole` that none of `covered` covers. `covered` must be ordered, each
/// range beginning where or after the one before it ends, as panes are.
pub fn gaps(whole: &CutRange, covered: &[CutRange]) -> Vec<CutRange> {
    let mut missing = Vec::new();
    let mut reached = whole.from.clone();
    for range in covered {
        let gap = CutRange::new(reached, range.from.clone());
        if !gap.is_empty() {
            missing.push(gap);
        }
        reached = range.to.clone();
    }
    let gap = CutRange::new(reached, whole.to.clone());
    if !gap.is_empty() {
        missing.push(gap);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(offsets: &[u64]) -> Cut {
        Cut(offsets
            .iter()
            .map(|&offset| Position { epoch: 0, offset })
            .collect())
    }

    #[test]
    fn a_cut_covers_only_what_no_shard_exceeds() {
        assert!(cut(&[3, 5]).covers(&cut(&[3, 4])));
        assert!(!cut(&[3, 5]).covers(&cut(&[4, 0])));
        assert!(!cut(&[3, 5]).covers(&cut(&[3])));
    }

    #[test]
    fn gaps_are_what_the_panes_leave_open() {
        let whole = CutRange::new(cut(&[0, 0]), cut(&[10, 10]));
        let panes = [
            CutRange::new(cut(&[2, 0]), cut(&[4, 3])),
            CutRange::new(cut(&[4, 3]), cut(&[5, 5])),
            CutRange::new(cut(&[7, 5]), cut(&[10, 10])),
        ];
        let missing = gaps(&whole, &panes);
        assert_eq!(
            missing,
            vec![
                CutRange::new(cut(&[0, 0]), cut(&[2, 0])),
                CutRange::new(cut(&[5, 5]), cut(&[7, 5])),
            ]
        );
        assert_eq!(gaps(&whole, std::slice::from_ref(&whole)), vec![]);
        assert_eq!(gaps(&whole, &[]), vec![whole]);
    }

    #[test]
    fn ranges_overlap_only_when_an_event_is_in_both() {
        let a = CutRange::new(cut(&[0, 0]), cut(&[4, 4]));
        assert!(a.overlaps(&CutRange::new(cut(&[4, 3]), cut(&[5, 5]))));
        assert!(!a.overlaps(&CutRange::new(cut(&[4, 4]), cut(&[5, 5]))));
    }

    #[test]
    fn a_cut_survives_json() {
        let before = cut(&[7, 0, 9]);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(text, "[[0,7],[0,0],[0,9]]");
        assert_eq!(serde_json::from_str::<Cut>(&text).unwrap(), before);
    }
}
