//! Copies by index, and resizing.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("gather")
}
