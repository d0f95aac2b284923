//! Compressed bodies, unpacked while they arrive.
//!
//! [`Inflate::push`] takes what it is given from the front and hands out a bounded amount at
//! a time, so that a small body that unpacks to a huge one is noticed, not held. Raw snappy
//! alone has to be collected first: the format is one block whose parts refer to each other.

use std::io::{self, ErrorKind, Write};
use std::str::FromStr;

use flate2::write::MultiGzDecoder;
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::InputError;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The stream identifier chunk that every framed snappy stream begins with.
const SNAPPY_MAGIC: [u8; 10] = *b"\xff\x06\x00\x00sNaPpY";

/// Bytes handed out at a time: enough to make a call worth while, little beside a block.
const OUTPUT_BYTES: usize = 128 * 1024;
/// Bytes of a raw snappy block, packed or not. It has to be held whole; senders that use the
/// raw form (Prometheus, Loki) send a few megabytes.
const RAW_SNAPPY_BYTES: usize = 64 * 1024 * 1024;
/// Data of one chunk of framed snappy, as its specification limits it.
const SNAPPY_CHUNK_BYTES: usize = 65_536;

/// How a body is compressed, as its sender says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all, unless its first bytes are those of gzip or zstd.
    #[default]
    Identity,
    Gzip,
    Zstd,
    /// One raw block, or framed; told apart by the first bytes.
    Snappy,
}

impl Encoding {
    /// The names a client may use, for messages.
    pub const NAMES: &str = "gzip, zstd, snappy, identity";

    /// How a body is unpacked whose sender says this and which begins so.
    pub(super) fn unpacked(self, beginning: &[u8]) -> Self {
        match self {
            Encoding::Identity if beginning.starts_with(&GZIP_MAGIC) => Encoding::Gzip,
            Encoding::Identity if beginning.starts_with(&ZSTD_MAGIC) => Encoding::Zstd,
            said => said,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Encoding::Identity => "identity",
            Encoding::Gzip => "gzip",
            Encoding::Zstd => "zstd",
            Encoding::Snappy => "snappy",
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Encoding {
    type Err = InputError;

    /// Reads one token of `Content-Encoding`.
    fn from_str(token: &str) -> Result<Self, InputError> {
        match token.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Encoding::Identity),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "zstd" => Ok(Encoding::Zstd),
            "snappy" | "x-snappy-framed" => Ok(Encoding::Snappy),
            _ => Err(InputError::UnknownEncoding {
                name: token.to_owned(),
            }),
        }
    }
}

/// Unpacks a body.
pub(super) struct Inflate {
    encoding: Encoding,
    state: State,
}

enum State {
    /// The first bytes, until they tell the format.
    Beginning(Vec<u8>),
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd {
        decoder: ZstdDecoder<'static>,
        /// The last frame is complete.
        is_at_end: bool,
    },
    SnappyFrames(Frames),
    SnappyBlock(Vec<u8>),
}

impl Inflate {
    pub fn new(encoding: Encoding) -> Self {
        Inflate {
            encoding,
            state: State::Beginning(Vec::new()),
        }
    }

    /// What comes from here on unpacks to itself.
    pub fn is_plain(&self) -> bool {
        matches!(self.state, State::Plain)
    }

    /// Takes bytes from the front of `input` and appends what they unpack to.
    pub fn push(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> Result<(), InputError> {
        if let State::Beginning(first) = &mut self.state {
            let missing = SNAPPY_MAGIC.len() - first.len();
            first.extend_from_slice(take(input, missing));
            if first.len() < SNAPPY_MAGIC.len() {
                return Ok(());
            }
            return self.begin(output);
        }
        let encoding = self.encoding;
        self.inflate(input, output)
            .map_err(|source| InputError::Compression { encoding, source })
    }

    /// Picks the format by the first bytes, and unpacks these.
    fn begin(&mut self, output: &mut Vec<u8>) -> Result<(), InputError> {
        let State::Beginning(first) = &mut self.state else {
            return Ok(());
        };
        let first = std::mem::take(first);
        self.encoding = self.encoding.unpacked(&first);
        let encoding = self.encoding;
        let broken = |source| InputError::Compression { encoding, source };
        if encoding == Encoding::Gzip && !first.is_empty() && !first.starts_with(&GZIP_MAGIC) {
            let reason = "it does not begin as gzip does; is it compressed at all?";
            return Err(broken(io::Error::new(ErrorKind::InvalidData, reason)));
        }
        self.state = match encoding {
            Encoding::Identity => State::Plain,
            Encoding::Gzip => State::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Encoding::Zstd => State::Zstd {
                decoder: ZstdDecoder::new().map_err(broken)?,
                is_at_end: false,
            },
            Encoding::Snappy if first == SNAPPY_MAGIC => State::SnappyFrames(Frames::default()),
            Encoding::Snappy => State::SnappyBlock(Vec::new()),
        };
        let mut rest = first.as_slice();
        while !rest.is_empty() {
            self.inflate(&mut rest, output).map_err(broken)?;
        }
        Ok(())
    }

    fn inflate(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.state {
            State::Beginning(_) => {}
            State::Plain => output.extend_from_slice(take(input, OUTPUT_BYTES)),
            State::Gzip(decoder) => {
                let count = decoder.write(&input[..input.len().min(OUTPUT_BYTES)])?;
                if count == 0 {
                    return Err(ErrorKind::InvalidData.into());
                }
                take(input, count);
                output.append(decoder.get_mut());
            }
            State::Zstd { decoder, is_at_end } => {
                let before = output.len();
                output.resize(before + OUTPUT_BYTES, 0);
                let mut source = InBuffer::around(input);
                let mut target = OutBuffer::around(&mut output[before..]);
                let hint = decoder.run(&mut source, &mut target)?;
                let (read, written) = (source.pos(), target.pos());
                output.truncate(before + written);
                take(input, read);
                *is_at_end = hint == 0;
            }
            State::SnappyFrames(frames) => frames.push(input, output)?,
            State::SnappyBlock(block) => {
                block.extend_from_slice(take(input, input.len()));
                if block.len() > RAW_SNAPPY_BYTES {
                    return Err(too_long_block());
                }
            }
        }
        Ok(())
    }

    /// Unpacks what is left at the end of the body. True when there may be more: call again.
    pub fn finish(&mut self, output: &mut Vec<u8>) -> Result<bool, InputError> {
        if let State::Beginning(_) = &self.state {
            self.begin(output)?;
        }
        let encoding = self.encoding;
        self.end(output)
            .map_err(|source| InputError::Compression { encoding, source })
    }

    fn end(&mut self, output: &mut Vec<u8>) -> io::Result<bool> {
        match &mut self.state {
            State::Beginning(_) | State::Plain => {}
            State::Gzip(decoder) => {
                let cut = |_| {
                    io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "it is cut short or damaged at its end",
                    )
                };
                decoder.try_finish().map_err(cut)?;
                output.append(decoder.get_mut());
            }
            State::Zstd { decoder, is_at_end } => {
                let before = output.len();
                output.resize(before + OUTPUT_BYTES, 0);
                let mut source = InBuffer::around(&[]);
                let mut target = OutBuffer::around(&mut output[before..]);
                if !*is_at_end {
                    // Output that did not fit before is still inside the decoder.
                    let hint = decoder.run(&mut source, &mut target)?;
                    *is_at_end = hint == 0;
                }
                let written = target.pos();
                output.truncate(before + written);
                if written > 0 {
                    return Ok(true);
                }
                if !*is_at_end {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            State::SnappyFrames(frames) => {
                if !frames.chunk.is_empty() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            State::SnappyBlock(block) => {
                if snap::raw::decompress_len(block)? > RAW_SNAPPY_BYTES {
                    return Err(too_long_block());
                }
                output.append(&mut snap::raw::Decoder::new().decompress_vec(block)?);
            }
        }
        self.state = State::Plain;
        Ok(false)
    }
}

fn too_long_block() -> io::Error {
    let message = format!(
        "a raw snappy block is larger than {RAW_SNAPPY_BYTES} bytes: use the framed format"
    );
    io::Error::new(ErrorKind::InvalidData, message)
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (front, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    front
}

/// The framed snappy format: a type byte, three bytes of length, then a checksum and data
/// (<https://github.com/google/snappy/blob/main/framing_format.txt>). The `snap` crate reads
/// frames only from a source it can wait for.
#[derive(Default)]
struct Frames {
    /// The chunk being received.
    chunk: Vec<u8>,
}

impl Frames {
    const HEAD: usize = 4;
    const CHECKSUM: usize = 4;

    fn push(&mut self, input: &mut &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        let head_missing = Self::HEAD.saturating_sub(self.chunk.len());
        self.chunk.extend_from_slice(take(input, head_missing));
        let [kind, a, b, c, ..] = self.chunk[..] else {
            return Ok(());
        };
        let length = u32::from_le_bytes([a, b, c, 0]) as usize;
        let missing = Self::HEAD + length - self.chunk.len();
        self.chunk.extend_from_slice(take(input, missing));
        if self.chunk.len() < Self::HEAD + length {
            return Ok(());
        }
        let data = &self.chunk[Self::HEAD..];
        match kind {
            0x00 | 0x01 => Self::unpack(kind == 0x00, data, output)?,
            0x02..=0x7f => return Err(invalid("a chunk of an unknown kind")),
            0xff if data != &SNAPPY_MAGIC[Self::HEAD..] => {
                return Err(invalid("a stream identifier that is none"));
            }
            _ => {}
        }
        self.chunk.clear();
        Ok(())
    }

    fn unpack(is_packed: bool, chunk: &[u8], output: &mut Vec<u8>) -> io::Result<()> {
        let Some((checksum, data)) = chunk.split_first_chunk::<{ Self::CHECKSUM }>() else {
            return Err(invalid("a chunk without a checksum"));
        };
        let before = output.len();
        if is_packed {
            let length = snap::raw::decompress_len(data)?;
            if length > SNAPPY_CHUNK_BYTES {
                return Err(invalid("a chunk of more than 65536 bytes"));
            }
            output.resize(before + length, 0);
            snap::raw::Decoder::new().decompress(data, &mut output[before..])?;
        } else {
            output.extend_from_slice(data);
        }
        let sum = crc32c::crc32c(&output[before..]);
        // The format masks its checksums, as data often holds checksums of its own.
        let masked = sum.rotate_right(15).wrapping_add(0xa282_ead8);
        if masked != u32::from_le_bytes(*checksum) {
            return Err(invalid("a chunk whose checksum differs"));
        }
        Ok(())
    }
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, message)
}
