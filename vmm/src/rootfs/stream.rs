//! Compressed data, told by how it begins and not by its name.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::BlockDecodingStrategy;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use super::output::fill;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Frames of no data begin with one of 16 numbers, which differ in the lower half of the first byte.
const ZSTD_SKIPPABLE: &[u8] = &[0x2a, 0x4d, 0x18];
/// The largest window of zstd that is decoded, which is memory: zstd(1) goes as far without `--long`,
/// and beyond.
const MAX_WINDOW: u64 = 128 << 20;
const BUFFER: usize = 128 << 10;

/// A part of a file. It is read by position, so that any number of these can read one file.
#[derive(Debug)]
pub struct Blob {
    file: File,
    start: u64,
    position: u64,
    end: u64,
}

impl Blob {
    /// `length` bytes of a file from `start` on.
    pub const fn new(file: File, start: u64, length: u64) -> Self {
        Self { file, start, position: start, end: start.saturating_add(length) }
    }
}

impl io::Seek for Blob {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(offset) => self.start.checked_add(offset),
            io::SeekFrom::Current(by) => self.position.checked_add_signed(by),
            io::SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        let valid = target.filter(|target| (self.start..=self.end).contains(target));
        self.position = valid.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(self.position - self.start)
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }
}

/// Whether data that begins so is compressed.
pub fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP) || is_zstd(start)
}

fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(ZSTD)
        || (start.len() >= 4 && start[0] >> 4 == 5 && start[1..].starts_with(ZSTD_SKIPPABLE))
}

/// Reads what is compressed in the data, or the data itself.
///
/// # Errors
///
/// Those of reading the beginning.
pub fn decompressed<'a>(mut data: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = [0; 4];
    let count = fill(&mut data, &mut start)?;
    let all = io::Cursor::new(start).take(u64::try_from(count).unwrap_or(0)).chain(data);
    let buffered = BufReader::with_capacity(BUFFER, all);
    Ok(if start[..count].starts_with(GZIP) {
        Box::new(MultiGzDecoder::new(buffered))
    } else if is_zstd(&start[..count]) {
        Box::new(Zstd::new(buffered))
    } else {
        Box::new(buffered)
    })
}

/// Decodes zstd frames one after the other.
struct Zstd<R: Read> {
    source: BufReader<R>,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> Zstd<R> {
    fn new(source: BufReader<R>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        Self { source, decoder, in_frame: false }
    }

    /// Goes to the next frame; false at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if io::BufRead::fill_buf(&mut self.source)?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = (&mut self.source).take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? != u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let written = self.decoder.get_checksum_from_data();
            if written.is_some() && written != self.decoder.get_calculated_checksum() {
                return Err(io::Error::other("the checksum of a zstd frame is wrong"));
            }
            self.in_frame = false;
        }
    }
}
