//! Rows that do not fit the columns, kept nevertheless.
//!
//! A stream that has the column `_rest` takes every row that is a JSON object. What fits goes
//! to its columns; members that do not fit are null there, and the whole row is kept as JSON
//! text in `_rest`. Only a row that lacks a required value, or is no JSON object, is rejected.

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::shape::Shape;
use super::value::{Flaw, Value};
use crate::schema::REST;

/// Members of one row that are looked at one by one; beyond them only the JSON text is kept.
const MAX_MISFITS: usize = 64;

/// What is wrong with a row when its values are, not its form.
const CONFLICTS: [&str; 5] = [
    "type_conflict",
    "out_of_range",
    "too_many_fields",
    "too_deep",
    "duplicate_key",
];

/// Takes a row that did not fit into `shape` all the same, if the stream wants that.
///
/// `read` is the row as far as it was understood, or what is wrong with its text; `raw` its
/// JSON text, if it came as such.
///
/// # Errors
///
/// The row's flaw, if the stream keeps no such rows or this one cannot be kept.
pub(super) fn keep<'a>(
    read: Option<Value<'a>>,
    flaw: Flaw,
    raw: Option<&'a [u8]>,
    shape: &mut Shape,
) -> Result<Value<'a>, Flaw> {
    if !shape.keeps_rest() || !CONFLICTS.contains(&flaw.code) {
        return Err(flaw);
    }
    let raw = raw.and_then(|raw| std::str::from_utf8(raw).ok());
    let Some(Value::Object(mut members)) = read else {
        // The text went wrong before the row's end: is it an object as a whole?
        let whole = raw.filter(|raw| {
            raw.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(raw).is_ok()
        });
        let Some(raw) = whole else { return Err(flaw) };
        let row = Value::Object(vec![rest(Cow::Borrowed(raw))]);
        return shape.merge_kept(&row).map(|()| row).map_err(|_| flaw);
    };
    let text = match raw {
        Some(raw) => Cow::Borrowed(raw.trim()),
        None => Cow::Owned(Value::Object(members.clone()).to_json()),
    };
    let mut misfit = flaw.clone();
    for _ in 0..MAX_MISFITS {
        let Some(name) = misfit.top_member() else {
            break;
        };
        members.retain(|(member, _)| member != name);
        let mut kept = members.clone();
        kept.push(rest(text.clone()));
        let row = Value::Object(kept);
        match shape.merge_kept(&row) {
            Ok(()) => return Ok(row),
            Err(next) if CONFLICTS.contains(&next.code) => misfit = next,
            Err(_) => return Err(flaw),
        }
    }
    let row = Value::Object(vec![rest(text)]);
    shape.merge_kept(&row).map(|()| row).map_err(|_| flaw)
}

/// The same for a row that fitted when it was merged, but not the columns of the end.
pub(super) fn keep_merged<'a>(row: &Value<'a>, shape: &Shape) -> Option<Value<'a>> {
    let Value::Object(members) = row else {
        return None;
    };
    if !shape.keeps_rest() {
        return None;
    }
    let mut kept: Vec<_> = members.clone();
    kept.retain(|(name, _)| name != REST);
    let text = Value::Object(kept.clone()).to_json();
    for _ in 0..MAX_MISFITS {
        let Err(flaw) = shape.members.fits(&kept) else {
            break;
        };
        let name = flaw.top_member()?.to_owned();
        kept.retain(|(member, _)| *member != name);
    }
    kept.push(rest(Cow::Owned(text)));
    shape
        .members
        .fits(&kept)
        .is_ok()
        .then_some(Value::Object(kept))
}

fn rest(text: Cow<'_, str>) -> (Cow<'_, str>, Value<'_>) {
    (Cow::Borrowed(REST), Value::Text(text))
}
