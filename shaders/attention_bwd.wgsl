// Gradients of attention over packed sequences, scores computed again from the log-sum-exp that the forward pass kept:
//   p_ij = exp(s_ij - lse_i),  ds_ij = p_ij (d_out_i . v_j - D_i),  D_i = d_out_i . out_i
//   d_q_i = scale sum_j ds_ij k_j,  d_k_j = scale sum_i ds_ij q_i,  d_v_j = sum_i p_ij d_out_i
// One kernel walks over the keys of each query, one over the queries of each key, so that every sum is one invocation's,
// or one group's, in a fixed order. The rest is as in attention.wgsl.
@group(0) @binding(0) var<storage, read> attention_q: array<Elem>;          // [n_tokens, n_heads, n_dims], strided
@group(0) @binding(1) var<storage, read> attention_k: array<Elem>;          // [n_keys, n_heads / n_shared, n_dims], strided
@group(0) @binding(2) var<storage, read> attention_v: array<Elem>;          // like k
@group(0) @binding(3) var<storage, read> attention_d_out: array<Elem>;      // [n_tokens, n_heads, n_dims]
@group(0) @binding(4) var<storage, read> attention_stats: array<vec2<f32>>; // [n_tokens, n_heads]: lse log2(e), D
@group(0) @binding(5) var<storage, read> attention_starts_q: array<u32>;    // [n_sequences + 1]
@group(0) @binding(6) var<storage, read> attention_starts_k: array<u32>;    // [n_sequences + 1]
@group(0) @binding(7) var<storage, read_write> attention_d_q: array<Elem>;  // [n_tokens, n_heads, n_dims]
@group(0) @binding(7) var<storage, read_write> attention_d_kv: array<Elem>; // [n_keys, 2, n_heads / n_shared, n_dims]
var<immediate> attention_params: AttentionParams;

// For d_q a head is one of q; for d_k and d_v one of theirs, and the first of q that shares it.
fn part_of(group: u32, n_shared: u32) -> Part {
    let p = attention_params;
    let n_heads = p.n_heads / n_shared;
    let of_head = group / p.n_tiles;
    let sequence = of_head / n_heads;
    let head = (of_head - sequence * n_heads) * n_shared;
    let start_q = attention_starts_q[sequence];
    let start_k = attention_starts_k[sequence];
    return Part(group - of_head * p.n_tiles, head, head / p.n_shared,
                start_q, attention_starts_q[sequence + 1u] - start_q,
                start_k, attention_starts_k[sequence + 1u] - start_k);
}

// Number of keys that the query at place i of its sequence sees.
fn n_seen(i: u32, n_keys: u32) -> u32 {
    return select(n_keys, min(n_keys, i + 1u), attention_params.causal != 0u);
}

// The first query that sees the key at place j.
fn first_seeing(j: u32) -> u32 {
    return select(0u, j, attention_params.causal != 0u);
}

// ---- stats: one row of the output per invocation ----
struct StatsParams { n_rows: u32, n_dims: u32 }
@group(0) @binding(0) var<storage, read> stats_out: array<Elem>;                       // [n_rows, n_dims]
@group(0) @binding(1) var<storage, read> stats_d_out: array<Elem>;                     // [n_rows, n_dims]
@group(0) @binding(2) var<storage, read> stats_lse: array<f32>;                        // [n_rows]
@group(0) @binding(3) var<storage, read_write> stats_stats: array<vec2<f32>>;          // [n_rows]
var<immediate> stats_params: StatsParams;

@compute @workgroup_size(64)
fn attention_stats_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, 64u);
    let p = stats_params;
    if row >= p.n_rows {
        return;
    }
    var sum = 0.0;
    for (var i = row * p.n_dims; i < (row + 1u) * p.n_dims; i++) {
        sum += f32(stats_out[i]) * f32(stats_d_out[i]);
    }
    stats_stats[row] = vec2<f32>(stats_lse[row] / LN_2, sum);
}

// ---- plain: one query, or key, and up to 32 columns of its gradient per invocation, any width and strides ----
// Inner loops take 8 elements a turn, as software adapters limit the turns of all loops together.
const PLAIN_ROWS = 64u;
const PLAIN_COLS = 32u;

fn plain_score4(at_q: u32, at_k: u32) -> f32 {
    return f32(attention_q[at_q]) * f32(attention_k[at_k]) + f32(attention_q[at_q + 1u]) * f32(attention_k[at_k + 1u])
         + f32(attention_q[at_q + 2u]) * f32(attention_k[at_k + 2u]) + f32(attention_q[at_q + 3u]) * f32(attention_k[at_k + 3u]);
}

fn plain_flow4(at_o: u32, at_v: u32) -> f32 {
    return f32(attention_d_out[at_o]) * f32(attention_v[at_v]) + f32(attention_d_out[at_o + 1u]) * f32(attention_v[at_v + 1u])
         + f32(attention_d_out[at_o + 2u]) * f32(attention_v[at_v + 2u]) + f32(attention_d_out[at_o + 3u]) * f32(attention_v[at_v + 3u]);
}

// p_ij and ds_ij.
fn plain_weights(at_q: u32, at_k: u32, at_o: u32, at_v: u32, stats: vec2<f32>) -> vec2<f32> {
    let p = attention_params;
    let n_dims_8 = p.n_dims / 8u * 8u;
    var score = 0.0;
    var flow = 0.0;
    for (var d = 0u; d < n_dims_8; d += 8u) {
        score += plain_score4(at_q + d, at_k + d) + plain_score4(at_q + d + 4u, at_k + d + 4u);
        flow += plain_flow4(at_o + d, at_v + d) + plain_flow4(at_o + d + 4u, at_v + d + 4u);
    }
    for (var d = n_dims_8; d < p.n_dims; d++) {
        score += f32(attention_q[at_q + d]) * f32(attention_k[at_k + d]);
        flow += f32(attention_d_out[at_o + d]) * f32(attention_v[at_v + d]);
    }
    let w = exp2(score * p.scale - stats.x);
    return vec2<f32>(w, w * (flow - stats.y));
}

@compute @workgroup_size(PLAIN_ROWS)
fn attention_plain_bwd_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id, 1u);
    let n_chunks = (p.n_dims + PLAIN_COLS - 1u) / PLAIN_COLS;
    let first_col = part.tile % n_chunks * PLAIN_COLS;
    let i = part.tile / n_chunks * PLAIN_ROWS + local;
    if i >= part.n_queries {
        return;
    }
    let n_cols = min(PLAIN_COLS, p.n_dims - first_col);
    let last = n_cols - 1u;   // what lies past it is summed over and over, and not stored
    let row = (part.start_q + i) * p.n_heads + part.head;
    let at_q = p.base_q + (part.start_q + i) * p.token_q + part.head * p.head_q;
    let stats = attention_stats[row];
    var acc: array<f32, PLAIN_COLS>;
    let n_keys = n_seen(i, part.n_keys);
    for (var j = 0u; j < n_keys; j++) {
        let at_k = p.base_k + (part.start_k + j) * p.token_k + part.head_kv * p.head_k;
        let at_v = p.base_v + (part.start_k + j) * p.token_v + part.head_kv * p.head_v;
        let ds = plain_weights(at_q, at_k, row * p.n_dims, at_v, stats).y;
        for (var c = 0u; c < n_cols; c += 4u) {
            acc[c] += ds * f32(attention_k[at_k + first_col + c]);
            acc[c + 1u] += ds * f32(attention_k[at_k + first_col + min(c + 1u, last)]);
            acc[c + 2u] += ds * f32(attention_k[at_k + first_col + min(c + 2u, last)]);
            acc[c + 3u] += ds * f32(attention_k[at_k + first_col + min(c + 3u, last)]);
        }
    }
    for (var c = 0u; c < n_cols; c++) {
        attention_d_q[row * p.n_dims + first_col + c] = Elem(acc[c] * p.scale * LN_2);
    }
}

@compute @workgroup_size(PLAIN_ROWS)
fn attention_plain_bwd_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id, p.n_shared);
    let n_chunks = (p.n_dims + PLAIN_COLS - 1u) / PLAIN_COLS;
    let first_col = part.tile % n_chunks * PLAIN_COLS;
    let j = part.tile / n_chunks * PLAIN_ROWS + local;
    if j >= part.n_keys {
        return;
    }
    let n_cols = min(PLAIN_COLS, p.n_dims - first_col);
    let last = n_cols - 1u;
    let at_k = p.base_k + (part.start_k + j) * p.token_k + part.head_kv * p.head_k;
    let at_v = p.base_v + (part.start_k + j) * p.token_v + part.head_kv * p.head_v;
    var acc_k: array<f32, PLAIN_COLS>;
    var acc_v: array<f32, PLAIN_COLS>;
    for (var head = part.head; head < part.head + p.n_shared; head++) {
        for (var i = first_seeing(j); i < part.n_queries; i++) {
            let row = (part.start_q + i) * p.n_heads + head;
            let at_q = p.base_q + (part.start_q + i) * p.token_q + head * p.head_q;
            let at_o = row * p.n_dims;
            let w = plain_weights(at_q, at_k, at_o, at_v, attention_stats[row]);
            for (var c = 0u; c < n_cols; c += 4u) {
                let col = first_col + min(vec4<u32>(c) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
                acc_k[c] += w.y * f32(attention_q[at_q + col.x]);
                acc_k[c + 1u] += w.y * f32(attention_q[at_q + col.y]);
                acc_k[c + 2u] += w.y * f32(attention_q[at_q + col.z]);
                acc_k[c + 3u] += w.y * f32(attention_q[at_q + col.w]);
                acc_v[c] += w.x * f32(attention_d_out[at_o + col.x]);
                acc_v[c + 1u] += w.x * f32(attention_d_out[at_o + col.y]);
                acc_v[c + 2u] += w.x * f32(attention_d_out[at_o + col.z]);
                acc_v[c + 3u] += w.x * f32(attention_d_out[at_o + col.w]);
            }
        }
    }
    let n_kv_heads = p.n_heads / p.n_shared;
    let out_k = (2u * (part.start_k + j) * n_kv_heads + part.head_kv) * p.n_dims + first_col;
    for (var c = 0u; c < n_cols; c++) {
        attention_d_kv[out_k + c] = Elem(acc_k[c] * p.scale * LN_2);
        attention_d_kv[out_k + n_kv_heads * p.n_dims + c] = Elem(acc_v[c]);
    }
}

// ---- lanes: two queries, or keys, per invocation, their operands and gradients held in registers ----
// A subgroup of 8 holds 16 rows, lane l those at l and l + 8 of the tile, and walks over the rows of the other side: each
// lane loads one vec4 in 8 of such a row, which is then broadcast to all. For d_q the rows a and b held are q and d_out, the
// rows x and y walked over k and v; for d_k and d_v it is the other way round. Then, with the lse and D of the query,
//   p = exp2(a . x - lse),  ds = p (b . y - D),  sum_x += ds x,  sum_y += p y.
// Arrays are only indexed by constants, or they would leave the registers: see attention.wgsl.
override BLOCKS: u32 = 2u;   // a head's width in blocks of 8 vec4, rounded up, at most MAX_BLOCKS
const MAX_BLOCKS = 4u;
const LANES = 8u;
const PAIR_ROWS = 16u;
alias Pair = vec2<f32>;      // a number for each of both rows
alias Rows2 = mat2x4<f32>;   // a vec4 for each of both rows
alias Held = array<Rows2, 8u * MAX_BLOCKS>;
alias Share = array<vec4<f32>, MAX_BLOCKS>;   // what one lane has of a row walked over

@group(0) @binding(0) var<storage, read> attention_q4: array<Elem4>;
@group(0) @binding(1) var<storage, read> attention_k4: array<Elem4>;
@group(0) @binding(2) var<storage, read> attention_v4: array<Elem4>;
@group(0) @binding(3) var<storage, read> attention_d_out4: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> attention_d_q4: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> attention_d_kv4: array<Elem4>;
var<private> held_a: Held;
var<private> held_b: Held;
var<private> sum_x: Held;
var<private> sum_y: Held;

fn shift8(x: ptr<private, Held>, at: u32) {
    (*x)[at] = (*x)[at + 1u];
    (*x)[at + 1u] = (*x)[at + 2u];
    (*x)[at + 2u] = (*x)[at + 3u];
    (*x)[at + 3u] = (*x)[at + 4u];
    (*x)[at + 4u] = (*x)[at + 5u];
    (*x)[at + 5u] = (*x)[at + 6u];
    (*x)[at + 6u] = (*x)[at + 7u];
    if at + 8u < 8u * BLOCKS {
        (*x)[at + 7u] = (*x)[at + 8u];
    }
}

// All that is held one place down.
fn shift(x: ptr<private, Held>) {
    shift8(x, 0u);
    if BLOCKS > 1u {
        shift8(x, 8u);
    }
    if BLOCKS > 2u {
        shift8(x, 16u);
    }
    if BLOCKS > 3u {
        shift8(x, 24u);
    }
}

fn dot8(held: ptr<private, Held>, at: u32, x: vec4<f32>) -> Pair {
    return subgroupBroadcast(x, 0u) * (*held)[at] + subgroupBroadcast(x, 1u) * (*held)[at + 1u]
         + subgroupBroadcast(x, 2u) * (*held)[at + 2u] + subgroupBroadcast(x, 3u) * (*held)[at + 3u]
         + subgroupBroadcast(x, 4u) * (*held)[at + 4u] + subgroupBroadcast(x, 5u) * (*held)[at + 5u]
         + subgroupBroadcast(x, 6u) * (*held)[at + 6u] + subgroupBroadcast(x, 7u) * (*held)[at + 7u];
}

// The dot products of both rows held with one walked over.
fn dots(held: ptr<private, Held>, x: Share) -> Pair {
    var sum = dot8(held, 0u, x[0]);
    if BLOCKS > 1u {
        sum += dot8(held, 8u, x[1]);
    }
    if BLOCKS > 2u {
        sum += dot8(held, 16u, x[2]);
    }
    if BLOCKS > 3u {
        sum += dot8(held, 24u, x[3]);
    }
    return sum;
}

fn add1(sum: ptr<private, Held>, at: u32, x: vec4<f32>, w: Pair, y: vec4<f32>, w_y: Pair) {
    (*sum)[at] = Rows2((*sum)[at][0] + x * w.x + y * w_y.x, (*sum)[at][1] + x * w.y + y * w_y.y);
}

fn add8(sum: ptr<private, Held>, at: u32, x: vec4<f32>, w: Pair, y: vec4<f32>, w_y: Pair) {
    add1(sum, at + 0u, subgroupBroadcast(x, 0u), w, subgroupBroadcast(y, 0u), w_y);
    add1(sum, at + 1u, subgroupBroadcast(x, 1u), w, subgroupBroadcast(y, 1u), w_y);
    add1(sum, at + 2u, subgroupBroadcast(x, 2u), w, subgroupBroadcast(y, 2u), w_y);
    add1(sum, at + 3u, subgroupBroadcast(x, 3u), w, subgroupBroadcast(y, 3u), w_y);
    add1(sum, at + 4u, subgroupBroadcast(x, 4u), w, subgroupBroadcast(y, 4u), w_y);
    add1(sum, at + 5u, subgroupBroadcast(x, 5u), w, subgroupBroadcast(y, 5u), w_y);
    add1(sum, at + 6u, subgroupBroadcast(x, 6u), w, subgroupBroadcast(y, 6u), w_y);
    add1(sum, at + 7u, subgroupBroadcast(x, 7u), w, subgroupBroadcast(y, 7u), w_y);
}

// Adds two rows walked over, each weighted for both rows held.
fn add(sum: ptr<private, Held>, x: Share, w: Pair, y: Share, w_y: Pair) {
    add8(sum, 0u, x[0], w, y[0], w_y);
    if BLOCKS > 1u {
        add8(sum, 8u, x[1], w, y[1], w_y);
    }
    if BLOCKS > 2u {
        add8(sum, 16u, x[2], w, y[2], w_y);
    }
    if BLOCKS > 3u {
        add8(sum, 24u, x[3], w, y[3], w_y);
    }
}

// Both weights of the rows held, 0 where they do not see each other.
struct Weights { p: Pair, ds: Pair }

fn weights(x: Share, y: Share, lse: Pair, d: Pair, seen: vec2<bool>) -> Weights {
    let p = select(Pair(0.0), exp2(dots(&held_a, x) - lse), seen);
    let ds = select(Pair(0.0), p * (dots(&held_b, y) - d), seen);
    return Weights(p, ds);
}

// Columns past the last read the last: what is held is 0 there, and the gradients are not stored.
fn columns(lane: u32) -> vec4<u32> {
    return min(lane + vec4<u32>(0u, 8u, 16u, 24u), vec4<u32>((attention_params.n_dims >> 2u) - 1u));
}

fn share_q(at: u32, col: vec4<u32>) -> Share {
    var x: Share;
    x[0] = vec4<f32>(attention_q4[at + col.x]);
    if BLOCKS > 1u {
        x[1] = vec4<f32>(attention_q4[at + col.y]);
    }
    if BLOCKS > 2u {
        x[2] = vec4<f32>(attention_q4[at + col.z]);
    }
    if BLOCKS > 3u {
        x[3] = vec4<f32>(attention_q4[at + col.w]);
    }
    return x;
}

fn share_k(at: u32, col: vec4<u32>) -> Share {
    var x: Share;
    x[0] = vec4<f32>(attention_k4[at + col.x]);
    if BLOCKS > 1u {
        x[1] = vec4<f32>(attention_k4[at + col.y]);
    }
    if BLOCKS > 2u {
        x[2] = vec4<f32>(attention_k4[at + col.z]);
    }
    if BLOCKS > 3u {
        x[3] = vec4<f32>(attention_k4[at + col.w]);
    }
    return x;
}

fn share_v(at: u32, col: vec4<u32>) -> Share {
    var x: Share;
    x[0] = vec4<f32>(attention_v4[at + col.x]);
    if BLOCKS > 1u {
        x[1] = vec4<f32>(attention_v4[at + col.y]);
    }
    if BLOCKS > 2u {
        x[2] = vec4<f32>(attention_v4[at + col.z]);
    }
    if BLOCKS > 3u {
        x[3] = vec4<f32>(attention_v4[at + col.w]);
    }
    return x;
}

fn share_d_out(at: u32, col: vec4<u32>) -> Share {
    var x: Share;
    x[0] = vec4<f32>(attention_d_out4[at + col.x]);
    if BLOCKS > 1u {
        x[1] = vec4<f32>(attention_d_out4[at + col.y]);
    }
    if BLOCKS > 2u {
        x[2] = vec4<f32>(attention_d_out4[at + col.z]);
    }
    if BLOCKS > 3u {
        x[3] = vec4<f32>(attention_d_out4[at + col.w]);
    }
    return x;
}

// Puts a vec4 of both rows, and of both their operands, in the last place; 0 past the last column.
fn hold(a: Rows2, b: Rows2, scale: f32, inside: bool) {
    shift(&held_a);
    shift(&held_b);
    held_a[8u * BLOCKS - 1u] = a * select(0.0, scale, inside);
    held_b[8u * BLOCKS - 1u] = b * select(0.0, 1.0, inside);
}

@compute @workgroup_size(LANES)
fn attention_lanes_bwd_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(subgroup_invocation_id) lane: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id, 1u);
    if part.tile * PAIR_ROWS >= part.n_queries {
        return;
    }
    let n_cols = p.n_dims >> 2u;
    let n_turns = ((n_cols + 7u) >> 3u) << 3u;   // that this is 8 x BLOCKS must not show: the compiler would unroll
    let i = part.tile * PAIR_ROWS + vec2<u32>(lane, lane + LANES);
    // Rows past the last are copies of it, and not stored.
    let token = part.start_q + min(i, vec2<u32>(part.n_queries - 1u));
    let row = token * p.n_heads + part.head;
    let at_q = (p.base_q + token * p.token_q + part.head * p.head_q) >> vec2<u32>(2u);
    for (var d = 0u; d < n_turns; d++) {
        let col = min(d, n_cols - 1u);
        let at_o = row * n_cols + col;
        hold(Rows2(vec4<f32>(attention_q4[at_q.x + col]), vec4<f32>(attention_q4[at_q.y + col])),
             Rows2(vec4<f32>(attention_d_out4[at_o.x]), vec4<f32>(attention_d_out4[at_o.y])), p.scale, d < n_cols);
    }
    let stats_x = attention_stats[row.x];
    let stats_y = attention_stats[row.y];
    let lse = Pair(stats_x.x, stats_y.x);
    let flow = Pair(stats_x.y, stats_y.y);
    let seen = vec2<u32>(n_seen(i.x, part.n_keys), n_seen(i.y, part.n_keys));
    let col = columns(lane);
    let at_k = (p.base_k + part.start_k * p.token_k + part.head_kv * p.head_k) >> 2u;
    let at_v = (p.base_v + part.start_k * p.token_v + part.head_kv * p.head_v) >> 2u;
    let n_keys = n_seen(part.tile * PAIR_ROWS + PAIR_ROWS - 1u, part.n_keys);
    for (var j = 0u; j < n_keys; j += 2u) {
        let next = min(j + 1u, part.n_keys - 1u);
        let k_a = share_k(at_k + j * (p.token_k >> 2u), col);
        let k_b = share_k(at_k + next * (p.token_k >> 2u), col);
        let v_a = share_v(at_v + j * (p.token_v >> 2u), col);
        let v_b = share_v(at_v + next * (p.token_v >> 2u), col);
        let w_a = weights(k_a, v_a, lse, flow, vec2<u32>(j) < seen);
        let w_b = weights(k_b, v_b, lse, flow, vec2<u32>(j + 1u) < seen);
        add(&sum_x, k_a, w_a.ds, k_b, w_b.ds);
    }
    for (var d = 0u; d < n_cols; d++) {
        if i.x < part.n_queries {
            attention_d_q4[row.x * n_cols + d] = Elem4(sum_x[0][0] * (p.scale * LN_2));
        }
        if i.y < part.n_queries {
            attention_d_q4[row.y * n_cols + d] = Elem4(sum_x[0][1] * (p.scale * LN_2));
        }
        shift(&sum_x);
    }
}

@compute @workgroup_size(LANES)
fn attention_lanes_bwd_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                          @builtin(subgroup_invocation_id) lane: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id, p.n_shared);
    if part.tile * PAIR_ROWS >= part.n_keys {
        return;
    }
    let n_cols = p.n_dims >> 2u;
    let n_turns = ((n_cols + 7u) >> 3u) << 3u;
    let j = part.tile * PAIR_ROWS + vec2<u32>(lane, lane + LANES);
    let token = part.start_k + min(j, vec2<u32>(part.n_keys - 1u));
    let at_k = (p.base_k + token * p.token_k + part.head_kv * p.head_k) >> vec2<u32>(2u);
    let at_v = (p.base_v + token * p.token_v + part.head_kv * p.head_v) >> vec2<u32>(2u);
    for (var d = 0u; d < n_turns; d++) {
        let col = min(d, n_cols - 1u);
        hold(Rows2(vec4<f32>(attention_k4[at_k.x + col]), vec4<f32>(attention_k4[at_k.y + col])),
             Rows2(vec4<f32>(attention_v4[at_v.x + col]), vec4<f32>(attention_v4[at_v.y + col])), p.scale, d < n_cols);
    }
    let col = columns(lane);
    let first = vec2<u32>(first_seeing(j.x), first_seeing(j.y));
    for (var head = part.head; head < part.head + p.n_shared; head++) {
        let at_q = (p.base_q + part.start_q * p.token_q + head * p.head_q) >> 2u;
        let row = part.start_q * p.n_heads + head;
        for (var i = first_seeing(part.tile * PAIR_ROWS); i < part.n_queries; i += 2u) {
            let next = min(i + 1u, part.n_queries - 1u);
            let row_a = row + i * p.n_heads;
            let row_b = row + next * p.n_heads;
            let stats_a = attention_stats[row_a];
            let stats_b = attention_stats[row_b];
            let q_a = share_q(at_q + i * (p.token_q >> 2u), col);
            let q_b = share_q(at_q + next * (p.token_q >> 2u), col);
            let o_a = share_d_out(row_a * n_cols, col);
            let o_b = share_d_out(row_b * n_cols, col);
            let seen_b = (vec2<u32>(i + 1u) >= first) & vec2<bool>(i + 1u < part.n_queries);
            let w_a = weights(q_a, o_a, Pair(stats_a.x), Pair(stats_a.y), vec2<u32>(i) >= first);
            let w_b = weights(q_b, o_b, Pair(stats_b.x), Pair(stats_b.y), seen_b);
            add(&sum_x, q_a, w_a.ds, q_b, w_b.ds);
            add(&sum_y, o_a, w_a.p, o_b, w_b.p);
        }
    }
    let n_kv_heads = p.n_heads / p.n_shared;
    let out_k = (2u * token * n_kv_heads + part.head_kv) * n_cols;
    let out_v = out_k + n_kv_heads * n_cols;
    for (var d = 0u; d < n_cols; d++) {
        if j.x < part.n_keys {
            attention_d_kv4[out_k.x + d] = Elem4(sum_x[0][0] * (p.scale * LN_2));
            attention_d_kv4[out_v.x + d] = Elem4(sum_y[0][0]);
        }
        if j.y < part.n_keys {
            attention_d_kv4[out_k.y + d] = Elem4(sum_x[0][1] * (p.scale * LN_2));
            attention_d_kv4[out_v.y + d] = Elem4(sum_y[0][1]);
        }
        shift(&sum_x);
        shift(&sum_y);
    }
}
