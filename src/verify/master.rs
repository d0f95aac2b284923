//! The master files of a stream: each is whole, and together they hold every offset up to the
//! flush cut once.

use std::sync::Arc;

use lambdalake_data::offsets::check_offsets;
use lambdalake_data::publication::{MasterFile, StreamState};
use lambdalake_data::{Cut, DataError, Disk};

use super::report::{Check, RESTORE, Report};

/// True if all is well.
pub fn check(disk: &Arc<Disk>, state: &StreamState, report: &mut Report) -> bool {
    let mut check = Check::new("master", &state.definition.name);
    let folder = state.definition.master_folder();
    let mut reached = Cut::start(state.definition.shards);
    for file in &state.files {
        let path = format!("{folder}/{}", file.path);
        check.amount.files += 1;
        check.amount.bytes += file.bytes;
        if file.range.from != reached {
            let problem = format!(
                "it begins at {} where {reached} was expected",
                file.range.from
            );
            check.found(&path, problem, RESTORE);
        }
        reached = file.range.to.clone();
        match check_file(disk, &path, file) {
            Ok(rows) => check.amount.rows += rows,
            Err(error) => check.failed(&path, &error, RESTORE),
        }
    }
    if reached != state.cut {
        let problem = format!("its files end at {reached}, its cut is {}", state.cut);
        check.found(&folder, problem, RESTORE);
    }
    newer_files(disk, state, &mut check);
    report.add(check)
}

fn check_file(disk: &Arc<Disk>, path: &str, file: &MasterFile) -> Result<u64, DataError> {
    whole(disk, path, file.bytes, file.crc32c)?;
    let rows = check_offsets(disk, path, file.bytes, &file.range)?;
    if rows != file.rows {
        let reason = format!("it holds {rows} rows where {} were published", file.rows);
        let path = path.into();
        return Err(DataError::Damaged { path, reason });
    }
    Ok(rows)
}

/// Errors: `Damaged` if the file is missing, or its length or checksum is another.
pub fn whole(disk: &Disk, path: &str, bytes: u64, crc32c: u32) -> Result<(), DataError> {
    disk.expect(path, bytes, crc32c);
    disk.head(path)?;
    // The first read of a file checks all of it, each further one its blocks.
    disk.read_range(path, 0..1).map(|_| ())
}

/// Files of a flush that can only have begun after a publication that is not there any more.
fn newer_files(disk: &Disk, state: &StreamState, check: &mut Check) {
    let folder = state.definition.master_folder();
    let listed = match disk.list(&folder) {
        Ok(listed) => listed,
        Err(error) => return check.failed(&folder, &error, RESTORE),
    };
    for info in listed {
        let name = info.path.strip_prefix(&folder).unwrap_or(&info.path);
        let version = name.trim_start_matches('/').split('-').next();
        let version = version.and_then(|version| version.parse::<u64>().ok());
        // One that is only one ahead is what a crash during a flush leaves.
        if version.is_some_and(|version| version > state.master_version + 1) {
            let problem = "it is of a later publication than the newest that is there";
            let action = "restore the folder publications from a backup that has later ones";
            check.found(&info.path, problem, action);
        }
    }
}
