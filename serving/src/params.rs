//! Values for the placeholders of a statement: `$1`, `$2` ... or `$name`.
//!
//! A value never becomes text of the statement. The statement is parsed with its placeholders
//! in it, and each placeholder's node in the syntax tree is replaced by a literal node: whatever
//! a value contains, it stays one literal. The planner then infers and casts as it does for any
//! literal, so a string compares with a timestamp column.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan, VisitMut, VisitorMut};
use serde_json::value::RawValue;

use crate::error::EngineError;

/// The values that came with a statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params {
    /// By placeholder, without the dollar sign.
    values: BTreeMap<String, Value>,
}

impl Params {
    /// Reads an array (for `$1`, `$2` ...) or an object (for `$name`) of numbers, strings,
    /// booleans and nulls. Integers keep all 64 bits; other numbers are DOUBLE.
    pub fn from_json(json: &str) -> Result<Self, EngineError> {
        let json = json.trim();
        let pairs: Vec<(String, Box<RawValue>)> = match json.as_bytes().first() {
            Some(b'[') => {
                let values: Vec<Box<RawValue>> = read("params", json)?;
                (1..).map(|n: usize| n.to_string()).zip(values).collect()
            }
            Some(b'{') => {
                let values: BTreeMap<String, Box<RawValue>> = read("params", json)?;
                values.into_iter().collect()
            }
            _ if json == "null" => Vec::new(),
            _ => {
                return Err(invalid(
                    "params is neither a JSON array, for $1, $2 ..., nor an object, for $name"
                        .to_owned(),
                ));
            }
        };
        let mut values = BTreeMap::new();
        for (name, value) in pairs {
            let value = literal(&name, value.get())?;
            values.insert(name, value);
        }
        Ok(Self { values })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// An error if there are any: for statements that take none.
    pub(crate) fn refuse(&self) -> Result<(), EngineError> {
        self.surplus(&BTreeSet::new())
    }

    /// The refusal of values that nothing uses.
    fn surplus(&self, used: &BTreeSet<String>) -> Result<(), EngineError> {
        match self.values.keys().find(|name| !used.contains(*name)) {
            None => Ok(()),
            Some(name) => Err(EngineError::bad_request(
                "surplus_parameter",
                format!("params has a value for ${name}, which the statement does not use"),
            )),
        }
    }
}

/// Puts the values in the place of the placeholders. A placeholder without a value and a value
/// without a placeholder are errors that name it.
pub fn bind(statement: &mut Statement, params: &Params) -> Result<(), EngineError> {
    let mut binder = Binder {
        params,
        used: BTreeSet::new(),
    };
    let mut inner = statement;
    while let Statement::Explain(explain) = inner {
        inner = explain.statement.as_mut();
    }
    if let Statement::Statement(parsed) = inner
        && let ControlFlow::Break(error) = parsed.as_mut().visit(&mut binder)
    {
        return Err(*error);
    }
    params.surplus(&binder.used)
}

struct Binder<'a> {
    params: &'a Params,
    used: BTreeSet<String>,
}

impl Binder<'_> {
    fn value(&mut self, placeholder: &str) -> Result<Value, Box<EngineError>> {
        let name = placeholder.strip_prefix('$').unwrap_or_default();
        if name.is_empty() {
            return Err(Box::new(EngineError::bad_request(
                "invalid_placeholder",
                format!("{placeholder:?} is no placeholder here: write $1, $2 ... or $name"),
            )));
        }
        let Some(value) = self.params.values.get(name) else {
            return Err(Box::new(EngineError::bad_request(
                "missing_parameter",
                format!(
                    "there is no value for {placeholder}: params has {}",
                    match self.params.values.len() {
                        0 => "no values".to_owned(),
                        1 => "1 value".to_owned(),
                        count => format!("{count} values"),
                    }
                ),
            )));
        };
        self.used.insert(name.to_owned());
        Ok(value.clone())
    }
}

impl VisitorMut for Binder<'_> {
    type Break = Box<EngineError>;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Value(literal) = expr
            && let Value::Placeholder(name) = &literal.value
        {
            let value = match self.value(name) {
                Ok(value) => value,
                Err(error) => return ControlFlow::Break(error),
            };
            let is_number = matches!(value, Value::Number(..));
            literal.value = value;
            if is_number {
                // In parentheses, because ORDER BY 1 is not what ORDER BY $1 says.
                let number = Expr::Value(literal.clone());
                *expr = Expr::Nested(Box::new(number));
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, literal: &mut ValueWithSpan) -> ControlFlow<Self::Break> {
        if let Value::Placeholder(name) = &literal.value {
            match self.value(name) {
                Ok(value) => literal.value = value,
                Err(error) => return ControlFlow::Break(error),
            }
        }
        ControlFlow::Continue(())
    }
}

/// One JSON value as a literal.
fn literal(name: &str, json: &str) -> Result<Value, EngineError> {
    match json.as_bytes().first() {
        Some(b'"') => Ok(Value::SingleQuotedString(read(name, json)?)),
        Some(b't' | b'f') => Ok(Value::Boolean(json == "true")),
        Some(b'n') => Ok(Value::Null),
        Some(b'[' | b'{') => Err(invalid(format!(
            "the value of ${name} in params is an array or an object: allowed are numbers, \
             strings, booleans and null"
        ))),
        _ => number(name, json),
    }
}

fn number(name: &str, json: &str) -> Result<Value, EngineError> {
    let is_integer = !json.contains(['.', 'e', 'E']);
    if is_integer {
        if json.parse::<i64>().is_err() && json.parse::<u64>().is_err() {
            return Err(invalid(format!(
                "the value of ${name} in params has more than 64 bits: send it as a string and \
                 write CAST(${name} AS DECIMAL(38, 0))"
            )));
        }
    } else if !json.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err(invalid(format!(
            "the value of ${name} in params is not within the range of a DOUBLE"
        )));
    }
    Ok(Value::Number(json.to_owned(), false))
}

fn read<'a, T: serde::Deserialize<'a>>(name: &str, json: &'a str) -> Result<T, EngineError> {
    serde_json::from_str(json).map_err(|error| {
        invalid(format!("the JSON of {name} is not valid: {error}")).because(error)
    })
}

fn invalid(message: String) -> EngineError {
    EngineError::bad_request("invalid_parameter", message)
}

#[cfg(test)]
mod tests;
