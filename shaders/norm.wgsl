// Normalisation of rows:
//   layer norm  out_ij = (x_ij - mean_i) / sqrt(var_i + eps) gain_j + bias_j    var_i over the row, divided by its length
//   RMS norm    out_ij = x_ij / sqrt(mean_j x_ij^2 + eps) gain_j
// and back, with x^ the normalised x, g = gain d, means over the row:
//   layer norm  d_x = (g - mean(g) - x^ mean(g x^)) / sqrt(var + eps)
//   RMS norm    d_x = (g - x^ mean(g x^)) / sqrt(mean x^2 + eps)
// The rows variants give four rows, or one, to an invocation and use no workgroup memory: for software adapters and
// short rows. The group variants give a row to a workgroup, whose lanes read side by side.
override WG_SIZE: u32 = 64u;
override OP: u32 = 0u;            // 0 layer norm, 1 RMS norm
override GAIN: u32 = 1u;          // whether gain is bound; if not, something else stands in its place
override BIAS: u32 = 1u;

struct NormParams { n_rows: u32, n_cols: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> norm_x4: array<Elem4>;           // [n_rows, n_cols], as vec4
@group(0) @binding(1) var<storage, read> norm_gain4: array<Param4>;       // [n_cols], as vec4
@group(0) @binding(2) var<storage, read> norm_bias4: array<Param4>;       // [n_cols], as vec4
@group(0) @binding(3) var<storage, read_write> norm_out4: array<Elem4>;   // [n_rows, n_cols], as vec4
@group(0) @binding(0) var<storage, read> norm_x: array<Elem>;
@group(0) @binding(1) var<storage, read> norm_gain: array<Param>;
@group(0) @binding(2) var<storage, read> norm_bias: array<Param>;
@group(0) @binding(3) var<storage, read_write> norm_out: array<Elem>;
var<immediate> norm_params: NormParams;

// What an element is normalised by: (x - first - mean) scale, where first is the row's first element and mean that of
// the differences to it. So the digits that all elements share never enter a sum.
struct Moments { first: f32, mean: f32, scale: f32 }

fn load4(i: u32) -> vec4<f32> {
    return vec4<f32>(norm_x4[i]);
}

fn added(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn squares4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
    return (a * a + b * b) + (c * c + d * d);
}

// The moments of n_vec4 vec4 from start in one reading: per lane of the vec4, each four values are reduced by themselves
// and joined to those before (Chan, Golub and LeVeque 1979), which loses nothing wherever the values lie.
fn layer_moments(start: u32, n_vec4: u32) -> Moments {
    let first = load4(start).x;
    var mean = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    var count = 0.0;
    let end = start + n_vec4;
    var i = start;
    for (; i + 3u < end; i += 4u) {
        let a = load4(i) - first;
        let b = load4(i + 1u) - first;
        let c = load4(i + 2u) - first;
        let d = load4(i + 3u) - first;
        let middle = 0.25 * ((a + b) + (c + d));
        let step = middle - mean;
        let weight = 4.0 / (count + 4.0);
        mean += step * weight;
        squares += squares4(a - middle, b - middle, c - middle, d - middle) + step * step * (weight * count);
        count += 4.0;
    }
    for (; i < end; i++) {
        let step = load4(i) - first - mean;
        let weight = 1.0 / (count + 1.0);
        mean += step * weight;
        squares += step * step * (weight * count);
        count += 1.0;
    }
    let middle = 0.25 * added(mean);
    let off = mean - middle;
    let variance = added(squares + off * off * count) / (4.0 * count);
    return Moments(first, middle, 1.0 / sqrt(variance + norm_params.eps));
}

fn rms_moments(start: u32, n_vec4: u32) -> Moments {
    var squares = vec4<f32>(0.0);
    let end = start + n_vec4;
    var i = start;
    for (; i + 3u < end; i += 4u) {
        squares += squares4(load4(i), load4(i + 1u), load4(i + 2u), load4(i + 3u));
    }
    for (; i < end; i++) {
        let x = load4(i);
        squares += x * x;
    }
    return Moments(0.0, 0.0, 1.0 / sqrt(added(squares) / f32(4u * n_vec4) + norm_params.eps));
}

fn affine4(x: vec4<f32>, m: Moments, gain: vec4<f32>, bias: vec4<f32>) -> Elem4 {
    return Elem4((x - m.first - m.mean) * m.scale * gain + bias);
}

// Row lengths that are multiples of 4; one invocation per four rows, which share what they read of gain and bias.
@compute @workgroup_size(WG_SIZE)
fn norm_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let row = 4u * thread_id(group, n_groups, local, WG_SIZE);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let n_vec4 = p.n_cols / 4u;
    // Past the last row the last is done again: the same numbers to the same place by the same invocation.
    let starts = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n_rows - 1u)) * n_vec4;
    var firsts = vec4<f32>();
    var means = vec4<f32>();
    var scales = vec4<f32>();
    for (var q = 0u; q < 4u; q++) {
        var m: Moments;
        if OP == 0u {
            m = layer_moments(starts[q], n_vec4);
        } else {
            m = rms_moments(starts[q], n_vec4);
        }
        let here = vec4<u32>(q) == vec4<u32>(0u, 1u, 2u, 3u);
        firsts = select(firsts, vec4<f32>(m.first), here);
        means = select(means, vec4<f32>(m.mean), here);
        scales = select(scales, vec4<f32>(m.scale), here);
    }
    let m0 = Moments(firsts.x, means.x, scales.x);
    let m1 = Moments(firsts.y, means.y, scales.y);
    let m2 = Moments(firsts.z, means.z, scales.z);
    let m3 = Moments(firsts.w, means.w, scales.w);
    for (var i = 0u; i < n_vec4; i++) {
        var gain = vec4<f32>(1.0);
        var bias = vec4<f32>(0.0);
        if GAIN == 1u {
            gain = vec4<f32>(norm_gain4[i]);
        }
        if BIAS == 1u {
            bias = vec4<f32>(norm_bias4[i]);
        }
        norm_out4[starts.x + i] = affine4(load4(starts.x + i), m0, gain, bias);
        norm_out4[starts.y + i] = affine4(load4(starts.y + i), m1, gain, bias);
        norm_out4[starts.z + i] = affine4(load4(starts.z + i), m2, gain, bias);
        norm_out4[starts.w + i] = affine4(load4(starts.w + i), m3, gain, bias);
    }
}

fn write_element(i: u32, c: u32, m: Moments) {
    var value = (f32(norm_x[i]) - m.first - m.mean) * m.scale;
    if GAIN == 1u {
        value *= f32(norm_gain[c]);
    }
    if BIAS == 1u {
        value += f32(norm_bias[c]);
    }
    norm_out[i] = Elem(value);
}

// The row's first element, which layer norm counts from.
fn first_of(start: u32) -> f32 {
    if OP == 0u {
        return f32(norm_x[start]);
    }
    return 0.0;
}

fn scale_of(squares: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(norm_params.n_cols) + norm_params.eps);
}

// Any row length, twice read for the statistics; one invocation per row.
@compute @workgroup_size(WG_SIZE)
fn norm_rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    let first = first_of(start);
    var mean = 0.0;
    if OP == 0u {
        for (var c = 0u; c < p.n_cols; c++) {
            mean += f32(norm_x[start + c]) - first;
        }
        mean /= f32(p.n_cols);
    }
    var squares = 0.0;
    for (var c = 0u; c < p.n_cols; c++) {
        let off = f32(norm_x[start + c]) - first - mean;
        squares += off * off;
    }
    let m = Moments(first, mean, scale_of(squares));
    for (var c = 0u; c < p.n_cols; c++) {
        write_element(start + c, c, m);
    }
}

// This lane's share of a row from start, every WG_SIZE-th element, four at a time: the sum of (x - first - mean)^power.
fn lane_sum(start: u32, local: u32, first: f32, mean: f32, power: u32) -> f32 {
    let n = norm_params.n_cols;
    var sum = vec4<f32>(0.0);
    for (var c = local; c < n; c += 4u * WG_SIZE) {
        let at = vec4<u32>(c) + vec4<u32>(0u, WG_SIZE, 2u * WG_SIZE, 3u * WG_SIZE);
        let i = vec4<u32>(start) + min(at, vec4<u32>(n - 1u));
        let x = vec4<f32>(f32(norm_x[i.x]), f32(norm_x[i.y]), f32(norm_x[i.z]), f32(norm_x[i.w])) - first - mean;
        sum += select(vec4<f32>(0.0), select(x, x * x, power == 2u), at < vec4<u32>(n));
    }
    return added(sum);
}

// Any row length; one workgroup per row, twice read for the statistics.
@compute @workgroup_size(WG_SIZE)
fn norm_group_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let row = group_id(group, n_groups);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    let first = first_of(start);
    var mean = 0.0;
    if OP == 0u {
        mean = group_reduce(JOIN_SUM, local, lane_sum(start, local, first, 0.0, 1u)) / f32(p.n_cols);
        workgroupBarrier();
    }
    let squares = group_reduce(JOIN_SUM, local, lane_sum(start, local, first, mean, 2u));
    let m = Moments(first, mean, scale_of(squares));
    for (var c = local; c < p.n_cols; c += WG_SIZE) {
        write_element(start + c, c, m);
    }
}

@compute @workgroup_size(WG_SIZE)
fn norm_subgroup_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32, @builtin(subgroup_invocation_id) lane: u32,
                     @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) n_subgroups: u32) {
    let row = group_id(group, n_groups);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    let first = first_of(start);
    var mean = 0.0;
    if OP == 0u {
        let sum = lane_sum(start, local, first, 0.0, 1u);
        mean = subgroups_reduce(JOIN_SUM, lane, subgroup, n_subgroups, sum) / f32(p.n_cols);
        workgroupBarrier();
    }
    let mine = lane_sum(start, local, first, mean, 2u);
    let squares = subgroups_reduce(JOIN_SUM, lane, subgroup, n_subgroups, mine);
    let m = Moments(first, mean, scale_of(squares));
    for (var c = local; c < p.n_cols; c += WG_SIZE) {
        write_element(start + c, c, m);
    }
}

// ---- backward ----
// The gradient of x, and what the sums for gain and bias need to normalise x again.
@group(0) @binding(2) var<storage, read> norm_d4: array<Elem4>;               // of out
@group(0) @binding(2) var<storage, read> norm_d: array<Elem>;
@group(0) @binding(3) var<storage, read_write> norm_d_x4: array<Elem4>;
@group(0) @binding(3) var<storage, read_write> norm_d_x: array<Elem>;
@group(0) @binding(4) var<storage, read_write> norm_stats: array<vec4<f32>>;  // [n_rows]: first, mean, scale

fn weighted4(at: u32, i: u32) -> vec4<f32> {
    if GAIN == 1u {
        return vec4<f32>(norm_d4[at]) * vec4<f32>(norm_gain4[i]);
    }
    return vec4<f32>(norm_d4[at]);
}

fn weighted1(at: u32, c: u32) -> f32 {
    if GAIN == 1u {
        return f32(norm_d[at]) * f32(norm_gain[c]);
    }
    return f32(norm_d[at]);
}

// From the sums of g and of g (x - first - mean): mean(g), where it counts, and the factor of x - first - mean.
fn pulls(sum: f32, sum_x: f32, m: Moments) -> vec2<f32> {
    let n = f32(norm_params.n_cols);
    return vec2<f32>(select(0.0, sum / n, OP == 0u), sum_x / n * m.scale * m.scale);
}

// Row lengths that are multiples of 4; one invocation per row.
@compute @workgroup_size(WG_SIZE)
fn norm_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let n_vec4 = p.n_cols / 4u;
    let start = row * n_vec4;
    var m: Moments;
    if OP == 0u {
        m = layer_moments(start, n_vec4);
    } else {
        m = rms_moments(start, n_vec4);
    }
    var sum = vec4<f32>(0.0);
    var sum_x = vec4<f32>(0.0);
    var i = 0u;
    for (; i + 1u < n_vec4; i += 2u) {
        let g_0 = weighted4(start + i, i);
        let g_1 = weighted4(start + i + 1u, i + 1u);
        let x_0 = load4(start + i) - m.first - m.mean;
        let x_1 = load4(start + i + 1u) - m.first - m.mean;
        sum += g_0 + g_1;
        sum_x += g_0 * x_0 + g_1 * x_1;
    }
    if i < n_vec4 {
        let g = weighted4(start + i, i);
        sum += g;
        sum_x += g * (load4(start + i) - m.first - m.mean);
    }
    let pull = pulls(added(sum), added(sum_x), m);
    for (i = 0u; i + 1u < n_vec4; i += 2u) {
        let g_0 = weighted4(start + i, i);
        let g_1 = weighted4(start + i + 1u, i + 1u);
        let x_0 = load4(start + i) - m.first - m.mean;
        let x_1 = load4(start + i + 1u) - m.first - m.mean;
        norm_d_x4[start + i] = Elem4((g_0 - pull.x - x_0 * pull.y) * m.scale);
        norm_d_x4[start + i + 1u] = Elem4((g_1 - pull.x - x_1 * pull.y) * m.scale);
    }
    if i < n_vec4 {
        let x = load4(start + i) - m.first - m.mean;
        norm_d_x4[start + i] = Elem4((weighted4(start + i, i) - pull.x - x * pull.y) * m.scale);
    }
    norm_stats[row] = vec4<f32>(m.first, m.mean, m.scale, 0.0);
}

fn write_d_x(at: u32, c: u32, m: Moments, pull: vec2<f32>) {
    let off = f32(norm_x[at]) - m.first - m.mean;
    norm_d_x[at] = Elem((weighted1(at, c) - pull.x - off * pull.y) * m.scale);
}

// Any row length; one invocation per row.
@compute @workgroup_size(WG_SIZE)
fn norm_rows_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    let first = first_of(start);
    var mean = 0.0;
    if OP == 0u {
        for (var c = 0u; c < p.n_cols; c++) {
            mean += f32(norm_x[start + c]) - first;
        }
        mean /= f32(p.n_cols);
    }
    var squares = 0.0;
    var sum = 0.0;
    var sum_x = 0.0;
    for (var c = 0u; c < p.n_cols; c++) {
        let off = f32(norm_x[start + c]) - first - mean;
        let g = weighted1(start + c, c);
        squares += off * off;
        sum += g;
        sum_x += g * off;
    }
    let m = Moments(first, mean, scale_of(squares));
    let pull = pulls(sum, sum_x, m);
    for (var c = 0u; c < p.n_cols; c++) {
        write_d_x(start + c, c, m, pull);
    }
    norm_stats[row] = vec4<f32>(first, mean, m.scale, 0.0);
}

// Any row length; one workgroup per row.
@compute @workgroup_size(WG_SIZE)
fn norm_group_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let row = group_id(group, n_groups);
    let p = norm_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    let first = first_of(start);
    var mean = 0.0;
    if OP == 0u {
        mean = group_reduce(JOIN_SUM, local, lane_sum(start, local, first, 0.0, 1u)) / f32(p.n_cols);
        workgroupBarrier();
    }
    var squares = 0.0;
    var sum = 0.0;
    var sum_x = 0.0;
    for (var c = local; c < p.n_cols; c += WG_SIZE) {
        let off = f32(norm_x[start + c]) - first - mean;
        let g = weighted1(start + c, c);
        squares += off * off;
        sum += g;
        sum_x += g * off;
    }
    let m = Moments(first, mean, scale_of(group_reduce(JOIN_SUM, local, squares)));
    workgroupBarrier();
    let row_sum = group_reduce(JOIN_SUM, local, sum);
    workgroupBarrier();
    let pull = pulls(row_sum, group_reduce(JOIN_SUM, local, sum_x), m);
    for (var c = local; c < p.n_cols; c += WG_SIZE) {
        write_d_x(start + c, c, m, pull);
    }
    if local == 0u {
        norm_stats[row] = vec4<f32>(first, mean, m.scale, 0.0);
    }
}
