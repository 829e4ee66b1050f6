//! Small files and directories of the storage itself: records, and where they lie.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::VolumeError;

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<(), VolumeError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|e| VolumeError::io(format!("cannot make directory {}", path.display()), e))
}

pub(super) fn names(directory: &Path) -> Result<Vec<String>, VolumeError> {
    let read = |e| VolumeError::io(format!("cannot list {}", directory.display()), e);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(read)? {
        // What is not text is not ours.
        names.extend(entry.map_err(read)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, VolumeError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(VolumeError::io(
                format!("cannot read {}", path.display()),
                error,
            ));
        }
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| VolumeError::Command(format!("{} is damaged: {e}", path.display())))
}

/// Replaces a file as a whole, also against a crash.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), VolumeError> {
    let text = serde_json::to_vec_pretty(value)
        .expect("records have string keys and no failing serializer");
    let new = path.with_extension("new");
    let write = || {
        fs::write(&new, &text)?;
        fs::File::open(&new)?.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|e| VolumeError::io(format!("cannot write {}", path.display()), e))
}
