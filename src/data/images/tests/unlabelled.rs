use super::*;

/// A picture of one grey.
fn grey(side: u32, value: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(side, side, image::Rgb([value; 3])).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// The grey of each image.
fn greys(set: &ImageSet) -> Vec<u8> {
    (0..set.len()).filter_map(|i| set.image(i)).map(|image| image[0]).collect()
}

fn open(scratch: &Scratch, name: &str) -> Result<ImageSet> {
    load_unlabelled(&scratch.path(name), &Wanted::new(Split::Train))
}

#[test]
fn pictures_of_nested_folders_come_by_their_path_in_byte_order() {
    let scratch = Scratch::new();
    for (name, value) in [
        ("z.png", 6),
        ("a/b/c/1.png", 2),
        ("a/2.png", 1),
        ("a-b.png", 0),
        ("b/10.png", 4),
        ("b/9.png", 5),
        ("a0.png", 3),
    ] {
        scratch.write(&format!("set/{name}"), &grey(4, value));
    }
    scratch.write("set/b/notes.txt", b"none");
    scratch.write("set/.hidden/1.png", b"none");
    scratch.write("set/.1.png", b"none");
    let set = open(&scratch, "set").unwrap();
    // `a-b.png` < `a/...` < `a0.png`, as `-` < `/` < `0`.
    assert_eq!(greys(&set), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!((set.n_classes, set.is_labelled(), set.labels.as_slice()), (0, false, [0; 7].as_slice()));
    assert_eq!((set.height, set.width, set.channels, set.name.as_str()), (4, 4, 3, "set"));
    assert_eq!(set.source, "7 images without classes, 1 other file left out");
    assert!(set.class_counts().is_empty() && set.class_names.is_empty() && set.skipped.is_empty());
    let message = set.need_labels("a test").unwrap_err().to_string();
    assert_eq!(
        message,
        "set: images without classes (7 images without classes, 1 other file left out), and a test needs classes"
    );
    let few = load_unlabelled(&scratch.path("set"), &Wanted { n: Some(3), ..Wanted::new(Split::Train) }).unwrap();
    assert_eq!((greys(&few), few.take(2).len()), (vec![0, 1, 2], 2));
    assert_eq!(greys(&set.subset([5, 0]).unwrap()), [5, 0]);
}

#[test]
fn folders_of_classes_keep_them_and_lose_no_picture() {
    let scratch = Scratch::new();
    scratch.write("set/cat/1.png", &grey(4, 1));
    scratch.write("set/dog/1.png", &grey(4, 2));
    let set = open(&scratch, "set").unwrap();
    assert_eq!((set.n_classes, set.labels.as_slice()), (2, [0, 1].as_slice()));
    // A picture that is in no class, one below a class, and a folder without any.
    for (folder, file) in [("beside", "3.png"), ("below", "dog/more/3.png")] {
        scratch.write(&format!("{folder}/cat/1.png"), &grey(4, 1));
        scratch.write(&format!("{folder}/dog/1.png"), &grey(4, 2));
        scratch.write(&format!("{folder}/{file}"), &grey(4, 3));
        let set = open(&scratch, folder).unwrap();
        let mut values = greys(&set);
        values.sort_unstable();
        assert_eq!((set.is_labelled(), values), (false, vec![1, 2, 3]), "{folder}");
    }
    scratch.write("beside/notes/a.txt", b"none");
    assert_eq!(open(&scratch, "beside").unwrap().len(), 3);
    // Halves stay apart.
    scratch.write("halves/train/cat/1.png", &grey(4, 1));
    scratch.write("halves/test/cat/1.png", &grey(4, 2));
    let set = open(&scratch, "halves").unwrap();
    assert_eq!((greys(&set), set.n_classes), (vec![1], 1));
    scratch.write("halves/train/cat/more/1.png", &grey(4, 3));
    let set = open(&scratch, "halves").unwrap();
    assert_eq!(
        (greys(&set), set.is_labelled(), set.source.as_str()),
        (vec![1, 3], false, "train/: 2 images without classes")
    );
    // To learn from without classes, to judge by with them.
    scratch.write("plain/train/1.png", &grey(4, 1));
    scratch.write("plain/train/2.png", &grey(4, 2));
    scratch.write("plain/test/cat/3.png", &grey(4, 3));
    let set = open(&scratch, "plain").unwrap();
    assert_eq!((greys(&set), set.is_labelled()), (vec![1, 2], false));
    // CIFAR is CIFAR.
    scratch.write("cifar/data_batch_1.bin", &records(3, 4, 1));
    assert_eq!(open(&scratch, "cifar").unwrap(), scratch.load("cifar", Split::Train).unwrap());
    assert_eq!(open(&scratch, "cifar/data_batch_1.bin").unwrap().labels, [4, 5, 6]);
}

#[test]
fn the_folder_of_stl_10_is_found() {
    let scratch = Scratch::new();
    scratch.write("stl/train/cat/1.png", &grey(4, 1));
    scratch.write("stl/test/cat/1.png", &grey(4, 2));
    for i in 0..3 {
        scratch.write(&format!("stl/unlabeled/{i}.png"), &grey(4, 10 + i));
    }
    let set = open(&scratch, "stl").unwrap();
    assert_eq!((greys(&set), set.source.as_str()), (vec![10, 11, 12], "unlabeled/: 3 images without classes"));
    let test = load_unlabelled(&scratch.path("stl"), &Wanted::new(Split::Test)).unwrap();
    assert_eq!((greys(&test), test.is_labelled()), (vec![2], true));
    assert_eq!(scratch.load("stl", Split::Train).unwrap().n_classes, 1);
}

#[cfg(unix)]
#[test]
fn links_in_a_circle_end() {
    let scratch = Scratch::new();
    scratch.write("set/1.png", &grey(4, 1));
    scratch.write("set/a/2.png", &grey(4, 2));
    std::os::unix::fs::symlink(scratch.path("set"), scratch.path("set/a/up")).unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.path("set/gone.png")).unwrap();
    assert_eq!(greys(&open(&scratch, "set").unwrap()), [1, 2]);
}

#[test]
fn unreadable_pictures_are_all_named_and_left_out_only_where_asked() {
    let scratch = Scratch::new();
    for i in 0..30 {
        scratch.write(&format!("set/{i:02}.png"), &grey(4, i));
    }
    let root = scratch.path("set");
    let skipping = Wanted { skip_bad: true, ..Wanted::new(Split::Train) };
    assert_eq!(load_unlabelled(&root, &skipping).unwrap(), open(&scratch, "set").unwrap());
    // One is named by its path, more by theirs below the folder.
    let path = scratch.write("set/00.png", b"");
    fails(open(&scratch, "set"), &path, &["is empty"]);
    let png = grey(4, 1);
    scratch.write("set/07.png", &png[..png.len() - 20]);
    fails(open(&scratch, "set"), &root, &["2 of 30 pictures cannot be read: 00.png: is empty; 07.png: broken picture"]);
    let set = load_unlabelled(&root, &skipping).unwrap();
    assert_eq!(greys(&set), (1..30).filter(|i| *i != 7).collect::<Vec<u8>>());
    assert_eq!((set.skipped.len(), set.skipped[0].as_str()), (2, "00.png: is empty"));
    assert_eq!(set.source, "28 images without classes, 2 unreadable pictures left out");
    // Others take their places, also those of the last ones.
    for n in [6, 7, 27, 28, 29, 40] {
        let set = load_unlabelled(&root, &Wanted { n: Some(n), ..skipping }).unwrap();
        let all: Vec<u8> = (1..30).filter(|i| *i != 7).collect();
        assert_eq!(greys(&set), all[..n.min(28)], "{n}");
    }
    // No more than 20 are spelled out.
    for i in 0..25 {
        scratch.write(&format!("set/{i:02}.png"), b"");
    }
    let message = open(&scratch, "set").unwrap_err().to_string();
    assert!(message.contains("25 of 30") && message.contains("19.png: is empty; and 5 more"), "{message}");
    assert!(!message.contains("20.png"), "{message}");
    assert_eq!(greys(&load_unlabelled(&root, &skipping).unwrap()), [25, 26, 27, 28, 29]);
    // None left is an error either way.
    for i in 25..30 {
        scratch.write(&format!("set/{i:02}.png"), b"");
    }
    fails(load_unlabelled(&root, &skipping), &root, &["30 of 30 pictures cannot be read"]);
}

#[test]
fn unreadable_pictures_of_classes_are_left_out_where_asked() {
    let scratch = Scratch::new();
    for (i, name) in ["a/1", "a/2", "a/3", "b/1", "b/2", "b/3"].into_iter().enumerate() {
        scratch.write(&format!("set/{name}.png"), &grey(4, i as u8));
    }
    scratch.write("set/a/2.png", b"text");
    scratch.write("set/b/1.png", b"");
    let root = scratch.path("set");
    fails(
        scratch.load("set", Split::Test),
        &root,
        &["2 of 6 pictures cannot be read: b/1.png: is empty; a/2.png: is no"],
    );
    let skipping = Wanted { skip_bad: true, ..Wanted::new(Split::Test) };
    let set = load(&root, &skipping).unwrap();
    assert_eq!((greys(&set), set.labels.as_slice()), (vec![0, 4, 2, 5], [0, 1, 0, 1].as_slice()));
    assert_eq!(set.source, "4 images in 2 class folders, 2 unreadable pictures left out");
    assert_eq!(set.skipped.len(), 2);
    assert_eq!(load(&root, &Wanted { n: Some(2), ..skipping }).unwrap().labels, [0, 1]);
}

#[test]
fn sizes_must_be_one_or_given() {
    let scratch = Scratch::new();
    scratch.write("set/0.png", b"none");
    scratch.write("set/1.png", &grey(4, 1));
    let path = scratch.write("set/2.png", &grey(5, 2));
    let root = scratch.path("set");
    let skipping = Wanted { skip_bad: true, ..Wanted::new(Split::Train) };
    // A picture of another size is no broken one.
    fails(load_unlabelled(&root, &skipping), &path, &["5x5 pixels, and", "1.png has 4x4: give one size for all"]);
    let set = load_unlabelled(&root, &Wanted { side: Some(3), ..skipping }).unwrap();
    assert_eq!((greys(&set), set.height), (vec![1, 2], 3));
    fails(open(&scratch, "set"), &scratch.path("set/0.png"), &["is no PNG"]);
    let huge = Wanted { side: Some(60_000), ..Wanted::new(Split::Train) };
    fails(
        load_unlabelled(&root, &huge),
        &root,
        &["3 images of 60000 x 60000 x 3 are 32400000000 bytes, and a set may"],
    );
}

#[test]
fn folders_without_a_picture() {
    let scratch = Scratch::new();
    scratch.write("set/notes.txt", b"none");
    fails(open(&scratch, "set"), &scratch.path("set"), &["holds no image set: found 1 file (notes.txt)"]);
    fails(open(&scratch, "gone"), &scratch.path("gone"), &["no such file or folder"]);
    scratch.write("one.png", &grey(4, 1));
    fails(open(&scratch, "one.png"), &scratch.path("one.png"), &["is one picture"]);
    let none = Wanted { n: Some(0), ..Wanted::new(Split::Train) };
    assert!(matches!(load_unlabelled(&scratch.path("set"), &none), Err(Error::Input(_))));
}
