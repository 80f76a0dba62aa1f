// What the kernels of random bases share: parameters, slots, draws of one call.
const FIXED_STREAM = 24u;

struct BasisParams {
    key_0: u32, key_1: u32,
    n_groups: u32,
    from_basis: u32, to_basis: u32,         // of this dispatch; a multiple of 8 to begin with
    row: u32, n_rows: u32,                  // of the coefficients: the first one of this dispatch, and their number
    row_coefficients: u32,                  // elements of a row of coefficients
    n_places: u32, row_out: u32,            // rows of out, and the elements of one
    chunk: u32,                             // blocks, or decks, that are summed together
    pass_bit: u32,                          // of a Hadamard transform
}

struct Slot {
    len: u32, out: u32, first: u32, k: u32,
    layer: u32, stream: u32, scale: f32, fixed_scale: f32,
    padded: u32, n_padded: u32,             // its blocks in padded memory
    partials: u32,                          // where its sums over chunks are: [n_chunks, k]
    bits: u32,                              // of what is shuffled: coefficients, or places of a transform
}

fn slot_of(a: vec4<u32>, b: vec4<u32>, c: vec4<u32>) -> Slot {
    return Slot(a.x, a.y, a.z, a.w, b.x, b.y, bitcast<f32>(b.z), bitcast<f32>(b.w), c.x, c.y, c.z, c.w);
}

// Values of the four bytes of a word, lowest first, times 128: v - 128 as a signed byte, and a half.
fn byte_values(word: u32) -> vec4<f32> {
    let bytes = vec4<i32>((vec4<u32>(word) ^ vec4<u32>(0x80808080u)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u);
    return vec4<f32>(bytes) + 0.5;
}

// Random signs of a block's 16 elements, in the low bits: call (element / 128, 1), bit element % 128.
fn sign_bits(slot: Slot, block: u32, key: vec2<u32>) -> u32 {
    let words = philox4x32(vec4<u32>(block / 8u, 1u, slot.layer, slot.stream), key);
    return words[block / 2u % 4u] >> (16u * (block % 2u));
}
