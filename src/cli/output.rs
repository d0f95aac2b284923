//! Where answers go: stdout, or a file that is there only when it is complete.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Stdout, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::ClientError;

/// Bytes of an answer copied at once.
const BUFFER_BYTES: usize = 64 << 10;

/// The place that answers are written to.
pub enum Output {
    Stdout(Stdout),
    /// A device or a pipe: written as it is.
    Device(File),
    /// Written beside its place and moved there at the end.
    File {
        file: NamedTempFile,
        path: PathBuf,
    },
}

impl Output {
    pub fn stdout() -> Output {
        Output::Stdout(io::stdout())
    }

    pub fn to_file(path: &Path) -> Result<Output, ClientError> {
        let bad = |error: io::Error| {
            ClientError::BadInput(format!("cannot write {}: {error}", path.display()))
        };
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let file = File::options().write(true).open(path).map_err(bad)?;
            return Ok(Output::Device(file));
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        // As any new file, not as the private one that a temporary file is.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder
            .prefix(".lambdalake-")
            .tempfile_in(folder)
            .map_err(bad)?;
        Ok(Output::File {
            file,
            path: path.to_path_buf(),
        })
    }

    pub fn is_terminal(&self) -> bool {
        match self {
            Output::Stdout(stdout) => stdout.is_terminal(),
            Output::Device(file) => file.is_terminal(),
            Output::File { .. } => false,
        }
    }

    /// Puts a file into its place. One that is dropped without this is as if never begun.
    pub fn finish(self) -> Result<(), ClientError> {
        match self {
            Output::Stdout(_) | Output::Device(_) => Ok(()),
            Output::File { file, path } => match file.persist(&path) {
                Ok(_) => Ok(()),
                Err(error) => Err(ClientError::BadInput(format!(
                    "cannot write {}: {}",
                    path.display(),
                    error.error
                ))),
            },
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(stdout) => stdout.write(bytes),
            Output::Device(file) => file.write(bytes),
            Output::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.flush(),
            Output::Device(file) => file.flush(),
            Output::File { file, .. } => file.flush(),
        }
    }
}

/// Which side of a transfer failed.
#[derive(Debug)]
pub enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Like [`io::copy`], but tells which side failed and gives out each piece at once.
pub fn copy(mut from: impl Read, mut to: impl Write) -> Result<(), CopyError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.flush().map_err(CopyError::Write),
            Ok(read) => to.write_all(&buffer[..read]).map_err(CopyError::Write)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyError::Read(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answer.csv");
        std::fs::write(&path, "old").unwrap();
        let mut broken = Output::to_file(&path).unwrap();
        broken.write_all(b"half").unwrap();
        drop(broken);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        let mut whole = Output::to_file(&path).unwrap();
        whole.write_all(b"new").unwrap();
        whole.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Output::to_file(&folder.path().join("no/answer")).is_err());
    }
}
