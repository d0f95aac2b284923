//! A predicate over one column of text, evaluated once for each value of a dictionary.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array,
};
use datafusion::arrow::buffer::BooleanBuffer;
use datafusion::arrow::compute::{and_kleene, cast, take};
use datafusion::arrow::datatypes::{DataType, Field, Int32Type, Schema};
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

/// Dictionaries whose answers are kept: one for each file that is read at a time, and the next.
const KEPT: usize = 16;

/// `predicate` reads one column of text, the only one of its schema, and always says the same of
/// the same value. `column` gives that column: as a dictionary, or else it becomes one.
#[derive(Debug)]
pub(crate) struct PerValue {
    predicate: Arc<dyn PhysicalExpr>,
    column: Arc<dyn PhysicalExpr>,
    answers: Mutex<VecDeque<Answers>>,
}

/// What the predicate says of each value of a dictionary.
#[derive(Debug, Clone)]
struct Answers {
    values: ArrayRef,
    of_values: BooleanArray,
    /// Of a row without a value.
    of_null: Option<bool>,
    /// Of each value, a byte each; none if there is nothing to say of some.
    yes: Option<Arc<[bool]>>,
}

impl PerValue {
    pub fn new(predicate: Arc<dyn PhysicalExpr>, column: Arc<dyn PhysicalExpr>) -> Self {
        Self {
            predicate,
            column,
            answers: Mutex::new(VecDeque::new()),
        }
    }

    fn answers(&self, values: &ArrayRef) -> Result<Answers> {
        let data = values.to_data();
        let kept = |answers: &&Answers| answers.values.to_data().ptr_eq(&data);
        let lock = || self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().iter().find(kept) {
            return Ok(known.clone());
        }
        let null = self.ask(new_null_array(values.data_type(), 1))?;
        let of_values = self.ask(Arc::clone(values))?;
        let all_known = of_values.null_count() == 0;
        let answers = Answers {
            values: Arc::clone(values),
            of_null: null.is_valid(0).then(|| null.value(0)),
            yes: all_known.then(|| of_values.values().iter().collect()),
            of_values,
        };
        let mut all = lock();
        all.truncate(KEPT - 1);
        all.push_front(answers.clone());
        Ok(answers)
    }

    fn ask(&self, values: ArrayRef) -> Result<BooleanArray> {
        let field = Field::new("value", values.data_type().clone(), true);
        let rows = values.len();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![values])?;
        let said = self.predicate.evaluate(&batch)?.into_array(rows)?;
        Ok(said.as_boolean().clone())
    }
}

impl PartialEq for PerValue {
    fn eq(&self, other: &Self) -> bool {
        self.predicate.eq(&other.predicate) && self.column.eq(&other.column)
    }
}

impl Eq for PerValue {}

impl Hash for PerValue {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.predicate.hash(state);
        self.column.hash(state);
    }
}

impl fmt::Display for PerValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "per value of {}: {}", self.column, self.predicate)
    }
}

impl PhysicalExpr for PerValue {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let mut column = self.column.evaluate(batch)?.into_array(batch.num_rows())?;
        if column.as_any_dictionary_opt().is_none() {
            let text = Box::new(column.data_type().clone());
            column = cast(
                &column,
                &DataType::Dictionary(Box::new(DataType::Int32), text),
            )?;
        }
        let dictionary = column.as_any_dictionary();
        let answers = self.answers(dictionary.values())?;
        if let (Some(yes), Some(keys)) = (&answers.yes, plain_keys(dictionary.keys())) {
            let said = BooleanBuffer::collect_bool(keys.len(), |row| yes[keys[row] as usize]);
            return Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(said))));
        }
        let said = take(&answers.of_values, dictionary.keys(), None)?;
        let Some(of_null) = answers
            .of_null
            .filter(|_| dictionary.keys().null_count() > 0)
        else {
            return Ok(ColumnarValue::Array(said));
        };
        let keys = dictionary.keys();
        let said = said.as_boolean().iter().enumerate();
        let said = said.map(|(row, said)| {
            if keys.is_null(row) {
                Some(of_null)
            } else {
                said
            }
        });
        Ok(ColumnarValue::Array(Arc::new(
            said.collect::<BooleanArray>(),
        )))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let predicate = Arc::clone(&self.predicate);
        Ok(Arc::new(Self::new(predicate, Arc::clone(&children[0]))))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.predicate.fmt_sql(f)
    }
}

/// The keys of rows that all have a value.
fn plain_keys(keys: &dyn Array) -> Option<&[i32]> {
    let keys = keys.as_primitive_opt::<Int32Type>()?;
    (keys.null_count() == 0).then(|| &keys.values()[..])
}

/// All of several predicates, each of which is so cheap that it is asked of every row. `AND` would
/// first pick the rows that have passed the others.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct AllOf(pub Vec<Arc<dyn PhysicalExpr>>);

impl fmt::Display for AllOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "all of ({})", all.join("; "))
    }
}

impl PhysicalExpr for AllOf {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, _: &Schema) -> Result<bool> {
        Ok(true)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let rows = batch.num_rows();
        let mut passed: Option<BooleanArray> = None;
        for predicate in &self.0 {
            let said = predicate.evaluate(batch)?.into_array(rows)?;
            let said = said.as_boolean();
            passed = Some(match passed {
                Some(passed) => and_kleene(&passed, said)?,
                None => said.clone(),
            });
        }
        let passed = passed.unwrap_or_else(|| BooleanArray::from(vec![true; rows]));
        Ok(ColumnarValue::Array(Arc::new(passed)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.0.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self(children)))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{DictionaryArray, StringArray};
    use datafusion::physical_expr::expressions::{Column, IsNullExpr, like, lit};

    use super::*;

    fn text() -> Schema {
        Schema::new(vec![Field::new("value", DataType::Utf8, true)])
    }

    fn said(predicate: &PerValue, column: ArrayRef) -> Vec<Option<bool>> {
        let field = Field::new("path", column.data_type().clone(), true);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]);
        let said = predicate
            .evaluate(&batch.expect("a batch"))
            .expect("answers");
        let said = said.into_array(0).expect("an array");
        said.as_boolean().iter().collect()
    }

    fn per_value(predicate: Arc<dyn PhysicalExpr>) -> PerValue {
        PerValue::new(predicate, Arc::new(Column::new("path", 0)))
    }

    #[test]
    fn rows_get_what_is_said_of_their_value() {
        let value: Arc<dyn PhysicalExpr> = Arc::new(Column::new("value", 0));
        let begins = like(false, false, Arc::clone(&value), lit("/a%"), &text()).expect("LIKE");
        let begins = per_value(begins);
        let rows = [Some("/a/1"), None, Some("/b"), Some("/a/1"), Some("/c")];
        let expected = [Some(true), None, Some(false), Some(true), Some(false)];
        let dictionary: DictionaryArray<Int32Type> = rows.into_iter().collect();
        let dictionary: ArrayRef = Arc::new(dictionary);
        assert_eq!(said(&begins, Arc::clone(&dictionary)), expected);
        assert_eq!(said(&begins, dictionary.slice(2, 2)), expected[2..4]);
        assert_eq!(
            said(&begins, Arc::new(StringArray::from(rows.to_vec()))),
            expected
        );
        assert_eq!(said(&begins, dictionary.slice(0, 0)), []);

        let absent = per_value(Arc::new(IsNullExpr::new(value)));
        let expected = rows.map(|row| Some(row.is_none()));
        assert_eq!(said(&absent, dictionary), expected);
    }

    #[test]
    fn each_of_many_dictionaries_gets_its_own_answers() {
        let value: Arc<dyn PhysicalExpr> = Arc::new(Column::new("value", 0));
        let is_seven = like(false, false, value, lit("7"), &text()).expect("LIKE");
        let is_seven = per_value(is_seven);
        let dictionaries: Vec<ArrayRef> = (0..KEPT + 4)
            .map(|number| {
                let rows = [Some(number.to_string()), None];
                let rows = rows.iter().map(Option::as_deref);
                Arc::new(rows.collect::<DictionaryArray<Int32Type>>()) as ArrayRef
            })
            .collect();
        for _ in 0..2 {
            for (number, dictionary) in dictionaries.iter().enumerate() {
                let expected = [Some(number == 7), None];
                assert_eq!(said(&is_seven, Arc::clone(dictionary)), expected);
            }
        }
        assert_eq!(is_seven.answers.lock().expect("answers").len(), KEPT);
    }
}
