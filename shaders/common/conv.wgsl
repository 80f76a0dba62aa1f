// What the convolutions share: parameters, and pairs in one word.

struct ConvParams {
    n_pixels: u32,                         // n ho wo
    n_blocks: u32,                         // blocks of output channels over all groups
    h: u32, w: u32, ci: u32,
    ho: u32, wo: u32, co: u32,
    ci_group: u32, co_group: u32,          // channels of a group
    kernel: u32, stride: u32,              // pairs: height in the low half, width in the high half
    padding: u32, dilation: u32,
    operands: u32,                         // 1: there is a bias, 2: there is a residual
}
const BIAS: u32 = 1u;
const RESIDUAL: u32 = 2u;

fn conv_pair(packed: u32) -> vec2<u32> {
    return vec2<u32>(packed & 0xffffu, packed >> 16u);
}
