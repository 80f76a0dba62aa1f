//! Random views of training images.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("views")
}
