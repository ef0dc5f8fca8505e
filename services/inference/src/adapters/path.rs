//! Folders below the configured one, and nothing else.

use std::path::{Component, Path, PathBuf};

use super::AdapterError;

/// The folder that `path` names below `root`, with its links followed.
///
/// # Errors
/// It is not a folder, or it, or a file in it, lies elsewhere.
pub(super) fn below(root: &Path, path: &str) -> Result<PathBuf, AdapterError> {
    let refused = |rule: &str| AdapterError::Field { field: "path", rule: format!("is `{path}`; {rule}") };
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || path.contains('\0') || !plain {
        return Err(refused("must be a relative path without `..`"));
    }
    let missing = |_| refused("must be a folder below the service's adapter folder");
    let root = root.canonicalize().map_err(missing)?;
    let folder = root.join(path).canonicalize().map_err(missing)?;
    let outside = || refused("must not lead out of the service's adapter folder");
    if !folder.starts_with(&root) {
        return Err(outside());
    }
    for entry in folder.read_dir().map_err(missing)? {
        let entry = entry.map_err(missing)?;
        if entry.file_type().map_err(missing)?.is_symlink() {
            // A link that leads nowhere is found when it is read.
            let target = entry.path().canonicalize();
            if target.is_ok_and(|target| !target.starts_with(&root)) {
                return Err(outside());
            }
        }
    }
    Ok(folder)
}
