//! The MMIO transport (virtio 1.2, section 4.2, register layout version 2).
//!
//! The driver owns every value that arrives here and may write any of them at any time, from any
//! vCPU. Nothing is believed before [`VirtQueue::enable`] has checked it; a queue that turns out
//! to be broken stops the device until the driver resets it (`DEVICE_NEEDS_RESET`).

use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
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

    /// Starts the device as a driver would that accepts all features and enables these queues, for a
    /// guest that is told so. From then on the guest owns all of it, as it would after doing so itself.
    pub fn start(&mut self, queues: impl IntoIterator<Item = (u32, QueueRegisters)>) {
        self.set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        self.driver_features = self.features();
        self.set_status(VIRTIO_CONFIG_S_FEATURES_OK);
        for (index, registers) in queues {
            self.queue_sel = index;
            if let Some(index) = self.selected() {
                self.programmed[index] = registers;
                self.write_queue_register(register::QUEUE_READY, 1);
            }
        }
        self.set_status(VIRTIO_CONFIG_S_DRIVER_OK);
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

#[cfg(test)]
mod tests {
    use super::super::queue::QueueError;
    use super::super::rng::Rng;
    use super::super::test_driver::{Driver, NEXT, SIZE, WRITE};
    use super::*;

    /// Uses every buffer as it comes, and says in its length how many segments it had.
    #[derive(Default)]
    struct Sponge {
        accepted: Option<u64>,
    }

    impl Device for Sponge {
        const TYPE: u32 = 42;
        const QUEUE_SIZES: &'static [u16] = &[8, 16];
        const SERVED_BY_VCPU: bool = true;

        fn features(&self) -> u64 {
            0b101
        }

        fn accept(&mut self, features: u64) {
            self.accepted = Some(features);
        }

        fn reset(&mut self) {
            self.accepted = None;
        }

        fn read_config(&self, offset: u64, data: &mut [u8]) {
            data.fill(0x40 + offset.to_le_bytes()[0]);
        }

        fn process(
            &mut self,
            queue: usize,
            queues: &mut Queues<'_>,
        ) -> Result<Progress, QueueError> {
            while let Some(chain) = queues.pop(queue)? {
                let segments = u32::try_from(chain.readable.len() + 100 * chain.writable.len());
                queues.push(queue, chain.head, segments.expect("few"))?;
            }
            Ok(Progress::Done)
        }

        fn interests(&self) -> Vec<(std::os::fd::RawFd, vmm_sys_util::epoll::EventSet)> {
            Vec::new()
        }

        fn ready(&mut self, _file: std::os::fd::RawFd) -> Option<usize> {
            None
        }

        fn cannot_wait(&mut self, _file: std::os::fd::RawFd) {}
    }

    const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

    #[test]
    fn device_introduces_itself() {
        let mut driver = Driver::new(Sponge::default());
        assert_eq!(driver.read(register::MAGIC_VALUE), 0x7472_6976);
        assert_eq!(driver.read(register::VERSION), 2);
        assert_eq!(driver.read(register::DEVICE_ID), 42);
        assert_eq!(driver.read(register::DEVICE_FEATURES), 0b101);
        driver.write(register::DEVICE_FEATURES_SEL, 1);
        assert_eq!(driver.read(register::DEVICE_FEATURES), 1);
        driver.write(register::DEVICE_FEATURES_SEL, 2);
        assert_eq!(driver.read(register::DEVICE_FEATURES), 0);
        for (queue, size) in [(0, 8), (1, 16), (2, 0), (u32::MAX, 0)] {
            driver.write(register::QUEUE_SEL, queue);
            assert_eq!(driver.read(register::QUEUE_NUM_MAX), size);
        }
        assert_eq!(driver.read(register::SHM_LEN_LOW), u32::MAX);
        assert_eq!(driver.read(register::CONFIG + 1), 0x4141_4141);
    }

    #[test]
    fn features_must_be_offered_and_modern() {
        for (features, agreed) in
            [(VERSION_1, true), (VERSION_1 | 4, true), (VERSION_1 | 2, false), (1, false)]
        {
            let mut driver = Driver::new(Sponge::default());
            driver.negotiate(features);
            assert_eq!(driver.read(register::STATUS) & 8 != 0, agreed, "{features:#x}");
            assert_eq!(driver.transport.device().accepted, agreed.then_some(features));
            // Too late to change one's mind, and no way around.
            driver.write(register::STATUS, 0xf);
            assert_eq!(driver.read(register::STATUS) & 4 != 0, agreed, "{features:#x}");
        }
    }

    #[test]
    fn only_aligned_words_reach_registers() {
        let mut driver = Driver::new(Sponge::default());
        for size in [0, 1, 2, 3, 8, 64] {
            let mut data = vec![0xaa; size];
            driver.transport.read(register::MAGIC_VALUE, &mut data);
            assert_eq!(data, vec![0; size]);
            driver.transport.write(register::STATUS, &vec![1; size]);
        }
        driver.write(register::STATUS + 1, 1);
        assert_eq!(driver.read(register::STATUS), 0);
        assert_eq!(driver.read(register::MAGIC_VALUE + 2), 0);
    }

    #[test]
    fn queues_outside_memory_or_misaligned_stay_off() {
        let mut driver = Driver::new(Sponge::default());
        driver.negotiate(VERSION_1);
        let good = [0x1000, 0x1100, 0x1200];
        for (size, addresses) in [
            (0, good),
            (3, good),
            (16, good),
            (0x1_0008, good),
            (u32::MAX, good),
            (8, [0x1008, 0x1100, 0x1200]),
            (8, [0x1000, 0x1101, 0x1200]),
            (8, [0x1000, 0x1100, 0x1202]),
            (8, [0x1000, 0, 0x1200]),
            // Behind RAM, across its end, in memory that is only readable, and at the end of everything.
            (8, [0x9_0000, 0x1100, 0x1200]),
            (8, [0xfff0, 0x1100, 0x1200]),
            (8, [0x1000, 0x1100, 0x1_0000]),
            (8, [0x1000, 0x1100, u64::MAX - 3]),
            (8, [u64::MAX - 15, 0x1100, 0x1200]),
        ] {
            assert!(!driver.program(0, size, addresses), "{size} {addresses:x?}");
        }
        assert!(driver.program(0, 8, good));
        // Enabled, it does not change.
        assert!(driver.program(0, 4, [0x9_0000; 3]));
        driver.write(register::QUEUE_READY, 0);
        assert_eq!(driver.read(register::QUEUE_READY), 0);
    }

    #[test]
    fn buffers_come_back_and_interrupt() {
        let mut driver = Driver::running(Sponge::default(), 0, &[1]);
        driver.post(
            1,
            3,
            &[(0x4000, 1, NEXT, 4), (0x5000, 1, NEXT | WRITE, 5), (0x6000, 1, WRITE, 0)],
        );
        driver.notify(1);
        assert_eq!(driver.used(1), (1, Some((3, 201))));
        assert_eq!((driver.interrupts.take(), driver.wakes.take()), (1, 0));
        assert_eq!(driver.read(register::INTERRUPT_STATUS), 1);
        driver.write(register::INTERRUPT_ACK, 1);
        assert_eq!(driver.read(register::INTERRUPT_STATUS), 0);
        driver.suppress(1);
        driver.post(1, 0, &[(0x4000, 1, 0, 0)]);
        driver.notify(1);
        assert_eq!(driver.used(1), (2, Some((0, 1))));
        assert_eq!(driver.interrupts.take(), 0);
    }

    #[test]
    fn notifications_before_their_time_do_nothing() {
        let mut driver = Driver::new(Sponge::default());
        driver.notify(0);
        driver.negotiate(VERSION_1);
        driver.enable(0);
        driver.post(0, 0, &[(0x4000, 1, 0, 0)]);
        driver.notify(0);
        assert_eq!(driver.used(0).0, 0, "not before DRIVER_OK");
        driver.write(register::STATUS, 0xf);
        for queue in [1, 2, u16::MAX] {
            driver.notify(queue);
        }
        assert_eq!(driver.used(0).0, 0);
        driver.notify(0);
        assert_eq!(driver.used(0).0, 1);
    }

    #[test]
    fn a_started_device_is_one_that_a_driver_started() {
        let mut by_driver = Driver::running(Sponge::default(), 0b101, &[1]);
        let mut started = Driver::new(Sponge::default());
        started.transport.start([(1, by_driver.transport.programmed[1])]);
        assert_eq!(started.transport.device().accepted, Some(0b101 | VERSION_1));
        for driver in [&mut by_driver, &mut started] {
            driver.post(1, 0, &[(0x4000, 10, 0, 0)]);
            driver.notify(1);
            assert_eq!(driver.used(1), (1, Some((0, 1))));
            assert_eq!(driver.read(register::STATUS), 0xf);
        }
    }

    #[test]
    fn queue_may_be_enabled_late() {
        let mut driver = Driver::running(Sponge::default(), 0, &[0]);
        driver.enable(1);
        driver.post(1, 0, &[(0x4000, 1, 0, 0)]);
        driver.notify(1);
        assert_eq!(driver.used(1).0, 1);
    }

    #[test]
    fn reset_forgets_everything() {
        let mut driver = Driver::running(Sponge::default(), 5, &[0, 1]);
        driver.post(0, 0, &[(0x4000, 1, 0, 0)]);
        driver.notify(0);
        driver.write(register::STATUS, 0);
        assert_eq!(driver.transport.device().accepted, None);
        for register in [register::STATUS, register::INTERRUPT_STATUS, register::QUEUE_READY] {
            assert_eq!(driver.read(register), 0);
        }
        driver.post(0, 0, &[(0x4000, 1, 0, 0)]);
        driver.notify(0);
        assert_eq!(driver.used(0).0, 1, "nothing was used after the reset");
    }

    #[test]
    fn broken_rings_stop_the_device_until_reset() {
        let mut driver = Driver::running(Sponge::default(), 0, &[0]);
        // More available buffers than descriptors.
        driver.store(Driver::<Sponge>::rings(0) + 0x102, SIZE + 1);
        driver.notify(0);
        assert_eq!(driver.read(register::STATUS) & 0x40, 0x40);
        assert_eq!(driver.read(register::INTERRUPT_STATUS), 2);
        assert_eq!(driver.interrupts.take(), 1);
        // The driver cannot clear it but by a reset, and hears of it once.
        driver.write(register::STATUS, 0xf);
        driver.notify(0);
        assert_eq!((driver.read(register::STATUS) & 0x40, driver.interrupts.take()), (0x40, 0));
        driver.write(register::STATUS, 0);
        assert_eq!(driver.read(register::STATUS), 0);
    }

    #[test]
    fn chains_that_loop_or_lead_nowhere_end() {
        let mut driver = Driver::running(Sponge::default(), 0, &[0]);
        // Itself, a descriptor that does not exist, a head that does not exist, an indirect table nowhere.
        driver.post(0, 0, &[(0x4000, 1, NEXT, 0)]);
        driver.post(0, 1, &[(0x4000, 1, NEXT, 1000)]);
        driver.post(0, 2, &[(u64::MAX, 16, 4, 0)]);
        driver.notify(0);
        assert_eq!(driver.used(0), (3, Some((2, 0))));
        driver.post(0, SIZE + 5, &[]);
        driver.notify(0);
        assert_eq!(driver.read(register::STATUS) & 0x40, 0x40);
    }

    #[test]
    fn indirect_tables_cannot_be_endless() {
        let mut driver = Driver::running(Sponge::default(), 0, &[0]);
        // 65535 descriptors that overlay all memory, most of them with garbage.
        for at in 0..0x800_u64 {
            driver.store(0x4000 + 16 * at, 0x4000_u64);
            driver.store(0x4000 + 16 * at + 8, 1_u32);
            driver.store(0x4000 + 16 * at + 12, NEXT);
            driver.store(0x4000 + 16 * at + 14, u16::try_from(at + 1).expect("few"));
        }
        driver.post(0, 0, &[(0x4000, 16 * 0x7ff, 4, 0)]);
        driver.notify(0);
        assert_eq!(driver.read(register::STATUS) & 0x40, 0x40, "too many segments");
    }

    #[test]
    fn event_loop_serves_what_vcpus_do_not() {
        let mut driver = Driver::running(Rng, 0, &[0]);
        driver.post(0, 0, &[(0x4000, 0x20, WRITE, 0)]);
        driver.notify(0);
        assert_eq!((driver.used(0).0, driver.wakes.take()), (0, 1));
        driver.transport.attend();
        assert_eq!(driver.used(0), (1, Some((0, 0x20))));
        assert_ne!(driver.load::<u128>(0x4000), 0);
    }

    #[test]
    fn random_bytes_are_bounded_and_stay_in_memory() {
        let mut driver = Driver::running(Rng, 0, &[0]);
        driver.post(0, 0, &[(0x4000, u32::MAX, WRITE, 0)]);
        driver.post(0, 1, &[(0x9_0000, 8, WRITE, 0)]);
        driver.post(0, 2, &[(0x4000, 8, 0, 0)]);
        driver.transport.attend();
        assert_eq!(driver.used(0), (3, Some((2, 0))));
        assert_eq!(driver.load::<u32>(Driver::<Rng>::rings(0) + 0x208), 4096, "one buffer's bound");
    }

    #[test]
    fn any_write_anywhere_is_survived() {
        let mut driver = Driver::running(Sponge::default(), 0, &[0, 1]);
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 33).expect("31 bits")
        };
        for _ in 0..200_000 {
            let offset = u64::from(random() % 0x140) & !3;
            // Small values mean something to most registers.
            let value = random() >> (random() % 31);
            driver.write(offset, value);
            driver.read(offset);
            if random() % 16 == 0 {
                driver.store(u64::from(0x1000 + random() % 0x800) & !3, random());
            }
        }
    }
}
