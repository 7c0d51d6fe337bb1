//! virtio-console with Airlock's ports (`airlock_abi::console`).
//!
//! A port's queue is made when a program first uses the port. Output is not copied: the device reads
//! the program's own pages, and the call returns when the host has taken them, so that order between
//! ports, errors and the end of the program are as if the program wrote by itself. Input goes
//! through a buffer of the kernel's, since a signal may end the wait for it.

use super::virtio::{Buffer, Queue, Registers};
use crate::errno::{Errno, Result};
use crate::memory::frame::{self, Content, Frame};
use crate::memory::space::Access;
use crate::memory::{PAGE_SIZE, PhysAddr, SharedBytes, UserReader, UserWriter, usize_from};
use crate::sched::{self, WaitQueue, wait};
use crate::signal::{Information, action, bit, number};
use crate::sync::SpinLock;
use crate::{boot, process};
use airlock_abi::boot::{StartedConsole, flags};
use airlock_abi::console::{
    CONTROL_TRANSMIT_QUEUE, F_RESULT, PORT_SIGNALS, PORT_STDERR, PORT_STDOUT, PORT_TERMINAL, PORTS,
    receive_queue, transmit_queue,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

const DEVICE_ID: u32 = 3;
/// `VIRTIO_CONSOLE_F_SIZE`.
const F_SIZE: u32 = 1 << 0;
/// `VIRTIO_CONSOLE_F_MULTIPORT`.
const F_MULTIPORT: u32 = 1 << 1;
/// Largest read at once: 2^4 pages.
const INPUT_ORDER: usize = 4;
const INPUT_SIZE: usize = PAGE_SIZE << INPUT_ORDER;
/// Pages of output in one chain; the result takes one more descriptor.
const OUTPUT_PIECES: usize = Queue::SIZE as usize - 1;
/// Signals of the user that a program may handle.
const FORWARDED: [u8; 4] = [number::SIGHUP, number::SIGINT, number::SIGQUIT, number::SIGTERM];
/// `SI_KERNEL`.
const SI_KERNEL: i32 = 0x80;
/// Bit of the interrupt status (section 4.2.2).
const CONFIGURATION_CHANGED: u32 = 1 << 1;
/// No interrupt number.
const NO_LINE: u32 = u32::MAX;

struct Device {
    registers: Registers,
    /// Whether chains end in a result; else this is another VMM's console.
    results: bool,
    output: [Option<Queue>; PORTS as usize],
    /// Whether a chain of output is with the device: there is room for one.
    sending: [bool; PORTS as usize],
    /// Whether someone waits for that.
    contended: bool,
    input: [Option<Input>; PORTS as usize],
}

struct Input {
    queue: Queue,
    buffer: PhysAddr,
    /// A buffer is with the device.
    asked: bool,
    /// Bytes that arrived and were not yet read: from where, and how many.
    ready: (usize, usize),
    /// Someone copies them to a program.
    reading: bool,
    /// What the last chain brought, if not bytes: the end, or an error.
    ended: Option<Result<()>>,
}

enum State {
    Unknown,
    /// The VMM has started it: its registers, and the pages of two queues.
    Started(Registers, [PhysAddr; 2]),
    Absent,
    Present(Box<Device>),
}

static STATE: SpinLock<State> = SpinLock::new(State::Unknown);
static LINE: AtomicU32 = AtomicU32::new(NO_LINE);
static WAITERS: WaitQueue = WaitQueue::new();

/// Those who wait for input.
pub fn waiters() -> &'static WaitQueue {
    &WAITERS
}

/// Wakes those who wait, if the interrupt is the console's.
pub fn interrupt(line: u32) {
    if LINE.load(Ordering::Relaxed) != line {
        return;
    }
    let state = with(|device| {
        let status = device.registers.acknowledge_interrupt();
        let listens = |port: u32| device.input[port as usize].is_some();
        Ok((status, listens(PORT_SIGNALS), listens(PORT_TERMINAL)))
    });
    let Ok((status, signals, terminal)) = state else { return };
    if signals {
        collect_signals();
    }
    if terminal {
        super::terminal::interrupt(status & CONFIGURATION_CHANGED != 0);
    }
    WAITERS.wake_all();
}

fn with<T>(act: impl FnOnce(&mut Device) -> Result<T>) -> Result<T> {
    let mut state = STATE.lock();
    match *state {
        State::Unknown => {
            *state = match Device::find() {
                Ok(device) => State::Present(Box::new(device)),
                Err(error) => {
                    crate::log!("no console: {error}");
                    State::Absent
                }
            };
        }
        State::Started(registers, queues) => {
            *state = State::Present(Box::new(Device::started(registers, queues)));
        }
        _ => {}
    }
    match &mut *state {
        State::Present(device) => act(device),
        _ => Err(Errno::EIO),
    }
}

/// Takes over a console that the VMM has started, if it has.
pub fn take_over(console: &StartedConsole) {
    let Ok(line) = u32::try_from(console.interrupt) else { return };
    if console.registers != 0 {
        LINE.store(line, Ordering::Relaxed);
        let registers = Registers::of_started(PhysAddr(console.registers), line);
        *STATE.lock() =
            State::Started(registers, [PhysAddr(console.output), PhysAddr(console.errors)]);
    }
}

impl Device {
    fn started(registers: Registers, [output, errors]: [PhysAddr; 2]) -> Self {
        let mut device = Self::new(registers, true);
        for (port, page) in [(PORT_STDOUT, output), (PORT_STDERR, errors)] {
            device.output[port as usize] =
                Some(registers.enabled_queue(transmit_queue(port), page));
        }
        device
    }

    const fn new(registers: Registers, results: bool) -> Self {
        Self {
            registers,
            results,
            output: [const { None }; PORTS as usize],
            sending: [false; PORTS as usize],
            contended: false,
            input: [const { None }; PORTS as usize],
        }
    }

    fn find() -> Result<Self> {
        let registers = Registers::find(DEVICE_ID).ok_or(Errno::ENODEV)?;
        let features = registers.negotiate(F_SIZE | F_MULTIPORT | 1 << F_RESULT)?;
        LINE.store(registers.line(), Ordering::Relaxed);
        let results = features & 1 << F_RESULT != 0;
        if !results && features & F_MULTIPORT == 0 {
            return Err(Errno::ENODEV);
        }
        let mut device = Self::new(registers, results);
        registers.start();
        if !results {
            device.open_standard_ports()?;
        }
        Ok(device)
    }

    /// Without results this is a standard multiport console: it wants to hear that the driver and the
    /// ports are ready and open (section 5.3.6.2). Which ports there are is agreed by number.
    fn open_standard_ports(&mut self) -> Result<()> {
        const DEVICE_READY: u16 = 0;
        const PORT_READY: u16 = 3;
        const PORT_OPEN: u16 = 6;
        let mut control = self.registers.enable_queue(CONTROL_TRANSMIT_QUEUE)?;
        let mut send = |id: u32, event: u16, value: u16| {
            let mut message = [0; 8];
            message[..4].copy_from_slice(&id.to_le_bytes());
            message[4..6].copy_from_slice(&event.to_le_bytes());
            message[6..].copy_from_slice(&value.to_le_bytes());
            // SAFETY: the spare part of the queue's frame; no chain is in flight.
            unsafe { control.spare().to_pointer().cast::<[u8; 8]>().write(message) };
            let buffer = Buffer { address: control.spare(), len: 8, writable: false };
            control.submit(core::iter::once(buffer), false);
            while control.take_used().is_none() {
                core::hint::spin_loop();
            }
        };
        send(u32::MAX, DEVICE_READY, 1);
        for port in 0..PORTS {
            send(port, PORT_READY, 1);
            send(port, PORT_OPEN, 1);
        }
        Ok(())
    }

    fn output(&mut self, port: u32) -> Result<&mut Queue> {
        let slot = self.output.get_mut(port as usize).ok_or(Errno::EIO)?;
        if slot.is_none() {
            *slot = Some(self.registers.enable_queue(transmit_queue(port))?);
        }
        slot.as_mut().ok_or(Errno::EIO)
    }

    fn input(&mut self, port: u32) -> Result<&mut Input> {
        let slot = self.input.get_mut(port as usize).ok_or(Errno::EIO)?;
        if slot.is_none() {
            let buffer =
                frame::allocate_block(INPUT_ORDER, Content::Overwritten).ok_or(Errno::ENOMEM)?;
            let queue = self.registers.enable_queue(receive_queue(port))?;
            *slot = Some(Input {
                queue,
                buffer,
                asked: false,
                ready: (0, 0),
                reading: false,
                ended: None,
            });
        }
        slot.as_mut().ok_or(Errno::EIO)
    }
}

/// The result that a device wrote behind a chain.
fn result_of(queue: &Queue) -> Result<usize> {
    // SAFETY: the spare part of the queue's frame, where the result descriptor points; the device has
    // returned the chain.
    let value = unsafe { queue.spare().to_pointer().cast::<i64>().read_volatile() };
    match usize::try_from(value) {
        Ok(count) => Ok(count),
        Err(_) => Err(Errno::from_number(value.unsigned_abs()).unwrap_or(Errno::EIO)),
    }
}

fn result_buffer(queue: &Queue) -> Buffer {
    Buffer { address: queue.spare(), len: 8, writable: true }
}

/// Writes all of a program's bytes to a port, waiting for the host to take them.
///
/// # Errors
/// What the host's `write` says, EFAULT, EIO without a console.
pub fn write(port: u32, data: &mut UserReader) -> Result<usize> {
    let mut done = 0;
    loop {
        match write_chain(port, data) {
            Ok(0) => return Ok(done),
            Ok(count) => done += count,
            Err(error) if done == 0 => return Err(error),
            Err(_) => return Ok(done),
        }
        if data.remaining() == 0 {
            return Ok(done);
        }
    }
}

/// Writes as much as one chain holds.
fn write_chain(port: u32, data: &mut UserReader) -> Result<usize> {
    let process = process::current();
    let mut pieces: [Buffer; OUTPUT_PIECES + 1] =
        [Buffer { address: PhysAddr(0), len: 0, writable: false }; OUTPUT_PIECES + 1];
    let mut held: Vec<Frame> = Vec::new();
    let mut count = 0;
    let mut total = 0;
    while count < OUTPUT_PIECES && data.remaining() > 0 {
        let piece = data.next_piece();
        let pinned = process.memory().pin(piece.start, Access::Read);
        let (address, frame) = match pinned {
            Ok(pinned) => pinned,
            Err(error) if total == 0 => return Err(error),
            Err(_) => break,
        };
        let len = piece.len.min(PAGE_SIZE - usize_from(address.0 % PAGE_SIZE as u64));
        if let Some(frame) = frame {
            held.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            held.push(frame);
        }
        pieces[count] = Buffer { address, len, writable: false };
        data.advance(len);
        count += 1;
        total += len;
    }
    if total == 0 {
        return Ok(0);
    }
    send(port, &mut pieces, count)?.map_or(Ok(total), |result| result)
}

/// Sends bytes of the kernel's own through a port.
///
/// # Errors
/// As for [`write`].
pub fn write_kernel(port: u32, bytes: &[u8]) -> Result<usize> {
    let frame = Frame::allocate_from_reserve(Content::Overwritten)?;
    let len = frame.fill(0, SharedBytes::from_slice(bytes));
    let nothing = Buffer { address: PhysAddr(0), len: 0, writable: false };
    let mut pieces = [Buffer { address: frame.address(), len, writable: false }, nothing];
    send(port, &mut pieces, 1)?.map_or(Ok(len), |result| result)
}

/// Sends `count` pieces, waits, and says what the device made of them; `None` if it has no results.
fn send(port: u32, pieces: &mut [Buffer], count: usize) -> Result<Option<Result<usize>>> {
    // What the host can take at once is taken when this returns.
    wait_for_device(|| {
        submit(port, pieces, count, false).map(|done| done.then_some(())).transpose()
    })?;
    if let Some(result) = take_sent(port)? {
        return Ok(result);
    }
    with(|device| {
        device.output(port)?.want_interrupt();
        Ok(())
    })?;
    wait_for_device(|| take_sent(port).transpose())
}

/// Waits for the device. Not interruptible: it has the program's pages, and the host decides how long it
/// takes.
fn wait_for_device<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    if boot::has_flag(flags::MSI) && process::exists() {
        return sched::wait_in_any_case(&WAITERS, condition);
    }
    // Before there is a thread; or another VMM's machine: under QEMU's microvm no interrupt of the second
    // I/O APIC has been seen to arrive, so output does not depend on one.
    loop {
        if let Some(value) = condition() {
            return value;
        }
        crate::arch::cpu::relax();
    }
}

/// Gives the device `count` pieces, unless it has others; the last one of `pieces` is for the result.
fn submit(port: u32, pieces: &mut [Buffer], count: usize, interrupt: bool) -> Result<bool> {
    with(|device| {
        let results = device.results;
        if device.sending[port as usize] {
            device.contended = true;
            return Ok(false);
        }
        let queue = device.output(port)?;
        pieces[count] = result_buffer(queue);
        let used = if results { count + 1 } else { count };
        queue.submit(pieces[..used].iter().copied(), interrupt);
        device.sending[port as usize] = true;
        Ok(true)
    })
}

/// What the device made of what it was given, once it is finished.
fn take_sent(port: u32) -> Result<Option<Option<Result<usize>>>> {
    let (sent, contended) = with(|device| {
        let results = device.results;
        let queue = device.output(port)?;
        let sent = queue.take_used().map(|_| results.then(|| result_of(queue)));
        if sent.is_none() {
            return Ok((None, false));
        }
        device.sending[port as usize] = false;
        Ok((sent, core::mem::take(&mut device.contended)))
    })?;
    if contended {
        WAITERS.wake_all();
    }
    Ok(sent)
}

/// Gives the device a page's bytes without waiting until it has taken them. The page stays allocated
/// and as it is, and nothing else is sent through the port, until [`finish_page`] says so.
///
/// # Errors
/// EIO without a console, ENOMEM.
pub fn start_page(port: u32, page: &Frame, len: usize) -> Result<()> {
    let nothing = Buffer { address: PhysAddr(0), len: 0, writable: false };
    let mut pieces = [Buffer { address: page.address(), len, writable: false }, nothing];
    if submit(port, &mut pieces, 1, true)? { Ok(()) } else { Err(Errno::EIO) }
}

/// Whether the device has taken the page, and what the host said.
pub fn finish_page(port: u32) -> Option<Result<()>> {
    match take_sent(port) {
        Ok(None) => None,
        Ok(Some(Some(Err(error)))) | Err(error) => Some(Err(error)),
        Ok(Some(_)) => Some(Ok(())),
    }
}

/// Asks the device for input, if there is none and it has not been asked; says whether there is.
///
/// # Errors
/// EIO without a console, ENOMEM.
pub fn poll_input(port: u32, want: usize) -> Result<bool> {
    with(|device| {
        let results = device.results;
        let input = device.input(port)?;
        if input.ready.1 > 0 || input.ended.is_some() {
            return Ok(true);
        }
        if input.asked {
            let Some(len) = input.queue.take_used() else { return Ok(false) };
            input.asked = false;
            let count = if results { result_of(&input.queue) } else { Ok(usize_from(len.into())) };
            match count {
                Ok(0) => input.ended = Some(Ok(())),
                Ok(count) => input.ready = (0, count.min(INPUT_SIZE)),
                Err(error) => input.ended = Some(Err(error)),
            }
            return Ok(true);
        }
        input.asked = true;
        let data = Buffer { address: input.buffer, len: want.clamp(1, INPUT_SIZE), writable: true };
        let chain = [data, result_buffer(&input.queue)];
        input.queue.submit(chain[..if results { 2 } else { 1 }].iter().copied(), true);
        Ok(false)
    })
}

/// Reads from a port, waiting until there is anything; 0 at the end of the input.
///
/// # Errors
/// What the host's `read` says, EINTR, EFAULT, EIO without a console.
pub fn read(port: u32, buffer: &mut UserWriter) -> Result<usize> {
    if buffer.remaining() == 0 {
        return Ok(0);
    }
    let ready = || begin_read(port, buffer.remaining()).transpose();
    let begun = wait(&[&WAITERS], None, ready)?.unwrap_or(Err(Errno::EINTR))?;
    let (start, available) = match begun {
        Begun::Ended(ended) => return ended.map(|()| 0),
        Begun::Bytes(start, available) => (start, available),
    };
    // SAFETY: the port's buffer stays allocated, and the device has given it back.
    let bytes = unsafe { SharedBytes::new(start.to_pointer(), available) };
    let written = buffer.write(bytes);
    with(|device| {
        let input = device.input(port)?;
        let count = *written.as_ref().unwrap_or(&0);
        input.reading = false;
        input.ready = (input.ready.0 + count, input.ready.1 - count);
        Ok(())
    })?;
    WAITERS.wake_all();
    written
}

/// What a reader found.
enum Begun {
    /// The end, or an error of the host's.
    Ended(Result<()>),
    /// Bytes, which nobody else takes until it is done: where, and how many.
    Bytes(PhysAddr, usize),
}

/// Reserves input that has arrived; `None` if there is none, or someone else copies it.
fn begin_read(port: u32, want: usize) -> Result<Option<Begun>> {
    if !poll_input(port, want)? {
        return Ok(None);
    }
    with(|device| {
        let input = device.input(port)?;
        if input.reading {
            return Ok(None);
        }
        if input.ready.1 == 0 {
            return Ok(input.ended.take().map(Begun::Ended));
        }
        input.reading = true;
        let start = PhysAddr(input.buffer.0 + input.ready.0 as u64);
        Ok(Some(Begun::Bytes(start, input.ready.1)))
    })
}

/// Takes input that has arrived; 0 at its end, `None` if someone else was quicker.
///
/// # Errors
/// What the host's `read` says.
pub fn take_input(port: u32, target: &mut [u8]) -> Result<Option<usize>> {
    with(|device| {
        let input = device.input(port)?;
        if input.ready.1 == 0 {
            return input.ended.take().transpose().map(|ended| ended.map(|()| 0));
        }
        let start = PhysAddr(input.buffer.0 + input.ready.0 as u64);
        // SAFETY: the port's buffer stays allocated, and the device has given it back.
        let count = unsafe { SharedBytes::new(start.to_pointer(), input.ready.1) }.copy_to(target);
        input.ready = (input.ready.0 + count, input.ready.1 - count);
        Ok(Some(count))
    })
}

/// Whether [`read`] would return at once. Asking makes the host read ahead, up to a page.
pub fn is_readable(port: u32) -> bool {
    poll_input(port, PAGE_SIZE).unwrap_or(true)
}

/// How many bytes can be read at once. Asking makes the host read ahead, up to a page.
///
/// # Errors
/// EIO without a console.
pub fn available(port: u32) -> Result<usize> {
    // What the device has at hand is there when it has been asked.
    if !poll_input(port, PAGE_SIZE)? {
        poll_input(port, PAGE_SIZE)?;
    }
    with(|device| Ok(device.input(port)?.ready.1))
}

/// The program changed what it does on signals: if one that the user may send no longer ends it, the
/// VMM shall deliver them instead of ending the machine.
pub fn offer_signals() {
    let process = process::current();
    let handles = {
        let mask = process.signals.lock().mask;
        let actions = process.actions().lock();
        FORWARDED.iter().any(|&signal| {
            mask & bit(signal) != 0 || actions.action(signal).handler != action::DEFAULT
        })
    };
    if handles {
        collect_signals();
    }
}

/// Takes signals that the user sent, and asks for the next.
fn collect_signals() {
    while poll_input(PORT_SIGNALS, 1).unwrap_or(false) {
        let mut byte = [0];
        if take_input(PORT_SIGNALS, &mut byte) != Ok(Some(1)) {
            return;
        }
        let [signal @ 1..=number::LAST] = byte else { continue };
        if let Some(first) = process::find(process::FIRST) {
            let _ = process::send_to_process(&first, Information::new(signal, SI_KERNEL, 0));
        }
    }
}

/// Columns and rows of the host's terminal.
///
/// # Errors
/// EIO without a console.
pub fn window_size() -> Result<(u16, u16)> {
    with(|device| Ok((device.registers.config_u16(0), device.registers.config_u16(2))))
}
