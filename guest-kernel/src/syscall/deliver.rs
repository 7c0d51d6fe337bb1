//! Signals on the way back to ring 3.

use crate::arch::TrapFrame;
use crate::process;
use crate::signal::{DefaultAction, action, default_action};
use airlock_abi::exit::Exit;

/// Takes the signals that are to be taken.
pub fn deliver_signals(_frame: &mut TrapFrame) {
    let process = process::current();
    loop {
        let mut signals = process.signals.lock();
        let Some(signal) = signals.deliverable() else { return };
        let taken = signals.action(signal);
        signals.take(signal);
        drop(signals);
        match taken.handler {
            action::IGNORE => {}
            action::DEFAULT => match default_action(signal) {
                DefaultAction::Terminate => process::exit_machine(Exit::Signaled(signal)),
                DefaultAction::Ignore | DefaultAction::Continue | DefaultAction::Stop => {}
            },
            _ => process::exit_machine(Exit::Signaled(signal)),
        }
    }
}
