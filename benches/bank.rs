//! Searches of a memory bank.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("bank")
}
