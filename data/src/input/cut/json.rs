//! Cuts JSON documents between the elements of arrays and between documents.
//!
//! Objects are delimited by counting brackets outside of strings, without recursion and
//! without checking what is between. So a row that turns out bad has known ends, and its
//! neighbours can be kept.

use super::super::block::{Block, Documents, Place};
use super::super::{InputError, Limits, MAX_DEPTH, json};
use super::{MAX_SKIPPED, Record, Sizes, Skipped};

pub(in super::super) struct JsonCutter {
    sizes: Sizes,
    bytes: Vec<u8>,
    rows: Vec<std::ops::Range<usize>>,
    skipped: Vec<Skipped>,
    record: Record,
    place: Place,
    around: Around,
    within: Within,
    /// Where in the block the string being read starts, for the message if it never ends.
    string_start: usize,
    /// Number of the block's first row, from 1.
    first: u64,
    /// Rows ended so far, those passed over too.
    count: u64,
}

/// What is allowed outside of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    Documents,
    /// After `[`.
    FirstElement,
    /// After a comma.
    NextElement,
    AfterElement,
}

/// The value being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Nothing,
    Brackets {
        open: usize,
    },
    /// A string, `open` brackets deep.
    Text {
        open: usize,
    },
    /// The same after a backslash.
    Escape {
        open: usize,
    },
    /// A number or a word.
    Bare,
}

impl JsonCutter {
    pub fn new(sizes: Sizes) -> Self {
        JsonCutter {
            sizes,
            bytes: Vec::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
            record: Record::default(),
            place: Place { line: 1, column: 1 },
            around: Around::Documents,
            within: Within::Nothing,
            string_start: 0,
            first: 1,
            count: 0,
        }
    }

    pub fn push(&mut self, input: &mut &[u8]) -> Result<Option<Block>, InputError> {
        while !input.is_empty() {
            if self.within == Within::Nothing {
                self.between(input)?;
            } else {
                self.value(input);
            }
            let is_full =
                self.bytes.len() >= self.sizes.block_bytes || self.skipped.len() >= MAX_SKIPPED;
            if is_full && self.within == Within::Nothing {
                return Ok(self.take());
            }
        }
        Ok(None)
    }

    pub fn finish(&mut self) -> Result<Option<Block>, InputError> {
        match self.within {
            Within::Nothing => {}
            Within::Bare => self.end_value(),
            Within::Brackets { .. } => {
                return Err(self.broken("the document ends within an object or array"));
            }
            Within::Text { .. } | Within::Escape { .. } => {
                let at = self.string_start.min(self.bytes.len());
                return Err(self.broken_at(at, "the string does not end"));
            }
        }
        match self.around {
            Around::Documents => Ok(self.take()),
            Around::FirstElement | Around::NextElement => Err(self.broken("expected a value")),
            Around::AfterElement => Err(self.broken(AFTER_ELEMENT)),
        }
    }

    /// One byte outside of values.
    fn between(&mut self, input: &mut &[u8]) -> Result<(), InputError> {
        let byte = input[0];
        if !is_space(byte) {
            match (self.around, byte) {
                (Around::AfterElement, b',') => self.around = Around::NextElement,
                (Around::AfterElement | Around::FirstElement, b']') => {
                    self.around = Around::Documents;
                }
                (Around::AfterElement, _) => return Err(self.broken(AFTER_ELEMENT)),
                (Around::Documents, b'[') => self.around = Around::FirstElement,
                _ => return self.begin_value(byte),
            }
        }
        self.bytes.push(byte);
        *input = &input[1..];
        Ok(())
    }

    /// Its first byte is left to [`Self::value`].
    fn begin_value(&mut self, byte: u8) -> Result<(), InputError> {
        self.record.begin(&self.bytes);
        self.within = match byte {
            b'{' | b'[' | b'"' => Within::Brackets { open: 0 },
            b',' | b':' | b']' | b'}' => return Err(self.broken("expected a value")),
            _ => Within::Bare,
        };
        Ok(())
    }

    /// As much of a value as there is.
    fn value(&mut self, input: &mut &[u8]) {
        let mut at = 0;
        let ended = loop {
            let Some(&byte) = input.get(at) else {
                break false;
            };
            if self.within == Within::Bare && ends_bare(byte) {
                break true;
            }
            self.within = match (self.within, byte) {
                (Within::Text { open }, b'"') => Within::Brackets { open },
                (Within::Text { open }, b'\\') => Within::Escape { open },
                (Within::Escape { open }, _) => Within::Text { open },
                (Within::Brackets { open }, b'{' | b'[') => Within::Brackets { open: open + 1 },
                (Within::Brackets { open }, b'}' | b']') => Within::Brackets { open: open - 1 },
                (Within::Brackets { open }, b'"') => {
                    self.string_start = self.bytes.len() + at;
                    Within::Text { open }
                }
                (same, _) => same,
            };
            at += 1;
            if self.within == (Within::Brackets { open: 0 }) {
                break true;
            }
        };
        let (part, rest) = input.split_at(at);
        self.record
            .add(part, &mut self.bytes, self.sizes.record_bytes);
        *input = rest;
        if ended {
            self.end_value();
        }
    }

    fn end_value(&mut self) {
        self.count += 1;
        let start = self.record.start();
        match self.record.end(self.count, &self.bytes) {
            Some(skipped) => self.skipped.push(skipped),
            None => self.rows.push(start..self.bytes.len()),
        }
        self.within = Within::Nothing;
        if self.around != Around::Documents {
            self.around = Around::AfterElement;
        }
    }

    fn take(&mut self) -> Option<Block> {
        if self.bytes.is_empty() && self.skipped.is_empty() {
            return None;
        }
        let documents = Documents {
            bytes: std::mem::take(&mut self.bytes),
            rows: std::mem::take(&mut self.rows),
            first: self.first,
            skipped: std::mem::take(&mut self.skipped),
            place: self.place,
        };
        self.place = self.place.after(&documents.bytes);
        self.place.line += documents.skipped.iter().map(|s| s.lines).sum::<u64>();
        self.first = self.count + 1;
        self.record = Record::default();
        Some(Block::Documents(documents))
    }

    fn broken(&self, message: &str) -> InputError {
        self.broken_at(self.bytes.len(), message)
    }

    /// The first thing that is wrong with the text: brackets that do not match may be counted
    /// as if they did, and then a row before this place is at fault.
    fn broken_at(&self, at: usize, message: &str) -> InputError {
        let limits = Limits {
            max_rejections: 0,
            max_line_bytes: usize::MAX,
            max_fields: usize::MAX,
            max_depth: MAX_DEPTH,
        };
        let earlier = self.rows.iter().find_map(|row| {
            let text = std::str::from_utf8(&self.bytes[row.clone()]).ok()?;
            let flaw = json::parse(text, &limits).err().filter(|f| f.is_syntax)?;
            Some((row.start + flaw.offset?, flaw.message))
        });
        let (at, message) = earlier.unwrap_or_else(|| (at, message.to_owned()));
        let mut place = self.place.after(&self.bytes[..at]);
        let skipped = self.skipped.iter().filter(|skipped| skipped.at <= at);
        place.line += skipped.map(|skipped| skipped.lines).sum::<u64>();
        place.syntax(&message)
    }
}

const AFTER_ELEMENT: &str = "expected `,` or `]` after an element of the array";

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn ends_bare(byte: u8) -> bool {
    is_space(byte) || b",:[]{}\"".contains(&byte)
}

/// Whether brackets and quotes make text one value.
pub(in super::super) fn is_one_value(text: &[u8]) -> bool {
    let mut cutter = JsonCutter::new(Sizes {
        block_bytes: usize::MAX,
        record_bytes: usize::MAX,
    });
    let mut rest = text;
    matches!(
        (cutter.push(&mut rest), cutter.finish()),
        (Ok(_), Ok(Some(Block::Documents(found)))) if found.rows.len() == 1
    )
}
