//! The console's terminal port and the line discipline, connected.
//!
//! A buffer for what the user types is always with the device while the line discipline has room, so that
//! Ctrl-C reaches a program that does not read. Nothing waits here on behalf of the user: an echo goes
//! to the screen when the device is free, whoever notices that first.

use super::console;
use crate::errno::{Errno, Result};
use crate::fs::terminal::CONTROLLING;
use crate::fs::tty::WindowSize;
use crate::memory::PAGE_SIZE;
use crate::memory::frame::{Content, Frame};
use crate::process::{self, Pid};
use crate::sched::wait;
use crate::signal::{Information, number};
use crate::sync::SpinLock;
use airlock_abi::console::PORT_TERMINAL;
use alloc::collections::VecDeque;

/// Typed bytes that are taken at once.
const INPUT_STEP: usize = 256;
/// Echoes that wait for the screen; further ones are dropped, as on Linux.
const ECHO_LIMIT: usize = 2 * PAGE_SIZE;
/// `SI_KERNEL`.
const SI_KERNEL: i32 = 0x80;

/// The way to the screen.
struct Screen {
    /// What the device is given; made with the first output.
    page: Option<Frame>,
    /// The device has the page.
    busy: bool,
    /// To be shown when the device is free.
    echo: VecDeque<u8>,
    /// What the host said about the last page, if it was an error.
    error: Option<Errno>,
}

static SCREEN: SpinLock<Screen> =
    SpinLock::new(Screen { page: None, busy: false, echo: VecDeque::new(), error: None });

impl Screen {
    fn start(&mut self, bytes: &[u8]) -> Result<()> {
        let page = match self.page.take() {
            Some(page) => page,
            None => Frame::allocate_from_reserve(Content::Overwritten)?,
        };
        let len = page.write(0, bytes);
        let started = console::start_page(PORT_TERMINAL, &page, len);
        self.page = Some(page);
        self.busy = started.is_ok();
        started
    }

    /// Takes the page back if the device has finished, and shows what waits; says whether the device is
    /// free.
    fn settle(&mut self) -> bool {
        loop {
            if self.busy {
                let Some(result) = console::finish_page(PORT_TERMINAL) else { return false };
                self.busy = false;
                self.error = result.err();
            }
            if self.echo.is_empty() || CONTROLLING.is_stopped() {
                return true;
            }
            let mut bytes = [0; INPUT_STEP];
            let count = self.echo.len().min(bytes.len());
            for (target, byte) in bytes.iter_mut().zip(self.echo.drain(..count)) {
                *target = byte;
            }
            if self.start(&bytes[..count]).is_err() {
                // There is no way to show it.
                self.echo.clear();
            }
        }
    }
}

fn size() -> WindowSize {
    let (columns, rows) = console::window_size().unwrap_or((0, 0));
    WindowSize { rows, columns, width: 0, height: 0 }
}

/// Makes the console's terminal port the terminal of the first program.
pub fn start() {
    CONTROLLING.attach(size(), process::FIRST);
    listen();
}

/// The console interrupted: something was typed or shown, or the window has a new size.
pub fn interrupt(configuration_changed: bool) {
    if configuration_changed && CONTROLLING.resized(size()) {
        signal(CONTROLLING.foreground(), number::SIGWINCH);
    }
    listen();
}

/// Takes what was typed, as much as the line discipline has room for, and asks for more.
pub fn listen() {
    if CONTROLLING.is_present() {
        take_typed();
        SCREEN.lock().settle();
    }
}

/// Whoever takes what was typed: keys stay in order, and each is there for one.
static TAKING: SpinLock<()> = SpinLock::new(());

fn take_typed() {
    let _alone = TAKING.lock();
    loop {
        let room = CONTROLLING.room().min(INPUT_STEP);
        if room == 0 || console::poll_input(PORT_TERMINAL, room) != Ok(true) {
            return;
        }
        let mut bytes = [0; INPUT_STEP];
        let count = match console::take_input(PORT_TERMINAL, &mut bytes) {
            Ok(Some(count @ 1..)) => count,
            Ok(None) => return,
            Ok(Some(_)) | Err(_) => {
                CONTROLLING.hang_up();
                return;
            }
        };
        let received = CONTROLLING.received(&bytes[..count]);
        {
            let mut screen = SCREEN.lock();
            let free = ECHO_LIMIT.saturating_sub(screen.echo.len());
            screen.echo.extend(received.echo.into_iter().take(free));
        }
        for key in received.signals {
            if let Ok(key) = u8::try_from(key) {
                signal(CONTROLLING.foreground(), key);
            }
        }
    }
}

/// Sends a signal to every process of a group.
fn signal(group: Pid, signal: u8) {
    process::send_to_group(group, Information::new(signal, SI_KERNEL, 0));
}

/// Shows up to a page of a program's bytes; if `wait`, returns when the host has taken them.
///
/// # Errors
/// What the host's `write` says, EINTR, EAGAIN if the device is busy and `wait` is false, ENOMEM.
pub fn write(bytes: &[u8], wait_for_host: bool) -> Result<()> {
    let start = || {
        let mut screen = SCREEN.lock();
        screen.settle().then(|| screen.start(bytes))
    };
    if wait_for_host {
        wait(&[console::waiters()], None, start)?.unwrap_or(Err(Errno::EINTR))?;
        // A signal ends the wait, but the bytes are on their way and not the program's any more.
        let free = || SCREEN.lock().settle().then_some(());
        let _ = wait(&[console::waiters()], None, free);
    } else {
        start().unwrap_or(Err(Errno::EAGAIN))?;
    }
    SCREEN.lock().error.take().map_or(Ok(()), Err)
}
