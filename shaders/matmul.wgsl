// Batched matrix product with epilogue: out_ij = act(sum_l a_il b_lj + bias_j), summed in f32.
// a and b lie at any strides, their batch axes merged to two; out is row-major. Who computes what:
//   plain       one invocation one output
//   registers   one invocation ROWS x 8 outputs, operands straight from memory
//   subgroup    eight invocations ROWS x (8 COLS) outputs; each holds COLS columns, the rows of a go round by broadcast
//   tiled       one workgroup TILE x TILE outputs, operands through workgroup memory; one invocation 8 x 8 of them
//   vector      one row times a matrix; one invocation four columns, over a share of the inner axis
// All but plain multiply blocks of 4 x 4, kept as matrices whose column i is row i of the block, so that
// out_block += b_block * a_block reads right to left. Sums run over the inner axis in fixed order.
override WG_SIZE: u32 = 64u;
override ACT: u32 = 0u;
// Where four elements lie in a row, and may be read as one aligned vec4:
//   0  a along the inner axis, b along the columns        2  a along the rows, b along the columns
//   1  a along the inner axis, b along the inner axis     3  a along the rows, b along the inner axis
//   4  nothing known: element by element, any sizes. In 0 to 3, n_inner and n_cols are multiples of 4; n_rows in 2 and 3.
override LAYOUT: u32 = 0u;
override ROWS: u32 = 8u;
override COLS: u32 = 8u;
var<immediate> matmul_params: MatmulParams;

// ---- plain ----
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
    let base = matrix_bases(p, i / p.n_cols / p.n_rows);
    let a = base.x + row * p.stride_a_row;
    let b = base.y + col * p.stride_b_col;
    var sum = 0.0;
    for (var l = 0u; l < p.n_inner; l++) {
        sum += f32(plain_a[a + l * p.stride_a_inner]) * f32(plain_b[b + l * p.stride_b_inner]);
    }
    if p.bias != 0u {
        sum += f32(plain_bias[col]);
    }
    if ACT != 0u {
        sum = activate(ACT, sum);
    }
    plain_out[i] = Elem(sum);
}

// ---- blocks of 4 x 4 ----
@group(0) @binding(0) var<storage, read> matmul_a: array<Elem4>;
@group(0) @binding(1) var<storage, read> matmul_b: array<Elem4>;
@group(0) @binding(2) var<storage, read> matmul_bias: array<Elem4>;
@group(0) @binding(3) var<storage, read_write> matmul_out: array<Elem4>;

// Element l of the inner axis in the row of a that starts at element `at`; 0 past the end.
fn a_element(at: u32, l: u32) -> f32 {
    let p = matmul_params;
    let i = at + min(l, p.n_inner - 1u) * p.stride_a_inner;
    return select(0.0, f32(matmul_a[i / 4u][i % 4u]), l < p.n_inner);
}

// Four of them.
fn a_along_inner(at: u32, l: u32) -> vec4<f32> {
    if LAYOUT == ANY {
        return vec4<f32>(a_element(at, l), a_element(at, l + 1u), a_element(at, l + 2u), a_element(at, l + 3u));
    }
    return vec4<f32>(matmul_a[(at + l) / 4u]);
}

// Four rows of a from `row` on at inner index l; rows past the end repeat the last four.
fn a_along_rows(base: u32, row: u32, l: u32) -> vec4<f32> {
    let p = matmul_params;
    return vec4<f32>(matmul_a[(base + min(row, p.n_rows - 4u) + l * p.stride_a_inner) / 4u]);
}

// Rows row..row + 4 and inner indices l..l + 4 of a; rows past the end repeat the last.
fn a_block(base: u32, row: u32, l: u32) -> mat4x4<f32> {
    let p = matmul_params;
    if LAYOUT != ANY && (LAYOUT & A_ROWS) != 0u {
        return transpose(mat4x4<f32>(a_along_rows(base, row, l), a_along_rows(base, row, l + 1u),
                                     a_along_rows(base, row, l + 2u), a_along_rows(base, row, l + 3u)));
    }
    let at = vec4<u32>(base) + min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n_rows - 1u)) * p.stride_a_row;
    return mat4x4<f32>(a_along_inner(at.x, l), a_along_inner(at.y, l), a_along_inner(at.z, l), a_along_inner(at.w, l));
}

fn b_element(at: u32, col: u32) -> f32 {
    let p = matmul_params;
    let i = at + min(col, p.n_cols - 1u) * p.stride_b_col;
    return f32(matmul_b[i / 4u][i % 4u]);
}

// Columns col..col + 4 of b at inner index l, element by element; 0 past the end of the inner axis.
fn b_elements(base: u32, l: u32, col: u32) -> vec4<f32> {
    let p = matmul_params;
    let at = base + min(l, p.n_inner - 1u) * p.stride_b_inner;
    let b = vec4<f32>(b_element(at, col), b_element(at, col + 1u), b_element(at, col + 2u), b_element(at, col + 3u));
    return select(vec4<f32>(0.0), b, l < p.n_inner);
}

// Inner indices l..l + 4 and columns col..col + 4 of b; columns past the end repeat the last.
fn b_block(base: u32, l: u32, col: u32) -> mat4x4<f32> {
    let p = matmul_params;
    if LAYOUT == ANY {
        return mat4x4<f32>(b_elements(base, l, col), b_elements(base, l + 1u, col),
                           b_elements(base, l + 2u, col), b_elements(base, l + 3u, col));
    }
    let along = (LAYOUT & B_INNER) != 0u;
    let first = min(col, p.n_cols - 4u);
    let at = base + select(first + l * p.stride_b_inner, l + first * p.stride_b_col, along);
    let i = at / 4u;
    let step = select(p.stride_b_inner, p.stride_b_col, along) / 4u;
    let b = mat4x4<f32>(vec4<f32>(matmul_b[i]), vec4<f32>(matmul_b[i + step]),
                        vec4<f32>(matmul_b[i + 2u * step]), vec4<f32>(matmul_b[i + 3u * step]));
    if along {
        return transpose(b);
    }
    return b;
}

// The bias of four columns.
fn bias_quad(col: u32) -> vec4<f32> {
    let p = matmul_params;
    if p.bias == 1u {
        let first = min(col, p.n_cols - 1u) / 4u;
        return vec4<f32>(matmul_bias[first]);
    }
    if p.bias == 2u {
        return vec4<f32>(f32(matmul_bias[0].x));
    }
    return vec4<f32>(0.0);
}

// Four outputs of a row, `at` the first element of the row.
fn store_quad(at: u32, col: u32, sums: vec4<f32>, bias: vec4<f32>) {
    let n_cols = matmul_params.n_cols;
    var x = sums + bias;
    if ACT != 0u {
        x = activate4(ACT, x);
    }
    if LAYOUT != ANY {
        if col < n_cols {
            matmul_out[(at + col) / 4u] = Elem4(x);
        }
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if col + j < n_cols {
            let i = at + col + j;
            matmul_out[i / 4u][i % 4u] = Elem(x.x);
        }
        x = x.yzwx;
    }
}

// Rows row..row + 4 of a block, as far as `end`. A loop whose count the compiler does not know: unrolled stores are
// what costs most time to compile on software adapters, and a dynamic index into the sums comes next.
fn store_block(batch: u32, row: u32, end: u32, col: u32, block: mat4x4<f32>, bias: vec4<f32>) {
    let p = matmul_params;
    var rest = block;
    for (var r = row; r < min(row + 4u, end); r++) {
        store_quad((batch * p.n_rows + r) * p.n_cols, col, rest[0], bias);
        rest = mat4x4<f32>(rest[1], rest[2], rest[3], rest[0]);
    }
}

// ---- registers ----
@compute @workgroup_size(WG_SIZE)
fn matmul_registers_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let p = matmul_params;
    // Strips of at most eight tiles side by side, each from top to bottom: b stays in the cache.
    let n_row_tiles = (p.n_rows + ROWS - 1u) / ROWS;
    let n_col_tiles = (p.n_cols + 7u) / 8u;
    let n_strips = (n_col_tiles + 7u) / 8u;
    let width = (n_col_tiles + n_strips - 1u) / n_strips;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let across = id / width;
    let down = across / n_row_tiles;
    let row = across % n_row_tiles * ROWS;
    let col = (down % n_strips * width + id % width) * 8u;
    let batch = down / n_strips;
    if batch >= p.n_batch || col >= p.n_cols {
        return;
    }
    let base = matrix_bases(p, batch);
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    var s_20 = mat4x4<f32>();
    var s_21 = mat4x4<f32>();
    var s_30 = mat4x4<f32>();
    var s_31 = mat4x4<f32>();
    for (var l = 0u; l < p.n_inner; l += 4u) {
        let b_0 = b_block(base.y, l, col);
        let b_1 = b_block(base.y, l, col + 4u);
        let a_0 = a_block(base.x, row, l);
        s_00 += b_0 * a_0;
        s_01 += b_1 * a_0;
        let a_1 = a_block(base.x, row + 4u, l);
        s_10 += b_0 * a_1;
        s_11 += b_1 * a_1;
        if ROWS > 8u {
            let a_2 = a_block(base.x, row + 8u, l);
            s_20 += b_0 * a_2;
            s_21 += b_1 * a_2;
            let a_3 = a_block(base.x, row + 12u, l);
            s_30 += b_0 * a_3;
            s_31 += b_1 * a_3;
        }
    }
    let bias_0 = bias_quad(col);
    let bias_1 = bias_quad(col + 4u);
    let end = min(row + ROWS, p.n_rows);
    for (var r = row; r < end; r += 4u) {
        store_block(batch, r, end, col, s_00, bias_0);
        store_block(batch, r, end, col + 4u, s_01, bias_1);
        s_00 = s_10;
        s_01 = s_11;
        s_10 = s_20;
        s_11 = s_21;
        s_20 = s_30;
        s_21 = s_31;
    }
}

// ---- subgroup: eight invocations, one subgroup ----
// The block whose rows lanes 0..4, or 4..8, hold; or whose columns, if a lies along its rows.
fn upright(a: mat4x4<f32>) -> mat4x4<f32> {
    if LAYOUT != ANY && (LAYOUT & A_ROWS) != 0u {
        return transpose(a);
    }
    return a;
}

fn block_of_low(a: vec4<f32>) -> mat4x4<f32> {
    return upright(mat4x4<f32>(subgroupBroadcast(a, 0u), subgroupBroadcast(a, 1u),
                               subgroupBroadcast(a, 2u), subgroupBroadcast(a, 3u)));
}

fn block_of_high(a: vec4<f32>) -> mat4x4<f32> {
    return upright(mat4x4<f32>(subgroupBroadcast(a, 4u), subgroupBroadcast(a, 5u),
                               subgroupBroadcast(a, 6u), subgroupBroadcast(a, 7u)));
}

// This lane's part of eight rows and four inner indices of a.
fn a_of_lane(base: u32, row: u32, l: u32, lane: u32) -> vec4<f32> {
    let p = matmul_params;
    if LAYOUT != ANY && (LAYOUT & A_ROWS) != 0u {
        return a_along_rows(base, row + lane / 4u * 4u, l + lane % 4u);
    }
    return a_along_inner(base + min(row + lane, p.n_rows - 1u) * p.stride_a_row, l);
}

@compute @workgroup_size(8)
fn matmul_subgroup_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(subgroup_invocation_id) lane: u32) {
    let p = matmul_params;
    // From top to bottom, so that the columns of b stay in the cache.
    let n_row_tiles = (p.n_rows + ROWS - 1u) / ROWS;
    let n_col_tiles = (p.n_cols + 8u * COLS - 1u) / (8u * COLS);
    let id = group_id(group, n_groups);
    let row = id % n_row_tiles * ROWS;
    let col = id / n_row_tiles % n_col_tiles * 8u * COLS + lane * 4u;
    let batch = id / n_row_tiles / n_col_tiles;
    if batch >= p.n_batch {
        return;
    }
    let base = matrix_bases(p, batch);
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    var s_20 = mat4x4<f32>();
    var s_21 = mat4x4<f32>();
    var s_30 = mat4x4<f32>();
    var s_31 = mat4x4<f32>();
    var s_40 = mat4x4<f32>();
    var s_41 = mat4x4<f32>();
    var s_50 = mat4x4<f32>();
    var s_51 = mat4x4<f32>();
    var s_60 = mat4x4<f32>();
    var s_61 = mat4x4<f32>();
    var s_70 = mat4x4<f32>();
    var s_71 = mat4x4<f32>();
    for (var l = 0u; l < p.n_inner; l += 4u) {
        // All of a first: the loads end the blocks that software adapters schedule in, so b is used right where it is
        // loaded, and only a has to wait in memory. Taking the rows one by one costs a quarter of the speed there.
        let a_01 = a_of_lane(base.x, row, l, lane);
        let a_0 = block_of_low(a_01);
        let a_1 = block_of_high(a_01);
        var a_2 = mat4x4<f32>();
        var a_3 = mat4x4<f32>();
        var a_4 = mat4x4<f32>();
        var a_5 = mat4x4<f32>();
        var a_6 = mat4x4<f32>();
        var a_7 = mat4x4<f32>();
        if ROWS > 8u {
            let a_23 = a_of_lane(base.x, row + 8u, l, lane);
            let a_45 = a_of_lane(base.x, row + 16u, l, lane);
            let a_67 = a_of_lane(base.x, row + 24u, l, lane);
            a_2 = block_of_low(a_23);
            a_3 = block_of_high(a_23);
            a_4 = block_of_low(a_45);
            a_5 = block_of_high(a_45);
            a_6 = block_of_low(a_67);
            a_7 = block_of_high(a_67);
        }
        let b_0 = b_block(base.y, l, col);
        s_00 += b_0 * a_0;
        s_10 += b_0 * a_1;
        if ROWS > 8u {
            s_20 += b_0 * a_2;
            s_30 += b_0 * a_3;
            s_40 += b_0 * a_4;
            s_50 += b_0 * a_5;
            s_60 += b_0 * a_6;
            s_70 += b_0 * a_7;
        }
        if COLS > 4u {
            let b_1 = b_block(base.y, l, col + 32u);
            s_01 += b_1 * a_0;
            s_11 += b_1 * a_1;
            if ROWS > 8u {
                s_21 += b_1 * a_2;
                s_31 += b_1 * a_3;
                s_41 += b_1 * a_4;
                s_51 += b_1 * a_5;
                s_61 += b_1 * a_6;
                s_71 += b_1 * a_7;
            }
        }
    }
    let bias_0 = bias_quad(col);
    let bias_1 = bias_quad(col + 32u);
    let end = min(row + ROWS, p.n_rows);
    for (var r = row; r < end; r += 4u) {
        store_block(batch, r, end, col, s_00, bias_0);
        s_00 = s_10;
        s_10 = s_20;
        s_20 = s_30;
        s_30 = s_40;
        s_40 = s_50;
        s_50 = s_60;
        s_60 = s_70;
        if COLS > 4u {
            store_block(batch, r, end, col + 32u, s_01, bias_1);
            s_01 = s_11;
            s_11 = s_21;
            s_21 = s_31;
            s_31 = s_41;
            s_41 = s_51;
            s_51 = s_61;
            s_61 = s_71;
        }
    }
}

// ---- tiled ----
override TILE: u32 = 128u;                      // TILE * TILE / 64 invocations
const TILE_INNER: u32 = 16u;
override TILE_QUADS: u32 = TILE / 4u;
override TILE_SPAN: u32 = TILE / 8u;            // invocations along one side
override TILED_SIZE: u32 = TILE_SPAN * TILE_SPAN;
override SH_SIZE: u32 = TILE_INNER * TILE_QUADS;
var<workgroup> sh_a: array<vec4<f32>, SH_SIZE>;   // [TILE_INNER, TILE_QUADS], four rows each
var<workgroup> sh_b: array<vec4<f32>, SH_SIZE>;   // [TILE_INNER, TILE_QUADS], four columns each

// Column i is b times a_i.
fn outer(b: vec4<f32>, a: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(b * a.x, b * a.y, b * a.z, b * a.w);
}

@compute @workgroup_size(TILED_SIZE)
fn matmul_tiled_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = matmul_params;
    let n_row_tiles = (p.n_rows + TILE - 1u) / TILE;
    let n_col_tiles = (p.n_cols + TILE - 1u) / TILE;
    let id = group_id(group, n_groups);
    let row = id % n_row_tiles * TILE;
    let col = id / n_row_tiles % n_col_tiles * TILE;
    let batch = id / n_row_tiles / n_col_tiles;
    // The last row of a folded grid: the whole workgroup leaves, so the barriers below stay uniform.
    if batch >= p.n_batch {
        return;
    }
    let base = matrix_bases(p, batch);
    let x = local % TILE_SPAN;
    let y = local / TILE_SPAN;
    var s_00 = mat4x4<f32>();
    var s_01 = mat4x4<f32>();
    var s_10 = mat4x4<f32>();
    var s_11 = mat4x4<f32>();
    for (var first = 0u; first < p.n_inner; first += TILE_INNER) {
        // TILE blocks of a, its inner axis fastest, then TILE blocks of b, its columns fastest.
        for (var i = local; i < 2u * TILE; i += TILED_SIZE) {
            var block = mat4x4<f32>();
            if i < TILE {
                let l = i % 4u * 4u;
                if first + l < p.n_inner {
                    block = transpose(a_block(base.x, row + i / 4u * 4u, first + l));
                }
                let at = l * TILE_QUADS + i / 4u;
                sh_a[at] = block[0];
                sh_a[at + TILE_QUADS] = block[1];
                sh_a[at + 2u * TILE_QUADS] = block[2];
                sh_a[at + 3u * TILE_QUADS] = block[3];
            } else {
                let quad = (i - TILE) % TILE_QUADS;
                let l = (i - TILE) / TILE_QUADS * 4u;
                if first + l < p.n_inner {
                    block = b_block(base.y, first + l, col + quad * 4u);
                }
                let at = l * TILE_QUADS + quad;
                sh_b[at] = block[0];
                sh_b[at + TILE_QUADS] = block[1];
                sh_b[at + 2u * TILE_QUADS] = block[2];
                sh_b[at + 3u * TILE_QUADS] = block[3];
            }
        }
        workgroupBarrier();
        for (var l = 0u; l < TILE_INNER; l++) {
            let at = l * TILE_QUADS;
            let a_0 = sh_a[at + y];
            let a_1 = sh_a[at + y + TILE_SPAN];
            let b_0 = sh_b[at + x];
            let b_1 = sh_b[at + x + TILE_SPAN];
            s_00 += outer(b_0, a_0);
            s_01 += outer(b_1, a_0);
            s_10 += outer(b_0, a_1);
            s_11 += outer(b_1, a_1);
        }
        workgroupBarrier();
    }
    let left = col + x * 4u;
    let right = left + TILE / 2u;
    let upper = row + y * 4u;
    let lower = upper + TILE / 2u;
    store_block(batch, upper, p.n_rows, left, s_00, bias_quad(left));
    store_block(batch, upper, p.n_rows, right, s_01, bias_quad(right));
    store_block(batch, lower, p.n_rows, left, s_10, bias_quad(left));
    store_block(batch, lower, p.n_rows, right, s_11, bias_quad(right));
}

// ---- vector: n_rows is 1 ----
override QUADS: u32 = 8u;                       // column quads of one workgroup; the rest of its invocations share the sum
var<workgroup> sh_sums: array<vec4<f32>, WG_SIZE>;

@compute @workgroup_size(WG_SIZE)
fn matmul_vector_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = matmul_params;
    let n_groups_across = (p.n_cols + 4u * QUADS - 1u) / (4u * QUADS);
    let id = group_id(group, n_groups);
    let batch = id / n_groups_across;
    if batch >= p.n_batch {
        return;
    }
    let base = matrix_bases(p, batch);
    // Neighbours lie along whichever axis of b is contiguous.
    let n_slices = WG_SIZE / QUADS;
    let along = (LAYOUT & B_INNER) != 0u;
    let quad = select(local % QUADS, local / n_slices, along);
    let slice = select(local / QUADS, local % n_slices, along);
    let col = (id % n_groups_across * QUADS + quad) * 4u;
    var sums = vec4<f32>(0.0);
    for (var l = slice * 4u; l < p.n_inner; l += 4u * n_slices) {
        sums += b_block(base.y, l, col) * a_along_inner(base.x, l);
    }
    if n_slices > 1u {
        sh_sums[slice * QUADS + quad] = sums;
        for (var half = n_slices / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if slice < half {
                sums += sh_sums[(slice + half) * QUADS + quad];
                sh_sums[slice * QUADS + quad] = sums;
            }
        }
    }
    if slice == 0u {
        store_quad(batch * p.n_cols, col, sums, bias_quad(col));
    }
}
