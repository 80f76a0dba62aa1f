// Generators to compare the one in use with.

fn rotated(x: u32, n: u32) -> u32 {
    return (x << n) | (x >> (32u - n));
}

fn threefry_mix(x: vec2<u32>, n: u32) -> vec2<u32> {
    let sum = x.x + x.y;
    return vec2<u32>(sum, rotated(x.y, n) ^ sum);
}

fn threefry_four(x: vec2<u32>, n: vec4<u32>) -> vec2<u32> {
    return threefry_mix(threefry_mix(threefry_mix(threefry_mix(x, n.x), n.y), n.z), n.w);
}

// Threefry2x32-20 (Salmon, Moraes, Dror and Shaw, SC 2011): additions, rotations and exclusive ors alone.
fn threefry2x32(counter: vec2<u32>, key: vec2<u32>) -> vec2<u32> {
    let last = 0x1BD11BDAu ^ key.x ^ key.y;
    let some = vec4<u32>(13u, 15u, 26u, 6u);
    let others = vec4<u32>(17u, 29u, 16u, 24u);
    var x = threefry_four(counter + key, some) + vec2<u32>(key.y, last + 1u);
    x = threefry_four(x, others) + vec2<u32>(last, key.x + 2u);
    x = threefry_four(x, some) + vec2<u32>(key.x, key.y + 3u);
    x = threefry_four(x, others) + vec2<u32>(key.y, last + 4u);
    return threefry_four(x, some) + vec2<u32>(last, key.x + 5u);
}

// The hash of four words by Jarzynski and Olano (JCGT 2020): a few operations, and no more than a hash.
fn pcg4d(words: vec4<u32>) -> vec4<u32> {
    var v = words * 1664525u + 1013904223u;
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    v ^= v >> vec4<u32>(16u);
    v.x += v.y * v.w;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v.w += v.y * v.z;
    return v;
}
