// Batched matrix product with epilogue on cooperative matrices: out_ij = act(sum_l a_il b_lj + bias_j), f16 operands, sums
// in f32. One workgroup has TILE x TILE outputs; see common/coop.wgsl for who computes what. Past the edges panels hold
// zeros, so any sizes, strides and batches are right. While a panel is multiplied, the next is on its way into registers.
override ACT: u32 = 0u;
override LAYOUT: u32 = 0u;
var<immediate> matmul_params: MatmulParams;

@group(0) @binding(0) var<storage, read> coop_a: array<Elem4>;          // [.., n_rows, n_inner]
@group(0) @binding(1) var<storage, read> coop_b: array<Elem4>;          // [.., n_inner, n_cols]
@group(0) @binding(2) var<storage, read> coop_bias: array<Elem4>;       // [n_cols]
@group(0) @binding(3) var<storage, read_write> coop_out: array<Out4>;   // [n_batch, n_rows, n_cols]

fn a_along_inner() -> bool {
    return LAYOUT == ANY || (LAYOUT & A_ROWS) == 0u;
}

fn b_along_inner() -> bool {
    return LAYOUT != ANY && (LAYOUT & B_INNER) != 0u;
}

fn a_element(base: u32, row: u32, l: u32) -> Elem {
    let p = matmul_params;
    if row >= p.n_rows || l >= p.n_inner {
        return Elem();
    }
    let i = base + row * p.stride_a_row + l * p.stride_a_inner;
    return coop_a[i / 4u][i % 4u];
}

// Quad i of the panel of a whose first row is `row` and first inner index `l`; zeros past the edges.
fn a_quad(i: u32, base: u32, row: u32, l: u32) -> Elem4 {
    let p = matmul_params;
    let at = vec2<u32>(row, l) + panel_place(i, a_along_inner());
    if LAYOUT == ANY {
        return Elem4(a_element(base, at.x, at.y), a_element(base, at.x, at.y + 1u),
                     a_element(base, at.x, at.y + 2u), a_element(base, at.x, at.y + 3u));
    }
    var quad = Elem4();
    if at.x < p.n_rows && at.y < p.n_inner {
        quad = coop_a[(base + at.x * p.stride_a_row + at.y * p.stride_a_inner) / 4u];
    }
    return quad;
}

fn b_element(base: u32, col: u32, l: u32) -> Elem {
    let p = matmul_params;
    if col >= p.n_cols || l >= p.n_inner {
        return Elem();
    }
    let i = base + l * p.stride_b_inner + col * p.stride_b_col;
    return coop_b[i / 4u][i % 4u];
}

fn b_quad(i: u32, base: u32, col: u32, l: u32) -> Elem4 {
    let p = matmul_params;
    let at = vec2<u32>(col, l) + panel_place(i, b_along_inner());
    if LAYOUT == ANY {
        return Elem4(b_element(base, at.x, at.y), b_element(base, at.x + 1u, at.y),
                     b_element(base, at.x + 2u, at.y), b_element(base, at.x + 3u, at.y));
    }
    var quad = Elem4();
    if at.x < p.n_cols && at.y < p.n_inner {
        quad = coop_b[(base + at.y * p.stride_b_inner + at.x * p.stride_b_col) / 4u];
    }
    return quad;
}

// What a workgroup works on: first elements of a and b, first row and column, number of the product.
struct Tile { base_a: u32, base_b: u32, row: u32, col: u32, batch: u32 }

fn tile_of(id: u32) -> Tile {
    let p = matmul_params;
    let n_row_tiles = (p.n_rows + TILE - 1u) / TILE;
    let n_col_tiles = (p.n_cols + TILE - 1u) / TILE;
    let batch = id / n_row_tiles / n_col_tiles;
    let base = matrix_bases(p, batch);
    return Tile(base.x, base.y, id % n_row_tiles * TILE, id / n_row_tiles % n_col_tiles * TILE, batch);
}

// Four outputs of a row.
fn store_quad(tile: Tile, row: u32, col: u32, sums: vec4<f32>) {
    let p = matmul_params;
    if row >= p.n_rows || col >= p.n_cols {
        return;
    }
    var x = sums;
    if p.bias == 1u {
        x += vec4<f32>(coop_bias[col / 4u]);
    }
    if ACT != 0u {
        x = activate4(ACT, x);
    }
    let at = (tile.batch * p.n_rows + row) * p.n_cols + col;
    if LAYOUT != ANY {
        coop_out[at / 4u] = Out4(x);
        return;
    }
    for (var j = 0u; j < min(4u, p.n_cols - col); j++) {
        coop_out[(at + j) / 4u][(at + j) % 4u] = Out(x.x);
        x = x.yzwx;
    }
}

// The matrices in sh_sums, which lie `shift` behind the first ones of the blocks first_block..end.
fn store_sums(tile: Tile, shift: vec2<u32>, first_block: u32, end: u32, side: u32, local: u32) {
    for (var i = local; i < (end - first_block) * side * side / 4u; i += COOP_SIZE) {
        let quad = coop_quad(i, first_block, side);
        store_quad(tile, tile.row + shift.x + quad.row, tile.col + shift.y + quad.col, quad.sums);
    }
}

// ---- matrices of 16 ----
@diagnostic(off, derivative_uniformity)
fn put_16(sums: coop_mat16x16<f32, C>, tile: Tile, shift: vec2<u32>, first_block: u32, n: u32, subgroup: u32, local: u32) {
    let end = min(first_block + n, N_BLOCKS);
    // Whoever reads the matrices before is done.
    workgroupBarrier();
    if first_block + subgroup < end {
        coopStoreT(sums, &sh_sums[(first_block + subgroup) * 320u], 20u);
    }
    workgroupBarrier();
    store_sums(tile, shift, first_block, end, 16u, local);
}

@compute @workgroup_size(COOP_SIZE) @diagnostic(off, derivative_uniformity)
fn matmul_coop_16_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32, @builtin(subgroup_id) subgroup: u32,
                      @builtin(num_subgroups) n_subgroups: u32) {
    let p = matmul_params;
    let tile = tile_of(group_id(group, n_groups));
    // The last row of a folded grid: the whole workgroup leaves, so the barriers below stay uniform.
    if tile.batch >= p.n_batch {
        return;
    }
    let a_inner = a_along_inner();
    let b_inner = b_along_inner();
    for (var first_block = 0u; first_block < N_BLOCKS; first_block += n_subgroups) {
        let block = first_block + subgroup;
        let place = block_place(block);
        var s_00 = coop_mat16x16<f32, C>();
        var s_01 = coop_mat16x16<f32, C>();
        var s_10 = coop_mat16x16<f32, C>();
        var s_11 = coop_mat16x16<f32, C>();
        var s_20 = coop_mat16x16<f32, C>();
        var s_21 = coop_mat16x16<f32, C>();
        var s_30 = coop_mat16x16<f32, C>();
        var s_31 = coop_mat16x16<f32, C>();
        var a_0 = a_quad(local, tile.base_a, tile.row, 0u);
        var a_1 = a_quad(local + COOP_SIZE, tile.base_a, tile.row, 0u);
        var a_2 = a_quad(local + 2u * COOP_SIZE, tile.base_a, tile.row, 0u);
        var a_3 = a_quad(local + 3u * COOP_SIZE, tile.base_a, tile.row, 0u);
        var b_0 = b_quad(local, tile.base_b, tile.col, 0u);
        var b_1 = b_quad(local + COOP_SIZE, tile.base_b, tile.col, 0u);
        var b_2 = b_quad(local + 2u * COOP_SIZE, tile.base_b, tile.col, 0u);
        var b_3 = b_quad(local + 3u * COOP_SIZE, tile.base_b, tile.col, 0u);
        for (var first = 0u; first < p.n_inner; first += PANEL) {
            fill_a(local, a_inner, a_0);
            fill_a(local + COOP_SIZE, a_inner, a_1);
            fill_a(local + 2u * COOP_SIZE, a_inner, a_2);
            fill_a(local + 3u * COOP_SIZE, a_inner, a_3);
            fill_b(local, b_inner, b_0);
            fill_b(local + COOP_SIZE, b_inner, b_1);
            fill_b(local + 2u * COOP_SIZE, b_inner, b_2);
            fill_b(local + 3u * COOP_SIZE, b_inner, b_3);
            workgroupBarrier();
            let next = first + PANEL;
            a_0 = a_quad(local, tile.base_a, tile.row, next);
            a_1 = a_quad(local + COOP_SIZE, tile.base_a, tile.row, next);
            a_2 = a_quad(local + 2u * COOP_SIZE, tile.base_a, tile.row, next);
            a_3 = a_quad(local + 3u * COOP_SIZE, tile.base_a, tile.row, next);
            b_0 = b_quad(local, tile.base_b, tile.col, next);
            b_1 = b_quad(local + COOP_SIZE, tile.base_b, tile.col, next);
            b_2 = b_quad(local + 2u * COOP_SIZE, tile.base_b, tile.col, next);
            b_3 = b_quad(local + 3u * COOP_SIZE, tile.base_b, tile.col, next);
            if block < N_BLOCKS {
                for (var l = 0u; l < PANEL; l += 16u) {
                    let y_0 = b_16(l, place.y, b_inner);
                    let y_1 = b_16(l, place.y + 16u, b_inner);
                    let x_0 = a_16(place.x, l, a_inner);
                    s_00 = coopMultiplyAdd(x_0, y_0, s_00);
                    s_01 = coopMultiplyAdd(x_0, y_1, s_01);
                    let x_1 = a_16(place.x + 16u, l, a_inner);
                    s_10 = coopMultiplyAdd(x_1, y_0, s_10);
                    s_11 = coopMultiplyAdd(x_1, y_1, s_11);
                    if TILE > 64u {
                        let x_2 = a_16(place.x + 32u, l, a_inner);
                        s_20 = coopMultiplyAdd(x_2, y_0, s_20);
                        s_21 = coopMultiplyAdd(x_2, y_1, s_21);
                        let x_3 = a_16(place.x + 48u, l, a_inner);
                        s_30 = coopMultiplyAdd(x_3, y_0, s_30);
                        s_31 = coopMultiplyAdd(x_3, y_1, s_31);
                    }
                }
            }
            workgroupBarrier();
        }
        put_16(s_00, tile, vec2<u32>(0u, 0u), first_block, n_subgroups, subgroup, local);
        put_16(s_01, tile, vec2<u32>(0u, 16u), first_block, n_subgroups, subgroup, local);
        put_16(s_10, tile, vec2<u32>(16u, 0u), first_block, n_subgroups, subgroup, local);
        put_16(s_11, tile, vec2<u32>(16u, 16u), first_block, n_subgroups, subgroup, local);
        if TILE > 64u {
            put_16(s_20, tile, vec2<u32>(32u, 0u), first_block, n_subgroups, subgroup, local);
            put_16(s_21, tile, vec2<u32>(32u, 16u), first_block, n_subgroups, subgroup, local);
            put_16(s_30, tile, vec2<u32>(48u, 0u), first_block, n_subgroups, subgroup, local);
            put_16(s_31, tile, vec2<u32>(48u, 16u), first_block, n_subgroups, subgroup, local);
        }
    }
}

// ---- matrices of 8: TILE is 64, blocks have 4 x 4 of them ----
@diagnostic(off, derivative_uniformity)
fn put_8(sums: coop_mat8x8<f32, C>, tile: Tile, shift: vec2<u32>, first_block: u32, n: u32, subgroup: u32, local: u32) {
    let end = min(first_block + n, N_BLOCKS);
    workgroupBarrier();
    if first_block + subgroup < end {
        coopStoreT(sums, &sh_sums[(first_block + subgroup) * 96u], 12u);
    }
    workgroupBarrier();
    store_sums(tile, shift, first_block, end, 8u, local);
}

@compute @workgroup_size(COOP_SIZE) @diagnostic(off, derivative_uniformity)
fn matmul_coop_8_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32, @builtin(subgroup_id) subgroup: u32,
                     @builtin(num_subgroups) n_subgroups: u32) {
    let p = matmul_params;
    let tile = tile_of(group_id(group, n_groups));
    if tile.batch >= p.n_batch {
        return;
    }
    let a_inner = a_along_inner();
    let b_inner = b_along_inner();
    for (var first_block = 0u; first_block < N_BLOCKS; first_block += n_subgroups) {
        let block = first_block + subgroup;
        let place = block_place(block);
        var s_00 = coop_mat8x8<f32, C>();
        var s_01 = coop_mat8x8<f32, C>();
        var s_02 = coop_mat8x8<f32, C>();
        var s_03 = coop_mat8x8<f32, C>();
        var s_10 = coop_mat8x8<f32, C>();
        var s_11 = coop_mat8x8<f32, C>();
        var s_12 = coop_mat8x8<f32, C>();
        var s_13 = coop_mat8x8<f32, C>();
        var s_20 = coop_mat8x8<f32, C>();
        var s_21 = coop_mat8x8<f32, C>();
        var s_22 = coop_mat8x8<f32, C>();
        var s_23 = coop_mat8x8<f32, C>();
        var s_30 = coop_mat8x8<f32, C>();
        var s_31 = coop_mat8x8<f32, C>();
        var s_32 = coop_mat8x8<f32, C>();
        var s_33 = coop_mat8x8<f32, C>();
        var a_0 = a_quad(local, tile.base_a, tile.row, 0u);
        var a_1 = a_quad(local + COOP_SIZE, tile.base_a, tile.row, 0u);
        var a_2 = a_quad(local + 2u * COOP_SIZE, tile.base_a, tile.row, 0u);
        var a_3 = a_quad(local + 3u * COOP_SIZE, tile.base_a, tile.row, 0u);
        var b_0 = b_quad(local, tile.base_b, tile.col, 0u);
        var b_1 = b_quad(local + COOP_SIZE, tile.base_b, tile.col, 0u);
        var b_2 = b_quad(local + 2u * COOP_SIZE, tile.base_b, tile.col, 0u);
        var b_3 = b_quad(local + 3u * COOP_SIZE, tile.base_b, tile.col, 0u);
        for (var first = 0u; first < p.n_inner; first += PANEL) {
            fill_a_8(local, a_inner, a_0);
            fill_a_8(local + COOP_SIZE, a_inner, a_1);
            fill_a_8(local + 2u * COOP_SIZE, a_inner, a_2);
            fill_a_8(local + 3u * COOP_SIZE, a_inner, a_3);
            fill_b_8(local, b_inner, b_0);
            fill_b_8(local + COOP_SIZE, b_inner, b_1);
            fill_b_8(local + 2u * COOP_SIZE, b_inner, b_2);
            fill_b_8(local + 3u * COOP_SIZE, b_inner, b_3);
            workgroupBarrier();
            let next = first + PANEL;
            a_0 = a_quad(local, tile.base_a, tile.row, next);
            a_1 = a_quad(local + COOP_SIZE, tile.base_a, tile.row, next);
            a_2 = a_quad(local + 2u * COOP_SIZE, tile.base_a, tile.row, next);
            a_3 = a_quad(local + 3u * COOP_SIZE, tile.base_a, tile.row, next);
            b_0 = b_quad(local, tile.base_b, tile.col, next);
            b_1 = b_quad(local + COOP_SIZE, tile.base_b, tile.col, next);
            b_2 = b_quad(local + 2u * COOP_SIZE, tile.base_b, tile.col, next);
            b_3 = b_quad(local + 3u * COOP_SIZE, tile.base_b, tile.col, next);
            if block < N_BLOCKS {
                for (var l = 0u; l < PANEL; l += 8u) {
                    let y_0 = b_8(l, place.y, b_inner);
                    let y_1 = b_8(l, place.y + 8u, b_inner);
                    let y_2 = b_8(l, place.y + 16u, b_inner);
                    let y_3 = b_8(l, place.y + 24u, b_inner);
                    let x_0 = a_8(place.x, l, a_inner);
                    s_00 = coopMultiplyAdd(x_0, y_0, s_00);
                    s_01 = coopMultiplyAdd(x_0, y_1, s_01);
                    s_02 = coopMultiplyAdd(x_0, y_2, s_02);
                    s_03 = coopMultiplyAdd(x_0, y_3, s_03);
                    let x_1 = a_8(place.x + 8u, l, a_inner);
                    s_10 = coopMultiplyAdd(x_1, y_0, s_10);
                    s_11 = coopMultiplyAdd(x_1, y_1, s_11);
                    s_12 = coopMultiplyAdd(x_1, y_2, s_12);
                    s_13 = coopMultiplyAdd(x_1, y_3, s_13);
                    let x_2 = a_8(place.x + 16u, l, a_inner);
                    s_20 = coopMultiplyAdd(x_2, y_0, s_20);
                    s_21 = coopMultiplyAdd(x_2, y_1, s_21);
                    s_22 = coopMultiplyAdd(x_2, y_2, s_22);
                    s_23 = coopMultiplyAdd(x_2, y_3, s_23);
                    let x_3 = a_8(place.x + 24u, l, a_inner);
                    s_30 = coopMultiplyAdd(x_3, y_0, s_30);
                    s_31 = coopMultiplyAdd(x_3, y_1, s_31);
                    s_32 = coopMultiplyAdd(x_3, y_2, s_32);
                    s_33 = coopMultiplyAdd(x_3, y_3, s_33);
                }
            }
            workgroupBarrier();
        }
        put_8(s_00, tile, vec2<u32>(0u, 0u), first_block, n_subgroups, subgroup, local);
        put_8(s_01, tile, vec2<u32>(0u, 8u), first_block, n_subgroups, subgroup, local);
        put_8(s_02, tile, vec2<u32>(0u, 16u), first_block, n_subgroups, subgroup, local);
        put_8(s_03, tile, vec2<u32>(0u, 24u), first_block, n_subgroups, subgroup, local);
        put_8(s_10, tile, vec2<u32>(8u, 0u), first_block, n_subgroups, subgroup, local);
        put_8(s_11, tile, vec2<u32>(8u, 8u), first_block, n_subgroups, subgroup, local);
        put_8(s_12, tile, vec2<u32>(8u, 16u), first_block, n_subgroups, subgroup, local);
        put_8(s_13, tile, vec2<u32>(8u, 24u), first_block, n_subgroups, subgroup, local);
        put_8(s_20, tile, vec2<u32>(16u, 0u), first_block, n_subgroups, subgroup, local);
        put_8(s_21, tile, vec2<u32>(16u, 8u), first_block, n_subgroups, subgroup, local);
        put_8(s_22, tile, vec2<u32>(16u, 16u), first_block, n_subgroups, subgroup, local);
        put_8(s_23, tile, vec2<u32>(16u, 24u), first_block, n_subgroups, subgroup, local);
        put_8(s_30, tile, vec2<u32>(24u, 0u), first_block, n_subgroups, subgroup, local);
        put_8(s_31, tile, vec2<u32>(24u, 8u), first_block, n_subgroups, subgroup, local);
        put_8(s_32, tile, vec2<u32>(24u, 16u), first_block, n_subgroups, subgroup, local);
        put_8(s_33, tile, vec2<u32>(24u, 24u), first_block, n_subgroups, subgroup, local);
    }
}
