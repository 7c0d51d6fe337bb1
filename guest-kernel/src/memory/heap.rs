//! The kernel's own allocations: size classes cut from frames, and blocks of frames above that.

use super::address::{PAGE_SIZE, PhysAddr};
use super::frame::{self, Content};
use crate::sync::SpinLock;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;

/// Size classes are powers of two from 16 to 2048 bytes.
const SMALLEST: usize = 4;
const CLASSES: usize = 8;

/// Free objects of each class, linked through their first words; and what is left of the frame
/// that new ones are cut from, so that a short-lived machine does not touch what it never uses.
struct Lists {
    free: [*mut u8; CLASSES],
    fresh: [*mut u8; CLASSES],
}

// SAFETY: the objects are the heap's own, reached only under its lock.
unsafe impl Send for Lists {}

/// The kernel's global allocator. What it takes from the frames for small objects it keeps.
pub struct Heap(SpinLock<Lists>);

impl Heap {
    /// An empty heap, which asks for frames as it needs them.
    pub const fn new() -> Self {
        Self(SpinLock::new(Lists { free: [null_mut(); CLASSES], fresh: [null_mut(); CLASSES] }))
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

enum Size {
    Class(usize),
    Order(usize),
}

fn size_of_layout(layout: Layout) -> Size {
    let size = layout.size().max(layout.align()).max(1 << SMALLEST);
    let bits = (usize::BITS - (size - 1).leading_zeros()) as usize;
    if bits < SMALLEST + CLASSES {
        Size::Class(bits - SMALLEST)
    } else {
        Size::Order(bits.saturating_sub(12))
    }
}

// SAFETY: blocks are aligned to their power-of-two size (classes within a frame; orders are only
// page-aligned, which is checked), never handed out twice, and stay mapped.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match size_of_layout(layout) {
            Size::Class(class) => {
                let mut lists = self.0.lock();
                let head = lists.free[class];
                if !head.is_null() {
                    // SAFETY: a free object holds the address of the next.
                    lists.free[class] = unsafe { head.cast::<*mut u8>().read() };
                    return head;
                }
                let mut object = lists.fresh[class];
                if object.is_null() {
                    let Some(frame) = frame::allocate_block(0, Content::Overwritten) else {
                        return null_mut();
                    };
                    object = frame.to_pointer();
                }
                let next = object.wrapping_add(1 << (class + SMALLEST));
                lists.fresh[class] =
                    if next.addr().is_multiple_of(PAGE_SIZE) { null_mut() } else { next };
                object
            }
            Size::Order(order) => {
                if layout.align() > PAGE_SIZE {
                    return null_mut();
                }
                frame::allocate_block(order, Content::Overwritten)
                    .map_or(null_mut(), PhysAddr::to_pointer)
            }
        }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        match size_of_layout(layout) {
            Size::Class(class) => {
                let mut lists = self.0.lock();
                // SAFETY: the object is free now, and at least 16 bytes large.
                unsafe { object.cast::<*mut u8>().write(lists.free[class]) };
                lists.free[class] = object;
            }
            // SAFETY: allocated above with the same layout, and so the same order.
            Size::Order(order) => unsafe {
                frame::free_block(PhysAddr::from_pointer(object), order)
            },
        }
    }
}
