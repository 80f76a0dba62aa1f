//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A sum of 64 bits over bytes, in which any one change shows; it guards against damage, not against malice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    /// The digest of nothing.
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes and where they end: parts are told apart.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    /// Every step is one to one in the sum before, so a difference stays; the shifts carry high bits down, where a product alone
    /// would leave a change of the highest bit one of a single bit.
    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = mixed ^ mixed >> 29;
    }

    /// 16 hexadecimal digits.
    pub(crate) fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// A name beside `path` that no other process uses.
fn temporary(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::file(path, "cannot be written: no file name"))?;
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

/// Writes a file under a temporary name beside `path`, then renames it, so that no half of it is ever seen.
///
/// # Errors
/// [`Error::Write`] if it cannot be written; nothing is left behind then.
pub(crate) fn write_whole(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let temporary = temporary(path)?;
    let run = || {
        let mut file = BufWriter::new(File::create(&temporary)?);
        write(&mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        std::fs::rename(&temporary, path)
    };
    run().map_err(|e| {
        // The write's own error is the one to report.
        let _ = std::fs::remove_file(&temporary);
        let Error::File { path, message } = cannot(path, &e) else { return Error::io(path, &e) };
        Error::Write { path, message }
    })
}

/// Removes what writes of a file called `name` left in `folder` when their processes were killed.
pub(crate) fn remove_leftovers(folder: &Path, name: &str) {
    let start = format!(".{name}.");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_left = |file: &OsString| file.to_str().is_some_and(|f| f.starts_with(&start) && f.ends_with(".tmp"));
    for entry in entries.filter(|entry| is_left(&entry.file_name())) {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            log::warn!("{}: {error}", entry.path().display());
        }
    }
}

/// Whether a file could be written at `path`, found out before the work that makes it.
///
/// # Errors
/// [`Error::File`] if it could not.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let temporary = temporary(path)?;
    if path.is_dir() {
        return Err(Error::file(path, "cannot be written: is a folder"));
    }
    File::create(&temporary).and_then(|_| std::fs::remove_file(&temporary)).map_err(|e| cannot(path, &e))
}

/// Whether two paths name one file, which need not be there.
pub(crate) fn same_file(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let own = std::fs::canonicalize(path);
        own.or_else(|_| Ok::<_, io::Error>(std::fs::canonicalize(folder)?.join(path.file_name().unwrap_or_default())))
    };
    matches!((whole(a), whole(b)), (Ok(a), Ok(b)) if a == b)
}

fn cannot(path: &Path, e: &io::Error) -> Error {
    let Error::File { message, .. } = Error::io(path, e) else { return Error::io(path, e) };
    Error::file(path, format!("cannot be written: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_show_every_change() {
        let digest = |parts: &[&[u8]]| {
            let mut digest = Digest::new();
            parts.iter().for_each(|part| digest.add(part));
            digest.text()
        };
        let bytes: Vec<u8> = (0..41).collect();
        let mut seen = std::collections::HashSet::from([digest(&[&bytes])]);
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[i] ^= 1 << bit;
                assert!(seen.insert(digest(&[&changed])), "bit {bit} of byte {i}");
            }
            assert!(seen.insert(digest(&[&bytes[..i]])), "{i} bytes");
            assert!(seen.insert(digest(&[&bytes[..i], &bytes[i..]])), "parts of {i}");
        }
        // The same bit of two words.
        let mut changed = bytes.clone();
        (changed[7], changed[15]) = (bytes[7] ^ 128, bytes[15] ^ 128);
        assert!(seen.insert(digest(&[&changed])) && seen.iter().all(|text| text.len() == 16));
        assert_eq!(digest(&[&bytes]), digest(&[&bytes]));
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_whole(&path, |f| f.write_all(b"first")).unwrap();
        let failed = write_whole(&path, |f| {
            f.write_all(b"half")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.unwrap_err().to_string().ends_with("a: cannot be written: the disk is full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn writability_is_found_out_without_a_trace() {
        let folder = tempfile::tempdir().unwrap();
        check_writable(&folder.path().join("a")).unwrap();
        for wrong in ["no/a", "", "."] {
            let message = check_writable(&folder.path().join(wrong)).unwrap_err().to_string();
            assert!(message.contains("cannot be written"), "{message}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
