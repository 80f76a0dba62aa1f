// Copies by index, and resizing.
//   select    out[o, i, :] = x[o, ids[i], :], ids past the axis taken as its last
//   rows      out[r, start..start + n, :] = row r of x at its strides, which wrap below 0 for reversed axes
//   pad       out[i] = x[i - before] where that exists, value elsewhere
//   bilinear  out[n, y, x, :] = the four pixels of x about the source point, by their distances
//   nearest   out[n, y, x, :] = x[n, floor(y scale_y), floor(x scale_x), :]
//   one_hot   out[i, c] = c == ids[i] ? 1 : 0
// and backward, of the gradient d of a resized image along one axis:
//   resize    d_x[o, i, :] = sum over j of d[o, j, :] times the weight with which output j read pixel i
// Rows are copied in units: four words, a word or an f16, whichever divides every length and start. 2^lanes_log2
// neighbouring invocations share a row and step over it together, so that index arithmetic, with its divisions, is paid
// once for several units. Bytes that fill no word are put together by one invocation per word of the output.
// Lengths, strides and starts in the parameters count units.
override WG_SIZE: u32 = 64u;

// ---- select ----
struct SelectParams {
    n_rows: u32, lanes_log2: u32, n_inner: u32, offset: u32,
    n_ids: u32, n_axis: u32, stride_outer: u32, stride_axis: u32,
}
@group(0) @binding(0) var<storage, read> select_x: array<Elem>;
@group(0) @binding(0) var<storage, read> select_x4: array<Elem4>;
@group(0) @binding(0) var<storage, read> select_words: array<u32>;
@group(0) @binding(1) var<storage, read> select_ids: array<u32>;            // [n_ids]
@group(0) @binding(2) var<storage, read_write> select_out: array<Elem>;     // [n_rows, n_inner]
@group(0) @binding(2) var<storage, read_write> select_out4: array<Elem4>;
@group(0) @binding(2) var<storage, read_write> select_out_words: array<u32>;
var<immediate> select_params: SelectParams;

fn select_start(row: u32) -> u32 {
    let p = select_params;
    var i = row;
    var start = p.offset;
    if p.n_ids < p.n_rows {
        let outer = row / p.n_ids;
        i = row - outer * p.n_ids;
        start += outer * p.stride_outer;
    }
    return start + min(select_ids[i], p.n_axis - 1u) * p.stride_axis;
}

@compute @workgroup_size(WG_SIZE)
fn select_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = select_params;
    let row = thread >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    let start = select_start(row);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_inner; i += lanes) {
        select_out[row * p.n_inner + i] = select_x[start + i];
    }
}

@compute @workgroup_size(WG_SIZE)
fn select_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = select_params;
    let row = thread >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    let start = select_start(row);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_inner; i += lanes) {
        select_out4[row * p.n_inner + i] = select_x4[start + i];
    }
}

@compute @workgroup_size(WG_SIZE)
fn select_bytes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let word = thread_id(group, n_groups, local, WG_SIZE);
    let p = select_params;
    if word >= (p.n_rows * p.n_inner + 3u) / 4u {
        return;
    }
    var row = word * 4u / p.n_inner;
    var i = word * 4u - row * p.n_inner;
    var bytes = 0u;
    for (var j = 0u; j < 4u; j++) {
        if row < p.n_rows {
            let at = select_start(row) + i;
            bytes |= ((select_words[at / 4u] >> (8u * (at % 4u))) & 0xffu) << (8u * j);
        }
        i += 1u;
        if i == p.n_inner {
            i = 0u;
            row += 1u;
        }
    }
    select_out_words[word] = bytes;
}

// ---- rows ----
struct RowsParams {
    n_rows: u32, lanes_log2: u32, n_inner: u32, offset: u32,
    size_1: u32, size_2: u32, size_3: u32, size_4: u32,
    stride_0: u32, stride_1: u32, stride_2: u32, stride_3: u32, stride_4: u32, stride_inner: u32,
    start_out: u32, stride_out: u32,
}
@group(0) @binding(0) var<storage, read> rows_x: array<Elem>;
@group(0) @binding(0) var<storage, read> rows_x4: array<Elem4>;
@group(0) @binding(0) var<storage, read> rows_words: array<u32>;
@group(0) @binding(1) var<storage, read_write> rows_out: array<Elem>;       // [n_rows, stride_out]
@group(0) @binding(1) var<storage, read_write> rows_out4: array<Elem4>;
@group(0) @binding(1) var<storage, read_write> rows_out_words: array<u32>;
var<immediate> rows_params: RowsParams;

fn rows_start(row: u32) -> u32 {
    let p = rows_params;
    // Axes that are not in use have size 1 and stand last; the branches are uniform and spare their divisions.
    var at = p.offset;
    var i = row;
    if p.size_4 > 1u {
        at += (i % p.size_4) * p.stride_4;
        i /= p.size_4;
    }
    if p.size_3 > 1u {
        at += (i % p.size_3) * p.stride_3;
        i /= p.size_3;
    }
    if p.size_2 > 1u {
        at += (i % p.size_2) * p.stride_2;
        i /= p.size_2;
    }
    if p.size_1 > 1u {
        at += (i % p.size_1) * p.stride_1;
        i /= p.size_1;
    }
    return at + i * p.stride_0;
}

@compute @workgroup_size(WG_SIZE)
fn rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = rows_params;
    let row = thread >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    let start = rows_start(row);
    let start_out = row * p.stride_out + p.start_out;
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_inner; i += lanes) {
        rows_out[start_out + i] = rows_x[start + i * p.stride_inner];
    }
}

@compute @workgroup_size(WG_SIZE)
fn rows_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = rows_params;
    let row = thread >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    let start = rows_start(row);
    let start_out = row * p.stride_out + p.start_out;
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_inner; i += lanes) {
        rows_out4[start_out + i] = rows_x4[start + i];
    }
}

// One invocation per word of the whole output. Columns before those of this input are kept, as earlier dispatches wrote
// them; those behind are still to come.
@compute @workgroup_size(WG_SIZE)
fn rows_bytes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let word = thread_id(group, n_groups, local, WG_SIZE);
    let p = rows_params;
    if word >= (p.n_rows * p.stride_out + 3u) / 4u {
        return;
    }
    var row = word * 4u / p.stride_out;
    var i = word * 4u - row * p.stride_out;
    var bytes = 0u;
    if i < p.start_out || (p.start_out != 0u && i + 3u >= p.stride_out && row + 1u < p.n_rows) {
        bytes = rows_out_words[word];
    }
    for (var j = 0u; j < 4u; j++) {
        if row < p.n_rows && i >= p.start_out && i - p.start_out < p.n_inner {
            let at = rows_start(row) + (i - p.start_out) * p.stride_inner;
            let byte = (rows_words[at / 4u] >> (8u * (at % 4u))) & 0xffu;
            bytes = (bytes & ~(0xffu << (8u * j))) | (byte << (8u * j));
        }
        i += 1u;
        if i == p.stride_out {
            i = 0u;
            row += 1u;
        }
    }
    rows_out_words[word] = bytes;
}

// ---- pad: axes 0 (never padded) to 3, the last a run of units ----
struct PadParams {
    n_rows: u32, lanes_log2: u32, offset: u32, value: f32,
    out_1: u32, out_2: u32, out_3: u32,
    before_1: u32, before_2: u32, before_3: u32,
    in_1: u32, in_2: u32, in_3: u32,
    stride_0: u32, stride_1: u32, stride_2: u32,
}
@group(0) @binding(0) var<storage, read> pad_x: array<Elem>;
@group(0) @binding(0) var<storage, read> pad_x4: array<Elem4>;
@group(0) @binding(0) var<storage, read> pad_words: array<u32>;
@group(0) @binding(1) var<storage, read_write> pad_out: array<Elem>;        // [n_rows, out_3]
@group(0) @binding(1) var<storage, read_write> pad_out4: array<Elem4>;
@group(0) @binding(1) var<storage, read_write> pad_out_words: array<u32>;
var<immediate> pad_params: PadParams;

struct PadRow {
    start: u32,    // of the row of x
    inside: bool,  // whether there is one
}

fn pad_row(row: u32) -> PadRow {
    let p = pad_params;
    let r = row / p.out_2;
    // Below 0 these wrap to large numbers, which are not inside either.
    let i_2 = row - r * p.out_2 - p.before_2;
    let i_0 = r / p.out_1;
    let i_1 = r - i_0 * p.out_1 - p.before_1;
    return PadRow(p.offset + i_0 * p.stride_0 + i_1 * p.stride_1 + i_2 * p.stride_2, i_1 < p.in_1 && i_2 < p.in_2);
}

@compute @workgroup_size(WG_SIZE)
fn pad_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = pad_params;
    let row = thread >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    let x = pad_row(row);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.out_3; i += lanes) {
        var value = Elem(p.value);
        if x.inside && i - p.before_3 < p.in_3 {
            value = pad_x[x.start + i - p.before_3];
        }
        pad_out[row * p.out_3 + i] = value;
    }
}

@compute @workgroup_size(WG_SIZE)
fn pad_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = pad_params;
    let row = thread >> p.lanes_log2;
    if row >= p.n_rows {
        return;
    }
    let x = pad_row(row);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.out_3; i += lanes) {
        var value = Elem4(Elem(p.value));
        if x.inside && i - p.before_3 < p.in_3 {
            value = pad_x4[x.start + i - p.before_3];
        }
        pad_out4[row * p.out_3 + i] = value;
    }
}

@compute @workgroup_size(WG_SIZE)
fn pad_bytes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let word = thread_id(group, n_groups, local, WG_SIZE);
    let p = pad_params;
    if word >= (p.n_rows * p.out_3 + 3u) / 4u {
        return;
    }
    var row = word * 4u / p.out_3;
    var i = word * 4u - row * p.out_3;
    var bytes = 0u;
    for (var j = 0u; j < 4u; j++) {
        if row < p.n_rows {
            let x = pad_row(row);
            var byte = u32(p.value);
            if x.inside && i - p.before_3 < p.in_3 {
                let at = x.start + i - p.before_3;
                byte = (pad_words[at / 4u] >> (8u * (at % 4u))) & 0xffu;
            }
            bytes |= byte << (8u * j);
        }
        i += 1u;
        if i == p.out_3 {
            i = 0u;
            row += 1u;
        }
    }
    pad_out_words[word] = bytes;
}

// ---- resize: a row is one pixel of the output, its units the channels ----
struct ResizeParams {
    n_pixels: u32, lanes_log2: u32, n_channels: u32,
    h_in: u32, w_in: u32, h_out: u32, w_out: u32,
    scale_y: f32, scale_x: f32,
    centre: f32,   // of a pixel: 0.5 where pixels are areas, 0 where corners are aligned
}
@group(0) @binding(0) var<storage, read> resize_x: array<Elem>;             // [n, h_in, w_in, n_channels]
@group(0) @binding(0) var<storage, read> resize_x4: array<Elem4>;
@group(0) @binding(1) var<storage, read_write> resize_out: array<Elem>;     // [n, h_out, w_out, n_channels]
@group(0) @binding(1) var<storage, read_write> resize_out4: array<Elem4>;
var<immediate> resize_params: ResizeParams;

// Image, y and x of a pixel of the output.
fn resize_pixel(pixel: u32) -> vec3<u32> {
    let p = resize_params;
    let r = pixel / p.w_out;
    let n = r / p.h_out;
    return vec3<u32>(n, r - n * p.h_out, pixel - r * p.w_out);
}

// The two pixels of an axis that an output lies between, and its distance from the first.
struct Between {
    first: u32,
    second: u32,
    part: f32,
}

fn between(i: u32, scale: f32, centre: f32, n_in: u32) -> Between {
    let at = max((f32(i) + centre) * scale - centre, 0.0);
    let first = min(u32(at), n_in - 1u);
    return Between(first, min(first + 1u, n_in - 1u), at - f32(first));
}

fn nearest_of(i: u32, scale: f32, n_in: u32) -> u32 {
    return min(u32(f32(i) * scale), n_in - 1u);
}

struct Corners {
    at: vec4<u32>,       // starts of the four pixels, row by row
    weight: vec4<f32>,
}

fn resize_corners(pixel: u32) -> Corners {
    let p = resize_params;
    let i = resize_pixel(pixel);
    let y = between(i.y, p.scale_y, p.centre, p.h_in);
    let x = between(i.z, p.scale_x, p.centre, p.w_in);
    let b = y.part;
    let a = x.part;
    let r_0 = (i.x * p.h_in + y.first) * p.w_in;
    let r_1 = (i.x * p.h_in + y.second) * p.w_in;
    return Corners(vec4<u32>(r_0 + x.first, r_0 + x.second, r_1 + x.first, r_1 + x.second) * p.n_channels,
                   vec4<f32>((1.0 - b) * (1.0 - a), (1.0 - b) * a, b * (1.0 - a), b * a));
}

@compute @workgroup_size(WG_SIZE)
fn bilinear_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = resize_params;
    let pixel = thread >> p.lanes_log2;
    if pixel >= p.n_pixels {
        return;
    }
    let c = resize_corners(pixel);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_channels; i += lanes) {
        let at = c.at + i;
        let x = vec4<f32>(f32(resize_x[at.x]), f32(resize_x[at.y]), f32(resize_x[at.z]), f32(resize_x[at.w]));
        resize_out[pixel * p.n_channels + i] = Elem(dot(c.weight, x));
    }
}

@compute @workgroup_size(WG_SIZE)
fn bilinear_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = resize_params;
    let pixel = thread >> p.lanes_log2;
    if pixel >= p.n_pixels {
        return;
    }
    let c = resize_corners(pixel);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_channels; i += lanes) {
        let at = c.at + i;
        resize_out4[pixel * p.n_channels + i] = Elem4(
            c.weight.x * vec4<f32>(resize_x4[at.x]) + c.weight.y * vec4<f32>(resize_x4[at.y])
                + c.weight.z * vec4<f32>(resize_x4[at.z]) + c.weight.w * vec4<f32>(resize_x4[at.w]));
    }
}

fn nearest_start(pixel: u32) -> u32 {
    let p = resize_params;
    let i = resize_pixel(pixel);
    let y = nearest_of(i.y, p.scale_y, p.h_in);
    let x = nearest_of(i.z, p.scale_x, p.w_in);
    return ((i.x * p.h_in + y) * p.w_in + x) * p.n_channels;
}

@compute @workgroup_size(WG_SIZE)
fn nearest_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = resize_params;
    let pixel = thread >> p.lanes_log2;
    if pixel >= p.n_pixels {
        return;
    }
    let start = nearest_start(pixel);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_channels; i += lanes) {
        resize_out[pixel * p.n_channels + i] = resize_x[start + i];
    }
}

@compute @workgroup_size(WG_SIZE)
fn nearest_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = resize_params;
    let pixel = thread >> p.lanes_log2;
    if pixel >= p.n_pixels {
        return;
    }
    let start = nearest_start(pixel);
    let lanes = 1u << p.lanes_log2;
    for (var i = thread & (lanes - 1u); i < p.n_channels; i += lanes) {
        resize_out4[pixel * p.n_channels + i] = resize_x4[start + i];
    }
}

// ---- one-hot: one invocation per vec4 of the output ----
struct OneHotParams { n_ids: u32, n_classes: u32 }
@group(0) @binding(0) var<storage, read> one_hot_ids: array<u32>;           // [n_ids]
@group(0) @binding(1) var<storage, read_write> one_hot_out: array<vec4<f32>>;   // [n_ids, n_classes]
var<immediate> one_hot_params: OneHotParams;

@compute @workgroup_size(WG_SIZE)
fn one_hot_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let p = one_hot_params;
    if thread * 4u >= p.n_ids * p.n_classes {
        return;
    }
    var row = thread * 4u / p.n_classes;
    var column = thread * 4u - row * p.n_classes;
    var values = vec4<f32>(0.0);
    for (var j = 0u; j < 4u; j++) {
        if row < p.n_ids && one_hot_ids[row] == column {
            values[j] = 1.0;
        }
        column += 1u;
        if column == p.n_classes {
            column = 0u;
            row += 1u;
        }
    }
    one_hot_out[thread] = values;
}

// ---- resize backward, one axis: one invocation per unit of the gradient ----
struct ResizeAxisParams {
    n_units: u32,    // of the output: vec4 or elements
    n_in: u32,       // pixels of the resized image's source along the axis
    n_out: u32,      // and of the image
    n_inner: u32,    // units of a pixel
    scale: f32, centre: f32,
    nearest: u32,    // 0: between two pixels
}
@group(0) @binding(0) var<storage, read> resize_d: array<Elem>;              // [n_outer, n_out, n_inner]
@group(0) @binding(0) var<storage, read> resize_d4: array<Elem4>;
@group(0) @binding(1) var<storage, read_write> resize_d_x: array<Elem>;      // [n_outer, n_in, n_inner]
@group(0) @binding(1) var<storage, read_write> resize_d_x4: array<Elem4>;
var<immediate> resize_axis_params: ResizeAxisParams;

// The weight of pixel i in output j.
fn weight_of(i: u32, j: u32) -> f32 {
    let p = resize_axis_params;
    if p.nearest != 0u {
        return f32(nearest_of(j, p.scale, p.n_in) == i);
    }
    let at = between(j, p.scale, p.centre, p.n_in);
    return select(0.0, 1.0 - at.part, at.first == i) + select(0.0, at.part, at.second == i);
}

// All outputs that read pixel i, and some that do not: those less than a pixel away, and one more for rounding.
fn readers_of(i: u32) -> vec2<u32> {
    let p = resize_axis_params;
    let low = (f32(i) - 1.0 + p.centre) / p.scale - p.centre - 1.0;
    let high = (f32(i) + 1.0 + p.centre) / p.scale - p.centre + 2.0;
    // What lies beyond an edge reads the pixel there. A scale of 0 is that of a single pixel on either side.
    // Bounded as floats first: an integer cannot hold an infinity.
    let end = f32(p.n_out);
    return vec2<u32>(select(min(u32(clamp(low, 0.0, end)), p.n_out), 0u, i == 0u || p.scale == 0.0),
                     select(min(u32(clamp(high, 0.0, end)), p.n_out), p.n_out, i + 1u == p.n_in || p.scale == 0.0));
}

@compute @workgroup_size(WG_SIZE)
fn resize_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let p = resize_axis_params;
    if id >= p.n_units {
        return;
    }
    let r = id / p.n_inner;
    let outer = r / p.n_in;
    let i = r - outer * p.n_in;
    let start = outer * p.n_out * p.n_inner + id - r * p.n_inner;
    let readers = readers_of(i);
    var sum = 0.0;
    for (var j = readers.x; j < readers.y; j++) {
        sum += weight_of(i, j) * f32(resize_d[start + j * p.n_inner]);
    }
    resize_d_x[id] = Elem(sum);
}

@compute @workgroup_size(WG_SIZE)
fn resize_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let p = resize_axis_params;
    if id >= p.n_units {
        return;
    }
    let r = id / p.n_inner;
    let outer = r / p.n_in;
    let i = r - outer * p.n_in;
    let start = outer * p.n_out * p.n_inner + id - r * p.n_inner;
    let readers = readers_of(i);
    var sum = vec4<f32>(0.0);
    for (var j = readers.x; j < readers.y; j++) {
        sum += weight_of(i, j) * vec4<f32>(resize_d4[start + j * p.n_inner]);
    }
    resize_d_x4[id] = Elem4(sum);
}
