//! A message's bytes, and what they count for.

use crate::errno::{Errno, Result};
use crate::fs::source::{Sink, Source};
use crate::memory::{Content, Frame, PAGE_SIZE, SharedBytes, frame};
use alloc::vec::Vec;

/// Messages of up to so many bytes are on the heap, larger ones in frames.
const SMALL: usize = 2048;
/// The most bytes that Linux puts into one piece of a stream.
pub const MAX_PIECE: usize = FIRST_PAGE + 32_768;
/// Linux: `SKB_MAX_HEAD(0)`.
const FIRST_PAGE: usize = PAGE_SIZE - SHARED_INFO;
/// Linux: `SKB_MAX_ALLOC`.
const MAX_LINEAR: usize = 4 * PAGE_SIZE - SHARED_INFO;
/// Linux: `SKB_DATA_ALIGN(sizeof(struct skb_shared_info))`.
const SHARED_INFO: usize = 320;
/// Linux: `SKB_DATA_ALIGN(sizeof(struct sk_buff))`.
const HEADER: usize = 256;

/// A message's bytes.
#[derive(Default)]
pub enum Data {
    /// None.
    #[default]
    Empty,
    /// A few.
    Small(Vec<u8>),
    /// More.
    Pages(Vec<Frame>),
}

impl Data {
    /// Copies in `len` bytes.
    ///
    /// # Errors
    /// EFAULT if not all of them can be read, ENOMEM.
    pub fn copy_in(source: &mut dyn Source, len: usize) -> Result<Self> {
        frame::check_room()?;
        if len == 0 {
            return Ok(Self::Empty);
        }
        if len <= SMALL {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
            let count = source.read_to_vec(&mut bytes, len)?;
            return if count < len { Err(Errno::EFAULT) } else { Ok(Self::Small(bytes)) };
        }
        let mut pages = Vec::new();
        pages.try_reserve_exact(len.div_ceil(PAGE_SIZE)).map_err(|_| Errno::ENOMEM)?;
        let mut done = 0;
        while done < len {
            let want = (len - done).min(PAGE_SIZE);
            let page = Frame::allocate(Content::Overwritten)?;
            if source.read_to_frame(&page, 0, want)? < want {
                return Err(Errno::EFAULT);
            }
            pages.push(page);
            done += want;
        }
        Ok(Self::Pages(pages))
    }

    /// Copies out `len` bytes from `start`; fewer if the program's memory ends.
    ///
    /// # Errors
    /// EFAULT if nothing could be copied.
    pub fn copy_out(&self, start: usize, len: usize, buffer: &mut dyn Sink) -> Result<usize> {
        match self {
            Self::Empty => Ok(0),
            Self::Small(bytes) => {
                let end = start.saturating_add(len).min(bytes.len());
                buffer.write(SharedBytes::from_slice(bytes.get(start..end).unwrap_or(&[])))
            }
            Self::Pages(pages) => {
                let mut done = 0;
                while done < len {
                    let at = start + done;
                    let Some(page) = pages.get(at / PAGE_SIZE) else { break };
                    let bytes = page.bytes(at % PAGE_SIZE, len - done);
                    match buffer.write(bytes) {
                        Ok(0) => break,
                        Ok(count) => {
                            done += count;
                            if count < bytes.len() {
                                break;
                            }
                        }
                        Err(error) if done == 0 => return Err(error),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }
        }
    }
}

/// What a message counts for against `SO_SNDBUF`: as much as Linux's buffers take (`truesize`), so
/// that as many messages fit.
fn charge(linear: usize, pages: usize) -> usize {
    let head = (linear.next_multiple_of(64) + SHARED_INFO).next_power_of_two().max(512);
    HEADER + head + pages.next_multiple_of(PAGE_SIZE)
}

/// The same for a piece of a stream, which Linux puts into pages beyond the first.
pub fn charge_of_piece(len: usize) -> usize {
    let pages = len.saturating_sub(FIRST_PAGE).next_multiple_of(PAGE_SIZE).min(len);
    charge(len - pages, pages)
}

/// The same for a datagram, which is in one piece up to four pages.
pub fn charge_of_datagram(len: usize) -> usize {
    let pages = len.saturating_sub(MAX_LINEAR).min(17 * PAGE_SIZE).next_multiple_of(PAGE_SIZE);
    charge(len - pages, pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::UserWriter;

    #[test]
    fn a_message_counts_for_as_much_as_on_linux() {
        // Read with SIOCOUTQ on Linux 6.18.
        for (len, piece, datagram) in [
            (0, 768, 768),
            (1, 768, 768),
            (128, 768, 768),
            (200, 1280, 1280),
            (1000, 2304, 2304),
            (3000, 4352, 4352),
            (4096, 4864, 8448),
            (5000, 6400, 8448),
            (10_000, 12_544, 16_640),
            (16_384, 17_152, 20_736),
            (32_768, 33_536, 37_120),
        ] {
            assert_eq!(charge_of_piece(len), piece, "{len}");
            assert_eq!(charge_of_datagram(len), datagram, "{len}");
        }
        assert_eq!(charge_of_datagram(100_000), 102_656);
    }

    #[test]
    fn what_was_copied_in_comes_out() {
        crate::memory::frame::host::init();
        for len in [0, 1, 2048, 2049, 4096, 10_000] {
            let bytes: Vec<u8> = (0..len).map(|at: usize| at.to_le_bytes()[0]).collect();
            let data = Data::copy_in(&mut bytes.as_slice(), len).expect("memory");
            let mut target = std::vec![0; len];
            for start in [0, 1, 4095, 4096] {
                let count = len.saturating_sub(start);
                let address = target.as_mut_ptr().expose_provenance() as u64;
                let mut writer = UserWriter::new(address, count);
                assert_eq!(data.copy_out(start, count, &mut writer), Ok(count));
                assert_eq!(target[..count], bytes[len - count..]);
            }
        }
        assert_eq!(Data::copy_in(&mut &[1, 2][..], 3).err(), Some(Errno::EFAULT));
    }
}
