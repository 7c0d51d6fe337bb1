//! The ports of the virtio-console device (virtio 1.2, section 5.3) and what Airlock adds to it.
//!
//! The device offers `VIRTIO_CONSOLE_F_SIZE`, `VIRTIO_CONSOLE_F_MULTIPORT` and [`F_RESULT`].
//! A driver that does not accept `F_RESULT` sees an ordinary multiport console: it learns of the
//! ports, by name, through the control queues. One that does may use every port at once, without
//! the control queues, and gets a result for every buffer:
//!
//! * transmit: the chain ends in a device-writable le64: bytes consumed, or a negative error
//!   number of the host's `write` (`-EPIPE`, `-ENOSPC`...). The buffer is returned when the host
//!   has taken it all, or an error came.
//! * receive: the chain ends in a separate device-writable le64 descriptor, preceded by the data
//!   descriptors: bytes stored, 0 at the end of the input, or a negative error number. The device
//!   reads no byte from the host for which the driver has not posted a buffer, never more than one
//!   buffer's worth, and returns the buffer as soon as the host had any byte to give.
//!
//! Virtqueue numbers follow the standard: port 0 has 0 (receive) and 1 (transmit), the control
//! queues are 2 and 3, port *n* > 0 has 2 + 2*n* and 3 + 2*n*. Queues that a driver never enables
//! are no error, and a queue may be enabled after `DRIVER_OK`.

/// Device feature bit (of the device-specific bits 0 to 23): every chain carries a result.
pub const F_RESULT: u32 = 16;

/// The terminal of `airlock run -t`: receive is typed input, transmit is the screen.
pub const PORT_TERMINAL: u32 = 0;
/// Standard input (receive only).
pub const PORT_STDIN: u32 = 1;
/// Standard output (transmit only).
pub const PORT_STDOUT: u32 = 2;
/// Standard error (transmit only).
pub const PORT_STDERR: u32 = 3;
/// [`crate::trace`] records (transmit only), one or more whole records a buffer.
pub const PORT_TRACE: u32 = 4;
/// Signals for the program (receive only): a byte each, the number of a signal that the user sent to
/// `airlock`. Without a posted buffer the VMM ends the machine as the signal would end the program.
pub const PORT_SIGNALS: u32 = 5;
/// How many ports there are.
pub const PORTS: u32 = 6;

/// Names that the control queue gives the ports, as `VIRTIO_CONSOLE_PORT_NAME`.
pub const PORT_NAMES: [&str; 6] = [
    "airlock.terminal",
    "airlock.stdin",
    "airlock.stdout",
    "airlock.stderr",
    "airlock.trace",
    "airlock.signals",
];

/// A queue in a page of its own, as this kernel's driver makes it and
/// [`crate::boot::StartedConsole`] has it.
pub mod ring {
    /// Number of descriptors; their table is at the start of the page.
    pub const SIZE: u16 = 64;
    /// Offset of the available ring.
    pub const AVAILABLE: u64 = 1024;
    /// Offset of the used ring.
    pub const USED: u64 = 2048;
}

/// Index of a port's receive queue.
pub const fn receive_queue(port: u32) -> u32 {
    if port == 0 { 0 } else { 2 + 2 * port }
}

/// Index of a port's transmit queue.
pub const fn transmit_queue(port: u32) -> u32 {
    receive_queue(port) + 1
}

/// Index of the control queue from the device to the driver; the next is the other direction.
pub const CONTROL_RECEIVE_QUEUE: u32 = 2;
/// Index of the control queue from the driver to the device.
pub const CONTROL_TRANSMIT_QUEUE: u32 = 3;
/// How many queues the device has.
pub const QUEUES: u32 = 2 + 2 * PORTS;
