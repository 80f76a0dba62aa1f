// Gradients of the convolution of conv.wgsl, from that of its result, d_out [n, ho, wo, co]:
//   d_x[n, y, x, c]  = sum over taps (r, s) that reach the pixel, and o, of d_out[n, (y + ph - r dh) / sh, .., o] w[r, s, c, o]
//   d_w[r, s, c, o]  = sum over output pixels of x[n, y sh - ph + r dh, x sw - pw + s dw, c] d_out[n, y, x, o]
// d_x. With a stride of 1 it is a convolution of d_out by the weights turned around; with a larger one the pixels of one
// remainder by the stride are one by some of the taps. So the forward kernels compute it, between two small ones:
//   turn        the taps of one remainder, turned around, channels in and out swapped
//   weave       the results of the remainders, at most 2 x 2, to one image
//   plain       one invocation per element, any shape
// d_w. Rows are (tap, input channel), columns output channels; the pixels are split, and the parts summed afterwards.
//   plain       one invocation per element and part, any shape
//   subgroup    8 invocations x ROWS rows x 16 channels, four pixels at a time, d_out loaded once and broadcast
//   window3     windows of 3 x 3 taps side by side: neighbouring pixels share what they look at
//   tile        64 rows x 64 channels per workgroup through workgroup memory, any shape
//   depthwise   one input channel per output channel: 3 x 3 taps x 4 channels per invocation
override WG_SIZE: u32 = 64u;

fn conv_pair(packed: u32) -> vec2<u32> {
    return vec2<u32>(packed & 0xffffu, packed >> 16u);
}

// ---- turn: one invocation per weight ----
struct ConvTurnParams {
    n_out: u32,
    kernel_w: u32, ci: u32, co: u32,
    ci_group: u32, co_group: u32,           // channels of a group
    taps: u32, first: u32, step: u32,       // pairs, height in the low half: how many taps, the first, from one to the next
}
var<immediate> conv_turn_params: ConvTurnParams;
@group(0) @binding(0) var<storage, read> conv_turn_w: array<Elem>;              // [kh, kw, ci_group, co]
@group(0) @binding(1) var<storage, read_write> conv_turn_out: array<Elem>;      // [taps, co_group, ci]

@compute @workgroup_size(WG_SIZE)
fn conv_turn_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = conv_turn_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_out {
        return;
    }
    let taps = conv_pair(p.taps);
    let row = i / p.ci;
    let c = i - row * p.ci;
    let tap = row / p.co_group;
    let g = c / p.ci_group;
    let turned = taps - 1u - vec2<u32>(tap / taps.y, tap % taps.y);
    let at = conv_pair(p.first) + turned * conv_pair(p.step);
    let o = g * p.co_group + row - tap * p.co_group;
    conv_turn_out[i] = conv_turn_w[((at.x * p.kernel_w + at.y) * p.ci_group + c - g * p.ci_group) * p.co + o];
}

// ---- weave: LANES invocations per block of sh x sw pixels ----
struct ConvWeaveParams {
    n_blocks: u32, n_lanes: u32,
    h: u32, w: u32,
    c: u32,                                 // elements per pixel, or vec4s
    stride: u32,                            // pair of 1 and 2
    given: u32,                             // bit 2 b + a: the pixels with y % sh = b, x % sw = a are not all zero
}
var<immediate> conv_weave_params: ConvWeaveParams;
@group(0) @binding(0) var<storage, read> conv_weave_00: array<Elem>;            // [n, ceil((h - b) / sh), ceil((w - a) / sw), c]
@group(0) @binding(1) var<storage, read> conv_weave_01: array<Elem>;
@group(0) @binding(2) var<storage, read> conv_weave_10: array<Elem>;
@group(0) @binding(3) var<storage, read> conv_weave_11: array<Elem>;
@group(0) @binding(4) var<storage, read_write> conv_weave_out: array<Elem>;     // [n, h, w, c]
@group(0) @binding(0) var<storage, read> conv_weave4_00: array<Elem4>;
@group(0) @binding(1) var<storage, read> conv_weave4_01: array<Elem4>;
@group(0) @binding(2) var<storage, read> conv_weave4_10: array<Elem4>;
@group(0) @binding(3) var<storage, read> conv_weave4_11: array<Elem4>;
@group(0) @binding(4) var<storage, read_write> conv_weave4_out: array<Elem4>;

// Where a block starts in the results of the four remainders and in the image, and which of its pixels there are; the
// first always is.
struct ConvBlock { source: vec4<u32>, place: vec4<u32>, inside: vec4<bool>, given: vec4<bool> }

fn conv_weave_block(block: u32) -> ConvBlock {
    let p = conv_weave_params;
    let stride = conv_pair(p.stride);
    let down = (p.h + stride.x - 1u) / stride.x;
    let across = (p.w + stride.y - 1u) / stride.y;
    let row = block / across;
    let x = block - row * across;
    let image = row / down;
    let y = row - image * down;
    let b = vec4<u32>(0u, 0u, 1u, 1u);
    let a = vec4<u32>(0u, 1u, 0u, 1u);
    let rows = (p.h + stride.x - 1u - b) / stride.x;
    let columns = (p.w + stride.y - 1u - a) / stride.y;
    let top = y * stride.x + b;
    let left = x * stride.y + a;
    var out: ConvBlock;
    out.source = ((image * rows + y) * columns + x) * p.c;
    out.place = ((image * p.h + top) * p.w + left) * p.c;
    out.inside = (b < vec4<u32>(stride.x)) & (a < vec4<u32>(stride.y)) & (top < vec4<u32>(p.h)) & (left < vec4<u32>(p.w));
    out.given = (vec4<u32>(p.given) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u);
    return out;
}

@compute @workgroup_size(WG_SIZE)
fn conv_weave_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = conv_weave_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let id = i / p.n_lanes;
    if id >= p.n_blocks {
        return;
    }
    let block = conv_weave_block(id);
    for (var c = i - id * p.n_lanes; c < p.c; c += p.n_lanes) {
        conv_weave_out[block.place.x + c] = select(Elem(0.0), conv_weave_00[select(0u, block.source.x + c, block.given.x)], block.given.x);
        if block.inside.y {
            conv_weave_out[block.place.y + c] = select(Elem(0.0), conv_weave_01[select(0u, block.source.y + c, block.given.y)], block.given.y);
        }
        if block.inside.z {
            conv_weave_out[block.place.z + c] = select(Elem(0.0), conv_weave_10[select(0u, block.source.z + c, block.given.z)], block.given.z);
        }
        if block.inside.w {
            conv_weave_out[block.place.w + c] = select(Elem(0.0), conv_weave_11[select(0u, block.source.w + c, block.given.w)], block.given.w);
        }
    }
}

@compute @workgroup_size(WG_SIZE)
fn conv_weave_vec4_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = conv_weave_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let id = i / p.n_lanes;
    if id >= p.n_blocks {
        return;
    }
    let block = conv_weave_block(id);
    let zero = Elem4(vec4<f32>(0.0));
    for (var c = i - id * p.n_lanes; c < p.c; c += p.n_lanes) {
        conv_weave4_out[block.place.x + c] = select(zero, conv_weave4_00[select(0u, block.source.x + c, block.given.x)], block.given.x);
        if block.inside.y {
            conv_weave4_out[block.place.y + c] = select(zero, conv_weave4_01[select(0u, block.source.y + c, block.given.y)], block.given.y);
        }
        if block.inside.z {
            conv_weave4_out[block.place.z + c] = select(zero, conv_weave4_10[select(0u, block.source.z + c, block.given.z)], block.given.z);
        }
        if block.inside.w {
            conv_weave4_out[block.place.w + c] = select(zero, conv_weave4_11[select(0u, block.source.w + c, block.given.w)], block.given.w);
        }
    }
}

// ---- what the others share ----
struct ConvBwdParams {
    n_pixels: u32,                          // of d_x for its gradient: n h w; else of d_out: n ho wo
    h: u32, w: u32, ci: u32,
    ho: u32, wo: u32, co: u32,
    ci_group: u32, co_group: u32,           // channels of a group
    kernel: u32, stride: u32,               // pairs: height in the low half, width in the high half
    padding: u32, dilation: u32,
    n_parts: u32, part: u32,                // parts of the pixels, and pixels of a part
    n_blocks: u32,                          // blocks of output channels over all groups
}
var<immediate> conv_bwd_params: ConvBwdParams;

// ---- d_x, plain ----
@group(0) @binding(0) var<storage, read> conv_bwd_x_d_out: array<Elem>;         // [n, ho, wo, co]
@group(0) @binding(1) var<storage, read> conv_bwd_x_w: array<Elem>;             // [kh, kw, ci_group, co]
@group(0) @binding(2) var<storage, read_write> conv_bwd_x_d_x: array<Elem>;     // [n, h, w, ci]

@compute @workgroup_size(WG_SIZE)
fn conv_plain_bwd_x(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = conv_bwd_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_pixels * p.ci {
        return;
    }
    let pixel = i / p.ci;
    let c = i - pixel * p.ci;
    let row = pixel / p.w;
    let image = row / p.h;
    let g = c / p.ci_group;
    let kernel = conv_pair(p.kernel);
    let stride = conv_pair(p.stride);
    let dilation = conv_pair(p.dilation);
    let padded = vec2<u32>(row - image * p.h, pixel - row * p.w) + conv_pair(p.padding);
    var sum = 0.0;
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let step = vec2<u32>(r, s) * dilation;
            let at = (padded - step) / stride;
            let hits = all(padded >= step) && all(at * stride + step == padded);
            if hits && at.x < p.ho && at.y < p.wo {
                let d = ((image * p.ho + at.x) * p.wo + at.y) * p.co + g * p.co_group;
                let w = ((r * kernel.y + s) * p.ci_group + c - g * p.ci_group) * p.co + g * p.co_group;
                for (var o = 0u; o < p.co_group; o++) {
                    sum += f32(conv_bwd_x_d_out[d + o]) * f32(conv_bwd_x_w[w + o]);
                }
            }
        }
    }
    conv_bwd_x_d_x[i] = Elem(sum);
}

// ---- d_w ----
@group(0) @binding(0) var<storage, read> conv_bwd_w_x: array<Elem>;             // [n, h, w, ci]
@group(0) @binding(1) var<storage, read> conv_bwd_w_d_out: array<Elem>;         // [n, ho, wo, co]
@group(0) @binding(2) var<storage, read_write> conv_bwd_w_part: array<f32>;     // [n_parts, kh, kw, ci_group, co]
@group(0) @binding(0) var<storage, read> conv_bwd_w_x4: array<Elem4>;           // the same, channels in fours
@group(0) @binding(1) var<storage, read> conv_bwd_w_d_out4: array<Elem4>;
@group(0) @binding(2) var<storage, read_write> conv_bwd_w_part4: array<vec4<f32>>;

// An output pixel: its image, row, column; counted on, as that is cheaper than dividing each time.
struct ConvPixel { image: u32, y: u32, x: u32 }

fn conv_pixel(pixel: u32) -> ConvPixel {
    let p = conv_bwd_params;
    let row = pixel / p.wo;
    let image = row / p.ho;
    return ConvPixel(image, row - image * p.ho, pixel - row * p.wo);
}

fn conv_next(pixel: ConvPixel) -> ConvPixel {
    let p = conv_bwd_params;
    var next = pixel;
    next.x += 1u;
    let last_x = next.x == p.wo;
    next.x = select(next.x, 0u, last_x);
    next.y += select(0u, 1u, last_x);
    let last_y = next.y == p.ho;
    next.y = select(next.y, 0u, last_y);
    next.image += select(0u, 1u, last_y);
    return next;
}

// Top left pixel of a window as row, column and position in x, whose pixels have `channels` elements or vec4s; outside the
// image for pixels that are not `there`.
fn conv_window(pixel: ConvPixel, there: bool, channels: u32) -> vec3<u32> {
    let p = conv_bwd_params;
    let at = vec2<u32>(pixel.y, pixel.x) * conv_pair(p.stride) - conv_pair(p.padding);
    return vec3<u32>(select(0x7fffffffu, at.x, there), at.y, ((pixel.image * p.h + at.x) * p.w + at.y) * channels);
}

// Row m of the weights: rows and columns from the window's corner to the tap, and its channel's position from there.
fn conv_weight_row(m: u32) -> vec3<u32> {
    let p = conv_bwd_params;
    let kernel_w = conv_pair(p.kernel).y;
    let tap = m / p.ci_group;
    let r = tap / kernel_w;
    let step = vec2<u32>(r, tap - r * kernel_w) * conv_pair(p.dilation);
    return vec3<u32>(step, (step.x * p.w + step.y) * p.ci + m - tap * p.ci_group);
}

fn conv_n_rows() -> u32 {
    let kernel = conv_pair(conv_bwd_params.kernel);
    return kernel.x * kernel.y * conv_bwd_params.ci_group;
}

fn conv_x_at(window: vec3<u32>, row: vec3<u32>) -> f32 {
    let p = conv_bwd_params;
    let inside = window.x + row.x < p.h && window.y + row.y < p.w;
    return select(0.0, f32(conv_bwd_w_x[select(0u, window.z + row.z, inside)]), inside);
}

@compute @workgroup_size(WG_SIZE)
fn conv_plain_bwd_w(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = conv_bwd_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let n_rows = conv_n_rows();
    let line = i / p.co;
    let part = line / n_rows;
    if part >= p.n_parts {
        return;
    }
    let o = i - line * p.co;
    var row = conv_weight_row(line - part * n_rows);
    row.z += o / p.co_group * p.ci_group;
    let end = min((part + 1u) * p.part, p.n_pixels);
    var at = conv_pixel(part * p.part);
    var sum = 0.0;
    for (var pixel = part * p.part; pixel < end; pixel++) {
        sum += conv_x_at(conv_window(at, true, p.ci), row) * f32(conv_bwd_w_d_out[pixel * p.co + o]);
        at = conv_next(at);
    }
    conv_bwd_w_part[i] = sum;
}

// ---- subgroup: rows m, m + 8, .. of a block of 8 ROWS, by 16 channels of a group ----
override ROWS: u32 = 9u;     // 9 or 4

// What a workgroup computes: part of the pixels, first row, channels in fours, and the group's first input channel.
struct ConvWeightBlock { part: u32, m: u32, o4: u32, end4: u32, first: u32 }

fn conv_weight_block(id: u32) -> ConvWeightBlock {
    let p = conv_bwd_params;
    let co4 = p.co_group / 4u;
    let in_group = (co4 + 3u) / 4u;
    let n_row_blocks = (conv_n_rows() + 8u * ROWS - 1u) / (8u * ROWS);
    let line = id / p.n_blocks;
    let block = id - line * p.n_blocks;
    let part = line / n_row_blocks;
    let g = block / in_group;
    return ConvWeightBlock(part, (line - part * n_row_blocks) * 8u * ROWS, g * co4 + block % in_group * 4u, (g + 1u) * co4,
                           g * p.ci_group);
}

alias ConvRows = array<vec3<u32>, 9>;
alias ConvWeightSums = array<mat4x4<f32>, 9>;

fn conv_lane_rows(block: ConvWeightBlock, lane: u32) -> ConvRows {
    let last = conv_n_rows() - 1u;
    var rows: ConvRows;
    for (var j = 0u; j < 9u; j++) {
        rows[j] = conv_weight_row(min(block.m + 8u * j + lane, last));
        rows[j].z += block.first;
    }
    return rows;
}

// 16 channels of d_out at four pixels.
struct ConvPanel { p0: mat4x4<f32>, p1: mat4x4<f32>, p2: mat4x4<f32>, p3: mat4x4<f32> }
struct ConvFour { a: vec3<u32>, b: vec3<u32>, c: vec3<u32>, d: vec3<u32> }

fn conv_weight_mac(panel: ConvPanel, four: ConvFour, row: vec3<u32>) -> mat4x4<f32> {
    return panel.p0 * conv_x_at(four.a, row) + panel.p1 * conv_x_at(four.b, row) + panel.p2 * conv_x_at(four.c, row)
        + panel.p3 * conv_x_at(four.d, row);
}

fn conv_weight_step(sum: ptr<function, ConvWeightSums>, panel: ConvPanel, four: ConvFour, rows: ConvRows) {
    (*sum)[0] += conv_weight_mac(panel, four, rows[0]);
    (*sum)[1] += conv_weight_mac(panel, four, rows[1]);
    (*sum)[2] += conv_weight_mac(panel, four, rows[2]);
    (*sum)[3] += conv_weight_mac(panel, four, rows[3]);
    if ROWS > 4u {
        (*sum)[4] += conv_weight_mac(panel, four, rows[4]);
        (*sum)[5] += conv_weight_mac(panel, four, rows[5]);
        (*sum)[6] += conv_weight_mac(panel, four, rows[6]);
        (*sum)[7] += conv_weight_mac(panel, four, rows[7]);
        (*sum)[8] += conv_weight_mac(panel, four, rows[8]);
    }
}

fn conv_weight_put(block: ConvWeightBlock, m: u32, sum: mat4x4<f32>) {
    let n_rows = conv_n_rows();
    if m >= n_rows || block.part >= conv_bwd_params.n_parts {
        return;
    }
    let at = (block.part * n_rows + m) * (conv_bwd_params.co / 4u) + block.o4;
    conv_bwd_w_part4[at] = sum[0];
    if block.o4 + 1u < block.end4 {
        conv_bwd_w_part4[at + 1u] = sum[1];
    }
    if block.o4 + 2u < block.end4 {
        conv_bwd_w_part4[at + 2u] = sum[2];
    }
    if block.o4 + 3u < block.end4 {
        conv_bwd_w_part4[at + 3u] = sum[3];
    }
}

fn conv_weight_finish(block: ConvWeightBlock, lane: u32, sum: ConvWeightSums) {
    let m = block.m + lane;
    conv_weight_put(block, m, sum[0]);
    conv_weight_put(block, m + 8u, sum[1]);
    conv_weight_put(block, m + 16u, sum[2]);
    conv_weight_put(block, m + 24u, sum[3]);
    if ROWS > 4u {
        conv_weight_put(block, m + 32u, sum[4]);
        conv_weight_put(block, m + 40u, sum[5]);
        conv_weight_put(block, m + 48u, sum[6]);
        conv_weight_put(block, m + 56u, sum[7]);
        conv_weight_put(block, m + 64u, sum[8]);
    }
}

fn conv_d_out4(pixel: u32, end: u32, o4: u32) -> vec4<f32> {
    let there = pixel < end;
    return select(vec4<f32>(0.0), vec4<f32>(conv_bwd_w_d_out4[select(0u, pixel * (conv_bwd_params.co / 4u) + o4, there)]), there);
}

fn conv_d_out16(pixel: u32, end: u32, o: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(conv_d_out4(pixel, end, o.x), conv_d_out4(pixel, end, o.y), conv_d_out4(pixel, end, o.z),
                       conv_d_out4(pixel, end, o.w));
}

fn conv_share(a: vec4<f32>, b: vec4<f32>) -> ConvPanel {
    return ConvPanel(
        mat4x4<f32>(subgroupBroadcast(a, 0u), subgroupBroadcast(a, 1u), subgroupBroadcast(a, 2u), subgroupBroadcast(a, 3u)),
        mat4x4<f32>(subgroupBroadcast(a, 4u), subgroupBroadcast(a, 5u), subgroupBroadcast(a, 6u), subgroupBroadcast(a, 7u)),
        mat4x4<f32>(subgroupBroadcast(b, 0u), subgroupBroadcast(b, 1u), subgroupBroadcast(b, 2u), subgroupBroadcast(b, 3u)),
        mat4x4<f32>(subgroupBroadcast(b, 4u), subgroupBroadcast(b, 5u), subgroupBroadcast(b, 6u), subgroupBroadcast(b, 7u)));
}

@compute @workgroup_size(8)
fn conv_subgroup_bwd_w(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(subgroup_invocation_id) lane: u32) {
    let p = conv_bwd_params;
    let block = conv_weight_block(group_id(group, n_groups));
    let rows = conv_lane_rows(block, lane);
    // Lanes 0 to 3 read 16 channels of one pixel, 4 to 7 those of the next.
    let o = min(block.o4 + lane % 4u, block.end4 - 1u);
    let start = block.part * p.part;
    let end = min(start + p.part, p.n_pixels);
    var at = conv_pixel(start);
    var sum = ConvWeightSums();
    for (var pixel = start; pixel < end; pixel += 4u) {
        var four: ConvFour;
        four.a = conv_window(at, true, p.ci);
        at = conv_next(at);
        four.b = conv_window(at, pixel + 1u < end, p.ci);
        at = conv_next(at);
        four.c = conv_window(at, pixel + 2u < end, p.ci);
        at = conv_next(at);
        four.d = conv_window(at, pixel + 3u < end, p.ci);
        at = conv_next(at);
        let panel = conv_share(conv_d_out4(pixel + lane / 4u, end, o), conv_d_out4(pixel + 2u + lane / 4u, end, o));
        conv_weight_step(&sum, panel, four, rows);
    }
    conv_weight_finish(block, lane, sum);
}

// ---- window3: 3 x 3 taps side by side, of 8 input channels (one per lane) by 16 output channels; wo in fours ----
// Four neighbours of a row share the pixels they look at: 18 loads for 36 products, or 27 with a stride of 2.
override STEP_X: u32 = 1u;   // 1 or 2, the stride of the columns

// Nine neighbours of a row of x, one channel; six with a stride of 1.
struct ConvSpan { a: vec4<f32>, b: vec4<f32>, c: f32 }

fn conv_near(start: u32, row: bool, column: u32, k: u32) -> f32 {
    let p = conv_bwd_params;
    let inside = row && column + k < p.w;
    return select(0.0, f32(conv_bwd_w_x[select(0u, start + k * p.ci, inside)]), inside);
}

fn conv_span(start: u32, row: bool, column: u32) -> ConvSpan {
    var span = ConvSpan();
    span.a = vec4<f32>(conv_near(start, row, column, 0u), conv_near(start, row, column, 1u), conv_near(start, row, column, 2u),
                       conv_near(start, row, column, 3u));
    span.b.x = conv_near(start, row, column, 4u);
    span.b.y = conv_near(start, row, column, 5u);
    if STEP_X == 2u {
        span.b.z = conv_near(start, row, column, 6u);
        span.b.w = conv_near(start, row, column, 7u);
        span.c = conv_near(start, row, column, 8u);
    }
    return span;
}

fn conv_tap(panel: ConvPanel, x: vec4<f32>) -> mat4x4<f32> {
    return panel.p0 * x.x + panel.p1 * x.y + panel.p2 * x.z + panel.p3 * x.w;
}

// The pixels that the taps of one row of the window see.
fn conv_seen(span: ConvSpan, s: u32) -> vec4<f32> {
    if STEP_X == 2u {
        if s == 0u {
            return vec4<f32>(span.a.xz, span.b.xz);
        }
        if s == 1u {
            return vec4<f32>(span.a.yw, span.b.yw);
        }
        return vec4<f32>(span.a.z, span.b.xz, span.c);
    }
    if s == 0u {
        return span.a;
    }
    if s == 1u {
        return vec4<f32>(span.a.yzw, span.b.x);
    }
    return vec4<f32>(span.a.zw, span.b.xy);
}

fn conv_window3_put(block: ConvWeightBlock, tap: u32, c: u32, sum: mat4x4<f32>) {
    if c < conv_bwd_params.ci_group {
        conv_weight_put(block, tap * conv_bwd_params.ci_group + c, sum);
    }
}

@compute @workgroup_size(8)
fn conv_window3_bwd_w(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(subgroup_invocation_id) lane: u32) {
    let p = conv_bwd_params;
    let n_channel_blocks = (p.ci_group + 7u) / 8u;
    let id = group_id(group, n_groups);
    let line = id / p.n_blocks;
    let out_block = id - line * p.n_blocks;
    let part = line / n_channel_blocks;
    let co4 = p.co_group / 4u;
    let in_group = (co4 + 3u) / 4u;
    let g = out_block / in_group;
    let block = ConvWeightBlock(part, 0u, g * co4 + out_block % in_group * 4u, (g + 1u) * co4, g * p.ci_group);
    let c = (line - part * n_channel_blocks) * 8u + lane;
    let first = block.first + min(c, p.ci_group - 1u);
    let o = min(block.o4 + lane % 4u, block.end4 - 1u);
    let start = part * p.part;
    let end = min(start + p.part, p.n_pixels);
    let row_step = p.w * p.ci;
    var at = conv_pixel(start);
    var sum = ConvWeightSums();
    for (var pixel = start; pixel < end; pixel += 4u) {
        let window = conv_window(at, true, p.ci);
        at.x += 4u;
        let last_x = at.x == p.wo;
        at.x = select(at.x, 0u, last_x);
        at.y += select(0u, 1u, last_x);
        let last_y = at.y == p.ho;
        at.y = select(at.y, 0u, last_y);
        at.image += select(0u, 1u, last_y);
        let panel = conv_share(conv_d_out4(pixel + lane / 4u, end, o), conv_d_out4(pixel + 2u + lane / 4u, end, o));
        let upper = conv_span(window.z + first, window.x < p.h, window.y);
        sum[0] += conv_tap(panel, conv_seen(upper, 0u));
        sum[1] += conv_tap(panel, conv_seen(upper, 1u));
        sum[2] += conv_tap(panel, conv_seen(upper, 2u));
        let middle = conv_span(window.z + first + row_step, window.x + 1u < p.h, window.y);
        sum[3] += conv_tap(panel, conv_seen(middle, 0u));
        sum[4] += conv_tap(panel, conv_seen(middle, 1u));
        sum[5] += conv_tap(panel, conv_seen(middle, 2u));
        let lower = conv_span(window.z + first + 2u * row_step, window.x + 2u < p.h, window.y);
        sum[6] += conv_tap(panel, conv_seen(lower, 0u));
        sum[7] += conv_tap(panel, conv_seen(lower, 1u));
        sum[8] += conv_tap(panel, conv_seen(lower, 2u));
    }
    conv_window3_put(block, 0u, c, sum[0]);
    conv_window3_put(block, 1u, c, sum[1]);
    conv_window3_put(block, 2u, c, sum[2]);
    conv_window3_put(block, 3u, c, sum[3]);
    conv_window3_put(block, 4u, c, sum[4]);
    conv_window3_put(block, 5u, c, sum[5]);
    conv_window3_put(block, 6u, c, sum[6]);
    conv_window3_put(block, 7u, c, sum[7]);
    conv_window3_put(block, 8u, c, sum[8]);
}

// ---- depthwise: 3 x 3 taps of a window, 4 channels; larger windows in blocks of 3 x 3 ----
fn conv_x4_at(window: vec3<u32>, step: vec2<u32>, c4: u32) -> vec4<f32> {
    let p = conv_bwd_params;
    let inside = window.x + step.x < p.h && window.y + step.y < p.w;
    let at = window.z + (step.x * p.w + step.y) * (p.ci / 4u) + c4;
    return select(vec4<f32>(0.0), vec4<f32>(conv_bwd_w_x4[select(0u, at, inside)]), inside);
}

fn conv_depthwise_put(part: u32, tap: vec2<u32>, c4: u32, sum: vec4<f32>) {
    let kernel = conv_pair(conv_bwd_params.kernel);
    if tap.x < kernel.x && tap.y < kernel.y {
        conv_bwd_w_part4[((part * kernel.x + tap.x) * kernel.y + tap.y) * (conv_bwd_params.co / 4u) + c4] = sum;
    }
}

@compute @workgroup_size(WG_SIZE)
fn conv_depthwise_bwd_w(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let p = conv_bwd_params;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let n_c4 = p.co / 4u;
    let kernel = conv_pair(p.kernel);
    let dilation = conv_pair(p.dilation);
    let tiles = (kernel + 2u) / 3u;
    let line = id / n_c4;
    let c4 = id - line * n_c4;
    let part = line / (tiles.x * tiles.y);
    if part >= p.n_parts {
        return;
    }
    let tile = line - part * tiles.x * tiles.y;
    let tap = vec2<u32>(tile / tiles.y, tile % tiles.y) * 3u;
    let step = tap * dilation;
    let right = vec2<u32>(0u, dilation.y);
    let down = vec2<u32>(dilation.x, 0u);
    let end = min((part + 1u) * p.part, p.n_pixels);
    var at = conv_pixel(part * p.part);
    var sum = array<vec4<f32>, 9>();
    for (var pixel = part * p.part; pixel < end; pixel++) {
        let d = vec4<f32>(conv_bwd_w_d_out4[pixel * n_c4 + c4]);
        let window = conv_window(at, true, n_c4);
        at = conv_next(at);
        sum[0] += d * conv_x4_at(window, step, c4);
        sum[1] += d * conv_x4_at(window, step + right, c4);
        sum[2] += d * conv_x4_at(window, step + 2u * right, c4);
        sum[3] += d * conv_x4_at(window, step + down, c4);
        sum[4] += d * conv_x4_at(window, step + down + right, c4);
        sum[5] += d * conv_x4_at(window, step + down + 2u * right, c4);
        sum[6] += d * conv_x4_at(window, step + 2u * down, c4);
        sum[7] += d * conv_x4_at(window, step + 2u * down + right, c4);
        sum[8] += d * conv_x4_at(window, step + 2u * down + 2u * right, c4);
    }
    conv_depthwise_put(part, tap, c4, sum[0]);
    conv_depthwise_put(part, tap + vec2<u32>(0u, 1u), c4, sum[1]);
    conv_depthwise_put(part, tap + vec2<u32>(0u, 2u), c4, sum[2]);
    conv_depthwise_put(part, tap + vec2<u32>(1u, 0u), c4, sum[3]);
    conv_depthwise_put(part, tap + vec2<u32>(1u, 1u), c4, sum[4]);
    conv_depthwise_put(part, tap + vec2<u32>(1u, 2u), c4, sum[5]);
    conv_depthwise_put(part, tap + vec2<u32>(2u, 0u), c4, sum[6]);
    conv_depthwise_put(part, tap + vec2<u32>(2u, 1u), c4, sum[7]);
    conv_depthwise_put(part, tap + vec2<u32>(2u, 2u), c4, sum[8]);
}

// ---- tile: 64 rows x 64 channels, 8 x 8 per invocation, pixels in steps of 16 ----
// Lane t computes rows t / 8 + 8 i and channels t % 8 + 8 j, and stages row t and channel t of each pixel: neighbouring
// lanes read neighbouring channels.
const STEP: u32 = 16u;
var<workgroup> sh_conv_x: array<f32, 1024>;     // [STEP, 64 rows]
var<workgroup> sh_conv_d: array<f32, 1024>;     // [STEP, 64 channels]

@compute @workgroup_size(64)
fn conv_tile_bwd_w(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = conv_bwd_params;
    let id = group_id(group, n_groups);
    let n_rows = conv_n_rows();
    let n_row_blocks = (n_rows + 63u) / 64u;
    let in_group = (p.co_group + 63u) / 64u;
    let line = id / p.n_blocks;
    let block = id - line * p.n_blocks;
    let part = line / n_row_blocks;
    let first_row = (line - part * n_row_blocks) * 64u;
    let g = block / in_group;
    let first_o = g * p.co_group + block % in_group * 64u;
    let end_o = (g + 1u) * p.co_group;
    var row = conv_weight_row(min(first_row + local, n_rows - 1u));
    row.z += g * p.ci_group;
    let o = min(first_o + local, end_o - 1u);
    let start = part * p.part;
    let end = min(start + p.part, p.n_pixels);
    var at = conv_pixel(start);
    var sum = array<mat2x4<f32>, 8>();
    for (var first = start; first < end; first += STEP) {
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            let there = first + k < end;
            sh_conv_x[k * 64u + local] = conv_x_at(conv_window(at, there, p.ci), row);
            let d = f32(conv_bwd_w_d_out[select(0u, (first + k) * p.co + o, there)]);
            sh_conv_d[k * 64u + local] = select(0.0, d, there);
            at = conv_next(at);
        }
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            let d = k * 64u + local % 8u;
            let d0 = vec4<f32>(sh_conv_d[d], sh_conv_d[d + 8u], sh_conv_d[d + 16u], sh_conv_d[d + 24u]);
            let d1 = vec4<f32>(sh_conv_d[d + 32u], sh_conv_d[d + 40u], sh_conv_d[d + 48u], sh_conv_d[d + 56u]);
            let both = mat2x4<f32>(d0, d1);
            let x = k * 64u + local / 8u;
            sum[0] += both * sh_conv_x[x];
            sum[1] += both * sh_conv_x[x + 8u];
            sum[2] += both * sh_conv_x[x + 16u];
            sum[3] += both * sh_conv_x[x + 24u];
            sum[4] += both * sh_conv_x[x + 32u];
            sum[5] += both * sh_conv_x[x + 40u];
            sum[6] += both * sh_conv_x[x + 48u];
            sum[7] += both * sh_conv_x[x + 56u];
        }
    }
    if part >= p.n_parts {
        return;
    }
    let m = first_row + local / 8u;
    let put = first_o + local % 8u;
    conv_tile_put(part, m, put, end_o, sum[0]);
    conv_tile_put(part, m + 8u, put, end_o, sum[1]);
    conv_tile_put(part, m + 16u, put, end_o, sum[2]);
    conv_tile_put(part, m + 24u, put, end_o, sum[3]);
    conv_tile_put(part, m + 32u, put, end_o, sum[4]);
    conv_tile_put(part, m + 40u, put, end_o, sum[5]);
    conv_tile_put(part, m + 48u, put, end_o, sum[6]);
    conv_tile_put(part, m + 56u, put, end_o, sum[7]);
}

fn conv_tile_put(part: u32, m: u32, o: u32, end_o: u32, sum: mat2x4<f32>) {
    let n_rows = conv_n_rows();
    if m < n_rows {
        let at = (part * n_rows + m) * conv_bwd_params.co;
        for (var j = 0u; j < 4u; j++) {
            if o + 8u * j < end_o {
                conv_bwd_w_part[at + o + 8u * j] = sum[0][j];
            }
            if o + 32u + 8u * j < end_o {
                conv_bwd_w_part[at + o + 32u + 8u * j] = sum[1][j];
            }
        }
    }
}
