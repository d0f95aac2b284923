//! The states of a tail part, made when first asked for and kept.
//!
//! For each view the part's rows are covered by *segments*, each mapped once:
//!
//! ```text
//! rows     0 ........ 40k ..... 60k .. 64k   (the part grows to the right)
//! segments [  mapped  ][ mapped ][mapped]
//! ```
//!
//! A reader who pinned the part at n rows takes the segments that end at or before n and
//! maps the rest. Neighbouring segments of similar size are combined, like the levels of an
//! LSM tree, so there are few of them and every row is combined a logarithmic number of
//! times. A reader pinned at an older, shorter part may find its boundary combined away; it
//! maps those rows again and keeps nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use lambdalake_data::tail::TailPart;
use lambdalake_views::View;

use crate::error::SpeedError;
use crate::mapper::Mapper;

/// The states of one tail part, for every view that was read.
#[derive(Debug, Default)]
pub struct OpenStates {
    // A std lock: held only to find the entry. The inner lock is tokio's because mapping
    // awaits; it makes two readers of one view map once.
    views: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Vec<Segment>>>>>,
}

#[derive(Debug)]
struct Segment {
    end_row: usize,
    rows: usize,
    states: Vec<RecordBatch>,
}

impl OpenStates {
    /// The states of all rows of `part`, for the view known under `key`.
    ///
    /// # Errors
    /// `OverBudget` when a view with states that grow with the data passes `budget_bytes`.
    pub async fn states(
        &self,
        mapper: &Mapper,
        key: &str,
        view: &View,
        part: &TailPart,
        budget_bytes: usize,
    ) -> Result<Vec<RecordBatch>, SpeedError> {
        let rows = part.rows();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let entry = {
            let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(views.entry(key.to_owned()).or_default())
        };
        let mut segments = entry.lock().await;
        let usable = segments
            .iter()
            .take_while(|segment| segment.end_row <= rows)
            .count();
        let from = usable
            .checked_sub(1)
            .map_or(0, |last| segments[last].end_row);
        let mut states: Vec<RecordBatch> = segments[..usable]
            .iter()
            .flat_map(|segment| segment.states.clone())
            .collect();
        if from < rows {
            let mapped = mapper.map(view, &rows_from(part, from)).await?;
            states.extend(mapped.iter().cloned());
            check_budget(view, &states, budget_bytes)?;
            if usable == segments.len() {
                segments.push(Segment {
                    end_row: rows,
                    rows: rows - from,
                    states: mapped,
                });
                if let Err(error) = combine_similar(&mut segments, mapper, view).await {
                    // The answer is whole without it; the next reader tries again.
                    tracing::debug!(%error, "segments were not combined");
                }
            }
        }
        Ok(states)
    }

    /// How many rows of the part are mapped for this view.
    pub async fn mapped_rows(&self, key: &str) -> usize {
        let entry = {
            let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
            views.get(key).map(Arc::clone)
        };
        match entry {
            Some(entry) => entry
                .lock()
                .await
                .last()
                .map_or(0, |segment| segment.end_row),
            None => 0,
        }
    }
}

fn check_budget(view: &View, states: &[RecordBatch], budget: usize) -> Result<(), SpeedError> {
    if !view
        .aggregates()
        .iter()
        .any(|aggregate| aggregate.data_sized)
    {
        return Ok(());
    }
    let bytes = states.iter().map(RecordBatch::get_array_memory_size).sum();
    if bytes > budget {
        Err(SpeedError::OverBudget { bytes, budget })
    } else {
        Ok(())
    }
}

/// Combines the last segments while the one before is at most twice as large.
async fn combine_similar(
    segments: &mut Vec<Segment>,
    mapper: &Mapper,
    view: &View,
) -> Result<(), SpeedError> {
    while let [.., before, last] = segments.as_slice() {
        if before.rows > 2 * last.rows {
            break;
        }
        let (end_row, rows) = (last.end_row, before.rows + last.rows);
        let both = [&before.states[..], &last.states[..]].concat();
        let states = mapper.combine(view, both).await?;
        segments.truncate(segments.len() - 2);
        segments.push(Segment {
            end_row,
            rows,
            states,
        });
    }
    Ok(())
}

/// The part's events from a row on, without copying.
fn rows_from(part: &TailPart, from: usize) -> Vec<RecordBatch> {
    let mut start = 0;
    let mut found = Vec::new();
    for chunk in part.chunks.iter() {
        let rows = chunk.events.num_rows();
        if start + rows > from {
            let skip = from.saturating_sub(start);
            found.push(chunk.events.slice(skip, rows - skip));
        }
        start += rows;
    }
    found
}
