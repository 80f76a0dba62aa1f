// Bases of which an element takes one (onehot), or whose entries need no draw (srht): mixtures and their transposes in far less
// work than the number of entries. Slots, blocks and workgroups are those of basis.wgsl. Who computes what:
//   onehot_form      one invocation a block
//   onehot_project   one invocation four coefficients over a chunk of decks
//   spread           one invocation a block of the transform's input: each coefficient at its place, zeros elsewhere
//   hadamard         one invocation 16 elements apart by a power of two: up to four bits of the index
//   srht_form        one invocation a block of the transform's output
//   srht_project     one invocation one coefficient
// Onehot: the elements are dealt out in decks of k, and a random order of each deck says which coefficient each one takes. Srht: the
// entries of a basis are signs, (-1)^popcount(e & place_i) with an own random sign for each element.
var<immediate> basis_params: BasisParams;

@group(0) @binding(0) var<storage, read> basis_groups: array<vec4<u32>>;    // of each workgroup: slot, and where in it
@group(0) @binding(1) var<storage, read> basis_slots: array<vec4<u32>>;     // [n_slots, 3]
const WG_SIZE = 64u;

fn slot_at(i: u32) -> Slot {
    return slot_of(basis_slots[3u * i], basis_slots[3u * i + 1u], basis_slots[3u * i + 2u]);
}

fn seed_key() -> vec2<u32> {
    return vec2<u32>(basis_params.key_0, basis_params.key_1);
}

// ---- random orders ----
// A Feistel network of eight rounds on numbers of some bits, the lower half (larger by one if they are odd) and the upper half
// taking turns; the words of call (deck, 0) are the keys of four rounds, and, plus 0x9e3779b9, of four more. What is not below the
// number wanted goes through again.
fn shuffle_keys(slot: Slot, deck: u32) -> vec4<u32> {
    return philox4x32(vec4<u32>(deck, 0u, slot.layer, slot.stream), seed_key());
}

fn scrambled(x: vec4<u32>, key: u32) -> vec4<u32> {
    var h = (x ^ vec4<u32>(key)) * 0x9e3779b1u;
    h = (h ^ (h >> vec4<u32>(15u))) * 0x85ebca77u;
    return h ^ (h >> vec4<u32>(16u));
}

struct Halves { low: vec4<u32>, high: vec4<u32> }

fn halves(x: vec4<u32>, bits: u32) -> Halves {
    let n_low = (bits + 1u) / 2u;
    return Halves(x & vec4<u32>((1u << n_low) - 1u), x >> vec4<u32>(n_low));
}

fn whole(x: Halves, bits: u32) -> vec4<u32> {
    return (x.high << vec4<u32>((bits + 1u) / 2u)) | x.low;
}

// Two rounds, and the same backwards.
fn two_rounds(x: Halves, bits: u32, first: u32, second: u32) -> Halves {
    let high = x.high ^ (scrambled(x.low, first) & vec4<u32>((1u << (bits / 2u)) - 1u));
    return Halves(x.low ^ (scrambled(high, second) & vec4<u32>((1u << ((bits + 1u) / 2u)) - 1u)), high);
}

fn two_back(x: Halves, bits: u32, first: u32, second: u32) -> Halves {
    let low = x.low ^ (scrambled(x.high, second) & vec4<u32>((1u << ((bits + 1u) / 2u)) - 1u));
    return Halves(low, x.high ^ (scrambled(low, first) & vec4<u32>((1u << (bits / 2u)) - 1u)));
}

fn shuffle_once(x: vec4<u32>, bits: u32, keys: vec4<u32>) -> vec4<u32> {
    let more = keys + 0x9e3779b9u;
    var h = halves(x, bits);
    h = two_rounds(h, bits, keys.x, keys.y);
    h = two_rounds(h, bits, keys.z, keys.w);
    h = two_rounds(h, bits, more.x, more.y);
    return whole(two_rounds(h, bits, more.z, more.w), bits);
}

fn unshuffle_once(x: vec4<u32>, bits: u32, keys: vec4<u32>) -> vec4<u32> {
    let more = keys + 0x9e3779b9u;
    var h = halves(x, bits);
    h = two_back(h, bits, more.z, more.w);
    h = two_back(h, bits, more.x, more.y);
    h = two_back(h, bits, keys.z, keys.w);
    return whole(two_back(h, bits, keys.x, keys.y), bits);
}

// The coefficients of places of a deck, below k, and the places of coefficients.
fn shuffled(place: vec4<u32>, slot: Slot, keys: vec4<u32>) -> vec4<u32> {
    var x = shuffle_once(place, slot.bits, keys);
    while any(x >= vec4<u32>(slot.k)) {
        x = select(x, shuffle_once(x, slot.bits, keys), x >= vec4<u32>(slot.k));
    }
    return x;
}

fn unshuffled(i: vec4<u32>, slot: Slot, keys: vec4<u32>) -> vec4<u32> {
    var x = unshuffle_once(i, slot.bits, keys);
    while any(x >= vec4<u32>(slot.k)) {
        x = select(x, unshuffle_once(x, slot.bits, keys), x >= vec4<u32>(slot.k));
    }
    return x;
}

// ---- forms ----
// Entries of the fixed basis of a block times its coefficient.
struct Fixed { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

fn fixed_block(slot: Slot, block: u32) -> Fixed {
    if slot.fixed_scale == 0.0 {
        return Fixed();
    }
    let words = philox4x32(vec4<u32>(block, 0u, slot.layer, FIXED_STREAM), seed_key());
    let factor = slot.fixed_scale * 0.0078125;
    return Fixed(byte_values(words.x) * factor, byte_values(words.y) * factor,
                 byte_values(words.z) * factor, byte_values(words.w) * factor);
}

fn flipped(x: vec4<f32>, signs: u32, t: u32) -> vec4<f32> {
    let flips = (vec4<u32>(signs) << (vec4<u32>(31u, 30u, 29u, 28u) - t)) & vec4<u32>(0x80000000u);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) ^ flips);
}

@group(0) @binding(2) var<storage, read> onehot_coefficients: array<f32>;     // [n_rows, row_coefficients]
@group(0) @binding(3) var<storage, read> onehot_places: array<u32>;           // [n_rows]
@group(0) @binding(4) var<storage, read_write> onehot_out: array<f32>;        // [n_places, row_out]

fn onehot_store(slot: Slot, row: u32, e: u32, value: f32) {
    let p = basis_params;
    let place = onehot_places[row];
    if e < slot.len && place < p.n_places {
        onehot_out[place * p.row_out + slot.out + e] = slot.scale * value;
    }
}

// Four elements that take the coefficients i, in every row.
fn onehot_four(slot: Slot, e: u32, i: vec4<u32>, signs: u32, fixed_values: vec4<f32>) {
    let p = basis_params;
    for (var row = p.row; row < p.n_rows; row++) {
        let base = row * p.row_coefficients + slot.first;
        let c = vec4<f32>(onehot_coefficients[base + i.x], onehot_coefficients[base + i.y],
                          onehot_coefficients[base + i.z], onehot_coefficients[base + i.w]);
        let values = flipped(c, signs, e % 16u) + fixed_values;
        onehot_store(slot, row, e, values.x);
        onehot_store(slot, row, e + 1u, values.y);
        onehot_store(slot, row, e + 2u, values.z);
        onehot_store(slot, row, e + 3u, values.w);
    }
}

// The coefficients of elements e .. e + 3.
fn onehot_of(slot: Slot, e: u32) -> vec4<u32> {
    let places = vec4<u32>(e, e + 1u, e + 2u, e + 3u);
    let decks = places / slot.k;
    let within = places - decks * slot.k;
    if decks.x == decks.w {
        return shuffled(within, slot, shuffle_keys(slot, decks.x));
    }
    return vec4<u32>(shuffled(vec4<u32>(within.x), slot, shuffle_keys(slot, decks.x)).x,
                     shuffled(vec4<u32>(within.y), slot, shuffle_keys(slot, decks.y)).x,
                     shuffled(vec4<u32>(within.z), slot, shuffle_keys(slot, decks.z)).x,
                     shuffled(vec4<u32>(within.w), slot, shuffle_keys(slot, decks.w)).x);
}

@compute @workgroup_size(WG_SIZE)
fn basis_onehot_form_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let id = group_id(group, n_groups);
    if id >= basis_params.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let block = place.y + local;
    let e = 16u * block;
    if e >= slot.len {
        return;
    }
    let signs = sign_bits(slot, block, seed_key());
    let fixed_values = fixed_block(slot, block);
    onehot_four(slot, e, onehot_of(slot, e), signs, fixed_values.a);
    onehot_four(slot, e + 4u, onehot_of(slot, e + 4u), signs, fixed_values.b);
    onehot_four(slot, e + 8u, onehot_of(slot, e + 8u), signs, fixed_values.c);
    onehot_four(slot, e + 12u, onehot_of(slot, e + 12u), signs, fixed_values.d);
}

// ---- projection of one-hot bases ----
@group(0) @binding(2) var<storage, read> deck_d_out: array<f32>;                    // [n_padded, 16], scaled and signed
@group(0) @binding(3) var<storage, read_write> deck_partials: array<f32>;           // [n_chunks, k] of each slot
override LANES: u32 = 8u;

@compute @workgroup_size(LANES)
fn basis_onehot_project_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                            @builtin(local_invocation_index) local: u32) {
    let p = basis_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let first = place.y + 4u * local;
    if first >= slot.k {
        return;
    }
    let i = min(vec4<u32>(first, first + 1u, first + 2u, first + 3u), vec4<u32>(slot.k - 1u));
    let start = place.z * p.chunk;
    let end = min(start + p.chunk, (slot.len + slot.k - 1u) / slot.k);
    var sums = vec4<f32>();
    for (var deck = start; deck < end; deck++) {
        let e = deck * slot.k + unshuffled(i, slot, shuffle_keys(slot, deck));
        let at = 16u * slot.padded + min(e, vec4<u32>(slot.len - 1u));
        let d = vec4<f32>(deck_d_out[at.x], deck_d_out[at.y], deck_d_out[at.z], deck_d_out[at.w]);
        sums += select(vec4<f32>(0.0), d, e < vec4<u32>(slot.len));
    }
    for (var j = 0u; j < 4u; j++) {
        if first + j < slot.k {
            deck_partials[slot.partials + place.z * slot.k + first + j] = sums[j];
        }
    }
}

// ---- Hadamard transforms ----
@group(0) @binding(2) var<storage, read> spread_coefficients: array<f32>;           // [n_rows, row_coefficients]
@group(0) @binding(3) var<storage, read_write> spread_blocks: array<vec4<f32>>;     // [n_padded, 4]

// What stands at places .. places + 3 of the transform's input. Places are shuffled coefficients; those past k are nobody's.
fn spread_four(slot: Slot, place: u32, keys: vec4<u32>) -> vec4<f32> {
    let p = basis_params;
    let places = vec4<u32>(place, place + 1u, place + 2u, place + 3u);
    let taken = unshuffle_once(places, slot.bits, keys);
    let i = p.row * p.row_coefficients + slot.first + min(taken, vec4<u32>(slot.k - 1u));
    let c = vec4<f32>(spread_coefficients[i.x], spread_coefficients[i.y], spread_coefficients[i.z], spread_coefficients[i.w]);
    return select(vec4<f32>(0.0), c, (taken < vec4<u32>(slot.k)) & (places < vec4<u32>(1u << slot.bits)));
}

@compute @workgroup_size(WG_SIZE)
fn basis_spread_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let id = group_id(group, n_groups);
    if id >= basis_params.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let block = place.y + local;
    if block >= slot.n_padded {
        return;
    }
    let keys = shuffle_keys(slot, 0u);
    let quad = 4u * (slot.padded + block);
    spread_blocks[quad] = spread_four(slot, 16u * block, keys);
    spread_blocks[quad + 1u] = spread_four(slot, 16u * block + 4u, keys);
    spread_blocks[quad + 2u] = spread_four(slot, 16u * block + 8u, keys);
    spread_blocks[quad + 3u] = spread_four(slot, 16u * block + 12u, keys);
}

@group(0) @binding(2) var<storage, read_write> hadamard_blocks: array<f32>;         // [n_padded, 16], in place

fn hadamard_load(at: u32, step: u32) -> vec4<f32> {
    return vec4<f32>(hadamard_blocks[at], hadamard_blocks[at + step], hadamard_blocks[at + 2u * step],
                     hadamard_blocks[at + 3u * step]);
}

fn hadamard_store(at: u32, step: u32, x: vec4<f32>) {
    hadamard_blocks[at] = x.x;
    hadamard_blocks[at + step] = x.y;
    hadamard_blocks[at + 2u * step] = x.z;
    hadamard_blocks[at + 3u * step] = x.w;
}

// The lowest two bits of the index within 16; the first only where it is not done yet.
fn hadamard_four(x: vec4<f32>, n_done: u32) -> vec4<f32> {
    var y = x;
    if n_done < 1u {
        y = vec4<f32>(y.x + y.y, y.x - y.y, y.z + y.w, y.z - y.w);
    }
    if n_done < 2u {
        y = vec4<f32>(y.xy + y.zw, y.xy - y.zw);
    }
    return y;
}

@compute @workgroup_size(WG_SIZE)
fn basis_hadamard_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let p = basis_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let unit = place.y + local;
    let n_bits = max(slot.bits, 4u);
    if unit >= slot.n_padded || p.pass_bit >= n_bits {
        return;
    }
    // The last pass has fewer bits to do: it takes some of those before with it, and leaves them as they are.
    let low = min(p.pass_bit, n_bits - 4u);
    let n_done = p.pass_bit - low;
    let step = 1u << low;
    let at = 16u * slot.padded + ((unit >> low) << (low + 4u)) + (unit & (step - 1u));
    var a = hadamard_four(hadamard_load(at, step), n_done);
    var b = hadamard_four(hadamard_load(at + 4u * step, step), n_done);
    var c = hadamard_four(hadamard_load(at + 8u * step, step), n_done);
    var d = hadamard_four(hadamard_load(at + 12u * step, step), n_done);
    if n_done < 3u {
        let ab = a - b;
        a += b;
        b = ab;
        let cd = c - d;
        c += d;
        d = cd;
    }
    hadamard_store(at, step, a + c);
    hadamard_store(at + 4u * step, step, b + d);
    hadamard_store(at + 8u * step, step, a - c);
    hadamard_store(at + 12u * step, step, b - d);
}

@group(0) @binding(2) var<storage, read> srht_blocks: array<vec4<f32>>;             // [n_padded, 4], transformed
@group(0) @binding(3) var<storage, read> srht_places: array<u32>;                   // [n_rows]
@group(0) @binding(4) var<storage, read_write> srht_out: array<f32>;                // [n_places, row_out]

fn srht_four(slot: Slot, e: u32, signs: u32, fixed_values: vec4<f32>) {
    let p = basis_params;
    let place = srht_places[p.row];
    let values = slot.scale * (flipped(srht_blocks[4u * slot.padded + e / 4u], signs, e % 16u) + fixed_values);
    for (var j = 0u; j < 4u; j++) {
        if e + j < slot.len && place < p.n_places {
            srht_out[place * p.row_out + slot.out + e + j] = values[j];
        }
    }
}

@compute @workgroup_size(WG_SIZE)
fn basis_srht_form_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let id = group_id(group, n_groups);
    if id >= basis_params.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let block = place.y + local;
    let e = 16u * block;
    if e >= slot.len {
        return;
    }
    let signs = sign_bits(slot, block, seed_key());
    let fixed_values = fixed_block(slot, block);
    srht_four(slot, e, signs, fixed_values.a);
    srht_four(slot, e + 4u, signs, fixed_values.b);
    srht_four(slot, e + 8u, signs, fixed_values.c);
    srht_four(slot, e + 12u, signs, fixed_values.d);
}

@group(0) @binding(2) var<storage, read> place_d_out: array<f32>;                   // [n_padded, 16], transformed
@group(0) @binding(3) var<storage, read_write> place_partials: array<f32>;          // [k] of each slot

@compute @workgroup_size(WG_SIZE)
fn basis_srht_project_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let id = group_id(group, n_groups);
    if id >= basis_params.n_groups {
        return;
    }
    let place = basis_groups[id];
    let slot = slot_at(place.x);
    let i = place.y + local;
    if i >= slot.k {
        return;
    }
    let at = shuffle_once(vec4<u32>(i), slot.bits, shuffle_keys(slot, 0u)).x;
    place_partials[slot.partials + i] = place_d_out[16u * slot.padded + at];
}
