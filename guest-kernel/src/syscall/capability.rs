//! Capability sets: capget(2), capset(2), and the parts of prctl(2) that change them.

use super::identity::commit;
use crate::capability::{Capability, CapabilitySet};
use crate::errno::{Errno, Result};
use crate::memory::UserPtr;
use crate::process::{Pid, current, find_thread, securebits};

/// `_LINUX_CAPABILITY_VERSION_1` to `_3`, and how many 32-bit words each set has.
const VERSIONS: [(u32, usize); 3] = [(0x1998_0330, 1), (0x2007_1026, 2), (0x2008_0522, 2)];

/// What the header says: the number of words of a set, and whose sets are meant. A version that is not
/// known is answered with the one that is.
fn read_header(header: UserPtr<u32>) -> Result<(Option<usize>, Pid)> {
    let version = header.read()?;
    let words = VERSIONS.iter().find(|known| known.0 == version).map(|known| known.1);
    if words.is_none() {
        header.write(VERSIONS[2].0)?;
        return Ok((None, 0));
    }
    let pid = header.element(1).cast::<i32>().read()?;
    Ok((words, pid))
}

/// `capget(2)`.
///
/// # Errors
/// As the man page says.
pub fn capget(header: UserPtr<u32>, data: UserPtr<u32>) -> Result<()> {
    let (words, pid) = read_header(header)?;
    let words = match words {
        // A question for the version alone.
        None if data.is_null() => return Ok(()),
        None => return Err(Errno::EINVAL),
        Some(_) if data.is_null() => return Ok(()),
        Some(words) => words,
    };
    let me = current();
    let who = match pid {
        pid if pid < 0 => return Err(Errno::EINVAL),
        0 => me.credentials(),
        pid => find_thread(pid).ok_or(Errno::ESRCH)?.credentials(),
    };
    let sets = [who.effective, who.permitted, who.inheritable].map(|set| set.bits().to_le_bytes());
    for word in 0..words {
        for (index, bytes) in sets.iter().enumerate() {
            let at = word * 4;
            let value = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            data.element(word * 3 + index).write(u32::from_le_bytes(value))?;
        }
    }
    Ok(())
}

/// `capset(2)`.
///
/// # Errors
/// As the man page says.
pub fn capset(header: UserPtr<u32>, data: UserPtr<u32>) -> Result<()> {
    let (words, pid) = read_header(header)?;
    let words = words.ok_or(Errno::EINVAL)?;
    let me = current();
    if pid != 0 && pid != me.tid() {
        return Err(Errno::EPERM);
    }
    let mut sets = [0_u64; 3];
    for word in 0..words {
        for (index, set) in sets.iter_mut().enumerate() {
            *set |= u64::from(data.element(word * 3 + index).read()?) << (32 * word);
        }
    }
    let [effective, permitted, inheritable] = sets.map(CapabilitySet::from_bits);
    let mut who = me.credentials();
    let may_inherit =
        who.can(Capability::Setpcap) || inheritable.is_within(who.inheritable | who.permitted);
    if !may_inherit
        || !inheritable.is_within(who.inheritable | who.bounding)
        || !permitted.is_within(who.permitted)
        || !effective.is_within(permitted)
    {
        return Err(Errno::EPERM);
    }
    who.effective = effective;
    who.permitted = permitted;
    who.inheritable = inheritable;
    who.ambient = who.ambient & permitted & inheritable;
    commit(who);
    Ok(())
}

/// `PR_CAPBSET_READ`.
pub(super) fn bounding_has(number: u64) -> Result<i32> {
    let set = CapabilitySet::single(number).ok_or(Errno::EINVAL)?;
    Ok(set.is_within(current().credentials().bounding).into())
}

/// `PR_CAPBSET_DROP`.
pub(super) fn drop_from_bounding(number: u64) -> Result<i32> {
    let mut who = current().credentials();
    who.need(Capability::Setpcap)?;
    let set = CapabilitySet::single(number).ok_or(Errno::EINVAL)?;
    who.bounding = who.bounding.without(set);
    commit(who);
    Ok(0)
}

/// `PR_CAP_AMBIENT`.
pub(super) fn change_ambient(what: u64, number: u64) -> Result<i32> {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    let mut who = current().credentials();
    if what == CLEAR_ALL {
        if number != 0 {
            return Err(Errno::EINVAL);
        }
        who.ambient = CapabilitySet::EMPTY;
        commit(who);
        return Ok(0);
    }
    let set = CapabilitySet::single(number).ok_or(Errno::EINVAL)?;
    match what {
        IS_SET => return Ok(set.is_within(who.ambient).into()),
        RAISE => {
            let forbidden = who.securebits & securebits::NO_AMBIENT_RAISE != 0;
            if forbidden || !set.is_within(who.permitted & who.inheritable) {
                return Err(Errno::EPERM);
            }
            who.ambient = who.ambient | set;
        }
        LOWER => who.ambient = who.ambient.without(set),
        _ => return Err(Errno::EINVAL),
    }
    commit(who);
    Ok(0)
}

/// `PR_SET_SECUREBITS`.
pub(super) fn set_securebits(new: u64) -> Result<i32> {
    let mut who = current().credentials();
    let new = u32::try_from(new).map_err(|_| Errno::EPERM)?;
    let locked = (who.securebits & securebits::LOCKS) >> 1;
    let changes_locked = locked & (who.securebits ^ new) != 0;
    let unlocks = who.securebits & securebits::LOCKS & !new != 0;
    if changes_locked || unlocks || new & !(securebits::ALL | securebits::LOCKS) != 0 {
        return Err(Errno::EPERM);
    }
    who.need(Capability::Setpcap)?;
    who.securebits = new;
    commit(who);
    Ok(0)
}

/// `PR_SET_KEEPCAPS`.
pub(super) fn set_keep_capabilities(keep: u64) -> Result<i32> {
    let mut who = current().credentials();
    if keep > 1 {
        return Err(Errno::EINVAL);
    }
    if who.securebits & securebits::KEEP_CAPS << 1 != 0 {
        return Err(Errno::EPERM);
    }
    who.securebits &= !securebits::KEEP_CAPS;
    if keep == 1 {
        who.securebits |= securebits::KEEP_CAPS;
    }
    commit(who);
    Ok(0)
}
