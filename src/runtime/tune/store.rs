//! What tuning found, on disk: one JSON file per adapter, driver and way of compiling.

use super::{TuneEntry, TuneProbe};
use crate::files::write_whole;
use crate::runtime::DeviceProfile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Version of the file's keys.
const SCHEMA: u32 = 1;
const MAX_BYTES: u64 = 16 << 20;

/// Fowler-Noll-Vo hash, 64 bits, which no version of a compiler changes.
pub(crate) fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    for text in texts {
        text.bytes().for_each(&mut eat);
        // A byte that no text holds, so that texts do not run together.
        eat(0xff);
    }
    format!("{hash:016x}")
}

/// Whose findings they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) schema: u32,
    pub(super) adapter: DeviceProfile,
    /// Whether shaders were compiled with bounds checks.
    pub(super) checked: bool,
}

impl Owner {
    pub(super) fn new(adapter: &DeviceProfile, checked: bool) -> Self {
        Self { schema: SCHEMA, adapter: adapter.clone(), checked }
    }

    /// The file in `folder`.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        let text = serde_json::to_string(self).unwrap_or_default();
        folder.join(format!("tuned-{}.json", digest([text.as_str()])))
    }
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    /// By op, type and bucket.
    pub(super) entries: BTreeMap<String, TuneEntry>,
    /// By op, type and variant.
    pub(super) probes: BTreeMap<String, TuneProbe>,
}

#[derive(Serialize, Deserialize)]
struct File {
    owner: Owner,
    #[serde(flatten)]
    found: Found,
}

/// What the file holds; nothing where there is none. A file that cannot be read, or is another adapter's, counts as none
/// and is said to.
pub(super) fn load(path: &Path, owner: &Owner) -> Found {
    match read(path, owner) {
        Ok(found) => found.unwrap_or_default(),
        Err(reason) => {
            log::warn!("{}: {reason}; what was tuned before is measured again", path.display());
            Found::default()
        }
    }
}

fn read(path: &Path, owner: &Owner) -> Result<Option<Found>, String> {
    let size = match std::fs::metadata(path) {
        Ok(data) => data.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if size > MAX_BYTES {
        return Err(format!("{size} bytes, at most {MAX_BYTES} wanted"));
    }
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let file: File = serde_json::from_slice(&text).map_err(|error| format!("no findings of tuning: {error}"))?;
    if file.owner != *owner {
        return Err("findings of another adapter, driver or version".into());
    }
    Ok(Some(file.found))
}

/// Writes `found` whole, together with what another process has left there meanwhile; where both have an entry, that of
/// `found` stays. A failure only costs time at the next start.
pub(super) fn save(path: &Path, owner: &Owner, found: &Found) {
    // What cannot be read is replaced.
    let mut all = read(path, owner).ok().flatten().unwrap_or_default();
    all.entries.extend(found.entries.clone());
    all.probes.extend(found.probes.clone());
    let file = File { owner: owner.clone(), found: all };
    let written =
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| error.to_string()).and_then(|()| {
            let text = serde_json::to_vec_pretty(&file).map_err(|error| error.to_string())?;
            write_whole(path, |file| file.write_all(&text)).map_err(|error| error.to_string())
        });
    if let Err(error) = written {
        log::warn!("what was tuned is not kept: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{DeviceFeatures, DeviceLimits};

    fn owner(name: &str) -> Owner {
        let limits = DeviceLimits {
            buffer_bytes: 1,
            binding_bytes: 1,
            storage_buffers: 8,
            workgroup_bytes: 1,
            workgroup_threads: 1,
            workgroup_size_x: 1,
            groups_per_dimension: 1,
            offset_alignment: 1,
        };
        let adapter = DeviceProfile {
            name: name.into(),
            vendor: 1,
            kind: "cpu",
            driver: "d".into(),
            driver_info: "1".into(),
            backend: "vulkan",
            subgroup_min: 8,
            subgroup_max: 8,
            features: DeviceFeatures::default(),
            limits,
        };
        Owner::new(&adapter, true)
    }

    fn found(key: &str, variant: &str) -> Found {
        let entry = TuneEntry {
            digest: "d".into(),
            variant: variant.into(),
            default: "Plain".into(),
            times: vec![("Plain".into(), 2.0), (variant.into(), 1.0)],
        };
        let probe = TuneProbe { digest: "d".into(), wrong: None };
        Found { entries: [(key.to_owned(), entry)].into(), probes: [(key.to_owned(), probe)].into() }
    }

    #[test]
    fn what_two_processes_found_is_merged() {
        let folder = tempfile::tempdir().unwrap();
        let owner = owner("a");
        let path = owner.path(&folder.path().join("made on the way"));
        assert_eq!(load(&path, &owner), Found::default());
        save(&path, &owner, &found("one", "A"));
        save(&path, &owner, &found("two", "B"));
        save(&path, &owner, &found("one", "C"));
        let all = load(&path, &owner);
        assert_eq!(all.entries.keys().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((all.entries["one"].variant.as_str(), all.probes.len()), ("C", 2));
        // Nothing but the file itself is left behind.
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn foreign_and_broken_files_count_as_none_and_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (owner("a"), owner("b"));
        assert_ne!(ours.path(folder.path()), theirs.path(folder.path()));
        let path = ours.path(folder.path());
        save(&path, &theirs, &found("one", "A"));
        assert!(read(&path, &ours).unwrap_err().contains("another adapter"));
        let whole = std::fs::read(&path).unwrap();
        for broken in [&b""[..], b"{}", b"\xff\xfe", &whole[..whole.len() / 2], b"[1, 2]"] {
            std::fs::write(&path, broken).unwrap();
            assert!(read(&path, &ours).is_err(), "{broken:?}");
            assert_eq!(load(&path, &ours), Found::default());
            save(&path, &ours, &found("two", "B"));
            assert_eq!(load(&path, &ours), found("two", "B"));
        }
        // A folder in the file's place cannot be replaced; nothing fails.
        let path = theirs.path(folder.path());
        std::fs::create_dir_all(path.join("x")).unwrap();
        assert_eq!(load(&path, &theirs), Found::default());
        save(&path, &theirs, &found("two", "B"));
    }

    #[test]
    fn digests_differ_where_texts_do() {
        let texts = [&["ab", "c"][..], &["a", "bc"], &["abc"], &["ab", "d"], &[]];
        let digests: std::collections::HashSet<_> = texts.iter().map(|t| digest(t.iter().copied())).collect();
        assert_eq!(digests.len(), texts.len());
        assert_eq!(digest(["ab", "c"]), digest(["ab", "c"]));
    }
}
