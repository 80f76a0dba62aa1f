// Attention over packed sequences, scores never stored:
//   out_i = sum_j p_ij v_j,  p_ij = exp(s_ij - lse_i),  s_ij = scale q_i . k_j,  lse_i = log sum_j exp(s_ij)
// with j over the keys of the sequence of i, where causal over those not past the place of i in its sequence.
// A group takes a tile of queries of one sequence and one head and walks over the keys with a running maximum m_i and
// a running sum of exp(s_ij - m_i); what was summed before is scaled down whenever m_i grows.
// Exponentials are powers of 2: params.scale has log2(e) in it. A query without keys gives 0, and lse -1e30.
override CAUSAL: u32 = 0u;
const NEVER = -1e30;   // score of a key that is not seen: finite, so that the difference of two is a number
const LN_2 = 0.6931472;

struct AttentionParams {
    // First element and the elements from one token and one head to the next.
    base_q: u32, token_q: u32, head_q: u32,
    base_k: u32, token_k: u32, head_k: u32,
    base_v: u32, token_v: u32, head_v: u32,
    n_heads: u32,    // of q
    n_shared: u32,   // heads of q that share a head of k and v
    n_tiles: u32,    // tiles of a sequence and head
    n_groups: u32,
    n_dims: u32,     // width of a head
    scale: f32,
}
@group(0) @binding(0) var<storage, read> attention_q: array<Elem>;          // [n_tokens, n_heads, n_dims], strided
@group(0) @binding(1) var<storage, read> attention_k: array<Elem>;          // [n_keys, n_heads / n_shared, n_dims], strided
@group(0) @binding(2) var<storage, read> attention_v: array<Elem>;          // like k
@group(0) @binding(3) var<storage, read> attention_starts_q: array<u32>;    // [n_sequences + 1]
@group(0) @binding(4) var<storage, read> attention_starts_k: array<u32>;    // [n_sequences + 1]
@group(0) @binding(5) var<storage, read_write> attention_out: array<Elem>;  // [n_tokens, n_heads, n_dims]
@group(0) @binding(6) var<storage, read_write> attention_lse: array<f32>;   // [n_tokens, n_heads]
var<immediate> attention_params: AttentionParams;

// What a group works on.
struct Part {
    tile: u32,       // of this sequence and head
    head: u32,
    head_kv: u32,
    start_q: u32,    // first token of the sequence
    n_queries: u32,
    start_k: u32,
    n_keys: u32,
}

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
    return select(n_keys, min(n_keys, i + 1u), CAUSAL != 0u);
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
    var acc: array<f32, PLAIN_COLS>;
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
