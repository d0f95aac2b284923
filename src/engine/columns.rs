//! Changes of a stream's columns beyond the new ones that a request may bring by itself:
//! `ALTER TABLE`, and integer columns that widen because they met a fraction.
//!
//! ```text
//!   writer thread, between two groups
//!     current definition -> next one -> views that read a widened column, compiled again
//!       -> ONE publication entry: definition, and for those views a new generation of
//!          states (another incarnation, no version, no panes: everything is a gap)
//!       -> the tail shows the new columns
//! ```
//!
//! So a view is exact at once, mapped from the master dataset, and quick after the recompute
//! that is started for it. Older files and log frames are cast when they are read.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use lambdalake_data::publication::{Publication, ViewState};
use lambdalake_data::schema::{Column, ColumnType, REST, StreamDefinition};
use lambdalake_data::widen::{Widening, read_footer, widened, with_widened};
use lambdalake_serving::engine::{AlterSpec, ColumnChange, EngineError, ErrorKind};
use lambdalake_speed::SpeedError;
use lambdalake_speed::writer::StreamTail;
use lambdalake_views::View;

use super::port::{from_data, from_speed};
use super::publisher::compile;
use super::streams::ChangeError;
use super::{Engine, StreamRuntime, lock};

/// Why a place stays an integer, by its path.
type Refusals = Vec<(String, String)>;

impl Engine {
    /// Widens the places that are integers in `from` and floats in `to`, as far as nothing is
    /// lost by it. Returns the paths of those that stay integers.
    pub(super) fn widen(
        self: &Arc<Self>,
        stream: &StreamRuntime,
        from: &[Column],
        to: &[Column],
    ) -> Result<HashSet<String>, EngineError> {
        let wanted = widened(from, to);
        let refused = self.redefine(stream, move |definition| {
            Ok(with_widened(&definition.columns, &wanted))
        })?;
        for (path, reason) in &refused {
            let stream = &stream.definition.name;
            tracing::info!(stream, path, reason, "the column stays an integer");
        }
        Ok(refused.into_iter().map(|(path, _)| path).collect())
    }

    /// Carries out `ALTER TABLE`.
    pub(super) fn alter_stream(self: &Arc<Self>, spec: AlterSpec) -> Result<(), EngineError> {
        let stream = self.running_stream(&spec.stream)?;
        let refused = self.redefine(&stream, move |definition| {
            let mut columns = definition.columns.clone();
            for change in &spec.changes {
                change_column(&mut columns, change)?;
            }
            Ok(columns)
        })?;
        match refused.first() {
            None => Ok(()),
            Some((path, reason)) => Err(EngineError::new(
                ErrorKind::Conflict,
                "cannot_widen",
                format!("the column {path} stays BIGINT: {reason}"),
            )),
        }
    }

    /// Changes the columns to what `next` makes of the current ones, but for places that
    /// cannot widen; those are returned with the reason.
    fn redefine(
        self: &Arc<Self>,
        stream: &StreamRuntime,
        next: impl FnOnce(&StreamDefinition) -> Result<Vec<Column>, EngineError> + Send + 'static,
    ) -> Result<Refusals, EngineError> {
        let engine = Arc::clone(self);
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let written = Arc::clone(&outcome);
        let redefined = stream.writer.redefine(Box::new(move |tail| {
            let columns = next(&tail.definition)?;
            let (definition, found) = engine.published(tail, columns)?;
            *lock(&written) = found;
            Ok(definition)
        }));
        match redefined {
            Ok(()) => {}
            Err(SpeedError::NotRedefined { stream, source }) => {
                return Err(match source.downcast::<EngineError>() {
                    Ok(error) => *error,
                    Err(source) => from_speed(SpeedError::NotRedefined { stream, source }),
                });
            }
            Err(error) => return Err(from_speed(error)),
        }
        let outcome = std::mem::take(&mut *lock(&outcome));
        for view in outcome.emptied {
            self.cancel_run_of(&view);
            lock(&self.to_fill).insert(view, "new_columns");
        }
        let lossy = outcome.lossy.iter().cloned();
        lock(&stream.never_widened).extend(lossy);
        Ok(outcome.refused)
    }

    /// Publishes a definition with these columns, without the places that cannot widen.
    /// `None` if nothing is left to change.
    fn published(
        &self,
        tail: &StreamTail,
        columns: Vec<Column>,
    ) -> Result<(Option<StreamDefinition>, Outcome), EngineError> {
        let current = &tail.definition;
        let mut outcome = Outcome::default();
        let mut allowed = Vec::new();
        for widening in widened(&current.columns, &columns) {
            if let Some(reason) = self.loses(tail, &widening)? {
                outcome.lossy.push(widening.path());
                outcome.refused.push((widening.path(), reason));
            } else if let Some(reason) = self.breaks_view(current, &widening) {
                outcome.refused.push((widening.path(), reason));
            } else {
                allowed.push(widening);
            }
        }
        let columns = with_new(with_widened(&current.columns, &allowed), columns);
        if columns == current.columns {
            return Ok((None, outcome));
        }
        let definition = current.with_columns(columns);
        let changed = self
            .publisher
            .change(|next| self.put(next, &definition, &allowed));
        outcome.emptied = changed.map_err(ChangeError::into_engine)?;
        Ok((Some(definition), outcome))
    }

    /// Puts a definition into an entry, and begins another generation of the states of views
    /// that read a widened column. Returns those views.
    fn put(
        &self,
        next: &mut Publication,
        definition: &StreamDefinition,
        widenings: &[Widening],
    ) -> Result<Vec<String>, ChangeError> {
        let state = next
            .streams
            .get_mut(&definition.name)
            .filter(|state| state.definition.incarnation == definition.incarnation)
            .ok_or_else(|| {
                let message = format!("stream {} was dropped meanwhile", definition.name);
                ChangeError::Engine(EngineError::not_found("unknown_stream", message))
            })?;
        Arc::make_mut(state).definition = definition.clone();
        let mut emptied = Vec::new();
        let number = next.number;
        for view in next
            .views
            .values_mut()
            .filter(|view| view.stream == definition.name)
        {
            let Some((state, compiled)) = widened_view(view, widenings).map_err(|error| {
                let message = format!("view {} cannot read the new type: {error}", view.name);
                ChangeError::Engine(EngineError::new(ErrorKind::Conflict, "in_use", message))
            })?
            else {
                continue;
            };
            let state = ViewState {
                incarnation: number,
                definition_hash: compiled.definition_hash().to_owned(),
                version: None,
                panes: Vec::new(),
                ..state
            };
            self.publisher
                .add_compiled(&state.name, number, Arc::new(compiled));
            emptied.push(state.name.clone());
            *view = Arc::new(state);
        }
        Ok(emptied)
    }

    /// Why a place that was an integer until now must stay one: it holds an integer that a
    /// float cannot.
    fn loses(&self, tail: &StreamTail, widening: &Widening) -> Result<Option<String>, EngineError> {
        let reason = || {
            Some(
                "it holds integers beyond 2^53, which a float cannot hold exactly; send whole \
                 numbers, or use another column"
                    .to_owned(),
            )
        };
        let mut chunks = tail.parts.iter().flat_map(|(part, _)| part.chunks.iter());
        if chunks.any(|chunk| widening.loses_in_batch(&chunk.events)) {
            return Ok(reason());
        }
        let publication = self.publisher.publication();
        let Some(state) = publication.streams.get(&tail.definition.name) else {
            return Ok(None);
        };
        let folder = state.definition.master_folder();
        for file in &state.files {
            let path = format!("{folder}/{}", file.path);
            let footer = read_footer(self.disk.as_ref(), &path, file.bytes).map_err(from_data)?;
            if widening.loses_in_file(&footer) {
                return Ok(reason());
            }
        }
        Ok(None)
    }

    fn breaks_view(&self, stream: &StreamDefinition, widening: &Widening) -> Option<String> {
        let publication = self.publisher.publication();
        let mut views = publication
            .views
            .values()
            .filter(|view| view.stream == stream.name);
        views.find_map(|view| {
            let error = widened_view(view, std::slice::from_ref(widening)).err()?;
            Some(format!(
                "view {} needs it as an integer ({error:#})",
                view.name
            ))
        })
    }

    /// Starts the recomputes that fill views whose states are missing.
    pub(super) fn fill_emptied_views(self: &Arc<Self>) {
        let views = lock(&self.to_fill).clone();
        for (view, reason) in views {
            match self.start_recompute(&view, reason.to_owned()) {
                // The run of the generation before is still ending.
                Err(error) if error.kind == ErrorKind::Conflict => continue,
                Err(error) => tracing::warn!(view, %error, "not filled yet; recompute it"),
                Ok(run_id) => tracing::info!(view, run_id, reason, "filling the view's states"),
            }
            lock(&self.to_fill).remove(&view);
        }
    }
}

/// What became of a change of columns.
#[derive(Default)]
struct Outcome {
    refused: Refusals,
    /// Those of the refused that no later event can allow.
    lossy: Vec<String>,
    /// Views whose states begin anew.
    emptied: Vec<String>,
}

/// The view over the widened columns; `None` if it reads none of them.
fn widened_view(
    view: &ViewState,
    widenings: &[Widening],
) -> anyhow::Result<Option<(ViewState, View)>> {
    let stream_columns = with_widened(&view.stream_columns, widenings);
    if stream_columns == view.stream_columns {
        return Ok(None);
    }
    let state = ViewState {
        stream_columns,
        ..view.clone()
    };
    let before = compile(view)?;
    let after = compile(&state)?;
    Ok((before.definition_hash() != after.definition_hash()).then_some((state, after)))
}

/// `columns` and those of `wanted` that they lack.
fn with_new(mut columns: Vec<Column>, wanted: Vec<Column>) -> Vec<Column> {
    for column in wanted {
        if !columns.iter().any(|known| known.name == column.name) {
            columns.push(column);
        }
    }
    columns
}

fn change_column(columns: &mut Vec<Column>, change: &ColumnChange) -> Result<(), EngineError> {
    let known = |name: &str| columns.iter().position(|column| column.name == name);
    match change {
        ColumnChange::Add {
            field,
            if_not_exists,
        } => {
            if known(field.name()).is_some() {
                if *if_not_exists {
                    return Ok(());
                }
                let message = format!("the column {} exists already", field.name());
                return Err(EngineError::new(ErrorKind::Conflict, "exists", message));
            }
            let column = Column::from_field(field).ok_or_else(|| {
                let message = format!(
                    "the column {} cannot have the type {}",
                    field.name(),
                    field.data_type()
                );
                EngineError::bad_request("invalid_type", message)
            })?;
            columns.push(column);
        }
        ColumnChange::KeepRest => {
            if known(REST).is_none() {
                columns.push(Column::rest());
            }
        }
        ColumnChange::SetType { name, data_type } => {
            let at = known(name).ok_or_else(|| {
                EngineError::not_found("unknown_column", format!("there is no column {name}"))
            })?;
            let wanted = Column::from_field(&arrow::datatypes::Field::new(
                name,
                data_type.clone(),
                columns[at].nullable,
            ));
            let column = &mut columns[at];
            let wanted = wanted.map(|wanted| wanted.column_type);
            match (&column.column_type, wanted) {
                (before, Some(after)) if *before == after => {}
                (ColumnType::Int64, Some(ColumnType::Float64)) => {
                    column.column_type = ColumnType::Float64;
                }
                _ => {
                    let message = format!(
                        "the column {name} cannot become {data_type}: only BIGINT columns can \
                         change, to DOUBLE"
                    );
                    return Err(EngineError::bad_request("invalid_type", message));
                }
            }
        }
    }
    Ok(())
}
