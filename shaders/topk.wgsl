// The k best elements of each row, best first: values as order-preserving keys, ties to the lowest index.
//
// Up to 32: every lane keeps a list in registers while it walks its share of a row; lists of one row are merged by the
// same means until one is left. Past 32: the k-th best key of each chunk of a row is found digit by digit, the elements
// that reach it are collected in order, and a stable sort by key and then by row puts them in order.
const LISTS_SIZE = 64u;
const LANES_SIZE = 16u;
const GROUP_SIZE = SCAN_SIZE;
const IOTA = vec4<u32>(0u, 1u, 2u, 3u);

// `flip` is all ones where the least are wanted.
fn keys_of(x: Elem4, flip: u32) -> vec4<u32> {
    return order_of_f32(bitcast<vec4<u32>>(vec4<f32>(x))) ^ vec4<u32>(flip);
}

// ---- lists ----
// Lane l of a row's 2^lanes_log2 takes `rounds` vec4, `round_step` apart, from l * `lane_step` on: neighbours side by side
// on GPUs, each lane its own run on a CPU. They are vec4 of the whole tensor, so that they are aligned; what is not of
// the row is masked out. `decode`: 1 where the lists are the result, so that values are wanted.
struct TopkParams {
    n: u32, n_rows: u32, lanes_log2: u32, lane_step: u32, round_step: u32, rounds: u32, flip: u32, decode: u32,
}
@group(0) @binding(0) var<storage, read> topk_x: array<Elem4>;                    // [n_rows, n]
@group(0) @binding(1) var<storage, read_write> topk_keys: array<vec4<u32>>;       // [n_rows, lanes, 4 TOP_NODES]
@group(0) @binding(2) var<storage, read_write> topk_ids: array<vec4<u32>>;        // [n_rows, lanes, 4 TOP_NODES]
var<immediate> topk_params: TopkParams;

fn store_node(lane: u32, list: ptr<function, TopList>, node: u32) {
    var keys = (*list).keys[node];
    if topk_params.decode == 1u {
        keys ^= vec4<u32>(topk_params.flip);
        keys = vec4<u32>(f32_of_order(keys.x), f32_of_order(keys.y), f32_of_order(keys.z), f32_of_order(keys.w));
    }
    topk_keys[lane * TOP_NODES + node] = keys;
    topk_ids[lane * TOP_NODES + node] = (*list).ids[node];
}

fn store_list(lane: u32, list: ptr<function, TopList>) {
    store_node(lane, list, 0u);
    if TOP_NODES > 1u { store_node(lane, list, 1u); }
    if TOP_NODES > 2u { store_node(lane, list, 2u); }
    if TOP_NODES > 3u { store_node(lane, list, 3u); }
    if TOP_NODES > 4u { store_node(lane, list, 4u); }
    if TOP_NODES > 5u { store_node(lane, list, 5u); }
    if TOP_NODES > 6u { store_node(lane, list, 6u); }
    if TOP_NODES > 7u { store_node(lane, list, 7u); }
}

@compute @workgroup_size(LISTS_SIZE)
fn topk_lists_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = topk_params;
    let lane = thread_id(group, n_groups, local, LISTS_SIZE);
    let row = lane >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    var list = TopList();
    let start = row * p.n;
    let first = start / 4u + (lane - (row << p.lanes_log2)) * p.lane_step;
    let end = min(first + p.rounds * p.round_step, (start + p.n + 3u) / 4u);
    for (var i = first; i < end; i += p.round_step) {
        let ids = vec4<u32>(4u * i - start) + IOTA;
        let keys = select(vec4<u32>(0u), keys_of(topk_x[i], p.flip), ids < vec4<u32>(p.n));
        top_offer4(&list, keys, ids, false);
    }
    store_list(lane, &list);
}

@group(0) @binding(0) var<storage, read> merge_keys: array<vec4<u32>>;            // [n_rows, n]
@group(0) @binding(3) var<storage, read> merge_ids: array<vec4<u32>>;             // [n_rows, n]

@compute @workgroup_size(LISTS_SIZE)
fn topk_merge_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = topk_params;
    let lane = thread_id(group, n_groups, local, LISTS_SIZE);
    let row = lane >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    var list = TopList();
    let start = row * (p.n / 4u);
    let first = start + (lane - (row << p.lanes_log2)) * p.lane_step;
    let end = min(first + p.rounds * p.round_step, start + p.n / 4u);
    for (var i = first; i < end; i += p.round_step) {
        top_offer4(&list, merge_keys[i], merge_ids[i], true);
    }
    store_list(lane, &list);
}

// ---- selection ----
// A chunk is a run of `chunk_vec4` vec4 of a row, 2^chunks_log2 to a row, and fills 2^slots_log2 places: first what lies
// above its k-th best key, then as many as are wanted of those equal to it, each in order; then no element.
struct SelectParams { n: u32, n_rows: u32, k: u32, chunks_log2: u32, chunk_vec4: u32, slots_log2: u32, flip: u32 }
@group(0) @binding(1) var<storage, read_write> select_keys: array<u32>;           // [n_rows, chunks, slots]
@group(0) @binding(2) var<storage, read_write> select_ids: array<u32>;            // [n_rows, chunks, slots]
var<immediate> select_params: SelectParams;

struct Chunk { row_start: u32, start: u32, end: u32 }

fn chunk_of(unit: u32) -> Chunk {
    let p = select_params;
    let row = unit >> p.chunks_log2;
    let row_start = row * p.n;
    let start = row_start / 4u + (unit - (row << p.chunks_log2)) * p.chunk_vec4;
    return Chunk(row_start, start, min(start + p.chunk_vec4, (row_start + p.n + 3u) / 4u));
}

fn chunk_keys(i: u32, row_start: u32) -> vec4<u32> {
    let ids = vec4<u32>(4u * i - row_start) + IOTA;
    return select(vec4<u32>(0u), keys_of(topk_x[i], select_params.flip), ids < vec4<u32>(select_params.n));
}

fn select_put(place: u32, key: u32, id: u32) {
    select_keys[place] = key;
    select_ids[place] = id;
}

// A column of counts per lane.
var<workgroup> sh_lanes: array<u32, 256u * LANES_SIZE>;

@compute @workgroup_size(LANES_SIZE)
fn select_lanes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = select_params;
    let unit = thread_id(group, n_groups, local, LANES_SIZE);
    if (unit >> p.chunks_log2) >= p.n_rows {
        return;
    }
    let chunk = chunk_of(unit);
    // Digits of the k-th best key from the top; `above` elements are known to lie above it.
    var bound = 0u;
    var mask = 0u;
    var above = 0u;
    for (var shift = 32u; shift > 0u; ) {
        shift -= 8u;
        for (var digit = 0u; digit < 256u; digit++) {
            sh_lanes[digit * LANES_SIZE + local] = 0u;
        }
        for (var i = chunk.start; i < chunk.end; i++) {
            let keys = chunk_keys(i, chunk.row_start);
            let digits = (keys >> vec4<u32>(shift)) & vec4<u32>(255u);
            let fits = (keys & vec4<u32>(mask)) == vec4<u32>(bound);
            for (var j = 0u; j < 4u; j++) {
                if fits[j] {
                    sh_lanes[digits[j] * LANES_SIZE + local] += 1u;
                }
            }
        }
        var digit = 255u;
        while digit > 0u {
            let reached = above + sh_lanes[digit * LANES_SIZE + local];
            if reached >= p.k {
                break;
            }
            above = reached;
            digit--;
        }
        bound |= digit << shift;
        mask |= 255u << shift;
    }
    var place = unit << p.slots_log2;
    var tie = place + above;
    let end = place + p.k;
    for (var i = chunk.start; i < chunk.end; i++) {
        let keys = chunk_keys(i, chunk.row_start);
        for (var j = 0u; j < 4u; j++) {
            if keys[j] > bound {
                select_put(place, keys[j], 4u * i + j - chunk.row_start);
                place++;
            } else if keys[j] == bound && bound > 0u && tie < end {
                select_put(tie, bound, 4u * i + j - chunk.row_start);
                tie++;
            }
        }
    }
    let last = (unit + 1u) << p.slots_log2;
    for (; tie < last; tie++) {
        select_put(tie, 0u, 0u);
    }
}

var<workgroup> sh_counts: array<atomic<u32>, GROUP_SIZE>;
var<workgroup> sh_digit: vec2<u32>;

@compute @workgroup_size(GROUP_SIZE)
fn select_groups_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = select_params;
    let unit = group_id(group, n_groups);
    if (unit >> p.chunks_log2) >= p.n_rows {
        return;
    }
    let chunk = chunk_of(unit);
    var bound = 0u;
    var mask = 0u;
    var above = 0u;
    for (var shift = 32u; shift > 0u; ) {
        shift -= 8u;
        atomicStore(&sh_counts[local], 0u);
        workgroupBarrier();
        for (var i = chunk.start + local; i < chunk.end; i += GROUP_SIZE) {
            let keys = chunk_keys(i, chunk.row_start);
            let digits = (keys >> vec4<u32>(shift)) & vec4<u32>(255u);
            let fits = (keys & vec4<u32>(mask)) == vec4<u32>(bound);
            for (var j = 0u; j < 4u; j++) {
                if fits[j] {
                    atomicAdd(&sh_counts[digits[j]], 1u);
                }
            }
        }
        workgroupBarrier();
        // Digits from the top; the one that holds the k-th best is found by its own invocation.
        let digit = 255u - local;
        let own = atomicLoad(&sh_counts[digit]);
        let reached = above + group_sums(local, own);
        if reached - own < p.k && (reached >= p.k || digit == 0u) {
            sh_digit = vec2<u32>(digit, reached - own);
        }
        workgroupBarrier();
        bound |= sh_digit.x << shift;
        above = sh_digit.y;
        mask |= 255u << shift;
    }
    var place = unit << p.slots_log2;
    var tie = place + above;
    let end = place + p.k;
    for (var base = chunk.start; base < chunk.end; base += GROUP_SIZE) {
        let i = base + local;
        var keys = vec4<u32>(0u);
        if i < chunk.end {
            keys = chunk_keys(i, chunk.row_start);
        }
        let is_above = keys > vec4<u32>(bound);
        let is_tie = (keys == vec4<u32>(bound)) & (keys > vec4<u32>(0u));
        // Both counts in one word: of 1,024 elements each.
        let ones = select(vec4<u32>(0u), vec4<u32>(1u), is_above) + select(vec4<u32>(0u), vec4<u32>(1u << 16u), is_tie);
        let own = ones.x + ones.y + ones.z + ones.w;
        var before = group_sums(local, own) - own;
        for (var j = 0u; j < 4u; j++) {
            let id = 4u * i + j - chunk.row_start;
            if is_above[j] {
                select_put(place + (before & 0xffffu), keys[j], id);
            } else if is_tie[j] && tie + (before >> 16u) < end {
                select_put(tie + (before >> 16u), bound, id);
            }
            before += ones[j];
        }
        let total = sh_sums[GROUP_SIZE - 1u];
        place += total & 0xffffu;
        tie += total >> 16u;
        workgroupBarrier();
    }
    let last = (unit + 1u) << p.slots_log2;
    for (var at = min(tie, end) + local; at < last; at += GROUP_SIZE) {
        select_put(at, 0u, 0u);
    }
}

// The first k of each row's 2^row_log2 selected elements in the order found for them.
struct PickParams { n_out: u32, k: u32, row_log2: u32, flip: u32 }
@group(0) @binding(0) var<storage, read> pick_order: array<u32>;                  // [n_rows, 2^row_log2], into all
@group(0) @binding(1) var<storage, read> pick_keys: array<u32>;
@group(0) @binding(2) var<storage, read> pick_ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> pick_values_out: array<u32>;       // [n_rows, k], f32
@group(0) @binding(4) var<storage, read_write> pick_ids_out: array<u32>;          // [n_rows, k]
var<immediate> pick_params: PickParams;

@compute @workgroup_size(LISTS_SIZE)
fn topk_pick_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = pick_params;
    let i = thread_id(group, n_groups, local, LISTS_SIZE);
    if i >= p.n_out {
        return;
    }
    let row = i / p.k;
    let at = pick_order[(row << p.row_log2) + i - row * p.k];
    pick_values_out[i] = f32_of_order(pick_keys[at] ^ p.flip);
    pick_ids_out[i] = pick_ids[at];
}
