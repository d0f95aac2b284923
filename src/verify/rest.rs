//! Files that nothing names, and the history of runs.

use std::collections::HashSet;

use lambdalake_batch::history::Run;
use lambdalake_data::publication::Publication;
use lambdalake_data::{DataError, Disk};

use super::report::{Check, Report};
use crate::engine::publisher::states_files;

const FOLDERS: [&str; 4] = ["views", "streams", "log", "keys"];

/// What a crash left: no damage, as nothing reads it.
pub fn check_unnamed(disk: &Disk, publication: &Publication, report: &mut Report) {
    let mut check = Check::new("unnamed", "");
    if let Err(error) = list_unnamed(disk, publication, &mut check) {
        check.failed("", &error, "look at the disk");
    }
    report.add(check);
}

fn list_unnamed(
    disk: &Disk,
    publication: &Publication,
    check: &mut Check,
) -> Result<(), DataError> {
    let mut named: HashSet<String> = HashSet::new();
    let mut folders = Vec::new();
    for stream in publication.streams.values() {
        let folder = stream.definition.master_folder();
        let files = stream.files.iter();
        named.extend(files.map(|file| format!("{folder}/{}", file.path)));
        named.extend(stream.keys.iter().map(|file| file.path.clone()));
        folders.push(format!("{folder}/_delta_log/"));
        folders.push(format!("{}/", stream.definition.log_folder()));
    }
    for view in publication.views.values() {
        named.extend(states_files(view).map(|file| file.path.clone()));
    }
    for root in FOLDERS {
        for info in disk.list(root)? {
            let is_inside = folders.iter().any(|folder| info.path.starts_with(folder));
            if !is_inside && !named.contains(&info.path) {
                check.amount.files += 1;
                check.amount.bytes += info.bytes;
                let path = info.path;
                let note = format!("{path} is named by nothing; the next start removes it");
                check.notes.push(note);
            }
        }
    }
    Ok(())
}

/// The history of runs, which is for people.
pub fn check_runs(disk: &Disk, report: &mut Report) {
    let mut check = Check::new("runs", "");
    if let Err(error) = read_runs(disk, &mut check) {
        check.failed("runs", &error, "look at the disk");
    }
    report.add(check);
}

fn read_runs(disk: &Disk, check: &mut Check) -> Result<(), DataError> {
    for info in disk.list("runs")? {
        check.amount.files += 1;
        check.amount.bytes += info.bytes;
        let bytes = disk.read(&info.path)?.unwrap_or_default();
        if let Err(error) = serde_json::from_slice::<Run>(&bytes) {
            let action = "remove it: nothing depends on the history of runs";
            check.found(&info.path, error.to_string(), action);
        }
    }
    Ok(())
}
