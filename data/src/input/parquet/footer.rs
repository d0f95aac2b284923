//! How deep the columns of a Parquet file are nested, told before its index is read.
//!
//! The reader of the index goes into the tree of columns by calling itself, as deep as the
//! file says: a few kilobytes could end the process. The tree is stored flat, as each node
//! and the number of its children, so that its depth can be told without.

use std::io;

use parquet::errors::ParquetError;
use parquet::file::FOOTER_SIZE;
use parquet::file::metadata::FooterTail;
use parquet::file::reader::ChunkReader;
use thrift::protocol::{TCompactInputProtocol, TInputProtocol, TType};

use super::super::{InputError, MAX_DEPTH};

/// Levels of the file's tree that one level of a column may take: a list is a group, a
/// repeated group and an element.
const LEVELS_PER_LEVEL: usize = 3;
/// The largest index that is read, as it lies in memory whole.
const MAX_INDEX_BYTES: usize = 64 << 20;
/// `FileMetaData.schema` and `SchemaElement.num_children` in Parquet's `parquet.thrift`.
const SCHEMA_FIELD: i16 = 2;
const NUM_CHILDREN_FIELD: i16 = 5;

/// Whether the file's index can be read at all, and without using up the stack.
///
/// # Errors
///
/// [`InputError::Invalid`] if the file ends early, or if its columns are nested too deeply.
pub fn check_nesting(file: &impl ChunkReader) -> Result<(), InputError> {
    let index = read_index(file).map_err(|error| super::invalid(&error))?;
    let deepest = deepest_level(&index).map_err(|error| super::invalid(&error))?;
    if deepest > MAX_DEPTH * LEVELS_PER_LEVEL {
        let reason = format!("its columns are nested deeper than {MAX_DEPTH} levels");
        return Err(super::invalid(&reason));
    }
    Ok(())
}

fn read_index(file: &impl ChunkReader) -> Result<bytes::Bytes, ParquetError> {
    let too_short = || ParquetError::General("it ends before its index".to_owned());
    let tail_at = file.len().checked_sub(FOOTER_SIZE as u64);
    let tail_at = tail_at.ok_or_else(too_short)?;
    let tail = FooterTail::try_from(&*file.get_bytes(tail_at, FOOTER_SIZE)?)?;
    if tail.is_encrypted_footer() {
        return Err(ParquetError::General("it is encrypted".to_owned()));
    }
    let length = tail.metadata_length();
    if length > MAX_INDEX_BYTES {
        let message = format!("its index of {length} bytes exceeds {MAX_INDEX_BYTES} bytes");
        return Err(ParquetError::General(message));
    }
    let index_at = tail_at.checked_sub(length as u64).ok_or_else(too_short)?;
    file.get_bytes(index_at, length)
}

/// The number of levels below the root, or one more than allowed if there are more.
fn deepest_level(index: &[u8]) -> Result<usize, thrift::Error> {
    let mut index = TCompactInputProtocol::new(io::Cursor::new(index));
    index.read_struct_begin()?;
    loop {
        let field = index.read_field_begin()?;
        match (field.field_type, field.id) {
            (TType::Stop, _) => return Ok(0),
            (TType::List, Some(SCHEMA_FIELD)) => return deepest_of_schema(&mut index),
            (other, _) => index.skip(other)?,
        }
        index.read_field_end()?;
    }
}

fn deepest_of_schema(index: &mut impl TInputProtocol) -> Result<usize, thrift::Error> {
    let nodes = index.read_list_begin()?.size;
    // For each level that is open, how many of its nodes are still to come.
    let mut open: Vec<i32> = Vec::new();
    let mut deepest = 0;
    for _ in 0..nodes {
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        let children = number_of_children(index)?;
        if children > 0 {
            open.push(children);
            deepest = deepest.max(open.len());
            if deepest > MAX_DEPTH * LEVELS_PER_LEVEL {
                return Ok(deepest);
            }
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(deepest)
}

fn number_of_children(index: &mut impl TInputProtocol) -> Result<i32, thrift::Error> {
    let mut children = 0;
    index.read_struct_begin()?;
    loop {
        let field = index.read_field_begin()?;
        match (field.field_type, field.id) {
            (TType::Stop, _) => break,
            (TType::I32, Some(NUM_CHILDREN_FIELD)) => children = index.read_i32()?,
            (other, _) => index.skip(other)?,
        }
        index.read_field_end()?;
    }
    index.read_struct_end()?;
    Ok(children)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use thrift::protocol::{
        TCompactOutputProtocol, TFieldIdentifier, TListIdentifier, TOutputProtocol,
        TStructIdentifier,
    };

    use super::super::ParquetBlocks;
    use super::*;

    const OPTIONAL: i32 = 1;

    /// A file of no rows whose one column lies below so many groups.
    fn file_nested(levels: i32) -> Bytes {
        let mut index = Vec::new();
        let mut out = TCompactOutputProtocol::new(&mut index);
        write_index(&mut out, levels).unwrap();
        let mut file = b"PAR1".to_vec();
        file.extend(&index);
        file.extend(u32::try_from(index.len()).unwrap().to_le_bytes());
        file.extend(b"PAR1");
        file.into()
    }

    fn write_index(out: &mut impl TOutputProtocol, levels: i32) -> thrift::Result<()> {
        out.write_struct_begin(&TStructIdentifier::new("FileMetaData"))?;
        field(out, TType::I32, 1, |out| out.write_i32(1))?;
        field(out, TType::List, SCHEMA_FIELD, |out| {
            out.write_list_begin(&TListIdentifier::new(TType::Struct, levels + 2))?;
            for _ in 0..=levels {
                node(out, |out| {
                    field(out, TType::I32, 3, |out| out.write_i32(OPTIONAL))?;
                    field(out, TType::String, 4, |out| out.write_string("group"))?;
                    field(out, TType::I32, NUM_CHILDREN_FIELD, |out| out.write_i32(1))
                })?;
            }
            node(out, |out| {
                field(out, TType::I32, 1, |out| out.write_i32(2))?;
                field(out, TType::I32, 3, |out| out.write_i32(OPTIONAL))?;
                field(out, TType::String, 4, |out| out.write_string("leaf"))
            })
        })?;
        field(out, TType::I64, 3, |out| out.write_i64(0))?;
        field(out, TType::List, 4, |out| {
            out.write_list_begin(&TListIdentifier::new(TType::Struct, 0))
        })?;
        out.write_field_stop()?;
        out.write_struct_end()
    }

    fn node<O: TOutputProtocol>(
        out: &mut O,
        fields: impl FnOnce(&mut O) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        out.write_struct_begin(&TStructIdentifier::new("SchemaElement"))?;
        fields(out)?;
        out.write_field_stop()?;
        out.write_struct_end()
    }

    fn field<O: TOutputProtocol>(
        out: &mut O,
        field_type: TType,
        id: i16,
        value: impl FnOnce(&mut O) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        out.write_field_begin(&TFieldIdentifier::new("", field_type, id))?;
        value(out)?;
        out.write_field_end()
    }

    #[test]
    fn an_index_beyond_its_limit_is_not_read() {
        let mut file = b"PAR1".to_vec();
        file.extend((MAX_INDEX_BYTES as u32 + 1).to_le_bytes());
        file.extend(b"PAR1");
        let Err(error) = ParquetBlocks::open(Bytes::from(file), 1 << 20) else {
            panic!("it is taken");
        };
        assert!(error.to_string().contains("exceeds"), "{error}");
    }

    #[test]
    fn columns_as_deep_as_allowed_are_read() {
        let levels = i32::try_from(MAX_DEPTH * LEVELS_PER_LEVEL).unwrap() - 1;
        assert!(ParquetBlocks::open(file_nested(levels), 1 << 20).is_ok());
    }

    #[test]
    fn columns_deeper_than_the_stack_are_refused() {
        for levels in [384, 10_000, 1_000_000] {
            let Err(error) = ParquetBlocks::open(file_nested(levels), 1 << 20) else {
                panic!("{levels} levels are taken");
            };
            assert!(error.to_string().contains("nested deeper than"), "{error}");
        }
    }
}
