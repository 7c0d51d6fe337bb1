//! Messages of the control queues (virtio 1.2, section 5.3.6.2), for drivers of ordinary multiport
//! consoles such as Linux's.

use std::collections::VecDeque;

use airlock_abi::console::{CONTROL_RECEIVE_QUEUE, PORT_NAMES, PORT_TERMINAL, PORTS};

use super::super::queue::{QueueError, Queues};

/// `struct virtio_console_control`, without what may follow.
const MESSAGE_SIZE: usize = 8;
/// More messages than this do not wait for a driver that posts no buffers.
const MAX_PENDING: usize = 64;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const RESIZE: u16 = 5;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// What the device has to tell the driver, in order.
#[derive(Debug, Default)]
pub struct Control {
    pending: VecDeque<Vec<u8>>,
}

fn message(port: u32, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MESSAGE_SIZE + rest.len());
    bytes.extend_from_slice(&port.to_le_bytes());
    bytes.extend_from_slice(&event.to_le_bytes());
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

impl Control {
    /// Forgets everything that the driver was not told.
    pub fn reset(&mut self) {
        self.pending.clear();
    }

    fn send(&mut self, message: Vec<u8>) {
        if self.pending.len() < MAX_PENDING {
            self.pending.push_back(message);
        }
    }

    /// The terminal's size is another.
    pub fn resized(&mut self, columns: u16, rows: u16) {
        let [c0, c1] = columns.to_le_bytes();
        let [r0, r1] = rows.to_le_bytes();
        // Linux reads rows first, the standard says columns first; Linux is what drivers follow.
        self.send(message(PORT_TERMINAL, RESIZE, 0, &[r0, r1, c0, c1]));
    }

    /// The host's side of a port ended.
    pub fn closed(&mut self, port: u32) {
        self.send(message(port, PORT_OPEN, 0, &[]));
    }

    /// The driver said something; answers what it wants to know.
    pub fn received(&mut self, bytes: &[u8]) {
        let Some((head, _)) = bytes.split_first_chunk::<MESSAGE_SIZE>() else { return };
        let [p0, p1, p2, p3, e0, e1, v0, v1] = *head;
        let port = u32::from_le_bytes([p0, p1, p2, p3]);
        let value = u16::from_le_bytes([v0, v1]);
        match u16::from_le_bytes([e0, e1]) {
            DEVICE_READY if value == 1 => {
                for port in 0..PORTS {
                    self.send(message(port, DEVICE_ADD, 1, &[]));
                }
            }
            PORT_READY if value == 1 => {
                let name = usize::try_from(port).ok().and_then(|index| PORT_NAMES.get(index));
                let Some(name) = name else { return };
                if port == PORT_TERMINAL {
                    self.send(message(port, CONSOLE_PORT, 1, &[]));
                }
                self.send(message(port, PORT_NAME, 1, name.as_bytes()));
                self.send(message(port, PORT_OPEN, 1, &[]));
            }
            // That the driver opened or closed a port changes nothing here.
            _ => {}
        }
    }

    /// Delivers as many messages as the driver has posted buffers.
    ///
    /// # Errors
    ///
    /// When the driver broke the queue.
    pub fn deliver(&mut self, queues: &mut Queues<'_>) -> Result<(), QueueError> {
        let queue = usize::try_from(CONTROL_RECEIVE_QUEUE).unwrap_or(usize::MAX);
        while let Some(message) = self.pending.front() {
            let Some(chain) = queues.pop(queue)? else { break };
            let stored = queues.memory.store(&chain.writable, message).unwrap_or(0);
            queues.push(queue, chain.head, stored)?;
            self.pending.pop_front();
        }
        Ok(())
    }
}
