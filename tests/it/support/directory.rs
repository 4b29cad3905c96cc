//! A directory of a test's own, removed with its value.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Below the system's directory for temporary files; other accounts may enter it (PostgreSQL may run as one).
#[derive(Debug)]
pub struct TestDirectory(PathBuf);

impl TestDirectory {
    /// A fresh, empty directory.
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("chartgate-test-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o711)).unwrap();
        Self(path)
    }

    /// One that another process made; whoever made it removes it, too.
    pub fn of(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
