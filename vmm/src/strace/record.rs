//! Records as the guest sends them ([`airlock_abi::trace`]), checked: any bytes may arrive.

use std::mem::offset_of;

use airlock_abi::trace::{Capture, Header, Kind, MAX_RECORD};

/// A well-formed record.
#[derive(Debug)]
pub struct Record<'a> {
    /// What it tells.
    pub kind: Kind,
    /// Its fixed part.
    pub header: Header,
    /// What was captured of each argument.
    pub captured: [Option<Captured<'a>>; 6],
}

/// Bytes of a program's memory that an argument points to.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Whether there were more.
    pub truncated: bool,
}

impl<'a> Record<'a> {
    /// Takes the record at the start of `bytes` off it; `None` if there is no well-formed one.
    pub fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(u32_at(bytes, offset_of!(Header, length))?).ok()?;
        if length > MAX_RECORD || !length.is_multiple_of(8) {
            return None;
        }
        let (record, rest) = bytes.split_at_checked(length)?;
        let (fixed, captures) = record.split_at_checked(size_of::<Header>())?;
        let header = header(fixed)?;
        let kind = Kind::from_number(header.kind)?;
        let captured = captured(captures)?;
        *bytes = rest;
        Some(Self { kind, header, captured })
    }
}

fn header(bytes: &[u8]) -> Option<Header> {
    let mut arguments = [0; 6];
    for (index, argument) in arguments.iter_mut().enumerate() {
        *argument = u64_at(bytes, offset_of!(Header, arguments) + 8 * index)?;
    }
    Some(Header {
        length: u32_at(bytes, offset_of!(Header, length))?,
        kind: u16_at(bytes, offset_of!(Header, kind))?,
        compat: u16_at(bytes, offset_of!(Header, compat))?,
        thread: u32_at(bytes, offset_of!(Header, thread))?,
        number: u32_at(bytes, offset_of!(Header, number))?,
        arguments,
        result: u64_at(bytes, offset_of!(Header, result))?.cast_signed(),
        begin_ns: u64_at(bytes, offset_of!(Header, begin_ns))?,
        duration_ns: u64_at(bytes, offset_of!(Header, duration_ns))?,
    })
}

fn captured(mut bytes: &[u8]) -> Option<[Option<Captured<'_>>; 6]> {
    let mut all = [None; 6];
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_at_checked(size_of::<Capture>())?;
        let argument = usize::from(*head.get(offset_of!(Capture, argument))?);
        let truncated = *head.get(offset_of!(Capture, truncated))? != 0;
        let length = usize::try_from(u32_at(head, offset_of!(Capture, length))?).ok()?;
        let slot = all.get_mut(argument)?;
        *slot = Some(Captured { bytes: rest.get(..length)?, truncated });
        bytes = rest.get(length.checked_next_multiple_of(8)?..)?;
    }
    Some(all)
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A record as the kernel would write it.
    pub fn record(
        kind: Kind,
        number: u32,
        arguments: &[u64],
        result: i64,
        captures: &[(u8, &[u8], bool)],
    ) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend((kind as u16).to_le_bytes());
        bytes.extend(0_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        for index in 0..6 {
            bytes.extend(arguments.get(index).copied().unwrap_or(0xdead).to_le_bytes());
        }
        bytes.extend(result.to_le_bytes());
        bytes.extend([0; 16]);
        for &(argument, captured, truncated) in captures {
            bytes.extend([argument, truncated.into(), 0, 0]);
            bytes.extend(u32::try_from(captured.len()).unwrap().to_le_bytes());
            bytes.extend(captured);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes
    }

    #[test]
    fn a_record_is_read_back() {
        let mut bytes = record(Kind::Returned, 1, &[1, 2, 3], -2, &[(1, b"hello", true)]);
        bytes.extend(record(Kind::Exited, 0, &[], 7, &[]));
        let mut rest = bytes.as_slice();
        let first = Record::take(&mut rest).unwrap();
        assert_eq!((first.header.number, first.header.result), (1, -2));
        assert_eq!(first.header.arguments[..3], [1, 2, 3]);
        let captured = first.captured[1].unwrap();
        assert_eq!((captured.bytes, captured.truncated), (b"hello".as_slice(), true));
        assert!(first.captured[0].is_none());
        assert_eq!(Record::take(&mut rest).unwrap().kind, Kind::Exited);
        assert!(rest.is_empty());
        assert!(Record::take(&mut rest).is_none());
    }

    #[test]
    fn every_malformed_field_is_noticed() {
        let good = record(Kind::Returned, 1, &[1, 2, 3], 5, &[(1, b"hello", false)]);
        let change = |offset: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[offset] = value;
            Record::take(&mut bytes.as_slice()).is_some()
        };
        assert!(change(0, 104));
        for (offset, value) in [
            (0, 0),    // shorter than a header
            (0, 96),   // cuts the captured bytes off
            (0, 103),  // not a multiple of 8
            (0, 112),  // longer than the buffer
            (3, 1),    // longer than any record
            (4, 5),    // no such kind
            (88, 6),   // no such argument
            (92, 9),   // captured bytes beyond the record
            (95, 255), // far beyond
        ] {
            assert!(!change(offset, value), "offset {offset}, value {value}");
        }
        for length in 0..good.len() {
            assert!(Record::take(&mut &good[..length]).is_none());
        }
    }
}
