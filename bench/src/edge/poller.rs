//! epoll and a timer that knows microseconds, for generator and origin: level-triggered, so that
//! one read or write per event is enough.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

/// Key of the timer; connections have others.
const TIMER: u64 = u64::MAX;
/// Events taken at a time.
const EVENTS: usize = 256;
/// Longest wait: how soon a stop is heard.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// See the module.
pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: bool,
}

/// What is ready; belongs to the thread that waits.
pub(super) struct Ready {
    events: Vec<Event>,
    /// Keys, each with whether it can be read.
    pub(super) keys: Vec<(usize, bool)>,
}

impl Ready {
    pub(super) fn new() -> Self {
        // The kernel may else make several timers one, up to 50 us late (prctl(2)); without it
        // the load is a little late.
        let _best_effort = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        Self {
            events: Vec::with_capacity(EVENTS),
            keys: Vec::new(),
        }
    }
}

/// What a socket is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    Read,
    Write,
    Both,
}

impl Watch {
    fn flags(self) -> EventFlags {
        match self {
            Self::Read => EventFlags::IN,
            Self::Write => EventFlags::OUT,
            Self::Both => EventFlags::IN | EventFlags::OUT,
        }
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self {
            epoll,
            timer,
            armed: false,
        })
    }

    pub(super) fn add(&self, socket: impl AsFd, key: usize, watch: Watch) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, data(key), watch.flags())?)
    }

    pub(super) fn change(&self, socket: impl AsFd, key: usize, watch: Watch) -> io::Result<()> {
        Ok(epoll::modify(
            &self.epoll,
            socket,
            data(key),
            watch.flags(),
        )?)
    }

    /// Ends the next wait after this long.
    pub(super) fn alarm(&mut self, after: Duration) -> io::Result<()> {
        let nanos = i64::from(after.subsec_nanos());
        let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
        // Nothing at all would disarm it.
        let value = Timespec {
            tv_sec: seconds,
            tv_nsec: if seconds == 0 { nanos.max(1) } else { nanos },
        };
        let never = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval: never,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        self.armed = true;
        Ok(())
    }

    /// Waits until something is ready, an alarm is due, or some ms are over.
    pub(super) fn wait(&mut self, ready: &mut Ready) -> io::Result<()> {
        ready.events.clear();
        ready.keys.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut ready.events), Some(&WAIT)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &ready.events {
            let (key, flags) = (event.data.u64(), event.flags);
            if key != TIMER {
                let readable = EventFlags::IN | EventFlags::HUP | EventFlags::ERR;
                let key = usize::try_from(key).unwrap_or(usize::MAX);
                ready.keys.push((key, flags.intersects(readable)));
            } else if self.armed {
                let mut count = [0; 8];
                // Read so that it is quiet again; what it counts is of no interest.
                let _quiet = rustix::io::read(&self.timer, &mut count);
                self.armed = false;
            }
        }
        Ok(())
    }
}

fn data(key: usize) -> EventData {
    EventData::new_u64(key as u64)
}
