//! Mixtures of random bases.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("basis")
}
