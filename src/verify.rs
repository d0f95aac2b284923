//! `lambdalake verify`: is everything on disk what was stored?
//!
//! ```text
//!   publications ─▶ newest entry ─▶ per stream: master files, log, keys, Delta table
//!                                   per view:   states files, with --deep: from scratch
//!                                   the rest:   files that nothing names, run history
//! ```
//!
//! The newest publication says what must be there. Each check reads what it needs in pieces and
//! adds a line to the report; damage in one thing does not keep the others from being checked.
//! Nothing on disk is changed: the folder is opened without a way to write.

mod deep;
mod delta;
mod keys;
mod log;
mod master;
mod publications;
mod report;
mod rest;
mod states;

use std::collections::HashMap;
use std::sync::Arc;

use lambdalake_data::Disk;
use lambdalake_data::publication::Publication;
use lambdalake_views::PLANNING_STACK_BYTES;

use crate::cli::args::VerifyArgs;
use crate::cli::{ClientError, Exit};
use report::Report;

/// Checks a folder and prints the report.
pub fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    if !args.data_dir.is_dir() {
        let message = format!("{} is no folder", args.data_dir.display());
        return Err(ClientError::BadInput(message).into());
    }
    // The server makes both; a copy may lack the first.
    let has = |name: &str| args.data_dir.join(name).exists();
    if !has("lock") && !has("publications") {
        let folder = args.data_dir.display();
        let message = format!("{folder} is no data folder: it has neither publications nor a lock");
        return Err(ClientError::BadInput(message).into());
    }
    let disk = Disk::open_read_only(&args.data_dir)?;
    let mut report = Report::new(args.output);
    if let Some(publication) = publications::check(&disk, &mut report) {
        check_named(&disk, &publication, args.deep, &mut report)?;
    }
    report.finish(&args.data_dir)
}

fn check_named(
    disk: &Arc<Disk>,
    publication: &Publication,
    deep: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(PLANNING_STACK_BYTES)
        .enable_all()
        .build()?;
    // Tails of the streams whose events are all there.
    let mut sound = HashMap::new();
    for state in publication.streams.values() {
        let is_master_sound = master::check(disk, state, report);
        let tail = log::check(disk, state, report);
        keys::check(disk, state, report);
        runtime.block_on(delta::check(disk, state, report));
        if let (true, Some(tail)) = (is_master_sound, tail) {
            sound.insert(state.definition.name.as_str(), tail);
        }
    }
    let deep = deep.then(|| deep::Deep::new(disk, runtime)).transpose()?;
    for view in publication.views.values() {
        let stream = publication.streams.get(&view.stream);
        let are_sound = states::check(disk, view, stream, report);
        if let (Some(deep), Some(stream)) = (&deep, stream) {
            let tail = sound.get(view.stream.as_str());
            deep.check(view, stream, tail, are_sound, report);
        }
    }
    rest::check_unnamed(disk, publication, report);
    rest::check_runs(disk, report);
    Ok(())
}
