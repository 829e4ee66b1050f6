//! A watchdog device: resets the machine unless it is petted.
//!
//! From its opening on it must be petted within its timeout, 60 s with most drivers. A `V` before
//! it is closed stops it, unless the driver was told never to stop
//! (the kernel's `Documentation/watchdog/watchdog-api.rst`).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

/// An open watchdog.
#[derive(Debug)]
pub(super) struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Opens it, which starts it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let device = OpenOptions::new().write(true).open(path);
        let device = device.map_err(|error| {
            let reason = format!("the watchdog {} cannot be opened: {error}", path.display());
            io::Error::new(error.kind(), reason)
        })?;
        Ok(Self { device })
    }

    /// Says that all is well.
    pub(super) fn pet(&mut self) {
        if let Err(error) = self.device.write_all(b"\0") {
            tracing::error!(%error, "the watchdog cannot be petted");
        }
    }

    /// Stops it: this agent ends in order.
    pub(super) fn close(mut self) {
        if let Err(error) = self.device.write_all(b"V") {
            tracing::error!(%error, "the watchdog cannot be stopped; it will reset this machine");
        }
    }
}
