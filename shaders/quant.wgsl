// Weights in 8 or 4 bits: w_ol ~ scale_bo q_ol, one scale for each block b of the inner axis, where q are integers or the
// 16 levels of NormalFloat4, and out_io = act(sum_l x_il w_ol + bias_o). Who computes what:
//   pack        one invocation the integers of one output in one block, and their scale
//   unpack      one invocation one word of four outputs
//   plain       one invocation one output
//   row         one invocation one row x 4 outputs: few rows
//   registers   one invocation 8 rows x 8 outputs, operands straight from memory
//   tiled       one workgroup 64 x 64 outputs, operands through workgroup memory: GPUs
//   ..._bwd_x   the same for d_x_il = sum_o d_io w_ol; registers 8 rows x 8 inner indices, tiled 64 x 64
//   dot_plain, dot   plain and registers on integers: x packed too, its rows in place of the outputs, one scale for a row
// Words lie output by output: word j of output o is element [j, o] of [n_words, 4 n_quads], outputs past the last and
// inner indices past n_inner hold 0. So a vec4 holds one word of four outputs, and unpacks into columns of a 4 x 4 block.
// Products multiply such blocks: column l of a block of weights is inner index l, column i of a block of x is row i.
override WG_SIZE: u32 = 64u;
override CODE: u32 = 0u;         // 0: integers of 8 bits, 1: of 4 bits, 2: NormalFloat4
override BITS: u32 = 8u >> min(CODE, 1u);
override ACT: u32 = 0u;
// 0: n_inner and n_cols are multiples of 4, so rows of x and out are read and written as aligned vec4; 1: nothing known.
override ANY: u32 = 0u;
override PER_WORD: u32 = 32u / BITS;
override LARGEST: f32 = f32((1u << (BITS - 1u)) - 1u);

// Of products: rows, columns and inner length of the product; so in ..._bwd_x the columns are the inner indices of the
// weights, and what is summed over are their outputs.
struct QuantParams {
    n_rows: u32, n_cols: u32, n_inner: u32,
    n_words: u32,        // of an output of the weights
    n_quads: u32,        // of those outputs
    n_row_quads: u32,    // of the rows of packed x
    block_words: u32,    // at least 1
    chunk_words: u32,    // words whose integer products are summed before they become floats, at most block_words
    bias: u32,           // 0: none, and its binding is not read
    first_word: u32,     // unpack: the one that comes first in the result
}
var<immediate> quant_params: QuantParams;

// The levels of NormalFloat4: what halves of a normal distribution's mass in equal shares, 0 and both ends among them
// (Dettmers et al. 2023, arXiv 2305.14314, appendix E).
const NF_0 = -1.0;
const NF_1 = -0.6961928009986877;
const NF_2 = -0.5250730514526367;
const NF_3 = -0.39491748809814453;
const NF_4 = -0.28444138169288635;
const NF_5 = -0.18477343022823334;
const NF_6 = -0.09105003625154495;
const NF_7 = 0.0;
const NF_8 = 0.07958029955625534;
const NF_9 = 0.16093020141124725;
const NF_10 = 0.24611230194568634;
const NF_11 = 0.33791524171829224;
const NF_12 = 0.44070982933044434;
const NF_13 = 0.5626170039176941;
const NF_14 = 0.7229568362236023;
const NF_15 = 1.0;
const NF_ZEROS = 0x77777777u;    // a word of eight 0

// ---- pack ----
@group(0) @binding(0) var<storage, read> pack_w: array<Elem>;               // [n_cols, n_inner]
@group(0) @binding(1) var<storage, read_write> pack_words: array<u32>;      // [n_words, 4 n_quads]
@group(0) @binding(2) var<storage, read_write> pack_scales: array<f32>;     // [n_blocks, 4 n_quads]
const OVER = 0x7f000000u;        // bits of 2^127: from here on, an integer times its scale could leave the range of f32
const UNDER = 0x0d800000u;       // bits of 2^-100: below, the arithmetic could meet denormals, which adapters flush

// Inner index l of output o; 0 past the ends.
fn pack_element(o: u32, l: u32) -> f32 {
    let p = quant_params;
    let w = f32(pack_w[min(o, p.n_cols - 1u) * p.n_inner + min(l, p.n_inner - 1u)]);
    return select(0.0, w, o < p.n_cols && l < p.n_inner);
}

fn pack_four(o: u32, l: u32) -> vec4<f32> {
    return vec4<f32>(pack_element(o, l), pack_element(o, l + 1u), pack_element(o, l + 2u), pack_element(o, l + 3u));
}

// The integers nearest to x / scale, ties to even, in the low bits of a word. The quotient is only a guess: adapters
// round it their own way. Scales have 15 bits and integers 7, so their product is exact, and so is what it lacks to x;
// that decides, alike everywhere.
fn pack_codes(x: vec4<f32>, scale: f32, inverse: f32) -> u32 {
    let guess = clamp(round(x * inverse), vec4<f32>(-LARGEST), vec4<f32>(LARGEST));
    let rest = x - guess * scale;
    let half = vec4<f32>(0.5 * scale);
    let odd = (vec4<i32>(guess) & vec4<i32>(1)) != vec4<i32>(0);
    let up = select(vec4<f32>(0.0), vec4<f32>(1.0), (rest > half) | ((rest == half) & odd));
    let down = select(vec4<f32>(0.0), vec4<f32>(1.0), (rest < -half) | ((rest == -half) & odd));
    let nearest = clamp(guess + up - down, vec4<f32>(-LARGEST), vec4<f32>(LARGEST));
    let codes = bitcast<vec4<u32>>(vec4<i32>(nearest)) & vec4<u32>((1u << BITS) - 1u);
    let places = codes << (vec4<u32>(0u, 1u, 2u, 3u) * BITS);
    return places.x | places.y | places.z | places.w;
}

// How many of two neighbouring levels' middle lie below x / scale, 0 or 1 each.
fn above(x: vec4<f32>, level: f32, next: f32, scale: f32) -> vec4<u32> {
    return select(vec4<u32>(0u), vec4<u32>(1u), x > vec4<f32>(0.5 * (level + next) * scale));
}

// The numbers of the levels nearest to x / scale, the lower of two that are equally near, in the low bits of a word.
// Products of f32 are compared, which are the same everywhere.
fn pack_levels(x: vec4<f32>, scale: f32) -> u32 {
    let codes = above(x, NF_0, NF_1, scale) + above(x, NF_1, NF_2, scale) + above(x, NF_2, NF_3, scale)
        + above(x, NF_3, NF_4, scale) + above(x, NF_4, NF_5, scale) + above(x, NF_5, NF_6, scale)
        + above(x, NF_6, NF_7, scale) + above(x, NF_7, NF_8, scale) + above(x, NF_8, NF_9, scale)
        + above(x, NF_9, NF_10, scale) + above(x, NF_10, NF_11, scale) + above(x, NF_11, NF_12, scale)
        + above(x, NF_12, NF_13, scale) + above(x, NF_13, NF_14, scale) + above(x, NF_14, NF_15, scale);
    let places = codes << vec4<u32>(0u, 4u, 8u, 12u);
    return places.x | places.y | places.z | places.w;
}

@compute @workgroup_size(WG_SIZE)
fn quant_pack_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let n_outputs = 4u * p.n_quads;
    let o = i % n_outputs;
    let first = i / n_outputs * p.block_words;
    if first >= p.n_words {
        return;
    }
    let end = min(first + p.block_words, p.n_words);
    // By their bits, as the maximum of a NaN is up to the adapter.
    var largest = vec4<u32>(0u);
    for (var l = first * PER_WORD; l < end * PER_WORD; l += 4u) {
        largest = max(largest, bitcast<vec4<u32>>(pack_four(o, l)) & vec4<u32>(0x7fffffffu));
    }
    let bits = max(max(largest.x, largest.y), max(largest.z, largest.w));
    let in_range = bits >= UNDER && bits < OVER;
    // Products are rounded alike everywhere, quotients are not. To 15 bits, so that integers times scales are exact.
    let magnitude = select(0x3f800000u, bits, in_range);
    var per_step = 1.0 / 127.0;
    if CODE == 1u {
        per_step = 1.0 / 7.0;
    }
    let exact = bitcast<u32>(bitcast<f32>(magnitude) * per_step);
    // Levels end at 1, and their products with a scale are rounded anyway.
    let scale = bitcast<f32>(select((exact + 0x100u) & 0xfffffe00u, magnitude, CODE == 2u));
    let inverse = 1.0 / scale;
    for (var word = first; word < end; word++) {
        var codes = 0u;
        if CODE == 2u {
            codes = NF_ZEROS;
            if in_range {
                codes = pack_levels(pack_four(o, word * PER_WORD), scale);
                codes |= pack_levels(pack_four(o, word * PER_WORD + 4u), scale) << 16u;
            }
        } else if in_range {
            codes = pack_codes(pack_four(o, word * PER_WORD), scale, inverse);
            if BITS == 4u {
                codes |= pack_codes(pack_four(o, word * PER_WORD + 4u), scale, inverse) << 16u;
            }
        }
        pack_words[word * n_outputs + o] = codes;
    }
    // A block that cannot be scaled is all zeros or, with a number too large or none, all NaN.
    let other = select(0u, 0x7fc00000u, bits >= OVER);
    pack_scales[i] = bitcast<f32>(select(other, bitcast<u32>(scale), in_range));
}

// ---- words into numbers ----
// Inner index j of the word, of four outputs: its lowest bits are index 0.
fn integers(words: vec4<u32>, j: u32) -> vec4<i32> {
    return bitcast<vec4<i32>>(words << vec4<u32>(32u - BITS - BITS * j)) >> vec4<u32>(32u - BITS);
}

// Level j of the word, of four outputs, chosen bit by bit.
fn levels(words: vec4<u32>, j: u32) -> vec4<f32> {
    let codes = words >> vec4<u32>(4u * j);
    let odd = (codes & vec4<u32>(1u)) != vec4<u32>(0u);
    let of_2 = (codes & vec4<u32>(2u)) != vec4<u32>(0u);
    let of_4 = (codes & vec4<u32>(4u)) != vec4<u32>(0u);
    let of_8 = (codes & vec4<u32>(8u)) != vec4<u32>(0u);
    let l_0 = select(vec4<f32>(NF_0), vec4<f32>(NF_1), odd);
    let l_2 = select(vec4<f32>(NF_2), vec4<f32>(NF_3), odd);
    let l_4 = select(vec4<f32>(NF_4), vec4<f32>(NF_5), odd);
    let l_6 = select(vec4<f32>(NF_6), vec4<f32>(NF_7), odd);
    let l_8 = select(vec4<f32>(NF_8), vec4<f32>(NF_9), odd);
    let l_10 = select(vec4<f32>(NF_10), vec4<f32>(NF_11), odd);
    let l_12 = select(vec4<f32>(NF_12), vec4<f32>(NF_13), odd);
    let l_14 = select(vec4<f32>(NF_14), vec4<f32>(NF_15), odd);
    let lower = select(select(l_0, l_2, of_2), select(l_4, l_6, of_2), of_4);
    let upper = select(select(l_8, l_10, of_2), select(l_12, l_14, of_2), of_4);
    return select(lower, upper, of_8);
}

fn weights(words: vec4<u32>, j: u32, scales: vec4<f32>) -> vec4<f32> {
    if CODE == 2u {
        return levels(words, j) * scales;
    }
    return vec4<f32>(integers(words, j)) * scales;
}

// Four inner indices from j on.
fn weights_block(words: vec4<u32>, j: u32, scales: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(weights(words, j, scales), weights(words, j + 1u, scales),
                       weights(words, j + 2u, scales), weights(words, j + 3u, scales));
}

// ---- unpack ----
@group(0) @binding(0) var<storage, read> unpack_words: array<vec4<u32>>;         // [n_words, n_quads]
@group(0) @binding(1) var<storage, read> unpack_scales: array<vec4<f32>>;        // [n_blocks, n_quads]
@group(0) @binding(2) var<storage, read_write> unpack_out: array<vec4<f32>>;     // [n_inner, n_quads]

@compute @workgroup_size(WG_SIZE)
fn quant_unpack_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let quad = i % p.n_quads;
    let word = p.first_word + i / p.n_quads;
    if word >= p.n_words {
        return;
    }
    let words = unpack_words[word * p.n_quads + quad];
    let scales = unpack_scales[word / p.block_words * p.n_quads + quad];
    for (var j = 0u; j < min(PER_WORD, p.n_inner - word * PER_WORD); j++) {
        unpack_out[((word - p.first_word) * PER_WORD + j) * p.n_quads + quad] = weights(words, j, scales);
    }
}

// ---- plain ----
@group(0) @binding(0) var<storage, read> plain_x: array<Elem>;             // [n_rows, n_inner]
@group(0) @binding(1) var<storage, read> plain_words: array<u32>;          // [n_words, 4 n_quads]
@group(0) @binding(2) var<storage, read> plain_scales: array<f32>;         // [n_blocks, 4 n_quads]
@group(0) @binding(3) var<storage, read> plain_bias: array<Elem>;          // [n_cols]
@group(0) @binding(4) var<storage, read_write> plain_out: array<Elem>;     // [n_rows, n_cols]

// Number j of a word of output o.
fn plain_weight(word: u32, j: u32, o: u32) -> f32 {
    let p = quant_params;
    let words = vec4<u32>(plain_words[word * 4u * p.n_quads + o]);
    return weights(words, j, vec4<f32>(plain_scales[word / p.block_words * 4u * p.n_quads + o])).x;
}

@compute @workgroup_size(WG_SIZE)
fn quant_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let row = i / p.n_cols;
    let col = i % p.n_cols;
    if row >= p.n_rows {
        return;
    }
    var sum = 0.0;
    for (var l = 0u; l < p.n_inner; l++) {
        let word = l / PER_WORD;
        sum += f32(plain_x[row * p.n_inner + l]) * plain_weight(word, l % PER_WORD, col);
    }
    if p.bias != 0u {
        sum += f32(plain_bias[col]);
    }
    if ACT != 0u {
        sum = activate(ACT, sum);
    }
    plain_out[i] = Elem(sum);
}

// ---- blocks of 4 x 4 ----
@group(0) @binding(0) var<storage, read> quant_x: array<Elem4>;            // [n_rows, n_inner]
@group(0) @binding(1) var<storage, read> quant_words: array<vec4<u32>>;    // [n_words, n_quads]
@group(0) @binding(2) var<storage, read> quant_scales: array<vec4<f32>>;   // [n_blocks, n_quads]
@group(0) @binding(3) var<storage, read> quant_bias: array<Elem4>;         // [n_cols]
@group(0) @binding(4) var<storage, read_write> quant_out: array<Elem4>;    // [n_rows, n_cols]

fn x_element(at: u32, l: u32) -> f32 {
    let p = quant_params;
    let i = at + min(l, p.n_inner - 1u);
    return select(0.0, f32(quant_x[i / 4u][i % 4u]), l < p.n_inner);
}

// Inner indices l..l + 4 of the row of x that starts at element `at`; 0 past its end, where the next row begins.
fn x_four(at: u32, l: u32) -> vec4<f32> {
    if ANY != 0u {
        return vec4<f32>(x_element(at, l), x_element(at, l + 1u), x_element(at, l + 2u), x_element(at, l + 3u));
    }
    let n_inner = quant_params.n_inner;
    let x = vec4<f32>(quant_x[(at + min(l, n_inner - 4u)) / 4u]);
    return select(vec4<f32>(0.0), x, l < n_inner);
}

// Rows row..row + 4 of x; rows past the end repeat the last.
fn x_block(row: u32, l: u32) -> mat4x4<f32> {
    let p = quant_params;
    let at = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n_rows - 1u)) * p.n_inner;
    return mat4x4<f32>(x_four(at.x, l), x_four(at.y, l), x_four(at.z, l), x_four(at.w, l));
}

// Four outputs of a row, from the sums without bias.
fn store_four(row: u32, col: u32, sums: vec4<f32>) {
    let p = quant_params;
    var x = sums;
    if p.bias != 0u {
        x += vec4<f32>(quant_bias[min(col, p.n_cols - 1u) / 4u]);
    }
    if ACT != 0u {
        x = activate4(ACT, x);
    }
    let at = row * p.n_cols + col;
    if ANY == 0u {
        if col < p.n_cols {
            quant_out[at / 4u] = Elem4(x);
        }
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if col + j < p.n_cols {
            quant_out[(at + j) / 4u][(at + j) % 4u] = Elem(x.x);
        }
        x = x.yzwx;
    }
}

// Rows row..row + 4, as far as there are any. A loop of unknown count: software adapters compile unrolled stores slowly.
fn store_block(row: u32, col: u32, block: mat4x4<f32>) {
    var rest = block;
    for (var r = row; r < min(row + 4u, quant_params.n_rows); r++) {
        store_four(r, col, rest[0]);
        rest = mat4x4<f32>(rest[1], rest[2], rest[3], rest[0]);
    }
}

@compute @workgroup_size(WG_SIZE)
fn quant_row_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let quad = i % p.n_quads;
    let row = i / p.n_quads;
    if row >= p.n_rows {
        return;
    }
    let at = row * p.n_inner;
    var sums = vec4<f32>(0.0);
    var scale_at = quad;
    for (var first = 0u; first < p.n_words; first += p.block_words) {
        let scales = quant_scales[scale_at];
        for (var word = first; word < min(first + p.block_words, p.n_words); word++) {
            let words = quant_words[word * p.n_quads + quad];
            sums += weights_block(words, 0u, scales) * x_four(at, word * PER_WORD);
            if BITS == 4u {
                sums += weights_block(words, 4u, scales) * x_four(at, word * PER_WORD + 4u);
            }
        }
        scale_at += p.n_quads;
    }
    store_four(row, quad * 4u, sums);
}

@compute @workgroup_size(WG_SIZE)
fn quant_registers_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    // From top to bottom, so that the weights stay in the cache.
    let n_row_tiles = (p.n_rows + 7u) / 8u;
    let row = i % n_row_tiles * 8u;
    let quad_0 = i / n_row_tiles * 2u;
    if quad_0 >= p.n_quads {
        return;
    }
    let quad_1 = min(quad_0 + 1u, p.n_quads - 1u);
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    var scale_at = 0u;
    for (var first = 0u; first < p.n_words; first += p.block_words) {
        let scales_0 = quant_scales[scale_at + quad_0];
        let scales_1 = quant_scales[scale_at + quad_1];
        scale_at += p.n_quads;
        for (var word = first; word < min(first + p.block_words, p.n_words); word++) {
            let words_0 = quant_words[word * p.n_quads + quad_0];
            let words_1 = quant_words[word * p.n_quads + quad_1];
            let l = word * PER_WORD;
            let x_0 = x_block(row, l);
            let x_1 = x_block(row + 4u, l);
            let w_0 = weights_block(words_0, 0u, scales_0);
            s_00 += w_0 * x_0;
            s_10 += w_0 * x_1;
            let w_1 = weights_block(words_1, 0u, scales_1);
            s_01 += w_1 * x_0;
            s_11 += w_1 * x_1;
            if BITS == 4u {
                let x_2 = x_block(row, l + 4u);
                let x_3 = x_block(row + 4u, l + 4u);
                let w_2 = weights_block(words_0, 4u, scales_0);
                s_00 += w_2 * x_2;
                s_10 += w_2 * x_3;
                let w_3 = weights_block(words_1, 4u, scales_1);
                s_01 += w_3 * x_2;
                s_11 += w_3 * x_3;
            }
        }
    }
    store_block(row, quad_0 * 4u, s_00);
    store_block(row + 4u, quad_0 * 4u, s_10);
    if quad_1 > quad_0 {
        store_block(row, quad_1 * 4u, s_01);
        store_block(row + 4u, quad_1 * 4u, s_11);
    }
}

// ---- tiled: 64 x 64 outputs of a workgroup of 64, one invocation 8 x 8 of them ----
const TILE = 64u;
const TILE_QUADS = 16u;
const TILE_INNER = 16u;
var<workgroup> sh_x: array<vec4<f32>, 256>;      // [TILE_INNER, TILE_QUADS], four rows each
var<workgroup> sh_w: array<vec4<f32>, 256>;      // [TILE_INNER, TILE_QUADS], four outputs each

// Column i is w times x_i.
fn outer(w: vec4<f32>, x: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(w * x.x, w * x.y, w * x.z, w * x.w);
}

@compute @workgroup_size(64)
fn quant_tiled_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let n_row_tiles = (p.n_rows + TILE - 1u) / TILE;
    let id = group_id(group, n_groups);
    let row = id % n_row_tiles * TILE;
    let first_quad = id / n_row_tiles * TILE_QUADS;
    // The last row of a folded grid: the whole workgroup leaves, so the barriers below stay uniform.
    if first_quad >= p.n_quads {
        return;
    }
    let across = local % 8u;
    let down = local / 8u;
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    for (var first = 0u; first < p.n_inner; first += TILE_INNER) {
        // A block of x, its inner axis fastest, and one of the weights, its outputs fastest.
        let x = transpose(x_block(row + local / 4u * 4u, first + local % 4u * 4u));
        let at_x = local % 4u * 4u * TILE_QUADS + local / 4u;
        sh_x[at_x] = x[0];
        sh_x[at_x + TILE_QUADS] = x[1];
        sh_x[at_x + 2u * TILE_QUADS] = x[2];
        sh_x[at_x + 3u * TILE_QUADS] = x[3];
        // Past the last word it is read once more: x is 0 there.
        let l = first + local / TILE_QUADS * 4u;
        let word = min(l / PER_WORD, p.n_words - 1u);
        let quad = min(first_quad + local % TILE_QUADS, p.n_quads - 1u);
        let scales = quant_scales[word / p.block_words * p.n_quads + quad];
        let w = weights_block(quant_words[word * p.n_quads + quad], l % PER_WORD, scales);
        let at_w = local / TILE_QUADS * 4u * TILE_QUADS + local % TILE_QUADS;
        sh_w[at_w] = w[0];
        sh_w[at_w + TILE_QUADS] = w[1];
        sh_w[at_w + 2u * TILE_QUADS] = w[2];
        sh_w[at_w + 3u * TILE_QUADS] = w[3];
        workgroupBarrier();
        for (var at = 0u; at < TILE_INNER * TILE_QUADS; at += TILE_QUADS) {
            let x_0 = sh_x[at + down];
            let x_1 = sh_x[at + down + 8u];
            let w_0 = sh_w[at + across];
            let w_1 = sh_w[at + across + 8u];
            s_00 += outer(w_0, x_0);
            s_01 += outer(w_1, x_0);
            s_10 += outer(w_0, x_1);
            s_11 += outer(w_1, x_1);
        }
        workgroupBarrier();
    }
    let left = (first_quad + across) * 4u;
    let upper = row + down * 4u;
    store_block(upper, left, s_00);
    store_block(upper, left + 32u, s_01);
    store_block(upper + 32u, left, s_10);
    store_block(upper + 32u, left + 32u, s_11);
}

// ---- gradient of x: rows are those of d, columns the inner indices of the weights ----
@group(0) @binding(3) var<storage, read_write> plain_d_x: array<Elem>;     // [n_rows, n_cols]

@compute @workgroup_size(WG_SIZE)
fn quant_plain_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let row = i / p.n_cols;
    let col = i % p.n_cols;
    if row >= p.n_rows {
        return;
    }
    var sum = 0.0;
    for (var o = 0u; o < p.n_inner; o++) {
        sum += f32(plain_x[row * p.n_inner + o]) * plain_weight(col / PER_WORD, col % PER_WORD, o);
    }
    plain_d_x[i] = Elem(sum);
}

// A block of d times one of the weights: column i is row i of d, its elements are inner indices.
fn back(d: mat4x4<f32>, w: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(d[0] * w, d[1] * w, d[2] * w, d[3] * w);
}

@compute @workgroup_size(WG_SIZE)
fn quant_registers_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let n_row_tiles = (p.n_rows + 7u) / 8u;
    let row = i % n_row_tiles * 8u;
    // Eight inner indices: one word of 4 bits or two of 8, always of one block.
    let col = i / n_row_tiles * 8u;
    if col >= p.n_cols {
        return;
    }
    let word_0 = col / PER_WORD;
    let word_1 = min(word_0 + 1u, p.n_words - 1u);
    let scales_at = word_0 / p.block_words * p.n_quads;
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    for (var quad = 0u; quad < p.n_quads; quad++) {
        let scales = quant_scales[scales_at + quad];
        let words_0 = quant_words[word_0 * p.n_quads + quad];
        let d_0 = x_block(row, quad * 4u);
        let d_1 = x_block(row + 4u, quad * 4u);
        let w_0 = weights_block(words_0, 0u, scales);
        s_00 += back(d_0, w_0);
        s_10 += back(d_1, w_0);
        var w_1 = mat4x4<f32>();
        if BITS == 4u {
            w_1 = weights_block(words_0, 4u, scales);
        } else {
            w_1 = weights_block(quant_words[word_1 * p.n_quads + quad], 0u, scales);
        }
        s_01 += back(d_0, w_1);
        s_11 += back(d_1, w_1);
    }
    store_block(row, col, s_00);
    store_block(row + 4u, col, s_10);
    if col + 4u < p.n_cols {
        store_block(row, col + 4u, s_01);
        store_block(row + 4u, col + 4u, s_11);
    }
}

@compute @workgroup_size(64)
fn quant_tiled_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let n_row_tiles = (p.n_rows + TILE - 1u) / TILE;
    let id = group_id(group, n_groups);
    let row = id % n_row_tiles * TILE;
    let first_col = id / n_row_tiles * TILE;
    // As above: the whole workgroup leaves.
    if first_col >= p.n_cols {
        return;
    }
    let across = local % 8u;
    let down = local / 8u;
    // Past the last column its word is read once more: nobody stores what comes of it.
    let col = first_col + local / 4u * 4u;
    let word = min(col / PER_WORD, p.n_words - 1u);
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    for (var first = 0u; first < p.n_inner; first += TILE_INNER) {
        let x = transpose(x_block(row + local / 4u * 4u, first + local % 4u * 4u));
        // Past the last outputs they are read once more: d is 0 there.
        let quad = min(first / 4u + local % 4u, p.n_quads - 1u);
        let scales = quant_scales[word / p.block_words * p.n_quads + quad];
        let w = transpose(weights_block(quant_words[word * p.n_quads + quad], col % PER_WORD, scales));
        let at_x = local % 4u * 4u * TILE_QUADS + local / 4u;
        sh_x[at_x] = x[0];
        sh_x[at_x + TILE_QUADS] = x[1];
        sh_x[at_x + 2u * TILE_QUADS] = x[2];
        sh_x[at_x + 3u * TILE_QUADS] = x[3];
        sh_w[at_x] = w[0];
        sh_w[at_x + TILE_QUADS] = w[1];
        sh_w[at_x + 2u * TILE_QUADS] = w[2];
        sh_w[at_x + 3u * TILE_QUADS] = w[3];
        workgroupBarrier();
        for (var at = 0u; at < TILE_INNER * TILE_QUADS; at += TILE_QUADS) {
            let x_0 = sh_x[at + down];
            let x_1 = sh_x[at + down + 8u];
            let w_0 = sh_w[at + across];
            let w_1 = sh_w[at + across + 8u];
            s_00 += outer(w_0, x_0);
            s_01 += outer(w_1, x_0);
            s_10 += outer(w_0, x_1);
            s_11 += outer(w_1, x_1);
        }
        workgroupBarrier();
    }
    let left = first_col + across * 4u;
    let upper = row + down * 4u;
    store_block(upper, left, s_00);
    store_block(upper, left + 32u, s_01);
    store_block(upper + 32u, left, s_10);
    store_block(upper + 32u, left + 32u, s_11);
}

// ---- integers times integers: 8 bits; bindings 1 to 4 are those of the products above ----
@group(0) @binding(0) var<storage, read> dot_plain_x: array<u32>;            // [n_words, 4 n_row_quads]
@group(0) @binding(5) var<storage, read> dot_plain_x_scales: array<f32>;     // [4 n_row_quads]

@compute @workgroup_size(WG_SIZE)
fn quant_dot_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let row = i / p.n_cols;
    let col = i % p.n_cols;
    if row >= p.n_rows {
        return;
    }
    var sum = 0.0;
    for (var first = 0u; first < p.n_words; first += p.chunk_words) {
        var part = 0;
        for (var word = first; word < min(first + p.chunk_words, p.n_words); word++) {
            let x = vec4<u32>(dot_plain_x[word * 4u * p.n_row_quads + row]);
            let w = vec4<u32>(plain_words[word * 4u * p.n_quads + col]);
            part += integers(x, 0u).x * integers(w, 0u).x + integers(x, 1u).x * integers(w, 1u).x
                + integers(x, 2u).x * integers(w, 2u).x + integers(x, 3u).x * integers(w, 3u).x;
        }
        sum += f32(part) * plain_scales[first / p.block_words * 4u * p.n_quads + col];
    }
    sum *= dot_plain_x_scales[row];
    if p.bias != 0u {
        sum += f32(plain_bias[col]);
    }
    if ACT != 0u {
        sum = activate(ACT, sum);
    }
    plain_out[i] = Elem(sum);
}

@group(0) @binding(0) var<storage, read> dot_x: array<vec4<u32>>;            // [n_words, n_row_quads]
@group(0) @binding(5) var<storage, read> dot_x_scales: array<vec4<f32>>;     // [n_row_quads]

// A word of a row with that of four outputs.
fn dots(x: u32, words: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(dot4I8Packed(x, words.x), dot4I8Packed(x, words.y),
                     dot4I8Packed(x, words.z), dot4I8Packed(x, words.w));
}

// Eight rows x 4 outputs: integer sums take as many registers as those in f32 that they are added to.
@compute @workgroup_size(WG_SIZE)
fn quant_dot_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = quant_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let n_row_tiles = (p.n_row_quads + 1u) / 2u;
    let quad = i / n_row_tiles;
    if quad >= p.n_quads {
        return;
    }
    let rows_0 = i % n_row_tiles * 2u;
    let rows_1 = min(rows_0 + 1u, p.n_row_quads - 1u);
    var s_0 = mat4x4<f32>();
    var s_1 = mat4x4<f32>();
    // One block can take several chunks only where it is the whole row.
    let scale_step = select(p.n_quads, 0u, p.block_words > p.chunk_words);
    var scale_at = quad;
    for (var first = 0u; first < p.n_words; first += p.chunk_words) {
        var d_0 = vec4<i32>();
        var d_1 = vec4<i32>();
        var d_2 = vec4<i32>();
        var d_3 = vec4<i32>();
        var d_4 = vec4<i32>();
        var d_5 = vec4<i32>();
        var d_6 = vec4<i32>();
        var d_7 = vec4<i32>();
        for (var word = first; word < min(first + p.chunk_words, p.n_words); word++) {
            let words = quant_words[word * p.n_quads + quad];
            let x_0 = dot_x[word * p.n_row_quads + rows_0];
            let x_1 = dot_x[word * p.n_row_quads + rows_1];
            d_0 += dots(x_0.x, words);
            d_1 += dots(x_0.y, words);
            d_2 += dots(x_0.z, words);
            d_3 += dots(x_0.w, words);
            d_4 += dots(x_1.x, words);
            d_5 += dots(x_1.y, words);
            d_6 += dots(x_1.z, words);
            d_7 += dots(x_1.w, words);
        }
        let scales = quant_scales[scale_at];
        scale_at += scale_step;
        s_0 += mat4x4<f32>(scales * vec4<f32>(d_0), scales * vec4<f32>(d_1),
                           scales * vec4<f32>(d_2), scales * vec4<f32>(d_3));
        s_1 += mat4x4<f32>(scales * vec4<f32>(d_4), scales * vec4<f32>(d_5),
                           scales * vec4<f32>(d_6), scales * vec4<f32>(d_7));
    }
    let x_0 = dot_x_scales[rows_0];
    let x_1 = dot_x_scales[rows_1];
    store_block(rows_0 * 4u, quad * 4u, mat4x4<f32>(s_0[0] * x_0.x, s_0[1] * x_0.y, s_0[2] * x_0.z, s_0[3] * x_0.w));
    if rows_1 > rows_0 {
        store_block(rows_1 * 4u, quad * 4u, mat4x4<f32>(s_1[0] * x_1.x, s_1[1] * x_1.y, s_1[2] * x_1.z, s_1[3] * x_1.w));
    }
}
