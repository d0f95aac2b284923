//! Filters of one column of text: a scan applies them itself, and reads the column as a
//! dictionary where the files have one.
//!
//! ```text
//!   projection ( text of dictionaries ) ◀─ filter ( per value ) ◀─ scan ( dictionaries )
//! ```

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::per_value::{AllOf, PerValue};
use crate::tables::physical_filter;

/// The column of text that is all that `filter` reads, if it says the same of the same value.
pub(crate) fn column_of(filter: &Expr, schema: &Schema) -> Option<usize> {
    let columns = filter.column_refs();
    let (Some(column), 1) = (columns.iter().next(), columns.len()) else {
        return None;
    };
    let index = schema.index_of(&column.name).ok()?;
    let is_text = *schema.field(index).data_type() == DataType::Utf8;
    (is_text && !filter.is_volatile() && is_plain(filter)).then_some(index)
}

/// Nothing in it comes from another query.
fn is_plain(filter: &Expr) -> bool {
    let mut plain = true;
    let looked = filter.apply(|node| {
        plain &= !matches!(
            node,
            Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::Exists(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
        );
        Ok(TreeNodeRecursion::Continue)
    });
    looked.is_ok() && plain
}

/// The filters of one scan that read text, by the column they read, and what is read for them.
pub(crate) struct TextFilters<'a> {
    filters: Vec<(Expr, usize)>,
    /// The table's columns.
    schema: &'a SchemaRef,
    /// The columns wanted of the table, then those that only the filters need.
    pub columns: Vec<usize>,
    wanted: usize,
}

impl<'a> TextFilters<'a> {
    /// `None` if none of the filters is one.
    pub fn of(filters: &[Expr], schema: &'a SchemaRef, wanted: &[usize]) -> Option<Self> {
        let text = filters.iter().filter_map(|filter| {
            let column = column_of(filter, schema)?;
            Some((filter.clone(), column))
        });
        let filters: Vec<(Expr, usize)> = text.collect();
        let mut columns = wanted.to_vec();
        for (_, column) in &filters {
            if !columns.contains(column) {
                columns.push(*column);
            }
        }
        (!filters.is_empty()).then_some(Self {
            filters,
            schema,
            columns,
            wanted: wanted.len(),
        })
    }

    /// The names of the columns that the filters read.
    pub fn names(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = Vec::new();
        for (_, column) in &self.filters {
            let name = self.schema.field(*column).name().as_str();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The filters over rows of `schema`, in which these columns are dictionaries.
    pub fn predicates(
        &self,
        state: &dyn Session,
        schema: &Schema,
        dictionaries: &[&str],
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        let predicate = |(filter, column): &(Expr, usize)| {
            let field = self.schema.field(*column);
            let one = Arc::new(Schema::new(vec![field.clone()]));
            let at = schema.index_of(field.name())?;
            let filter = std::slice::from_ref(filter);
            if !dictionaries.contains(&field.name().as_str()) {
                let schema = Arc::new(schema.clone());
                return physical_filter(state, &schema, filter);
            }
            let Some(predicate) = physical_filter(state, &one, filter)? else {
                return Ok(None);
            };
            let column = Arc::new(Column::new(field.name(), at));
            Ok(Some(
                Arc::new(PerValue::new(predicate, column)) as Arc<dyn PhysicalExpr>
            ))
        };
        let predicates = self
            .filters
            .iter()
            .filter_map(|it| predicate(it).transpose());
        predicates.collect()
    }

    /// The rows of `scan`, which has [`Self::columns`], that pass, and the columns wanted of them.
    pub fn applied(
        &self,
        state: &dyn Session,
        scan: Arc<dyn ExecutionPlan>,
        dictionaries: &[&str],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = scan.schema();
        let (cheap, others) = self
            .predicates(state, &schema, dictionaries)?
            .into_iter()
            .partition::<Vec<_>, _>(|predicate| predicate.is::<PerValue>());
        let cheap = (!cheap.is_empty()).then(|| Arc::new(AllOf(cheap)) as Arc<dyn PhysicalExpr>);
        let Some(predicate) = conjunction_opt(cheap.into_iter().chain(others)) else {
            return Ok(scan);
        };
        let passed = Arc::new(FilterExec::try_new(predicate, scan)?);
        as_text(passed, self.schema, &self.columns[..self.wanted])
    }
}

/// The first columns of a plan, which are these of the table, those read as dictionaries as text.
pub(crate) fn as_text(
    input: Arc<dyn ExecutionPlan>,
    schema: &SchemaRef,
    columns: &[usize],
) -> Result<Arc<dyn ExecutionPlan>> {
    let read = input.schema();
    let columns = columns.iter().enumerate().map(|(at, &column)| {
        let field = schema.field(column);
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
        let column = match read.field(at).data_type() == field.data_type() {
            true => column,
            false => Arc::new(CastExpr::new(column, field.data_type().clone(), None)),
        };
        (column, field.name().clone())
    });
    let columns = columns.collect::<Vec<_>>();
    Ok(Arc::new(ProjectionExec::try_new(columns, input)?))
}
