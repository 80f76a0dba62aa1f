// Batched matrix product with epilogue: out_ij = act(sum_l a_il b_lj + bias_j), summed in f32 over l in order.
// a and b lie at any strides, the batch axes merged to two; out is row-major.
//   plain    one invocation per output
override WG_SIZE: u32 = 64u;
override ACT: u32 = 0u;

struct MatmulParams {
    n_batch: u32, n_batch_inner: u32,                 // all matrices, and those of the inner batch axis
    n_rows: u32, n_cols: u32, n_inner: u32,
    base_a: u32, base_b: u32,
    stride_a_row: u32, stride_a_inner: u32, stride_b_inner: u32, stride_b_col: u32,
    stride_a_outer_batch: u32, stride_a_inner_batch: u32, stride_b_outer_batch: u32, stride_b_inner_batch: u32,
    has_bias: u32,                                    // 0: binding 2 is not read
}
var<immediate> matmul_params: MatmulParams;

// First elements of the matrices of one product.
fn bases(batch: u32) -> vec2<u32> {
    let p = matmul_params;
    let outer = batch / p.n_batch_inner;
    let inner = batch % p.n_batch_inner;
    return vec2<u32>(p.base_a + outer * p.stride_a_outer_batch + inner * p.stride_a_inner_batch,
                     p.base_b + outer * p.stride_b_outer_batch + inner * p.stride_b_inner_batch);
}

@group(0) @binding(0) var<storage, read> plain_a: array<Elem>;           // [.., n_rows, n_inner]
@group(0) @binding(1) var<storage, read> plain_b: array<Elem>;           // [.., n_inner, n_cols]
@group(0) @binding(2) var<storage, read> plain_bias: array<Elem>;        // [n_cols]
@group(0) @binding(3) var<storage, read_write> plain_out: array<Elem>;   // [n_batch, n_rows, n_cols]

@compute @workgroup_size(WG_SIZE)
fn matmul_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = matmul_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_batch * p.n_rows * p.n_cols {
        return;
    }
    let col = i % p.n_cols;
    let row = i / p.n_cols % p.n_rows;
    let base = bases(i / p.n_cols / p.n_rows);
    let a = base.x + row * p.stride_a_row;
    let b = base.y + col * p.stride_b_col;
    var sum = 0.0;
    for (var l = 0u; l < p.n_inner; l++) {
        sum += f32(plain_a[a + l * p.stride_a_inner]) * f32(plain_b[b + l * p.stride_b_inner]);
    }
    if p.has_bias != 0u {
        sum += f32(plain_bias[col]);
    }
    if ACT != 0u {
        sum = activate(ACT, sum);
    }
    plain_out[i] = Elem(sum);
}
