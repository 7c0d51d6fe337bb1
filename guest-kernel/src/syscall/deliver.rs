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
        let information = signals.take(signal);
        drop(signals);
        if let Some(information) = information.filter(|_| taken.handler != action::IGNORE) {
            super::trace::signal(&information);
        }
        match taken.handler {
            action::IGNORE => {}
            action::DEFAULT => match default_action(signal) {
                DefaultAction::Terminate => end(signal),
                DefaultAction::Ignore | DefaultAction::Continue | DefaultAction::Stop => {}
            },
            _ => end(signal),
        }
    }
}

/// The signal ends the program.
fn end(signal: u8) -> ! {
    let exit = Exit::Signaled(signal);
    super::trace::end(exit);
    process::exit_machine(exit)
}
