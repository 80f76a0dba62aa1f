//! Random tensors.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("random")
}
