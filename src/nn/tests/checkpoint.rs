//! Reading and writing safetensors, whole and damaged.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::data;
use crate::nn::{Checkpoint, Header, Hints, ParamKind, ParamList, Weights, identify};

/// A file of a header and data bytes.
fn file(header: &str, data: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// The message for a file of this header and this many data bytes, without its path.
fn refused(header: &Value, n_data: usize) -> String {
    let (_folder, path) = file(&header.to_string(), &vec![0; n_data]);
    let message = Header::read(&path).unwrap_err().to_string();
    assert_eq!(Checkpoint::read(&path).unwrap_err().to_string(), message);
    assert!(!message.contains('\n'), "{message}");
    message.split_once(": ").unwrap().1.to_string()
}

fn tensor(dtype: &str, shape: &[u64], start: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

fn params() -> ParamList {
    let mut params = ParamList::default();
    params.add("conv.weight", [2, 1, 1, 2], ParamKind::ConvWeight);
    params.add("conv.bias", [2], ParamKind::Bias);
    params
}

fn weights() -> Weights {
    Weights::new(&params(), vec![vec![1.0, -2.5, 3.0, 0.25], vec![f32::MIN_POSITIVE, 1e30]]).unwrap()
}

#[test]
fn what_is_written_is_read_back_by_us_and_by_the_crate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let metadata = BTreeMap::from([("step".to_string(), "7".to_string()), ("a".to_string(), "\"b\"".to_string())]);
    weights().save(&path, &params(), &metadata).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.load(&params(), "it").unwrap(), weights());
    assert_eq!(checkpoint.header().metadata(), &metadata);
    assert_eq!(checkpoint.header().names().collect::<Vec<_>>(), ["conv.weight", "conv.bias"]);
    let bytes = std::fs::read(&path).unwrap();
    let theirs = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("conv.weight").unwrap().shape(), [2, 1, 1, 2]);
    assert_eq!(theirs.tensor("conv.bias").unwrap().data(), [f32::MIN_POSITIVE, 1e30].map(f32::to_le_bytes).concat());
    // Nothing else is left in the folder, and a second run writes the same bytes.
    weights().save(&path, &params(), &metadata).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let f16: Vec<u8> =
        [1.0f32, -2.5, 6.1e-5, 65504.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let bf16: Vec<u8> = [3.0f32, 1e30].iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let tensors = HashMap::from([
        ("conv.weight", TensorView::new(Dtype::F16, vec![2, 1, 1, 2], &f16).unwrap()),
        ("conv.bias", TensorView::new(Dtype::BF16, vec![2], &bf16).unwrap()),
    ]);
    std::fs::write(&path, serialize(tensors, None).unwrap()).unwrap();
    let values = Checkpoint::read(&path).unwrap().load(&params(), "it").unwrap().into_inner();
    assert_eq!(values[0], [1.0, -2.5, half::f16::from_f32(6.1e-5).to_f32(), 65504.0]);
    assert_eq!(values[1], [3.0, half::bf16::from_f32(1e30).to_f32()]);
}

#[test]
fn wrappers_and_batch_counters_are_taken_off() {
    let header = json!({
        "module.conv.weight": tensor("F32", &[2, 1, 1, 2], 0, 16),
        "module.bn.num_batches_tracked": tensor("I64", &[], 16, 24),
        "module._orig_mod.conv.bias": tensor("F32", &[2], 24, 32),
    });
    let (_folder, path) = file(&header.to_string(), &[0; 32]);
    assert!(Header::read(path).unwrap().compare(&params(), "it").is_fit());
    let twice = json!({"a": tensor("U8", &[1], 0, 1), "module.a": tensor("U8", &[1], 1, 2)});
    assert!(refused(&twice, 2).contains("a is there twice"));
}

#[test]
fn a_load_lists_everything_that_does_not_fit() {
    let header = json!({
        "conv.weight": tensor("F32", &[2, 1, 2, 1], 0, 16),
        "other": tensor("F32", &[], 16, 20),
        "norm": tensor("F64", &[1], 20, 28),
    });
    let (_folder, path) = file(&header.to_string(), &[0; 28]);
    let mut params = params();
    params.add("norm", [1], ParamKind::Gain);
    let message = Checkpoint::read(&path).unwrap().load(&params, "a thing").unwrap_err();
    assert!(message.is_bad_input());
    assert_eq!(
        message.to_string().split_once(": ").unwrap().1,
        "does not fit a thing (1 missing, 1 extra, 1 mis-shaped, 1 of another type tensors): \
         mis-shaped conv.weight [2, 1, 2, 1], needed [2, 1, 1, 2]; missing conv.bias [2]; \
         norm is F64, F32, F16 or BF16 is read; extra other []"
    );
}

#[test]
fn a_long_report_stands_under_one_clear_line() {
    let header = Header::from_shapes("w.safetensors", (0..2000).map(|i| (format!("t{i}"), vec![i])));
    let text = header.compare(&params(), "a thing").to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "does not fit a thing (2 missing, 2000 extra tensors):");
    assert_eq!((lines[1], lines[3]), ("  missing conv.weight [2, 1, 1, 2]", "  extra t0 [0]"));
    assert_eq!((lines.len(), lines[1001]), (1002, "  and 1002 more"));
}

#[test]
fn all_problems_of_a_header_are_named_at_once() {
    let header = json!({
        "a": tensor("F32", &[4], 0, 16),
        "b": tensor("F32", &[2], 12, 20),
        "short": tensor("F32", &[3, 4], 20, 60),
        "kind": {"dtype": "Q4", "shape": [1], "data_offsets": [60, 61]},
        "negative": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        "huge": tensor("F32", &[u64::MAX, u64::MAX], 0, 4),
        "backwards": tensor("U8", &[4], 9, 5),
    });
    let message = refused(&header, 60);
    assert!(message.starts_with("damaged safetensors file: "), "{message}");
    for part in [
        "b starts at byte 12, inside a, which ends at 16",
        "short: F32 [3, 4] takes 48 bytes, its data goes from 20 to 60",
        "kind: unknown variant `Q4`",
        "negative: invalid value",
        "huge: F32 [18446744073709551615, 18446744073709551615] takes more bytes than can be counted",
        "backwards: U8 [4] takes 4 bytes, its data goes from 9 to 5",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn gaps_and_loose_ends_are_refused() {
    let gap = json!({"a": tensor("F32", &[1], 0, 4), "b": tensor("F32", &[1], 8, 12)});
    assert_eq!(refused(&gap, 12), "damaged safetensors file: bytes 4 to 8 belong to no tensor");
    let a = json!({"a": tensor("F32", &[1], 0, 4)});
    assert_eq!(refused(&a, 9), "damaged safetensors file: 5 bytes behind the last tensor");
    assert_eq!(refused(&a, 3), "damaged safetensors file: truncated: its tensors take 4 bytes, 3 are there");
    let far = json!({"a": tensor("U8", &[1], u64::MAX - 1, u64::MAX)});
    assert!(refused(&far, 4).contains("truncated: its tensors take 18446744073709551615 bytes"));
    let many = Value::Object((0..99).map(|i| (format!("t{i}"), tensor("U8", &[1], 0, 2))).collect());
    let message = refused(&many, 2);
    assert!(message.contains("t19: ") && !message.contains("t20: ") && message.ends_with("; and 79 more"), "{message}");
}

#[test]
fn files_that_are_something_else_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let refuse = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Checkpoint::read(&path).unwrap_err().to_string().split_once(": ").unwrap().1.to_string()
    };
    assert_eq!(refuse(b""), "0 bytes are too few for a safetensors file");
    assert_eq!(refuse(b"PK\x03\x04 and so on"), "a zip archive, as torch.save writes: no safetensors file");
    assert_eq!(refuse(b"version https://git-lfs"), "a Git LFS pointer whose file was not fetched: no safetensors file");
    assert_eq!(
        refuse(&[255; 20]),
        "truncated or no safetensors file: header of 18446744073709551615 bytes, 12 are there"
    );
    let mut long = (17u64 << 20).to_le_bytes().to_vec();
    long.resize(18 << 20, b' ');
    assert_eq!(refuse(&long), "header of 17825792 bytes; up to 16777216 are read");
    assert!(refuse(b"\x02\0\0\0\0\0\0\0[]").starts_with("no safetensors header: "));
    assert!(refuse(b"\x02\0\0\0\0\0\0\0\xff\xfe").starts_with("no safetensors header: "));
    let nested = [(200u64).to_le_bytes().to_vec(), vec![b'['; 200]].concat();
    assert!(refuse(&nested).starts_with("no safetensors header: "));
    assert!(
        Header::read(folder.path()).unwrap_err().to_string().ends_with("a folder, where a safetensors file is needed")
    );
    assert!(Header::read(folder.path().join("no")).unwrap_err().to_string().contains("no such file"));
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let fail = |path: PathBuf| weights().save(path, &params(), &BTreeMap::new()).unwrap_err().to_string();
    assert!(fail(folder.path().join("no/w.safetensors")).contains("cannot be written"));
    // A folder stands where the file should go: the temporary file is taken away again.
    std::fs::create_dir(folder.path().join("w.safetensors")).unwrap();
    assert!(fail(folder.path().join("w.safetensors")).contains("cannot be written"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(fail(PathBuf::from("/")).contains("cannot be written"));
}

#[test]
fn weights_of_the_wrong_length_are_refused() {
    let refuse = |values| Weights::new(&params(), values).unwrap_err().to_string();
    assert_eq!(refuse(vec![vec![]]), "weights: 1 tensors for a network of 2");
    assert_eq!(refuse(vec![vec![0.0; 4], vec![0.0; 3]]), "weights: 3 values for conv.bias [2]");
}

#[test]
fn published_weights_survive_a_round_trip() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("w.safetensors");
    let checkpoint = Checkpoint::read(data.join("models/mnist_cnn.safetensors")).unwrap();
    let params = identify(checkpoint.header(), &Hints::default()).unwrap().spec.plan().params;
    let weights = checkpoint.load(&params, "it").unwrap();
    weights.save(&copy, &params, &BTreeMap::new()).unwrap();
    assert_eq!(Checkpoint::read(&copy).unwrap().load(&params, "it").unwrap(), weights);
}

/// A small whole file.
fn whole() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    weights().save(&path, &params(), &BTreeMap::from([("k".into(), "v".into())])).unwrap();
    std::fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damaged_files_never_panic(
        cut in 0usize..400,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let mut bytes = whole();
        bytes.truncate(bytes.len().saturating_sub(cut / 2));
        for (at, byte) in edits {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.extend(tail);
        std::fs::write(&path, &bytes).unwrap();
        // Whatever comes back, it agrees with the crate on what a whole file is, and never panics.
        match Checkpoint::read(&path) {
            Ok(checkpoint) => {
                prop_assert!(SafeTensors::deserialize(&bytes).is_ok());
                let _ = checkpoint.load(&params(), "it");
                let _ = identify(checkpoint.header(), &Hints::default());
            }
            Err(e) => prop_assert!(e.is_bad_input()),
        }
    }

    #[test]
    fn truncated_files_are_always_refused(n in 0usize..200) {
        let bytes = whole();
        prop_assume!(n < bytes.len());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        std::fs::write(&path, &bytes[..n]).unwrap();
        prop_assert!(Checkpoint::read(&path).is_err());
    }
}
