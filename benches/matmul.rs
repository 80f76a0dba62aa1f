//! Matrix products.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("matmul")
}
