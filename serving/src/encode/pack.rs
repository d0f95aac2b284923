//! The content coding of an answer: compressed piece by piece.
//!
//! Every piece is flushed, so a client can read all rows that were sent to it. What a coding
//! keeps between pieces is its window: 32 KiB for gzip, 2 MiB for zstd.

use std::io::{Result, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Level of zstd: its own default, faster than most networks.
const ZSTD_LEVEL: i32 = 3;

/// How a body is coded on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The value of `Content-Encoding`; none for the identity.
    pub fn header(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Codes the pieces of one body.
pub(crate) enum Packer {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Packer {
    pub(crate) fn new(coding: Coding) -> Result<Self> {
        Ok(match coding {
            Coding::Identity => Self::Identity,
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::default())),
            Coding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?),
        })
    }

    /// Codes a piece. Nothing becomes nothing.
    pub(crate) fn pack(&mut self, piece: Vec<u8>) -> Result<Vec<u8>> {
        if piece.is_empty() {
            return Ok(piece);
        }
        match self {
            Self::Identity => Ok(piece),
            Self::Gzip(gzip) => {
                gzip.write_all(&piece)?;
                gzip.flush()?;
                Ok(std::mem::take(gzip.get_mut()))
            }
            Self::Zstd(zstd) => {
                zstd.write_all(&piece)?;
                zstd.flush()?;
                Ok(std::mem::take(zstd.get_mut()))
            }
        }
    }

    /// Codes the last piece and ends the body.
    pub(crate) fn finish(self, piece: Vec<u8>) -> Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(piece),
            Self::Gzip(mut gzip) => {
                gzip.write_all(&piece)?;
                gzip.finish()
            }
            Self::Zstd(mut zstd) => {
                zstd.write_all(&piece)?;
                zstd.finish()
            }
        }
    }
}
