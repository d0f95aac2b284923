//! The states files of a view: whole, and of ranges that fit together.

use std::sync::Arc;

use lambdalake_data::cut::gaps;
use lambdalake_data::publication::{StreamState, ViewState};
use lambdalake_data::widen::read_footer;
use lambdalake_data::{CutRange, DataError, Disk};

use super::master::whole;
use super::report::{Check, MENDED, RESTORE, Report};
use crate::engine::publisher::states_files;

/// True if all is well.
pub fn check(
    disk: &Disk,
    view: &ViewState,
    stream: Option<&Arc<StreamState>>,
    report: &mut Report,
) -> bool {
    let mut check = Check::new("states", &view.name);
    for file in states_files(view) {
        check.amount.files += 1;
        check.amount.bytes += file.bytes;
        let rows = whole(disk, &file.path, file.bytes, file.crc32c)
            .and_then(|()| rows_of(disk, &file.path, file.bytes));
        match rows {
            Ok(rows) if rows == file.rows => check.amount.rows += rows,
            Ok(rows) => {
                let problem = format!("it holds {rows} rows where {} were published", file.rows);
                check.found(&file.path, problem, MENDED);
            }
            Err(error) => check.failed(&file.path, &error, MENDED),
        }
    }
    match stream {
        Some(stream) => check_ranges(view, stream, &mut check),
        None => {
            let problem = format!("its stream {} is not published", view.stream);
            check.found(&view.folder(), problem, RESTORE);
        }
    }
    report.add(check)
}

fn rows_of(disk: &Disk, path: &str, bytes: u64) -> Result<u64, DataError> {
    let footer = read_footer(disk, path, bytes)?;
    Ok(footer.file_metadata().num_rows() as u64)
}

/// The version and the panes must follow each other, up to the flush cut at most.
fn check_ranges(view: &ViewState, stream: &StreamState, check: &mut Check) {
    let mut reached = view.batch_cut(stream.definition.shards);
    let from = reached.clone();
    for pane in &view.panes {
        if !pane.range.from.covers(&reached) || !pane.range.to.covers(&pane.range.from) {
            let problem = format!(
                "a pane from {} to {} does not follow {reached}",
                pane.range.from, pane.range.to
            );
            check.found(&view.folder(), problem, MENDED);
        }
        reached = pane.range.to.clone();
    }
    if !stream.cut.covers(&reached) {
        let problem = format!("its states reach {reached}, its stream {}", stream.cut);
        check.found(&view.folder(), problem, MENDED);
        return;
    }
    let covered: Vec<CutRange> = view.panes.iter().map(|pane| pane.range.clone()).collect();
    let whole = CutRange::new(from, stream.cut.clone());
    let unstored: u64 = gaps(&whole, &covered).iter().map(CutRange::events).sum();
    if unstored > 0 {
        let note = format!("{unstored} flushed events have no states yet; queries map them");
        check.notes.push(note);
    }
}
