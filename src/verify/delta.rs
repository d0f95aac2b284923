//! The Delta table of a stream: it shows other readers what is published.

use std::sync::Arc;

use lambdalake_data::Disk;
use lambdalake_data::delta::{Agreement, Entries, look_at};
use lambdalake_data::publication::StreamState;

use super::report::{Check, Report};
use crate::engine::rewrite::outdated;

const REBUILT: &str = "start the server: it makes the table's log again from the publication";

const MISSING: &str = "restore the folder publications from a backup that has later ones";

pub async fn check(disk: &Arc<Disk>, state: &StreamState, report: &mut Report) {
    let mut check = Check::new("delta", &state.definition.name);
    let folder = format!("{}/_delta_log", state.definition.master_folder());
    let is_outdated = outdated(state).next().is_some();
    match look_at(disk, state, Entries::All).await {
        Ok(found) => {
            check.amount.files = found.entries;
            check.amount.bytes = found.bytes;
            check.amount.rows = found.rows;
            for (path, problem) in found.broken {
                check.found(&path, problem, REBUILT);
            }
            match found.agreement {
                Agreement::Same => {}
                Agreement::Refused(column) => check.notes.push(format!(
                    "there is none: a Delta table cannot have the column {column}"
                )),
                Agreement::Behind { version } => check.notes.push(format!(
                    "it is at version {version} of {}; the next start rolls it forward",
                    state.master_version
                )),
                Agreement::Ahead { version } => {
                    let problem = format!(
                        "it follows version {version} of the master dataset, the newest \
                         publication has {}: publications are missing",
                        state.master_version
                    );
                    check.found(&folder, problem, MISSING);
                }
                Agreement::Different(_) if is_outdated => check.notes.push(
                    "it waits for files that are written again after a column widened".to_owned(),
                ),
                Agreement::Different(problem) => check.found(&folder, problem, REBUILT),
            }
        }
        Err(error) => check.failed(&folder, &error, REBUILT),
    }
    report.add(check);
}
