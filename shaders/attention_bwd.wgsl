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
    var acc = array<f32, PLAIN_COLS>();
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
    var acc_k = array<f32, PLAIN_COLS>();
    var acc_v = array<f32, PLAIN_COLS>();
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

// ---- lanes: three queries, or keys, per invocation, their operands and gradients held in registers ----
// A subgroup of 8 holds 24 rows, lane l those at l, l + 8 and l + 16 of the tile, and walks over the rows of the other side: each
// lane loads one vec4 in 8 of such a row, which is then broadcast to all. For d_q the rows a and b held are q and d_out, the
// rows x and y walked over k and v; for d_k and d_v it is the other way round. Then, with the lse and D of the query,
//   p = exp2(a . x - lse),  ds = p (b . y - D),  sum_x += ds x,  sum_y += p y.
// Arrays are only indexed by constants, or they would leave the registers: see attention.wgsl.
override BLOCKS: u32 = 2u;   // a head's width in blocks of 8 vec4, rounded up, at most MAX_BLOCKS
const MAX_BLOCKS = 4u;
const LANES = 8u;
const LANES_ROWS = 24u;
alias Triple = vec3<f32>;    // a number for each row held
alias Rows3 = mat3x4<f32>;   // a vec4 for each row held
alias Held = array<Rows3, 8u * MAX_BLOCKS>;
alias Share = array<vec4<f32>, MAX_BLOCKS>;   // what one lane has of a row walked over

@group(0) @binding(0) var<storage, read> attention_q4: array<Elem4>;
@group(0) @binding(1) var<storage, read> attention_k4: array<Elem4>;
@group(0) @binding(2) var<storage, read> attention_v4: array<Elem4>;
@group(0) @binding(3) var<storage, read> attention_d_out4: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> attention_d_q4: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> attention_d_kv4: array<Elem4>;
var<private> held_a: Held = Held();
var<private> held_b: Held = Held();
var<private> sum_x: Held = Held();
var<private> sum_y: Held = Held();

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

fn dot8(held: ptr<private, Held>, at: u32, x: vec4<f32>) -> Triple {
    return subgroupBroadcast(x, 0u) * (*held)[at] + subgroupBroadcast(x, 1u) * (*held)[at + 1u]
         + subgroupBroadcast(x, 2u) * (*held)[at + 2u] + subgroupBroadcast(x, 3u) * (*held)[at + 3u]
         + subgroupBroadcast(x, 4u) * (*held)[at + 4u] + subgroupBroadcast(x, 5u) * (*held)[at + 5u]
         + subgroupBroadcast(x, 6u) * (*held)[at + 6u] + subgroupBroadcast(x, 7u) * (*held)[at + 7u];
}

// The dot products of the rows held with one walked over.
fn dots(held: ptr<private, Held>, x: Share) -> Triple {
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

fn add1(sum: ptr<private, Held>, at: u32, x: vec4<f32>, w: Triple, y: vec4<f32>, w_y: Triple) {
    (*sum)[at] = Rows3((*sum)[at][0] + (x * w.x + y * w_y.x), (*sum)[at][1] + (x * w.y + y * w_y.y),
                       (*sum)[at][2] + (x * w.z + y * w_y.z));
}

fn add8(sum: ptr<private, Held>, at: u32, x: vec4<f32>, w: Triple, y: vec4<f32>, w_y: Triple) {
    add1(sum, at + 0u, subgroupBroadcast(x, 0u), w, subgroupBroadcast(y, 0u), w_y);
    add1(sum, at + 1u, subgroupBroadcast(x, 1u), w, subgroupBroadcast(y, 1u), w_y);
    add1(sum, at + 2u, subgroupBroadcast(x, 2u), w, subgroupBroadcast(y, 2u), w_y);
    add1(sum, at + 3u, subgroupBroadcast(x, 3u), w, subgroupBroadcast(y, 3u), w_y);
    add1(sum, at + 4u, subgroupBroadcast(x, 4u), w, subgroupBroadcast(y, 4u), w_y);
    add1(sum, at + 5u, subgroupBroadcast(x, 5u), w, subgroupBroadcast(y, 5u), w_y);
    add1(sum, at + 6u, subgroupBroadcast(x, 6u), w, subgroupBroadcast(y, 6u), w_y);
    add1(sum, at + 7u, subgroupBroadcast(x, 7u), w, subgroupBroadcast(y, 7u), w_y);
}

// Adds two rows walked over, each weighted for every row held.
fn add(sum: ptr<private, Held>, x: Share, w: Triple, y: Share, w_y: Triple) {
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

// Both weights of each row held, 0 where it and the one walked over do not see each other.
struct Weights { p: Triple, ds: Triple }

fn weights(x: Share, y: Share, lse: Triple, d: Triple, seen: vec3<bool>) -> Weights {
    let p = select(Triple(0.0), exp2(dots(&held_a, x) - lse), seen);
    let ds = select(Triple(0.0), p * (dots(&held_b, y) - d), seen);
    return Weights(p, ds);
}

// Columns past the last read the last: what is held is 0 there, and the gradients are not stored.
fn columns(lane: u32) -> vec4<u32> {
    return min(lane + vec4<u32>(0u, 8u, 16u, 24u), vec4<u32>((attention_params.n_dims >> 2u) - 1u));
}

fn share_q(at: u32, col: vec4<u32>) -> Share {
    var x = Share();
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
    var x = Share();
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
    var x = Share();
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
    var x = Share();
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

// Puts a vec4 of the rows, of both their operands, in the last place; 0 past the last column.
fn hold(a: Rows3, b: Rows3, scale: f32, inside: bool) {
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
    if part.tile * LANES_ROWS >= part.n_queries {
        return;
    }
    let n_cols = p.n_dims >> 2u;
    let n_turns = ((n_cols + 7u) >> 3u) << 3u;   // that this is 8 x BLOCKS must not show: the compiler would unroll
    let i = part.tile * LANES_ROWS + vec3<u32>(lane, lane + LANES, lane + 2u * LANES);
    // Rows past the last are copies of it, and not stored.
    let token = part.start_q + min(i, vec3<u32>(part.n_queries - 1u));
    let row = token * p.n_heads + part.head;
    let at_q = (p.base_q + token * p.token_q + part.head * p.head_q) >> vec3<u32>(2u);
    for (var d = 0u; d < n_turns; d++) {
        let col = min(d, n_cols - 1u);
        let at_o = row * n_cols + col;
        hold(Rows3(vec4<f32>(attention_q4[at_q.x + col]), vec4<f32>(attention_q4[at_q.y + col]),
                   vec4<f32>(attention_q4[at_q.z + col])),
             Rows3(vec4<f32>(attention_d_out4[at_o.x]), vec4<f32>(attention_d_out4[at_o.y]),
                   vec4<f32>(attention_d_out4[at_o.z])), p.scale, d < n_cols);
    }
    let stats_x = attention_stats[row.x];
    let stats_y = attention_stats[row.y];
    let stats_z = attention_stats[row.z];
    let lse = Triple(stats_x.x, stats_y.x, stats_z.x);
    let flow = Triple(stats_x.y, stats_y.y, stats_z.y);
    let seen = vec3<u32>(n_seen(i.x, part.n_keys), n_seen(i.y, part.n_keys), n_seen(i.z, part.n_keys));
    let col = columns(lane);
    let at_k = (p.base_k + part.start_k * p.token_k + part.head_kv * p.head_k) >> 2u;
    let at_v = (p.base_v + part.start_k * p.token_v + part.head_kv * p.head_v) >> 2u;
    let n_keys = n_seen(part.tile * LANES_ROWS + LANES_ROWS - 1u, part.n_keys);
    for (var j = 0u; j < n_keys; j += 2u) {
        let next = min(j + 1u, part.n_keys - 1u);
        let k_a = share_k(at_k + j * (p.token_k >> 2u), col);
        let k_b = share_k(at_k + next * (p.token_k >> 2u), col);
        let v_a = share_v(at_v + j * (p.token_v >> 2u), col);
        let v_b = share_v(at_v + next * (p.token_v >> 2u), col);
        let w_a = weights(k_a, v_a, lse, flow, vec3<u32>(j) < seen);
        let w_b = weights(k_b, v_b, lse, flow, vec3<u32>(j + 1u) < seen);
        add(&sum_x, k_a, w_a.ds, k_b, w_b.ds);
    }
    for (var d = 0u; d < n_cols; d++) {
        if i.x < part.n_queries {
            attention_d_q4[row.x * n_cols + d] = Elem4(sum_x[0][0] * (p.scale * LN_2));
        }
        if i.y < part.n_queries {
            attention_d_q4[row.y * n_cols + d] = Elem4(sum_x[0][1] * (p.scale * LN_2));
        }
        if i.z < part.n_queries {
            attention_d_q4[row.z * n_cols + d] = Elem4(sum_x[0][2] * (p.scale * LN_2));
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
    if part.tile * LANES_ROWS >= part.n_keys {
        return;
    }
    let n_cols = p.n_dims >> 2u;
    let n_turns = ((n_cols + 7u) >> 3u) << 3u;
    let j = part.tile * LANES_ROWS + vec3<u32>(lane, lane + LANES, lane + 2u * LANES);
    let token = part.start_k + min(j, vec3<u32>(part.n_keys - 1u));
    let at_k = (p.base_k + token * p.token_k + part.head_kv * p.head_k) >> vec3<u32>(2u);
    let at_v = (p.base_v + token * p.token_v + part.head_kv * p.head_v) >> vec3<u32>(2u);
    for (var d = 0u; d < n_turns; d++) {
        let col = min(d, n_cols - 1u);
        hold(Rows3(vec4<f32>(attention_k4[at_k.x + col]), vec4<f32>(attention_k4[at_k.y + col]),
                   vec4<f32>(attention_k4[at_k.z + col])),
             Rows3(vec4<f32>(attention_v4[at_v.x + col]), vec4<f32>(attention_v4[at_v.y + col]),
                   vec4<f32>(attention_v4[at_v.z + col])), p.scale, d < n_cols);
    }
    let col = columns(lane);
    let first = vec3<u32>(first_seeing(j.x), first_seeing(j.y), first_seeing(j.z));
    for (var head = part.head; head < part.head + p.n_shared; head++) {
        let at_q = (p.base_q + part.start_q * p.token_q + head * p.head_q) >> 2u;
        let row = part.start_q * p.n_heads + head;
        for (var i = first_seeing(part.tile * LANES_ROWS); i < part.n_queries; i += 2u) {
            let next = min(i + 1u, part.n_queries - 1u);
            let row_a = row + i * p.n_heads;
            let row_b = row + next * p.n_heads;
            let stats_a = attention_stats[row_a];
            let stats_b = attention_stats[row_b];
            let q_a = share_q(at_q + i * (p.token_q >> 2u), col);
            let q_b = share_q(at_q + next * (p.token_q >> 2u), col);
            let o_a = share_d_out(row_a * n_cols, col);
            let o_b = share_d_out(row_b * n_cols, col);
            let seen_b = (vec3<u32>(i + 1u) >= first) & vec3<bool>(i + 1u < part.n_queries);
            let w_a = weights(q_a, o_a, Triple(stats_a.x), Triple(stats_a.y), vec3<u32>(i) >= first);
            let w_b = weights(q_b, o_b, Triple(stats_b.x), Triple(stats_b.y), seen_b);
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
        if j.z < part.n_keys {
            attention_d_kv4[out_k.z + d] = Elem4(sum_x[0][2] * (p.scale * LN_2));
            attention_d_kv4[out_v.z + d] = Elem4(sum_y[0][2]);
        }
        shift(&sum_x);
        shift(&sum_y);
    }
}

// ---- tiled: 32 queries, or keys, per group of 64, through workgroup memory: GPUs ----
// Invocation (y, x) of 8 x 8 computes the weights of rows held y + 8 i and rows walked over x + 8 j, i, j < 4; then, of the
// rows held, the columns x + 8 c of the gradient, each a vec4. Operands come in blocks of 8 vec4, so that a head of any
// width fits; rows in workgroup memory are one longer, so that 8 of them lie in different banks.
const TILE_ROWS = 32u;
const TILE_SIDE = 8u;
const TILE_STRIDE = 9u;
const OF_Q = 0u;
const OF_K = 1u;
const OF_V = 2u;
const OF_D_OUT = 3u;
alias Rows4 = mat4x4<f32>;               // a vec4 for each of four rows held
alias Scores = array<vec4<f32>, 4>;      // of rows walked over, for each of four rows held
alias Sums = array<Rows4, MAX_BLOCKS>;   // columns x + 8 c of four rows held
var<workgroup> sh_held: array<Elem4, TILE_ROWS * TILE_STRIDE>;
var<workgroup> sh_walked: array<Elem4, TILE_ROWS * TILE_STRIDE>;
var<workgroup> sh_weight: array<vec4<f32>, TILE_ROWS * TILE_SIDE>;   // of row j walked over and rows held y + 8 i: at 8 j + y

// Rows of a sequence, from one of them on.
struct Rows { start: u32, first: u32, n: u32 }

// Rows past the last are copies of it.
fn token_of(rows: Rows, row: u32) -> u32 {
    return rows.start + min(rows.first + row, rows.n - 1u);
}

fn operand(which: u32, token: u32, head: u32, col: u32) -> Elem4 {
    let p = attention_params;
    let head_kv = head / p.n_shared;
    switch which {
        case OF_Q: { return attention_q4[(p.base_q + token * p.token_q + head * p.head_q) / 4u + col]; }
        case OF_K: { return attention_k4[(p.base_k + token * p.token_k + head_kv * p.head_k) / 4u + col]; }
        case OF_V: { return attention_v4[(p.base_v + token * p.token_v + head_kv * p.head_v) / 4u + col]; }
        default: { return attention_d_out4[(token * p.n_heads + head) * (p.n_dims / 4u) + col]; }
    }
}

// Dot products of the rows held and walked over; all of the group must call it.
fn tile_dots(of_held: u32, held: Rows, of_walked: u32, walked: Rows, head: u32, local: u32) -> Scores {
    let x = local % TILE_SIDE;
    let y = local / TILE_SIDE;
    let n_cols = attention_params.n_dims / 4u;
    var sum = Scores();
    for (var block = 0u; block < n_cols; block += TILE_SIDE) {
        let col = min(block + x, n_cols - 1u);
        workgroupBarrier();   // all are done with what was there
        for (var row = y; row < TILE_ROWS; row += TILE_SIDE) {
            let of_row = operand(of_walked, token_of(walked, row), head, col);
            sh_held[row * TILE_STRIDE + x] = operand(of_held, token_of(held, row), head, col);
            sh_walked[row * TILE_STRIDE + x] = select(Elem4(), of_row, block + x < n_cols);
        }
        workgroupBarrier();   // both blocks are there
        for (var d = 0u; d < TILE_SIDE; d++) {
            let at = y * TILE_STRIDE + d;
            let rows = Rows4(vec4<f32>(sh_held[at]), vec4<f32>(sh_held[at + 8u * TILE_STRIDE]),
                             vec4<f32>(sh_held[at + 16u * TILE_STRIDE]), vec4<f32>(sh_held[at + 24u * TILE_STRIDE]));
            sum[0] += vec4<f32>(sh_walked[x * TILE_STRIDE + d]) * rows;
            sum[1] += vec4<f32>(sh_walked[(x + 8u) * TILE_STRIDE + d]) * rows;
            sum[2] += vec4<f32>(sh_walked[(x + 16u) * TILE_STRIDE + d]) * rows;
            sum[3] += vec4<f32>(sh_walked[(x + 24u) * TILE_STRIDE + d]) * rows;
        }
    }
    return sum;
}

// Adds the rows walked over, with the weights in workgroup memory; all of the group must call it.
fn tile_add(sums: ptr<function, Sums>, which: u32, walked: Rows, head: u32, local: u32) {
    let x = local % TILE_SIDE;
    let y = local / TILE_SIDE;
    let n_cols = attention_params.n_dims / 4u;
    for (var c = 0u; c < BLOCKS; c++) {
        let col = min(c * TILE_SIDE + x, n_cols - 1u);
        workgroupBarrier();   // all are done with the rows, or the dot products
        for (var row = y; row < TILE_ROWS; row += TILE_SIDE) {
            sh_walked[row * TILE_STRIDE + x] = operand(which, token_of(walked, row), head, col);
        }
        workgroupBarrier();   // rows and weights are there
        var sum = (*sums)[c];
        for (var j = 0u; j < TILE_ROWS; j++) {
            let row = vec4<f32>(sh_walked[j * TILE_STRIDE + x]);
            let w = sh_weight[j * TILE_SIDE + y];
            sum += Rows4(row * w.x, row * w.y, row * w.z, row * w.w);
        }
        (*sums)[c] = sum;
    }
}

@compute @workgroup_size(64)
fn attention_tiled_bwd_q(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id, 1u);
    let held = Rows(part.start_q, part.tile * TILE_ROWS, part.n_queries);
    if held.first >= held.n {
        return;
    }
    let x = local % TILE_SIDE;
    let y = local / TILE_SIDE;
    let n_cols = p.n_dims / 4u;
    let i = held.first + y + vec4<u32>(0u, 8u, 16u, 24u);
    var lse: vec4<f32>;
    var flow: vec4<f32>;
    var seen: vec4<u32>;
    for (var r = 0u; r < 4u; r++) {
        let stats = attention_stats[token_of(held, y + 8u * r) * p.n_heads + part.head];
        lse[r] = stats.x;
        flow[r] = stats.y;
        seen[r] = n_seen(i[r], part.n_keys);
    }
    var sums = Sums();
    let n_keys = n_seen(held.first + TILE_ROWS - 1u, part.n_keys);
    for (var key = 0u; key < n_keys; key += TILE_ROWS) {
        let walked = Rows(part.start_k, key, part.n_keys);
        let scores = tile_dots(OF_Q, held, OF_K, walked, part.head, local);
        let flows = tile_dots(OF_D_OUT, held, OF_V, walked, part.head, local);
        for (var j = 0u; j < 4u; j++) {
            let visible = vec4<u32>(key + x + 8u * j) < seen;
            let ds = exp2(scores[j] * p.scale - lse) * (flows[j] - flow);
            sh_weight[(x + 8u * j) * TILE_SIDE + y] = select(vec4<f32>(0.0), ds, visible);
        }
        tile_add(&sums, OF_K, walked, part.head, local);
    }
    for (var r = 0u; r < 4u; r++) {
        for (var c = 0u; c < BLOCKS; c++) {
            let col = c * TILE_SIDE + x;
            if i[r] < part.n_queries && col < n_cols {
                let row = (part.start_q + i[r]) * p.n_heads + part.head;
                attention_d_q4[row * n_cols + col] = Elem4(sums[c][r] * (p.scale * LN_2));
            }
        }
    }
}

@compute @workgroup_size(64)
fn attention_tiled_bwd_kv(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                          @builtin(local_invocation_index) local: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id, p.n_shared);
    let held = Rows(part.start_k, part.tile * TILE_ROWS, part.n_keys);
    if held.first >= held.n {
        return;
    }
    let x = local % TILE_SIDE;
    let y = local / TILE_SIDE;
    let n_cols = p.n_dims / 4u;
    let j = held.first + y + vec4<u32>(0u, 8u, 16u, 24u);
    let first = vec4<u32>(first_seeing(j.x), first_seeing(j.y), first_seeing(j.z), first_seeing(j.w));
    var sums_k = Sums();
    var sums_v = Sums();
    for (var head = part.head; head < part.head + p.n_shared; head++) {
        for (var query = first_seeing(held.first); query < part.n_queries; query += TILE_ROWS) {
            let walked = Rows(part.start_q, query, part.n_queries);
            let scores = tile_dots(OF_K, held, OF_Q, walked, head, local);
            let flows = tile_dots(OF_V, held, OF_D_OUT, walked, head, local);
            var d_scores: Scores;
            for (var r = 0u; r < 4u; r++) {
                let i = query + x + 8u * r;
                let stats = attention_stats[token_of(walked, x + 8u * r) * p.n_heads + head];
                let visible = (vec4<u32>(i) >= first) & vec4<bool>(i < part.n_queries);
                let weight = exp2(scores[r] * p.scale - stats.x);
                sh_weight[(x + 8u * r) * TILE_SIDE + y] = select(vec4<f32>(0.0), weight, visible);
                d_scores[r] = select(vec4<f32>(0.0), weight * (flows[r] - stats.y), visible);
            }
            tile_add(&sums_v, OF_D_OUT, walked, head, local);
            workgroupBarrier();   // all are done with these weights
            for (var r = 0u; r < 4u; r++) {
                sh_weight[(x + 8u * r) * TILE_SIDE + y] = d_scores[r];
            }
            tile_add(&sums_k, OF_Q, walked, head, local);
        }
    }
    let n_kv_heads = p.n_heads / p.n_shared;
    for (var r = 0u; r < 4u; r++) {
        for (var c = 0u; c < BLOCKS; c++) {
            let col = c * TILE_SIDE + x;
            if j[r] < part.n_keys && col < n_cols {
                let at = (2u * (part.start_k + j[r]) * n_kv_heads + part.head_kv) * n_cols + col;
                attention_d_kv4[at] = Elem4(sums_k[c][r] * (p.scale * LN_2));
                attention_d_kv4[at + n_kv_heads * n_cols] = Elem4(sums_v[c][r]);
            }
        }
    }
}
