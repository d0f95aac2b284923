//! What must hold of a world after a step.

use std::collections::BTreeSet;
use std::path::Path;

use lambdalake_data::Clock;
use lambdalake_data::files::Files;
use lambdalake_data::publication::{KEPT_ENTRIES, MasterFile};
use lambdalake_serving::engine::Engine as _;
use serde_json::{Value, json};

use super::super::model::StreamModel;
use super::super::steps::{STREAMS, VIEWS};
use super::reading::lines;
use super::{World, stream_name, view_name};
use crate::engine::states_files;

impl World {
    /// After a recompute, everything but the tail must be in stored states: what is not is
    /// exact too, but slow.
    pub(super) fn check_has_no_gaps(&self, view: &str) -> Result<(), String> {
        let snapshot = self.port.as_ref().map(|port| port.0.snapshot());
        let gaps = snapshot
            .and_then(|snapshot| snapshot.views.get(view).map(|view| view.gaps()))
            .unwrap_or_default();
        if gaps.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "{view} has no states for {gaps:?} after a recompute"
            ))
        }
    }

    /// Every file that is named must be there and whole, whatever the power did: a missing
    /// states file would be noticed and made up for, and hide that it was named too early.
    pub(super) fn check_named_files(&self) -> Result<(), String> {
        let Some(port) = &self.port else {
            return Ok(());
        };
        // Before the first one there is no folder.
        let publications = self.files.list(Path::new("publications"));
        let count = publications.map_or(0, |entries| entries.len());
        if count as u64 > KEPT_ENTRIES {
            return Err(format!("{count} publications were left"));
        }
        let snapshot = port.0.snapshot();
        let of_streams = snapshot.streams.values().flat_map(|stream| {
            let folder = stream.definition.master_folder();
            let named = |file: &MasterFile| (format!("{folder}/{}", file.path), file.crc32c);
            let keys = stream.state.keys.iter();
            let keys = keys.map(|file| (file.path.clone(), file.crc32c));
            let files = stream.state.files.iter().map(named);
            files.chain(keys).collect::<Vec<_>>()
        });
        let of_views = snapshot.views.values().flat_map(|view| {
            let files = states_files(&view.state);
            files.map(|file| (file.path.clone(), file.crc32c))
        });
        for (path, crc32c) in of_streams.chain(of_views) {
            match self.files.read(Path::new(&path)) {
                Ok(bytes) if crc32c::crc32c(&bytes) == crc32c => {}
                Ok(bytes) => {
                    return Err(format!(
                        "{path} is named and damaged: {} bytes",
                        bytes.len()
                    ));
                }
                Err(error) => return Err(format!("{path} is named: {error}")),
            }
        }
        Ok(())
    }

    /// Takes in which of the things in doubt are there after a start.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for stream in 0..STREAMS {
            let name = stream_name(stream);
            let port = self.port().map_err(|error| error.to_string())?;
            let is_there = port.stream(&name).is_some();
            let views: BTreeSet<usize> = (0..VIEWS)
                .filter(|kind| port.view(&view_name(stream, *kind)).is_some())
                .collect();
            let slot = &mut self.slots[stream];
            if is_there != slot.model.is_some() {
                if !std::mem::take(&mut slot.is_in_doubt) {
                    return Err(format!("after the start, {name} exists: {is_there}"));
                }
                slot.model = is_there.then(StreamModel::default);
            }
            slot.is_in_doubt = false;
            let in_doubt = std::mem::take(&mut slot.views_in_doubt);
            let Some(model) = &mut slot.model else {
                continue;
            };
            if let Some(kind) = views
                .symmetric_difference(&model.views)
                .find(|kind| !in_doubt.contains(kind))
            {
                let is_there = views.contains(kind);
                return Err(format!(
                    "after the start, v{kind} of {name} exists: {is_there}"
                ));
            }
            model.views = views;
            model.log_failed = false;
            let found = self.places(stream)?;
            if let Some(model) = &mut self.slots[stream].model {
                model
                    .settle(&found)
                    .map_err(|e| format!("after the start, {name}: {e}"))?;
            }
        }
        Ok(())
    }

    /// What an answer of a view tells of itself must be what the model counts and what the view's
    /// own description says.
    fn check_provenance(
        &self,
        stream: usize,
        view: &str,
        stats: &Value,
        newest: Option<i64>,
    ) -> Result<(), String> {
        let port = self.port().map_err(|error| error.to_string())?;
        let described = port.view(view).unwrap_or_default();
        let Some(model) = &self.slots[stream].model else {
            return Ok(());
        };
        let of_view = &stats["provenance"][0];
        let offsets = |cut: &Value| -> Vec<u64> {
            let offsets = cut.as_array().into_iter().flatten();
            offsets.filter_map(Value::as_u64).collect()
        };
        let cut = offsets(&of_view["cut"]);
        let (before, after) = model.events_around(&cut);
        let sum = |parts: &[&str]| -> u64 {
            let parts = parts
                .iter()
                .map(|part| of_view[*part].as_u64().unwrap_or(u64::MAX));
            parts.fold(0, u64::saturating_add)
        };
        let speed = ["events_from_panes", "events_from_gaps", "events_from_tail"];
        let age = newest.map(|newest| (self.clock.now_micros() - newest) as u64 / 1000);
        let holds = [
            ("name", of_view["name"] == view),
            ("to", offsets(&of_view["to"]) == model.ends()),
            ("events_from_batch", sum(&["events_from_batch"]) == before),
            ("events_from_speed", sum(&speed) == after),
            ("from_batch", stats["from_batch"] == before),
            ("from_speed", stats["from_speed"] == after),
            ("lag_events", stats["lag_events"] == after),
            ("cut", of_view["cut"] == described["cut"]),
            ("version", of_view["version"] == described["version"]),
            (
                "batch_version",
                stats["batch_version"] == described["version"],
            ),
            ("freshness_ms", stats["freshness_ms"] == json!(age)),
        ];
        match holds.iter().find(|(_, holds)| !holds) {
            Some((what, _)) => Err(format!(
                "{what} of {view} is wrong: {stats:#}\n{before} events before the cut and {after} \
                 after it, the newest {age:?} ms old; described as {described:#}"
            )),
            None => Ok(()),
        }
    }

    /// Everything of a stream must be what the model says, in the stream and in its views.
    pub(super) fn check(&mut self, stream: usize) -> Result<(), String> {
        let Some(model) = &self.slots[stream].model else {
            return Ok(());
        };
        self.tally.checks += 1;
        let name = stream_name(stream);
        let (found, newest) = self.places_and_newest(stream)?;
        model
            .check(&found)
            .map_err(|error| format!("{name}: {error}"))?;
        for kind in &model.views {
            let view = view_name(stream, *kind);
            let (rows, stats) = self.query_and_stats(&format!("SELECT * FROM {view}"))?;
            self.check_provenance(stream, &view, &stats, newest)?;
            let mut rows = lines(&rows)?;
            rows.sort();
            let expected = model.view(*kind);
            if rows != expected {
                return Err(format!("{view} is {rows:#?}\nand should be {expected:#?}"));
            }
        }
        if model.views.contains(&0) {
            let view = view_name(stream, 0);
            let sql = format!(
                "SELECT (SELECT coalesce(sum(c), 0) FROM {view}) = (SELECT count(*) FROM {name})"
            );
            if lines(&self.query(&sql)?)? != ["true"] {
                return Err(format!("{view} does not count {name} in one snapshot"));
            }
        }
        Ok(())
    }
}
