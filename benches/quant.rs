//! Products with weights in 8 and 4 bits.

fn main() -> leanvision::Result<()> {
    leanvision::bench::family_main("quant")
}
