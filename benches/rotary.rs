//! Rotary positions.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("rotary")
}
