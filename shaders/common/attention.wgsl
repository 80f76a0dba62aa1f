// What attention and its backward pass share.
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
    causal: u32,     // 0: every key is seen
    scale: f32,      // of the scores, with log2(e) in it: exponentials are powers of 2
}

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
