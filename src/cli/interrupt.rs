//! Ctrl-C as something to do, instead of the end of the process.

use std::io;

/// Has `act` called at each Ctrl-C, on a thread of its own, for the rest of this process.
pub fn on_interrupt(act: impl Fn() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _inside = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                while signals.recv().await.is_some() {
                    act();
                }
            });
        })?;
    Ok(())
}
