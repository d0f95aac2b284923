//! Vocabulary and storage: events, cuts, schemas, the disk, the log, the master dataset and
//! the publication log.
//!
//! This crate knows no views, no HTTP and no threads of its own; everything in it is called
//! by the layers above. It depends on no other crate of the workspace.

pub mod bounds;
mod checked;
pub mod clock;
pub mod cut;
pub mod delta;
pub mod dictionaries;
pub mod digest;
pub mod disk;
pub mod error;
pub mod files;
pub mod footers;
pub mod input;
pub mod keys;
pub mod log;
pub mod master;
pub mod offsets;
pub mod parquet_files;
pub mod publication;
mod read_only;
pub mod scan;
pub mod schema;
pub mod sim;
pub mod store;
pub mod tail;
pub mod through;
pub mod widen;

pub use clock::{Clock, SystemClock};
pub use cut::{Cut, CutRange, Position};
pub use digest::{Digest, Digester};
pub use disk::Disk;
pub use error::{DataError, Result};
