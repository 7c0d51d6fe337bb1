//! Records as the VMM expects them ([`airlock_abi::trace`]), built on the stack.

use crate::memory::{UserReader, usize_from};
use airlock_abi::syscalls::{Kind as Argument, SystemCall};
use airlock_abi::trace::{BUFFER_CAPTURE, Capture, Header, Kind, MAX_RECORD, STRING_CAPTURE};
use core::mem::{offset_of, size_of};

/// A record in the making.
pub struct Record {
    bytes: [u8; MAX_RECORD],
    len: usize,
}

impl Record {
    /// A record without captured bytes.
    pub fn new(kind: Kind, thread: u32, number: u32, arguments: [u64; 6]) -> Self {
        let mut record = Self { bytes: [0; MAX_RECORD], len: size_of::<Header>() };
        record.set_kind(kind);
        record.put(offset_of!(Header, thread), &thread.to_le_bytes());
        record.put(offset_of!(Header, number), &number.to_le_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            record.put(offset_of!(Header, arguments) + 8 * index, &argument.to_le_bytes());
        }
        record
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Changes what the record tells.
    pub fn set_kind(&mut self, kind: Kind) {
        self.put(offset_of!(Header, kind), &(kind as u16).to_le_bytes());
    }

    /// The call came through `int 0x80`.
    pub fn set_compat(&mut self) {
        self.put(offset_of!(Header, compat), &1_u16.to_le_bytes());
    }

    /// What the call returned, or the status of the process.
    pub fn set_result(&mut self, result: i64) {
        self.put(offset_of!(Header, result), &result.to_le_bytes());
    }

    /// When the call began, and how long it took.
    pub fn set_time(&mut self, begin_ns: u64, duration_ns: u64) {
        self.put(offset_of!(Header, begin_ns), &begin_ns.to_le_bytes());
        self.put(offset_of!(Header, duration_ns), &duration_ns.to_le_bytes());
    }

    /// Captures what a call is about to read.
    pub fn capture_inputs(&mut self, call: &SystemCall, arguments: &[u64; 6]) {
        for (index, (_, kind)) in call.arguments.iter().enumerate() {
            match kind {
                Argument::Path | Argument::Text => self.capture_string(index, arguments[index]),
                Argument::In => {
                    // In the list, the size of a buffer follows it.
                    self.capture_buffer(index, arguments[index], arguments[index + 1]);
                }
                _ => {}
            }
        }
    }

    /// Captures what a call has written: as many bytes as it returned.
    pub fn capture_outputs(&mut self, call: &SystemCall, arguments: &[u64; 6], result: i64) {
        let Ok(written) = u64::try_from(result) else { return };
        for (index, (_, kind)) in call.arguments.iter().enumerate() {
            if *kind == Argument::Out {
                let written = written.min(arguments[index + 1]);
                self.capture_buffer(index, arguments[index], written);
            }
        }
    }

    fn capture_buffer(&mut self, argument: usize, address: u64, size: u64) {
        let mut bytes = [0; BUFFER_CAPTURE];
        let want = usize_from(size).min(BUFFER_CAPTURE);
        match UserReader::new(address, want).read(&mut bytes[..want]) {
            Ok(count) if count == want => {
                self.append(argument, &bytes[..want], size > want as u64);
            }
            // strace, too, shows the address of a buffer that is not all there.
            _ => {}
        }
    }

    fn capture_string(&mut self, argument: usize, address: u64) {
        let mut bytes = [0; STRING_CAPTURE];
        let mut len = 0;
        while len < STRING_CAPTURE {
            // Pieces that no page boundary divides: what follows the string may not be mapped.
            const PIECE: usize = 32;
            let from = address.wrapping_add(len as u64);
            let want = (PIECE - usize_from(from) % PIECE).min(STRING_CAPTURE - len);
            let piece = &mut bytes[len..len + want];
            if UserReader::new(from, want).read(piece) != Ok(want) {
                return;
            }
            if let Some(end) = piece.iter().position(|&byte| byte == 0) {
                self.append(argument, &bytes[..len + end], false);
                return;
            }
            len += want;
        }
        self.append(argument, &bytes, true);
    }

    fn append(&mut self, argument: usize, bytes: &[u8], truncated: bool) {
        let head = self.len;
        let end = (head + size_of::<Capture>() + bytes.len()).next_multiple_of(8);
        if end > MAX_RECORD {
            return;
        }
        self.bytes[head + offset_of!(Capture, argument)] = argument.to_le_bytes()[0];
        self.bytes[head + offset_of!(Capture, truncated)] = truncated.into();
        let [a, b, c, d, ..] = bytes.len().to_le_bytes();
        self.put(head + offset_of!(Capture, length), &[a, b, c, d]);
        self.put(head + size_of::<Capture>(), bytes);
        self.len = end;
    }

    /// The finished record.
    pub fn bytes(&mut self) -> &[u8] {
        let [a, b, c, d, ..] = self.len.to_le_bytes();
        self.put(offset_of!(Header, length), &[a, b, c, d]);
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use airlock_abi::syscalls::by_name;
    use std::vec::Vec;

    fn address_of(bytes: &[u8]) -> u64 {
        bytes.as_ptr().expose_provenance().try_into().unwrap()
    }

    /// Argument, truncated, bytes.
    type Captured = (u8, bool, Vec<u8>);

    fn captures(record: &mut Record) -> Vec<Captured> {
        let bytes = record.bytes();
        assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(bytes.len() % 8, 0);
        let mut rest = &bytes[size_of::<Header>()..];
        let mut all = Vec::new();
        while !rest.is_empty() {
            let len = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
            all.push((rest[0], rest[1] != 0, rest[8..8 + len].to_vec()));
            rest = &rest[8 + len.next_multiple_of(8)..];
        }
        all
    }

    fn called(name: &str, arguments: [u64; 6], result: i64) -> Record {
        let call = by_name(name).unwrap();
        let mut record = Record::new(Kind::Returned, 7, call.number, arguments);
        record.capture_inputs(call, &arguments);
        record.set_result(result);
        record.capture_outputs(call, &arguments, result);
        record
    }

    #[test]
    fn the_fixed_part_holds_everything() {
        let mut record = Record::new(Kind::Signal, 7, 11, [1, 2, 3, 4, 5, 6]);
        record.set_result(-2);
        record.set_time(8, 9);
        record.set_compat();
        // SAFETY: a header is plain integers, and a record begins with one.
        let header: Header = unsafe { record.bytes().as_ptr().cast::<Header>().read_unaligned() };
        assert_eq!((header.length, header.kind, header.compat), (88, 2, 1));
        assert_eq!((header.thread, header.number), (7, 11));
        assert_eq!(header.arguments, [1, 2, 3, 4, 5, 6]);
        assert_eq!((header.result, header.begin_ns, header.duration_ns), (-2, 8, 9));
    }

    #[test]
    fn strings_end_at_their_nul() {
        for start in 0..40 {
            let mut memory = Vec::from([b'x'; 600]);
            memory[start + 100] = 0;
            let path = address_of(&memory[start..]);
            let mut record = called("openat", [u64::MAX, path, 0, 0, 0, 0], -2);
            assert_eq!(captures(&mut record), [(1, false, Vec::from([b'x'; 100]))]);
        }
        let long = Vec::from([b'y'; 600]);
        let both = address_of(&long);
        let mut record = called("rename", [both, both, 0, 0, 0, 0], 0);
        let capture = Vec::from([b'y'; STRING_CAPTURE]);
        assert_eq!(captures(&mut record), [(0, true, capture.clone()), (1, true, capture)]);
    }

    #[test]
    fn buffers_are_captured_before_or_after_the_call() {
        let memory: Vec<u8> = (0..100).collect();
        let buffer = address_of(&memory);
        let mut written = called("write", [1, buffer, 100, 0, 0, 0], 100);
        assert_eq!(captures(&mut written), [(1, true, memory[..32].to_vec())]);
        let mut short = called("write", [1, buffer, 5, 0, 0, 0], -9);
        assert_eq!(captures(&mut short), [(1, false, memory[..5].to_vec())]);
        let mut read = called("read", [0, buffer, 100, 0, 0, 0], 7);
        assert_eq!(captures(&mut read), [(1, false, memory[..7].to_vec())]);
        let mut failed = called("read", [0, buffer, 100, 0, 0, 0], -9);
        assert_eq!(captures(&mut failed), []);
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let kernel = 0xffff_8000_0000_0000;
        assert_eq!(captures(&mut called("write", [1, kernel, 5, 0, 0, 0], -14)), []);
        assert_eq!(captures(&mut called("open", [kernel, 0, 0, 0, 0, 0], -14)), []);
        assert_eq!(captures(&mut called("open", [u64::MAX, 0, 0, 0, 0, 0], -14)), []);
        assert_eq!(captures(&mut called("write", [1, u64::MAX - 3, u64::MAX, 0, 0, 0], -14)), []);
    }

    #[test]
    fn no_call_captures_more_than_a_record_holds() {
        let long = Vec::from([b'y'; 600]);
        let address = address_of(&long);
        for call in airlock_abi::syscalls::LIST {
            let mut arguments = [address; 6];
            for (index, (_, kind)) in call.arguments.iter().enumerate() {
                if *kind == Argument::Size {
                    arguments[index] = 600;
                }
            }
            let mut record = called(call.name, arguments, 600);
            let wanted = |kind: &Argument| {
                use Argument::{In, Out, Path, Text};
                matches!(kind, In | Out | Path | Text)
            };
            let count = call.arguments.iter().filter(|(_, kind)| wanted(kind)).count();
            assert_eq!(captures(&mut record).len(), count, "{}", call.name);
        }
    }
}
