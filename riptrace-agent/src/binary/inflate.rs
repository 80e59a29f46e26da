//! Inflating compressed debug sections: in parallel, through small buffers, straight into a file.
//!
//! Go compresses debug sections by default. What is inflated may be several hundred megabytes, so it never lies in
//! memory as a whole: each section streams to its place in a cache file, which is then mapped.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use bytes::Bytes;
use flate2::bufread::ZlibDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Bytes that one section inflates to at the most. Debug sections of the largest known programs have a few hundred MB.
pub const MAX_SECTION_BYTES: u64 = 4 << 30;
/// Threads at the most; sections are few and of unequal size.
const MAX_THREADS: usize = 8;
/// What is inflated before it is written.
const BUFFER_BYTES: usize = 256 << 10;

const CHDR_BYTES: usize = 24;
const ELFCOMPRESS_ZLIB: u32 = 1;
const ELFCOMPRESS_ZSTD: u32 = 2;

/// How a section is compressed.
#[derive(Clone, Copy, Debug)]
enum Method {
    Zlib,
    Zstd,
}

impl Method {
    /// Bytes that one byte inflates to at the most, so a header that claims more lies.
    fn max_ratio(self) -> u64 {
        match self {
            // zlib's technical notes, "Maximum Compression Factor".
            Self::Zlib => 1032,
            // RFC 8878, section 3.1.1.2: a block of four bytes may stand for 128 KiB of one byte.
            Self::Zstd => (128 << 10) / 4,
        }
    }
}

/// Why a section can't be inflated.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// Compressed in a way that is not supported.
    #[error(
        "section {section} is compressed with method {method}, which is not known; decompress it with `objcopy --decompress-debug-sections`"
    )]
    Method {
        /// The section's name.
        section: String,
        /// `ch_type` of its header.
        method: u32,
    },
    /// The header claims a size that is impossible or beyond the limit.
    #[error(
        "section {section} claims to inflate to {claimed_bytes} bytes; at most {limit_bytes} are believed"
    )]
    TooLarge {
        /// The section's name.
        section: String,
        /// What its header claims.
        claimed_bytes: u64,
        /// The most that is accepted of this section.
        limit_bytes: u64,
    },
    /// The data is not what the header promises.
    #[error("section {section} is damaged")]
    Damaged {
        /// The section's name.
        section: String,
    },
    /// The inflated data could not be written.
    #[error("cannot write inflated debug data: {0}")]
    Write(#[from] io::Error),
}

/// A section to inflate.
#[derive(Clone, Debug)]
pub struct Compressed {
    /// Its name, for messages.
    pub name: String,
    method: Method,
    stream: Bytes,
    /// Bytes that it inflates to, by its header.
    pub inflated_bytes: u64,
}

impl Compressed {
    /// Reads the header of a section with `SHF_COMPRESSED` (ELF specification, `Elf64_Chdr`).
    pub fn from_elf(name: &str, section: &Bytes) -> Result<Self, InflateError> {
        let damaged = || InflateError::Damaged { section: name.to_owned() };
        let header = section.get(..CHDR_BYTES).ok_or_else(damaged)?;
        let method = header.first_chunk().copied().map(u32::from_le_bytes).ok_or_else(damaged)?;
        let size = header.get(8..).and_then(|size| size.first_chunk()).copied().ok_or_else(damaged)?;
        let method = match method {
            ELFCOMPRESS_ZLIB => Method::Zlib,
            ELFCOMPRESS_ZSTD => Method::Zstd,
            method => return Err(InflateError::Method { section: name.to_owned(), method }),
        };
        Self::new(name, method, section.slice(CHDR_BYTES..), u64::from_le_bytes(size))
    }

    /// Reads the header of a `.zdebug_*` section: `ZLIB` and the size, big-endian.
    pub fn from_gnu(name: &str, section: &Bytes) -> Result<Self, InflateError> {
        let damaged = || InflateError::Damaged { section: name.to_owned() };
        let size =
            section.strip_prefix(b"ZLIB").and_then(|rest| rest.first_chunk()).copied().ok_or_else(damaged)?;
        Self::new(name, Method::Zlib, section.slice(12..), u64::from_be_bytes(size))
    }

    fn new(name: &str, method: Method, stream: Bytes, inflated_bytes: u64) -> Result<Self, InflateError> {
        let limit_bytes = MAX_SECTION_BYTES.min((stream.len() as u64).saturating_mul(method.max_ratio()));
        if inflated_bytes > limit_bytes {
            let section = name.to_owned();
            return Err(InflateError::TooLarge { section, claimed_bytes: inflated_bytes, limit_bytes });
        }
        Ok(Self { name: name.to_owned(), method, stream, inflated_bytes })
    }

    /// Inflates into `file` from `offset` on; exactly `inflated_bytes` are written, or it is an error.
    fn inflate_into(
        &self,
        file: &File,
        offset: u64,
        stop: &AtomicBool,
        written: impl Fn(u64),
    ) -> Result<(), InflateError> {
        let damaged = || InflateError::Damaged { section: self.name.clone() };
        let mut inflater: Box<dyn Read + '_> = match self.method {
            Method::Zlib => Box::new(ZlibDecoder::new(&*self.stream)),
            Method::Zstd => Box::new(ZstdFrames { rest: &self.stream, frame: None }),
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) {
            let produced = inflater.read(&mut buffer).map_err(|_| damaged())?;
            if produced == 0 {
                break;
            }
            let end = done + produced as u64;
            if end > self.inflated_bytes {
                return Err(damaged());
            }
            file.write_all_at(buffer.get(..produced).ok_or_else(damaged)?, offset + done)?;
            written(produced as u64);
            done = end;
        }
        if done == self.inflated_bytes { Ok(()) } else { Err(damaged()) }
    }
}

/// A zstd stream is any number of frames (RFC 8878, section 3): linkers that compress in parallel write many.
struct ZstdFrames<'a> {
    rest: &'a [u8],
    frame: Option<Frame<'a>>,
}

type Frame<'a> = StreamingDecoder<&'a [u8], FrameDecoder>;

impl Read for ZstdFrames<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let frame = match &mut self.frame {
                Some(frame) => frame,
                None if self.rest.is_empty() => return Ok(0),
                None => self.frame.insert(StreamingDecoder::new(self.rest).map_err(io::Error::other)?),
            };
            match frame.read(buffer)? {
                0 => {
                    self.rest = frame.get_ref();
                    self.frame = None;
                }
                bytes => return Ok(bytes),
            }
        }
    }
}

/// Inflates sections to their offsets in `file`, on as many threads as there are processors; `progress` is told the
/// bytes done so far.
pub fn inflate_all(
    sections: &[(Compressed, u64)],
    file: &File,
    progress: impl Fn(u64),
) -> Result<(), InflateError> {
    // The longest first, so that the last thread to finish has little left to do alone.
    let mut order: Vec<&(Compressed, u64)> = sections.iter().collect();
    order.sort_by_key(|(section, _)| std::cmp::Reverse(section.inflated_bytes));
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(order.len());
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            let (order, next, stop) = (&order, &next, &stop);
            scope.spawn(move || {
                while let Some((section, offset)) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let written = |bytes| drop(sender.send(Ok(bytes)));
                    if let Err(error) = section.inflate_into(file, *offset, stop, written) {
                        stop.store(true, Ordering::Relaxed);
                        drop(sender.send(Err(error)));
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut done = 0;
        let mut first_error = None;
        for message in receiver {
            match message {
                Ok(bytes) => {
                    done += bytes;
                    progress(done);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    fn chdr(method: u32, size: u64, stream: &[u8]) -> Bytes {
        let mut section = method.to_le_bytes().to_vec();
        section.extend([0; 4]);
        section.extend(size.to_le_bytes());
        section.extend(1_u64.to_le_bytes());
        section.extend(stream);
        Bytes::from(section)
    }

    fn zlib(content: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// A zstd frame of one raw block, by hand (RFC 8878, section 3.1.1).
    fn zstd_frame(content: &[u8]) -> Vec<u8> {
        let bytes = content.len() as u32;
        let mut frame = 0xfd2f_b528_u32.to_le_bytes().to_vec();
        // A single segment, whose size has four bytes; then the block: the last one, raw.
        frame.push(0xa0);
        frame.extend(bytes.to_le_bytes());
        frame.extend(&(bytes << 3 | 1).to_le_bytes()[..3]);
        frame.extend(content);
        frame
    }

    fn inflate(section: Compressed) -> Result<Vec<u8>, InflateError> {
        let file = tempfile::tempfile()?;
        let bytes = section.inflated_bytes as usize;
        file.set_len(section.inflated_bytes)?;
        inflate_all(&[(section, 0)], &file, |_| {})?;
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    #[test]
    fn both_kinds_of_headers_are_read() {
        let content: Vec<u8> = (0..2_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let stream = zlib(&content);
        let elf = Compressed::from_elf(".debug_info", &chdr(1, content.len() as u64, &stream)).unwrap();
        assert!(inflate(elf).unwrap() == content);
        let mut gnu = b"ZLIB".to_vec();
        gnu.extend((content.len() as u64).to_be_bytes());
        gnu.extend(&stream);
        let gnu = Compressed::from_gnu(".zdebug_info", &Bytes::from(gnu)).unwrap();
        assert!(inflate(gnu).unwrap() == content);
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let stream = zlib(b"content");
        let refused = |section: Bytes| {
            Compressed::from_elf(".debug_info", &section).map(|_| ()).unwrap_err().to_string()
        };
        assert_eq!(
            refused(chdr(1, 1 << 40, &stream)),
            format!(
                "section .debug_info claims to inflate to 1099511627776 bytes; at most {} are believed",
                stream.len() as u64 * Method::Zlib.max_ratio()
            )
        );
        assert!(refused(chdr(9, 7, &stream)).contains("method 9"));
        assert_eq!(refused(Bytes::from_static(b"short")), "section .debug_info is damaged");
        assert!(Compressed::from_gnu(".zdebug_info", &Bytes::from_static(b"ZLI")).is_err());
        // Too few bytes, too many, and a stream that ends early.
        for (size, stream) in
            [(6, &stream[..]), (8, &stream[..]), (7, &stream[..5]), (7, &stream[..0]), (7, b"no zlib")]
        {
            let Ok(section) = Compressed::from_elf(".debug_info", &chdr(1, size, stream)) else { continue };
            assert!(matches!(inflate(section), Err(InflateError::Damaged { .. })), "{size}");
        }
    }

    #[test]
    fn frames_of_zstd_are_joined() {
        let mut stream = zstd_frame(&[7; 1000]);
        stream.extend(zstd_frame(b""));
        stream.extend(zstd_frame(b"the rest"));
        let content = [&[7; 1000][..], b"the rest"].concat();
        let section = |size, stream: &[u8]| {
            Compressed::from_elf(".debug_info", &chdr(ELFCOMPRESS_ZSTD, size, stream)).unwrap()
        };
        assert_eq!(inflate(section(1008, &stream)).unwrap(), content);
        // Too few bytes, too many, a frame that ends early, something else behind a frame.
        let behind = [&stream[..], b"else"].concat();
        for (size, stream) in
            [(1007, &stream[..]), (1009, &stream), (1008, &stream[..stream.len() - 1]), (1008, &behind)]
        {
            let inflated = inflate(section(size, stream));
            assert!(matches!(inflated, Err(InflateError::Damaged { .. })), "{size}: {inflated:?}");
        }
    }
}
