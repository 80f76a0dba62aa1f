// Convolution of conv.wgsl as a product on cooperative matrices: rows are output pixels, columns output channels, and the
// inner axis goes over (tap row, tap column, input channel), f16 operands, sums in f32. One group; channels in fours, in
// and out, so that four inner indices are four channels of one pixel. One workgroup has TILE pixels x TILE channels; see
// common/coop.wgsl for who computes what. Panels hold zeros outside the image and past the edges.
override ACT: u32 = 0u;
var<immediate> conv_params: ConvParams;

@group(0) @binding(0) var<storage, read> conv_x: array<Elem4>;            // [n, h, w, ci]
@group(0) @binding(1) var<storage, read> conv_w: array<Elem4>;            // [kh, kw, ci, co]
@group(0) @binding(2) var<storage, read> conv_bias: array<Elem4>;         // [co]
@group(0) @binding(3) var<storage, read> conv_residual: array<Elem4>;     // [n, ho, wo, co]
@group(0) @binding(4) var<storage, read_write> conv_out: array<Elem4>;    // [n, ho, wo, co]

// The top left pixel of an output pixel's window, and the first pixel of its image.
struct ConvWindow { y: u32, x: u32, image: u32 }

// The window that quad i of every panel belongs to; one outside the image for pixels past the last.
fn conv_window(i: u32, first_pixel: u32) -> ConvWindow {
    let p = conv_params;
    let pixel = first_pixel + panel_place(i, true).x;
    let row = pixel / p.wo;
    let start = vec2<u32>(row % p.ho, pixel % p.wo) * conv_pair(p.stride) - conv_pair(p.padding);
    let past = pixel >= p.n_pixels;
    return ConvWindow(select(start.x, 0x7fffffffu, past), start.y, row / p.ho * p.h * p.w);
}

// Where a tap lies in its window, in pixels, and the channel; outside every image for inner indices past the last.
struct ConvTap { y: u32, x: u32, channel: u32 }

fn conv_tap(l: u32) -> ConvTap {
    let p = conv_params;
    let kernel = conv_pair(p.kernel);
    let dilation = conv_pair(p.dilation);
    let tap = l / p.ci;
    let r = tap / kernel.y;
    return ConvTap(select(r * dilation.x, 0x3fffffffu, r >= kernel.x), tap % kernel.y * dilation.y, l % p.ci);
}

fn x_quad(window: ConvWindow, tap: ConvTap) -> Elem4 {
    let p = conv_params;
    let y = window.y + tap.y;
    let x = window.x + tap.x;
    var quad = Elem4();
    // Positions left of and above the image have wrapped to large numbers.
    if y < p.h && x < p.w {
        quad = conv_x[((window.image + y * p.w + x) * p.ci + tap.channel) / 4u];
    }
    return quad;
}

fn w_quad(i: u32, col: u32, l: u32, n_inner: u32) -> Elem4 {
    let p = conv_params;
    let at = vec2<u32>(col, l) + panel_place(i, false);
    var quad = Elem4();
    if at.x < p.co && at.y < n_inner {
        quad = conv_w[(at.y * p.co + at.x) / 4u];
    }
    return quad;
}

fn store_quad(pixel: u32, channel: u32, sums: vec4<f32>) {
    let p = conv_params;
    if pixel >= p.n_pixels || channel >= p.co {
        return;
    }
    let at = (pixel * p.co + channel) / 4u;
    var x = sums;
    if (p.operands & BIAS) != 0u {
        x += vec4<f32>(conv_bias[channel / 4u]);
    }
    if (p.operands & RESIDUAL) != 0u {
        x += vec4<f32>(conv_residual[at]);
    }
    conv_out[at] = Elem4(activate4(ACT, x));
}

// The matrices of the blocks first_block.. go out; `first` is the pixel and the channel of the first one of block 0.
@diagnostic(off, derivative_uniformity)
fn put_16(sums: coop_mat16x16<f32, C>, first: vec2<u32>, first_block: u32, n: u32, subgroup: u32, local: u32) {
    let end = min(first_block + n, N_BLOCKS);
    // Whoever reads the matrices before is done.
    workgroupBarrier();
    if first_block + subgroup < end {
        coopStoreT(sums, &sh_sums[(first_block + subgroup) * 320u], 20u);
    }
    workgroupBarrier();
    for (var i = local; i < (end - first_block) * 64u; i += COOP_SIZE) {
        let quad = coop_quad(i, first_block, 16u);
        store_quad(first.x + quad.row, first.y + quad.col, quad.sums);
    }
}

@compute @workgroup_size(COOP_SIZE) @diagnostic(off, derivative_uniformity)
fn conv_coop_16_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32, @builtin(subgroup_id) subgroup: u32,
                    @builtin(num_subgroups) n_subgroups: u32) {
    let p = conv_params;
    let id = group_id(group, n_groups);
    // Neighbours share pixels.
    let pixel = id / p.n_blocks * TILE;
    let channel = id % p.n_blocks * TILE;
    // The last row of a folded grid: the whole workgroup leaves, so the barriers below stay uniform.
    if pixel >= p.n_pixels {
        return;
    }
    let kernel = conv_pair(p.kernel);
    let n_inner = kernel.x * kernel.y * p.ci;
    let window_0 = conv_window(local, pixel);
    let window_1 = conv_window(local + COOP_SIZE, pixel);
    let window_2 = conv_window(local + 2u * COOP_SIZE, pixel);
    let window_3 = conv_window(local + 3u * COOP_SIZE, pixel);
    // All four quads of x lie at one inner index, as whole rows of them are between two.
    let inner = panel_place(local, true).y;
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
        var tap = conv_tap(inner);
        var a_0 = x_quad(window_0, tap);
        var a_1 = x_quad(window_1, tap);
        var a_2 = x_quad(window_2, tap);
        var a_3 = x_quad(window_3, tap);
        var b_0 = w_quad(local, channel, 0u, n_inner);
        var b_1 = w_quad(local + COOP_SIZE, channel, 0u, n_inner);
        var b_2 = w_quad(local + 2u * COOP_SIZE, channel, 0u, n_inner);
        var b_3 = w_quad(local + 3u * COOP_SIZE, channel, 0u, n_inner);
        for (var first = 0u; first < n_inner; first += PANEL) {
            fill_a(local, true, a_0);
            fill_a(local + COOP_SIZE, true, a_1);
            fill_a(local + 2u * COOP_SIZE, true, a_2);
            fill_a(local + 3u * COOP_SIZE, true, a_3);
            fill_b(local, false, b_0);
            fill_b(local + COOP_SIZE, false, b_1);
            fill_b(local + 2u * COOP_SIZE, false, b_2);
            fill_b(local + 3u * COOP_SIZE, false, b_3);
            workgroupBarrier();
            let next = first + PANEL;
            tap = conv_tap(next + inner);
            a_0 = x_quad(window_0, tap);
            a_1 = x_quad(window_1, tap);
            a_2 = x_quad(window_2, tap);
            a_3 = x_quad(window_3, tap);
            b_0 = w_quad(local, channel, next, n_inner);
            b_1 = w_quad(local + COOP_SIZE, channel, next, n_inner);
            b_2 = w_quad(local + 2u * COOP_SIZE, channel, next, n_inner);
            b_3 = w_quad(local + 3u * COOP_SIZE, channel, next, n_inner);
            // As in matmul_coop.wgsl: sums stay in variables of their own, the plainest form for drivers that are new to
            // these matrices.
            if block < N_BLOCKS {
                for (var l = 0u; l < PANEL; l += 16u) {
                    let y_0 = b_16(l, place.y, false);
                    let y_1 = b_16(l, place.y + 16u, false);
                    let x_0 = a_16(place.x, l, true);
                    s_00 = coopMultiplyAdd(x_0, y_0, s_00);
                    s_01 = coopMultiplyAdd(x_0, y_1, s_01);
                    let x_1 = a_16(place.x + 16u, l, true);
                    s_10 = coopMultiplyAdd(x_1, y_0, s_10);
                    s_11 = coopMultiplyAdd(x_1, y_1, s_11);
                    if TILE > 64u {
                        let x_2 = a_16(place.x + 32u, l, true);
                        s_20 = coopMultiplyAdd(x_2, y_0, s_20);
                        s_21 = coopMultiplyAdd(x_2, y_1, s_21);
                        let x_3 = a_16(place.x + 48u, l, true);
                        s_30 = coopMultiplyAdd(x_3, y_0, s_30);
                        s_31 = coopMultiplyAdd(x_3, y_1, s_31);
                    }
                }
            }
            workgroupBarrier();
        }
        let first = vec2<u32>(pixel, channel);
        put_16(s_00, first, first_block, n_subgroups, subgroup, local);
        put_16(s_01, first + vec2<u32>(0u, 16u), first_block, n_subgroups, subgroup, local);
        put_16(s_10, first + vec2<u32>(16u, 0u), first_block, n_subgroups, subgroup, local);
        put_16(s_11, first + vec2<u32>(16u, 16u), first_block, n_subgroups, subgroup, local);
        if TILE > 64u {
            put_16(s_20, first + vec2<u32>(32u, 0u), first_block, n_subgroups, subgroup, local);
            put_16(s_21, first + vec2<u32>(32u, 16u), first_block, n_subgroups, subgroup, local);
            put_16(s_30, first + vec2<u32>(48u, 0u), first_block, n_subgroups, subgroup, local);
            put_16(s_31, first + vec2<u32>(48u, 16u), first_block, n_subgroups, subgroup, local);
        }
    }
}
