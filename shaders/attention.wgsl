// Attention over packed sequences, scores never stored:
//   out_i = sum_j p_ij v_j,  p_ij = exp(s_ij - lse_i),  s_ij = scale q_i . k_j,  lse_i = log sum_j exp(s_ij)
// with j over the keys of the sequence of i, where causal over those not past the place of i in its sequence.
// A group takes a tile of queries of one sequence and one head and walks over the keys with a running maximum m_i and
// a running sum of exp(s_ij - m_i); what was summed before is scaled down whenever m_i grows.
// Exponentials are powers of 2: params.scale has log2(e) in it. A query without keys gives 0, and lse -1e30.
@group(0) @binding(0) var<storage, read> attention_q: array<Elem>;          // [n_tokens, n_heads, n_dims], strided
@group(0) @binding(1) var<storage, read> attention_k: array<Elem>;          // [n_keys, n_heads / n_shared, n_dims], strided
@group(0) @binding(2) var<storage, read> attention_v: array<Elem>;          // like k
@group(0) @binding(3) var<storage, read> attention_starts_q: array<u32>;    // [n_sequences + 1]
@group(0) @binding(4) var<storage, read> attention_starts_k: array<u32>;    // [n_sequences + 1]
@group(0) @binding(5) var<storage, read_write> attention_out: array<Elem>;  // [n_tokens, n_heads, n_dims]
@group(0) @binding(6) var<storage, read_write> attention_lse: array<f32>;   // [n_tokens, n_heads]
var<immediate> attention_params: AttentionParams;

fn part_of(group: u32) -> Part {
    let p = attention_params;
    let of_head = group / p.n_tiles;
    let sequence = of_head / p.n_heads;
    let head = of_head - sequence * p.n_heads;
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

// ---- plain: one query and up to 32 output columns per invocation, any width and strides ----
// Inner loops take 8 elements a turn: llvmpipe lets an invocation run 65,535 turns of all its loops together.
const PLAIN_ROWS = 64u;
const PLAIN_COLS = 32u;

fn plain_product(at_q: u32, at_k: u32) -> f32 {
    return f32(attention_q[at_q]) * f32(attention_k[at_k]);
}

fn plain_product4(at_q: u32, at_k: u32) -> f32 {
    return plain_product(at_q, at_k) + plain_product(at_q + 1u, at_k + 1u)
         + plain_product(at_q + 2u, at_k + 2u) + plain_product(at_q + 3u, at_k + 3u);
}

@compute @workgroup_size(PLAIN_ROWS)
fn attention_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id);
    let n_chunks = (p.n_dims + PLAIN_COLS - 1u) / PLAIN_COLS;
    let first_col = part.tile % n_chunks * PLAIN_COLS;
    let i = part.tile / n_chunks * PLAIN_ROWS + local;
    if i >= part.n_queries {
        return;
    }
    let n_dims_8 = p.n_dims / 8u * 8u;
    let n_cols = min(PLAIN_COLS, p.n_dims - first_col);
    let at_q = p.base_q + (part.start_q + i) * p.token_q + part.head * p.head_q;
    var acc = array<f32, PLAIN_COLS>();
    var m = NEVER;
    var sum = 0.0;
    let n_keys = n_seen(i, part.n_keys);
    for (var j = 0u; j < n_keys; j++) {
        let at_k = p.base_k + (part.start_k + j) * p.token_k + part.head_kv * p.head_k;
        var s = 0.0;
        for (var d = 0u; d < n_dims_8; d += 8u) {
            s += plain_product4(at_q + d, at_k + d) + plain_product4(at_q + d + 4u, at_k + d + 4u);
        }
        for (var d = n_dims_8; d < p.n_dims; d++) {
            s += plain_product(at_q + d, at_k + d);
        }
        s *= p.scale;
        let m_new = max(m, s);
        let shrink = exp2(m - m_new);
        let w = exp2(s - m_new);
        sum = sum * shrink + w;
        m = m_new;
        let at_v = p.base_v + (part.start_k + j) * p.token_v + part.head_kv * p.head_v + first_col;
        for (var c = 0u; c < n_cols; c += 4u) {
            let last = n_cols - 1u;   // what lies past it is summed over and over, and not stored
            acc[c] = acc[c] * shrink + w * f32(attention_v[at_v + c]);
            acc[c + 1u] = acc[c + 1u] * shrink + w * f32(attention_v[at_v + min(c + 1u, last)]);
            acc[c + 2u] = acc[c + 2u] * shrink + w * f32(attention_v[at_v + min(c + 2u, last)]);
            acc[c + 3u] = acc[c + 3u] * shrink + w * f32(attention_v[at_v + min(c + 3u, last)]);
        }
    }
    let row = (part.start_q + i) * p.n_heads + part.head;
    // The largest of the weights is 1, so a sum below 1 is that of no key.
    let norm = 1.0 / max(sum, 1.0);
    for (var c = 0u; c < n_cols; c++) {
        attention_out[row * p.n_dims + first_col + c] = Elem(acc[c] * norm);
    }
    if first_col == 0u {
        attention_lse[row] = select(NEVER, m * LN_2 + log(sum), n_keys > 0u);
    }
}

// ---- registers, lanes: two queries per invocation, q and the running output in registers ----
// A group of 8 takes 16 queries: invocation l those at l and l + 8 of the tile, for one load of a key and its value.
// In `lanes` these 8 are a subgroup: each lane loads one vec4 of a row, which is then broadcast to all. Software
// adapters, where a load costs as much as 50 multiply-adds and a broadcast one, reach two thirds of their arithmetic.
// Arrays are only indexed by constants, or they would leave the registers; so the loops that load q and store the
// output shift the arrays by one a turn, and each needs one load or store, as compile time grows fast with their number.
override BLOCKS: u32 = 2u;   // a head's width in blocks of 8 vec4, rounded up, at most MAX_BLOCKS
const MAX_BLOCKS = 4u;
const LANES = 8u;
const PAIR_ROWS = 16u;
alias Pair = vec2<f32>;      // a number for each of both queries
alias Rows2 = mat2x4<f32>;   // a vec4 for each of both queries
alias Held = array<Rows2, 8u * MAX_BLOCKS>;

@group(0) @binding(0) var<storage, read> attention_q4: array<Elem4>;
@group(0) @binding(1) var<storage, read> attention_k4: array<Elem4>;
@group(0) @binding(2) var<storage, read> attention_v4: array<Elem4>;
@group(0) @binding(5) var<storage, read_write> attention_out4: array<Elem4>;
var<private> held_q: Held = Held();
var<private> held_out: Held = Held();

// The two queries of an invocation.
struct Queries {
    row: vec2<u32>,    // tokens
    live: vec2<bool>,  // or else past the last, computed as copies of it and not stored
    seen: vec2<u32>,   // keys
}

fn queries_of(part: Part, lane: u32) -> Queries {
    let i = part.tile * PAIR_ROWS + vec2<u32>(lane, lane + LANES);
    return Queries(part.start_q + min(i, vec2<u32>(part.n_queries - 1u)), i < vec2<u32>(part.n_queries),
                   vec2<u32>(n_seen(i.x, part.n_keys), n_seen(i.y, part.n_keys)));
}

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

// Loads q, scaled, and 0 past its last column.
fn hold_q(queries: Queries, head: u32) {
    let p = attention_params;
    let at = (p.base_q + queries.row * p.token_q + head * p.head_q) >> vec2<u32>(2u);
    let n_cols = p.n_dims >> 2u;
    let n_turns = ((n_cols + 7u) >> 3u) << 3u;   // that this is 8 x BLOCKS must not show: the compiler would unroll
    for (var d = 0u; d < n_turns; d++) {
        shift(&held_q);
        let col = min(d, n_cols - 1u);
        let scale = select(0.0, p.scale, d < n_cols);
        held_q[8u * BLOCKS - 1u] =
            Rows2(vec4<f32>(attention_q4[at.x + col]) * scale, vec4<f32>(attention_q4[at.y + col]) * scale);
    }
}

// Divides the output by the sum of its weights and stores it.
fn store_out(queries: Queries, head: u32, m: Pair, sum: Pair) {
    let p = attention_params;
    let norm = 1.0 / max(sum, Pair(1.0));
    let lse = select(m * LN_2 + log(sum), Pair(NEVER), queries.seen == vec2<u32>(0u));
    let row = queries.row * p.n_heads + head;
    if queries.live.x {
        attention_lse[row.x] = lse.x;
    }
    if queries.live.y {
        attention_lse[row.y] = lse.y;
    }
    let n_cols = p.n_dims >> 2u;
    for (var d = 0u; d < n_cols; d++) {
        if queries.live.x {
            attention_out4[row.x * n_cols + d] = Elem4(held_out[0][0] * norm.x);
        }
        if queries.live.y {
            attention_out4[row.y * n_cols + d] = Elem4(held_out[0][1] * norm.y);
        }
        shift(&held_out);
    }
}

// Scales a vec4 of the output down and adds a weighted value.
fn add1(at: u32, shrink: Pair, a: vec4<f32>, w_a: Pair) {
    held_out[at] = Rows2(held_out[at][0] * shrink.x + a * w_a.x, held_out[at][1] * shrink.y + a * w_a.y);
}

// The same with two values.
fn add2(at: u32, shrink: Pair, a: vec4<f32>, w_a: Pair, b: vec4<f32>, w_b: Pair) {
    held_out[at] = Rows2(held_out[at][0] * shrink.x + a * w_a.x + b * w_b.x,
                         held_out[at][1] * shrink.y + a * w_a.y + b * w_b.y);
}

// Part of the dot products with one key: its 8 vec4 from column 8 x block on.
fn registers_dot8(at: u32, block: u32, last: u32) -> Pair {
    let c = 8u * block;
    return vec4<f32>(attention_k4[at + min(c + 0u, last)]) * held_q[c + 0u]
         + vec4<f32>(attention_k4[at + min(c + 1u, last)]) * held_q[c + 1u]
         + vec4<f32>(attention_k4[at + min(c + 2u, last)]) * held_q[c + 2u]
         + vec4<f32>(attention_k4[at + min(c + 3u, last)]) * held_q[c + 3u]
         + vec4<f32>(attention_k4[at + min(c + 4u, last)]) * held_q[c + 4u]
         + vec4<f32>(attention_k4[at + min(c + 5u, last)]) * held_q[c + 5u]
         + vec4<f32>(attention_k4[at + min(c + 6u, last)]) * held_q[c + 6u]
         + vec4<f32>(attention_k4[at + min(c + 7u, last)]) * held_q[c + 7u];
}

fn registers_add8(at: u32, block: u32, last: u32, shrink: Pair, w: Pair) {
    let c = 8u * block;
    add1(c + 0u, shrink, vec4<f32>(attention_v4[at + min(c + 0u, last)]), w);
    add1(c + 1u, shrink, vec4<f32>(attention_v4[at + min(c + 1u, last)]), w);
    add1(c + 2u, shrink, vec4<f32>(attention_v4[at + min(c + 2u, last)]), w);
    add1(c + 3u, shrink, vec4<f32>(attention_v4[at + min(c + 3u, last)]), w);
    add1(c + 4u, shrink, vec4<f32>(attention_v4[at + min(c + 4u, last)]), w);
    add1(c + 5u, shrink, vec4<f32>(attention_v4[at + min(c + 5u, last)]), w);
    add1(c + 6u, shrink, vec4<f32>(attention_v4[at + min(c + 6u, last)]), w);
    add1(c + 7u, shrink, vec4<f32>(attention_v4[at + min(c + 7u, last)]), w);
}

@compute @workgroup_size(LANES)
fn attention_registers_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                           @builtin(local_invocation_index) lane: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id);
    if part.tile * PAIR_ROWS >= part.n_queries {
        return;
    }
    let queries = queries_of(part, lane);
    hold_q(queries, part.head);
    let last = (p.n_dims >> 2u) - 1u;   // columns past it read it; q is 0 there, and the output is not stored
    var m = Pair(NEVER);
    var sum = Pair(0.0);
    let n_keys = n_seen(part.tile * PAIR_ROWS + PAIR_ROWS - 1u, part.n_keys);
    for (var j = 0u; j < n_keys; j++) {
        let at_k = (p.base_k + (part.start_k + j) * p.token_k + part.head_kv * p.head_k) >> 2u;
        let at_v = (p.base_v + (part.start_k + j) * p.token_v + part.head_kv * p.head_v) >> 2u;
        var s = registers_dot8(at_k, 0u, last);
        if BLOCKS > 1u {
            s += registers_dot8(at_k, 1u, last);
        }
        if BLOCKS > 2u {
            s += registers_dot8(at_k, 2u, last);
        }
        if BLOCKS > 3u {
            s += registers_dot8(at_k, 3u, last);
        }
        s = select(s, Pair(NEVER), vec2<u32>(j) >= queries.seen);
        let m_new = max(m, s);
        let shrink = exp2(m - m_new);
        m = m_new;
        let w = exp2(s - m);
        sum = sum * shrink + w;
        registers_add8(at_v, 0u, last, shrink, w);
        if BLOCKS > 1u {
            registers_add8(at_v, 1u, last, shrink, w);
        }
        if BLOCKS > 2u {
            registers_add8(at_v, 2u, last, shrink, w);
        }
        if BLOCKS > 3u {
            registers_add8(at_v, 3u, last, shrink, w);
        }
    }
    store_out(queries, part.head, m, sum);
}

// Part of the dot products with one key: 8 vec4, one a lane, against those of q from `at` on. Each is broadcast where
// it is used, as all 8 together would not stay in registers.
fn lanes_dot8(k: vec4<f32>, at: u32) -> Pair {
    return subgroupBroadcast(k, 0u) * held_q[at] + subgroupBroadcast(k, 1u) * held_q[at + 1u]
         + subgroupBroadcast(k, 2u) * held_q[at + 2u] + subgroupBroadcast(k, 3u) * held_q[at + 3u]
         + subgroupBroadcast(k, 4u) * held_q[at + 4u] + subgroupBroadcast(k, 5u) * held_q[at + 5u]
         + subgroupBroadcast(k, 6u) * held_q[at + 6u] + subgroupBroadcast(k, 7u) * held_q[at + 7u];
}

fn lanes_add8(at: u32, shrink: Pair, a: vec4<f32>, w_a: Pair) {
    add1(at + 0u, shrink, subgroupBroadcast(a, 0u), w_a);
    add1(at + 1u, shrink, subgroupBroadcast(a, 1u), w_a);
    add1(at + 2u, shrink, subgroupBroadcast(a, 2u), w_a);
    add1(at + 3u, shrink, subgroupBroadcast(a, 3u), w_a);
    add1(at + 4u, shrink, subgroupBroadcast(a, 4u), w_a);
    add1(at + 5u, shrink, subgroupBroadcast(a, 5u), w_a);
    add1(at + 6u, shrink, subgroupBroadcast(a, 6u), w_a);
    add1(at + 7u, shrink, subgroupBroadcast(a, 7u), w_a);
}

fn lanes_add8_two(at: u32, shrink: Pair, a: vec4<f32>, w_a: Pair, b: vec4<f32>, w_b: Pair) {
    add2(at + 0u, shrink, subgroupBroadcast(a, 0u), w_a, subgroupBroadcast(b, 0u), w_b);
    add2(at + 1u, shrink, subgroupBroadcast(a, 1u), w_a, subgroupBroadcast(b, 1u), w_b);
    add2(at + 2u, shrink, subgroupBroadcast(a, 2u), w_a, subgroupBroadcast(b, 2u), w_b);
    add2(at + 3u, shrink, subgroupBroadcast(a, 3u), w_a, subgroupBroadcast(b, 3u), w_b);
    add2(at + 4u, shrink, subgroupBroadcast(a, 4u), w_a, subgroupBroadcast(b, 4u), w_b);
    add2(at + 5u, shrink, subgroupBroadcast(a, 5u), w_a, subgroupBroadcast(b, 5u), w_b);
    add2(at + 6u, shrink, subgroupBroadcast(a, 6u), w_a, subgroupBroadcast(b, 6u), w_b);
    add2(at + 7u, shrink, subgroupBroadcast(a, 7u), w_a, subgroupBroadcast(b, 7u), w_b);
}

@compute @workgroup_size(LANES)
fn attention_lanes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(subgroup_invocation_id) lane: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id);
    if part.tile * PAIR_ROWS >= part.n_queries {
        return;
    }
    let queries = queries_of(part, lane);
    hold_q(queries, part.head);
    let at_k = (p.base_k + part.start_k * p.token_k + part.head_kv * p.head_k) >> 2u;
    let at_v = (p.base_v + part.start_k * p.token_v + part.head_kv * p.head_v) >> 2u;
    let token_k = p.token_k >> 2u;
    let token_v = p.token_v >> 2u;
    // Columns past the last read the last: q is 0 there, and what they add to the output is not stored.
    let col = min(vec4<u32>(lane, lane + 8u, lane + 16u, lane + 24u), vec4<u32>((p.n_dims >> 2u) - 1u));
    let last_key = part.n_keys - 1u;
    let n_keys = n_seen(part.tile * PAIR_ROWS + PAIR_ROWS - 1u, part.n_keys);
    var m = Pair(NEVER);
    var sum = Pair(0.0);
    var j = 0u;
    while j < n_keys {
        let k_a = at_k + j * token_k;
        let v_a = at_v + j * token_v;
        // Two keys a turn where registers are left for them. Loads stand together, since each is a loop to the driver.
        if BLOCKS <= 2u {
            let k_b = at_k + min(j + 1u, last_key) * token_k;
            let v_b = at_v + min(j + 1u, last_key) * token_v;
            let k_a0 = vec4<f32>(attention_k4[k_a + col.x]);
            let k_b0 = vec4<f32>(attention_k4[k_b + col.x]);
            let k_a1 = vec4<f32>(attention_k4[k_a + col.y]);
            let k_b1 = vec4<f32>(attention_k4[k_b + col.y]);
            var s_a = lanes_dot8(k_a0, 0u);
            var s_b = lanes_dot8(k_b0, 0u);
            if BLOCKS > 1u {
                s_a += lanes_dot8(k_a1, 8u);
                s_b += lanes_dot8(k_b1, 8u);
            }
            s_a = select(s_a, Pair(NEVER), vec2<u32>(j) >= queries.seen);
            s_b = select(s_b, Pair(NEVER), vec2<u32>(j + 1u) >= queries.seen);
            let m_new = max(m, max(s_a, s_b));
            let shrink = exp2(m - m_new);
            m = m_new;
            let w_a = exp2(s_a - m);
            let w_b = exp2(s_b - m);
            sum = sum * shrink + w_a + w_b;
            let v_a0 = vec4<f32>(attention_v4[v_a + col.x]);
            let v_b0 = vec4<f32>(attention_v4[v_b + col.x]);
            let v_a1 = vec4<f32>(attention_v4[v_a + col.y]);
            let v_b1 = vec4<f32>(attention_v4[v_b + col.y]);
            lanes_add8_two(0u, shrink, v_a0, w_a, v_b0, w_b);
            if BLOCKS > 1u {
                lanes_add8_two(8u, shrink, v_a1, w_a, v_b1, w_b);
            }
            j += 2u;
        } else {
            let k_0 = vec4<f32>(attention_k4[k_a + col.x]);
            let k_1 = vec4<f32>(attention_k4[k_a + col.y]);
            let k_2 = vec4<f32>(attention_k4[k_a + col.z]);
            let k_3 = vec4<f32>(attention_k4[k_a + col.w]);
            var s = lanes_dot8(k_0, 0u) + lanes_dot8(k_1, 8u) + lanes_dot8(k_2, 16u);
            if BLOCKS > 3u {
                s += lanes_dot8(k_3, 24u);
            }
            s = select(s, Pair(NEVER), vec2<u32>(j) >= queries.seen);
            let m_new = max(m, s);
            let shrink = exp2(m - m_new);
            m = m_new;
            let w = exp2(s - m);
            sum = sum * shrink + w;
            let v_0 = vec4<f32>(attention_v4[v_a + col.x]);
            let v_1 = vec4<f32>(attention_v4[v_a + col.y]);
            let v_2 = vec4<f32>(attention_v4[v_a + col.z]);
            let v_3 = vec4<f32>(attention_v4[v_a + col.w]);
            lanes_add8(0u, shrink, v_0, w);
            lanes_add8(8u, shrink, v_1, w);
            lanes_add8(16u, shrink, v_2, w);
            if BLOCKS > 3u {
                lanes_add8(24u, shrink, v_3, w);
            }
            j += 1u;
        }
    }
    store_out(queries, part.head, m, sum);
}

// ---- narrow: the same for heads of up to 16 columns, three queries per invocation ----
// A subgroup takes 24 queries, and half of its lanes load a key, so that two vec4 per lane bring four keys.
const NARROW_ROWS = 24u;
alias Rows3 = mat3x4<f32>;
alias Triple = vec3<f32>;
alias Narrow = array<Rows3, 4>;
var<private> narrow_q: Narrow = Narrow();
var<private> narrow_sum: Narrow = Narrow();

fn low_dot(k: vec4<f32>) -> Triple {
    return subgroupBroadcast(k, 0u) * narrow_q[0] + subgroupBroadcast(k, 1u) * narrow_q[1]
         + subgroupBroadcast(k, 2u) * narrow_q[2] + subgroupBroadcast(k, 3u) * narrow_q[3];
}

fn high_dot(k: vec4<f32>) -> Triple {
    return subgroupBroadcast(k, 4u) * narrow_q[0] + subgroupBroadcast(k, 5u) * narrow_q[1]
         + subgroupBroadcast(k, 6u) * narrow_q[2] + subgroupBroadcast(k, 7u) * narrow_q[3];
}

// Row r of the output, scaled down, with the values of four keys added; w has a column per key.
fn add4(at: u32, shrink: Triple, w: array<Triple, 4>, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) {
    let x = narrow_sum[at];
    narrow_sum[at] = Rows3(x[0] * shrink.x + (a * w[0].x + b * w[1].x + c * w[2].x + d * w[3].x),
                           x[1] * shrink.y + (a * w[0].y + b * w[1].y + c * w[2].y + d * w[3].y),
                           x[2] * shrink.z + (a * w[0].z + b * w[1].z + c * w[2].z + d * w[3].z));
}

fn shift4(x: ptr<private, Narrow>) {
    (*x)[0] = (*x)[1];
    (*x)[1] = (*x)[2];
    (*x)[2] = (*x)[3];
}

@compute @workgroup_size(LANES)
fn attention_narrow_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(subgroup_invocation_id) lane: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id);
    let first = part.tile * NARROW_ROWS;
    if first >= part.n_queries {
        return;
    }
    let place = vec3<u32>(first + lane, first + lane + LANES, first + lane + 2u * LANES);
    let row = part.start_q + min(place, vec3<u32>(part.n_queries - 1u));
    let at_q = (p.base_q + row * p.token_q + part.head * p.head_q) >> vec3<u32>(2u);
    let n_cols = p.n_dims >> 2u;
    for (var d = 0u; d < min(n_cols, 1u) * 4u; d++) {
        shift4(&narrow_q);
        let col = at_q + min(d, n_cols - 1u);
        let scale = select(0.0, p.scale, d < n_cols);
        narrow_q[3] = Rows3(vec4<f32>(attention_q4[col.x]), vec4<f32>(attention_q4[col.y]), vec4<f32>(attention_q4[col.z])) * scale;
    }

    let seen = vec3<u32>(n_seen(place.x, part.n_keys), n_seen(place.y, part.n_keys), n_seen(place.z, part.n_keys));
    let n_keys = n_seen(first + NARROW_ROWS - 1u, part.n_keys);
    let at_k = (p.base_k + part.start_k * p.token_k + part.head_kv * p.head_k) >> 2u;
    let at_v = (p.base_v + part.start_k * p.token_v + part.head_kv * p.head_v) >> 2u;
    let token_k = p.token_k >> 2u;
    let token_v = p.token_v >> 2u;
    let col = min(lane & 3u, n_cols - 1u);
    var m = Triple(NEVER);
    var sum = Triple(0.0);
    for (var j = 0u; j < n_keys; j += 4u) {
        let j_a = min(j + (lane >> 2u), part.n_keys - 1u);
        let j_b = min(j + (lane >> 2u) + 2u, part.n_keys - 1u);
        let k_a = vec4<f32>(attention_k4[at_k + j_a * token_k + col]);
        let k_b = vec4<f32>(attention_k4[at_k + j_b * token_k + col]);
        let s_0 = select(low_dot(k_a), Triple(NEVER), vec3<u32>(j) >= seen);
        let s_1 = select(high_dot(k_a), Triple(NEVER), vec3<u32>(j + 1u) >= seen);
        let s_2 = select(low_dot(k_b), Triple(NEVER), vec3<u32>(j + 2u) >= seen);
        let s_3 = select(high_dot(k_b), Triple(NEVER), vec3<u32>(j + 3u) >= seen);
        let m_new = max(max(m, max(s_0, s_1)), max(s_2, s_3));
        let shrink = exp2(m - m_new);
        m = m_new;
        let w = array<Triple, 4>(exp2(s_0 - m), exp2(s_1 - m), exp2(s_2 - m), exp2(s_3 - m));
        sum = sum * shrink + (w[0] + w[1] + w[2] + w[3]);
        let v_a = vec4<f32>(attention_v4[at_v + j_a * token_v + col]);
        let v_b = vec4<f32>(attention_v4[at_v + j_b * token_v + col]);
        add4(0u, shrink, w, subgroupBroadcast(v_a, 0u), subgroupBroadcast(v_a, 4u),
             subgroupBroadcast(v_b, 0u), subgroupBroadcast(v_b, 4u));
        add4(1u, shrink, w, subgroupBroadcast(v_a, 1u), subgroupBroadcast(v_a, 5u),
             subgroupBroadcast(v_b, 1u), subgroupBroadcast(v_b, 5u));
        add4(2u, shrink, w, subgroupBroadcast(v_a, 2u), subgroupBroadcast(v_a, 6u),
             subgroupBroadcast(v_b, 2u), subgroupBroadcast(v_b, 6u));
        add4(3u, shrink, w, subgroupBroadcast(v_a, 3u), subgroupBroadcast(v_a, 7u),
             subgroupBroadcast(v_b, 3u), subgroupBroadcast(v_b, 7u));
    }

    let norm = 1.0 / max(sum, Triple(1.0));
    let lse = select(m * LN_2 + log(sum), Triple(NEVER), seen == vec3<u32>(0u));
    let live = place < vec3<u32>(part.n_queries);
    let out = row * p.n_heads + part.head;
    if live.x {
        attention_lse[out.x] = lse.x;
    }
    if live.y {
        attention_lse[out.y] = lse.y;
    }
    if live.z {
        attention_lse[out.z] = lse.z;
    }
    for (var d = 0u; d < n_cols; d++) {
        let x = narrow_sum[0];
        if live.x {
            attention_out4[out.x * n_cols + d] = Elem4(x[0] * norm.x);
        }
        if live.y {
            attention_out4[out.y * n_cols + d] = Elem4(x[1] * norm.y);
        }
        if live.z {
            attention_out4[out.z * n_cols + d] = Elem4(x[2] * norm.z);
        }
        shift4(&narrow_sum);
    }
}

// ---- tiled: 32 queries per group of 64, keys and values through workgroup memory ----
// Invocation (y, x) of 8 x 8 computes the scores of rows y + 8 i and keys x + 8 j, i < 4; then, of those rows, the
// output columns x + 8 c, each a vec4. Rows in workgroup memory are one vec4 longer than needed, so that 8 of them
// lie in different banks.
override TILE_COLS: u32 = 16u;   // of a head at most, in vec4: 8, 16 or 32
override TILE_KEYS: u32 = 16u;   // per turn: 16 or 32
const TILE_ROWS = 32u;
const TILE_SIDE = 8u;
alias Rows4 = mat4x4<f32>;       // a vec4 for each of four rows
var<workgroup> sh_q: array<Elem4, TILE_ROWS * (TILE_COLS + 1u)>;
var<workgroup> sh_kv: array<Elem4, TILE_KEYS * (TILE_COLS + 1u)>;
var<workgroup> sh_weight: array<vec4<f32>, TILE_KEYS * TILE_SIDE>;   // of key j and rows y + 8 i: at 8 j + y
var<workgroup> sh_part: array<vec4<f32>, TILE_SIDE * TILE_SIDE>;     // partial maxima or sums of rows y + 8 i

@compute @workgroup_size(64)
fn attention_tiled_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let p = attention_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let part = part_of(id);
    let first = part.tile * TILE_ROWS;
    if first >= part.n_queries {
        return;
    }
    let x = local % TILE_SIDE;
    let y = local / TILE_SIDE;
    let n_cols = p.n_dims / 4u;
    let stride = TILE_COLS + 1u;
    // Rows past the last query and keys past the last are copies of it; the first are not stored, the others not seen.
    for (var row = y; row < TILE_ROWS; row += TILE_SIDE) {
        let token = part.start_q + min(first + row, part.n_queries - 1u);
        let at = (p.base_q + token * p.token_q + part.head * p.head_q) / 4u;
        for (var col = x; col < n_cols; col += TILE_SIDE) {
            sh_q[row * stride + col] = attention_q4[at + col];
        }
    }
    let place = first + y + vec4<u32>(0u, 8u, 16u, 24u);
    let seen = vec4<u32>(n_seen(place.x, part.n_keys), n_seen(place.y, part.n_keys),
                         n_seen(place.z, part.n_keys), n_seen(place.w, part.n_keys));
    let n_keys = n_seen(first + TILE_ROWS - 1u, part.n_keys);
    var m = vec4<f32>(NEVER);
    var sum = vec4<f32>(0.0);   // of this invocation's keys
    var out = array<Rows4, 4>();
    for (var key = 0u; key < n_keys; key += TILE_KEYS) {
        for (var row = y; row < TILE_KEYS; row += TILE_SIDE) {
            let token = part.start_k + min(key + row, part.n_keys - 1u);
            let at = (p.base_k + token * p.token_k + part.head_kv * p.head_k) / 4u;
            for (var col = x; col < n_cols; col += TILE_SIDE) {
                sh_kv[row * stride + col] = attention_k4[at + col];
            }
        }
        workgroupBarrier();   // sh_q and the keys are there
        var s: array<vec4<f32>, 4>;
        for (var d = 0u; d < n_cols; d++) {
            let q = Rows4(vec4<f32>(sh_q[y * stride + d]), vec4<f32>(sh_q[(y + 8u) * stride + d]),
                          vec4<f32>(sh_q[(y + 16u) * stride + d]), vec4<f32>(sh_q[(y + 24u) * stride + d]));
            s[0] += vec4<f32>(sh_kv[x * stride + d]) * q;
            s[1] += vec4<f32>(sh_kv[(x + 8u) * stride + d]) * q;
            if TILE_KEYS > 16u {
                s[2] += vec4<f32>(sh_kv[(x + 16u) * stride + d]) * q;
                s[3] += vec4<f32>(sh_kv[(x + 24u) * stride + d]) * q;
            }
        }
        s[0] = select(s[0] * p.scale, vec4<f32>(NEVER), vec4<u32>(key + x) >= seen);
        s[1] = select(s[1] * p.scale, vec4<f32>(NEVER), vec4<u32>(key + x + 8u) >= seen);
        s[2] = select(s[2] * p.scale, vec4<f32>(NEVER), vec4<u32>(key + x + 16u) >= seen);
        s[3] = select(s[3] * p.scale, vec4<f32>(NEVER), vec4<u32>(key + x + 24u) >= seen);
        var m_new = max(s[0], s[1]);
        if TILE_KEYS > 16u {
            m_new = max(m_new, max(s[2], s[3]));
        }
        sh_part[local] = m_new;
        workgroupBarrier();   // the maxima are there, and all are done with the keys
        m_new = m;
        for (var i = 0u; i < TILE_SIDE; i++) {
            m_new = max(m_new, sh_part[y * TILE_SIDE + i]);
        }
        let shrink = exp2(m - m_new);
        m = m_new;
        sum *= shrink;
        for (var j = 0u; j < TILE_KEYS / TILE_SIDE; j++) {
            let w = exp2(s[j] - m);
            sum += w;
            sh_weight[(x + j * TILE_SIDE) * TILE_SIDE + y] = w;
        }
        for (var row = y; row < TILE_KEYS; row += TILE_SIDE) {
            let token = part.start_k + min(key + row, part.n_keys - 1u);
            let at = (p.base_v + token * p.token_v + part.head_kv * p.head_v) / 4u;
            for (var col = x; col < n_cols; col += TILE_SIDE) {
                sh_kv[row * stride + col] = attention_v4[at + col];
            }
        }
        workgroupBarrier();   // weights and values are there
        for (var c = 0u; c < TILE_COLS / TILE_SIDE; c++) {
            let col = min(x + c * TILE_SIDE, n_cols - 1u);
            var add = Rows4(out[c][0] * shrink.x, out[c][1] * shrink.y, out[c][2] * shrink.z, out[c][3] * shrink.w);
            for (var j = 0u; j < TILE_KEYS; j++) {
                let v = vec4<f32>(sh_kv[j * stride + col]);
                let w = sh_weight[j * TILE_SIDE + y];
                add += Rows4(v * w.x, v * w.y, v * w.z, v * w.w);
            }
            out[c] = add;
        }
        workgroupBarrier();   // all are done with the values
    }
    sh_part[local] = sum;
    workgroupBarrier();
    sum = vec4<f32>(0.0);
    for (var i = 0u; i < TILE_SIDE; i++) {
        sum += sh_part[y * TILE_SIDE + i];
    }
    let norm = 1.0 / max(sum, vec4<f32>(1.0));
    let lse = select(m * LN_2 + log(sum), vec4<f32>(NEVER), seen == vec4<u32>(0u));
    for (var i = 0u; i < 4u; i++) {
        if place[i] < part.n_queries {
            let row = (part.start_q + place[i]) * p.n_heads + part.head;
            if x == 0u {
                attention_lse[row] = lse[i];
            }
            for (var c = 0u; c < TILE_COLS / TILE_SIDE; c++) {
                let col = x + c * TILE_SIDE;
                if col < n_cols {
                    attention_out4[row * n_cols + col] = Elem4(out[c][i] * norm[i]);
                }
            }
        }
    }
}
