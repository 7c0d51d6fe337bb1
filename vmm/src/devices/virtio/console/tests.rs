//! The console, driven through its registers, with pipes as the host's files.

use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};

use super::super::test_driver::{Driver, NEXT, WRITE};
use super::*;

const RESULTS: u32 = 1 << F_RESULT;
const MULTIPORT: u32 = 1 << F_MULTIPORT;
const DATA: u64 = 0x8000;
const RESULT: u64 = 0x9000;

/// The other ends of the pipes.
struct Host {
    input: PipeWriter,
    output: PipeReader,
    error: PipeReader,
    /// Our ends, which the console uses.
    _ours: (PipeReader, PipeWriter, PipeWriter),
}

fn files() -> (Files, Host) {
    let (input, output, error) =
        (pipe().expect("a pipe"), pipe().expect("a pipe"), pipe().expect("a pipe"));
    let files = Files {
        standard: [input.0.as_raw_fd(), output.1.as_raw_fd(), error.1.as_raw_fd()],
        terminal: false,
        trace: None,
    };
    (
        files,
        Host {
            input: input.1,
            output: output.0,
            error: error.0,
            _ours: (input.0, output.1, error.1),
        },
    )
}

fn queue_number(queue: u32) -> u16 {
    u16::try_from(queue).expect("few queues")
}

fn receiving(port: u32) -> u16 {
    queue_number(receive_queue(port))
}

fn transmitting(port: u32) -> u16 {
    queue_number(transmit_queue(port))
}

/// A driver that uses results, with all queues enabled.
fn fast() -> (Driver<Console>, Host) {
    let (files, host) = files();
    (with(files, RESULTS), host)
}

fn with(files: Files, features: u32) -> Driver<Console> {
    let queues: Vec<u16> = (0..queue_number(QUEUES)).collect();
    Driver::running(Console::new(files), features, &queues)
}

/// Transmits what lies at `DATA`.
fn send(driver: &mut Driver<Console>, port: u32, length: u32) {
    driver.store(RESULT, i64::MIN);
    driver.post(transmitting(port), 0, &[(DATA, length, NEXT, 1), (RESULT, 8, WRITE, 0)]);
    driver.notify(transmitting(port));
}

/// Posts a buffer of this size.
fn receive(driver: &mut Driver<Console>, port: u32, size: u32) {
    driver.store(RESULT, i64::MIN);
    driver.post(receiving(port), 0, &[(DATA, size, NEXT | WRITE, 1), (RESULT, 8, WRITE, 0)]);
    driver.notify(receiving(port));
}

fn result(driver: &Driver<Console>) -> i64 {
    driver.load(RESULT)
}

#[test]
fn roles_of_queues_follow_the_standard() {
    let roles: Vec<_> = (0..8).map(role).collect();
    let expected = [
        Role::Receive(0),
        Role::Transmit(0),
        Role::ControlReceive,
        Role::ControlTransmit,
        Role::Receive(1),
        Role::Transmit(1),
        Role::Receive(2),
        Role::Transmit(2),
    ];
    assert_eq!(roles, expected.map(Some));
    assert_eq!(role(usize::try_from(QUEUES).expect("few")), None);
    assert_eq!(role(usize::MAX), None);
}

#[test]
fn output_goes_to_its_file_with_a_result() {
    let (mut driver, mut host) = fast();
    driver.store(DATA, *b"to outto error..");
    send(&mut driver, PORT_STDOUT, 6);
    assert_eq!((result(&driver), driver.used(transmitting(PORT_STDOUT))), (6, (1, Some((0, 8)))));
    driver.store(DATA, *b"to error");
    send(&mut driver, PORT_STDERR, 8);
    assert_eq!((result(&driver), driver.wakes.take(), driver.interrupts.take()), (8, 0, 2));
    drop(driver);
    let mut text = [0; 6];
    host.output.read_exact(&mut text).expect("output");
    assert_eq!(&text, b"to out");
    let mut text = [0; 8];
    host.error.read_exact(&mut text).expect("output");
    assert_eq!(&text, b"to error");
}

#[test]
fn nothing_is_read_before_a_buffer_is_posted_and_no_more_than_fits() {
    let (mut driver, mut host) = fast();
    host.input.write_all(b"abcdef").expect("a pipe");
    driver.transport.attend();
    assert_eq!(driver.used(receiving(PORT_STDIN)).0, 0);
    receive(&mut driver, PORT_STDIN, 4);
    assert_eq!((result(&driver), driver.load::<[u8; 6]>(DATA)), (4, *b"abcd\0\0"));
    assert_eq!(driver.used(receiving(PORT_STDIN)).1, Some((0, 12)), "a full buffer and its result");
    receive(&mut driver, PORT_STDIN, 100);
    assert_eq!((result(&driver), driver.load::<[u8; 3]>(DATA)), (2, *b"efc"));
    assert_eq!(driver.used(receiving(PORT_STDIN)).1, Some((0, 2)), "only a prefix counts");
}

#[test]
fn a_buffer_waits_for_input_and_the_end_is_a_result_of_zero() {
    let (mut driver, mut host) = fast();
    receive(&mut driver, PORT_STDIN, 100);
    let file = driver.transport.device().interests();
    assert_eq!((file.len(), file[0].1, driver.wakes.take()), (1, EventSet::IN, 1));
    assert_eq!(driver.used(receiving(PORT_STDIN)).0, 0);
    host.input.write_all(b"x").expect("a pipe");
    driver.transport.file_ready(file[0].0);
    assert_eq!((result(&driver), driver.interrupts.take()), (1, 1));
    assert!(driver.transport.device().interests().is_empty());
    receive(&mut driver, PORT_STDIN, 100);
    drop(host.input);
    driver.transport.file_ready(file[0].0);
    assert_eq!((result(&driver), driver.used(receiving(PORT_STDIN)).0), (0, 2));
    // Nobody waits any more: a late event is no trouble.
    driver.transport.file_ready(file[0].0);
    driver.transport.file_ready(-1);
}

#[test]
fn a_full_pipe_is_waited_for() {
    let (mut driver, mut host) = fast();
    // Linux's pipes hold 64 KiB; these chains are 4 KiB.
    let mut sent = 0;
    while driver.transport.device().interests().is_empty() {
        driver.store_bytes(DATA, &[sent; 4096]);
        send(&mut driver, PORT_STDOUT, 4096);
        sent += 1;
    }
    assert_eq!((i64::from(sent), result(&driver)), (17, i64::MIN));
    let (file, events) = driver.transport.device().interests()[0];
    assert_eq!(events, EventSet::OUT);
    // More that is posted meanwhile changes nothing.
    driver.transport.attend();
    assert_eq!(driver.used(transmitting(PORT_STDOUT)).0, 16);
    let mut text = vec![0; 65536];
    host.output.read_exact(&mut text).expect("output");
    driver.transport.file_ready(file);
    assert_eq!((result(&driver), driver.used(transmitting(PORT_STDOUT)).0), (4096, 17));
    host.output.read_exact(&mut text[..4096]).expect("output");
    assert_eq!(text[..4096], [16; 4096]);
}

#[test]
fn errors_of_the_host_are_results() {
    let (mut driver, host) = fast();
    drop(host.output);
    send(&mut driver, PORT_STDOUT, 6);
    assert_eq!(result(&driver), -i64::from(libc::EPIPE));
    let (mut files, _host) = self::files();
    files.standard = [-1, -1, -1];
    let mut driver = with(files, RESULTS);
    send(&mut driver, PORT_STDOUT, 6);
    assert_eq!(result(&driver), -i64::from(libc::EBADF));
    receive(&mut driver, PORT_STDIN, 6);
    assert_eq!(result(&driver), -i64::from(libc::EBADF));
}

#[test]
fn ports_have_a_direction() {
    let (mut driver, _host) = fast();
    for port in [PORT_STDIN, PORT_TERMINAL, PORT_SIGNALS] {
        send(&mut driver, port, 6);
        assert_eq!(result(&driver), -i64::from(libc::ENXIO), "{port}");
    }
    for port in [PORT_STDOUT, PORT_STDERR, PORT_TERMINAL, PORT_TRACE] {
        receive(&mut driver, port, 6);
        assert_eq!(result(&driver), -i64::from(libc::ENXIO), "{port}");
    }
}

#[test]
fn bad_buffers_are_results_too() {
    let (mut driver, _host) = fast();
    driver.store(RESULT, 0_i64);
    driver.post(transmitting(PORT_STDOUT), 0, &[(1 << 40, 6, NEXT, 1), (RESULT, 8, WRITE, 0)]);
    driver.notify(transmitting(PORT_STDOUT));
    assert_eq!(result(&driver), -i64::from(libc::EFAULT));
    // No room for a result, or none that is memory: the buffer comes back all the same.
    driver.post(transmitting(PORT_STDOUT), 0, &[(DATA, 6, NEXT, 1), (RESULT, 4, WRITE, 0)]);
    driver.post(transmitting(PORT_STDOUT), 2, &[(DATA, 6, NEXT, 3), (1 << 40, 8, WRITE, 0)]);
    driver.post(transmitting(PORT_STDOUT), 4, &[(DATA, 6, 0, 0)]);
    driver.notify(transmitting(PORT_STDOUT));
    assert_eq!(driver.used(transmitting(PORT_STDOUT)), (4, Some((4, 0))));
    // Input is not stored where the driver promised room for a result.
    driver.store(RESULT, 7_u32);
    driver.post(receiving(PORT_STDIN), 0, &[(RESULT, 4, WRITE, 0)]);
    driver.notify(receiving(PORT_STDIN));
    assert_eq!((driver.load::<u32>(RESULT), driver.used(receiving(PORT_STDIN)).0), (7, 1));
}

#[test]
fn a_reset_drops_what_waits() {
    let (mut driver, mut host) = fast();
    receive(&mut driver, PORT_STDIN, 100);
    driver.write(super::super::mmio::register::STATUS, 0);
    assert!(driver.transport.device().interests().is_empty());
    host.input.write_all(b"x").expect("a pipe");
    driver.transport.attend();
    assert_eq!(driver.used(receiving(PORT_STDIN)).0, 0);
}

#[test]
fn signals_need_a_posted_buffer() {
    let (mut driver, _host) = fast();
    let deliver = |driver: &mut Driver<Console>, number| {
        let mut delivered = None;
        driver.transport.change(|console, queues| {
            delivered = console.signal(number, queues).ok();
            false
        });
        delivered.expect("rings that work")
    };
    assert!(!deliver(&mut driver, 2), "nobody has asked: the machine ends");
    let (mut driver, _host) = fast();
    receive(&mut driver, PORT_SIGNALS, 1);
    assert_eq!(result(&driver), i64::MIN, "it waits");
    assert!(deliver(&mut driver, 2));
    assert_eq!((result(&driver), driver.load::<u8>(DATA), driver.interrupts.take()), (1, 2, 1));
    assert!(deliver(&mut driver, 3), "the next one waits for a buffer");
    assert_eq!(
        (driver.load::<u8>(DATA), driver.interrupts.take()),
        (2, 0),
        "one buffer, one signal"
    );
}

#[test]
fn records_go_to_the_decoder() {
    struct Keep(Arc<Mutex<Vec<u8>>>);
    impl TraceSink for Keep {
        fn records(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            if bytes.len() == 3 { Err(io::Error::from_raw_os_error(libc::ENOSPC)) } else { Ok(()) }
        }
    }
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (mut files, _host) = files();
    files.trace = Some(Box::new(Keep(Arc::clone(&kept))));
    let mut driver = with(files, RESULTS);
    driver.store(DATA, *b"record");
    send(&mut driver, PORT_TRACE, 6);
    assert_eq!(
        (result(&driver), kept.lock().expect("not poisoned").as_slice()),
        (6, b"record".as_slice())
    );
    send(&mut driver, PORT_TRACE, 3);
    assert_eq!(result(&driver), -i64::from(libc::ENOSPC));
    driver.post(
        transmitting(PORT_TRACE),
        0,
        &[(0, 0xffff, NEXT, 1), (0, 0xffff, NEXT, 2), (RESULT, 8, WRITE, 0)],
    );
    driver.notify(transmitting(PORT_TRACE));
    assert_eq!(result(&driver), -i64::from(libc::EMSGSIZE));

    let (mut driver, _host) = fast();
    send(&mut driver, PORT_TRACE, 6);
    assert_eq!(result(&driver), -i64::from(libc::ENOSYS), "no decoder, no success");
}

/// Lets the device send its next control message.
fn control_message(driver: &mut Driver<Console>) -> Vec<u8> {
    let queue = queue_number(CONTROL_RECEIVE_QUEUE);
    driver.post(queue, 0, &[(DATA, 64, WRITE, 0)]);
    let before = driver.used(queue).0;
    driver.notify(queue);
    let (after, last) = driver.used(queue);
    let length = if after == before { 0 } else { last.map_or(0, |(_, length)| length) };
    driver.load_bytes(DATA, usize::try_from(length).expect("few"))
}

fn tell(driver: &mut Driver<Console>, port: u32, event: u16, value: u16) {
    driver.store(DATA, port);
    driver.store(DATA + 4, event);
    driver.store(DATA + 6, value);
    let queue = queue_number(CONTROL_TRANSMIT_QUEUE);
    driver.post(queue, 0, &[(DATA, 8, 0, 0)]);
    driver.notify(queue);
}

fn expected(port: u32, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes(), rest].concat()
}

#[test]
fn ordinary_drivers_learn_of_the_ports() {
    let (files, _host) = files();
    let mut driver = with(files, MULTIPORT);
    assert_eq!(driver.read(super::super::mmio::register::CONFIG + 4), PORTS);
    tell(&mut driver, u32::MAX, 0, 1);
    for port in 0..PORTS {
        assert_eq!(control_message(&mut driver), expected(port, 1, 1, &[]));
    }
    tell(&mut driver, PORT_STDOUT, 3, 1);
    assert_eq!(control_message(&mut driver), expected(PORT_STDOUT, 7, 1, b"airlock.stdout"));
    assert_eq!(control_message(&mut driver), expected(PORT_STDOUT, 6, 1, &[]));
    assert_eq!(control_message(&mut driver), [0; 0]);
}

#[test]
fn ordinary_ports_have_no_results() {
    let (files, mut host) = files();
    let mut driver = with(files, MULTIPORT);
    driver.store(DATA, *b"out");
    driver.post(transmitting(PORT_STDOUT), 0, &[(DATA, 3, 0, 0)]);
    driver.notify(transmitting(PORT_STDOUT));
    assert_eq!(driver.used(transmitting(PORT_STDOUT)), (1, Some((0, 0))));
    host.input.write_all(b"in").expect("a pipe");
    driver.post(receiving(PORT_STDIN), 0, &[(DATA, 16, WRITE, 0)]);
    driver.notify(receiving(PORT_STDIN));
    assert_eq!(driver.used(receiving(PORT_STDIN)), (1, Some((0, 2))));
    // The end closes the port, and keeps the buffer.
    driver.post(receiving(PORT_STDIN), 0, &[(DATA + 64, 16, WRITE, 0)]);
    driver.notify(receiving(PORT_STDIN));
    let (file, _) = driver.transport.device().interests()[0];
    drop(host.input);
    driver.transport.file_ready(file);
    assert_eq!(driver.used(receiving(PORT_STDIN)).0, 1);
    assert_eq!(control_message(&mut driver), expected(PORT_STDIN, 6, 0, &[]));
    driver.transport.attend();
    assert!(driver.transport.device().interests().is_empty());
}

#[test]
fn a_driver_that_asks_without_end_gets_a_bounded_answer() {
    let (files, _host) = files();
    let mut driver = with(files, MULTIPORT);
    for _ in 0..1000 {
        tell(&mut driver, u32::MAX, 0, 1);
        tell(&mut driver, 77, 3, 1);
    }
    let messages = (0..1000).take_while(|_| !control_message(&mut driver).is_empty()).count();
    assert_eq!(messages, 64);
}

#[test]
fn new_size_of_the_terminal_is_announced() {
    let (mut files, _host) = files();
    files.terminal = true;
    let mut driver = with(files, MULTIPORT);
    let resize = |driver: &mut Driver<Console>, columns, rows| {
        driver.transport.change(|console, queues| {
            console.resize(columns, rows) && console.announce_size(queues).is_ok()
        });
    };
    resize(&mut driver, 80, 24);
    assert_eq!(driver.read(super::super::mmio::register::CONFIG), 80 | 24 << 16);
    assert_eq!(driver.read(super::super::mmio::register::CONFIG_GENERATION), 1);
    assert_eq!(
        (driver.read(super::super::mmio::register::INTERRUPT_STATUS), driver.interrupts.take()),
        (2, 1)
    );
    assert_eq!(control_message(&mut driver), expected(PORT_TERMINAL, 5, 0, &[24, 0, 80, 0]));
    resize(&mut driver, 80, 24);
    assert_eq!(driver.read(super::super::mmio::register::CONFIG_GENERATION), 1);
}

#[test]
fn rings_wrap_around() {
    let (files, mut host) = files();
    let mut driver = with(files, MULTIPORT);
    host.input.write_all(&[1; 4096]).expect("a pipe");
    // 8 descriptors, each its own buffer of a byte; the driver keeps reposting them.
    for round in 0..100_u16 {
        driver.post(receiving(PORT_STDIN), round % 8, &[(DATA, 1, WRITE, 0)]);
        if round % 8 == 7 {
            driver.notify(receiving(PORT_STDIN));
        }
    }
    assert_eq!(driver.used(receiving(PORT_STDIN)).0, 96);
}
