// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011), in u32 alone: the same bits on every adapter and on the CPU.
// The key is the seed; the counter is (element / 4, low word and high word; step; stream). The CPU side has the layout.

// Both words of a * b, high word first, from products of 16-bit halves: WGSL has no multiplication that keeps them.
fn mul_wide(a: u32, b: u32) -> vec2<u32> {
    let a_low = a & 0xffffu;
    let a_high = a >> 16u;
    let b_low = b & 0xffffu;
    let b_high = b >> 16u;
    let cross = a_low * b_high;
    let middle = ((a_low * b_low) >> 16u) + (cross & 0xffffu) + a_high * b_low;
    return vec2<u32>(a_high * b_high + (cross >> 16u) + (middle >> 16u), a * b);
}

const PHILOX_STEP = vec2<u32>(0x9E3779B9u, 0xBB67AE85u);   // of the key, from round to round

fn philox_round(c: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    let x = mul_wide(0xD2511F53u, c.x);
    let z = mul_wide(0xCD9E8D57u, c.z);
    return vec4<u32>(z.x ^ c.y ^ key.x, z.y, x.x ^ c.w ^ key.y, x.y);
}

fn philox4x32(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        c = philox_round(c, k);
        k += PHILOX_STEP;
    }
    return c;
}

// Floats in [0, 1), multiples of 2^-24, from the top 24 bits of each word.
fn unit_floats(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(words >> vec4<u32>(8u)) * 5.9604644775390625e-8;
}
