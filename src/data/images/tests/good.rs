use super::*;

#[test]
fn cifar_planes_become_pixels() {
    let scratch = Scratch::new();
    let bytes = records(3, 4, 1);
    scratch.write("test_batch.bin", &bytes);
    let set = scratch.load("", Split::Test).unwrap();
    assert_eq!((set.name.as_str(), set.len(), set.height, set.width, set.channels), ("cifar-10", 3, 32, 32, 3));
    assert_eq!(set.labels, [4, 5, 6]);
    assert_eq!(set.class_names[6], "frog");
    assert_eq!(set.source, "test_batch: 3 test images");
    for i in 0..3 {
        for p in 0..1024 {
            let record = &bytes[i * 3073 + 1..][..3072];
            assert_eq!(set.image(i).unwrap()[3 * p..3 * p + 3], [record[p], record[1024 + p], record[2048 + p]]);
        }
    }
    assert_eq!(load(&scratch.path("test_batch.bin"), &Wanted::new(Split::Train)).unwrap().images, set.images);
}

#[test]
fn cifar_sheets_stand_in_for_missing_batches() {
    let scratch = Scratch::new();
    let put_sheet = |name: &str, seed| {
        let (bytes, labels) = sheet(3, 2, seed);
        scratch.write(&format!("{name}.webp"), &bytes);
        scratch.write(&format!("{name}.labels"), &labels);
    };
    scratch.write("bin/data_batch_10.bin", &records(2, 10, 1));
    scratch.write("bin/data_batch_2.bin", &records(2, 2, 1));
    put_sheet("bin/data_batch_3", 3);
    put_sheet("bin/cifar-10-sheets/data_batch_4", 4);
    put_sheet("cifar-10-sheets/data_batch_5", 5);
    // Of these three the nearer source is there already.
    put_sheet("bin/data_batch_2", 92);
    put_sheet("bin/cifar-10-sheets/data_batch_3", 93);
    put_sheet("cifar-10-sheets/data_batch_4", 94);
    let set = scratch.load("bin", Split::Train).unwrap();
    assert_eq!(set.source, "2 batches and 3 sheets: 22 training images");

    let parts = [records(2, 2, 1), records(6, 3, 1), records(6, 4, 1), records(6, 5, 1), records(2, 10, 1)];
    let one = scratch.write("all/data_batch_1.bin", &parts.concat());
    let want = load(&one, &Wanted::new(Split::Train)).unwrap();
    assert!(set.labels == want.labels && set.images == want.images);

    let few = load(&scratch.path("bin"), &Wanted { n: Some(3), ..Wanted::new(Split::Train) }).unwrap();
    assert_eq!(few.source, "the first 3 of data_batch_2 and 1 sheet: 8 training images");
    assert_eq!(few.images, want.images[..3 * 3072]);
    let alone = scratch.load("cifar-10-sheets/data_batch_5.webp", Split::Train).unwrap();
    assert_eq!(alone.images, want.images[14 * 3072..20 * 3072]);
}

#[test]
fn cifar_100_takes_the_fine_class() {
    let scratch = Scratch::new();
    let mut bytes = records(2, 0, 2);
    (bytes[0], bytes[1]) = (19, 99);
    scratch.write("train.bin", &bytes);
    let set = scratch.load("", Split::Train).unwrap();
    assert_eq!((set.labels.as_slice(), set.n_classes), ([99, 1].as_slice(), 100));
    assert_eq!((set.class_names[99].as_str(), set.class_names[0].as_str()), ("worm", "apple"));
    assert!(set.class_names.is_sorted() && set.class_names.len() == 100);
    assert_eq!(set.image(1).unwrap()[0], bytes[3074 + 2]);
    // By its length where its name says nothing.
    scratch.write("other.bin", &bytes);
    assert_eq!(scratch.load("other.bin", Split::Test).unwrap().labels, [99, 1]);
}

#[test]
fn idx_plain_and_packed() {
    let scratch = Scratch::new();
    let (pixels, labels) = (noise(4 * 5 * 7, 1), [3, 0, 9, 9]);
    scratch.write("fashion/train-images-idx3-ubyte.gz", &gz(&idx(&[4, 5, 7], &pixels)));
    scratch.write("fashion/train-labels-idx1-ubyte", &idx(&[4], &labels));
    scratch.write("fashion/t10k-images.idx3-ubyte", &idx(&[2, 5, 7], &pixels[..70]));
    scratch.write("fashion/t10k-labels.idx1-ubyte.gz", &gz(&idx(&[2], &labels[..2])));
    let train = scratch.load("fashion", Split::Train).unwrap();
    assert_eq!((train.height, train.width, train.channels, train.name.as_str()), (5, 7, 1, "fashion-mnist"));
    assert_eq!((&train.images, &train.labels), (&pixels, &vec![3, 0, 9, 9]));
    assert_eq!(train.class_names[9], "ankle boot");
    assert_eq!(train.source, "train-images-idx3-ubyte.gz: 4 training images");
    assert_eq!(scratch.load("fashion", Split::Test).unwrap().labels, [3, 0]);
    for name in ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"] {
        assert_eq!(scratch.load(&format!("fashion/{name}"), Split::Test).unwrap().images, pixels, "{name}");
    }
    // Two members of one gzip file are one stream.
    let whole = idx(&[4, 5, 7], &pixels);
    scratch.write("mnist/t10k-images-idx3-ubyte.gz", &[gz(&whole[..50]), gz(&whole[50..])].concat());
    scratch.write("mnist/t10k-labels-idx1-ubyte.gz", &gz(&idx(&[4], &labels)));
    let mnist = scratch.load("mnist", Split::Test).unwrap();
    assert_eq!((mnist.images, mnist.name.as_str(), mnist.class_names[9].as_str()), (pixels, "mnist", "9"));
    // More than ten classes outside MNIST's names.
    scratch.write("letters/emnist-letters-test-images-idx3-ubyte", &idx(&[1, 2, 2], &[0; 4]));
    scratch.write("letters/emnist-letters-test-labels-idx1-ubyte", &idx(&[1], &[26]));
    assert_eq!(scratch.load("letters", Split::Test).unwrap().n_classes, 27);
}

#[test]
fn class_folders_in_turns_and_cut_square() {
    let scratch = Scratch::new();
    scratch.write("pets/train/cat/a.png", &picture(64, 32, ImageFormat::Png));
    scratch.write("pets/train/cat/b.JPG", &picture(16, 48, ImageFormat::Jpeg));
    scratch.write("pets/train/cat/notes.txt", b"none");
    scratch.write("pets/train/dog/a.webp", &picture(8, 8, ImageFormat::WebP));
    scratch.write("pets/train/.hidden/a.png", b"none");
    scratch.write("pets/val/dog/z.png", &picture(8, 9, ImageFormat::Png));
    let wanted = Wanted { side: Some(8), ..Wanted::new(Split::Train) };
    let set = load(&scratch.path("pets"), &wanted).unwrap();
    assert_eq!((set.labels.as_slice(), set.class_names.join(" ")), ([0, 1, 0].as_slice(), "cat dog".into()));
    assert_eq!(set.source, "train/: 3 training images in 2 class folders, 1 other file left out");
    assert_eq!((set.height, set.width, set.channels, set.name.as_str()), (8, 8, 3, "pets"));
    for i in 0..3 {
        let image = set.image(i).unwrap();
        let at = |x: usize, y: usize| &image[(y * 8 + x) * 3..][..3];
        for y in 0..8 {
            // JPEG is near, not exact.
            let near = |pixel: &[u8], want: [u8; 3]| pixel.iter().zip(want).all(|(&a, b)| a.abs_diff(b) < 12);
            assert!(
                near(at(0, y), [250, 10, 10]) && near(at(7, y), [10, 10, 250]),
                "image {i}: {:?} {:?}",
                at(0, y),
                at(7, y)
            );
        }
    }
    let few = load(&scratch.path("pets"), &Wanted { n: Some(2), ..wanted }).unwrap();
    assert_eq!((few.labels.as_slice(), few.images.as_slice()), ([0, 1].as_slice(), &set.images[..2 * 192]));
    // The test half numbers its one class as the training half does.
    let test = load(&scratch.path("pets"), &Wanted { split: Split::Test, ..wanted }).unwrap();
    assert_eq!(
        (test.labels.as_slice(), test.source.as_str()),
        ([1].as_slice(), "val/: 1 test images in 2 class folders")
    );
    // Without halves, all of it, in its own size.
    for split in [Split::Train, Split::Test] {
        let flat = scratch.load("pets/val", split).unwrap();
        assert_eq!((flat.len(), flat.height, flat.width), (1, 9, 8));
    }
}

#[test]
fn pictures_come_upright_in_rgb() {
    let scratch = Scratch::new();
    let gray = image::GrayImage::from_fn(3, 2, |x, y| image::Luma([(10 * x + 100 * y) as u8]));
    gray.save(scratch.path("gray.png")).unwrap();
    let read = read_image(&scratch.path("gray.png")).unwrap();
    assert_eq!((read.height, read.width, &read.rgb[15..]), (2, 3, [120, 120, 120].as_slice()));
    assert_eq!(read.gray(), gray.into_raw());
    image::RgbaImage::from_pixel(2, 2, image::Rgba([200, 100, 50, 0])).save(scratch.path("clear.png")).unwrap();
    assert_eq!(read_image(&scratch.path("clear.png")).unwrap().rgb[..3], [200, 100, 50]);
    image::ImageBuffer::from_pixel(1, 1, image::Luma([0x8000u16])).save(scratch.path("deep.png")).unwrap();
    assert_eq!(read_image(&scratch.path("deep.png")).unwrap().rgb, [128; 3]);

    // An EXIF block that says: held a quarter turn to the left, turn it right (orientation 6).
    let jpeg = picture(16, 8, ImageFormat::Jpeg);
    let exif = b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let turned = [&jpeg[..2], exif.as_slice(), &jpeg[2..]].concat();
    let read = read_image(&scratch.write("turned.jpg", &turned)).unwrap();
    assert_eq!((read.height, read.width), (16, 8));
    assert!(read.rgb[0] > 200 && read.rgb[read.rgb.len() - 1] > 200, "red above, blue below");
}

#[test]
fn pictures_fit_a_square() {
    let path = Path::new("made.png");
    let read = picture::decode(path, &picture(40, 20, ImageFormat::Png)).unwrap();
    let fitted = read.fit(10).unwrap();
    assert_eq!((fitted.height, fitted.width, fitted.rgb.len()), (10, 10, 300));
    assert_eq!((&fitted.rgb[..3], &fitted.rgb[27..30]), ([250, 10, 10].as_slice(), [10, 10, 250].as_slice()));
    assert_eq!(fitted.fit(10).unwrap(), fitted);
    let larger = fitted.fit(33).unwrap();
    assert_eq!((larger.height, larger.rgb.len()), (33, 33 * 33 * 3));
    assert!(read.fit(0).is_err() && read.fit(1 << 20).is_err());
}

#[test]
fn image_sets_check_their_parts() {
    let names = || vec!["a".to_string(), "b".to_string()];
    let new =
        |shape, n_bytes, labels: &[u32]| ImageSet::new("t", "made", shape, vec![7; n_bytes], labels.to_vec(), names());
    let set = new([2, 1, 3], 18, &[1, 0, 1]).unwrap();
    assert_eq!(
        (set.len(), set.image(2).map(<[u8]>::len), set.image(3), set.image(usize::MAX)),
        (3, Some(6), None, None)
    );
    assert_eq!(set.class_counts(), [1, 2]);
    let part = set.subset([2, 1, 2]).unwrap();
    assert_eq!((part.labels.as_slice(), part.source.as_str()), ([1, 0, 1].as_slice(), "3 of made"));
    assert!(set.subset(0..4).unwrap_err().to_string().contains("image 3 asked for, there are 3"));
    assert_eq!(set.clone().take(2).labels, [1, 0]);
    assert_eq!(set.clone().take(9), set);
    for (shape, n_bytes, labels) in [
        ([2, 1, 3], 17, [1, 0, 1].as_slice()),
        ([2, 1, 2], 12, &[1, 0, 1]),
        ([0, 1, 3], 0, &[1]),
        ([2, 1, 3], 12, &[1, 2]),
        ([usize::MAX, 2, 3], 12, &[1, 1]),
    ] {
        assert!(new(shape, n_bytes, labels).is_err(), "{shape:?} {n_bytes} {labels:?}");
    }
}

#[test]
fn digits_are_grouped() {
    for (n, want) in [(0, "0"), (999, "999"), (1000, "1,000"), (50_000, "50,000"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(n), want);
    }
}
