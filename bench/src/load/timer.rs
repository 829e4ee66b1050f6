//! The timer of the generators: a timerfd, because the runtime's own has a resolution of a
//! millisecond, which would be the floor of every latency.

use std::{io, time::Duration};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::unix::pipe;

/// A timer that fires oftener than this costs more than it gives.
const TICK_MIN: Duration = Duration::from_micros(200);

/// A periodic timer of the kernel.
pub(crate) struct Timer {
    /// A timerfd reads like a pipe, and this is the runtime's safe way to await one.
    descriptor: pipe::Receiver,
}

impl Timer {
    /// One that fires `rate` times a second, or as often as pays.
    ///
    /// # Errors
    /// The kernel gives none.
    pub(crate) fn new(rate: u32) -> io::Result<Self> {
        let tick = (Duration::from_secs(1) / rate.max(1)).max(TICK_MIN);
        let tick = Timespec {
            tv_sec: i64::try_from(tick.as_secs()).unwrap_or(1),
            tv_nsec: tick.subsec_nanos().into(),
        };
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let periodic = Itimerspec {
            it_interval: tick,
            it_value: tick,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &periodic)?;
        let descriptor = pipe::Receiver::from_owned_fd_unchecked(timer)?;
        Ok(Self { descriptor })
    }

    /// Waits until it has fired since the last call, once or oftener.
    pub(crate) async fn tick(&self) -> io::Result<()> {
        loop {
            // Room for more than the eight bytes of a count: a short read tells the runtime
            // that nothing is left, which saves it a second one.
            self.descriptor.readable().await?;
            match self.descriptor.try_read(&mut [0_u8; 16]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}
