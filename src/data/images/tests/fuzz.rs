//! Hostile bytes end in an error or a sound set, never in a panic.

use proptest::prelude::*;

use super::*;

/// Bytes of a good file with some of them changed and the end cut off.
fn damaged(bytes: Vec<u8>, within: usize) -> impl Strategy<Value = Vec<u8>> {
    let n = bytes.len();
    let changes = prop::collection::vec((0..within.min(n), any::<u8>()), 0..6);
    (changes, prop_oneof![Just(n), 0..n]).prop_map(move |(changes, length)| {
        let mut bytes = bytes.clone();
        changes.into_iter().for_each(|(at, value)| bytes[at] = value);
        bytes.truncate(length);
        bytes
    })
}

/// Names that the loaders look for.
fn known_name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "data_batch_1.bin",
        "test.bin",
        "any.bin",
        "t10k-images-idx3-ubyte",
        "train-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte",
        "data_batch_2.webp",
        "a/1.png",
        "a/1.jpg",
        "1.png",
        "unlabeled/1.webp",
        "readme",
    ])
}

fn check_all(scratch: &Scratch, name: &str) {
    for split in [Split::Train, Split::Test] {
        for path in ["", name] {
            let sets = [false, true]
                .map(|skip_bad| load_unlabelled(&scratch.path(path), &Wanted { skip_bad, ..Wanted::new(split) }));
            for set in sets.into_iter().chain([scratch.load(path, split)]) {
                match set {
                    Ok(set) => assert_eq!(set.images.len(), set.len() * set.image_bytes()),
                    Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn load_takes_any_bytes(name in known_name(), bytes in prop::collection::vec(any::<u8>(), 0..7000)) {
        let scratch = Scratch::new();
        scratch.write(name, &bytes);
        scratch.write("data_batch_2.labels", &[1]);
        check_all(&scratch, name);
    }

    #[test]
    fn load_takes_damaged_idx(
        images in damaged(idx(&[3, 4, 5], &[7; 60]), 16),
        labels in damaged(gz(&idx(&[3], &[1, 2, 3])), usize::MAX),
    ) {
        let scratch = Scratch::new();
        scratch.write("t10k-images-idx3-ubyte", &images);
        scratch.write("t10k-labels-idx1-ubyte", &labels);
        check_all(&scratch, "t10k-images-idx3-ubyte");
    }

    #[test]
    fn load_takes_damaged_gzip(images in damaged(gz(&idx(&[3, 4, 5], &[7; 60])), usize::MAX)) {
        let _ = idx::parse(Path::new("made"), flate2::bufread::MultiGzDecoder::new(images.as_slice()), 3);
    }

    #[test]
    fn load_takes_damaged_records(bytes in damaged(records(2, 0, 2), usize::MAX)) {
        for layout in [&cifar::TEN, &cifar::HUNDRED] {
            let _ = cifar::parse(Path::new("made"), &bytes, layout);
        }
    }

    #[test]
    fn load_takes_damaged_sheets(bytes in damaged(sheet(2, 1, 0).0, 60), labels in prop::collection::vec(0..12u8, 0..4)) {
        let _ = cifar::parse_sheet(Path::new("made"), &bytes, Path::new("labels"), &labels);
    }

    #[test]
    fn decode_takes_damaged_png(bytes in damaged(picture(24, 9, ImageFormat::Png), usize::MAX)) {
        let _ = picture::decode(Path::new("made"), &bytes);
    }

    #[test]
    fn decode_takes_damaged_jpeg(bytes in damaged(picture(24, 9, ImageFormat::Jpeg), usize::MAX)) {
        let _ = picture::decode(Path::new("made"), &bytes);
    }

    #[test]
    fn decode_takes_damaged_webp(bytes in damaged(picture(24, 9, ImageFormat::WebP), usize::MAX)) {
        let _ = picture::decode(Path::new("made"), &bytes);
    }
}
