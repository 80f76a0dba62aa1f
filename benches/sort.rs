//! Prefix sums and sorting.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("sort")
}
