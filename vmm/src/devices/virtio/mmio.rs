//! The MMIO transport (virtio 1.2, section 4.2, register layout version 2).
//!
//! The driver owns every value that arrives here and may write any of them at any time, from any
//! vCPU. Nothing is believed before [`VirtQueue::enable`] has checked it; a queue that turns out
//! to be broken stops the device until the driver resets it (`DEVICE_NEEDS_RESET`).

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};

use super::memory::DeviceMemory;
use super::queue::{QueueRegisters, Queues, VirtQueue};
use super::{Device, Notify, Progress};
use crate::bus::Registers;

/// Register offsets: virtio 1.2, table 4.1.
pub mod register {
    #![allow(missing_docs, reason = "the names are those of the standard's table")]
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const LAYOUT_VERSION: u32 = 2;
/// Anything goes (section 4.2.2.1); these are the project's initials.
const VENDOR: u32 = u32::from_le_bytes(*b"AIRL");
/// InterruptStatus: a buffer was used.
const INTERRUPT_USED: u32 = 1;
/// InterruptStatus: the configuration changed, or the device needs a reset.
const INTERRUPT_CONFIG: u32 = 1 << 1;

/// A device with its registers and queues.
pub struct Transport<D, I, W> {
    device: D,
    interrupt: I,
    event_loop: W,
    memory: DeviceMemory,
    queues: Vec<VirtQueue>,
    programmed: Vec<QueueRegisters>,
    queue_sel: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    status: u32,
    interrupt_status: u32,
    config_generation: u32,
}

impl<D: Device, I: Notify, W: Notify> Transport<D, I, W> {
    /// A device in its reset state. `interrupt` interrupts the guest; `event_loop` gets
    /// [`Transport::attend`] called.
    pub fn new(device: D, memory: DeviceMemory, interrupt: I, event_loop: W) -> Self {
        Self {
            device,
            interrupt,
            event_loop,
            memory,
            queues: D::QUEUE_SIZES.iter().map(|size| VirtQueue::new(*size)).collect(),
            programmed: vec![QueueRegisters::default(); D::QUEUE_SIZES.len()],
            queue_sel: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            status: 0,
            interrupt_status: 0,
            config_generation: 0,
        }
    }

    /// The device.
    pub const fn device(&self) -> &D {
        &self.device
    }

    /// The device.
    pub const fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Feature bits that the driver may accept.
    fn features(&self) -> u64 {
        self.device.features() | 1 << VIRTIO_F_VERSION_1
    }

    const fn has(&self, status: u32) -> bool {
        self.status & status != 0
    }

    /// Whether buffers may be taken.
    const fn running(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has(VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)
    }

    /// Serves one queue, if the driver has come that far; says whether there is more to do.
    fn serve(&mut self, queue: usize) -> Progress {
        if !self.running() || !self.queues.get(queue).is_some_and(VirtQueue::ready) {
            return Progress::Done;
        }
        let mut queues = Queues::new(&mut self.queues, &self.memory);
        match self.device.process(queue, &mut queues) {
            Ok(progress) => progress,
            Err(error) => {
                log::debug!("virtio device of type {} needs a reset: {error}", D::TYPE);
                self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
                self.interrupt_status |= INTERRUPT_CONFIG;
                self.interrupt.notify();
                Progress::Done
            }
        }
    }

    /// Interrupts the guest if it wants to hear of buffers used meanwhile.
    fn interrupt_if_used(&mut self) {
        let mut wanted = false;
        for queue in &mut self.queues {
            wanted |= queue.ready() && queue.take_interrupt(&self.memory);
        }
        if wanted {
            self.interrupt_status |= INTERRUPT_USED;
            self.interrupt.notify();
        }
    }

    /// The driver says that a queue has new buffers: they are served on the vCPU that says so, for
    /// as long as nothing has to wait. The event loop does the rest.
    fn notified(&mut self, queue: usize) {
        if !D::SERVED_BY_VCPU {
            self.event_loop.notify();
            return;
        }
        let progress = self.serve(queue);
        self.interrupt_if_used();
        if progress == Progress::More || !self.device.interests().is_empty() {
            self.event_loop.notify();
        }
    }

    /// The event loop serves every queue.
    pub fn attend(&mut self) {
        let mut progress = Progress::Done;
        for queue in 0..self.queues.len() {
            if self.serve(queue) == Progress::More {
                progress = Progress::More;
            }
        }
        self.interrupt_if_used();
        if progress == Progress::More {
            self.event_loop.notify();
        }
    }

    /// Serves the queue that waited for a host file.
    pub fn file_ready(&mut self, file: std::os::fd::RawFd) {
        let Some(queue) = self.device.ready(file) else { return };
        let progress = self.serve(queue);
        self.interrupt_if_used();
        if progress == Progress::More {
            self.event_loop.notify();
        }
    }

    /// Lets the host change the device: `change` says whether it was its configuration.
    pub fn change(&mut self, change: impl FnOnce(&mut D, &mut Queues<'_>) -> bool) {
        if !self.running() {
            // Only the device's own state, which the driver will read when it starts.
            change(&mut self.device, &mut Queues::new(&mut [], &self.memory));
            return;
        }
        if change(&mut self.device, &mut Queues::new(&mut self.queues, &self.memory)) {
            self.config_generation = self.config_generation.wrapping_add(1);
            self.interrupt_status |= INTERRUPT_CONFIG;
            self.interrupt.notify();
        }
        self.interrupt_if_used();
    }

    fn reset(&mut self) {
        self.device.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.programmed.fill(QueueRegisters::default());
        self.queue_sel = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.status = 0;
        self.interrupt_status = 0;
    }

    /// The driver writes the status register (section 2.1): it only ever adds bits, or resets.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut added = value & 0xff & !self.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        let acceptable = self.driver_features & !self.features() == 0
            && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            if acceptable {
                self.device.accept(self.driver_features);
            } else {
                added &= !VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) && added & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            added &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.status |= added;
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_sel).ok().filter(|index| *index < self.queues.len())
    }

    fn read_register(&self, offset: u64) -> u32 {
        let half = |value: u64, selector: u32| {
            let [low, high] = [value & 0xffff_ffff, value >> 32];
            let chosen = match selector {
                0 => low,
                1 => high,
                _ => 0,
            };
            u32::try_from(chosen).unwrap_or(0)
        };
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => LAYOUT_VERSION,
            register::DEVICE_ID => D::TYPE,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => half(self.features(), self.device_features_sel),
            register::QUEUE_NUM_MAX => {
                self.selected().map_or(0, |index| self.queues[index].max_size().into())
            }
            register::QUEUE_READY => {
                self.selected().map_or(0, |index| self.queues[index].ready().into())
            }
            register::INTERRUPT_STATUS => self.interrupt_status,
            register::STATUS => self.status,
            // No shared memory region: length and base are all ones (section 4.2.2.1).
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH => u32::MAX,
            register::CONFIG_GENERATION => self.config_generation,
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            register::DRIVER_FEATURES if !self.has(VIRTIO_CONFIG_S_FEATURES_OK) => {
                match self.driver_features_sel {
                    0 => set_low(&mut self.driver_features, value),
                    1 => set_high(&mut self.driver_features, value),
                    _ => {}
                }
            }
            register::QUEUE_SEL => self.queue_sel = value,
            register::QUEUE_NOTIFY => self.notified(usize::try_from(value).unwrap_or(usize::MAX)),
            register::INTERRUPT_ACK => self.interrupt_status &= !value,
            register::STATUS => self.set_status(value),
            _ => self.write_queue_register(offset, value),
        }
    }

    fn write_queue_register(&mut self, offset: u64, value: u32) {
        let Some(index) = self.selected() else { return };
        let queue = &mut self.queues[index];
        let programmed = &mut self.programmed[index];
        if offset == register::QUEUE_READY {
            match value {
                0 => queue.reset(),
                _ if queue.ready() => {}
                _ if !queue.enable(*programmed, &self.memory) => {
                    log::debug!("virtio device of type {}: queue {index} is not usable", D::TYPE);
                }
                _ => {}
            }
            return;
        }
        // Section 4.2.2.2: none of these may change while the queue is enabled.
        if queue.ready() {
            return;
        }
        match offset {
            register::QUEUE_NUM => programmed.size = value,
            register::QUEUE_DESC_LOW => set_low(&mut programmed.descriptors, value),
            register::QUEUE_DESC_HIGH => set_high(&mut programmed.descriptors, value),
            register::QUEUE_DRIVER_LOW => set_low(&mut programmed.available, value),
            register::QUEUE_DRIVER_HIGH => set_high(&mut programmed.available, value),
            register::QUEUE_DEVICE_LOW => set_low(&mut programmed.used, value),
            register::QUEUE_DEVICE_HIGH => set_high(&mut programmed.used, value),
            _ => {}
        }
    }
}

fn set_low(register: &mut u64, value: u32) {
    *register = *register & !0xffff_ffff | u64::from(value);
}

fn set_high(register: &mut u64, value: u32) {
    *register = *register & 0xffff_ffff | u64::from(value) << 32;
}

impl<D: Device, I: Notify, W: Notify> Registers for Transport<D, I, W> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= register::CONFIG {
            self.device.read_config(offset - register::CONFIG, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            // Section 4.2.2.2: registers are accessed as aligned 32-bit words only.
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(word), true) = (<[u8; 4]>::try_from(data), offset < register::CONFIG) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }
}
