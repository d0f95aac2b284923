use std::io::{ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

use super::InputError;

/// Unpacks a gzip body of one or more members, up to `limit_bytes` of output.
///
/// # Errors
///
/// [`InputError::Compression`] when it is cut short or no gzip, [`InputError::TooLarge`] as
/// soon as the output passes the limit, without unpacking the rest.
pub fn decompress_gzip(body: &[u8], limit_bytes: usize) -> Result<Vec<u8>, InputError> {
    if body.is_empty() {
        return Err(InputError::Compression {
            source: ErrorKind::UnexpectedEof.into(),
        });
    }
    let mut unpacked = Vec::new();
    let one_more = (limit_bytes as u64).saturating_add(1);
    MultiGzDecoder::new(body)
        .take(one_more)
        .read_to_end(&mut unpacked)
        .map_err(|source| InputError::Compression { source })?;
    if unpacked.len() > limit_bytes {
        return Err(InputError::TooLarge {
            what: "the decompressed body",
            limit: limit_bytes,
        });
    }
    Ok(unpacked)
}
