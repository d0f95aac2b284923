//! The publication entries: the newest one says what all else must be.

use std::sync::Arc;

use lambdalake_data::publication::{KEPT_ENTRIES, Publication, entries, read_entry};
use lambdalake_data::{DataError, Disk};

use super::report::{Check, Report};

const NEWEST: &str = "put it back from a backup that was made after it, or restore the whole \
                      folder; the server uses no older one, as that would lose events";
const OLDER: &str = "nothing depends on it; it goes after a few more publications";

/// Reads every entry. `None` if the newest one cannot be read: then nothing is known to be right.
pub fn check(disk: &Arc<Disk>, report: &mut Report) -> Option<Publication> {
    let mut check = Check::new("publications", "");
    let newest = match read_all(disk, &mut check) {
        Ok(newest) => newest,
        Err(error) => {
            check.failed("publications", &error, NEWEST);
            None
        }
    };
    report.add(check);
    newest
}

fn read_all(disk: &Disk, check: &mut Check) -> Result<Option<Publication>, DataError> {
    let entries = entries(disk)?;
    let last = entries.iter().filter_map(|entry| entry.number).max();
    let mut numbers = Vec::new();
    let mut newest = None;
    for entry in &entries {
        let (path, is_newest) = (&entry.info.path, entry.number == last);
        let Some(number) = entry.number else {
            let note = format!("{path} is not a publication, and is not read");
            check.notes.push(note);
            continue;
        };
        check.amount.files += 1;
        check.amount.bytes += entry.info.bytes;
        if last.is_some_and(|last| number + KEPT_ENTRIES <= last) {
            let note = format!("{path} was left by a crash; the next start removes it");
            check.notes.push(note);
            continue;
        }
        numbers.push(number);
        match read_entry(disk, path) {
            Ok(entry) if is_newest => newest = Some(entry),
            Ok(_) => {}
            Err(error) => check.failed(path, &error, if is_newest { NEWEST } else { OLDER }),
        }
    }
    for pair in numbers.windows(2) {
        let (before, after): (u64, u64) = (pair[0], pair[1]);
        if after != before + 1 {
            let problem = format!("publications {} to {} are missing", before + 1, after - 1);
            check.found("publications", problem, OLDER);
        }
    }
    if last.is_none() {
        if holds_data(disk)? {
            let problem = "there is none, but there are files of streams or views";
            check.found("publications", problem, NEWEST);
        } else {
            check.notes.push("the folder is empty".to_owned());
        }
        return Ok(None);
    }
    Ok(newest)
}

fn holds_data(disk: &Disk) -> Result<bool, DataError> {
    for root in ["streams", "views", "log"] {
        if !disk.list(root)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
