//! The real sets, where `LEANVISION_DATA` names the folder that has them.

use super::*;
use crate::data::digest;

fn real(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("LEANVISION_DATA").map(|root| Path::new(&root).join(name)).filter(|path| path.exists());
    if path.is_none() {
        let mut out = std::io::stderr().lock();
        let _ = writeln!(out, "skipped: no {name} under LEANVISION_DATA");
    }
    path
}

#[test]
fn real_cifar_10() {
    let Some(path) = real("cifar-10-batches-bin") else { return };
    let test = load(&path, &Wanted::new(Split::Test)).unwrap();
    assert_eq!((test.len(), test.source.as_str()), (10_000, "test_batch: 10,000 test images"));
    assert_eq!(test.class_counts(), [1000; 10]);
    // cat, ship, ship, airplane: how the published test set begins.
    assert_eq!(test.labels[..10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]);
}

#[test]
fn real_cifar_10_sheets() {
    let (Some(path), Some(_)) = (real("cifar-10-batches-bin"), real("cifar-10-sheets")) else { return };
    let train = load(&path, &Wanted::new(Split::Train)).unwrap();
    assert_eq!(train.source, "data_batch_1 and 4 sheets: 50,000 training images");
    assert_eq!(train.class_counts(), [5000; 10]);
    // frog, truck, truck, deer: how the published training set begins.
    assert_eq!(train.labels[..10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]);
    // Taken from records whose SHA-256 are those that the data's own page states.
    let labels: Vec<u8> = train.labels.iter().map(|&label| label as u8).collect();
    assert_eq!(digest(train.images.iter().chain(&labels)), 0x5caa_aa86_d9f3_3c90);
}

#[test]
fn real_cifar_100() {
    let Some(path) = real("cifar-100-subset") else { return };
    let set = load(&path, &Wanted::new(Split::Test)).unwrap();
    assert_eq!((set.len(), set.class_counts()), (5000, vec![50; 100]));
    assert_eq!(set.labels[..10], [84, 51, 39, 13, 93, 36, 15, 14, 91, 84]);
}

#[test]
fn real_mnist() {
    let Some(path) = real("mnist") else { return };
    let set = load(&path, &Wanted::new(Split::Test)).unwrap();
    assert_eq!((set.len(), set.height, set.width, set.channels), (10_000, 28, 28, 1));
    assert_eq!(set.class_counts(), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    assert_eq!(set.labels[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    fails(load(&path, &Wanted::new(Split::Train)), &path, &["no training images"]);
}

#[test]
fn real_fashion_mnist() {
    let Some(path) = real("fashion_mnist") else { return };
    let (train, test) =
        (load(&path, &Wanted::new(Split::Train)).unwrap(), load(&path, &Wanted::new(Split::Test)).unwrap());
    assert_eq!((train.len(), test.len(), train.name.as_str()), (20_000, 1_770, "fashion-mnist"));
    assert_eq!(train.class_counts(), [2005, 2047, 1930, 2063, 2003, 1962, 2014, 1981, 2034, 1961]);
    assert_eq!(test.class_counts(), [174, 176, 194, 166, 201, 173, 183, 171, 166, 166]);
    assert_eq!(test.class_names[test.labels[0] as usize], "ankle boot");
}

#[test]
fn real_parent_folder() {
    let Some(path) = real("cifar-10-batches-bin").and_then(|path| path.parent().map(Path::to_path_buf)) else { return };
    fails(load(&path, &Wanted::new(Split::Test)), &path, &["holds no image set", "try cifar-10-batches-bin"]);
}
