//! The main thread's event loop: device files, signals, the time limit and the end.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::config::Outcome;
use crate::devices::virtio::console::Console;
use crate::devices::virtio::mmio::Transport;
use crate::devices::virtio::{Device, Notify};
use crate::ending::Ending;
use crate::error::Error;

/// Signals that end the machine, unless the program wants to hear of them.
const TERMINATING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// A device that the event loop and the vCPUs share.
pub type Shared<D> = Arc<Mutex<Transport<D, EventFd, EventFd>>>;

/// Serves a device when it asks to be attended to, or a file is ready that it waits for.
struct Attendant<D: Device> {
    device: Shared<D>,
    wake: EventFd,
    watched: BTreeMap<RawFd, EventSet>,
}

impl<D: Device> Attendant<D> {
    /// Watches what the device waits for, and nothing else: a file that hung up is always ready.
    fn watch(&mut self, transport: &mut Transport<D, EventFd, EventFd>, ops: &mut EventOps<'_>) {
        let wanted: BTreeMap<RawFd, EventSet> =
            transport.device().interests().into_iter().collect();
        let watched = &mut self.watched;
        watched.retain(|file, set| {
            let keep = wanted.get(file) == Some(set);
            if !keep {
                let _ = ops.remove(Events::empty_raw(*file));
            }
            keep
        });
        for (file, set) in wanted {
            if watched.contains_key(&file) {
                continue;
            }
            if ops.add(Events::new_raw(file, set)).is_ok() {
                watched.insert(file, set);
            } else {
                // epoll takes no regular files (EPERM), and is not needed for them.
                transport.device_mut().cannot_wait(file);
                self.wake.notify();
            }
        }
    }
}

impl<D: Device> MutEventSubscriber for Attendant<D> {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // A fresh epoll instance takes a fresh eventfd.
        let _ = ops.add(Events::new(&self.wake, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let device = Arc::clone(&self.device);
        let mut transport = device.lock().unwrap_or_else(PoisonError::into_inner);
        if events.fd() == self.wake.as_raw_fd() {
            let _ = self.wake.read();
            transport.attend();
        } else {
            transport.file_ready(events.fd());
        }
        self.watch(&mut transport, ops);
    }
}

/// Hears of signals and of the end.
struct Overseer {
    signals: Option<SignalFile>,
    console: Shared<Console>,
    ending: Arc<crate::vcpu::Vcpus>,
}

impl Overseer {
    fn ending(&self) -> &Ending {
        &self.ending.ending
    }

    fn signal(&self, number: u8) {
        let mut console = self.console.lock().unwrap_or_else(PoisonError::into_inner);
        if libc::c_int::from(number) == libc::SIGWINCH {
            if let Some((columns, rows)) = window_size() {
                console.change(|console, queues| {
                    console.resize(columns, rows) && console.announce_size(queues).is_ok()
                });
            }
            return;
        }
        let mut delivered = false;
        console.change(|console, queues| {
            delivered = console.signal(number, queues).unwrap_or(false);
            false
        });
        if !delivered {
            self.ending().end(Ok(Outcome::Interrupted(number)));
        }
    }
}

impl MutEventSubscriber for Overseer {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        // A fresh epoll instance takes fresh files.
        let _ = ops.add(Events::new(self.ending().event(), EventSet::IN));
        if let Some(signals) = &self.signals {
            let _ = ops.add(Events::new(&signals.file, EventSet::IN));
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if let Some(signals) = &self.signals
            && events.fd() == signals.file.as_raw_fd()
            && let Some(number) = signals.read()
        {
            self.signal(number);
        }
    }
}

/// Whether a signal is ignored by this process.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: there is room for the structure, and nothing is changed.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: only looked at if the call filled it in.
    result == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Signals as a file, blocked otherwise until this is dropped.
pub struct SignalFile {
    file: OwnedFd,
    before: libc::sigset_t,
}

impl SignalFile {
    /// Blocks the signals in this thread, and in those that it will create; but for those that whoever started
    /// the command wants to be ignored, as nohup(1) does, and shells for what runs in the background.
    ///
    /// # Errors
    ///
    /// When the host has no more file descriptors.
    pub fn new(terminal: bool) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set, sigaddset takes numbers of signals that exist.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in TERMINATING.into_iter().filter(|&signal| !is_ignored(signal)) {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if terminal {
                libc::sigaddset(set.as_mut_ptr(), libc::SIGWINCH);
            }
            set.assume_init()
        };
        // SAFETY: the set is initialised.
        let file =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd returned a new file that nobody else owns.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the first set is initialised, the second has room; with valid arguments the call succeeds.
        let before = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr());
            before.assume_init()
        };
        Ok(Self { file, before })
    }

    /// The next signal that has come.
    fn read(&self) -> Option<u8> {
        let mut information = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: there is room for one whole record, which is what signalfd writes.
        let count =
            unsafe { libc::read(self.file.as_raw_fd(), information.as_mut_ptr().cast(), size) };
        if usize::try_from(count) != Ok(size) {
            return None;
        }
        // SAFETY: a whole record was written.
        let number = unsafe { information.assume_init() }.ssi_signo;
        u8::try_from(number).ok()
    }
}

impl Drop for SignalFile {
    fn drop(&mut self) {
        // SAFETY: the set is the one that pthread_sigmask filled in.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

/// Columns and rows of the terminal on standard input.
pub fn window_size() -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: there is room for the structure that TIOCGWINSZ fills in.
    let result = unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: only looked at if the call filled it in.
    (result == 0).then(|| unsafe { size.assume_init() }).map(|size| (size.ws_col, size.ws_row))
}

/// The loop, before it runs.
pub struct EventLoop {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
}

impl EventLoop {
    /// Few files can be ready at once.
    const READY: usize = 16;

    /// A loop that watches signals and the end.
    ///
    /// # Errors
    ///
    /// When the host has no more file descriptors.
    pub fn new(
        vcpus: Arc<crate::vcpu::Vcpus>,
        console: Shared<Console>,
        signals: SignalFile,
    ) -> Result<Self, Error> {
        let failed = |error: event_manager::Error| Error::Host {
            doing: "create the event loop",
            source: io::Error::other(error.to_string()),
        };
        let mut manager: EventManager<Box<dyn MutEventSubscriber>> =
            EventManager::new_with_capacity(Self::READY).map_err(failed)?;
        manager.add_subscriber(Box::new(Overseer {
            signals: Some(signals),
            console,
            ending: vcpus,
        }));
        Ok(Self { manager })
    }

    /// Attends to a device whenever `wake` is written.
    pub fn attend<D: Device + 'static>(&mut self, device: Shared<D>, wake: EventFd) {
        self.manager.add_subscriber(Box::new(Attendant { device, wake, watched: BTreeMap::new() }));
    }

    /// Runs until the machine ends, or the time is up.
    pub fn run(&mut self, ending: &Ending, timeout: Option<Duration>) {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        while !ending.has_ended() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                ending.end(Ok(Outcome::TimedOut));
                break;
            }
            // Rounded up, so as not to spin through the last millisecond.
            let wait =
                left.map_or(-1, |left| i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX));
            if let Err(error) = self.manager.run_with_timeout(wait) {
                let source = io::Error::other(error.to_string());
                ending.end(Err(Error::Host { doing: "wait for events", source }));
            }
        }
    }
}
