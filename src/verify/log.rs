//! The log of a stream: frames, checksums, groups, and offsets from the flush cut to the end.

use arrow::array::RecordBatch;
use lambdalake_data::log::{FrameHeader, look_at};
use lambdalake_data::publication::StreamState;
use lambdalake_data::schema::StreamDefinition;
use lambdalake_data::{Cut, DataError, Disk};

use super::report::{Check, Report};

const RESTORE: &str = "put the segment back from a backup that has it whole; without one, the \
                       events in it are lost, and the stream stays stopped until it is dropped";
const REDUNDANT: &str = "no event is lost: the master dataset has them. The next start says so and \
                         goes on";

/// Events that are not flushed.
pub struct Tail {
    /// The columns after the last frame.
    pub definition: StreamDefinition,
    pub events: Vec<RecordBatch>,
}

/// The tail, if all of it is there.
pub fn check(disk: &Disk, state: &StreamState, report: &mut Report) -> Option<Tail> {
    let mut check = Check::new("log", &state.definition.name);
    let folder = state.definition.log_folder();
    let mut tail = Tail {
        definition: state.definition.clone(),
        events: Vec::new(),
    };
    let mut end = state.cut.clone();
    let mut each = |header: FrameHeader, events: Option<RecordBatch>| match events {
        Some(events) => tail.add(&folder, &mut end, header, events),
        None => Ok(()),
    };
    let is_whole = match look_at(disk, &folder, &state.cut, &mut each) {
        Ok(found) => {
            check.amount.files = found.segments as u64;
            check.amount.bytes = found.bytes;
            check.amount.rows = tail
                .events
                .iter()
                .map(|batch| batch.num_rows() as u64)
                .sum();
            for place in found.redundant {
                check.found(&folder, place, REDUNDANT);
            }
            if let Some(torn) = found.torn {
                let note = format!(
                    "{torn} are no whole group; the next start cuts them off. A crash in the middle \
                     of a write leaves such an end, and then nobody got an answer for it"
                );
                check.notes.push(note);
            }
            true
        }
        Err(error) => {
            check.failed(&folder, &error, RESTORE);
            false
        }
    };
    report.add(check);
    is_whole.then_some(tail)
}

impl Tail {
    fn add(
        &mut self,
        folder: &str,
        end: &mut Cut,
        header: FrameHeader,
        events: RecordBatch,
    ) -> Result<(), DataError> {
        if header.range.from != *end || header.range.events() != events.num_rows() as u64 {
            return Err(DataError::Damaged {
                path: folder.into(),
                reason: format!(
                    "a frame has {} rows for {} to {}, where {end} was expected",
                    events.num_rows(),
                    header.range.from,
                    header.range.to
                ),
            });
        }
        *end = header.range.to;
        if let Some(columns) = header.new_columns
            && header.schema_id > self.definition.schema_id
        {
            self.definition.columns = columns;
            self.definition.schema_id = header.schema_id;
        }
        if events.num_rows() > 0 {
            self.events.push(events);
        }
        Ok(())
    }
}
