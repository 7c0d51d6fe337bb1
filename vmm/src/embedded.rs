//! What the executable carries inside: the guest kernel and the program that runs by default.

/// Bytes at a page boundary of the executable, so that its pages can become guest pages as they are.
#[repr(C, align(4096))]
struct PageAligned<Bytes: ?Sized>(Bytes);

static KERNEL_IMAGE: &PageAligned<[u8]> =
    &PageAligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernel.image")));

/// The guest kernel: an ELF image without sections, page-aligned.
pub static KERNEL: &[u8] = &KERNEL_IMAGE.0;

/// The tour: a static executable that shows, from inside, where it is and that both doors hold.
pub static TOUR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tour.elf"));

#[cfg(test)]
mod tests {
    use super::{KERNEL, TOUR};

    #[test]
    fn the_kernel_is_an_elf_image_at_a_page_boundary() {
        assert!(KERNEL.starts_with(b"\x7fELF"));
        assert!(KERNEL.as_ptr().cast::<[u8; 4096]>().addr().is_multiple_of(4096));
    }

    #[test]
    fn the_tour_is_a_static_program() {
        assert!(TOUR.starts_with(b"\x7fELF"));
        // e_phoff, e_phentsize and e_phnum; then p_type of each, of which none is PT_INTERP.
        let headers =
            TOUR[32..40].iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte));
        let count = usize::from(TOUR[56]);
        assert!(TOUR[headers..].chunks(56).take(count).all(|header| header[..4] != [3, 0, 0, 0]));
    }
}
