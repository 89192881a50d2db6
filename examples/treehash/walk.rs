//! The regular files below some folders, as `find DIR.. -type f` names them. Symbolic links are not followed.

use std::fmt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// A folder that could not be read; the walk goes on without it.
#[derive(Debug)]
pub struct Unreadable(walkdir::Error);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.path(), self.0.io_error()) {
            (Some(path), Some(reason)) => write!(f, "{}: {reason}", path.display()),
            _ => self.0.fmt(f),
        }
    }
}

/// Walks each folder in turn; files and unreadable folders come in the order the file system gives them.
pub fn files(dirs: &[PathBuf]) -> impl Iterator<Item = Result<PathBuf, Unreadable>> {
    dirs.iter().flat_map(|dir| below(dir))
}

fn below(dir: &Path) -> impl Iterator<Item = Result<PathBuf, Unreadable>> + use<> {
    WalkDir::new(dir).follow_root_links(false).into_iter().filter_map(|entry| match entry {
        Ok(entry) => entry.file_type().is_file().then(|| Ok(entry.into_path())),
        Err(error) => Some(Err(Unreadable(error))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn found(dirs: &[PathBuf]) -> Vec<PathBuf> {
        let mut files: Vec<_> = files(dirs).map(|f| f.unwrap()).collect();
        files.sort();
        files
    }

    #[test]
    fn only_regular_files_are_found_and_links_are_not_followed() {
        let scratch = Scratch::new();
        let dir = scratch.path();
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "x").unwrap();
        fs::write(dir.join(".hidden"), "").unwrap();
        let odd = dir.join(OsStr::from_bytes(b"odd\xff\n"));
        fs::write(&odd, "x").unwrap();
        symlink("sub", dir.join("to_dir")).unwrap();
        symlink("sub/file", dir.join("to_file")).unwrap();
        symlink("nowhere", dir.join("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();

        assert_eq!(found(&[dir.to_owned()]), [dir.join(".hidden"), odd, dir.join("sub/file")]);
        assert_eq!(
            found(&[dir.join("to_dir")]),
            [] as [PathBuf; 0],
            "a link given as DIR is a link, not a folder"
        );
        assert_eq!(found(&[dir.join("sub/file")]), [dir.join("sub/file")], "a file given as DIR is a file");
    }

    #[test]
    fn what_cannot_be_read_is_reported_and_the_walk_goes_on() {
        let scratch = Scratch::new();
        let (missing, file) = (scratch.path().join("missing"), scratch.path().join("file"));
        fs::write(&file, "").unwrap();
        let results: Vec<_> = files(&[missing.clone(), scratch.path().to_owned()]).collect();
        assert_eq!(results.len(), 2);
        let report = results[0].as_ref().unwrap_err().to_string();
        assert!(report.starts_with(missing.to_str().unwrap()) && report.contains("No such file"), "{report}");
        assert_eq!(results[1].as_ref().unwrap(), &file);
    }
}
