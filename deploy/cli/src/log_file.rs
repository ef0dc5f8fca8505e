//! Logs of the mesh as files: their last lines, and what is added to them.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How much of the end of a file is read to find its last lines.
const TAIL_BYTES: u64 = 1024 * 1024;

/// The last `count` lines of a file, or of its last MiB.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn last_lines(path: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

/// Reads what is added to a file, also after it was replaced by a new one.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    open: Option<(File, u64)>,
    partial: Vec<u8>,
}

impl Follower {
    /// Follows from the present end of the file, which need not be there yet.
    pub(crate) fn from_end(path: PathBuf) -> Self {
        let open = File::open(&path).ok().and_then(|mut file| {
            file.seek(SeekFrom::End(0)).ok()?;
            let inode = file.metadata().ok()?.ino();
            Some((file, inode))
        });
        Self { path, open, partial: Vec::new() }
    }

    /// The whole lines that were added since the last call.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn new_lines(&mut self) -> io::Result<Vec<String>> {
        if let Some((file, _)) = &mut self.open {
            file.read_to_end(&mut self.partial)?;
        }
        // The old file is read to its end first, so that a rotation loses nothing.
        let present = self.path.metadata().ok();
        let held = self.open.as_ref().map(|(_, inode)| *inode);
        if let Some(inode) = present.as_ref().map(Metadata::ino).filter(|inode| Some(*inode) != held) {
            let mut file = File::open(&self.path)?;
            file.read_to_end(&mut self.partial)?;
            self.open = Some((file, inode));
        }
        Ok(self.take_whole_lines())
    }

    fn take_whole_lines(&mut self) -> Vec<String> {
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let whole: Vec<u8> = self.partial.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn the_last_lines_of_a_short_file_are_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(last_lines(&path, 2).unwrap(), ["two", "three"]);
        assert_eq!(last_lines(&path, 9).unwrap(), ["one", "two", "three"]);
    }

    #[test]
    fn a_follower_gives_whole_lines_and_survives_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        fs::write(&path, "before\n").unwrap();
        let mut follower = Follower::from_end(path.clone());
        let mut file = File::options().append(true).open(&path).unwrap();
        write!(file, "whole\nhal").unwrap();
        assert_eq!(follower.new_lines().unwrap(), ["whole"]);
        writeln!(file, "f").unwrap();
        fs::rename(&path, folder.path().join("x.log.1")).unwrap();
        fs::write(&path, "after\n").unwrap();
        assert_eq!(follower.new_lines().unwrap(), ["half", "after"]);
        assert_eq!(follower.new_lines().unwrap(), [""; 0]);
    }
}
