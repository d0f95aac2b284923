//! The memory of all recomputes together.
//!
//! A recompute holds its groups in one operator, then sorts them in the next. DataFusion's fair
//! pool gives every operator the same share, so that the one at work spills while the others hold
//! nothing. Here each that can spill is sure of a floor, and what is beyond the floors goes to
//! whoever asks first. What cannot spill has a part for itself and may take all; an operator gets
//! its floor even then, by which the limit may be exceeded: without any memory it could not even
//! spill.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytesize::ByteSize;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// The floor of an operator is the limit divided by this, and less where more of them share it.
const FLOORS: usize = 32;

/// What can spill leaves one part in so many to what cannot: the merging of what was spilled.
const KEPT: usize = 8;

/// The same of a small pool, up to [`KEPT_OF_SMALL_BYTES`]: merging needs some batches, however
/// little memory there is.
const KEPT_OF_SMALL: usize = 4;
const KEPT_OF_SMALL_BYTES: usize = 32 << 20;

/// What merging takes for a spilled file: two batches of a megabyte, which hold 8,192 wide states.
const MERGED_FILE_BYTES: usize = 2 << 20;

fn kept_bytes(limit_bytes: usize) -> usize {
    let of_small = (limit_bytes / KEPT_OF_SMALL).min(KEPT_OF_SMALL_BYTES);
    of_small.max(limit_bytes / KEPT)
}

/// What a sort sets aside for merging what it spilled, in a pool of so many bytes: DataFusion's
/// 10 MB, or what the floors leave of a small one.
pub fn sort_reservation_bytes(limit_bytes: usize) -> usize {
    (limit_bytes / FLOORS).min(10 << 20)
}

/// Spilled files that each of `sorts` may merge at a time: otherwise the first one takes all memory
/// for as many as it can, and the others have none for two.
pub fn spill_merge_fan_in(limit_bytes: usize, sorts: usize) -> usize {
    (kept_bytes(limit_bytes) / (sorts * MERGED_FILE_BYTES)).max(2)
}

/// See the module.
#[derive(Debug)]
pub struct BatchPool {
    limit_bytes: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    /// Bytes of each operator that can spill.
    spillable: HashMap<usize, usize>,
    /// The most that was held since each of them began.
    watches: HashMap<u64, usize>,
    last_watch: u64,
}

impl Held {
    fn grow(&mut self, consumer: &MemoryConsumer, additional: usize) {
        self.bytes += additional;
        if let Some(bytes) = self.spillable.get_mut(&consumer.id()) {
            *bytes += additional;
        }
        for most in self.watches.values_mut() {
            *most = self.bytes.max(*most);
        }
    }

    fn floor(&self, limit_bytes: usize) -> usize {
        limit_bytes / FLOORS.max(2 * self.spillable.len())
    }

    /// What an operator can have now, of what others are not sure of.
    fn free(&self, limit_bytes: usize, consumer: &MemoryConsumer) -> usize {
        let floor = self.floor(limit_bytes);
        let unheld = |bytes: &usize| floor.saturating_sub(*bytes);
        let others = self.spillable.iter();
        let others = others.filter(|(id, _)| consumer.can_spill() && **id != consumer.id());
        let owed: usize = others.map(|(_, bytes)| unheld(bytes)).sum();
        let own = self.spillable.get(&consumer.id());
        let unspillable = self.bytes.saturating_sub(self.spillable.values().sum());
        let kept = own.map_or(0, |_| kept_bytes(limit_bytes).saturating_sub(unspillable));
        limit_bytes
            .saturating_sub(self.bytes + owed + kept)
            .max(own.map_or(0, unheld))
    }
}

impl BatchPool {
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            held: Mutex::default(),
        }
    }

    /// Begins to watch how much is held at most.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let mut held = self.lock();
        held.last_watch += 1;
        let (id, bytes) = (held.last_watch, held.bytes);
        held.watches.insert(id, bytes);
        Watch {
            pool: Arc::clone(self),
            id,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`BatchPool::watch`].
pub struct Watch {
    pool: Arc<BatchPool>,
    id: u64,
}

impl Watch {
    /// The most bytes that were held at a time since it began.
    pub fn most(&self) -> usize {
        let held = self.pool.lock();
        held.watches.get(&self.id).copied().unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.pool.lock().watches.remove(&self.id);
    }
}

impl Display for BatchPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "batch memory of {}", ByteSize(self.limit_bytes as u64))
    }
}

impl MemoryPool for BatchPool {
    fn name(&self) -> &str {
        "batch"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.lock().spillable.insert(consumer.id(), 0);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.lock().spillable.remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.lock().grow(reservation.consumer(), additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut held = self.lock();
        held.bytes = held.bytes.saturating_sub(shrink);
        if let Some(bytes) = held.spillable.get_mut(&reservation.consumer().id()) {
            *bytes = bytes.saturating_sub(shrink);
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut held = self.lock();
        let consumer = reservation.consumer();
        let free = held.free(self.limit_bytes, consumer);
        if additional > free {
            let shown = |bytes: usize| ByteSize(bytes as u64);
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{} holds {} and wants {} more, and {} of the {self} are free",
                consumer.name(),
                shown(reservation.size()),
                shown(additional),
                shown(free),
            )));
        }
        held.grow(consumer, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.lock().bytes
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_share_what_is_kept_for_merging() {
        for (limit_bytes, sorts, files) in [
            (1 << 30, 2, 32),
            (1 << 30, 64, 2),
            (256 << 20, 2, 8),
            (64 << 20, 2, 4),
            (1 << 10, 1, 2),
        ] {
            assert_eq!(
                spill_merge_fan_in(limit_bytes, sorts),
                files,
                "{limit_bytes}"
            );
        }
    }

    #[test]
    fn one_takes_what_the_others_do_not_hold_but_their_floors() -> Result<()> {
        // Of which 900 are kept for what cannot spill.
        let batch = Arc::new(BatchPool::new(3_600));
        let pool: Arc<dyn MemoryPool> = Arc::clone(&batch) as _;
        let whole = batch.watch();
        let spiller = |name: &str| {
            let consumer = MemoryConsumer::new(name).with_can_spill(true);
            consumer.register(&pool)
        };
        let (groups, sort) = (spiller("groups"), spiller("sort"));
        let merge = MemoryConsumer::new("merge").register(&pool);
        // All but that and the floor of the sort, a 32nd.
        groups.try_grow(2_588)?;
        assert!(groups.try_grow(1).is_err());
        sort.try_grow(112)?;
        let error = sort.try_grow(1).expect_err("no more").to_string();
        assert!(
            error.contains("sort holds 112 B and wants 1 B more"),
            "{error}"
        );
        assert!(error.contains("batch memory of 3.5 KiB"), "{error}");
        merge.try_grow(900)?;
        assert!(merge.try_grow(1).is_err());
        // Whoever comes when all is taken still has a floor.
        let late = spiller("late");
        late.try_grow(112)?;
        assert!(late.try_grow(1).is_err());
        // What is given back goes to whoever asks, also to what cannot spill.
        groups.shrink(2_112);
        let later = batch.watch();
        assert_eq!((whole.most(), later.most()), (3_712, 1_600));
        merge.try_grow(1_000)?;
        sort.try_grow(1_000)?;
        assert!(sort.try_grow(1).is_err() && merge.try_grow(1).is_err());
        drop(groups);
        assert_eq!((whole.most(), later.most()), (3_712, 3_600));
        sort.try_grow(476)?;
        assert_eq!(pool.reserved(), 3_600);
        drop((sort, merge, late));
        assert_eq!(pool.reserved(), 0);
        Ok(())
    }
}
