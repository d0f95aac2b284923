//! Cuts an Arrow IPC stream between record batches; large ones are cut further, by rows.
//!
//! Messages are put together and looked at here before arrow's decoder sees them, because it
//! makes room for as many bytes as a message says it has. The file format is the stream
//! format within two magic words, with an index after it that is not needed here.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{Array, RecordBatch};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::{Message, root_as_message};

use super::super::block::{Block, Table};
use super::super::{Format, InputError};
use super::Sizes;

/// Bytes of one message, as sent and as unpacked: a record batch is decoded as a whole.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;
/// Bytes of a message's description.
const MAX_METADATA_BYTES: usize = 16 * 1024 * 1024;
const CONTINUATION: [u8; 4] = [0xff; 4];
const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
const FILE_MAGIC: &[u8] = b"ARROW1";
/// The magic word, filled up to eight bytes.
const FILE_HEAD_BYTES: usize = 8;

pub(in super::super) struct ArrowCutter {
    sizes: Sizes,
    decoder: StreamDecoder,
    message: MutableBuffer,
    part: Part,
    /// Bytes of `message` with which `part` is complete.
    needed: usize,
    pending: Vec<RecordBatch>,
    pending_bytes: usize,
    ready: VecDeque<Block>,
    /// Number of the next row that goes into a block.
    row: u64,
    is_file: bool,
    has_messages: bool,
    /// The decoder knows that nothing follows.
    is_finished: bool,
    /// The last bytes of a file, which have to be the magic word.
    tail: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The first bytes, which tell a file from a stream.
    Magic,
    FileHead,
    /// Length of the metadata, perhaps after a continuation marker.
    Length,
    Metadata {
        start: usize,
    },
    Body {
        start: usize,
    },
    /// After the end-of-stream marker.
    End,
}

impl ArrowCutter {
    pub fn new(sizes: Sizes) -> Self {
        ArrowCutter {
            sizes,
            decoder: StreamDecoder::new(),
            message: MutableBuffer::new(0),
            part: Part::Magic,
            needed: 4,
            pending: Vec::new(),
            pending_bytes: 0,
            ready: VecDeque::new(),
            row: 1,
            is_file: false,
            has_messages: false,
            is_finished: false,
            tail: Vec::new(),
        }
    }

    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Block>, InputError> {
        loop {
            if let Some(block) = self.ready.pop_front() {
                return Ok(Some(block));
            }
            if input.is_empty() {
                return Ok(None);
            }
            if self.part == Part::End {
                self.after_end(input)?;
                continue;
            }
            let missing = self.needed - self.message.len();
            let (part, rest) = input.split_at(missing.min(input.len()));
            self.message.extend_from_slice(part);
            *input = rest;
            // A part can be empty, such as the body of a schema.
            while self.part != Part::End && self.message.len() == self.needed {
                self.advance()?;
            }
        }
    }

    pub fn finish(&mut self) -> Result<Option<Block>, InputError> {
        if let Some(block) = self.ready.pop_front() {
            return Ok(Some(block));
        }
        let at_border = self.part == Part::Length && self.message.is_empty() && !self.is_file;
        if self.part != Part::End && !at_border {
            return Err(invalid("it is cut short: it ends within a message"));
        }
        if self.is_file && !self.tail.ends_with(FILE_MAGIC) {
            return Err(invalid(
                "it is cut short: the file's last bytes are missing",
            ));
        }
        if !self.has_messages {
            return Err(invalid("it has no schema"));
        }
        if !self.is_finished {
            self.is_finished = true;
            self.feed(Buffer::from_slice_ref(END_OF_STREAM))?;
        }
        self.seal();
        Ok(self.ready.pop_front())
    }

    fn after_end(&mut self, input: &mut &[u8]) -> Result<(), InputError> {
        if !self.is_file {
            return Err(invalid("something follows the end of the stream"));
        }
        self.tail.extend_from_slice(input);
        let surplus = self.tail.len().saturating_sub(FILE_MAGIC.len());
        self.tail.drain(..surplus);
        *input = &[];
        Ok(())
    }

    /// The part is complete.
    fn advance(&mut self) -> Result<(), InputError> {
        match self.part {
            Part::Magic if self.message.as_slice() == &FILE_MAGIC[..4] => {
                self.is_file = true;
                self.expect(Part::FileHead, FILE_HEAD_BYTES);
            }
            Part::FileHead => {
                if !self.message.starts_with(FILE_MAGIC) {
                    return Err(invalid("it does not begin like one"));
                }
                self.message.clear();
                self.expect(Part::Length, 4);
            }
            Part::Magic | Part::Length => self.length()?,
            Part::Metadata { start } => {
                let length = body_length(&self.message[start..])?;
                let body = self.message.len();
                self.expect(Part::Body { start }, body + length);
            }
            Part::Body { start } => self.decode(start)?,
            Part::End => {}
        }
        Ok(())
    }

    fn expect(&mut self, part: Part, needed: usize) {
        self.part = part;
        self.needed = needed;
    }

    fn length(&mut self) -> Result<(), InputError> {
        if self.message.as_slice() == CONTINUATION {
            self.expect(Part::Length, 8);
            return Ok(());
        }
        let start = self.message.len();
        let mut length = [0; 4];
        length.copy_from_slice(&self.message[start - 4..]);
        let length = u32::from_le_bytes(length) as usize;
        if length == 0 && self.is_file && !self.has_messages {
            // Some writers fill up the magic word to more than eight bytes.
            self.message.clear();
            self.expect(Part::Length, 4);
        } else if length == 0 {
            self.part = Part::End;
            self.message.clear();
        } else if length > MAX_METADATA_BYTES {
            return Err(invalid("the description of a message is too long"));
        } else {
            self.expect(Part::Metadata { start }, start + length);
        }
        Ok(())
    }

    fn decode(&mut self, start: usize) -> Result<(), InputError> {
        let message = std::mem::replace(&mut self.message, MutableBuffer::new(0));
        self.expect(Part::Length, 4);
        self.has_messages = true;
        check_buffers(&message[start..])?;
        self.feed(Buffer::from(message))
    }

    /// Hands a message to arrow's decoder. It looks at a message without a body only when
    /// something follows it.
    fn feed(&mut self, mut buffer: Buffer) -> Result<(), InputError> {
        // Arrow's decoder trusts some of what a message says, and panics where that is wrong.
        let decode = AssertUnwindSafe(|| self.decoder.decode(&mut buffer));
        let decoded = catch_unwind(decode);
        let batch = match decoded {
            Ok(Ok(batch)) => batch,
            Ok(Err(error)) => return Err(broken(&error)),
            Err(_) => return Err(invalid("a message contradicts itself")),
        };
        match batch {
            Some(batch) => self.add(&batch),
            None => Ok(()),
        }
    }

    fn add(&mut self, batch: &RecordBatch) -> Result<(), InputError> {
        let mut bytes = 0;
        for column in batch.columns() {
            bytes += column
                .to_data()
                .get_slice_memory_size()
                .map_err(|error| broken(&error))?;
        }
        let rows = batch.num_rows();
        let parts = bytes
            .div_ceil(self.sizes.block_bytes.max(1))
            .clamp(1, rows.max(1));
        let step = rows.div_ceil(parts).max(1);
        for start in (0..rows).step_by(step) {
            self.pending
                .push(batch.slice(start, step.min(rows - start)));
            self.pending_bytes += bytes / parts;
            if self.pending_bytes >= self.sizes.block_bytes {
                self.seal();
            }
        }
        Ok(())
    }

    fn seal(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let table = Table {
            format: Format::Arrow,
            batches: std::mem::take(&mut self.pending),
            first: self.row,
        };
        self.pending_bytes = 0;
        self.row += table.rows() as u64;
        self.ready.push_back(Block::Table(table));
    }
}

/// Length of the body that a message's metadata announces.
fn body_length(metadata: &[u8]) -> Result<usize, InputError> {
    let message = parse(metadata)?;
    match usize::try_from(message.bodyLength()) {
        Ok(length) if length <= MAX_MESSAGE_BYTES => Ok(length),
        _ => Err(InputError::TooLarge {
            what: "the bytes of one Arrow message (write smaller record batches)",
            limit: MAX_MESSAGE_BYTES,
        }),
    }
}

/// The buffers of a batch lie within its body, and do not say that they unpack to more than
/// there is room for.
fn check_buffers(message: &[u8]) -> Result<(), InputError> {
    let parsed = parse(message)?;
    let batch = parsed.header_as_record_batch().or_else(|| {
        let dictionary = parsed.header_as_dictionary_batch()?;
        dictionary.data()
    });
    let Some(batch) = batch else { return Ok(()) };
    let length = usize::try_from(parsed.bodyLength()).unwrap_or(0);
    let body = &message[message.len().saturating_sub(length)..];
    let rows =
        usize::try_from(batch.length()).map_err(|_| invalid("a batch has less than no rows"))?;
    if rows > MAX_MESSAGE_BYTES {
        return Err(invalid("a batch has more rows than there is room for"));
    }
    let mut unpacked = 0usize;
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset()).ok().and_then(|start| {
            let length = usize::try_from(buffer.length()).ok()?;
            body.get(start..start.checked_add(length)?)
        });
        let Some(bytes) = range else {
            return Err(invalid("a buffer lies outside of its message"));
        };
        let says = match (batch.compression(), bytes.first_chunk::<8>()) {
            (Some(_), Some(length)) => i64::from_le_bytes(*length).max(0),
            _ => 0,
        };
        unpacked = unpacked.saturating_add(usize::try_from(says).unwrap_or(usize::MAX));
    }
    if unpacked > MAX_MESSAGE_BYTES {
        return Err(InputError::TooLarge {
            what: "the bytes of one Arrow message (write smaller record batches)",
            limit: MAX_MESSAGE_BYTES,
        });
    }
    Ok(())
}

fn parse(metadata: &[u8]) -> Result<Message<'_>, InputError> {
    root_as_message(metadata).map_err(|_| invalid("the description of a message is broken"))
}

fn broken(error: &ArrowError) -> InputError {
    invalid(&error.to_string())
}

fn invalid(message: &str) -> InputError {
    InputError::invalid(
        "invalid_arrow",
        format!("the body is not valid Arrow IPC: {message}"),
    )
}
