// Nearest rows of a memory bank, found chunk by chunk: the products of the queries with a chunk are there; every lane keeps
// a sorted list of the best of its share, which it takes along from chunk to chunk, so that the products of all queries with
// the whole bank never exist. Then the lists of a query are merged, and the rows they name averaged.
const WG_SIZE = 64u;
const IOTA = vec4<u32>(0u, 1u, 2u, 3u);
const NO_ROW = 0xffffffffu;

// ---- search ----
// Lane l of a query's 2^lanes_log2 takes `rounds` vec4 of the chunk, `round_step` apart, from l * `lane_step` on.
struct SearchParams {
    n_queries: u32, n: u32, first: u32, has_tags: u32,                     // rows of the chunk, the first's number
    has_rows: u32, n_pool: u32,                                            // a row at n_pool or past it counts for nobody
    lanes_log2: u32, lane_step: u32, round_step: u32, rounds: u32, goes_on: u32,
}
@group(0) @binding(0) var<storage, read> search_x: array<vec4<f32>>;       // [n_queries, n], n a multiple of 4
@group(0) @binding(1) var<storage, read> search_tags: array<u32>;          // [n_queries], or anything
@group(0) @binding(2) var<storage, read> search_bank_tags: array<u32>;     // of the whole bank, or anything
@group(0) @binding(3) var<storage, read> search_rows: array<u32>;          // of the whole bank, or anything
@group(0) @binding(4) var<storage, read_write> search_keys: array<vec4<u32>>;   // [n_queries, lanes, TOP_NODES]
@group(0) @binding(5) var<storage, read_write> search_ids: array<vec4<u32>>;    // [n_queries, lanes, TOP_NODES]
var<immediate> search_params: SearchParams;

fn load_node(lane: u32, list: ptr<function, TopList>, node: u32) {
    if node < TOP_NODES {
        (*list).keys[node] = search_keys[lane * TOP_NODES + node];
        (*list).ids[node] = search_ids[lane * TOP_NODES + node];
    }
}

fn store_node(lane: u32, list: ptr<function, TopList>, node: u32) {
    if node < TOP_NODES {
        search_keys[lane * TOP_NODES + node] = (*list).keys[node];
        search_ids[lane * TOP_NODES + node] = (*list).ids[node];
    }
}

@compute @workgroup_size(WG_SIZE)
fn bank_search_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = search_params;
    let lane = thread_id(group, n_groups, local, WG_SIZE);
    let query = lane >> p.lanes_log2;
    if query >= p.n_queries {
        return;
    }
    var list = TopList();
    if p.goes_on == 1u {
        load_node(lane, &list, 0u);
        load_node(lane, &list, 1u);
        load_node(lane, &list, 2u);
        load_node(lane, &list, 3u);
        load_node(lane, &list, 4u);
        load_node(lane, &list, 5u);
        load_node(lane, &list, 6u);
        load_node(lane, &list, 7u);
    }
    var tag = NO_ROW;
    if p.has_tags == 1u {
        tag = search_tags[query];
    }
    let start = query * (p.n / 4u);
    var at = (lane - (query << p.lanes_log2)) * p.lane_step;
    let end = min(at + p.rounds * p.round_step, p.n / 4u);
    for (; at < end; at += p.round_step) {
        var keys = order_of_f32(bitcast<vec4<u32>>(search_x[start + at]));
        let ids = vec4<u32>(p.first + 4u * at) + IOTA;
        // Whose tag is all ones looks at every row.
        if tag != NO_ROW && max(max(keys.x, keys.y), max(keys.z, keys.w)) > top_worst(&list) {
            let tags = vec4<u32>(search_bank_tags[ids.x], search_bank_tags[ids.y], search_bank_tags[ids.z], search_bank_tags[ids.w]);
            keys = select(vec4<u32>(0u), keys, tags == vec4<u32>(tag));
        }
        if p.has_rows == 1u && max(max(keys.x, keys.y), max(keys.z, keys.w)) > top_worst(&list) {
            let rows = vec4<u32>(search_rows[ids.x], search_rows[ids.y], search_rows[ids.z], search_rows[ids.w]);
            keys = select(vec4<u32>(0u), keys, rows < vec4<u32>(p.n_pool));
        }
        top_offer4(&list, keys, ids, false);
    }
    store_node(lane, &list, 0u);
    store_node(lane, &list, 1u);
    store_node(lane, &list, 2u);
    store_node(lane, &list, 3u);
    store_node(lane, &list, 4u);
    store_node(lane, &list, 5u);
    store_node(lane, &list, 6u);
    store_node(lane, &list, 7u);
}

// ---- the lists of a query ----
struct JoinParams { n_queries: u32, n_lists: u32, k: u32 }
@group(0) @binding(0) var<storage, read> join_keys: array<vec4<u32>>;      // [n_queries, n_lists, TOP_NODES]
@group(0) @binding(1) var<storage, read> join_ids: array<vec4<u32>>;       // [n_queries, n_lists, TOP_NODES]
@group(0) @binding(2) var<storage, read_write> join_values: array<f32>;    // [n_queries, k]
@group(0) @binding(3) var<storage, read_write> join_rows: array<u32>;      // [n_queries, k]: NO_ROW where there are fewer
var<immediate> join_params: JoinParams;

@compute @workgroup_size(WG_SIZE)
fn bank_join_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = join_params;
    let query = thread_id(group, n_groups, local, WG_SIZE);
    if query >= p.n_queries {
        return;
    }
    var list = TopList();
    let n = p.n_lists * TOP_NODES;
    for (var i = 0u; i < n; i++) {
        top_offer4(&list, join_keys[query * n + i], join_ids[query * n + i], true);
    }
    for (var i = 0u; i < p.k; i++) {
        var keys = list.keys[0];
        var ids = list.ids[0];
        for (var node = 1u; node < TOP_NODES; node++) {
            keys = select(keys, list.keys[node], i / 4u == node);
            ids = select(ids, list.ids[node], i / 4u == node);
        }
        let key = keys[i % 4u];
        join_values[query * p.k + i] = select(f32_lowest(), bitcast<f32>(f32_of_order(key)), key != 0u);
        join_rows[query * p.k + i] = select(NO_ROW, ids[i % 4u], key != 0u);
    }
}

fn f32_lowest() -> f32 {
    return -3.4028234e38;
}

// ---- means ----
struct MeanParams { n: u32, k: u32, n_vec4: u32, n_rows: u32 }             // n: vec4 of all means
@group(0) @binding(0) var<storage, read> mean_bank: array<Elem4>;          // [n_rows, n_vec4]
@group(0) @binding(1) var<storage, read> mean_rows: array<u32>;            // [n_queries, k]
@group(0) @binding(2) var<storage, read_write> mean_out: array<vec4<f32>>; // [n_queries, n_vec4]: zeros where there is no row
var<immediate> mean_params: MeanParams;

@compute @workgroup_size(WG_SIZE)
fn bank_mean_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = mean_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let query = i / p.n_vec4;
    let column = i - query * p.n_vec4;
    var sum = vec4<f32>(0.0);
    var count = 0.0;
    for (var j = 0u; j < p.k; j++) {
        let row = mean_rows[query * p.k + j];
        if row < p.n_rows {
            sum += vec4<f32>(mean_bank[row * p.n_vec4 + column]);
            count += 1.0;
        }
    }
    mean_out[i] = sum / max(count, 1.0);
}
