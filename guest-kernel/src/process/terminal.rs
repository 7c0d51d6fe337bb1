//! Controlling terminals: what [`crate::fs::tty::job`] needs of processes.

use super::{Pid, Process, current, send_to_process, table};
use crate::capability::Capability;
use crate::fs::tty::Tty;
use crate::fs::tty::job::{Caller, Jobs};
use crate::signal::{Information, SI_KERNEL, bit, number};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

/// All processes.
pub struct AllJobs;

/// The one instance.
pub static JOBS: AllJobs = AllJobs;

impl Process {
    /// Its controlling terminal.
    pub fn terminal(&self) -> Option<Arc<Tty>> {
        self.terminal.lock().clone()
    }

    /// Gives it another, or none.
    pub fn set_terminal(&self, tty: Option<Arc<Tty>>) {
        let before = core::mem::replace(&mut *self.terminal.lock(), tty);
        // Perhaps the last one: it goes when no lock is held.
        drop(before);
    }

    /// Whether it leads a session.
    pub fn leads_session(&self) -> bool {
        self.session() == self.pid
    }
}

impl Jobs for AllJobs {
    fn caller(&self) -> Caller {
        let me = current();
        Caller {
            group: me.group(),
            session: me.session(),
            leads: me.leads_session(),
            terminal: me.terminal(),
        }
    }

    fn group_on(&self, tty: &Tty) -> Option<Pid> {
        let me = current();
        let own = me.terminal.lock();
        let is_own = own.as_ref().is_some_and(|own| core::ptr::eq(&raw const **own, tty));
        is_own.then(|| me.group())
    }

    fn file_user(&self) -> u32 {
        current().credentials().fsuid
    }

    fn can(&self, capability: Capability) -> bool {
        current().can(capability)
    }

    fn holds_back(&self, signal: u8) -> bool {
        let me = current();
        if me.signals.lock().mask & bit(signal) != 0 {
            return true;
        }
        let action = me.actions().lock().action(signal);
        action.handler == crate::signal::action::IGNORE
    }

    fn is_orphaned(&self, group: Pid) -> bool {
        table::lock().is_orphaned(group, None)
    }

    fn session_of(&self, group: Pid) -> Option<Pid> {
        let table = table::lock();
        let member = table.processes().find(|process| process.group() == group);
        // Linux takes the id of any process for its group.
        member.or_else(|| table.process(group)).map(|process| process.session())
    }

    fn signal_group(&self, group: Pid, signal: u8, from_kernel: bool) {
        let information = if from_kernel {
            Information::new(signal, SI_KERNEL, 0)
        } else {
            let me = current();
            let who = u64::from(me.pid.cast_unsigned());
            let user = u64::from(me.credentials().uid);
            Information::new(signal, super::SI_USER, who | user << 32)
        };
        super::send_to_group(group, information);
    }

    fn set_terminal(&self, tty: Option<Arc<Tty>>) {
        current().process.set_terminal(tty);
    }

    fn take_terminal(&self, session: Pid) {
        let members = table::lock().session(session);
        for member in members {
            member.set_terminal(None);
        }
    }

    fn hang_up(&self, session: Pid, group: Pid, tty: &Tty) {
        let members = table::lock().session(session);
        for member in members {
            let before = {
                let mut own = member.terminal.lock();
                let is_it = own.as_ref().is_some_and(|own| core::ptr::eq(&raw const **own, tty));
                if is_it { own.take() } else { None }
            };
            drop(before);
            if member.leads_session() {
                member.old_foreground.store(group, Ordering::Relaxed);
                for signal in [number::SIGHUP, number::SIGCONT] {
                    let _ = send_to_process(&member, Information::new(signal, SI_KERNEL, 0));
                }
            }
        }
    }

    fn take_old_group(&self) -> Pid {
        current().old_foreground.swap(0, Ordering::Relaxed)
    }
}
