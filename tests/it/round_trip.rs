//! What goes in comes out equal, on the real binary: every input format that can carry a value
//! against every output format, from the tail, from the log after a kill, and from the master
//! dataset.
//!
//! ```text
//!   Table of Cells ─▶ body (ndjson, json, csv, arrow, parquet) ─▶ the binary
//!        ║                                                            │
//!        ╚══ equal ══ Cells ◀── answer (json, ndjson, csv, arrow, parquet)
//! ```
//!
//! Bodies are written and answers are read here, without the engine's own parsers and encoders.

mod answer;
mod body;
mod cell;
mod foreign_types;
mod naughty;
mod nested;
mod table;

use cell::Cell;
use table::Table;

/// The formats of bodies that carry every type.
const INPUTS: [&str; 5] = ["ndjson", "json", "csv", "arrow", "parquet"];

/// The formats of answers that a program reads.
const OUTPUTS: [&str; 5] = ["json", "ndjson", "csv", "arrow", "parquet"];
