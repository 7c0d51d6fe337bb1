//! Requests to terminals (ioctl_tty(2)).
//!
//! Most that are made of a master mean its terminal; others mean the master itself, whose own settings
//! are those of a raw terminal and cannot be changed.

use super::discipline::Outcome;
use super::job::{self, check_change};
use super::master::Master;
use super::slave::Slave;
use super::termios::{Termios, WindowSize};
use super::{Side, Tty, packet};
use crate::capability::Capability;
use crate::errno::{Errno, Result};
use crate::fs::services::services;
use crate::memory::UserPtr;
use crate::memory::user::Plain;
use crate::signal::number::{SIGINT, SIGQUIT, SIGTSTP};
use alloc::sync::Arc;
use linux_raw_sys::general::{
    CLOCAL, EXTPROC, TCIFLUSH, TCIOFF, TCIOFLUSH, TCION, TCOFLUSH, TCOOFF, TCOON, VSTART, VSTOP,
};
use linux_raw_sys::ioctl::{
    FIONREAD, TCFLSH, TCGETA, TCGETS, TCGETS2, TCSBRK, TCSBRKP, TCSETA, TCSETAF, TCSETAW, TCSETS,
    TCSETS2, TCSETSF, TCSETSF2, TCSETSW, TCSETSW2, TCXONC, TIOCCBRK, TIOCEXCL, TIOCGDEV, TIOCGETD,
    TIOCGEXCL, TIOCGLCKTRMIOS, TIOCGPGRP, TIOCGPKT, TIOCGPTLCK, TIOCGPTN, TIOCGSID, TIOCGSOFTCAR,
    TIOCGWINSZ, TIOCNOTTY, TIOCNXCL, TIOCOUTQ, TIOCPKT, TIOCSBRK, TIOCSCTTY, TIOCSETD, TIOCSIG,
    TIOCSLCKTRMIOS, TIOCSPGRP, TIOCSPTLCK, TIOCSSOFTCAR, TIOCSTI, TIOCSWINSZ, TIOCVHANGUP,
};

fn write<T: Plain>(argument: u64, value: T) -> Result<()> {
    UserPtr::<T>::new(argument).write(value)
}

fn read<T: Plain>(argument: u64) -> Result<T> {
    UserPtr::<T>::new(argument).read()
}

/// The argument itself, where it is a number.
fn number(argument: u64) -> u32 {
    let [a, b, c, d, ..] = argument.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Who is asked.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Slave(&'a Slave),
    Master(&'a Master),
}

impl<'a> Asked<'a> {
    const fn tty(self) -> &'a Arc<Tty> {
        match self {
            Self::Slave(slave) => slave.tty(),
            Self::Master(master) => master.tty(),
        }
    }

    /// Changes of the master are nobody's business; those of a terminal are those in the foreground's.
    fn check_change(self) -> Result<()> {
        match self {
            Self::Slave(slave) => check_change(slave.tty()),
            Self::Master(_) => Ok(()),
        }
    }

    /// Which of the two flags is its own (TIOCEXCL).
    const fn side(self) -> usize {
        match self {
            Self::Slave(_) => 0,
            Self::Master(_) => 1,
        }
    }
}

/// A request to a terminal.
///
/// # Errors
/// As the man page says.
pub(super) fn of_slave(slave: &Slave, request: u32, argument: u64) -> Result<i32> {
    if slave.is_hung_up() {
        return Err(if request == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
    }
    of_either(Asked::Slave(slave), request, argument)
}

/// A request to a master.
///
/// # Errors
/// As the man page says.
pub(super) fn of_master(master: &Master, request: u32, argument: u64) -> Result<i32> {
    let tty = master.tty();
    match request {
        TIOCGPTN => write(argument, tty.index())?,
        TIOCSPTLCK => {
            let locked = read::<i32>(argument)? != 0;
            tty.state.lock().master.locked = locked;
        }
        TIOCGPTLCK => {
            let locked = tty.state.lock().master.locked;
            write(argument, i32::from(locked))?;
        }
        TIOCPKT => {
            let on = read::<i32>(argument)? != 0;
            let mut state = tty.state.lock();
            if on && !state.master.packet {
                state.master.status = 0;
            }
            state.master.packet = on;
        }
        TIOCGPKT => {
            let on = tty.state.lock().master.packet;
            write(argument, i32::from(on))?;
        }
        TIOCSIG => {
            let signal = u8::try_from(number(argument)).map_err(|_| Errno::EINVAL)?;
            if !matches!(signal, SIGINT | SIGQUIT | SIGTSTP) {
                return Err(Errno::EINVAL);
            }
            job::signal_group(tty.foreground(), signal, true);
        }
        _ => return of_either(Asked::Master(master), request, argument),
    }
    Ok(0)
}

fn of_either(asked: Asked<'_>, request: u32, argument: u64) -> Result<i32> {
    let tty = asked.tty();
    match request {
        TIOCGWINSZ => {
            let size = tty.state.lock().size;
            write(argument, size)?;
        }
        TIOCSWINSZ => tty.resize(read::<WindowSize>(argument)?),
        TIOCEXCL => tty.state.lock().exclusive[asked.side()] = true,
        TIOCNXCL => tty.state.lock().exclusive[asked.side()] = false,
        TIOCGEXCL => {
            let exclusive = tty.state.lock().exclusive[asked.side()];
            write(argument, i32::from(exclusive))?;
        }
        TIOCGDEV => {
            write(argument, u32::try_from(tty.device()).map_err(|_| Errno::EOVERFLOW)?)?;
        }
        TIOCGETD => write(argument, 0i32)?,
        // There is one line discipline.
        TIOCSETD => {
            if read::<i32>(argument)? != 0 {
                return Err(Errno::EINVAL);
            }
        }
        TIOCVHANGUP => {
            job::need(Capability::SysAdmin, Errno::EPERM)?;
            match asked {
                Asked::Slave(slave) => slave.tty().hang_up(),
                Asked::Master(_) => return Err(Errno::ENOTTY),
            }
        }
        TIOCSTI => insert(asked, argument)?,
        // There is no line to break, and output is where it goes when write returns.
        TCSBRK | TCSBRKP | TIOCSBRK => asked.check_change()?,
        TIOCCBRK => {}
        FIONREAD => {
            let count = {
                let state = tty.state.lock();
                match asked {
                    Asked::Slave(_) => state.discipline.readable_bytes(),
                    Asked::Master(_) => state.master.outgoing.len(),
                }
            };
            write(argument, i32::try_from(count).unwrap_or(i32::MAX))?;
        }
        TIOCOUTQ => write(argument, 0i32)?,
        TCFLSH => flush(asked, number(argument))?,
        TCXONC => flow(asked, number(argument))?,
        _ => {
            return match job_control(asked, request, argument) {
                Err(Errno::ENOTTY) if !is_job_control(request) => settings(tty, request, argument),
                result => result,
            };
        }
    }
    Ok(0)
}

const fn is_job_control(request: u32) -> bool {
    matches!(request, TIOCNOTTY | TIOCSCTTY | TIOCGPGRP | TIOCSPGRP | TIOCGSID)
}

fn job_control(asked: Asked<'_>, request: u32, argument: u64) -> Result<i32> {
    let tty = asked.tty();
    // A master may ask about its terminal, which is not its own.
    let is_own = || match asked {
        Asked::Slave(_) => job::jobs().is_some_and(|jobs| jobs.group_on(tty).is_some()),
        Asked::Master(_) => true,
    };
    match request {
        TIOCNOTTY => match asked {
            Asked::Slave(slave) => job::give_up(slave.tty())?,
            Asked::Master(_) => return Err(Errno::ENOTTY),
        },
        TIOCSCTTY => {
            let readable = match asked {
                Asked::Slave(slave) => slave.is_readable(),
                Asked::Master(_) => true,
            };
            job::acquire(tty, argument == 1, readable)?;
        }
        TIOCGPGRP if is_own() => write(argument, tty.foreground())?,
        TIOCSPGRP => job::set_foreground(tty, || read(argument))?,
        TIOCGSID if is_own() => {
            let session = tty.state.lock().session;
            if session == 0 {
                return Err(Errno::ENOTTY);
            }
            write(argument, session)?;
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// TIOCSTI: types a byte in the user's place. Linux allows that to the superuser alone, unless it is told
/// to (`dev.tty.legacy_tiocsti`).
fn insert(asked: Asked<'_>, argument: u64) -> Result<()> {
    job::need(Capability::SysAdmin, Errno::EIO)?;
    let byte = read::<u8>(argument)?;
    let tty = asked.tty();
    let (outcome, group) = {
        let mut state = tty.state.lock();
        match asked {
            Asked::Slave(_) => {
                let mut outcome = Outcome::default();
                state.discipline.receive(&[byte], &mut outcome);
                state.note(&outcome);
                if tty.side == Side::Master {
                    state.show_echoes();
                }
                (outcome, state.group)
            }
            Asked::Master(_) => {
                state.master.outgoing.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                state.master.outgoing.push_back(byte);
                (Outcome::default(), 0)
            }
        }
    };
    tty.settle(outcome, group);
    listen(tty);
    Ok(())
}

/// The user's terminal may take more of what was typed, or show more.
fn listen(tty: &Tty) {
    if tty.side == Side::Console
        && let Some(services) = services()
    {
        services.terminal_listen();
    }
}

/// TCFLSH.
fn flush(asked: Asked<'_>, queues: u32) -> Result<()> {
    asked.check_change()?;
    let (input, output) = match queues {
        TCIFLUSH => (true, false),
        TCOFLUSH => (false, true),
        TCIOFLUSH => (true, true),
        _ => return Err(Errno::EINVAL),
    };
    let tty = asked.tty();
    let mut state = tty.state.lock();
    match asked {
        Asked::Slave(_) => {
            if input {
                state.master.incoming.clear();
                state.discipline.flush_input();
                state.tell(packet::FLUSHREAD, 0);
            }
            if output {
                state.drop_output();
            }
        }
        Asked::Master(_) => {
            if input {
                state.master.outgoing.clear();
            }
            if output {
                state.master.incoming.clear();
            }
        }
    }
    drop(state);
    tty.settle(Outcome::default(), 0);
    listen(tty);
    Ok(())
}

/// TCXONC.
fn flow(asked: Asked<'_>, action: u32) -> Result<()> {
    asked.check_change()?;
    let tty = asked.tty();
    let mut outcome = Outcome::default();
    let mut state = tty.state.lock();
    match (action, asked) {
        (TCOOFF | TCOON, Asked::Slave(_)) => {
            state.discipline.hold(action == TCOOFF, &mut outcome);
            state.note(&outcome);
            if tty.side == Side::Master {
                state.show_echoes();
            }
        }
        (TCOOFF | TCOON, Asked::Master(_)) => state.master.stopped = action == TCOOFF,
        // The other side is asked to stop or to go on, by a key.
        (TCIOFF | TCION, _) => {
            let key = if action == TCIOFF { VSTOP } else { VSTART };
            drop(state);
            return send_key(asked, key);
        }
        _ => return Err(Errno::EINVAL),
    }
    drop(state);
    tty.settle(Outcome::default(), 0);
    listen(tty);
    Ok(())
}

fn send_key(asked: Asked<'_>, key: u32) -> Result<()> {
    let tty = asked.tty();
    match asked {
        Asked::Slave(_) => {
            let byte = tty.state.lock().discipline.termios().character(key);
            if byte == super::termios::DISABLED {
                return Ok(());
            }
            if tty.side == Side::Console {
                return services().ok_or(Errno::EIO)?.terminal_write(&[byte], true);
            }
            let mut state = tty.state.lock();
            state.master.outgoing.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            state.master.outgoing.push_back(byte);
            drop(state);
            tty.settle(Outcome::default(), 0);
        }
        Asked::Master(_) => {
            let byte = Termios::PSEUDO.character(key);
            let (outcome, group) = {
                let mut state = tty.state.lock();
                state.master.incoming.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                state.master.incoming.push_back(byte);
                state.feed()
            };
            tty.settle(outcome, group);
        }
    }
    Ok(())
}

/// Requests about the settings, which of a master are its terminal's.
fn settings(tty: &Arc<Tty>, request: u32, argument: u64) -> Result<i32> {
    let current = || *tty.state.lock().discipline.termios();
    match request {
        TCGETS => write(argument, current().short())?,
        TCGETS2 => write(argument, current())?,
        TCGETA => write(argument, current().termio())?,
        TCSETS | TCSETSW | TCSETSF => {
            check_change(tty)?;
            let termios = current().with_short(&read(argument)?);
            set(tty, termios, request == TCSETSF);
        }
        TCSETS2 | TCSETSW2 | TCSETSF2 => {
            check_change(tty)?;
            set(tty, read(argument)?, request == TCSETSF2);
        }
        TCSETA | TCSETAW | TCSETAF => {
            check_change(tty)?;
            let termios = current().with_termio(&read(argument)?);
            set(tty, termios, request == TCSETAF);
        }
        TIOCGLCKTRMIOS => {
            let locked = tty.state.lock().locked_settings;
            write(argument, locked.short())?;
        }
        TIOCSLCKTRMIOS => {
            job::need(Capability::SysAdmin, Errno::EPERM)?;
            let locked = Termios::NOTHING.with_short(&read(argument)?);
            tty.state.lock().locked_settings = locked;
        }
        TIOCGSOFTCAR => write(argument, i32::from(current().control & CLOCAL != 0))?,
        TIOCSSOFTCAR => {
            let on = read::<i32>(argument)? != 0;
            let mut termios = current();
            termios.control = termios.control & !CLOCAL | if on { CLOCAL } else { 0 };
            set(tty, termios, false);
        }
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

/// Changes the settings; with `flush` what was typed and not read is forgotten.
fn set(tty: &Arc<Tty>, termios: Termios, flush: bool) {
    let mut outcome = Outcome::default();
    let (fed, group) = {
        let mut state = tty.state.lock();
        if flush {
            state.discipline.flush_input();
            state.tell(packet::FLUSHREAD, 0);
        }
        let before = *state.discipline.termios();
        let mut termios = termios.with_speeds().unless_locked(&state.locked_settings, &before);
        if tty.side == Side::Master {
            termios = termios.of_pseudo();
            tell_of_settings(&mut state, &before, &termios);
        }
        state.discipline.set_termios(termios, &mut outcome);
        state.note(&outcome);
        state.feed()
    };
    tty.settle(fed, group);
    listen(tty);
}

/// What a master in packet mode is told of new settings.
fn tell_of_settings(state: &mut super::State, before: &Termios, after: &Termios) {
    let (stopped, stops) = (packet::NOSTOP, packet::DOSTOP);
    match (before.has_usual_flow_control(), after.has_usual_flow_control()) {
        (false, true) => state.tell(stops, stopped),
        (true, false) => state.tell(stopped, stops),
        _ => {}
    }
    if before.has_local(EXTPROC) || after.has_local(EXTPROC) {
        state.tell(packet::IOCTL, 0);
    }
}
