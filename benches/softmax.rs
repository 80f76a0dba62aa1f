//! Softmax and cross-entropy.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("softmax")
}
