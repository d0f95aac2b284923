//! A sketch per group, and the accumulators that DataFusion drives it by.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray};
use arrow::buffer::NullBuffer;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

/// What is estimated, and by which sketch.
pub trait Summary: Clone + std::fmt::Debug + Send + Sync + 'static {
    type Sketch: std::fmt::Debug + Send + Sync + 'static;
    /// What a sketch takes in of a value.
    type Item: Copy;

    fn empty(&self) -> Self::Sketch;

    /// One item per value, NULL or not.
    fn items(&self, values: &ArrayRef) -> Result<Vec<Self::Item>>;

    /// Takes in items, in any order; what is left in `items` means nothing.
    fn add(&self, sketch: &mut Self::Sketch, items: &mut Vec<Self::Item>);

    /// Adds what another sketch of the same summary wrote.
    fn merge(&self, sketch: &mut Self::Sketch, written: &[u8]) -> Result<()>;

    fn read(written: &[u8]) -> Result<Self::Sketch>;

    fn write(sketch: &mut Self::Sketch) -> Vec<u8>;

    fn estimates<'a>(
        &self,
        sketches: impl Iterator<Item = Result<&'a mut Self::Sketch>>,
    ) -> Result<ArrayRef>;

    /// Bytes on the heap.
    fn heap_bytes(sketch: &Self::Sketch) -> usize;
}

/// What is held for a group. Most states meet no other of their group: they are passed on as
/// they were written, and read only when something is to be done with them.
#[derive(Debug)]
enum Held<S: Summary> {
    Nothing,
    Written(Box<[u8]>),
    Open(S::Sketch),
}

impl<S: Summary> Held<S> {
    fn open(&mut self, summary: &S) -> Result<&mut S::Sketch> {
        let sketch = match self {
            Self::Open(sketch) => return Ok(sketch),
            Self::Written(written) => S::read(written)?,
            Self::Nothing => summary.empty(),
        };
        *self = Self::Open(sketch);
        match self {
            Self::Open(sketch) => Ok(sketch),
            Self::Nothing | Self::Written(_) => unreachable!("it was opened"),
        }
    }

    fn merge(&mut self, written: &[u8], summary: &S) -> Result<()> {
        if let Self::Nothing = self {
            *self = Self::Written(written.into());
            return Ok(());
        }
        summary.merge(self.open(summary)?, written)
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Written(written) => written.len(),
            Self::Open(sketch) => S::heap_bytes(sketch),
        }
    }
}

/// The sketches of an aggregate with GROUP BY.
#[derive(Debug)]
pub struct Groups<S: Summary> {
    summary: S,
    held: Vec<Held<S>>,
    heap_bytes: usize,
}

impl<S: Summary> Groups<S> {
    pub fn new(summary: S) -> Self {
        Self {
            summary,
            held: Vec::new(),
            heap_bytes: 0,
        }
    }

    fn make_room(&mut self, groups: usize) {
        if groups > self.held.len() {
            self.held.resize_with(groups, || Held::Nothing);
        }
    }

    /// Does something to what is held for a group and keeps count of its bytes.
    fn change(
        &mut self,
        group: usize,
        work: impl FnOnce(&mut Held<S>, &S) -> Result<()>,
    ) -> Result<()> {
        let held = &mut self.held[group];
        let before = held.heap_bytes();
        let done = work(held, &self.summary);
        self.heap_bytes = self.heap_bytes - before + held.heap_bytes();
        done
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Held<S>> {
        let taken = emit_to.take_needed(&mut self.held);
        let freed: usize = taken.iter().map(Held::heap_bytes).sum();
        self.heap_bytes -= freed;
        taken
    }
}

impl<S: Summary> GroupsAccumulator for Groups<S> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.make_room(total_num_groups);
        let items = self.summary.items(&values[0])?;
        let mut rows: Vec<(usize, S::Item)> = match counted(&values[0], opt_filter) {
            None => group_indices.iter().copied().zip(items).collect(),
            Some(counted) => counted
                .valid_indices()
                .map(|row| (group_indices[row], items[row]))
                .collect(),
        };
        // A sketch at a time, so that it is found, weighed and fetched into the cache once.
        rows.sort_by_key(|(group, _)| *group);
        let mut of_group = Vec::new();
        for rows in rows.chunk_by(|(group, _), (next, _)| group == next) {
            of_group.clear();
            of_group.extend(rows.iter().map(|(_, item)| *item));
            self.change(rows[0].0, |held, summary| {
                summary.add(held.open(summary)?, &mut of_group);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.make_room(total_num_groups);
        let states = values[0].as_binary_opt::<i32>().ok_or_else(not_binary)?;
        for (&group, state) in group_indices.iter().zip(states) {
            if let Some(written) = state {
                self.change(group, |held, summary| held.merge(written, summary))?;
            }
        }
        Ok(())
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let mut states = BinaryBuilder::new();
        for mut held in self.take(emit_to) {
            match &held {
                Held::Written(written) => states.append_value(written),
                Held::Nothing | Held::Open(_) => {
                    states.append_value(S::write(held.open(&self.summary)?));
                }
            }
        }
        Ok(vec![Arc::new(states.finish())])
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let mut held = self.take(emit_to);
        let sketches = held.iter_mut().map(|held| held.open(&self.summary));
        self.summary.estimates(sketches)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let one_per_row: Vec<usize> = (0..rows).collect();
        let mut groups = Self::new(self.summary.clone());
        groups.update_batch(values, &one_per_row, opt_filter, rows)?;
        groups.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.held.capacity() * size_of::<Held<S>>() + self.heap_bytes
    }
}

/// The rows to take in, `None` if it is all: those with a value that pass the filter.
fn counted(values: &ArrayRef, filter: Option<&BooleanArray>) -> Option<NullBuffer> {
    let passing = filter.map(|filter| match filter.nulls() {
        Some(known) => NullBuffer::new(filter.values() & known.inner()),
        None => NullBuffer::new(filter.values().clone()),
    });
    NullBuffer::union(passing.as_ref(), values.logical_nulls().as_ref())
}

/// The sketch of an aggregate without GROUP BY: one group.
#[derive(Debug)]
pub struct Ungrouped<S: Summary> {
    groups: Groups<S>,
    /// One zero per row.
    group_indices: Vec<usize>,
}

impl<S: Summary> Ungrouped<S> {
    pub fn new(summary: S) -> Self {
        let mut groups = Groups::new(summary);
        groups.make_room(1);
        Self {
            groups,
            group_indices: Vec::new(),
        }
    }
}

impl<S: Summary> Accumulator for Ungrouped<S> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.group_indices.resize(values[0].len(), 0);
        self.groups
            .update_batch(values, &self.group_indices, None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.group_indices.resize(states[0].len(), 0);
        self.groups.merge_batch(states, &self.group_indices, 1)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let states = self.groups.state(EmitTo::All)?;
        self.groups.make_room(1);
        states
            .iter()
            .map(|state| ScalarValue::try_from_array(state, 0))
            .collect()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let estimate = self.groups.evaluate(EmitTo::All)?;
        self.groups.make_room(1);
        ScalarValue::try_from_array(&estimate, 0)
    }

    fn size(&self) -> usize {
        self.groups.size() + self.group_indices.capacity() * size_of::<usize>()
    }
}

fn not_binary() -> DataFusionError {
    DataFusionError::Internal("states of a sketch are binary".into())
}
