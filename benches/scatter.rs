//! Sums of rows by index.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("scatter")
}
