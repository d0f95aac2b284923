//! A file or stdin as bytes that are not compressed, and the format of what is in it.
//!
//! Compression is told from the first bytes, never from the name: rotated logs and pipes have
//! no reliable names. The format is told from the first bytes (Parquet, Arrow), then from the
//! name (`.csv`, `.ndjson`), then from the content.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use serde::de::IgnoredAny;

use super::args::IngestFormat;

/// How much of a file is looked at to tell its format.
const HEAD_BYTES: u64 = 64 << 10;
/// Longest of the marks that files begin with.
const MAGIC_BYTES: u64 = 10;
/// Compressed bytes read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Largest input that is put aside on disk because it cannot be read twice.
const MAX_SPOOLED_BYTES: u64 = 64 << 30;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const SNAPPY_FRAMES: &[u8] = b"\xff\x06\x00\x00sNaPpY";
const PARQUET: &[u8] = b"PAR1";
const ARROW_FILE: &[u8] = b"ARROW1";
const ARROW_STREAM: &[u8] = b"\xff\xff\xff\xff";

/// A file or stdin, decompressed.
pub struct Input {
    pub reader: Box<dyn Read>,
    /// Bytes read so far, counted before decompression.
    pub read_bytes: Arc<AtomicU64>,
    /// It is a file, and neither stdin nor another pipe.
    pub is_file: bool,
    /// The reader's bytes are those of a file that can be opened again.
    is_plain_file: bool,
}

impl Input {
    /// Opens a file, or stdin for `-`.
    pub fn open(path: &Path) -> io::Result<Input> {
        let read_bytes = Arc::new(AtomicU64::new(0));
        let is_stdin = path == Path::new("-");
        let (inner, is_regular): (Box<dyn Read>, bool) = match is_stdin {
            true => (Box::new(io::stdin()), false),
            false => {
                let file = File::open(path)?;
                let is_regular = file.metadata()?.is_file();
                (Box::new(file), is_regular)
            }
        };
        let counted = Counted {
            inner,
            read_bytes: Arc::clone(&read_bytes),
        };
        let (reader, is_compressed) = decompressed(counted)?;
        Ok(Input {
            reader,
            read_bytes,
            is_file: is_regular,
            is_plain_file: is_regular && !is_compressed,
        })
    }

    /// Finds out the format if it is not given. `Auto` stays where only the server can tell.
    pub fn settle_format(&mut self, format: IngestFormat, path: &Path) -> io::Result<IngestFormat> {
        if format != IngestFormat::Auto {
            return Ok(format);
        }
        let head = self.head()?;
        let format = binary_format(&head)
            .or_else(|| named_format(path))
            .unwrap_or_else(|| sniff(&head));
        Ok(format)
    }

    /// The first line, or its beginning if it is long.
    pub fn first_line(&mut self) -> io::Result<Vec<u8>> {
        let mut head = self.head()?;
        let end = head.iter().position(|byte| *byte == b'\n');
        head.truncate(end.unwrap_or(head.len()));
        Ok(head)
    }

    /// The beginning, which stays in the reader.
    fn head(&mut self) -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        self.reader
            .by_ref()
            .take(HEAD_BYTES)
            .read_to_end(&mut head)?;
        let rest = std::mem::replace(&mut self.reader, Box::new(io::empty()));
        self.reader = Box::new(Cursor::new(head.clone()).chain(rest));
        Ok(head)
    }

    /// The whole input as a file that can be read again and again, and its size: the file
    /// itself, or for stdin and what is compressed a copy that goes with this process. All of
    /// it counts as read.
    pub fn into_file(self, path: &Path) -> io::Result<(File, u64)> {
        if self.is_plain_file {
            let file = File::open(path)?;
            let bytes = file.metadata()?.len();
            self.read_bytes.store(bytes, Ordering::Relaxed);
            return Ok((file, bytes));
        }
        let mut file = tempfile::tempfile()?;
        let bytes = io::copy(&mut self.reader.take(MAX_SPOOLED_BYTES + 1), &mut file)?;
        if bytes > MAX_SPOOLED_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "larger than {} GiB unpacked; send it in parts",
                    MAX_SPOOLED_BYTES >> 30
                ),
            ));
        }
        file.rewind()?;
        Ok((file, bytes))
    }
}

struct Counted {
    inner: Box<dyn Read>,
    read_bytes: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The same bytes without their compression, and whether there was one.
fn decompressed(mut raw: impl Read + 'static) -> io::Result<(Box<dyn Read>, bool)> {
    let mut magic = Vec::new();
    raw.by_ref().take(MAGIC_BYTES).read_to_end(&mut magic)?;
    let starts = |mark: &[u8]| magic.starts_with(mark);
    let (gzip, zstd, snappy) = (starts(GZIP), starts(ZSTD), starts(SNAPPY_FRAMES));
    let whole = Cursor::new(magic).chain(raw);
    if !(gzip || zstd || snappy) {
        return Ok((Box::new(whole), false));
    }
    let buffered = BufReader::with_capacity(BUFFER_BYTES, whole);
    let reader: Box<dyn Read> = if gzip {
        Box::new(MultiGzDecoder::new(buffered))
    } else if zstd {
        Box::new(zstd::Decoder::with_buffer(buffered)?)
    } else {
        Box::new(snap::read::FrameDecoder::new(buffered))
    };
    Ok((reader, true))
}

fn binary_format(head: &[u8]) -> Option<IngestFormat> {
    if head.starts_with(PARQUET) {
        return Some(IngestFormat::Parquet);
    }
    let is_arrow = head.starts_with(ARROW_FILE) || head.starts_with(ARROW_STREAM);
    is_arrow.then_some(IngestFormat::Arrow)
}

/// The format that the name tells, under the endings of compression. `.json` and `.log` tell
/// nothing: the first may be one document or lines of them.
fn named_format(path: &Path) -> Option<IngestFormat> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = [".gz", ".zst", ".snappy", ".sz"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    let (_, extension) = name.rsplit_once('.')?;
    match extension {
        "csv" => Some(IngestFormat::Csv),
        "ndjson" | "jsonl" => Some(IngestFormat::Ndjson),
        "parquet" => Some(IngestFormat::Parquet),
        "arrow" | "arrows" | "feather" => Some(IngestFormat::Arrow),
        _ => None,
    }
}

/// The format of an input that begins like this. It must hold for every chunk, so it is
/// told here once and not by the server for each chunk.
fn sniff(head: &[u8]) -> IngestFormat {
    let head = head.trim_ascii_start();
    let end = head.iter().position(|byte| *byte == b'\n');
    let first_line = &head[..end.unwrap_or(head.len())];
    match first_line.first() {
        Some(b'[') => IngestFormat::Json,
        Some(b'{') => match serde_json::from_slice::<IgnoredAny>(first_line) {
            // The object goes on after the line: one that is spread over lines.
            Err(error) if error.is_eof() && end.is_some() => IngestFormat::Json,
            _ => IngestFormat::Ndjson,
        },
        Some(_) if is_csv_header(first_line) => IngestFormat::Csv,
        Some(_) => match unescaped_quotes(first_line) {
            2 => IngestFormat::Common,
            6.. => IngestFormat::Combined,
            _ => IngestFormat::Auto,
        },
        None => IngestFormat::Auto,
    }
}

/// Two names or more with commas between them. Lines of an access log have blanks and brackets
/// where a name has none.
fn is_csv_header(line: &[u8]) -> bool {
    let Ok(line) = std::str::from_utf8(line) else {
        return false;
    };
    let line = line.trim_start_matches('\u{feff}').trim_end();
    let is_name = |field: &str| {
        let name = field.strip_prefix('"').and_then(|it| it.strip_suffix('"'));
        let mut chars = name.unwrap_or(field).chars();
        chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && chars.all(|c| c.is_alphanumeric() || " _.:-".contains(c))
    };
    line.contains(',') && line.split(',').all(is_name)
}

fn unescaped_quotes(line: &[u8]) -> usize {
    let mut quotes = 0;
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => quotes += 1,
            _ => {}
        }
    }
    quotes
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn formats_are_told_from_the_beginning() {
        let common = "1.2.3.4 - - [01/Jan/2026:00:00:00 +0000] \"GET / HTTP/1.1\" 200 5";
        for (head, format) in [
            ("{\"a\": 1}\n{\"a\": 2}\n", IngestFormat::Ndjson),
            ("\n  {\"a\": 1}", IngestFormat::Ndjson),
            ("{\"a\": oops}\n{\"a\": 2}\n", IngestFormat::Ndjson),
            ("{\n  \"a\": 1\n}\n", IngestFormat::Json),
            ("[{\"a\": 1}]", IngestFormat::Json),
            (common, IngestFormat::Common),
            (
                &format!("{common} \"-\" \"a \\\"b\\\" c\"\n"),
                IngestFormat::Combined,
            ),
            ("ts,client ip,n\n1,2,3\n", IngestFormat::Csv),
            ("\"ts\",\"client_ip\",\"n\"\r\n1,2,3\r\n", IngestFormat::Csv),
            ("no idea", IngestFormat::Auto),
            ("hello, world\n", IngestFormat::Auto),
            ("1,2\n", IngestFormat::Auto),
            ("", IngestFormat::Auto),
        ] {
            assert_eq!(sniff(head.as_bytes()), format, "{head}");
        }
    }

    #[test]
    fn names_tell_the_format_under_compression() {
        for (name, format) in [
            ("a.csv", Some(IngestFormat::Csv)),
            ("a.CSV.gz", Some(IngestFormat::Csv)),
            ("dir.csv/a.jsonl.zst", Some(IngestFormat::Ndjson)),
            ("a.parquet", Some(IngestFormat::Parquet)),
            ("a.feather", Some(IngestFormat::Arrow)),
            ("access.log.1.gz", None),
            ("a.json", None),
            ("-", None),
        ] {
            assert_eq!(named_format(Path::new(name)), format, "{name}");
        }
        assert_eq!(binary_format(b"PAR1.."), Some(IngestFormat::Parquet));
        assert_eq!(binary_format(b"ARROW1\0\0"), Some(IngestFormat::Arrow));
        assert_eq!(binary_format(b"PAX"), None);
    }

    #[test]
    fn every_compression_is_unpacked_whatever_the_name_is() {
        let text = "{\"a\": 1}\n".repeat(20_000);
        let folder = tempfile::tempdir().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let mut snappy = snap::write::FrameEncoder::new(Vec::new());
        snappy.write_all(text.as_bytes()).unwrap();
        for (name, bytes) in [
            ("plain", text.clone().into_bytes()),
            ("gzip", gzip.finish().unwrap()),
            ("zstd", zstd::encode_all(text.as_bytes(), 1).unwrap()),
            ("snappy", snappy.into_inner().unwrap()),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            let mut input = Input::open(&path).unwrap();
            let format = input.settle_format(IngestFormat::Auto, &path).unwrap();
            assert_eq!(format, IngestFormat::Ndjson, "{name}");
            let mut read = String::new();
            input.reader.read_to_string(&mut read).unwrap();
            assert!(read == text, "{name}");
            let counted = input.read_bytes.load(Ordering::Relaxed);
            assert_eq!(counted, bytes.len() as u64, "{name}");

            let (mut file, size) = Input::open(&path).unwrap().into_file(&path).unwrap();
            let mut read = String::new();
            file.read_to_string(&mut read).unwrap();
            assert!(read == text && size == text.len() as u64, "{name}");
        }
    }
}
