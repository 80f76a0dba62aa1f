//! Random changes to training images.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("augment")
}
