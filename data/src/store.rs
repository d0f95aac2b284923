//! The injected disk as an `object_store`, for DataFusion's Parquet reader and deltalake.
//!
//! `object_store`'s own local store never syncs; this one writes every object the way
//! [`crate::disk`] promises, so Delta commits are as durable as everything else.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};

use crate::disk::{Disk, FileInfo, StagedFile};
use crate::error::DataError;

/// One folder of the data root, seen as an object store.
#[derive(Debug, Clone)]
pub struct DiskStore {
    disk: Arc<Disk>,
    prefix: String,
}

impl DiskStore {
    /// `prefix` is a folder below the data root, without a slash at its end; empty for all.
    pub fn new(disk: Arc<Disk>, prefix: &str) -> Self {
        Self {
            disk,
            prefix: prefix.to_owned(),
        }
    }

    fn at(&self, location: &Path) -> String {
        match (self.prefix.as_str(), location.as_ref()) {
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}/{path}"),
        }
    }

    fn meta(&self, info: &FileInfo) -> Result<ObjectMeta> {
        let path = info.path.strip_prefix(&self.prefix).unwrap_or(&info.path);
        Ok(ObjectMeta {
            location: Path::parse(path.trim_start_matches('/'))?,
            last_modified: DateTime::from_timestamp_micros(info.modified_micros)
                .unwrap_or_default(),
            size: info.bytes,
            e_tag: Some(format!("{}-{}", info.modified_micros, info.bytes)),
            version: None,
        })
    }

    fn files(&self, prefix: Option<&Path>) -> Result<Vec<ObjectMeta>> {
        let folder = self.at(prefix.unwrap_or(&Path::default()));
        let files = self.disk.list(&folder).map_err(generic)?;
        files.iter().map(|info| self.meta(info)).collect()
    }
}

impl fmt::Display for DiskStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DiskStore({})", self.prefix)
    }
}

fn generic(error: DataError) -> Error {
    match error {
        DataError::Exists { path } => {
            let path = path.display().to_string();
            Error::AlreadyExists {
                source: format!("{path} exists").into(),
                path,
            }
        }
        other => Error::Generic {
            store: "DiskStore",
            source: Box::new(other),
        },
    }
}

fn not_found(path: &str) -> Error {
    Error::NotFound {
        path: path.to_owned(),
        source: "no such file in the data folder".into(),
    }
}

fn finish(staged: StagedFile, over: bool) -> Result<PutResult> {
    if over {
        staged.publish_over()
    } else {
        staged.publish()
    }
    .map_err(generic)?;
    Ok(PutResult {
        e_tag: None,
        version: None,
    })
}

#[async_trait]
impl ObjectStore for DiskStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let over = match options.mode {
            PutMode::Create => false,
            PutMode::Overwrite => true,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "conditional update".to_owned(),
                    implementer: self.to_string(),
                });
            }
        };
        let mut staged = self.disk.stage(&self.at(location)).map_err(generic)?;
        for part in payload.iter() {
            staged.write(part).map_err(generic)?;
        }
        finish(staged, over)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let staged = self.disk.stage(&self.at(location)).map_err(generic)?;
        Ok(Box::new(Upload {
            staged: Some(staged),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = self.at(location);
        let info = self
            .disk
            .head(&path)
            .map_err(generic)?
            .ok_or_else(|| not_found(&path))?;
        let meta = self.meta(&info)?;
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(info.bytes).map_err(|error| Error::Generic {
                store: "DiskStore",
                source: Box::new(error),
            })?,
            None => 0..info.bytes,
        };
        let bytes = if options.head || range.is_empty() {
            Bytes::new()
        } else {
            self.disk
                .read_range(&path, range.clone())
                .map_err(generic)?
                .ok_or_else(|| not_found(&path))?
        };
        let payload = GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed());
        Ok(GetResult {
            payload,
            meta,
            range,
            attributes: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |location| {
                let location = location?;
                store.disk.remove(&store.at(&location)).map_err(generic)?;
                Ok(location)
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.files(prefix) {
            Ok(files) => stream::iter(files.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    /// Delta asks for what came after a commit that it knows: other entries are not looked at.
    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = self.at(prefix.unwrap_or(&Path::default()));
        let listed = self.disk.list_after(&folder, &self.at(offset));
        let listed = listed.map_err(generic);
        match listed.and_then(|files| files.iter().map(|info| self.meta(info)).collect()) {
            Ok::<Vec<_>, _>(files) => stream::iter(files.into_iter().map(Ok)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = Path::default();
        let prefix = prefix.unwrap_or(&root);
        let mut objects = Vec::new();
        let mut common_prefixes = Vec::new();
        for meta in self.files(Some(prefix))? {
            let Some(parts) = meta.location.prefix_match(prefix) else {
                continue;
            };
            let parts: Vec<_> = parts.collect();
            if parts.len() <= 1 {
                objects.push(meta);
            } else {
                let folder = prefix.clone().join(parts[0].as_ref());
                if common_prefixes.last() != Some(&folder) {
                    common_prefixes.push(folder);
                }
            }
        }
        Ok(ListResult {
            objects,
            common_prefixes,
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let source = self.at(from);
        let bytes = self
            .disk
            .read(&source)
            .map_err(generic)?
            .ok_or_else(|| not_found(&source))?;
        let mut staged = self.disk.stage(&self.at(to)).map_err(generic)?;
        staged.write(&bytes).map_err(generic)?;
        finish(staged, matches!(options.mode, CopyMode::Overwrite)).map(|_| ())
    }
}

struct Upload {
    staged: Option<StagedFile>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upload(open: {})", self.staged.is_some())
    }
}

fn upload_ended() -> Error {
    Error::Generic {
        store: "DiskStore",
        source: "the upload has ended".into(),
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let written = match &mut self.staged {
            Some(staged) => data
                .iter()
                .try_for_each(|part| staged.write(part))
                .map_err(generic),
            None => Err(upload_ended()),
        };
        futures::future::ready(written).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        finish(self.staged.take().ok_or_else(upload_ended)?, true)
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged = None;
        Ok(())
    }
}
