//! The idempotency keys of a stream that its log may have forgotten.

use lambdalake_data::Disk;
use lambdalake_data::keys::read_keys;
use lambdalake_data::publication::StreamState;

use super::report::{Check, RESTORE, Report};

pub fn check(disk: &Disk, state: &StreamState, report: &mut Report) {
    let mut check = Check::new("keys", &state.definition.name);
    for file in &state.keys {
        check.amount.files += 1;
        check.amount.bytes += file.bytes;
        match read_keys(disk, file) {
            Ok(bodies) if bodies.len() as u64 == file.keys => check.amount.rows += file.keys,
            Ok(bodies) => {
                let problem = format!("it holds {} keys of {}", bodies.len(), file.keys);
                check.found(&file.path, problem, RESTORE);
            }
            Err(error) => check.failed(&file.path, &error, RESTORE),
        }
    }
    report.add(check);
}
