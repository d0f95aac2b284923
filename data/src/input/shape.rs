//! The columns of a stream as they grow while the rows of a request pass by.
//!
//! A row is merged member by member, and may turn out not to fit only after it has added
//! columns or widened a type. So every such change is stamped with the row's number, and
//! [`Shape::merge`] takes back the changes of a row that does not fit. That makes "the first
//! row's type wins" mean the first *good* row's.

use std::collections::HashMap;

use arrow::datatypes::Fields;

use super::InputError;
use super::column::Column;
use super::value::{Flaw, Member, Value};
use crate::schema::REST;

/// The engine keeps columns of these names beside the user's.
const RESERVED: [&str; 4] = ["_shard", "_offset", "_ingested_at", "_producer"];

/// Stamp of what was there before the first row.
pub(super) const BEFORE_ROWS: u64 = 0;

pub(super) struct Shape {
    pub members: Members,
    pub progress: Progress,
}

/// What merging keeps beside the columns themselves.
pub(super) struct Progress {
    pub row: u64,
    pub columns: usize,
    pub max_columns: usize,
    /// The row has added or changed a column, so there is something to take back.
    pub touched: bool,
    /// A new integer field that held an integer beyond 2^53 became a float one, so rows
    /// merged before may not fit any more.
    pub recheck: bool,
}

pub(super) struct Members {
    pub columns: Vec<Column>,
    index: HashMap<String, usize>,
    /// Indexes of columns that are not nullable.
    required: Vec<usize>,
}

impl Shape {
    /// The columns a stream has.
    ///
    /// # Errors
    ///
    /// [`InputError::UnsupportedColumn`] for a type other than the seven there are.
    pub fn new(fields: &Fields, max_columns: usize) -> Result<Self, InputError> {
        let members = Members::known(fields)?;
        let columns = members.count();
        let progress = Progress {
            row: BEFORE_ROWS,
            columns,
            max_columns,
            touched: false,
            recheck: false,
        };
        Ok(Shape { members, progress })
    }

    /// Adds the columns of a format that come even when no row has a value for them.
    pub fn pin(&mut self, fields: &Fields) -> Result<(), InputError> {
        for field in fields {
            if self.members.find(field.name(), 0).is_none() {
                self.members.add(Column::known(field)?);
                self.progress.columns += 1;
            }
        }
        Ok(())
    }

    /// Checks a row against the columns and lets them grow by it; by nothing on error.
    pub fn merge(&mut self, row: &Value<'_>) -> Result<(), Flaw> {
        let Value::Object(members) = row else {
            return Err(Flaw::new(
                "not_an_object",
                format!("expected an object, found {row}"),
            ));
        };
        if let Some((name, _)) = members.iter().find(|(name, _)| is_reserved(name)) {
            let message = "the name is reserved for the engine";
            return Err(Flaw::new("reserved_field", message).in_member(name));
        }
        self.merge_members(members)
    }

    /// The same for a row that has the engine's own column [`REST`].
    pub fn merge_kept(&mut self, row: &Value<'_>) -> Result<(), Flaw> {
        match row {
            Value::Object(members) => self.merge_members(members),
            _ => Ok(()),
        }
    }

    /// Whether the stream keeps rows that do not fit.
    pub fn keeps_rest(&self) -> bool {
        self.members.find(REST, 0).is_some()
    }

    fn merge_members(&mut self, members: &[Member<'_>]) -> Result<(), Flaw> {
        self.progress.row += 1;
        self.progress.touched = false;
        let columns = self.progress.columns;
        self.members
            .merge(members, &mut self.progress)
            .inspect_err(|_| {
                if self.progress.touched {
                    self.members.take_back(self.progress.row);
                    self.progress.columns = columns;
                }
            })
    }
}

pub(super) fn is_reserved(name: &str) -> bool {
    name == REST
        || name.starts_with('_') && RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

impl Members {
    pub fn new() -> Self {
        Members {
            columns: Vec::new(),
            index: HashMap::new(),
            required: Vec::new(),
        }
    }

    pub fn known(fields: &Fields) -> Result<Self, InputError> {
        let mut members = Members::new();
        for field in fields {
            members.add(Column::known(field)?);
        }
        Ok(members)
    }

    fn add(&mut self, column: Column) -> usize {
        let index = self.columns.len();
        if !column.nullable {
            self.required.push(index);
        }
        self.index.insert(column.name.clone(), index);
        self.columns.push(column);
        index
    }

    /// The column of a name; `hint` is where it would be if rows had all columns in order.
    pub fn find(&self, name: &str, hint: usize) -> Option<usize> {
        match self.columns.get(hint) {
            Some(column) if column.name == name => Some(hint),
            _ => self.index.get(name).copied(),
        }
    }

    /// All columns, nested ones and list elements included.
    pub fn count(&self) -> usize {
        self.columns.iter().map(Column::count).sum()
    }

    pub fn merge(&mut self, row: &[Member<'_>], progress: &mut Progress) -> Result<(), Flaw> {
        for (hint, (name, value)) in row.iter().enumerate() {
            let index = match self.find(name, hint) {
                Some(index) => index,
                None => {
                    progress.touched = true;
                    self.add(Column::new(name, progress.row))
                }
            };
            let merged = self.columns[index].merge(value, progress);
            merged.map_err(|flaw| flaw.in_member(name))?;
        }
        for &index in &self.required {
            let name = &self.columns[index].name;
            if !row.iter().any(|(present, _)| present == name) {
                let flaw = Flaw::new("missing_value", "a value is required, found none");
                return Err(flaw.in_member(name));
            }
        }
        Ok(())
    }

    /// Whether a merged row still fits.
    pub fn fits(&self, row: &[Member<'_>]) -> Result<(), Flaw> {
        for (hint, (name, value)) in row.iter().enumerate() {
            if let Some(index) = self.find(name, hint) {
                self.columns[index]
                    .fits(value)
                    .map_err(|flaw| flaw.in_member(name))?;
            }
        }
        Ok(())
    }

    pub fn take_back(&mut self, row: u64) {
        while self.columns.last().is_some_and(|column| column.born == row) {
            if let Some(column) = self.columns.pop() {
                self.index.remove(&column.name);
            }
        }
        for column in &mut self.columns {
            column.take_back(row);
        }
    }
}
