//! What single parts of the file layer promise.

use super::erofs::tests::{SMALL, Scratch, make_image, place};
use super::metadata::{S_IFDIR, S_IFREG};
use super::namespace::{create, remove};
use super::path::{Last, walk};
use super::permission::{READ, Subject, WRITE};
use super::pipe::Pipe;
use super::stream::{Events, Stream};
use super::tmpfs::New;
use super::{Context, FileRef, FileSystem, FileTable, Inode, open};
use crate::capability::CapabilitySet;
use crate::errno::Errno;
use crate::memory::{Page, PageSource, UserReader, UserWriter, frame};
use linux_raw_sys::general::{O_CREAT, O_RDWR, O_WRONLY};
use std::format;
use std::vec::Vec;

fn mount(image: &[u8], limit: u64) -> Context {
    frame::host::init();
    let (bytes, start) = place(image);
    Context::new(FileSystem::mount_with_limit(bytes, start, limit).expect("a good image"))
}

fn open_path(context: &Context, path: &str, flags: u32) -> Result<FileRef, Errno> {
    open(context, &context.directory, path.into(), flags, 0o644, &Subject::ROOT)
}

fn reader(bytes: &[u8]) -> UserReader {
    UserReader::new(bytes.as_ptr().expose_provenance() as u64, bytes.len())
}

fn read(file: &FileRef, offset: u64, len: usize) -> Vec<u8> {
    let bytes = std::vec![0; len];
    let mut buffer = UserWriter::new(bytes.as_ptr().expose_provenance() as u64, len);
    let count = file.read_at(offset, &mut buffer).expect("bytes");
    let mut bytes = core::hint::black_box(bytes);
    bytes.truncate(count);
    bytes
}

fn make(context: &Context, path: &str, mode: u32) -> Result<Inode, Errno> {
    let found = walk(&context.root, &context.directory, path.into(), Last::Name, &Subject::ROOT)?;
    create(&found, New { mode, user: 0, group: 0, special: 0, target: &[] }, &Subject::ROOT)
}

fn unmake(context: &Context, path: &str, directory: bool) -> Result<(), Errno> {
    let found = walk(&context.root, &context.directory, path.into(), Last::Name, &Subject::ROOT)?;
    remove(&found, directory, &Subject::ROOT)
}

fn used(context: &Context) -> u64 {
    context.root.inode.file_system().expect("a file system").usage.used()
}

#[test]
fn whoever_has_a_file_of_the_image_open_sees_it_change() {
    let context = mount(SMALL, 1 << 20);
    let before = open_path(&context, "/hello.txt", 0).expect("a file");
    let number = before.metadata().expect("metadata").number;
    let writer = open_path(&context, "/hello.txt", O_RDWR).expect("a file");
    assert_eq!(writer.write(&mut reader(b"Jelly")), Ok(5));
    assert_eq!(read(&before, 0, 100), b"Jelly from the image.\n");
    assert_eq!(before.metadata().expect("metadata").number, number);
    unmake(&context, "/hello.txt", false).expect("removed");
    assert_eq!(before.metadata().expect("metadata").links, 0);
    assert_eq!(read(&before, 0, 5), b"Jelly");
    assert_eq!(open_path(&context, "/hello.txt", 0).err(), Some(Errno::ENOENT));
    let path = before.path(&context.root).expect("a path");
    assert_eq!(path, b"/hello.txt (deleted)");
}

#[test]
fn a_page_of_the_image_is_mapped_in_place_until_it_is_written() {
    let context = mount(SMALL, 1 << 20);
    let file = open_path(&context, "/bin/program", O_RDWR).expect("a file");
    assert!(matches!(file.page(0, false), Ok(Page::Image(_))));
    assert!(matches!(file.page(1, false), Ok(Page::Image(_))));
    assert_eq!(file.page(3, false).err(), Some(Errno::EFAULT));
    assert_eq!(used(&context), 0);
    assert_eq!(file.write_at(4096, &mut reader(b"x")), Ok(1));
    assert!(matches!(file.page(0, false), Ok(Page::Image(_))));
    let Ok(Page::Frame(page)) = file.page(1, false) else { panic!("page 1 was written") };
    let mut bytes = [0; 2];
    page.bytes(0, 2).copy_to(&mut bytes);
    assert_eq!(&bytes, b"xa");
    // One page and the node: the pages that were not written take nothing.
    assert!(used(&context) < 2 * 4096, "{}", used(&context));
    assert!(matches!(file.page(0, true), Ok(Page::Frame(_))));
}

#[test]
fn a_full_file_system_says_so_and_gives_everything_back() {
    let context = mount(SMALL, 256 << 10);
    let file = open_path(&context, "/tmp-file", O_CREAT | O_WRONLY).expect("a file");
    let data = std::vec![1u8; 300 << 10];
    let written = file.write(&mut reader(&data)).expect("a part");
    assert!(written > 200 << 10 && written < 256 << 10, "{written}");
    assert_eq!(file.write(&mut reader(&data)), Err(Errno::ENOSPC));
    let mut made = 0;
    while made < 10_000 && make(&context, &format!("/n{made}"), S_IFREG | 0o600).is_ok() {
        made += 1;
    }
    assert!(made < 100, "{made} more files fit");
    for index in 0..made {
        unmake(&context, &format!("/n{index}"), false).expect("removed");
    }
    drop(file);
    unmake(&context, "/tmp-file", false).expect("removed");
    // What is left is the changed root directory.
    assert!(used(&context) <= 512, "{}", used(&context));
    assert!(make(&context, "/again", S_IFDIR | 0o755).is_ok());
}

#[test]
fn a_deep_chain_of_removed_directories_is_dropped_without_recursion() {
    let mut context = mount(SMALL, 1 << 30);
    let depth = 50_000;
    for _ in 0..depth {
        context.directory.inode = make(&context, "d", S_IFDIR | 0o755).expect("a directory");
    }
    let bottom = context.directory.inode.clone();
    assert_eq!(context.working_directory(), Err(Errno::ENAMETOOLONG));
    // Removed from the bottom up; the bottom keeps the one above, and so on.
    for _ in 0..depth {
        context.directory.inode = context.directory.inode.parent().expect("a parent");
        unmake(&context, "d", true).expect("removed");
    }
    let thread = std::thread::Builder::new().stack_size(64 << 10);
    thread.spawn(move || drop(bottom)).expect("a thread").join().expect("no overflow");
    assert!(used(&context) <= 512, "{}", used(&context));
}

#[test]
fn only_owners_remove_names_from_a_sticky_directory() {
    let context = mount(SMALL, 1 << 20);
    make(&context, "/t", S_IFDIR | 0o1777).expect("a directory");
    let file = make(&context, "/t/f", S_IFREG | 0o640).expect("a file");
    let other = Subject { user: 7, group: 7, groups: &[], capabilities: CapabilitySet::EMPTY };
    let found = walk(&context.root, &context.root, "/t/f".into(), Last::Name, &other);
    let found = found.expect("a file");
    assert_eq!(remove(&found, false, &other), Err(Errno::EPERM));
    assert_eq!(other.check(&file, READ), Err(Errno::EACCES));
    let member = Subject { groups: &[3, 0], ..other };
    assert_eq!(member.check(&file, READ), Ok(()));
    assert_eq!(member.check(&file, WRITE), Err(Errno::EACCES));
    assert_eq!(Subject::ROOT.check(&file, super::permission::EXECUTE), Err(Errno::EACCES));
}

#[test]
fn descriptors_are_the_lowest_that_are_free() {
    let context = mount(SMALL, 1 << 20);
    let file = open_path(&context, "/hello.txt", 0).expect("a file");
    let mut table = FileTable::new();
    table.set_limit(8);
    for expected in 0..4 {
        assert_eq!(table.add(file.clone(), false), Ok(expected));
    }
    table.remove(1).expect("open");
    assert_eq!(table.add_from(2, file.clone(), true), Ok(4));
    assert_eq!(table.add(file.clone(), false), Ok(1));
    assert_eq!(table.close_on_exec(4), Ok(true));
    assert_eq!(table.add_from(8, file.clone(), false), Err(Errno::EINVAL));
    assert!(table.set(8, file.clone(), false).is_err());
    assert!(table.set(7, file.clone(), false).is_ok_and(|old| old.is_none()));
    assert_eq!(table.add(file.clone(), false), Ok(5));
    assert_eq!(table.add(file.clone(), false), Ok(6));
    assert_eq!(table.add(file.clone(), false), Err(Errno::EMFILE));
    assert!(table.take_close_on_exec().is_some() && table.take_close_on_exec().is_none());
    assert_eq!(table.add(file, false), Ok(4));
    assert_eq!(table.get(-1).err(), Some(Errno::EBADF));
}

#[test]
fn bytes_come_out_of_a_pipe_as_they_went_in() {
    frame::host::init();
    let (out, into) = Pipe::pair();
    let data: Vec<u8> = (0..1_000_000u32).map(|at| (at % 253).to_le_bytes()[0]).collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        let mut at = 0;
        for len in [1usize, 4096, 70_000, 13, 300_000].into_iter().cycle() {
            let end = (at + len).min(sent.len());
            let count = into.write(&mut reader(&sent[at..end]), true).expect("a reader");
            assert_eq!(count, end - at);
            at = end;
            if at == sent.len() {
                return;
            }
        }
    });
    let mut received: Vec<u8> = Vec::new();
    for len in [5000usize, 1, 65_536, 200].into_iter().cycle() {
        let bytes = std::vec![0u8; len];
        let mut buffer = UserWriter::new(bytes.as_ptr().expose_provenance() as u64, len);
        let count = out.read(&mut buffer, true).expect("bytes");
        if count == 0 {
            break;
        }
        received.extend(&core::hint::black_box(bytes)[..count]);
    }
    writer.join().expect("all was written");
    assert!(received == data);
}

#[test]
fn a_pipe_without_its_other_end_is_at_its_end_or_broken() {
    frame::host::init();
    let (out, into) = Pipe::pair();
    let space = [0u8; 8];
    let buffer = || UserWriter::new(space.as_ptr().expose_provenance() as u64, space.len());
    assert_eq!(out.read(&mut buffer(), false), Err(Errno::EAGAIN));
    assert_eq!(out.poll(), Events::default());
    assert_eq!(into.write(&mut reader(b"last"), false), Ok(4));
    // What does not make a full page goes behind what is there, if it fits, as on Linux.
    let big = std::vec![0u8; 15 * 4096 + 3992];
    assert_eq!(into.write(&mut reader(&big), false), Ok(big.len()));
    assert_eq!(into.write(&mut reader(&big[..100]), false), Err(Errno::EAGAIN));
    assert_eq!(into.pipe().set_capacity(4096, true), Err(Errno::EBUSY));
    assert_eq!(into.pipe().set_capacity(1 << 21, false), Err(Errno::EPERM));
    assert_eq!(into.pipe().set_capacity(1 << 20, false), Ok(1 << 20));
    assert_eq!(into.write(&mut reader(&big[..100]), false), Ok(100));
    drop(into);
    assert_eq!(out.poll(), Events::IN.with(Events::HANGUP));
    let mut left = 4 + big.len() + 100;
    while left > 0 {
        left -= out.read(&mut buffer(), false).expect("bytes");
    }
    assert_eq!(out.read(&mut buffer(), true), Ok(0));
    let (out, into) = Pipe::pair();
    drop(out);
    assert_eq!(into.write(&mut reader(b"x"), true), Err(Errno::EPIPE));
    assert_eq!(into.poll().0 & Events::ERROR.0, Events::ERROR.0);
}

#[test]
fn made_up_files_are_there_under_every_image() {
    let context = mount(SMALL, 1 << 20);
    let null = open_path(&context, "/dev/null", O_RDWR).expect("a device");
    assert_eq!(null.write(&mut reader(b"gone")), Ok(4));
    assert_eq!(read(&null, 0, 4), b"");
    let zero = open_path(&context, "/dev/../dev/zero", 0).expect("a device");
    assert_eq!(read(&zero, 0, 3), [0; 3]);
    let full = open_path(&context, "/dev/full", O_WRONLY).expect("a device");
    assert_eq!(full.write(&mut reader(b"x")), Err(Errno::ENOSPC));
    assert_eq!(open_path(&context, "/dev/tty", 0).err(), Some(Errno::ENXIO));
    let maximum = open_path(&context, "/proc/sys/kernel/pid_max", 0).expect("a file");
    assert_eq!(read(&maximum, 0, 100), b"32768\n");
    assert_eq!(read(&maximum, 3, 100), b"68\n");
    assert_eq!(open_path(&context, "/proc/nothing", O_CREAT | O_WRONLY).err(), Some(Errno::ENOENT));
    assert_eq!(make(&context, "/dev/new", S_IFREG).err(), Some(Errno::EROFS));
    assert_eq!(unmake(&context, "/proc", true), Err(Errno::EBUSY));
    let shared = open_path(&context, "/dev/shm/s", O_CREAT | O_RDWR).expect("a file");
    assert_eq!(shared.path(&context.root), Ok(b"/dev/shm/s".to_vec()));
    let mut inside = context.clone();
    let opened = open_path(&context, "/sys/devices/system", 0).expect("a directory");
    inside.directory = opened.location().expect("a mount");
    assert_eq!(inside.working_directory(), Ok(b"/sys/devices/system".to_vec()));
    assert!(open_path(&inside, "../../../proc/sys/vm", 0).is_ok());
    let mut names = Vec::new();
    let root = &context.root.inode;
    root.list(0, &mut |listed, _| {
        names.push(Vec::from(listed.name));
        true
    })
    .expect("a list");
    for name in [b"dev".as_slice(), b"proc", b"sys", b"hello.txt"] {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1);
    }
}

#[test]
fn a_changed_file_of_the_image_agrees_with_its_directory() {
    let scratch = Scratch::new("agreement");
    std::fs::write(scratch.0.join("file"), std::vec![7u8; 10_000]).expect("a file");
    let Some(image) = make_image(&scratch.0, &[]) else { return };
    let context = mount(&image, 1 << 20);
    let file = open_path(&context, "/file", O_RDWR).expect("a file");
    file.inode().truncate(5000).expect("cut");
    file.inode().truncate(9000).expect("grown");
    let content = read(&file, 0, 10_000);
    assert_eq!(content.len(), 9000);
    assert!(content[..5000].iter().all(|&byte| byte == 7));
    assert!(content[5000..].iter().all(|&byte| byte == 0));
}
