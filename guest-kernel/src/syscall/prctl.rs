//! prctl(2): what is peculiar to a process or thread.

use super::capability;
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{current, securebits, short_name};
use crate::signal::number;
use core::sync::atomic::Ordering;
use linux_raw_sys::prctl::{
    PR_CAP_AMBIENT, PR_CAPBSET_DROP, PR_CAPBSET_READ, PR_GET_CHILD_SUBREAPER, PR_GET_DUMPABLE,
    PR_GET_KEEPCAPS, PR_GET_NAME, PR_GET_NO_NEW_PRIVS, PR_GET_PDEATHSIG, PR_GET_SECUREBITS,
    PR_GET_TID_ADDRESS, PR_GET_TIMERSLACK, PR_GET_TIMING, PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS, PR_SET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, PR_SET_SECUREBITS,
    PR_SET_TIMERSLACK, PR_SET_TIMING,
};

const NAME_SIZE: usize = 16;

fn set_name(address: u64) -> Result<()> {
    let mut name = [0; NAME_SIZE - 1];
    let mut len = 0;
    while len < name.len() {
        let byte = UserPtr::<u8>::new(address).element(len).read()?;
        if byte == 0 {
            break;
        }
        name[len] = byte;
        len += 1;
    }
    *current().name.lock() = short_name(&name[..len]);
    Ok(())
}

/// `prctl(2)`.
///
/// # Errors
/// As the man page says; EINVAL for what is not offered.
pub fn prctl(
    option: i32,
    argument: u64,
    argument3: u64,
    argument4: u64,
    argument5: u64,
) -> Result<i32> {
    /// `PR_TIMING_STATISTICAL`, the only method that Linux has.
    const STATISTICAL: u64 = 0;
    let me = current();
    let option = u32::try_from(option).map_err(|_| Errno::EINVAL)?;
    match option {
        PR_SET_PDEATHSIG => {
            let signal = u8::try_from(argument).ok().filter(|signal| *signal <= number::LAST);
            me.parent_death_signal.store(signal.ok_or(Errno::EINVAL)?, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_PDEATHSIG => {
            let signal = me.parent_death_signal.load(Ordering::Relaxed);
            UserPtr::new(argument).write(i32::from(signal)).map(|()| 0)
        }
        PR_GET_DUMPABLE => Ok(me.dumpable.load(Ordering::Relaxed).into()),
        PR_SET_DUMPABLE => {
            if argument > 1 {
                return Err(Errno::EINVAL);
            }
            me.dumpable.store(argument == 1, Ordering::Relaxed);
            Ok(0)
        }
        PR_SET_NAME => set_name(argument).map(|()| 0),
        PR_GET_NAME => {
            let name: [u8; NAME_SIZE] = *me.name.lock();
            UserPtr::new(argument).write(name).map(|()| 0)
        }
        PR_GET_TIMING => Ok(0),
        PR_SET_TIMING if argument == STATISTICAL => Ok(0),
        PR_GET_KEEPCAPS => Ok((me.credentials().securebits & securebits::KEEP_CAPS != 0).into()),
        PR_SET_KEEPCAPS => capability::set_keep_capabilities(argument),
        PR_GET_SECUREBITS => Ok(me.credentials().securebits.cast_signed()),
        PR_SET_SECUREBITS => capability::set_securebits(argument),
        PR_CAPBSET_READ => capability::bounding_has(argument),
        PR_CAPBSET_DROP => capability::drop_from_bounding(argument),
        PR_CAP_AMBIENT if argument4 == 0 && argument5 == 0 => {
            capability::change_ambient(argument, argument3)
        }
        PR_GET_TIMERSLACK => {
            let slack = me.timer_slack.load(Ordering::Relaxed);
            Ok(i32::try_from(slack).unwrap_or(i32::MAX))
        }
        PR_SET_TIMERSLACK => {
            me.set_timer_slack(argument);
            Ok(0)
        }
        PR_SET_CHILD_SUBREAPER => {
            me.subreaper.store(argument != 0, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_CHILD_SUBREAPER => {
            let subreaper = me.subreaper.load(Ordering::Relaxed);
            UserPtr::new(argument).write(i32::from(subreaper)).map(|()| 0)
        }
        PR_GET_TID_ADDRESS => {
            UserPtr::new(argument).write(me.clear_child_tid.load(Ordering::Relaxed)).map(|()| 0)
        }
        PR_SET_NO_NEW_PRIVS
            if argument == 1 && argument3 == 0 && argument4 == 0 && argument5 == 0 =>
        {
            me.no_new_privileges.store(true, Ordering::Relaxed);
            Ok(0)
        }
        PR_GET_NO_NEW_PRIVS
            if argument == 0 && argument3 == 0 && argument4 == 0 && argument5 == 0 =>
        {
            Ok(me.no_new_privileges.load(Ordering::Relaxed).into())
        }
        _ => Err(Errno::EINVAL),
    }
}
