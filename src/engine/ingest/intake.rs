//! The blocks of a body that arrives in pieces. Everything here is work for the compute
//! runtime: decompressing, cutting, and for Parquet a file on disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::PathBuf;

use bytes::{Buf, Bytes};
use lambdalake_data::input::{Block, Decoder, DecoderOptions, InputError, ParquetBlocks, Piece};

/// A body of a few events.
const SHORT_BYTES: usize = 4 * 1024;
/// So many tell whether a body is compressed, or no text.
const BEGINNING_BYTES: usize = 8;

/// What has arrived of a body and is not in a block yet.
pub(super) struct Intake {
    decoder: Decoder,
    pieces: VecDeque<Bytes>,
    has_ended: bool,
    /// The whole body came at once, and so little that to parse it takes less than to wake
    /// another thread for it. `None` until something has come.
    is_short: Option<bool>,
    /// A Parquet body; the file has no name and goes away with the request.
    spool: Option<File>,
    /// The same once it is whole.
    parquet: Option<ParquetBlocks>,
    /// Where spooled bodies lie.
    folder: PathBuf,
    block_bytes: usize,
    /// The block after the one that was handed out, or why there is none; once the body has
    /// ended.
    next: Option<Result<Option<Block>, InputError>>,
}

/// A block of the body.
pub(super) struct Taken {
    pub block: Block,
    /// The body ends with it. False if that is not known yet.
    pub is_last: bool,
}

impl Intake {
    pub fn new(options: DecoderOptions, folder: PathBuf) -> Self {
        Self {
            block_bytes: options.block_bytes,
            decoder: Decoder::new(options),
            pieces: VecDeque::new(),
            has_ended: false,
            is_short: None,
            spool: None,
            parquet: None,
            folder,
            next: None,
        }
    }

    /// There is something to work on before more is asked for.
    pub fn has_bytes(&self) -> bool {
        !self.pieces.is_empty()
    }

    pub fn is_short(&self) -> bool {
        self.is_short == Some(true)
    }

    pub fn add(&mut self, pieces: Vec<Bytes>, is_end: bool) {
        let bytes = pieces.iter().map(Bytes::len).sum();
        self.is_short.get_or_insert_with(|| {
            let is_plain_text =
                |first: &Bytes| first.len() >= BEGINNING_BYTES && self.decoder.is_plain_text(first);
            is_end && bytes <= SHORT_BYTES && pieces.first().is_some_and(is_plain_text)
        });
        // Whoever has sent so much and goes on sends a block at least.
        self.decoder
            .expect(if is_end { bytes } else { self.block_bytes });
        self.pieces.extend(pieces);
        self.has_ended = is_end;
    }

    /// The next block; `None` if more bytes are needed, or after the last one.
    pub fn next_block(&mut self) -> Result<Option<Taken>, InputError> {
        let taken = match self.next.take() {
            Some(next) => next?,
            None => self.take_block()?,
        };
        let Some(block) = taken else { return Ok(None) };
        let mut is_last = false;
        if self.has_ended {
            let next = self.take_block();
            is_last = matches!(next, Ok(None));
            self.next = Some(next);
        }
        Ok(Some(Taken { block, is_last }))
    }

    fn take_block(&mut self) -> Result<Option<Block>, InputError> {
        if let Some(parquet) = &mut self.parquet {
            return parquet.next_block();
        }
        while let Some(bytes) = self.pieces.front_mut() {
            let mut rest = &bytes[..];
            let piece = self.decoder.push(&mut rest)?;
            let taken = bytes.len() - rest.len();
            bytes.advance(taken);
            if bytes.is_empty() {
                self.pieces.pop_front();
            }
            if let Some(block) = self.accept(piece)? {
                return Ok(Some(block));
            }
        }
        if !self.has_ended {
            return Ok(None);
        }
        while let Some(piece) = self.decoder.finish()? {
            if let Some(block) = self.accept(Some(piece))? {
                return Ok(Some(block));
            }
        }
        let Some(mut file) = self.spool.take() else {
            return Ok(None);
        };
        file.rewind().map_err(InputError::Spool)?;
        let blocks = ParquetBlocks::open(file, self.block_bytes)?;
        self.parquet.insert(blocks).next_block()
    }

    /// A block is handed on, bytes of a Parquet file are kept.
    fn accept(&mut self, piece: Option<Piece>) -> Result<Option<Block>, InputError> {
        match piece {
            Some(Piece::Block(block)) => Ok(Some(block)),
            Some(Piece::Parquet(bytes)) => {
                let file = match &mut self.spool {
                    Some(file) => file,
                    none => {
                        none.insert(tempfile::tempfile_in(&self.folder).map_err(InputError::Spool)?)
                    }
                };
                file.write_all(&bytes).map_err(InputError::Spool)?;
                Ok(None)
            }
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use lambdalake_data::input::{Encoding, Format};

    use super::*;

    fn is_short(
        encoding: Encoding,
        format: Option<Format>,
        pieces: &[&[u8]],
        is_end: bool,
    ) -> bool {
        let options = DecoderOptions {
            encoding,
            format,
            content_type: None,
            block_bytes: 1 << 20,
            max_line_bytes: 1 << 20,
            max_bytes: 1 << 20,
        };
        let mut intake = Intake::new(options, std::env::temp_dir());
        let pieces = pieces.iter().map(|bytes| Bytes::copy_from_slice(bytes));
        intake.add(pieces.collect(), is_end);
        intake.add(Vec::new(), true);
        intake.is_short()
    }

    /// What may be much work although it is short is not done on a thread that serves sockets.
    #[test]
    fn only_a_little_plain_text_is_short() {
        let row = br#"{"a": 12345}"#.as_slice();
        let plain = Encoding::Identity;
        assert!(is_short(plain, None, &[row], true));
        assert!(is_short(
            plain,
            Some(Format::Ndjson),
            &[row, b"\n", row],
            true
        ));
        assert!(!is_short(plain, None, &[row], false), "more follows");
        assert!(!is_short(plain, None, &[&row.repeat(400)], true), "long");
        for encoding in [Encoding::Gzip, Encoding::Zstd, Encoding::Snappy] {
            assert!(!is_short(encoding, None, &[row], true), "{encoding}");
        }
        for format in [Format::Arrow, Format::Parquet] {
            assert!(!is_short(plain, Some(format), &[row], true), "{format}");
        }
        for magic in [
            b"PAR1....".as_slice(),
            b"ARROW1..",
            b"\xff\xff\xff\xff....",
            b"\x1f\x8b......",
            b"\x28\xb5\x2f\xfd....",
        ] {
            assert!(!is_short(plain, None, &[magic], true), "{magic:?}");
            assert!(
                !is_short(plain, None, &[&magic[..3], &magic[3..]], true),
                "{magic:?}"
            );
        }
    }
}
