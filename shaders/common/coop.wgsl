// Products of tiles on cooperative matrices (tensor cores): f16 panels of the operands in workgroup memory, f32 sums that
// the invocations of a subgroup hold together.
//
// A workgroup of 2 TILE invocations has TILE x TILE outputs, in TILE / 16 blocks of TILE / 2 rows x 32 columns. A subgroup
// sums one block; where there are fewer subgroups than blocks, the workgroup goes through the panels again for the rest,
// and where there are more, some only help to fill the panels: so any subgroup size is right. Whole subgroups have to
// reach a cooperative operation, so every condition around one is the same for all of a subgroup.
//
// Sums leave through workgroup memory, one matrix of each block at a time: only there can single ones be reached.
override TILE: u32 = 128u;
override COOP_SIZE: u32 = 2u * TILE;            // invocations
override N_BLOCKS: u32 = TILE / 16u;
override BLOCKS_ACROSS: u32 = TILE / 32u;
const PANEL = 32u;                              // inner indices of a panel
// Rows of a panel are 8 elements longer than what they hold: matrices are read without bank conflicts, and each of their
// rows starts at a multiple of 16 bytes, as Vulkan asks.
const STRIDE_INNER = PANEL + 8u;
override STRIDE_OUTER: u32 = TILE + 8u;
override SH_QUADS: u32 = TILE * STRIDE_INNER / 4u;
override SH_ELEMENTS: u32 = TILE * STRIDE_INNER;
override SH_SUMS: u32 = N_BLOCKS * 16u * 20u;
// Either [TILE][STRIDE_INNER], or [PANEL][STRIDE_OUTER] if the operand lies along its rows (a) or columns (b).
var<workgroup> sh_a: array<Elem4, SH_QUADS>;
var<workgroup> sh_b: array<Elem4, SH_QUADS>;
// The same for matrices of 8: Metal loads them through pointers to single elements alone.
var<workgroup> sh_a_8: array<Elem, SH_ELEMENTS>;
var<workgroup> sh_b_8: array<Elem, SH_ELEMENTS>;
var<workgroup> sh_sums: array<f32, SH_SUMS>;    // a matrix of each block, rows 4 longer than it

// The row of a (or column of b) and the inner index of the first element of a panel's quad i.
fn panel_place(i: u32, along_inner: bool) -> vec2<u32> {
    if along_inner {
        return vec2<u32>(i / (PANEL / 4u), i % (PANEL / 4u) * 4u);
    }
    return vec2<u32>(i % (TILE / 4u) * 4u, i / (TILE / 4u));
}

// Where it goes, in elements.
fn panel_element(i: u32, along_inner: bool) -> u32 {
    let place = panel_place(i, along_inner);
    if along_inner {
        return place.x * STRIDE_INNER + place.y;
    }
    return place.y * STRIDE_OUTER + place.x;
}

fn fill_a(i: u32, along_inner: bool, quad: Elem4) {
    sh_a[panel_element(i, along_inner) / 4u] = quad;
}

fn fill_b(i: u32, along_inner: bool, quad: Elem4) {
    sh_b[panel_element(i, along_inner) / 4u] = quad;
}

fn fill_a_8(i: u32, along_inner: bool, quad: Elem4) {
    let at = panel_element(i, along_inner);
    sh_a_8[at] = quad.x;
    sh_a_8[at + 1u] = quad.y;
    sh_a_8[at + 2u] = quad.z;
    sh_a_8[at + 3u] = quad.w;
}

fn fill_b_8(i: u32, along_inner: bool, quad: Elem4) {
    let at = panel_element(i, along_inner);
    sh_b_8[at] = quad.x;
    sh_b_8[at + 1u] = quad.y;
    sh_b_8[at + 2u] = quad.z;
    sh_b_8[at + 3u] = quad.w;
}

// Rows row.. and inner indices l.. of the panel of a. The stride counts quads, as the pointer is to one.
@diagnostic(off, derivative_uniformity)
fn a_16(row: u32, l: u32, along_inner: bool) -> coop_mat16x16<Elem, A> {
    if along_inner {
        return coopLoadT<coop_mat16x16<Elem, A>>(&sh_a[(row * STRIDE_INNER + l) / 4u], STRIDE_INNER / 4u);
    }
    return coopLoad<coop_mat16x16<Elem, A>>(&sh_a[(l * STRIDE_OUTER + row) / 4u], STRIDE_OUTER / 4u);
}

@diagnostic(off, derivative_uniformity)
fn b_16(l: u32, col: u32, along_inner: bool) -> coop_mat16x16<Elem, B> {
    if along_inner {
        return coopLoad<coop_mat16x16<Elem, B>>(&sh_b[(col * STRIDE_INNER + l) / 4u], STRIDE_INNER / 4u);
    }
    return coopLoadT<coop_mat16x16<Elem, B>>(&sh_b[(l * STRIDE_OUTER + col) / 4u], STRIDE_OUTER / 4u);
}

@diagnostic(off, derivative_uniformity)
fn a_8(row: u32, l: u32, along_inner: bool) -> coop_mat8x8<Elem, A> {
    if along_inner {
        return coopLoadT<coop_mat8x8<Elem, A>>(&sh_a_8[row * STRIDE_INNER + l], STRIDE_INNER);
    }
    return coopLoad<coop_mat8x8<Elem, A>>(&sh_a_8[l * STRIDE_OUTER + row], STRIDE_OUTER);
}

@diagnostic(off, derivative_uniformity)
fn b_8(l: u32, col: u32, along_inner: bool) -> coop_mat8x8<Elem, B> {
    if along_inner {
        return coopLoad<coop_mat8x8<Elem, B>>(&sh_b_8[col * STRIDE_INNER + l], STRIDE_INNER);
    }
    return coopLoadT<coop_mat8x8<Elem, B>>(&sh_b_8[l * STRIDE_OUTER + col], STRIDE_OUTER);
}

// First row and column of a block.
fn block_place(block: u32) -> vec2<u32> {
    return vec2<u32>(block / BLOCKS_ACROSS * (TILE / 2u), block % BLOCKS_ACROSS * 32u);
}

// Four sums of a row, and where they are in the tile if the matrices in sh_sums are the first ones of their blocks.
struct CoopQuad { row: u32, col: u32, sums: vec4<f32> }

// Quad i of the matrices of side x side in sh_sums, from `block` on.
fn coop_quad(i: u32, block: u32, side: u32) -> CoopQuad {
    let in_row = side / 4u;
    let b = block + i / (side * in_row);
    let row = i / in_row % side;
    let col = i % in_row * 4u;
    let at = (b * side + row) * (side + 4u) + col;
    let place = block_place(b);
    return CoopQuad(place.x + row, place.y + col,
                    vec4<f32>(sh_sums[at], sh_sums[at + 1u], sh_sums[at + 2u], sh_sums[at + 3u]));
}
