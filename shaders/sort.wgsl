// Prefix sums, compaction and a stable radix sort, by reducing first and scanning after: no workgroup waits for another.
//
// Each comes in two forms that give the same results. In the lanes form a unit is one invocation, which walks its own
// stretch of the input and shares nothing: no barriers, for adapters that run on the CPU. In the groups form a unit is a
// workgroup of 256 with its tile.
const LANES_SIZE = 16u;
const GROUP_SIZE = SCAN_SIZE;

// ---- prefix sums: out_i = sum of x_j over j < i, or j <= i where INCLUSIVE ----
// Pass 1 sums each unit, the sums are scanned by this very code, pass 2 scans each unit from there on.
override INCLUSIVE: u32 = 0u;
override FLAGS: u32 = 0u;          // count the elements that are not 0 instead of adding them up

// `unit_vec4` is the length of a lane's stretch; a tile of the groups form has 4 * GROUP_SIZE vec4. Without other units
// there are no offsets.
struct ScanParams { n_vec4: u32, n_units: u32, unit_vec4: u32 }
@group(0) @binding(0) var<storage, read> scan_x: array<Elem4>;             // [n]
@group(0) @binding(1) var<storage, read_write> scan_sums: array<Elem>;     // [n_units]
var<immediate> scan_params: ScanParams;

fn scan_load(i: u32) -> Elem4 {
    let x = scan_x[i];
    if FLAGS == 1u {
        return select(Elem4(1), Elem4(0), x == Elem4(0));
    }
    return x;
}

// The sums of x.x, x.xy, x.xyz and x.
fn prefix4(x: Elem4) -> Elem4 {
    let low = x.x + x.y;
    let middle = low + x.z;
    return Elem4(x.x, low, middle, middle + x.w);
}

@compute @workgroup_size(LANES_SIZE)
fn scan_sums_lanes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let unit = thread_id(group, n_groups, local, LANES_SIZE);
    if unit >= scan_params.n_units {
        return;
    }
    let start = unit * scan_params.unit_vec4;
    let end = min(start + scan_params.unit_vec4, scan_params.n_vec4);
    var sum = Elem(0);
    for (var i = start; i < end; i++) {
        sum += prefix4(scan_load(i)).w;
    }
    scan_sums[unit] = sum;
}

@group(0) @binding(1) var<storage, read> scan_offsets: array<Elem>;        // [n_units]
@group(0) @binding(2) var<storage, read_write> scan_out: array<Elem4>;     // [n]

fn scan_offset(unit: u32) -> Elem {
    if scan_params.n_units > 1u {
        return scan_offsets[unit];
    }
    return Elem(0);
}

// What pass 2 writes for x, whose prefixes are given, behind elements that add up to `before`.
fn scan_store(i: u32, prefix: Elem4, before: Elem) {
    if INCLUSIVE == 1u {
        scan_out[i] = prefix + Elem4(before);
    } else {
        scan_out[i] = Elem4(Elem(0), prefix.xyz) + Elem4(before);
    }
}

@compute @workgroup_size(LANES_SIZE)
fn scan_lanes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let unit = thread_id(group, n_groups, local, LANES_SIZE);
    if unit >= scan_params.n_units {
        return;
    }
    let start = unit * scan_params.unit_vec4;
    let end = min(start + scan_params.unit_vec4, scan_params.n_vec4);
    var before = scan_offset(unit);
    for (var i = start; i < end; i++) {
        let prefix = prefix4(scan_load(i));
        scan_store(i, prefix, before);
        before += prefix.w;
    }
}

// Four rows of GROUP_SIZE sums at once, one row per component: inclusive over the invocations of the workgroup.
// Two halves take turns, so that one barrier per step is enough.
var<workgroup> sh_scan: array<Elem4, 2u * GROUP_SIZE>;

fn scan_rows(local: u32, sums: Elem4) -> Elem4 {
    var half = 0u;
    sh_scan[local] = sums;
    workgroupBarrier();
    for (var step = 1u; step < GROUP_SIZE; step *= 2u) {
        var sum = sh_scan[half + local];
        if local >= step {
            sum += sh_scan[half + local - step];
        }
        half = GROUP_SIZE - half;
        sh_scan[half + local] = sum;
        workgroupBarrier();
    }
    // Eight steps, so the sums are back in the first half.
    return sh_scan[local];
}

// The invocation's four vec4 of the tile lie GROUP_SIZE apart, so that neighbours read neighbours.
fn scan_tile(unit: u32, local: u32, row: u32) -> Elem4 {
    let i = (unit * 4u + row) * GROUP_SIZE + local;
    if i < scan_params.n_vec4 {
        return prefix4(scan_load(i));
    }
    return Elem4(0);
}

@compute @workgroup_size(GROUP_SIZE)
fn scan_sums_groups_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let unit = group_id(group, n_groups);
    if unit >= scan_params.n_units {
        return;
    }
    let sums = Elem4(scan_tile(unit, local, 0u).w, scan_tile(unit, local, 1u).w,
                     scan_tile(unit, local, 2u).w, scan_tile(unit, local, 3u).w);
    let rows = scan_rows(local, sums);
    if local == GROUP_SIZE - 1u {
        scan_sums[unit] = prefix4(rows).w;
    }
}

@compute @workgroup_size(GROUP_SIZE)
fn scan_groups_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let unit = group_id(group, n_groups);
    if unit >= scan_params.n_units {
        return;
    }
    let a = scan_tile(unit, local, 0u);
    let b = scan_tile(unit, local, 1u);
    let c = scan_tile(unit, local, 2u);
    let d = scan_tile(unit, local, 3u);
    _ = scan_rows(local, Elem4(a.w, b.w, c.w, d.w));
    // The rows in front, then the invocations in front: exclusive, without taking back what was added.
    let totals = prefix4(sh_scan[GROUP_SIZE - 1u]);
    var before = Elem4(0);
    if local > 0u {
        before = sh_scan[local - 1u];
    }
    before += Elem4(Elem(0), totals.xyz) + Elem4(scan_offset(unit));
    let i = unit * 4u * GROUP_SIZE + local;
    if i < scan_params.n_vec4 {
        scan_store(i, a, before.x);
    }
    if i + GROUP_SIZE < scan_params.n_vec4 {
        scan_store(i + GROUP_SIZE, b, before.y);
    }
    if i + 2u * GROUP_SIZE < scan_params.n_vec4 {
        scan_store(i + 2u * GROUP_SIZE, c, before.z);
    }
    if i + 3u * GROUP_SIZE < scan_params.n_vec4 {
        scan_store(i + 3u * GROUP_SIZE, d, before.w);
    }
}

// ---- compaction: the indices of the flagged elements in order, behind them those of the others in order ----
struct CompactParams { n: u32 }
@group(0) @binding(0) var<storage, read> compact_flags: array<u32>;            // [n]
@group(0) @binding(1) var<storage, read> compact_places: array<u32>;           // [n]: flagged elements in front
@group(0) @binding(2) var<storage, read_write> compact_indices: array<u32>;    // [n]
@group(0) @binding(3) var<storage, read_write> compact_count: array<u32>;      // [1]
var<immediate> compact_params: CompactParams;

@compute @workgroup_size(64)
fn compact_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, 64u);
    let n = compact_params.n;
    if i >= n {
        return;
    }
    let count = compact_places[n - 1u] + u32(compact_flags[n - 1u] != 0u);
    let place = compact_places[i];
    compact_indices[select(count + i - place, place, compact_flags[i] != 0u)] = i;
    if i == 0u {
        compact_count[0] = count;
    }
}

// ---- radix sort: one pass per digit, lowest first, each stable ----
// A pass counts the digits of each unit, scans the counts (digit by digit, unit by unit within a digit), and moves every
// pair to where the digits in front, the units in front and its elders in the unit put it.
//
// `encode`: 1 where the keys come as f32, 2 as i32, in their own bits; `decode`: the same for the keys that are written;
// both are 0 between passes. `flip` is all ones for descending order. `iota`: 1 where the values are the indices.
struct RadixParams {
    n: u32, n_units: u32, unit_vec4: u32, shift: u32, mask: u32,
    encode: u32, decode: u32, flip_in: u32, flip_out: u32, iota: u32,
}
@group(0) @binding(0) var<storage, read> radix_keys: array<vec4<u32>>;         // [n]
@group(0) @binding(1) var<storage, read_write> radix_counts: array<u32>;       // [digits, n_units]
var<immediate> radix_params: RadixParams;

fn radix_load(i: u32) -> vec4<u32> {
    var keys = radix_keys[i];
    if radix_params.encode == 1u {
        keys = order_of_f32(keys);
    } else if radix_params.encode == 2u {
        keys ^= vec4<u32>(0x80000000u);
    }
    return keys ^ vec4<u32>(radix_params.flip_in);
}

fn radix_digits(keys: vec4<u32>) -> vec4<u32> {
    return (keys >> vec4<u32>(radix_params.shift)) & vec4<u32>(radix_params.mask);
}

fn radix_decoded(key: u32) -> u32 {
    let ordered = key ^ radix_params.flip_out;
    if radix_params.decode == 1u {
        return f32_of_order(ordered);
    }
    return select(ordered, ordered ^ 0x80000000u, radix_params.decode == 2u);
}

// Each lane counts in a column of its own. An array of its own would be faster, but it starts as zeros, and Mesa's software
// adapter takes a second to compile those of 256 words.
var<workgroup> sh_lanes: array<u32, 256u * LANES_SIZE>;

@compute @workgroup_size(LANES_SIZE)
fn radix_count_lanes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = radix_params;
    let unit = thread_id(group, n_groups, local, LANES_SIZE);
    if unit >= p.n_units {
        return;
    }
    for (var digit = 0u; digit <= p.mask; digit++) {
        sh_lanes[digit * LANES_SIZE + local] = 0u;
    }
    let start = unit * p.unit_vec4;
    let end = min(start + p.unit_vec4, p.n / 4u);
    for (var i = start; i < end; i++) {
        let digits = radix_digits(radix_load(i));
        sh_lanes[digits.x * LANES_SIZE + local] += 1u;
        sh_lanes[digits.y * LANES_SIZE + local] += 1u;
        sh_lanes[digits.z * LANES_SIZE + local] += 1u;
        sh_lanes[digits.w * LANES_SIZE + local] += 1u;
    }
    if unit == p.n_units - 1u && p.n % 4u != 0u {
        let digits = radix_digits(radix_load(p.n / 4u));
        for (var j = 0u; j < p.n % 4u; j++) {
            sh_lanes[digits[j] * LANES_SIZE + local] += 1u;
        }
    }
    for (var digit = 0u; digit <= p.mask; digit++) {
        radix_counts[digit * p.n_units + unit] = sh_lanes[digit * LANES_SIZE + local];
    }
}

@group(0) @binding(1) var<storage, read> radix_values: array<vec4<u32>>;       // [n]
@group(0) @binding(2) var<storage, read> radix_places: array<u32>;             // [digits, n_units], scanned
@group(0) @binding(3) var<storage, read_write> radix_keys_out: array<u32>;     // [n]
@group(0) @binding(4) var<storage, read_write> radix_values_out: array<u32>;   // [n]

fn radix_values_at(i: u32) -> vec4<u32> {
    if radix_params.iota == 1u {
        return vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    }
    return radix_values[i];
}

fn radix_put(place: u32, key: u32, value: u32) {
    radix_keys_out[place] = radix_decoded(key);
    radix_values_out[place] = value;
}

fn next_place(digit: u32, local: u32) -> u32 {
    let place = sh_lanes[digit * LANES_SIZE + local];
    sh_lanes[digit * LANES_SIZE + local] = place + 1u;
    return place;
}

@compute @workgroup_size(LANES_SIZE)
fn radix_move_lanes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let p = radix_params;
    let unit = thread_id(group, n_groups, local, LANES_SIZE);
    if unit >= p.n_units {
        return;
    }
    for (var digit = 0u; digit <= p.mask; digit++) {
        sh_lanes[digit * LANES_SIZE + local] = radix_places[digit * p.n_units + unit];
    }
    let start = unit * p.unit_vec4;
    let end = min(start + p.unit_vec4, p.n / 4u);
    for (var i = start; i < end; i++) {
        let keys = radix_load(i);
        let values = radix_values_at(i);
        let digits = radix_digits(keys);
        radix_put(next_place(digits.x, local), keys.x, values.x);
        radix_put(next_place(digits.y, local), keys.y, values.y);
        radix_put(next_place(digits.z, local), keys.z, values.z);
        radix_put(next_place(digits.w, local), keys.w, values.w);
    }
    if unit == p.n_units - 1u && p.n % 4u != 0u {
        let keys = radix_load(p.n / 4u);
        let values = radix_values_at(p.n / 4u);
        let digits = radix_digits(keys);
        for (var j = 0u; j < p.n % 4u; j++) {
            radix_put(next_place(digits[j], local), keys[j], values[j]);
        }
    }
}

// Groups: digits of four bits, eight neighbouring keys to an invocation, tiles of 2,048. An invocation counts its keys
// in nibbles of two words, digits 0..7 and 8..15; for the scan over the workgroup, word j of eight holds digit j in its
// low half and digit j + 8 in its high half.
const TILE = 8u * GROUP_SIZE;
var<workgroup> sh_words: array<u32, TILE + TILE / 32u>;
var<workgroup> sh_base: array<u32, 16>;

// Eight words of one invocation, or one word of eight: both without bank conflicts.
fn padded(i: u32) -> u32 {
    return i + i / 32u;
}

// Counts a key's digit; answers with how many of the invocation's keys before it have the same.
fn count_digit(digit: u32, counts: ptr<function, vec2<u32>>) -> u32 {
    let shift = 4u * (digit & 7u);
    let is_high = digit >= 8u;
    let count = select((*counts).x, (*counts).y, is_high);
    *counts += select(vec2<u32>(1u << shift, 0u), vec2<u32>(0u, 1u << shift), is_high);
    return (count >> shift) & 15u;
}

fn count_digits(digits: vec4<u32>, counts: ptr<function, vec2<u32>>) -> vec4<u32> {
    let x = count_digit(digits.x, counts);
    let y = count_digit(digits.y, counts);
    let z = count_digit(digits.z, counts);
    let w = count_digit(digits.w, counts);
    return vec4<u32>(x, y, z, w);
}

// Writes the counts of an invocation's nibbles to sh_words [8, GROUP_SIZE].
fn spread_counts(local: u32, counts: vec2<u32>) {
    for (var j = 0u; j < 8u; j++) {
        let pair = (counts >> vec2<u32>(4u * j)) & vec2<u32>(15u);
        sh_words[padded(j * GROUP_SIZE + local)] = pair.x | (pair.y << 16u);
    }
}

fn sum_eight(local: u32) -> u32 {
    var sum = 0u;
    for (var j = 0u; j < 8u; j++) {
        sum += sh_words[padded(8u * local + j)];
    }
    return sum;
}

// The digits of tile elements i .. i + 3; behind the end, the last digit, so that they come behind all others.
fn tile_digits(keys: vec4<u32>, i: u32) -> vec4<u32> {
    let index = vec4<u32>(i) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<u32>(15u), radix_digits(keys), index < vec4<u32>(radix_params.n));
}

fn tile_keys(i: u32) -> vec4<u32> {
    if i < radix_params.n {
        return radix_load(i / 4u);
    }
    return vec4<u32>(0u);
}

@compute @workgroup_size(GROUP_SIZE)
fn radix_count_groups_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let p = radix_params;
    let unit = group_id(group, n_groups);
    if unit >= p.n_units {
        return;
    }
    let i = unit * TILE + 8u * local;
    var counts = vec2<u32>(0u);
    _ = count_digits(tile_digits(tile_keys(i), i), &counts);
    _ = count_digits(tile_digits(tile_keys(i + 4u), i + 4u), &counts);
    spread_counts(local, counts);
    workgroupBarrier();
    sh_sums[local] = sum_eight(local);
    workgroupBarrier();
    if local < 8u {
        var sum = 0u;
        for (var j = 0u; j < 32u; j++) {
            sum += sh_sums[32u * local + j];
        }
        // Elements behind the end were counted as the last digit of the last unit: the end of the table, in front of
        // which everything lies.
        radix_counts[local * p.n_units + unit] = sum & 0xffffu;
        radix_counts[(local + 8u) * p.n_units + unit] = sum >> 16u;
    }
}

@compute @workgroup_size(GROUP_SIZE)
fn radix_move_groups_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = radix_params;
    let unit = group_id(group, n_groups);
    if unit >= p.n_units {
        return;
    }
    let i = unit * TILE + 8u * local;
    let keys_a = tile_keys(i);
    let keys_b = tile_keys(i + 4u);
    let digits_a = tile_digits(keys_a, i);
    let digits_b = tile_digits(keys_b, i + 4u);
    var counts = vec2<u32>(0u);
    let own_a = count_digits(digits_a, &counts);
    let own_b = count_digits(digits_b, &counts);
    spread_counts(local, counts);
    workgroupBarrier();

    // Exclusive scan over all words of sh_words, eight neighbours to an invocation.
    let sum = sum_eight(local);
    var before = group_sums(local, sum) - sum;
    for (var j = 0u; j < 8u; j++) {
        let at = padded(8u * local + j);
        let word = sh_words[at];
        sh_words[at] = before;
        before += word;
    }
    let n_low = sh_sums[GROUP_SIZE - 1u] & 0xffffu;
    workgroupBarrier();

    // Where each key stands in the sorted tile.
    let ranks_a = own_a + vec4<u32>(elders(digits_a.x, local, n_low), elders(digits_a.y, local, n_low),
                                    elders(digits_a.z, local, n_low), elders(digits_a.w, local, n_low));
    let ranks_b = own_b + vec4<u32>(elders(digits_b.x, local, n_low), elders(digits_b.y, local, n_low),
                                    elders(digits_b.z, local, n_low), elders(digits_b.w, local, n_low));
    if local < 16u {
        sh_base[local] = radix_places[local * p.n_units + unit] - elders(local, 0u, n_low);
    }
    workgroupBarrier();

    // Sorted within the tile first, so that neighbours write neighbours.
    put_tile(ranks_a, keys_a);
    put_tile(ranks_b, keys_b);
    workgroupBarrier();
    let n_tile = min(p.n - unit * TILE, TILE);
    var places: array<u32, 8>;
    for (var j = 0u; j < 8u; j++) {
        let at = j * GROUP_SIZE + local;
        if at < n_tile {
            let key = sh_words[at];
            places[j] = sh_base[(key >> p.shift) & p.mask] + at;
            radix_keys_out[places[j]] = radix_decoded(key);
        }
    }
    workgroupBarrier();
    if i < p.n {
        put_tile(ranks_a, radix_values_at(i / 4u));
    }
    if i + 4u < p.n {
        put_tile(ranks_b, radix_values_at(i / 4u + 1u));
    }
    workgroupBarrier();
    for (var j = 0u; j < 8u; j++) {
        let at = j * GROUP_SIZE + local;
        if at < n_tile {
            radix_values_out[places[j]] = sh_words[at];
        }
    }
}

// Keys of the tile with a lower digit, or with this digit in the invocations before `local`.
fn elders(digit: u32, local: u32, n_low: u32) -> u32 {
    let word = sh_words[padded((digit & 7u) * GROUP_SIZE + local)];
    return select(word & 0xffffu, n_low + (word >> 16u), digit >= 8u);
}

fn put_tile(ranks: vec4<u32>, words: vec4<u32>) {
    sh_words[ranks.x] = words.x;
    sh_words[ranks.y] = words.y;
    sh_words[ranks.z] = words.z;
    sh_words[ranks.w] = words.w;
}
