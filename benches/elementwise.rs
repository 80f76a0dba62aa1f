//! Elementwise maps.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("elementwise")
}
