//! Optimizer steps over arenas.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("optim")
}
