//! Reductions.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("reduce")
}
