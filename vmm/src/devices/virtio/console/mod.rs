//! virtio-console (virtio 1.2, section 5.3): the program's input and output, one port each.
//!
//! `airlock_abi::console` says what the ports are and what Airlock adds to the standard. The
//! device never waits: what the host cannot take or give now stays posted, and
//! [`Device::interests`] names the file to watch.

mod control;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use airlock_abi::console::{
    CONTROL_RECEIVE_QUEUE, CONTROL_TRANSMIT_QUEUE, F_RESULT, PORT_SIGNALS, PORT_STDERR, PORT_STDIN,
    PORT_STDOUT, PORT_TERMINAL, PORT_TRACE, PORTS, QUEUES, receive_queue, transmit_queue,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use vmm_sys_util::epoll::EventSet;

use super::memory::{Segment, total};
use super::queue::{Chain, QueueError, Queues};
use super::{Device, Progress};
use crate::trace::TraceSink;
use control::Control;
pub use stream::Stream;

/// `VIRTIO_CONSOLE_F_SIZE`: columns and rows of the configuration are valid.
const F_SIZE: u32 = 0;
/// `VIRTIO_CONSOLE_F_MULTIPORT`: there are control queues and more than one port.
const F_MULTIPORT: u32 = 1;
/// Size of a result.
const RESULT_SIZE: u32 = 8;
/// How many buffers of a queue are served before others get their turn.
const TURN_BUFFERS: usize = 64;
/// How many bytes of a queue are moved before others get their turn.
const TURN_BYTES: u64 = 4 << 20;
/// How long a signal may wait for the driver; after that the next one ends the machine.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(1);
/// The longest buffer that the control and trace ports take.
const MAX_MESSAGE: usize = 64 << 10;

/// Where a port's input comes from.
#[derive(Debug)]
enum Source {
    /// There is none.
    None,
    /// A file of the host.
    Stream(Stream),
    /// Signals to this process, delivered by [`Console::signal`].
    Signals,
}

/// Where a port's output goes.
enum Sink {
    /// Nowhere: a write is an error.
    None,
    /// A file of the host.
    Stream(Stream),
    /// The decoder of system call records, if there is one.
    Trace(Option<Box<dyn TraceSink>>),
}

/// A port, with the buffer that it is busy with in each direction.
struct Port {
    source: Source,
    sink: Sink,
    /// A buffer that waits for input.
    receiving: Option<Chain>,
    /// A buffer of which so many bytes were written.
    sending: Option<(Chain, u64)>,
    /// The host file is watched: its buffer waits.
    awaits_input: bool,
    awaits_output: bool,
}

impl Port {
    const fn new(source: Source, sink: Sink) -> Self {
        Self {
            source,
            sink,
            receiving: None,
            sending: None,
            awaits_input: false,
            awaits_output: false,
        }
    }
}

/// The files behind the ports.
pub struct Files {
    /// Standard input, output and error of this process.
    pub standard: [RawFd; 3],
    /// The program has a terminal instead of the three.
    pub terminal: bool,
    /// Takes what [`PORT_TRACE`] transmits.
    pub trace: Option<Box<dyn TraceSink>>,
}

/// Signals on their way to the program.
#[derive(Debug, Default)]
struct Signals {
    /// The driver has asked for signals before, so it will again.
    wanted: bool,
    /// Numbers that wait for a buffer, each once, and since when the oldest does.
    pending: Vec<u8>,
    since: Option<Instant>,
}

/// The device.
pub struct Console {
    ports: [Port; PORTS as usize],
    control: Control,
    signals: Signals,
    results: bool,
    columns: u16,
    rows: u16,
}

/// Which port and direction a queue belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

fn role(queue: usize) -> Option<Role> {
    let number = u32::try_from(queue).ok()?;
    Some(match number {
        CONTROL_RECEIVE_QUEUE => Role::ControlReceive,
        CONTROL_TRANSMIT_QUEUE => Role::ControlTransmit,
        _ => {
            let port = (0..PORTS).find(|port| receive_queue(*port) == number & !1)?;
            let port = usize::try_from(port).ok()?;
            if number.is_multiple_of(2) { Role::Receive(port) } else { Role::Transmit(port) }
        }
    })
}

/// A result as the driver reads it.
fn result_of(error: &io::Error) -> i64 {
    -i64::from(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The segment for the result, which is the last one of a chain.
fn split_result(writable: &[Segment]) -> Option<(Segment, &[Segment])> {
    writable
        .split_last()
        .map(|(last, rest)| (*last, rest))
        .filter(|(last, _)| last.length >= RESULT_SIZE)
}

impl Console {
    /// A console with its ports connected.
    pub fn new(files: Files) -> Self {
        let [input, output, error] = files.standard;
        let mut ports = [const { Port::new(Source::None, Sink::None) }; PORTS as usize];
        let mut set = |port: u32, source, sink| ports[port as usize] = Port::new(source, sink);
        if files.terminal {
            set(
                PORT_TERMINAL,
                Source::Stream(Stream::new(input)),
                Sink::Stream(Stream::new(output)),
            );
        } else {
            set(PORT_STDIN, Source::Stream(Stream::new(input)), Sink::None);
            set(PORT_STDOUT, Source::None, Sink::Stream(Stream::new(output)));
            set(PORT_STDERR, Source::None, Sink::Stream(Stream::new(error)));
        }
        set(PORT_TRACE, Source::None, Sink::Trace(files.trace));
        set(PORT_SIGNALS, Source::Signals, Sink::None);
        Self {
            ports,
            control: Control::default(),
            signals: Signals::default(),
            results: false,
            columns: 0,
            rows: 0,
        }
    }

    /// The user sent a signal; says whether the program will be told.
    ///
    /// # Errors
    ///
    /// When the driver broke the queue.
    pub fn signal(&mut self, number: u8, queues: &mut Queues<'_>) -> Result<bool, QueueError> {
        let signals = &mut self.signals;
        if signals.since.is_some_and(|since| since.elapsed() > SIGNAL_PATIENCE) {
            return Ok(false);
        }
        if !signals.pending.contains(&number) {
            signals.pending.push(number);
        }
        self.deliver_signals(queues)?;
        Ok(self.signals.wanted)
    }

    /// Gives the driver signals that wait, as far as it has posted buffers.
    fn deliver_signals(&mut self, queues: &mut Queues<'_>) -> Result<(), QueueError> {
        let queue = receive_queue(PORT_SIGNALS) as usize;
        while let Some(number) = self.signals.pending.first().copied() {
            let Some(chain) = queues.pop(queue)? else { break };
            let data = match split_result(&chain.writable) {
                Some((_, data)) if self.results => data,
                _ => &chain.writable,
            };
            let stored = queues.memory.store(data, &[number]).unwrap_or(0);
            let length = finish(queues, &chain, self.results, i64::from(stored), stored);
            queues.push(queue, chain.head, length)?;
            self.signals.wanted = true;
            if stored == 1 {
                self.signals.pending.remove(0);
            }
            self.signals.since = None;
        }
        if self.signals.pending.is_empty() {
            self.signals.since = None;
        } else if self.signals.since.is_none() {
            self.signals.since = Some(Instant::now());
        }
        Ok(())
    }

    /// The terminal has this size; says whether that is news.
    pub fn resize(&mut self, columns: u16, rows: u16) -> bool {
        if (self.columns, self.rows) == (columns, rows) {
            return false;
        }
        (self.columns, self.rows) = (columns, rows);
        true
    }

    /// Tells a driver that listens to the control queue of the terminal's size.
    ///
    /// # Errors
    ///
    /// When the driver broke the queue.
    pub fn announce_size(&mut self, queues: &mut Queues<'_>) -> Result<(), QueueError> {
        self.control.resized(self.columns, self.rows);
        self.control.deliver(queues)
    }

    fn receive(
        &mut self,
        index: usize,
        queue: usize,
        queues: &mut Queues<'_>,
    ) -> Result<Progress, QueueError> {
        if matches!(self.ports[index].source, Source::Signals) {
            // Signals come when they come; their buffer stays in the ring until then.
            return self.deliver_signals(queues).map(|()| Progress::Done);
        }
        let port = &mut self.ports[index];
        port.awaits_input = false;
        for _ in 0..TURN_BUFFERS {
            let chain = match port.receiving.take() {
                Some(chain) => chain,
                None => match queues.pop(queue)? {
                    Some(chain) => chain,
                    None => return Ok(Progress::Done),
                },
            };
            let data = match split_result(&chain.writable) {
                Some((_, data)) if self.results => data,
                // A driver that breaks its word about results is not given data in their place.
                None if self.results => &[],
                _ => chain.writable.as_slice(),
            };
            let capacity = total(data);
            let outcome = match &mut port.source {
                Source::Stream(stream) if capacity > 0 => {
                    let chunk = stream.chunk();
                    queues.memory.targets(data, chunk).and_then(|targets| stream.read(&targets))
                }
                Source::Stream(_) => Ok(0),
                Source::None | Source::Signals => Err(io::Error::from_raw_os_error(libc::ENXIO)),
            };
            let (result, count) = match outcome {
                Ok(count) => (i64::try_from(count).unwrap_or(0), u32::try_from(count).unwrap_or(0)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    port.receiving = Some(chain);
                    port.awaits_input = true;
                    return Ok(Progress::Done);
                }
                Err(error) => (result_of(&error), 0),
            };
            if !self.results && count == 0 && capacity > 0 {
                // An ordinary console has no way to say "end" but to close the port.
                port.receiving = Some(chain);
                if matches!(port.source, Source::Stream(_)) {
                    port.source = Source::None;
                    self.control.closed(u32::try_from(index).unwrap_or(u32::MAX));
                    self.control.deliver(queues)?;
                }
                return Ok(Progress::Done);
            }
            // The used length counts a prefix of the buffer (section 2.7.8), so the result at its
            // end is part of it only if the data fills everything before.
            let full = u64::from(count) == capacity;
            let length = finish(queues, &chain, self.results, result, count);
            queues.push(queue, chain.head, if full { length } else { count })?;
        }
        Ok(Progress::More)
    }

    fn transmit(
        &mut self,
        index: usize,
        queue: usize,
        queues: &mut Queues<'_>,
    ) -> Result<Progress, QueueError> {
        let port = &mut self.ports[index];
        port.awaits_output = false;
        let mut moved = 0;
        for _ in 0..TURN_BUFFERS {
            let (chain, mut done) = match port.sending.take() {
                Some(sending) => sending,
                None => match queues.pop(queue)? {
                    Some(chain) => (chain, 0),
                    None => return Ok(Progress::Done),
                },
            };
            let size = total(&chain.readable);
            let result = loop {
                if done == size {
                    break i64::try_from(done).unwrap_or(i64::MAX);
                }
                let outcome = match &mut port.sink {
                    Sink::Stream(stream) => {
                        let chunk = stream.chunk();
                        queues
                            .memory
                            .sources(&chain.readable, done, chunk)
                            .and_then(|bytes| stream.write(&bytes))
                    }
                    Sink::Trace(Some(sink)) => {
                        queues.memory.copy(&chain.readable, MAX_MESSAGE).and_then(|records| {
                            sink.records(&records)?;
                            Ok(records.len())
                        })
                    }
                    Sink::Trace(None) => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
                    Sink::None => Err(io::Error::from_raw_os_error(libc::ENXIO)),
                };
                match outcome {
                    Ok(count) if count > 0 => {
                        let count = u64::try_from(count).unwrap_or(0);
                        done += count;
                        moved += count;
                        if moved >= TURN_BYTES && done < size {
                            port.sending = Some((chain, done));
                            return Ok(Progress::More);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        port.sending = Some((chain, done));
                        port.awaits_output = true;
                        return Ok(Progress::Done);
                    }
                    // As with write(2): what was written counts, and the next write gets the error.
                    Ok(_) | Err(_) if done > 0 => break i64::try_from(done).unwrap_or(i64::MAX),
                    Ok(_) => break -i64::from(libc::EIO),
                    Err(error) => break result_of(&error),
                }
            };
            let length = finish(queues, &chain, self.results, result, 0);
            queues.push(queue, chain.head, length)?;
        }
        Ok(Progress::More)
    }

    fn control_transmit(
        &mut self,
        queue: usize,
        queues: &mut Queues<'_>,
    ) -> Result<Progress, QueueError> {
        for _ in 0..TURN_BUFFERS {
            let Some(chain) = queues.pop(queue)? else { return Ok(Progress::Done) };
            if let Ok(message) = queues.memory.copy(&chain.readable, MAX_MESSAGE) {
                self.control.received(&message);
            }
            queues.push(queue, chain.head, 0)?;
            self.control.deliver(queues)?;
        }
        Ok(Progress::More)
    }
}

/// Stores the result, if the driver wants results; returns the bytes written to the chain, of which
/// `data` came before the result.
fn finish(queues: &Queues<'_>, chain: &Chain, results: bool, result: i64, data: u32) -> u32 {
    match split_result(&chain.writable) {
        Some((last, _)) if results => {
            data + queues.memory.store(&[last], &result.to_le_bytes()).unwrap_or(0)
        }
        _ => data,
    }
}

impl Device for Console {
    const TYPE: u32 = VIRTIO_ID_CONSOLE;
    const QUEUE_SIZES: &'static [u16] = &[64; QUEUES as usize];
    const SERVED_BY_VCPU: bool = true;

    fn features(&self) -> u64 {
        1 << F_SIZE | 1 << F_MULTIPORT | 1 << F_RESULT
    }

    fn accept(&mut self, features: u64) {
        self.results = features & 1 << F_RESULT != 0;
    }

    fn reset(&mut self) {
        self.results = false;
        self.signals = Signals::default();
        self.control.reset();
        for port in &mut self.ports {
            port.receiving = None;
            port.sending = None;
            port.awaits_input = false;
            port.awaits_output = false;
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_console_config: cols, rows, max_nr_ports, emerg_wr.
        let mut config = [0; 12];
        config[0..2].copy_from_slice(&self.columns.to_le_bytes());
        config[2..4].copy_from_slice(&self.rows.to_le_bytes());
        config[4..8].copy_from_slice(&PORTS.to_le_bytes());
        let rest =
            usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or(&[]);
        let length = rest.len().min(data.len());
        data[..length].copy_from_slice(&rest[..length]);
    }

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<Progress, QueueError> {
        match role(queue) {
            Some(Role::Receive(port)) => self.receive(port, queue, queues),
            Some(Role::Transmit(port)) => self.transmit(port, queue, queues),
            Some(Role::ControlReceive) => self.control.deliver(queues).map(|()| Progress::Done),
            Some(Role::ControlTransmit) => self.control_transmit(queue, queues),
            None => Ok(Progress::Done),
        }
    }

    fn interests(&self) -> Vec<(RawFd, EventSet)> {
        let mut interests = Vec::new();
        for port in &self.ports {
            if let (true, Source::Stream(stream)) = (port.awaits_input, &port.source) {
                interests.push((stream.file(), EventSet::IN));
            }
            if let (true, Sink::Stream(stream)) = (port.awaits_output, &port.sink) {
                interests.push((stream.file(), EventSet::OUT));
            }
        }
        interests
    }

    fn ready(&mut self, file: RawFd) -> Option<usize> {
        for (number, port) in (0..PORTS).zip(&mut self.ports) {
            if let (true, Source::Stream(stream)) = (port.awaits_input, &port.source)
                && stream.file() == file
            {
                return usize::try_from(receive_queue(number)).ok();
            }
            if let (true, Sink::Stream(stream)) = (port.awaits_output, &port.sink)
                && stream.file() == file
            {
                return usize::try_from(transmit_queue(number)).ok();
            }
        }
        None
    }

    fn cannot_wait(&mut self, file: RawFd) {
        for port in &mut self.ports {
            for stream in [
                match &mut port.source {
                    Source::Stream(stream) => Some(stream),
                    _ => None,
                },
                match &mut port.sink {
                    Sink::Stream(stream) => Some(stream),
                    _ => None,
                },
            ]
            .into_iter()
            .flatten()
            {
                if stream.file() == file {
                    stream.cannot_wait();
                }
            }
        }
    }
}
