use super::*;

#[test]
fn paths_that_hold_nothing() {
    let scratch = Scratch::new();
    let root = scratch.path("");
    fails(scratch.load("gone", Split::Test), &scratch.path("gone"), &["no such file or folder"]);
    fails(scratch.load("", Split::Test), &root, &["holds no image set", "found nothing", ".bin", "idx3", "per class"]);
    scratch.write("readme.txt", b"hello");
    fails(scratch.load("", Split::Test), &root, &["found 1 file (readme.txt)"]);
    fails(scratch.load("readme.txt", Split::Test), &scratch.path("readme.txt"), &["of no known kind", "CIFAR"]);
    fails(scratch.load("readme.txt/x", Split::Test), &scratch.path("readme.txt/x"), &["file, wanted a folder"]);
    scratch.write("empty.bin", b"");
    fails(scratch.load("empty.bin", Split::Test), &scratch.path("empty.bin"), &["is empty"]);
    scratch.write("one.png", &picture(4, 4, ImageFormat::Png));
    fails(scratch.load("one.png", Split::Test), &scratch.path("one.png"), &["is one picture, wanted a set"]);
    for wanted in
        [Wanted { n: Some(0), ..Wanted::new(Split::Test) }, Wanted { side: Some(0), ..Wanted::new(Split::Test) }]
    {
        assert!(matches!(load(&root, &wanted), Err(Error::Input(_))));
    }
}

#[test]
fn a_path_one_level_too_high_is_told_where_to_go() {
    let scratch = Scratch::new();
    scratch.write("data/cifar-10-batches-bin/test_batch.bin", &records(1, 0, 1));
    let (bytes, labels) = sheet(1, 1, 0);
    scratch.write("data/cifar-10-sheets/data_batch_2.webp", &bytes);
    scratch.write("data/cifar-10-sheets/data_batch_2.labels", &labels);
    scratch.write("data/models/net.safetensors", b"none");
    scratch.write("data/readme", b"none");
    let found = "3 folders (cifar-10-batches-bin, cifar-10-sheets, models) and 1 file (readme)";
    fails(
        scratch.load("data", Split::Test),
        &scratch.path("data"),
        &[found, "try cifar-10-batches-bin, cifar-10-sheets in it"],
    );
}

#[test]
fn cifar_broken_files() {
    let scratch = Scratch::new();
    let whole = records(3, 0, 1);
    for (name, bytes, said) in [
        ("truncated", &whole[..3 * 3073 - 1], "9,218 bytes, wanted a multiple of 3,073"),
        ("oversized", &[&whole[..], &[0]].concat(), "3 records and 1 bytes more"),
        ("empty", &[], "0 bytes"),
    ] {
        let path = scratch.write(&format!("{name}/data_batch_1.bin"), bytes);
        fails(scratch.load(name, Split::Train), &path, &[said]);
    }
    let mut labels = whole.clone();
    labels[2 * 3073] = 10;
    let path = scratch.write("labels/test_batch.bin", &labels);
    fails(scratch.load("labels", Split::Test), &path, &["record 2 has label 10, wanted 0 to 9"]);
    fails(
        scratch.load("labels", Split::Train),
        &scratch.path("labels"),
        &["no training images", "found 1 file (test_batch.bin)"],
    );
    // A folder where a file should be is none of the batches.
    fs::create_dir_all(scratch.path("folder/test_batch.bin")).unwrap();
    fails(scratch.load("folder", Split::Test), &scratch.path("folder"), &["found 1 folder (test_batch.bin)"]);

    let whole = records(3, 0, 2);
    let path = scratch.write("hundred/test.bin", &whole[..3074 + 100]);
    fails(scratch.load("hundred", Split::Test), &path, &["wanted a multiple of 3,074 (one CIFAR-100 record)"]);
    fails(
        scratch.load("hundred", Split::Train),
        &scratch.path("hundred"),
        &["wanted train.bin, found 1 file (test.bin)"],
    );
    for (at, label, said) in [(3074, 20, "label 20, wanted 0 to 19"), (3075, 100, "label 100, wanted 0 to 99")] {
        let mut labels = whole.clone();
        labels[at] = label;
        let path = scratch.write("hundred/test.bin", &labels);
        fails(scratch.load("hundred", Split::Test), &path, &["record 1", said]);
    }
}

#[test]
fn cifar_broken_sheets() {
    let scratch = Scratch::new();
    let (bytes, labels) = sheet(3, 2, 1);
    let case = |name: &str, bytes: &[u8], labels: Option<&[u8]>| {
        let path = scratch.write(&format!("{name}/data_batch_2.webp"), bytes);
        if let Some(labels) = labels {
            scratch.write(&format!("{name}/data_batch_2.labels"), labels);
        }
        (scratch.load(name, Split::Train), path)
    };
    let (result, path) = case("alone", &bytes, None);
    fails(result, &path.with_extension("labels"), &["no such file"]);
    let (result, path) = case("few", &bytes, Some(&labels[..5]));
    fails(result, &path, &["96x64 pixels, wanted 32x32 tiles for the 5 labels of data_batch_2.labels"]);
    let (result, path) = case("label", &bytes, Some(&[0, 1, 2, 200, 4, 5]));
    fails(result, &path.with_extension("labels"), &["label 3 is 200, wanted 0 to 9"]);
    let (result, path) = case("cut", &bytes[..bytes.len() / 2], Some(&labels));
    fails(result, &path, &["broken picture"]);
    let (result, path) = case("odd", &picture(33, 32, ImageFormat::WebP), Some(&[1]));
    fails(result, &path, &["33x32 pixels"]);
    let (result, path) = case("noise", &noise(100, 1), Some(&labels));
    fails(result, &path, &["is no PNG, JPEG or WebP picture"]);
    let mut lossy = bytes.clone();
    lossy[15] = b' ';
    let (result, path) = case("lossy", &lossy, Some(&labels));
    fails(result, &path, &["is a lossy WebP"]);
}

#[test]
fn idx_broken_files() {
    let scratch = Scratch::new();
    let images = idx(&[3, 4, 5], &noise(60, 2));
    let labels = idx(&[3], &[1, 2, 3]);
    // The reader sees what is in a file, so that packed ones may go under the plain name here.
    let case = |images: &[u8], labels: &[u8]| {
        let path = scratch.write("t10k-images-idx3-ubyte", images);
        scratch.write("t10k-labels-idx1-ubyte", labels);
        (scratch.load("", Split::Test), path.clone(), path.with_file_name("t10k-labels-idx1-ubyte"))
    };
    let packed = gz(&images);
    let mut wrong_sum = packed.clone();
    let n = wrong_sum.len();
    wrong_sum[n - 6] ^= 1;
    let hostile = idx(&[u32::MAX; 3], &[0; 9]);
    let below_limit = idx(&[65_535, 65_535, 1], &[0; 9]);
    let with_kind = |kind: u8, rank: u8| [&[0, 0, kind, rank], &images[4..]].concat();
    let plus_one = [&images[..], &[0]].concat();
    for (images, said) in [
        (&images[..75], "truncated: its header says 3 x 4 x 5 = 60 bytes, 59 came"),
        (&plus_one, "oversized: its header says 3 x 4 x 5 = 60 bytes, more came"),
        (&gz(&plus_one), "oversized"),
        (&gz(&images[..75]), "59 came"),
        (&packed[..n - 12], "truncated: the gzip stream ends too early"),
        (&packed[..5], "truncated: the gzip stream ends too early"),
        (&wrong_sum, "broken gzip stream"),
        (&[&packed[..], b"more"].concat(), "gzip"),
        (
            &hostile,
            "its header says 4,294,967,295 x 4,294,967,295 x 4,294,967,295 = 79228162458924105385300197375 bytes, and a set",
        ),
        (&gz(&hostile), "and a set may have 8589934592 (8 GiB)"),
        (&below_limit, "65,535 x 65,535 x 1 = 4,294,836,225 bytes, 9 came"),
        (&gz(&below_limit), "9 came"),
        (&idx(&[3, 0, 5], &[]), "3 x 0 x 5: no value at all"),
        (&with_kind(0x0d, 3), "IDX type 0x0d with 3 axes, wanted 0x08 (u8) with 3"),
        (&with_kind(8, 1), "IDX type 0x08 with 1 axes"),
        (&images[..9], "ends in its header, after 9 of 16 bytes"),
        (b"no IDX file", "begins with [6e 6f 20 49], wanted [00 00 08 03]"),
        (&[0, 0], "begins with [00 00]"),
        (&[], "begins with []"),
    ] {
        let (result, path, _) = case(images, &labels);
        fails(result, &path, &[said]);
    }
    for labels in [[1, 2].as_slice(), &[1, 2, 3, 4]] {
        let (result, _, path) = case(&images, &idx(&[labels.len() as u32], labels));
        let said = format!("{} labels, wanted 3, one for each image of t10k-images-idx3-ubyte", labels.len());
        fails(result, &path, &[&said]);
    }
    let (result, _, path) = case(&images, &idx(&[3], &[1, 10, 2]));
    fails(result, &path, &["label 1 is 10, wanted 0 to 9"]);
    let (result, _, path) = case(&images, &images);
    fails(result, &path, &["with 3 axes, wanted 0x08 (u8) with 1"]);
    fs::remove_file(&path).unwrap();
    fails(scratch.load("", Split::Test), &path, &["no such file"]);
    fails(
        scratch.load("", Split::Train),
        &scratch.path(""),
        &["no training images", "train-images-idx3-ubyte", "found 1 file"],
    );
    let path = scratch.write("digits.idx", &images);
    fails(scratch.load("digits.idx", Split::Test), &path, &["wanted images in the name"]);
    for name in ["a-test-images-idx3-ubyte", "b-test-images-idx3-ubyte"] {
        scratch.write(&format!("two/{name}"), &images);
    }
    fails(scratch.load("two", Split::Test), &scratch.path("two"), &["name one of a-test-images-idx3-ubyte, b-"]);
}

#[test]
fn class_folders_broken() {
    let scratch = Scratch::new();
    let png = picture(24, 24, ImageFormat::Png);
    let jpeg = picture(24, 24, ImageFormat::Jpeg);
    let webp = picture(24, 24, ImageFormat::WebP);
    scratch.write("set/a/1.png", &png);
    for (name, bytes, said) in [
        ("cut.png", &png[..png.len() - 20], "broken picture"),
        ("cut.jpg", &jpeg[..jpeg.len() - 20], "the JPEG has no end"),
        ("head.jpg", &jpeg[..30], "the JPEG has no end"),
        ("cut.webp", &webp[..webp.len() / 2], "broken picture"),
        ("text.png", b"hello", "is no PNG, JPEG or WebP picture"),
        ("empty.png", b"", "is empty"),
        ("large.png", &picture(24, 23, ImageFormat::Png), "24x23 pixels, and"),
    ] {
        let path = scratch.write(&format!("set/b/{name}"), bytes);
        fails(scratch.load("set", Split::Test), &path, &[said]);
        fs::remove_file(path).unwrap();
    }
    fails(scratch.load("set", Split::Test), &scratch.path("set/b"), &["class folder without", "found nothing"]);
    fails(read_image(&scratch.path("set")), &scratch.path("set"), &["is a folder, wanted a file"]);

    scratch.write("halves/train/a/1.png", &png);
    fails(scratch.load("halves", Split::Test), &scratch.path("halves"), &["no test images", "found train/"]);
    scratch.write("halves/test/z/1.png", &png);
    fails(
        scratch.load("halves", Split::Test),
        &scratch.path("halves/test"),
        &["class z is not among the 1 class folder of train/"],
    );
    // Halves without classes are no classes.
    scratch.write("views/train/1.png", &png);
    scratch.write("views/test/1.png", &png);
    fails(
        scratch.load("views", Split::Test),
        &scratch.path("views"),
        &["holds no image set: found 2 folders (test, train)"],
    );
}

#[test]
fn pictures_past_the_limit() {
    // A PNG header of 60,000 x 60,000 RGB pixels, with the check sum that it needs, and no pixels.
    let mut header = b"IHDR".to_vec();
    header.extend([0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60, 8, 2, 0, 0, 0]);
    let mut sum = flate2::Crc::new();
    sum.update(&header);
    let bytes =
        [b"\x89PNG\r\n\x1a\n\0\0\0\x0d".as_slice(), &header, &sum.sum().to_be_bytes(), b"\0\0\0\0IDAT\x35\xaf\x06\x1e"];
    let path = Path::new("made.png");
    fails(picture::decode(path, &bytes.concat()), path, &["60000x60000 pixels, and a picture may have 512 MiB"]);
}
