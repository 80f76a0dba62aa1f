//! The k best of each row.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("topk")
}
