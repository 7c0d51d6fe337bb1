//! virtio-9p (virtio device type 9): a way from the guest to the server of a volume.
//!
//! The device looks at no message: it takes what a chain holds as one packet to the server's socket,
//! straight from guest memory, and puts the answer where the chain says. There is one request at a time,
//! and the server answers each once, so an answer belongs to the request before it.
//!
//! The tag is the path at which the guest shall mount it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use virtio_bindings::virtio_ids::VIRTIO_ID_9P;
use vmm_sys_util::epoll::EventSet;

use super::memory::{IoVectors, total};
use super::queue::{Chain, QueueError, Queues};
use super::{Device, Progress};
use crate::volume::MAX_MESSAGE;

const QUEUE: usize = 0;
/// The device has a tag.
const F_MOUNT_TAG: u64 = 1;
/// A message has a size, a type and a tag.
const MIN_MESSAGE: u64 = 7;
/// How many requests are served before others get their turn.
const TURN: usize = 64;
/// How long a vCPU waits for an answer that is not there at once, in milliseconds. Most take less than
/// it takes to interrupt the guest.
const PATIENCE: libc::c_int = 1;

/// What the server does.
enum State {
    /// It waits for a request.
    Idle,
    /// It serves this one; `None` if the guest has reset the device meanwhile.
    Busy(Option<Chain>),
    /// It is dead: the guest gets empty answers.
    Dead,
}

/// The device.
pub struct NineP {
    socket: OwnedFd,
    tag: Vec<u8>,
    state: State,
}

impl NineP {
    /// A device in front of a server's socket.
    pub const fn new(socket: OwnedFd, tag: Vec<u8>) -> Self {
        Self { socket, tag, state: State::Idle }
    }

    /// Moves a packet; `None` if that would have to wait.
    fn transfer(&self, number: libc::c_long, buffers: &[libc::iovec]) -> io::Result<Option<usize>> {
        // For a socket, which has no positions, -1 is the only one; the system call takes it in halves.
        let position: libc::c_long = -1;
        // SAFETY: the vectors point into guest memory, which is mapped for as long as their owner lives
        // and to which nothing keeps a reference, or to a buffer of the caller's.
        let result = unsafe {
            libc::syscall(
                number,
                self.socket.as_raw_fd(),
                buffers.as_ptr(),
                buffers.len(),
                position,
                position,
                0,
            )
        };
        if let Ok(count) = usize::try_from(result) {
            return Ok(Some(count));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            // A signal means that the machine ends; the caller has to get a chance to see that.
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }

    fn send(&self, buffers: &IoVectors<'_>) -> io::Result<()> {
        match self.transfer(libc::SYS_pwritev2, buffers.as_slice())? {
            Some(_) => Ok(()),
            // There is room for a message: the server has taken the one before.
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn die(&mut self, reason: &str) {
        log::debug!(
            "the server of volume {} is gone: {reason}",
            String::from_utf8_lossy(&self.tag)
        );
        self.state = State::Dead;
    }

    /// Passes the answer on, if it has come; says whether the server is done with the request.
    fn collect(&mut self, queues: &mut Queues<'_>) -> Result<bool, QueueError> {
        let State::Busy(chain) = &self.state else { return Ok(true) };
        let targets = chain
            .as_ref()
            .and_then(|chain| queues.memory.targets(&chain.writable, MAX_MESSAGE).ok())
            .filter(|targets| !targets.as_slice().is_empty());
        // An answer that nobody takes: a packet is gone however little of it is read.
        let mut scratch = [0u8; 1];
        let nowhere = [libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: 1 }];
        let buffers = targets.as_ref().map_or(&nowhere[..], IoVectors::as_slice);
        let received = self.transfer(libc::SYS_preadv2, buffers);
        let wanted = targets.is_some();
        let received = match received {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => Err("it has closed the connection".to_owned()),
            Ok(Some(count)) => Ok(if wanted { count } else { 0 }),
            Err(error) => Err(error.to_string()),
        };
        let State::Busy(chain) = std::mem::replace(&mut self.state, State::Idle) else {
            return Ok(true);
        };
        let count = received.unwrap_or_else(|reason| {
            self.die(&reason);
            0
        });
        if let Some(chain) = chain {
            queues.push(QUEUE, chain.head, u32::try_from(count).unwrap_or(0))?;
        }
        Ok(true)
    }

    /// Waits a moment for the answer.
    fn wait(&self) {
        let mut file =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: there is one structure.
        unsafe { libc::poll(&raw mut file, 1, PATIENCE) };
    }

    /// Sends a request on its way; says whether there is an answer to wait for.
    fn request(&mut self, chain: &Chain, queues: &Queues<'_>) -> bool {
        if matches!(self.state, State::Dead) {
            return false;
        }
        let size = total(&chain.readable);
        if size < MIN_MESSAGE || usize::try_from(size).is_ok_and(|size| size > MAX_MESSAGE) {
            return false;
        }
        let Ok(sources) = queues.memory.sources(&chain.readable, 0, MAX_MESSAGE) else {
            return false;
        };
        match self.send(&sources) {
            Ok(()) => true,
            Err(error) => {
                self.die(&error.to_string());
                false
            }
        }
    }
}

impl Device for NineP {
    const TYPE: u32 = VIRTIO_ID_9P;
    const QUEUE_SIZES: &'static [u16] = &[128];
    const SERVED_BY_VCPU: bool = true;

    fn features(&self) -> u64 {
        F_MOUNT_TAG
    }

    fn accept(&mut self, _features: u64) {}

    fn reset(&mut self) {
        // What the server is busy with, it answers: to nobody.
        if let State::Busy(chain) = &mut self.state {
            *chain = None;
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let length = u16::try_from(self.tag.len()).unwrap_or(u16::MAX).to_le_bytes();
        let bytes = length.iter().chain(&self.tag);
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        for (slot, byte) in data.iter_mut().zip(bytes.skip(skip)) {
            *slot = *byte;
        }
    }

    fn process(&mut self, queue: usize, queues: &mut Queues<'_>) -> Result<Progress, QueueError> {
        for _ in 0..TURN {
            if !self.collect(queues)? {
                return Ok(Progress::Done);
            }
            let Some(chain) = queues.pop(queue)? else { return Ok(Progress::Done) };
            if self.request(&chain, queues) {
                self.state = State::Busy(Some(chain));
                self.wait();
            } else {
                queues.push(QUEUE, chain.head, 0)?;
            }
        }
        Ok(Progress::More)
    }

    fn interests(&self) -> Vec<(RawFd, EventSet)> {
        match self.state {
            State::Busy(_) => vec![(self.socket.as_raw_fd(), EventSet::IN)],
            State::Idle | State::Dead => Vec::new(),
        }
    }

    fn ready(&mut self, file: RawFd) -> Option<usize> {
        (file == self.socket.as_raw_fd()).then_some(QUEUE)
    }

    fn cannot_wait(&mut self, _file: RawFd) {}
}

#[cfg(test)]
mod tests {
    use super::super::test_driver::{Driver, NEXT, WRITE};
    use super::*;
    use std::os::fd::FromRawFd;

    fn pair() -> [OwnedFd; 2] {
        let mut pair = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK;
        // SAFETY: there is room for two descriptors.
        let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
        assert_eq!(result, 0);
        // SAFETY: new descriptors that nobody else owns.
        pair.map(|file| unsafe { OwnedFd::from_raw_fd(file) })
    }

    fn driver() -> (Driver<NineP>, OwnedFd) {
        let [ours, theirs] = pair();
        (Driver::running(NineP::new(ours, b"/data".to_vec()), 1, &[0]), theirs)
    }

    fn send(socket: &OwnedFd, bytes: &[u8]) {
        // SAFETY: the bytes are readable.
        let sent = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(usize::try_from(sent), Ok(bytes.len()));
    }

    fn receive(socket: &OwnedFd) -> Vec<u8> {
        let mut bytes = vec![0; 1000];
        // SAFETY: the buffer is writable.
        let count =
            unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        bytes.truncate(usize::try_from(count).unwrap_or(0));
        bytes
    }

    const REQUEST: [(u64, u32, u16, u16); 2] = [(0x4000, 10, NEXT, 1), (0x5000, 100, WRITE, 0)];

    #[test]
    fn the_tag_is_in_the_configuration() {
        let (driver, _server) = driver();
        let mut config = [0xff; 9];
        driver.transport.device().read_config(0, &mut config[..7]);
        assert_eq!(&config, b"\x05\0/data\xff\xff");
    }

    #[test]
    fn a_request_is_one_packet_and_its_answer_goes_to_its_chain() {
        let (mut driver, server) = driver();
        driver.store_bytes(0x4000, b"0123456789");
        driver.post(0, 0, &REQUEST);
        driver.notify(0);
        assert_eq!(receive(&server), b"0123456789");
        assert_eq!(driver.used(0).0, 0);
        assert_eq!(driver.transport.device().interests().len(), 1);
        send(&server, b"answer");
        let file = driver.transport.device().socket.as_raw_fd();
        driver.transport.file_ready(file);
        assert_eq!(driver.used(0), (1, Some((0, 6))));
        assert_eq!(driver.load_bytes(0x5000, 6), b"answer");
        assert_eq!(driver.interrupts.take(), 1);
        assert!(driver.transport.device().interests().is_empty());
    }

    #[test]
    fn what_is_no_message_gets_an_empty_answer() {
        let (mut driver, server) = driver();
        let chains: [&[(u64, u32, u16, u16)]; 4] = [
            &[(0x4000, 6, NEXT, 1), (0x5000, 100, WRITE, 0)],
            &[(0x5000, 100, WRITE, 0)],
            &[(0x4000, u32::MAX / 2, NEXT, 1), (0x5000, 100, WRITE, 0)],
            &[(0xffff_ffff_0000, 10, NEXT, 1), (0x5000, 100, WRITE, 0)],
        ];
        for (count, chain) in (1..).zip(chains) {
            driver.post(0, 0, chain);
            driver.notify(0);
            assert_eq!(driver.used(0), (count, Some((0, 0))), "{chain:x?}");
        }
        assert_eq!(receive(&server), b"");
    }

    #[test]
    fn an_answer_that_has_nowhere_to_go_is_dropped() {
        let (mut driver, server) = driver();
        for (round, chain) in (1..).zip([
            vec![(0x4000, 10, 0, 0)],
            vec![(0x4000, 10, NEXT, 1), (0xffff_ffff_0000, 100, WRITE, 0)],
        ]) {
            driver.post(0, 0, &chain);
            driver.notify(0);
            assert_eq!(receive(&server).len(), 10);
            send(&server, b"a long answer");
            let file = driver.transport.device().socket.as_raw_fd();
            driver.transport.file_ready(file);
            assert_eq!(driver.used(0), (round, Some((0, 0))));
        }
    }

    #[test]
    fn a_reset_forgets_the_request_and_its_answer() {
        let (mut driver, server) = driver();
        driver.post(0, 0, &REQUEST);
        driver.notify(0);
        receive(&server);
        driver.write(super::super::mmio::register::STATUS, 0);
        send(&server, b"late");
        driver.store_bytes(Driver::<NineP>::rings(0), &[0; 0x300]);
        driver.negotiate(1 << 32);
        driver.enable(0);
        driver.write(super::super::mmio::register::STATUS, 0xf);
        driver.post(0, 0, &REQUEST);
        driver.notify(0);
        assert_eq!(driver.used(0).0, 0);
        send(&server, b"new");
        let file = driver.transport.device().socket.as_raw_fd();
        driver.transport.file_ready(file);
        assert_eq!(driver.used(0), (1, Some((0, 3))));
        assert_eq!(driver.load_bytes(0x5000, 4), b"new\0");
    }

    #[test]
    fn a_dead_server_gives_empty_answers_for_ever() {
        let (mut driver, server) = driver();
        driver.post(0, 0, &REQUEST);
        driver.notify(0);
        drop(server);
        let file = driver.transport.device().socket.as_raw_fd();
        driver.transport.file_ready(file);
        assert_eq!(driver.used(0), (1, Some((0, 0))));
        for round in 2..5 {
            driver.post(0, 0, &REQUEST);
            driver.notify(0);
            assert_eq!(driver.used(0), (round, Some((0, 0))));
        }
        assert!(driver.transport.device().interests().is_empty());
    }
}
