//! The terminal of `airlock run -t`: the console's terminal port behind a line discipline.
//!
//! The console driver gives every byte that arrives to [`Terminal::received`], whether or not a
//! program is reading, so that Ctrl-C reaches a program that is busy.

use super::services::services;
use super::stream::{Events, Stream};
use super::tty::{Demand, Discipline, Termios, WindowSize};
use crate::errno::{Errno, Result};
use crate::memory::{UserPtr, UserReader, UserWriter};
use crate::sched::{self, WaitQueue};
use crate::sync::SpinLock;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use linux_raw_sys::ioctl::{
    FIONREAD, TCFLSH, TCGETS, TCSBRK, TCSETS, TCSETSF, TCSETSW, TCXONC, TIOCGPGRP, TIOCGSID,
    TIOCGWINSZ, TIOCSCTTY, TIOCSPGRP, TIOCSWINSZ,
};

/// VTIME counts tenths of a second.
const TENTH_NS: u64 = 100_000_000;

/// Bytes of a program that are turned into what the screen shows at once; there they may be twice as many.
const OUTPUT_STEP: usize = 1024;
/// Bytes that a read takes at most at once: more than the line discipline keeps.
const INPUT_STEP: usize = 4096;

/// A terminal.
pub struct Terminal {
    discipline: SpinLock<Discipline>,
    size: SpinLock<WindowSize>,
    /// Foreground process group: it gets the signals.
    group: AtomicI32,
    /// Whether there is a terminal at all.
    present: AtomicBool,
    readable: WaitQueue,
}

/// The only one, and every program's controlling terminal.
pub static CONTROLLING: Terminal = Terminal {
    discipline: SpinLock::new(Discipline::new()),
    size: SpinLock::new(WindowSize { rows: 0, columns: 0, width: 0, height: 0 }),
    group: AtomicI32::new(0),
    present: AtomicBool::new(false),
    readable: WaitQueue::new(),
};

/// What the arrival of input leads to.
#[derive(Default)]
pub struct Received {
    /// To be written to the terminal.
    pub echo: Vec<u8>,
    /// Signals for the foreground process group, in the order of the keys.
    pub signals: Vec<u32>,
}

impl Terminal {
    /// Says that there is a terminal, of this size, whose foreground process group is `group`.
    pub fn attach(&self, size: WindowSize, group: i32) {
        *self.size.lock() = size;
        self.group.store(group, Ordering::Relaxed);
        self.present.store(true, Ordering::Release);
    }

    /// Whether there is a terminal.
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Acquire)
    }

    /// The foreground process group.
    pub fn foreground(&self) -> i32 {
        self.group.load(Ordering::Relaxed)
    }

    /// Takes bytes that the user typed.
    pub fn received(&self, bytes: &[u8]) -> Received {
        let mut result = Received::default();
        let mut discipline = self.discipline.lock();
        for &byte in bytes {
            result.signals.extend(discipline.input(byte, &mut result.echo));
        }
        drop(discipline);
        self.readable.wake_all();
        result
    }

    /// Notes that the window's size changed; returns whether it did (then SIGWINCH is due).
    pub fn resized(&self, size: WindowSize) -> bool {
        let mut current = self.size.lock();
        core::mem::replace(&mut *current, size) != size
    }

    /// How many bytes [`Self::received`] can take now.
    pub fn room(&self) -> usize {
        self.discipline.lock().room()
    }

    /// Nobody is at the other side any more.
    pub fn hang_up(&self) {
        self.discipline.lock().hang_up();
        self.readable.wake_all();
    }

    /// Waits until a read of `len` bytes may return.
    fn wait_for_input(&self, len: usize, wait: bool) -> Result<()> {
        loop {
            let (demand, before) = {
                let discipline = self.discipline.lock();
                (discipline.demand(len), discipline.readable_bytes())
            };
            let deadline = match demand {
                Demand::Ready => return Ok(()),
                // Less than VMIN is better than nothing to whoever does not wait.
                Demand::InputWithin(_) if !wait && before > 0 => return Ok(()),
                _ if !wait => return Err(Errno::EAGAIN),
                Demand::Input => None,
                Demand::InputWithin(tenths) => {
                    let now = services().ok_or(Errno::EIO)?.monotonic_ns();
                    Some(now + u64::from(tenths) * TENTH_NS)
                }
            };
            let changed = || {
                let discipline = self.discipline.lock();
                let ready = discipline.demand(len) == Demand::Ready;
                (ready || discipline.readable_bytes() != before).then_some(())
            };
            if sched::wait(&[&self.readable], deadline, changed)?.is_none() {
                return Ok(());
            }
        }
    }

    /// There may be room for more of what the user typed.
    fn listen(&self) {
        if let Some(services) = services() {
            services.terminal_listen();
        }
    }
}

impl Stream for Terminal {
    fn read(&self, buffer: &mut UserWriter, wait: bool) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        let len = buffer.remaining().min(INPUT_STEP);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(len, 0);
        self.wait_for_input(len, wait)?;
        let count = self.discipline.lock().take(&mut bytes);
        self.listen();
        buffer.write_slice(&bytes[..count])
    }

    fn write(&self, data: &mut UserReader, wait: bool) -> Result<usize> {
        let mut done = 0;
        while data.remaining() > 0 {
            let mut bytes = [0; OUTPUT_STEP];
            let step =
                data.read(&mut bytes).and_then(|count| self.write_kernel(&bytes[..count], wait));
            match step {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn write_kernel(&self, bytes: &[u8], wait: bool) -> Result<usize> {
        let moving = || (!self.discipline.lock().is_stopped()).then_some(());
        if moving().is_none() {
            if !wait {
                return Err(Errno::EAGAIN);
            }
            sched::wait(&[&self.readable], None, moving)?;
        }
        let mut screen = Vec::new();
        screen.try_reserve(2 * bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.discipline.lock().output(bytes, &mut screen);
        services().ok_or(Errno::EIO)?.terminal_write(&screen, wait)?;
        Ok(bytes.len())
    }

    fn poll(&self) -> Events {
        let discipline = self.discipline.lock();
        let output = Events::OUT.when(!discipline.is_stopped());
        output.with(Events::IN.when(discipline.is_readable()))
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.readable)
    }

    fn open_error(&self) -> Option<Errno> {
        (!self.is_present()).then_some(Errno::ENXIO)
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<i32> {
        match request {
            TCGETS => {
                let termios = *self.discipline.lock().termios();
                UserPtr::<Termios>::new(argument).write(termios)?;
            }
            TCSETS | TCSETSW | TCSETSF => {
                let termios = UserPtr::<Termios>::new(argument).read()?;
                self.discipline.lock().set_termios(termios, request == TCSETSF);
                self.readable.wake_all();
                self.listen();
            }
            TIOCGWINSZ => {
                let size = *self.size.lock();
                UserPtr::<WindowSize>::new(argument).write(size)?;
            }
            TIOCSWINSZ => {
                let size = UserPtr::<WindowSize>::new(argument).read()?;
                *self.size.lock() = size;
            }
            FIONREAD => {
                let count = self.discipline.lock().readable_bytes();
                let count = i32::try_from(count).unwrap_or(i32::MAX);
                UserPtr::<i32>::new(argument).write(count)?;
            }
            TIOCGPGRP | TIOCGSID => UserPtr::<i32>::new(argument).write(self.foreground())?,
            TIOCSPGRP => {
                let group = UserPtr::<i32>::new(argument).read()?;
                if group < 0 {
                    return Err(Errno::EINVAL);
                }
                self.group.store(group, Ordering::Relaxed);
            }
            // TCIFLUSH, TCIOFLUSH: what was typed is dropped; output is never kept here.
            TCFLSH if argument == 0 || argument == 2 => {
                self.discipline.lock().flush_input();
                self.listen();
            }
            TCFLSH if argument == 1 => {}
            // TCOOFF and TCOON.
            TCXONC if argument <= 1 => {
                self.discipline.lock().stop(argument == 0);
                self.readable.wake_all();
            }
            // There is no line to break, output is gone when write returns, and it already is the
            // controlling terminal.
            TCSBRK | TIOCSCTTY => {}
            TCFLSH | TCXONC => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
