//! Ctrl-C while a query runs ends the query and not the shell.
//!
//! While somebody types, the line editor gets the key itself. At any other time it is a signal;
//! a thread waits for it and closes the connection of the query that is being watched, which
//! makes the server cancel it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cli::client::Canceller;
use crate::cli::interrupt::on_interrupt;

/// Knows the query that Ctrl-C would end.
#[derive(Default)]
pub struct Interrupt {
    /// A plain mutex: held for a moment by the shell and by the waiting thread.
    running: Mutex<Option<Canceller>>,
    is_raised: AtomicBool,
}

impl Interrupt {
    /// Takes over the signal for the rest of this process.
    pub fn install() -> io::Result<Arc<Interrupt>> {
        let interrupt = Arc::new(Interrupt::default());
        let told = Arc::clone(&interrupt);
        on_interrupt(move || told.raise())?;
        Ok(interrupt)
    }

    fn raise(&self) {
        if let Some(canceller) = self.running().take() {
            self.is_raised.store(true, Ordering::SeqCst);
            canceller.cancel();
        }
    }

    /// Until the guard is dropped, Ctrl-C cancels this.
    pub fn watch(&self, canceller: Canceller) -> Watch<'_> {
        *self.running() = Some(canceller);
        Watch(self)
    }

    /// Whether something was cancelled since this was last asked.
    pub fn take_raised(&self) -> bool {
        self.is_raised.swap(false, Ordering::SeqCst)
    }

    fn running(&self) -> MutexGuard<'_, Option<Canceller>> {
        // An Option is whole whatever panicked while it was locked.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that Ctrl-C cancels.
pub struct Watch<'a>(&'a Interrupt);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.running() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::Client;

    #[test]
    fn only_what_is_watched_is_cancelled() {
        let interrupt = Interrupt::default();
        let client = Client::new(&"http://127.0.0.1:9".parse().unwrap());
        drop(interrupt.watch(client.canceller()));
        interrupt.raise();
        assert!(!interrupt.take_raised());

        let watch = interrupt.watch(client.canceller());
        interrupt.raise();
        drop(watch);
        assert!(interrupt.take_raised());
        assert!(!interrupt.take_raised());
        let url = client.url(&["health"], &[]);
        assert!(client.get(&url).is_err());
    }
}
