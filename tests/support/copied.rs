//! A gateway's data, copied for another run on it.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

/// A directory with a copy of the other one's `data`, each directory as private as it was.
pub fn copied(from: &Path) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy(&from.join("data"), &directory.path().join("data"));
    directory
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}
