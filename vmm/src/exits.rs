//! Why a vCPU left the guest, turned into what to do about it.
//!
//! [`handle`] needs no KVM: it is tested with exits made by hand.

use airlock_abi::exit::Exit;
use airlock_abi::layout::{
    CPU_START_PORT, EXIT_PORT, PROCESSOR_STATE_PORT, SERIAL_PORT, YIELD_ADDRESS,
};
use kvm_ioctls::VcpuExit;

use crate::bus::Bus;

const PAGE: u64 = 4096;
/// Number of I/O ports of a 16550.
const SERIAL_PORTS: u16 = 8;

/// What a vCPU thread does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Enter the guest again.
    Resume,
    /// Start the vCPU with this index, then enter the guest again.
    StartCpu(u32),
    /// Save or load the vCPU's extended state, then enter the guest again.
    ProcessorState {
        /// Guest-physical address of the page.
        address: u64,
        /// Load it, not save it.
        load: bool,
    },
    /// The guest ended the machine.
    End(Exit),
    /// The guest wrote something to the exit device that means nothing.
    BadExit(Vec<u8>),
    /// The guest cannot go on.
    Crash(Crash),
}

/// Why a guest cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crash {
    /// An exception while delivering a double fault (KVM_EXIT_SHUTDOWN).
    TripleFault,
    /// The processor refused the state of the vCPU.
    EntryFailed(u64),
    /// KVM gave up; `vcpu` has the details.
    Internal,
    /// An exit that this machine never asked for.
    Unexpected(String),
}

/// Decides what to do about an exit, and does what only needs devices.
pub fn handle(exit: VcpuExit<'_>, bus: &Bus) -> Action {
    match exit {
        VcpuExit::IoOut(port, data) => write_port(port, data, bus),
        VcpuExit::IoIn(port, data) => {
            match port.checked_sub(SERIAL_PORT) {
                Some(offset) if offset < SERIAL_PORTS => bus.serial.read(offset, data),
                _ => bus.unknown_read("port", u64::from(port), data),
            }
            Action::Resume
        }
        VcpuExit::MmioRead(address, data) => {
            bus.read(address, data);
            Action::Resume
        }
        VcpuExit::MmioWrite(YIELD_ADDRESS, _) => {
            std::thread::yield_now();
            Action::Resume
        }
        VcpuExit::MmioWrite(address, data) => {
            bus.write(address, data);
            Action::Resume
        }
        // A signal to this thread; the caller looks whether the machine has ended.
        VcpuExit::Intr => Action::Resume,
        VcpuExit::Shutdown => Action::Crash(Crash::TripleFault),
        VcpuExit::FailEntry(reason, _) => Action::Crash(Crash::EntryFailed(reason)),
        VcpuExit::InternalError => Action::Crash(Crash::Internal),
        other => Action::Crash(Crash::Unexpected(format!("{other:?}"))),
    }
}

fn write_port(port: u16, data: &[u8], bus: &Bus) -> Action {
    match port {
        EXIT_PORT => {
            let exit = data.try_into().ok().map(u32::from_le_bytes).and_then(Exit::from_word);
            exit.map_or_else(
                || Action::BadExit(data.iter().copied().take(8).collect()),
                Action::End,
            )
        }
        CPU_START_PORT => match data.try_into() {
            Ok(word) => Action::StartCpu(u32::from_le_bytes(word)),
            Err(_) => {
                bus.unknown_write("port", u64::from(port));
                Action::Resume
            }
        },
        PROCESSOR_STATE_PORT => match data.try_into() {
            Ok(word) => {
                let word = u32::from_le_bytes(word);
                let address = u64::from(word >> 1) * PAGE;
                Action::ProcessorState { address, load: word & 1 != 0 }
            }
            Err(_) => {
                bus.unknown_write("port", u64::from(port));
                Action::Resume
            }
        },
        _ => {
            match port.checked_sub(SERIAL_PORT) {
                Some(offset) if offset < SERIAL_PORTS => bus.serial.write(offset, data),
                _ => bus.unknown_write("port", u64::from(port)),
            }
            Action::Resume
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port_write(port: u16, data: &[u8]) -> Action {
        handle(VcpuExit::IoOut(port, data), &Bus::default())
    }

    #[test]
    fn exit_device_ends_the_machine() {
        assert_eq!(port_write(EXIT_PORT, &[42, 0, 0, 0]), Action::End(Exit::Exited(42)));
        assert_eq!(port_write(EXIT_PORT, &[9, 1, 0, 0]), Action::End(Exit::Signaled(9)));
        assert_eq!(port_write(EXIT_PORT, &[0, 2, 0, 0]), Action::End(Exit::Panicked));
    }

    #[test]
    fn nonsense_on_the_exit_device_is_told_apart() {
        for word in [&[0, 0, 0, 1][..], &[0, 0, 1, 0], &[0], &[0; 8], &[65, 1, 0, 0]] {
            assert_eq!(port_write(EXIT_PORT, word), Action::BadExit(word.to_vec()));
        }
        // A string instruction may write a page at once; not all of it is kept.
        assert_eq!(port_write(EXIT_PORT, &[1; 4096]), Action::BadExit(vec![1; 8]));
    }

    #[test]
    fn cpu_start_needs_a_whole_word() {
        let state = |address, load| Action::ProcessorState { address, load };
        assert_eq!(port_write(PROCESSOR_STATE_PORT, &[6, 0, 0, 0]), state(0x3000, false));
        assert_eq!(port_write(PROCESSOR_STATE_PORT, &[0xff; 4]), state(0x7fff_ffff * PAGE, true));
        assert_eq!(port_write(PROCESSOR_STATE_PORT, &[6]), Action::Resume);
        assert_eq!(port_write(CPU_START_PORT, &[3, 0, 0, 0]), Action::StartCpu(3));
        assert_eq!(port_write(CPU_START_PORT, &[0xff; 4]), Action::StartCpu(u32::MAX));
        assert_eq!(port_write(CPU_START_PORT, &[3]), Action::Resume);
    }

    #[test]
    fn unknown_accesses_read_as_ones_and_are_counted() {
        let bus = Bus::default();
        let mut data = [0; 4];
        assert_eq!(handle(VcpuExit::IoIn(0x60, &mut data), &bus), Action::Resume);
        assert_eq!(data, [0xff; 4]);
        let mut data = [0; 8];
        assert_eq!(handle(VcpuExit::MmioRead(0xe000_0000, &mut data), &bus), Action::Resume);
        assert_eq!(data, [0xff; 8]);
        assert_eq!(handle(VcpuExit::MmioWrite(u64::MAX, &[1]), &bus), Action::Resume);
        assert_eq!(handle(VcpuExit::IoOut(0x80, &[1]), &bus), Action::Resume);
        assert_eq!(bus.unknown_accesses(), 4);
    }

    #[test]
    fn serial_port_takes_bytes() {
        let bus = Bus::default();
        handle(VcpuExit::IoOut(SERIAL_PORT, b"panic"), &bus);
        assert_eq!(bus.serial.text(), "panic");
    }

    #[test]
    fn dead_guests_are_told_apart() {
        let bus = Bus::default();
        assert_eq!(handle(VcpuExit::Shutdown, &bus), Action::Crash(Crash::TripleFault));
        assert_eq!(handle(VcpuExit::FailEntry(7, 0), &bus), Action::Crash(Crash::EntryFailed(7)));
        assert_eq!(handle(VcpuExit::InternalError, &bus), Action::Crash(Crash::Internal));
        assert!(matches!(handle(VcpuExit::Hlt, &bus), Action::Crash(Crash::Unexpected(_))));
    }
}
