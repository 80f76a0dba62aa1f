// Two-dimensional convolution, images [n, h, w, ci], weights [kh, kw, ci / groups, co], out [n, ho, wo, co]:
//   out[n, y, x, o] = act(bias[o] + residual[n, y, x, o]
//                         + sum over r, s, c of x[n, y sh - ph + r dh, x sw - pw + s dw, c] w[r, s, c, o])
// with zeros outside the image and c over the channels of o's group.
//   plain       one invocation per output element, any shape
//   registers   an implicit matrix product: 8 pixels x 16 channels per invocation, all in registers
//   subgroup    the same, the weights loaded once per subgroup of 8 and broadcast; stem: any number of input channels
//   tile        64 x 64 or 128 x 32 outputs per workgroup, staged through workgroup memory, for real GPUs
//   depthwise   one input channel per output channel: 8 pixels of a row x 4 channels per invocation
override ACT: u32 = 0u;
var<immediate> conv_params: ConvParams;

@group(0) @binding(0) var<storage, read> conv_x: array<Elem>;            // [n, h, w, ci]
@group(0) @binding(1) var<storage, read> conv_w: array<Elem>;            // [kh, kw, ci_group, co]
@group(0) @binding(2) var<storage, read> conv_bias: array<Elem>;         // [co]
@group(0) @binding(3) var<storage, read> conv_residual: array<Elem>;     // [n, ho, wo, co]
@group(0) @binding(4) var<storage, read_write> conv_out: array<Elem>;    // [n, ho, wo, co]
@group(0) @binding(0) var<storage, read> conv_x4: array<Elem4>;          // the same, channels in fours
@group(0) @binding(1) var<storage, read> conv_w4: array<Elem4>;
@group(0) @binding(2) var<storage, read> conv_bias4: array<Elem4>;
@group(0) @binding(3) var<storage, read> conv_residual4: array<Elem4>;
@group(0) @binding(4) var<storage, read_write> conv_out4: array<Elem4>;

// ---- plain ----
override WG_SIZE: u32 = 64u;

@compute @workgroup_size(WG_SIZE)
fn conv_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = conv_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_pixels * p.co {
        return;
    }
    let o = i % p.co;
    let pixel = i / p.co;
    let kernel = conv_pair(p.kernel);
    let dilation = conv_pair(p.dilation);
    // Positions left of and above the image wrap to large numbers, so one comparison sees both sides.
    let start = vec2<u32>(pixel / p.wo % p.ho, pixel % p.wo) * conv_pair(p.stride) - conv_pair(p.padding);
    let image = pixel / (p.ho * p.wo) * p.h * p.w;
    let first = o / p.co_group * p.ci_group;
    var sum = 0.0;
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let at = start + vec2<u32>(r, s) * dilation;
            if at.x < p.h && at.y < p.w {
                let x = (image + at.x * p.w + at.y) * p.ci + first;
                let w = (r * kernel.y + s) * p.ci_group * p.co + o;
                for (var c = 0u; c < p.ci_group; c++) {
                    sum += f32(conv_x[x + c]) * f32(conv_w[w + c * p.co]);
                }
            }
        }
    }
    if (p.operands & BIAS) != 0u {
        sum += f32(conv_bias[o]);
    }
    if (p.operands & RESIDUAL) != 0u {
        sum += f32(conv_residual[i]);
    }
    conv_out[i] = Elem(activate(ACT, sum));
}

// ---- what registers and subgroup share: an invocation computes 8 consecutive pixels x 16 channels of a group ----
// The workgroup is 8 invocations of the same channels, so what it reads of the weights is uniform.

// A block of 16 output channels, in fours, and the first input channel of its group, in elements.
struct ConvBlock { tile: u32, o4: u32, end4: u32, first: u32 }

fn conv_block(id: u32) -> ConvBlock {
    let p = conv_params;
    let co4 = p.co_group / 4u;
    let in_group = (co4 + 3u) / 4u;
    let block = id % p.n_blocks;
    let g = block / in_group;
    return ConvBlock(id / p.n_blocks, g * co4 + block % in_group * 4u, (g + 1u) * co4, g * p.ci_group);
}

// Top left pixels of 8 windows, as coordinates and as positions in x; outside the image for pixels past the end.
struct ConvWindows { y: array<u32, 8>, x: array<u32, 8>, at: array<u32, 8> }

fn conv_windows(pixel: u32) -> ConvWindows {
    let p = conv_params;
    let stride = conv_pair(p.stride);
    let padding = conv_pair(p.padding);
    let row = pixel / p.wo;
    var image = row / p.ho;
    var y = row - image * p.ho;
    var x = pixel - row * p.wo;
    var windows: ConvWindows;
    for (var i = 0u; i < 8u; i++) {
        windows.y[i] = select(y * stride.x - padding.x, 0x7fffffffu, pixel + i >= p.n_pixels);
        windows.x[i] = x * stride.y - padding.y;
        windows.at[i] = (image * p.h + y * stride.x - padding.x) * p.w + windows.x[i];
        // Counting on is much cheaper than seven more divisions.
        x += 1u;
        if x == p.wo {
            x = 0u;
            y += 1u;
        }
        if y == p.ho {
            y = 0u;
            image += 1u;
        }
    }
    return windows;
}

// The pixels of the windows at tap (r, s): position in x of their first channel of `channels`, and whether they lie in
// the image; those outside point at 0 and count as zeros.
struct ConvTaps { at: array<u32, 8>, inside: array<bool, 8> }

fn conv_taps(windows: ConvWindows, r: u32, s: u32, channels: u32) -> ConvTaps {
    let p = conv_params;
    let step = vec2<u32>(r, s) * conv_pair(p.dilation);
    var taps: ConvTaps;
    for (var i = 0u; i < 8u; i++) {
        taps.inside[i] = windows.y[i] + step.x < p.h && windows.x[i] + step.y < p.w;
        taps.at[i] = select(0u, (windows.at[i] + step.x * p.w + step.y) * channels, taps.inside[i]);
    }
    return taps;
}

// Four channels of 8 pixels by four rows of 16 weights: block b of the panel holds its 4 columns for each row.
struct ConvPanel { b0: mat4x4<f32>, b1: mat4x4<f32>, b2: mat4x4<f32>, b3: mat4x4<f32> }

fn conv_mac4(panel: ConvPanel, at: u32, inside: bool) -> mat4x4<f32> {
    let x = select(vec4<f32>(0.0), vec4<f32>(conv_x4[at]), inside);
    return mat4x4<f32>(panel.b0 * x, panel.b1 * x, panel.b2 * x, panel.b3 * x);
}

fn conv_mac(weights: mat4x4<f32>, at: u32, inside: bool) -> mat4x4<f32> {
    return weights * select(0.0, f32(conv_x[at]), inside);
}

// Sums of 8 pixels x 16 channels. Written out, as an index that is not constant would put them into memory.
alias ConvSums = array<mat4x4<f32>, 8>;

fn conv_step4(sum: ptr<function, ConvSums>, panel: ConvPanel, taps: ConvTaps, c: u32) {
    (*sum)[0] += conv_mac4(panel, taps.at[0] + c, taps.inside[0]);
    (*sum)[1] += conv_mac4(panel, taps.at[1] + c, taps.inside[1]);
    (*sum)[2] += conv_mac4(panel, taps.at[2] + c, taps.inside[2]);
    (*sum)[3] += conv_mac4(panel, taps.at[3] + c, taps.inside[3]);
    (*sum)[4] += conv_mac4(panel, taps.at[4] + c, taps.inside[4]);
    (*sum)[5] += conv_mac4(panel, taps.at[5] + c, taps.inside[5]);
    (*sum)[6] += conv_mac4(panel, taps.at[6] + c, taps.inside[6]);
    (*sum)[7] += conv_mac4(panel, taps.at[7] + c, taps.inside[7]);
}

fn conv_step(sum: ptr<function, ConvSums>, weights: mat4x4<f32>, taps: ConvTaps, c: u32) {
    (*sum)[0] += conv_mac(weights, taps.at[0] + c, taps.inside[0]);
    (*sum)[1] += conv_mac(weights, taps.at[1] + c, taps.inside[1]);
    (*sum)[2] += conv_mac(weights, taps.at[2] + c, taps.inside[2]);
    (*sum)[3] += conv_mac(weights, taps.at[3] + c, taps.inside[3]);
    (*sum)[4] += conv_mac(weights, taps.at[4] + c, taps.inside[4]);
    (*sum)[5] += conv_mac(weights, taps.at[5] + c, taps.inside[5]);
    (*sum)[6] += conv_mac(weights, taps.at[6] + c, taps.inside[6]);
    (*sum)[7] += conv_mac(weights, taps.at[7] + c, taps.inside[7]);
}

fn conv_bias16(block: ConvBlock) -> mat4x4<f32> {
    let last = block.end4 - 1u;
    var bias = mat4x4<f32>();
    if (conv_params.operands & BIAS) != 0u {
        bias[0] = vec4<f32>(conv_bias4[block.o4]);
        bias[1] = vec4<f32>(conv_bias4[min(block.o4 + 1u, last)]);
        bias[2] = vec4<f32>(conv_bias4[min(block.o4 + 2u, last)]);
        bias[3] = vec4<f32>(conv_bias4[min(block.o4 + 3u, last)]);
    }
    return bias;
}

fn conv_put4(at: u32, sum: vec4<f32>) {
    var value = sum;
    if (conv_params.operands & RESIDUAL) != 0u {
        value += vec4<f32>(conv_residual4[at]);
    }
    conv_out4[at] = Elem4(activate4(ACT, value));
}

fn conv_put16(block: ConvBlock, pixel: u32, sum: mat4x4<f32>) {
    if pixel >= conv_params.n_pixels {
        return;
    }
    let at = pixel * (conv_params.co / 4u) + block.o4;
    conv_put4(at, sum[0]);
    if block.o4 + 1u < block.end4 {
        conv_put4(at + 1u, sum[1]);
    }
    if block.o4 + 2u < block.end4 {
        conv_put4(at + 2u, sum[2]);
    }
    if block.o4 + 3u < block.end4 {
        conv_put4(at + 3u, sum[3]);
    }
}

fn conv_finish(block: ConvBlock, pixel: u32, sum: ConvSums) {
    let bias = conv_bias16(block);
    conv_put16(block, pixel, sum[0] + bias);
    conv_put16(block, pixel + 1u, sum[1] + bias);
    conv_put16(block, pixel + 2u, sum[2] + bias);
    conv_put16(block, pixel + 3u, sum[3] + bias);
    conv_put16(block, pixel + 4u, sum[4] + bias);
    conv_put16(block, pixel + 5u, sum[5] + bias);
    conv_put16(block, pixel + 6u, sum[6] + bias);
    conv_put16(block, pixel + 7u, sum[7] + bias);
}

// ---- registers: channels of a group in fours, in and out ----
@compute @workgroup_size(8)
fn conv_registers_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let p = conv_params;
    let block = conv_block(group_id(group, n_groups));
    let pixel = (block.tile * 8u + local) * 8u;
    let windows = conv_windows(pixel);
    let kernel = conv_pair(p.kernel);
    let co4 = p.co / 4u;
    let o = min(vec4<u32>(block.o4) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(block.end4 - 1u));
    var w = 0u;
    var sum = ConvSums();
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let taps = conv_taps(windows, r, s, p.ci / 4u);
            for (var c = block.first / 4u; c < (block.first + p.ci_group) / 4u; c++) {
                let panel = ConvPanel(conv_weights(w + o.x, co4), conv_weights(w + o.y, co4),
                                      conv_weights(w + o.z, co4), conv_weights(w + o.w, co4));
                w += 4u * co4;
                conv_step4(&sum, panel, taps, c);
            }
        }
    }
    conv_finish(block, pixel, sum);
}

fn conv_weights(at: u32, co4: u32) -> mat4x4<f32> {
    return mat4x4<f32>(vec4<f32>(conv_w4[at]), vec4<f32>(conv_w4[at + co4]), vec4<f32>(conv_w4[at + 2u * co4]),
                       vec4<f32>(conv_w4[at + 3u * co4]));
}

// ---- subgroup: a lane holds one vec4 of two rows of weights, and every lane gets all of them by broadcast ----
fn conv_share(a: vec4<f32>, b: vec4<f32>) -> ConvPanel {
    return ConvPanel(
        mat4x4<f32>(subgroupBroadcast(a, 0u), subgroupBroadcast(a, 4u), subgroupBroadcast(b, 0u), subgroupBroadcast(b, 4u)),
        mat4x4<f32>(subgroupBroadcast(a, 1u), subgroupBroadcast(a, 5u), subgroupBroadcast(b, 1u), subgroupBroadcast(b, 5u)),
        mat4x4<f32>(subgroupBroadcast(a, 2u), subgroupBroadcast(a, 6u), subgroupBroadcast(b, 2u), subgroupBroadcast(b, 6u)),
        mat4x4<f32>(subgroupBroadcast(a, 3u), subgroupBroadcast(a, 7u), subgroupBroadcast(b, 3u), subgroupBroadcast(b, 7u)));
}

@compute @workgroup_size(8)
fn conv_subgroup_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(subgroup_invocation_id) lane: u32) {
    let p = conv_params;
    let block = conv_block(group_id(group, n_groups));
    let pixel = (block.tile * 8u + lane) * 8u;
    let windows = conv_windows(pixel);
    let kernel = conv_pair(p.kernel);
    let co4 = p.co / 4u;
    // Rows 0 and 1 of four in the first load, 2 and 3 in the second.
    var w = (lane / 4u) * co4 + min(block.o4 + lane % 4u, block.end4 - 1u);
    var sum = ConvSums();
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let taps = conv_taps(windows, r, s, p.ci / 4u);
            for (var c = block.first / 4u; c < (block.first + p.ci_group) / 4u; c++) {
                let panel = conv_share(vec4<f32>(conv_w4[w]), vec4<f32>(conv_w4[w + 2u * co4]));
                w += 4u * co4;
                conv_step4(&sum, panel, taps, c);
            }
        }
    }
    conv_finish(block, pixel, sum);
}

// ---- subgroup, any number of input channels: a lane holds one weight of each half of the 16 channels ----
fn conv_share4(w: f32, lane: u32) -> vec4<f32> {
    if lane == 0u {
        return vec4<f32>(subgroupBroadcast(w, 0u), subgroupBroadcast(w, 1u), subgroupBroadcast(w, 2u), subgroupBroadcast(w, 3u));
    }
    return vec4<f32>(subgroupBroadcast(w, 4u), subgroupBroadcast(w, 5u), subgroupBroadcast(w, 6u), subgroupBroadcast(w, 7u));
}

@compute @workgroup_size(8)
fn conv_stem_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(subgroup_invocation_id) lane: u32) {
    let p = conv_params;
    let block = conv_block(group_id(group, n_groups));
    let pixel = (block.tile * 8u + lane) * 8u;
    let windows = conv_windows(pixel);
    let kernel = conv_pair(p.kernel);
    let o = min(vec2<u32>(block.o4 * 4u + lane) + vec2<u32>(0u, 8u), vec2<u32>(block.end4 * 4u - 1u));
    var w = 0u;
    var sum = ConvSums();
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let taps = conv_taps(windows, r, s, p.ci);
            for (var c = block.first; c < block.first + p.ci_group; c++) {
                let a = f32(conv_w[w + o.x]);
                let b = f32(conv_w[w + o.y]);
                let weights = mat4x4<f32>(conv_share4(a, 0u), conv_share4(a, 4u), conv_share4(b, 0u), conv_share4(b, 4u));
                w += p.co;
                conv_step(&sum, weights, taps, c);
            }
        }
    }
    conv_finish(block, pixel, sum);
}

// ---- depthwise: channels along the lanes, four to an invocation ----
alias ConvRow = array<vec4<f32>, 8>;

fn conv_put_row(pixel: u32, n: u32, c: u32, sum: ConvRow) {
    let p = conv_params;
    let at = pixel * (p.co / 4u) + c;
    var bias = vec4<f32>(0.0);
    if (p.operands & BIAS) != 0u {
        bias = vec4<f32>(conv_bias4[c]);
    }
    if n > 0u {
        conv_put4(at + 0u * (p.co / 4u), sum[0] + bias);
    }
    if n > 1u {
        conv_put4(at + 1u * (p.co / 4u), sum[1] + bias);
    }
    if n > 2u {
        conv_put4(at + 2u * (p.co / 4u), sum[2] + bias);
    }
    if n > 3u {
        conv_put4(at + 3u * (p.co / 4u), sum[3] + bias);
    }
    if n > 4u {
        conv_put4(at + 4u * (p.co / 4u), sum[4] + bias);
    }
    if n > 5u {
        conv_put4(at + 5u * (p.co / 4u), sum[5] + bias);
    }
    if n > 6u {
        conv_put4(at + 6u * (p.co / 4u), sum[6] + bias);
    }
    if n > 7u {
        conv_put4(at + 7u * (p.co / 4u), sum[7] + bias);
    }
}

fn conv_pick4(at: u32, inside: bool) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(conv_x4[at]), inside);
}

// Any window: 8 consecutive pixels.
@compute @workgroup_size(WG_SIZE)
fn conv_depthwise_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let p = conv_params;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let c4 = p.co / 4u;
    let tile = id / c4;
    let c = id - tile * c4;
    let pixel = tile * 8u;
    let windows = conv_windows(pixel);
    let kernel = conv_pair(p.kernel);
    var w = c;
    var sum = ConvRow();
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let taps = conv_taps(windows, r, s, c4);
            let weight = vec4<f32>(conv_w4[w]);
            w += c4;
            sum[0] += weight * conv_pick4(taps.at[0] + c, taps.inside[0]);
            sum[1] += weight * conv_pick4(taps.at[1] + c, taps.inside[1]);
            sum[2] += weight * conv_pick4(taps.at[2] + c, taps.inside[2]);
            sum[3] += weight * conv_pick4(taps.at[3] + c, taps.inside[3]);
            sum[4] += weight * conv_pick4(taps.at[4] + c, taps.inside[4]);
            sum[5] += weight * conv_pick4(taps.at[5] + c, taps.inside[5]);
            sum[6] += weight * conv_pick4(taps.at[6] + c, taps.inside[6]);
            sum[7] += weight * conv_pick4(taps.at[7] + c, taps.inside[7]);
        }
    }
    conv_put_row(pixel, p.n_pixels - min(pixel, p.n_pixels), c, sum);
}

// Windows of 3 x 3 side by side: two rows of 8 pixels, which share most of what they read.
struct ConvSpan { x: array<vec4<f32>, 10> }
struct ConvRow3 { a: vec4<f32>, b: vec4<f32>, c: vec4<f32> }

fn conv_span(image: u32, y: u32, x: u32, c4: u32, c: u32) -> ConvSpan {
    let p = conv_params;
    let start = (image * p.h + y) * p.w + x;
    var span: ConvSpan;
    span.x[0] = conv_near(start + 0u, y < p.h && x + 0u < p.w, c4, c);
    span.x[1] = conv_near(start + 1u, y < p.h && x + 1u < p.w, c4, c);
    span.x[2] = conv_near(start + 2u, y < p.h && x + 2u < p.w, c4, c);
    span.x[3] = conv_near(start + 3u, y < p.h && x + 3u < p.w, c4, c);
    span.x[4] = conv_near(start + 4u, y < p.h && x + 4u < p.w, c4, c);
    span.x[5] = conv_near(start + 5u, y < p.h && x + 5u < p.w, c4, c);
    span.x[6] = conv_near(start + 6u, y < p.h && x + 6u < p.w, c4, c);
    span.x[7] = conv_near(start + 7u, y < p.h && x + 7u < p.w, c4, c);
    span.x[8] = conv_near(start + 8u, y < p.h && x + 8u < p.w, c4, c);
    span.x[9] = conv_near(start + 9u, y < p.h && x + 9u < p.w, c4, c);
    return span;
}

fn conv_near(pixel: u32, inside: bool, c4: u32, c: u32) -> vec4<f32> {
    return conv_pick4(select(0u, pixel, inside) * c4 + c, inside);
}

fn conv_row3(at: u32, c4: u32) -> ConvRow3 {
    return ConvRow3(vec4<f32>(conv_w4[at]), vec4<f32>(conv_w4[at + c4]), vec4<f32>(conv_w4[at + 2u * c4]));
}

fn conv_slide(sum: ptr<function, ConvRow>, w: ConvRow3, span: ConvSpan) {
    (*sum)[0] += w.a * span.x[0] + w.b * span.x[1] + w.c * span.x[2];
    (*sum)[1] += w.a * span.x[1] + w.b * span.x[2] + w.c * span.x[3];
    (*sum)[2] += w.a * span.x[2] + w.b * span.x[3] + w.c * span.x[4];
    (*sum)[3] += w.a * span.x[3] + w.b * span.x[4] + w.c * span.x[5];
    (*sum)[4] += w.a * span.x[4] + w.b * span.x[5] + w.c * span.x[6];
    (*sum)[5] += w.a * span.x[5] + w.b * span.x[6] + w.c * span.x[7];
    (*sum)[6] += w.a * span.x[6] + w.b * span.x[7] + w.c * span.x[8];
    (*sum)[7] += w.a * span.x[7] + w.b * span.x[8] + w.c * span.x[9];
}

@compute @workgroup_size(WG_SIZE)
fn conv_depthwise3_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let p = conv_params;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let c4 = p.co / 4u;
    let tiles_x = (p.wo + 7u) / 8u;
    let tiles_y = (p.ho + 1u) / 2u;
    let tile = id / c4;
    let c = id - tile * c4;
    let row = tile / tiles_x;
    let x = (tile - row * tiles_x) * 8u;
    // Past the last image nothing is stored, and clamping keeps the reads inside.
    let n_images = p.n_pixels / (p.ho * p.wo);
    let image = min(row / tiles_y, n_images - 1u);
    let y = (row % tiles_y) * 2u;
    let top = y - conv_pair(p.padding).x;
    let left = x - conv_pair(p.padding).y;
    let w0 = conv_row3(c, c4);
    let w1 = conv_row3(c + 3u * c4, c4);
    let w2 = conv_row3(c + 6u * c4, c4);
    var upper = ConvRow();
    var lower = ConvRow();
    var span = conv_span(image, top, left, c4, c);
    conv_slide(&upper, w0, span);
    span = conv_span(image, top + 1u, left, c4, c);
    conv_slide(&upper, w1, span);
    conv_slide(&lower, w0, span);
    span = conv_span(image, top + 2u, left, c4, c);
    conv_slide(&upper, w2, span);
    conv_slide(&lower, w1, span);
    span = conv_span(image, top + 3u, left, c4, c);
    conv_slide(&lower, w2, span);
    let n = select(0u, p.wo - x, row / tiles_y < n_images);
    let pixel = (image * p.ho + y) * p.wo + x;
    conv_put_row(pixel, n, c, upper);
    conv_put_row(pixel + p.wo, select(0u, n, y + 1u < p.ho), c, lower);
}

// ---- tile: any shape; 64 invocations of 8 pixels x 8 channels, inputs in steps of 16 (tap, channel) rows ----
// Lane t owns channels t % LANES_O + LANES_O j and pixels t / LANES_O + (64 / LANES_O) i, so that lanes read neighbouring
// words of workgroup memory and write neighbouring channels.
override LANES_O: u32 = 8u;                                       // 8: 64 x 64 outputs, 4: 128 pixels x 32 channels
const STEP: u32 = 16u;
var<workgroup> sh_conv_x: array<f32, (512u / LANES_O + 1u) * STEP>;   // [STEP, pixels], and a word so that columns spread over banks
var<workgroup> sh_conv_w: array<f32, 8u * LANES_O * STEP>;             // [STEP, channels]
var<workgroup> sh_conv_at: array<vec3<u32>, 512u / LANES_O>;           // row, column and position in x of each window

@compute @workgroup_size(64)
fn conv_tile_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = conv_params;
    let id = group_id(group, n_groups);
    let tile_px = 512u / LANES_O;
    let tile_o = 8u * LANES_O;
    let in_group = (p.co_group + tile_o - 1u) / tile_o;
    let block = id % p.n_blocks;
    let first_pixel = id / p.n_blocks * tile_px;
    let g = block / in_group;
    let first_o = g * p.co_group + block % in_group * tile_o;
    let end_o = (g + 1u) * p.co_group;
    let kernel = conv_pair(p.kernel);
    let dilation = conv_pair(p.dilation);
    for (var i = local; i < tile_px; i += 64u) {
        let pixel = first_pixel + i;
        let row = pixel / p.wo;
        let at = vec2<u32>(row % p.ho, pixel - row * p.wo) * conv_pair(p.stride) - conv_pair(p.padding);
        let position = (row / p.ho * p.h + at.x) * p.w + at.y;
        sh_conv_at[i] = vec3<u32>(select(at.x, 0x7fffffffu, pixel >= p.n_pixels), at.y, position);
    }
    // This lane stages row k of each step: its tap and channel advance by STEP channels at a time.
    let k = local % STEP;
    var c = k;
    var tap = vec2<u32>(0u);
    var sum = array<mat2x4<f32>, 8>();
    let n_rows = kernel.x * kernel.y * p.ci_group;
    for (var start = 0u; start < n_rows; start += STEP) {
        while c >= p.ci_group && tap.x < kernel.x {
            c -= p.ci_group;
            tap.y += 1u;
            if tap.y == kernel.y {
                tap = vec2<u32>(tap.x + 1u, 0u);
            }
        }
        let step = tap * dilation;
        workgroupBarrier();
        for (var i = local / STEP; i < tile_px; i += 64u / STEP) {
            let at = sh_conv_at[i];
            let inside = at.x + step.x < p.h && at.y + step.y < p.w && tap.x < kernel.x;
            let position = (at.z + step.x * p.w + step.y) * p.ci + g * p.ci_group + c;
            sh_conv_x[k * (tile_px + 1u) + i] = select(0.0, f32(conv_x[select(0u, position, inside)]), inside);
        }
        for (var i = local; i < STEP * tile_o; i += 64u) {
            let row = start + i / tile_o;
            let o = first_o + i % tile_o;
            let inside = row < n_rows && o < end_o;
            sh_conv_w[i] = select(0.0, f32(conv_w[select(0u, row * p.co + o, inside)]), inside);
        }
        c += STEP;
        workgroupBarrier();
        for (var j = 0u; j < STEP; j++) {
            let w = j * tile_o + local % LANES_O;
            let w0 = vec4<f32>(sh_conv_w[w], sh_conv_w[w + LANES_O], sh_conv_w[w + 2u * LANES_O], sh_conv_w[w + 3u * LANES_O]);
            let w1 = vec4<f32>(sh_conv_w[w + 4u * LANES_O], sh_conv_w[w + 5u * LANES_O], sh_conv_w[w + 6u * LANES_O], sh_conv_w[w + 7u * LANES_O]);
            let weights = mat2x4<f32>(w0, w1);
            let x = j * (tile_px + 1u) + local / LANES_O;
            let lanes_px = 64u / LANES_O;
            sum[0] += weights * sh_conv_x[x];
            sum[1] += weights * sh_conv_x[x + lanes_px];
            sum[2] += weights * sh_conv_x[x + 2u * lanes_px];
            sum[3] += weights * sh_conv_x[x + 3u * lanes_px];
            sum[4] += weights * sh_conv_x[x + 4u * lanes_px];
            sum[5] += weights * sh_conv_x[x + 5u * lanes_px];
            sum[6] += weights * sh_conv_x[x + 6u * lanes_px];
            sum[7] += weights * sh_conv_x[x + 7u * lanes_px];
        }
    }
    let pixel = first_pixel + local / LANES_O;
    let o = vec4<u32>(first_o + local % LANES_O) + vec4<u32>(0u, LANES_O, 2u * LANES_O, 3u * LANES_O);
    let bias = mat2x4<f32>(conv_bias_at(o, end_o), conv_bias_at(o + vec4<u32>(4u * LANES_O), end_o));
    let lanes_px = 64u / LANES_O;
    conv_put_tile(pixel, o, end_o, sum[0] + bias);
    conv_put_tile(pixel + lanes_px, o, end_o, sum[1] + bias);
    conv_put_tile(pixel + 2u * lanes_px, o, end_o, sum[2] + bias);
    conv_put_tile(pixel + 3u * lanes_px, o, end_o, sum[3] + bias);
    conv_put_tile(pixel + 4u * lanes_px, o, end_o, sum[4] + bias);
    conv_put_tile(pixel + 5u * lanes_px, o, end_o, sum[5] + bias);
    conv_put_tile(pixel + 6u * lanes_px, o, end_o, sum[6] + bias);
    conv_put_tile(pixel + 7u * lanes_px, o, end_o, sum[7] + bias);
}

fn conv_put_tile(pixel: u32, o: vec4<u32>, end_o: u32, sum: mat2x4<f32>) {
    if pixel < conv_params.n_pixels {
        conv_put_at(pixel * conv_params.co, o, end_o, sum[0]);
        conv_put_at(pixel * conv_params.co, o + vec4<u32>(4u * LANES_O), end_o, sum[1]);
    }
}

fn conv_bias_at(o: vec4<u32>, end_o: u32) -> vec4<f32> {
    if (conv_params.operands & BIAS) == 0u {
        return vec4<f32>(0.0);
    }
    let at = min(o, vec4<u32>(end_o - 1u));
    return vec4<f32>(f32(conv_bias[at.x]), f32(conv_bias[at.y]), f32(conv_bias[at.z]), f32(conv_bias[at.w]));
}

fn conv_put_at(start: u32, o: vec4<u32>, end_o: u32, sum: vec4<f32>) {
    var value = sum;
    if (conv_params.operands & RESIDUAL) != 0u {
        let at = start + min(o, vec4<u32>(end_o - 1u));
        value += vec4<f32>(f32(conv_residual[at.x]), f32(conv_residual[at.y]), f32(conv_residual[at.z]), f32(conv_residual[at.w]));
    }
    value = activate4(ACT, value);
    for (var j = 0u; j < 4u; j++) {
        if o[j] < end_o {
            conv_out[start + o[j]] = Elem(value[j]);
        }
    }
}
