// Mixtures of random bases, out_e = scale * (fixed * A0_e + sum_i c_i U_ie), and the products d_c_i = scale * sum_e d_out_e U_ie,
// for all slots in one dispatch. Bases are drawn where they are used: none of them ever lies in memory. Who computes what:
//   form       one invocation 16 neighbouring elements of a slot (a block) over all bases, or over a slice of them
//   pack       one invocation a block of gradients, scaled, zeros past the slot's end
//   project    one invocation some bases over a chunk of blocks; its neighbours have the next bases
//   sum        one invocation one coefficient: the chunks of all slots that share it, in order
// The laws whose draws depend on every basis are here; those that take one basis or none per element are in basis_sparse.
override LAW: u32 = 0u;
const UNIFORM8 = 0u;     // a byte of the call (block, basis): (2 v - 255) / 256
const UNIFORM24 = 1u;    // a word of the call (element / 4, basis): (2 (w >> 8) + 1 - 2^24) / 2^24
const SIGN = 2u;         // a bit of the call (block, basis / 8): 1 is minus

var<immediate> basis_params: BasisParams;

@group(0) @binding(0) var<storage, read> basis_groups: array<vec4<u32>>;    // of each workgroup: slot, and where in it
@group(0) @binding(1) var<storage, read> basis_slots: array<vec4<u32>>;     // [n_slots, 3]

fn slot_at(i: u32) -> Slot {
    return slot_of(basis_slots[3u * i], basis_slots[3u * i + 1u], basis_slots[3u * i + 2u]);
}

// ---- draws ----
// Philox4x32-10 for the counter (block, basis, layer, stream). Two of its rounds depend, word by word, on the block alone or on
// the basis alone, so five of the twenty products are done once for all bases, or for all blocks.
struct OfSlot { basis: u32, block: u32, stream: u32 }
struct OfBlock { low: u32, next: u32, product: vec2<u32> }

fn of_slot(slot: Slot, key: vec2<u32>) -> OfSlot {
    let layer = mul_wide(0xCD9E8D57u, slot.layer);
    return OfSlot(layer.x ^ key.x, layer.y ^ (key.x + PHILOX_STEP.x), slot.stream ^ key.y);
}

fn of_block(block: u32, slot: OfSlot) -> OfBlock {
    let x = mul_wide(0xD2511F53u, block);
    let next = mul_wide(0xCD9E8D57u, x.x ^ slot.stream);
    return OfBlock(x.y, next.y, mul_wide(0xD2511F53u, next.x ^ slot.block));
}

fn of_basis(basis: u32, slot: OfSlot) -> vec2<u32> {
    return mul_wide(0xD2511F53u, basis ^ slot.basis);
}

fn draw(block: OfBlock, basis: vec2<u32>, key: vec2<u32>) -> vec4<u32> {
    let k = key + 2u * PHILOX_STEP;
    let z = mul_wide(0xCD9E8D57u, basis.x ^ block.low ^ (key.y + PHILOX_STEP.y));
    var c = vec4<u32>(z.x ^ block.next ^ k.x, z.y, block.product.x ^ basis.y ^ k.y, block.product.y);
    // Written out: loops of loops would soon be longer than software adapters allow.
    c = philox_round(c, key + 3u * PHILOX_STEP);
    c = philox_round(c, key + 4u * PHILOX_STEP);
    c = philox_round(c, key + 5u * PHILOX_STEP);
    c = philox_round(c, key + 6u * PHILOX_STEP);
    c = philox_round(c, key + 7u * PHILOX_STEP);
    c = philox_round(c, key + 8u * PHILOX_STEP);
    return philox_round(c, key + 9u * PHILOX_STEP);
}

fn word_values(words: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(vec4<i32>((words >> vec4<u32>(7u)) | vec4<u32>(1u)) - 16777216) * 5.9604644775390625e-8;
}

// 16 numbers of a block.
struct Block { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn block_plus(sums: Block, factor: f32, x: Block) -> Block {
    let f = vec4<f32>(factor);
    return Block(fma(f, x.a, sums.a), fma(f, x.b, sums.b), fma(f, x.c, sums.c), fma(f, x.d, sums.d));
}

fn block_dot(x: Block, y: Block) -> f32 {
    return (dot(x.a, y.a) + dot(x.b, y.b)) + (dot(x.c, y.c) + dot(x.d, y.d));
}

fn block_of_bytes(words: vec4<u32>) -> Block {
    return Block(byte_values(words.x), byte_values(words.y), byte_values(words.z), byte_values(words.w));
}

// ---- form ----
@group(0) @binding(2) var<storage, read> form_coefficients: array<f32>;     // [n_rows, row_coefficients]
@group(0) @binding(3) var<storage, read> form_places: array<u32>;           // [n_rows]
@group(0) @binding(4) var<storage, read_write> form_out: array<f32>;        // [n_places, row_out]
const FORM_SIZE = 64u;
override ROWS: u32 = 1u;     // of coefficients at once: 1 or 4
override SPLIT: u32 = 1u;    // slices of the bases: 1, or 16, so that an invocation adds up one element of all slices
override FORM_BLOCKS: u32 = FORM_SIZE / SPLIT;
var<workgroup> sh_slices: array<vec4<f32>, 256>;

// Four rows of sums; only the first one where there is one row.
struct Sums { r0: Block, r1: Block, r2: Block, r3: Block }

fn sums_plus(sums: ptr<function, Sums>, c: vec4<f32>, x: Block) {
    (*sums).r0 = block_plus((*sums).r0, c.x, x);
    if ROWS > 1u {
        (*sums).r1 = block_plus((*sums).r1, c.y, x);
        (*sums).r2 = block_plus((*sums).r2, c.z, x);
        (*sums).r3 = block_plus((*sums).r3, c.w, x);
    }
}

// Coefficient i of the dispatch's rows; past the last row those of the last one, which are not stored.
fn coefficients_at(i: u32) -> vec4<f32> {
    let p = basis_params;
    let last = p.n_rows - 1u;
    var c = vec4<f32>(form_coefficients[p.row * p.row_coefficients + i]);
    if ROWS > 1u {
        c.y = form_coefficients[min(p.row + 1u, last) * p.row_coefficients + i];
        c.z = form_coefficients[min(p.row + 2u, last) * p.row_coefficients + i];
        c.w = form_coefficients[min(p.row + 3u, last) * p.row_coefficients + i];
    }
    return c;
}

// Numbers of a block whose signs are bits `bit` of its bytes.
fn signed4(x: f32, word: u32, bit: u32) -> vec4<f32> {
    let signs = (vec4<u32>(word) << (vec4<u32>(31u, 23u, 15u, 7u) - bit)) & vec4<u32>(0x80000000u);
    return bitcast<vec4<f32>>(vec4<u32>(bitcast<u32>(x)) ^ signs);
}

fn block_signed(sums: Block, x: f32, words: vec4<u32>, bit: u32) -> Block {
    return Block(sums.a + signed4(x, words.x, bit), sums.b + signed4(x, words.y, bit),
                 sums.c + signed4(x, words.z, bit), sums.d + signed4(x, words.w, bit));
}

// Adds what basis i + bit gives of those that one call has the signs of.
fn form_bit(sums: ptr<function, Sums>, slot: Slot, words: vec4<u32>, i: u32, bit: u32, to: u32) {
    let c = select(vec4<f32>(0.0), coefficients_at(slot.first + min(i + bit, to - 1u)), i + bit < to);
    (*sums).r0 = block_signed((*sums).r0, c.x, words, bit);
    if ROWS > 1u {
        (*sums).r1 = block_signed((*sums).r1, c.y, words, bit);
        (*sums).r2 = block_signed((*sums).r2, c.z, words, bit);
        (*sums).r3 = block_signed((*sums).r3, c.w, words, bit);
    }
}

// Adds what the slice's bases give.
fn form_bases(sums: ptr<function, Sums>, slot: Slot, block: u32, slice: u32) {
    let p = basis_params;
    let key = vec2<u32>(p.key_0, p.key_1);
    let to = min(slot.k, p.to_basis);
    let slot_words = of_slot(slot, key);
    if LAW == UNIFORM8 {
        let here = of_block(block, slot_words);
        for (var i = p.from_basis + slice; i < to; i += SPLIT) {
            let words = draw(here, of_basis(i, slot_words), key);
            sums_plus(sums, coefficients_at(slot.first + i) * 0.0078125, block_of_bytes(words));
        }
    } else if LAW == UNIFORM24 {
        let here_a = of_block(4u * block, slot_words);
        let here_b = of_block(4u * block + 1u, slot_words);
        let here_c = of_block(4u * block + 2u, slot_words);
        let here_d = of_block(4u * block + 3u, slot_words);
        for (var i = p.from_basis + slice; i < to; i += SPLIT) {
            let basis = of_basis(i, slot_words);
            let x = Block(word_values(draw(here_a, basis, key)), word_values(draw(here_b, basis, key)),
                          word_values(draw(here_c, basis, key)), word_values(draw(here_d, basis, key)));
            sums_plus(sums, coefficients_at(slot.first + i), x);
        }
    } else {
        let here = of_block(block, slot_words);
        for (var i = p.from_basis + 8u * slice; i < to; i += 8u * SPLIT) {
            let words = draw(here, of_basis(i / 8u, slot_words), key);
            form_bit(sums, slot, words, i, 0u, to);
            form_bit(sums, slot, words, i, 1u, to);
            form_bit(sums, slot, words, i, 2u, to);
            form_bit(sums, slot, words, i, 3u, to);
            form_bit(sums, slot, words, i, 4u, to);
            form_bit(sums, slot, words, i, 5u, to);
            form_bit(sums, slot, words, i, 6u, to);
            form_bit(sums, slot, words, i, 7u, to);
        }
    }
}

// Element e of the slot in row `row` of the coefficients; adds to what earlier bases gave.
fn form_store(slot: Slot, row: u32, e: u32, sum: f32) {
    let p = basis_params;
    if e >= slot.len || row >= p.n_rows {
        return;
    }
    let place = form_places[row];
    if place >= p.n_places {
        return;
    }
    let at = place * p.row_out + slot.out + e;
    var before = 0.0;
    if p.from_basis > 0u {
        before = form_out[at];
    }
    form_out[at] = before + slot.scale * sum;
}

fn form_store4(slot: Slot, row: u32, e: u32, sums: vec4<f32>) {
    form_store(slot, row, e, sums.x);
    form_store(slot, row, e + 1u, sums.y);
    form_store(slot, row, e + 2u, sums.z);
    form_store(slot, row, e + 3u, sums.w);
}

// Stores a row of sums, over all slices. All of the workgroup comes here.
fn form_finish(slot: Slot, row: u32, group_block: u32, local: u32, slice: u32, sums: Block) {
    if SPLIT == 1u {
        let e = 16u * (group_block + local);
        form_store4(slot, row, e, sums.a);
        form_store4(slot, row, e + 4u, sums.b);
        form_store4(slot, row, e + 8u, sums.c);
        form_store4(slot, row, e + 12u, sums.d);
        return;
    }
    // The sums of the row before have been read.
    workgroupBarrier();
    let quad = 4u * (slice * FORM_BLOCKS + local % FORM_BLOCKS);
    sh_slices[quad] = sums.a;
    sh_slices[quad + 1u] = sums.b;
    sh_slices[quad + 2u] = sums.c;
    sh_slices[quad + 3u] = sums.d;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < SPLIT; i++) {
        sum += sh_slices[i * 4u * FORM_BLOCKS + local / 4u][local % 4u];
    }
    form_store(slot, row, 16u * group_block + local, sum);
}

@compute @workgroup_size(FORM_SIZE)
fn basis_form_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = basis_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    var slice = 0u;
    if SPLIT > 1u {
        slice = local / FORM_BLOCKS;
    }
    let block = place.y + local % FORM_BLOCKS;
    var sums = Sums();
    if 16u * block < slot.len {
        form_bases(&sums, slot, block, slice);
        if slice == 0u && p.from_basis == 0u && slot.fixed_scale != 0.0 {
            let key = vec2<u32>(p.key_0, p.key_1);
            let words = philox4x32(vec4<u32>(block, 0u, slot.layer, FIXED_STREAM), key);
            sums_plus(&sums, vec4<f32>(slot.fixed_scale * 0.0078125), block_of_bytes(words));
        }
    }
    form_finish(slot, p.row, place.y, local, slice, sums.r0);
    if ROWS > 1u {
        form_finish(slot, p.row + 1u, place.y, local, slice, sums.r1);
        form_finish(slot, p.row + 2u, place.y, local, slice, sums.r2);
        form_finish(slot, p.row + 3u, place.y, local, slice, sums.r3);
    }
}

// ---- gradients into padded blocks ----
@group(0) @binding(2) var<storage, read> pack_d_out: array<f32>;                    // [row_out]
@group(0) @binding(3) var<storage, read_write> pack_blocks: array<vec4<f32>>;       // [n_padded, 4]
const PACK_SIZE = 64u;
override SIGNED: u32 = 0u;   // 1: with a random sign to each element

fn pack_element(slot: Slot, e: u32) -> f32 {
    return select(0.0, slot.scale * pack_d_out[slot.out + min(e, slot.len - 1u)], e < slot.len);
}

fn pack_four(slot: Slot, e: u32, signs: u32) -> vec4<f32> {
    let x = vec4<f32>(pack_element(slot, e), pack_element(slot, e + 1u), pack_element(slot, e + 2u), pack_element(slot, e + 3u));
    let flips = (vec4<u32>(signs) << (vec4<u32>(31u, 30u, 29u, 28u) - e % 16u)) & vec4<u32>(0x80000000u);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ flips);
}

@compute @workgroup_size(PACK_SIZE)
fn basis_pack_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = basis_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let block = place.y + local;
    if block >= slot.n_padded {
        return;
    }
    let e = 16u * block;
    var signs = 0u;
    if SIGNED == 1u {
        signs = sign_bits(slot, block, vec2<u32>(p.key_0, p.key_1));
    }
    let quad = 4u * (slot.padded + block);
    pack_blocks[quad] = pack_four(slot, e, signs);
    pack_blocks[quad + 1u] = pack_four(slot, e + 4u, signs);
    pack_blocks[quad + 2u] = pack_four(slot, e + 8u, signs);
    pack_blocks[quad + 3u] = pack_four(slot, e + 12u, signs);
}

// ---- project ----
@group(0) @binding(2) var<storage, read> project_d_out: array<vec4<f32>>;           // [n_padded, 4], scaled
@group(0) @binding(3) var<storage, read_write> project_partials: array<f32>;        // [n_chunks, k] of each slot
override LANES: u32 = 8u;

fn project_block(slot: Slot, block: u32) -> Block {
    let quad = 4u * (slot.padded + block);
    return Block(project_d_out[quad], project_d_out[quad + 1u], project_d_out[quad + 2u], project_d_out[quad + 3u]);
}

fn project_store(slot: Slot, chunk: u32, i: u32, sum: f32) {
    if i < slot.k {
        project_partials[slot.partials + chunk * slot.k + i] = sum;
    }
}

// One number with the signs of eight bases, in bits 8 j .. 8 j + 7 of a word.
fn signed8(sums: ptr<function, array<vec4<f32>, 2>>, x: f32, word: u32, j: u32) {
    let low = (vec4<u32>(word) << (vec4<u32>(31u, 30u, 29u, 28u) - 8u * j)) & vec4<u32>(0x80000000u);
    let high = (vec4<u32>(word) << (vec4<u32>(27u, 26u, 25u, 24u) - 8u * j)) & vec4<u32>(0x80000000u);
    let bits = vec4<u32>(bitcast<u32>(x));
    (*sums)[0] += bitcast<vec4<f32>>(bits ^ low);
    (*sums)[1] += bitcast<vec4<f32>>(bits ^ high);
}

fn signed8_of4(sums: ptr<function, array<vec4<f32>, 2>>, x: vec4<f32>, word: u32) {
    signed8(sums, x.x, word, 0u);
    signed8(sums, x.y, word, 1u);
    signed8(sums, x.z, word, 2u);
    signed8(sums, x.w, word, 3u);
}

@compute @workgroup_size(LANES)
fn basis_project_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = basis_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let key = vec2<u32>(p.key_0, p.key_1);
    let slot_words = of_slot(slot, key);
    let start = place.z * p.chunk;
    let end = min(start + p.chunk, slot.n_padded);
    if LAW == SIGN {
        // Eight bases to an invocation.
        let i = place.y + 8u * local;
        let basis = of_basis(i / 8u, slot_words);
        var sums = array<vec4<f32>, 2>();
        for (var block = start; block < end; block++) {
            let words = draw(of_block(block, slot_words), basis, key);
            let x = project_block(slot, block);
            var here = array<vec4<f32>, 2>();
            signed8_of4(&here, x.a, words.x);
            signed8_of4(&here, x.b, words.y);
            signed8_of4(&here, x.c, words.z);
            signed8_of4(&here, x.d, words.w);
            sums[0] += here[0];
            sums[1] += here[1];
        }
        for (var bit = 0u; bit < 4u; bit++) {
            project_store(slot, place.z, i + bit, sums[0][bit]);
            project_store(slot, place.z, i + 4u + bit, sums[1][bit]);
        }
        return;
    }
    // Two bases to an invocation, so that what is the same for all bases is done half as often.
    let i = place.y + local;
    let basis = of_basis(i, slot_words);
    let next = of_basis(i + LANES, slot_words);
    var sums = vec2<f32>();
    for (var block = start; block < end; block++) {
        let x = project_block(slot, block);
        if LAW == UNIFORM8 {
            let here = of_block(block, slot_words);
            sums += vec2<f32>(block_dot(x, block_of_bytes(draw(here, basis, key))),
                              block_dot(x, block_of_bytes(draw(here, next, key)))) * 0.0078125;
        } else {
            let a = of_block(4u * block, slot_words);
            let b = of_block(4u * block + 1u, slot_words);
            let c = of_block(4u * block + 2u, slot_words);
            let d = of_block(4u * block + 3u, slot_words);
            let u = Block(word_values(draw(a, basis, key)), word_values(draw(b, basis, key)),
                          word_values(draw(c, basis, key)), word_values(draw(d, basis, key)));
            let v = Block(word_values(draw(a, next, key)), word_values(draw(b, next, key)),
                          word_values(draw(c, next, key)), word_values(draw(d, next, key)));
            sums += vec2<f32>(block_dot(x, u), block_dot(x, v));
        }
    }
    project_store(slot, place.z, i, sums.x);
    project_store(slot, place.z, i + LANES, sums.y);
}

// ---- sums of chunks into coefficients ----
// Of each range of coefficients: first, k, where its sums are, their number.
@group(0) @binding(1) var<storage, read> sum_ranges: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> sum_partials: array<f32>;                  // [n_sums, k] of each range
@group(0) @binding(3) var<storage, read_write> sum_d_coefficients: array<f32>;
const SUM_SIZE = 64u;

@compute @workgroup_size(SUM_SIZE)
fn basis_sum_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let id = group_id(group, n_groups);
    if id >= basis_params.n_groups {
        return;
    }
    let place = basis_groups[id];
    let range = sum_ranges[place.x];
    let i = place.y + local;
    if i >= range.y {
        return;
    }
    var sum = 0.0;
    for (var chunk = 0u; chunk < range.w; chunk++) {
        sum += sum_partials[range.z + chunk * range.y + i];
    }
    sum_d_coefficients[range.x + i] = sum;
}
