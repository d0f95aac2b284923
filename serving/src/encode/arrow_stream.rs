//! Arrow IPC stream: schema, batches, end mark.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use serde_json::Value;

use super::Encoder;

pub(super) struct ArrowStream {
    schema: SchemaRef,
    /// Made by `start`, so that its failure is an error of the answer.
    writer: Option<StreamWriter<Vec<u8>>>,
}

impl ArrowStream {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            writer: None,
        }
    }

    fn writer(&mut self) -> Result<&mut StreamWriter<Vec<u8>>, ArrowError> {
        self.writer
            .as_mut()
            .ok_or_else(|| ArrowError::IpcError("not started".to_owned()))
    }
}

impl Encoder for ArrowStream {
    fn start(&mut self) -> Result<Vec<u8>, ArrowError> {
        let writer = self
            .writer
            .insert(StreamWriter::try_new(Vec::new(), &self.schema)?);
        Ok(std::mem::take(writer.get_mut()))
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let writer = self.writer()?;
        writer.write(batch)?;
        Ok(std::mem::take(writer.get_mut()))
    }

    fn finish(&mut self, _rows: u64, _stats: &Value) -> Result<Vec<u8>, ArrowError> {
        let writer = self.writer()?;
        writer.finish()?;
        Ok(std::mem::take(writer.get_mut()))
    }
}
