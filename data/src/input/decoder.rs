//! From the bytes of a body, as they arrive, to blocks.

use super::compression::Inflate;
use super::cut::{Cutter, Sizes};
use super::sniff::{MAGIC_BYTES, is_text, sniff_start};
use super::text::without_mark;
use super::{Block, Encoding, Format, InputError};

/// How a body is to be read.
#[derive(Clone, Debug)]
pub struct DecoderOptions {
    pub encoding: Encoding,
    /// `None`: find out.
    pub format: Option<Format>,
    /// What the client says about the format, as a hint to find out.
    pub content_type: Option<String>,
    /// Size at which a block ends.
    pub block_bytes: usize,
    /// Longest record.
    pub max_line_bytes: usize,
    /// Largest body, after decompression.
    pub max_bytes: usize,
}

/// What a body is made into.
pub enum Piece {
    /// Records to parse.
    Block(Block),
    /// Bytes of a Parquet file, which can be read only once it is whole.
    Parquet(Vec<u8>),
}

/// Reads one body. Synchronous, and without I/O.
pub struct Decoder {
    options: DecoderOptions,
    inflate: Inflate,
    stage: Stage,
    /// Bytes after decompression that are not yet cut, from `at`.
    plain: Vec<u8>,
    at: usize,
    total: usize,
    /// Bytes after decompression that are known to follow.
    expected: usize,
    /// The compression has ended well.
    is_inflated: bool,
}

enum Stage {
    /// The beginning is collected until the format is clear.
    Beginning,
    Cutting(Cutter),
    Parquet,
}

/// Bytes of the beginning of a body that are looked at to find out its format.
const SNIFFED_BYTES: usize = 64 * 1024;

impl Decoder {
    pub fn new(options: DecoderOptions) -> Self {
        Decoder {
            inflate: Inflate::new(options.encoding),
            options,
            stage: Stage::Beginning,
            plain: Vec::new(),
            at: 0,
            total: 0,
            expected: 0,
            is_inflated: false,
        }
    }

    /// At least so many bytes of the body will be pushed next. A hint, so that a block gets its
    /// memory at once: growing step by step would copy it several times over.
    pub fn expect(&mut self, bytes: usize) {
        self.expected = bytes;
        if let Stage::Cutting(cutter) = &mut self.stage {
            cutter.expect(bytes);
        }
    }

    /// A body that begins so is text and not compressed: it is as much work as it is long.
    pub fn is_plain_text(&self, beginning: &[u8]) -> bool {
        let is_text = match self.options.format {
            Some(format) => !format.is_binary(),
            None => is_text(beginning, self.options.content_type.as_deref()),
        };
        is_text && self.options.encoding.unpacked(beginning) == Encoding::Identity
    }

    /// Takes bytes from the front of `input` until a piece is complete; `None` when all are
    /// taken. After an error the body cannot be read on.
    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Piece>, InputError> {
        loop {
            if let Some(piece) = self.cut(false)? {
                return Ok(Some(piece));
            }
            if input.is_empty() {
                return Ok(None);
            }
            if let Stage::Cutting(cutter) = &mut self.stage
                && self.plain.is_empty()
                && self.inflate.is_plain()
            {
                // As they are: without a copy in between.
                let before = input.len();
                let piece = cutter.push(input)?.map(Piece::Block);
                self.count(before - input.len())?;
                return Ok(piece);
            }
            let before = self.plain.len();
            self.inflate.push(input, &mut self.plain)?;
            self.count(self.plain.len() - before)?;
        }
    }

    /// The pieces that are left when the body has ended; call it until there is none.
    ///
    /// # Errors
    ///
    /// Also when the body is cut short.
    pub fn finish(&mut self) -> Result<Option<Piece>, InputError> {
        loop {
            if let Some(piece) = self.cut(self.is_inflated)? {
                return Ok(Some(piece));
            }
            if !self.is_inflated {
                let before = self.plain.len();
                self.is_inflated = !self.inflate.finish(&mut self.plain)?;
                self.count(self.plain.len() - before)?;
                continue;
            }
            return match &mut self.stage {
                Stage::Cutting(cutter) => Ok(cutter.finish()?.map(Piece::Block)),
                Stage::Beginning | Stage::Parquet => Ok(None),
            };
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), InputError> {
        self.total = self.total.saturating_add(bytes);
        if self.total > self.options.max_bytes {
            return Err(InputError::TooLarge {
                what: "the decompressed body",
                limit: self.options.max_bytes,
            });
        }
        Ok(())
    }

    /// Takes from `plain` until a piece is complete.
    fn cut(&mut self, is_end: bool) -> Result<Option<Piece>, InputError> {
        if let Stage::Beginning = self.stage
            && !self.begin(is_end)?
        {
            return Ok(None);
        }
        let mut rest = &self.plain[self.at..];
        let piece = match &mut self.stage {
            Stage::Cutting(cutter) => cutter.push(&mut rest)?.map(Piece::Block),
            Stage::Parquet if rest.is_empty() => None,
            Stage::Parquet => Some(Piece::Parquet(std::mem::take(&mut rest).to_vec())),
            Stage::Beginning => None,
        };
        self.at = self.plain.len() - rest.len();
        if self.at == self.plain.len() {
            self.plain.clear();
            self.at = 0;
        }
        Ok(piece)
    }

    /// Settles the format. False while too little is known.
    fn begin(&mut self, is_end: bool) -> Result<bool, InputError> {
        let needed = match self.options.format {
            Some(_) => MAGIC_BYTES,
            None => SNIFFED_BYTES,
        };
        if self.plain.len() < needed && !is_end {
            return Ok(false);
        }
        let format = match self.options.format {
            Some(format) => format,
            None => {
                let is_cut = self.plain.len() > SNIFFED_BYTES || !is_end;
                let end = self.plain.len().min(SNIFFED_BYTES);
                let content_type = self.options.content_type.as_deref();
                sniff_start(&self.plain[..end], is_cut, content_type)?
            }
        };
        let sizes = Sizes {
            block_bytes: self.options.block_bytes,
            record_bytes: self.options.max_line_bytes,
        };
        self.stage = Cutter::new(format, sizes).map_or(Stage::Parquet, Stage::Cutting);
        self.expect(self.expected);
        if !format.is_binary() {
            self.at = self.plain.len() - without_mark(&self.plain).len();
        }
        Ok(true)
    }

    /// The body is a Parquet file: the pieces are its bytes.
    pub fn is_parquet(&self) -> bool {
        matches!(self.stage, Stage::Parquet)
    }
}
