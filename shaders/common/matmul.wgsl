// What the matrix products share: parameters, and where operands lie.

// Bits and values of LAYOUT: what of the operands may be read as one aligned vec4.
const B_INNER = 1u;   // four elements of b lie along the inner axis, else along the columns
const A_ROWS = 2u;    // four elements of a lie along the rows, else along the inner axis
const ANY = 4u;       // nothing known: element by element, any sizes

struct MatmulParams {
    n_batch: u32, n_batch_inner: u32,                 // all matrices, and those of the inner batch axis
    n_rows: u32, n_cols: u32, n_inner: u32,
    base_a: u32, base_b: u32,
    stride_a_row: u32, stride_a_inner: u32, stride_b_inner: u32, stride_b_col: u32,
    stride_a_outer_batch: u32, stride_a_inner_batch: u32, stride_b_outer_batch: u32, stride_b_inner_batch: u32,
    bias: u32,                                        // 0: none, binding 2 is not read; 1: per column; 2: one for all
}

// First elements of the matrices of one product.
fn matrix_bases(p: MatmulParams, batch: u32) -> vec2<u32> {
    let outer = batch / p.n_batch_inner;
    let inner = batch % p.n_batch_inner;
    return vec2<u32>(p.base_a + outer * p.stride_a_outer_batch + inner * p.stride_a_inner_batch,
                     p.base_b + outer * p.stride_b_outer_batch + inner * p.stride_b_inner_batch);
}
