//! `date_trunc` of times in UTC, which is DataFusion's, without a calendar.
//!
//! DataFusion cuts hours and days off by arithmetic only if a time has no zone; with a zone it
//! asks a calendar for each value, which costs some 200 ns. In UTC both say the same. So the zone
//! is taken off first and put back.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, make_array};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

/// DataFusion's scalar functions, with ours in the place of that of the same name.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = SessionStateDefaults::default_scalar_functions();
    for function in &mut functions {
        if function.name() == "date_trunc" {
            let like = Arc::clone(function);
            *function = Arc::new(ScalarUDF::new_from_impl(DateTrunc { like }));
        }
    }
    functions
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    like: Arc<ScalarUDF>,
}

/// The type without its zone, if that is UTC.
fn without_zone(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, Some(zone)) if matches!(&**zone, "UTC" | "+00:00" | "Z") => {
            Some(DataType::Timestamp(*unit, None))
        }
        _ => None,
    }
}

/// The same values as another type of the same width.
fn called(values: &ArrayRef, data_type: DataType) -> Result<ArrayRef> {
    let data = values.to_data().into_builder().data_type(data_type);
    Ok(make_array(data.build()?))
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.like.name()
    }

    fn aliases(&self) -> &[String] {
        self.like.aliases()
    }

    fn signature(&self) -> &Signature {
        self.like.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.like.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        self.like.return_field_from_args(arguments)
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let times = match arguments.args.get(1) {
            Some(ColumnarValue::Array(times)) => Arc::clone(times),
            _ => return self.like.invoke_with_args(arguments),
        };
        let Some(plain) = without_zone(times.data_type()) else {
            return self.like.invoke_with_args(arguments);
        };
        arguments.args[1] = ColumnarValue::Array(called(&times, plain.clone())?);
        let field =
            |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain.clone()));
        arguments.arg_fields[1] = field(&arguments.arg_fields[1]);
        arguments.return_field = field(&arguments.return_field);
        let rows = arguments.number_rows;
        let cut = self.like.invoke_with_args(arguments)?.into_array(rows)?;
        Ok(ColumnarValue::Array(called(
            &cut,
            times.data_type().clone(),
        )?))
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.like.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.like.documentation()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::TimestampMicrosecondArray;
    use datafusion::arrow::compute::cast;
    use datafusion::arrow::datatypes::{Field, TimeUnit};
    use datafusion::common::ScalarValue;
    use datafusion::common::config::ConfigOptions;

    use super::*;

    fn date_trunc(functions: Vec<Arc<ScalarUDF>>) -> Arc<ScalarUDF> {
        let found = functions.into_iter().find(|it| it.name() == "date_trunc");
        found.expect("the function")
    }

    fn cut(function: &ScalarUDF, unit: &str, times: &ArrayRef) -> ArrayRef {
        let field: FieldRef = Arc::new(Field::new("times", times.data_type().clone(), true));
        let arguments = ScalarFunctionArgs {
            args: vec![
                ColumnarValue::Scalar(ScalarValue::from(unit)),
                ColumnarValue::Array(Arc::clone(times)),
            ],
            arg_fields: vec![
                Arc::new(Field::new("unit", DataType::Utf8, false)),
                Arc::clone(&field),
            ],
            number_rows: times.len(),
            return_field: field,
            config_options: Arc::new(ConfigOptions::default()),
        };
        let answer = function.invoke_with_args(arguments).expect("an answer");
        answer.into_array(times.len()).expect("an array")
    }

    #[test]
    fn times_in_utc_are_cut_as_datafusion_cuts_them() {
        let ours = date_trunc(scalar_functions());
        let theirs = date_trunc(SessionStateDefaults::default_scalar_functions());
        let day = 86_400_000_000;
        let micros = TimestampMicrosecondArray::from_iter(
            (-400..400).map(|n| (n % 7 != 0).then_some(n * day / 3 + n * 61_000_001)),
        );
        for zone in ["UTC", "+00:00", "Europe/Zurich"] {
            let micros: ArrayRef = Arc::new(micros.clone().with_timezone(zone));
            for scale in [
                TimeUnit::Second,
                TimeUnit::Millisecond,
                TimeUnit::Microsecond,
            ] {
                let times = DataType::Timestamp(scale, Some(zone.into()));
                let times = cast(&micros, &times).expect("times").slice(1, 790);
                for unit in [
                    "second", "minute", "HOUR", "day", "week", "month", "quarter", "year",
                ] {
                    let (ours, theirs) = (cut(&ours, unit, &times), cut(&theirs, unit, &times));
                    assert_eq!(ours.data_type(), times.data_type());
                    assert_eq!(&ours, &theirs, "{unit} of {times:?}");
                }
            }
        }
    }
}
