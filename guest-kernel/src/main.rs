//! The kernel's executable: the library, a heap and a panic handler. On the host there is nothing to run.
#![cfg_attr(target_os = "none", no_std, no_main)]

use guest_kernel as _;

#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: guest_kernel::memory::heap::Heap = guest_kernel::memory::heap::Heap::new();

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    guest_kernel::log::panic(info)
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a kernel: `airlock run` boots it (built for x86_64-unknown-none)");
    std::process::exit(1);
}
