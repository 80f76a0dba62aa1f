// Normalisation of channels by statistics of their own (batch norm in training), of running ones (in evaluation), or of
// groups of neighbours (group norm):
//   x^_src = (x_src - mean_sg) / sqrt(var_sg + eps)      g the group of channel c, s the sample, r the row
//   out    = act(z),  z = x^ gain_c + bias_c
// and back, with d' = d act'(z), where z is computed again:
//   d_bias_c = sum over s, r of d'        d_gain_c = sum over s, r of d' x^
//   d_x = gain_c d' / sqrt(var + eps)                                                    by statistics that stay
//   d_x = (gain_c d' - mean_g(gain d') - x^ mean_g(gain d' x^)) / sqrt(var + eps)        by those of x itself
// x is [n_samples, n_rows, n_cols]. An invocation takes one channel, or four, of the rows of a block: neighbours for
// software adapters, whose cores each read a stretch of memory, every n_blocks-th for GPUs, whose lanes read side by
// side. Sums over rows come as one part per block, which a second launch joins in a fixed order.
override WG_SIZE: u32 = 64u;
override ACT: u32 = 0u;
// Whose statistics: 0 given ones, 1 those of the batch, 2 those of groups, which count as given but for d_x.
// Means of the batch count from the first row, x - x_first - mean: the digits that all rows share never enter a sum.
override STATS: u32 = 0u;
override OP: u32 = 0u;            // of the join: 0 moments, 1 sums

struct ChannelParams {
    n_samples: u32, n_rows: u32, n_cols: u32, group_size: u32,
    n_blocks: u32, block_step: u32, row_step: u32,                        // block b: rows b block_step + k row_step,
    rows_each: u32,                                                       // k below rows_each
    stride_sums: u32,
    eps: f32, inverse_count: f32,                                         // 1 over the elements that share statistics
}
@group(0) @binding(0) var<storage, read> channel_x4: array<Elem4>;        // [n_samples, n_rows, n_cols], as vec4
@group(0) @binding(0) var<storage, read> channel_x: array<Elem>;
@group(0) @binding(1) var<storage, read> channel_gain: array<Param>;      // [n_cols]
@group(0) @binding(2) var<storage, read> channel_bias: array<Param>;      // [n_cols]
@group(0) @binding(3) var<storage, read> channel_mean: array<Param>;      // [n_samples, n_cols / group_size]
@group(0) @binding(4) var<storage, read> channel_var: array<Param>;       // [n_samples, n_cols / group_size]
var<immediate> channel_params: ChannelParams;

// What an invocation works on: a sample, a block of its rows, and a column of n_columns.
struct Place { sample: u32, block: u32, column: u32, first: u32, n: u32 }

fn rows_of(block: u32) -> u32 {
    let p = channel_params;
    return min(p.rows_each, (p.n_rows - block * p.block_step + p.row_step - 1u) / p.row_step);
}

fn place(i: u32, n_columns: u32) -> Place {
    let p = channel_params;
    let block = i / n_columns % p.n_blocks;
    return Place(i / n_columns / p.n_blocks, block, i % n_columns, block * p.block_step, rows_of(block));
}

struct Channel { mean: f32, scale: f32, gain: f32, bias: f32 }            // scale: 1 / sqrt(var + eps)
struct Channels { mean: vec4<f32>, scale: vec4<f32>, gain: vec4<f32>, bias: vec4<f32> }

fn group_of(sample: u32, c: u32) -> u32 {
    let p = channel_params;
    return sample * (p.n_cols / p.group_size) + c / p.group_size;
}

fn channel_of(sample: u32, c: u32) -> Channel {
    let group = group_of(sample, c);
    let scale = 1.0 / sqrt(f32(channel_var[group]) + channel_params.eps);
    return Channel(f32(channel_mean[group]), scale, f32(channel_gain[c]), f32(channel_bias[c]));
}

fn channels_of(sample: u32, column: u32) -> Channels {
    let a = channel_of(sample, 4u * column);
    let b = channel_of(sample, 4u * column + 1u);
    let c = channel_of(sample, 4u * column + 2u);
    let d = channel_of(sample, 4u * column + 3u);
    return Channels(vec4<f32>(a.mean, b.mean, c.mean, d.mean), vec4<f32>(a.scale, b.scale, c.scale, d.scale),
                    vec4<f32>(a.gain, b.gain, c.gain, d.gain), vec4<f32>(a.bias, b.bias, c.bias, d.bias));
}

fn first4(column: u32) -> vec4<f32> {
    if STATS == 1u {
        return vec4<f32>(channel_x4[column]);
    }
    return vec4<f32>(0.0);
}

fn first1(column: u32) -> f32 {
    if STATS == 1u {
        return f32(channel_x[column]);
    }
    return 0.0;
}

// ---- forward ----
@group(0) @binding(5) var<storage, read_write> channel_out4: array<Elem4>;
@group(0) @binding(5) var<storage, read_write> channel_out: array<Elem>;

fn normalised4(at: u32, first: vec4<f32>, c: Channels) -> Elem4 {
    return Elem4(activate4(ACT, (vec4<f32>(channel_x4[at]) - first - c.mean) * c.scale * c.gain + c.bias));
}

@compute @workgroup_size(WG_SIZE)
fn channel_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let n_vec4 = p.n_cols / 4u;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), n_vec4);
    if here.sample >= p.n_samples {
        return;
    }
    var c = channels_of(here.sample, here.column);
    // One product per element where nothing stands between the two.
    c.scale *= c.gain;
    c.gain = vec4<f32>(1.0);
    let first = first4(here.column);
    let step = p.row_step * n_vec4;
    var at = (here.sample * p.n_rows + here.first) * n_vec4 + here.column;
    var k = 0u;
    for (; k + 3u < here.n; k += 4u) {
        let out_0 = normalised4(at, first, c);
        let out_1 = normalised4(at + step, first, c);
        let out_2 = normalised4(at + 2u * step, first, c);
        let out_3 = normalised4(at + 3u * step, first, c);
        channel_out4[at] = out_0;
        channel_out4[at + step] = out_1;
        channel_out4[at + 2u * step] = out_2;
        channel_out4[at + 3u * step] = out_3;
        at += 4u * step;
    }
    for (; k < here.n; k++) {
        channel_out4[at] = normalised4(at, first, c);
        at += step;
    }
}

@compute @workgroup_size(WG_SIZE)
fn channel_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), p.n_cols);
    if here.sample >= p.n_samples {
        return;
    }
    let c = channel_of(here.sample, here.column);
    let first = first1(here.column);
    var at = (here.sample * p.n_rows + here.first) * p.n_cols + here.column;
    for (var k = 0u; k < here.n; k++) {
        let value = (f32(channel_x[at]) - first - c.mean) * (c.scale * c.gain) + c.bias;
        channel_out[at] = Elem(activate(ACT, value));
        at += p.row_step * p.n_cols;
    }
}

// ---- statistics of a batch ----
// Per block the mean of x - x_first and the sum of squared differences to it: [n_blocks, 2, n_cols], n_samples 1.
@group(0) @binding(1) var<storage, read_write> moments_parts4: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> moments_parts: array<f32>;

// Each four rows are reduced by themselves and joined to those before (Chan, Golub and LeVeque 1979), which loses
// nothing wherever the values lie.
@compute @workgroup_size(WG_SIZE)
fn moments_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let n_vec4 = p.n_cols / 4u;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), n_vec4);
    if here.sample >= p.n_samples {
        return;
    }
    let first = vec4<f32>(channel_x4[here.column]);
    let step = p.row_step * n_vec4;
    var at = here.first * n_vec4 + here.column;
    var mean = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    var count = 0.0;
    var k = 0u;
    for (; k + 3u < here.n; k += 4u) {
        let a = vec4<f32>(channel_x4[at]) - first;
        let b = vec4<f32>(channel_x4[at + step]) - first;
        let c = vec4<f32>(channel_x4[at + 2u * step]) - first;
        let d = vec4<f32>(channel_x4[at + 3u * step]) - first;
        let middle = 0.25 * ((a + b) + (c + d));
        let off = middle - mean;
        let weight = 4.0 / (count + 4.0);
        mean += off * weight;
        let a_off = a - middle;
        let b_off = b - middle;
        let c_off = c - middle;
        let d_off = d - middle;
        squares += ((a_off * a_off + b_off * b_off) + (c_off * c_off + d_off * d_off)) + off * off * (weight * count);
        count += 4.0;
        at += 4u * step;
    }
    for (; k < here.n; k++) {
        let off = vec4<f32>(channel_x4[at]) - first - mean;
        let weight = 1.0 / (count + 1.0);
        mean += off * weight;
        squares += off * off * (weight * count);
        count += 1.0;
        at += step;
    }
    moments_parts4[2u * here.block * n_vec4 + here.column] = mean;
    moments_parts4[(2u * here.block + 1u) * n_vec4 + here.column] = squares;
}

@compute @workgroup_size(WG_SIZE)
fn moments_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), p.n_cols);
    if here.sample >= p.n_samples {
        return;
    }
    let first = f32(channel_x[here.column]);
    var at = here.first * p.n_cols + here.column;
    var mean = 0.0;
    var squares = 0.0;
    for (var k = 0u; k < here.n; k++) {
        let off = f32(channel_x[at]) - first - mean;
        let weight = 1.0 / f32(k + 1u);
        mean += off * weight;
        squares += off * off * (weight * f32(k));
        at += p.row_step * p.n_cols;
    }
    moments_parts[2u * here.block * p.n_cols + here.column] = mean;
    moments_parts[(2u * here.block + 1u) * p.n_cols + here.column] = squares;
}

// ---- the join of parts ----
// OP 0: parts [n_blocks, 2, n_cols] of moments to mean, population variance and mean of x - x_first: [3, stride_sums].
// OP 1: parts [n_samples, n_blocks, 2, n_cols] of sums to [n_samples, 2, stride_sums].
@group(0) @binding(0) var<storage, read> join_parts: array<f32>;
@group(0) @binding(1) var<storage, read> join_x: array<Elem>;             // for OP 0, [.., n_cols]
@group(0) @binding(2) var<storage, read_write> join_out: array<f32>;

// Where the parts of a channel start, and its place in a row of the result.
fn parts_start(id: u32) -> u32 {
    let p = channel_params;
    return id / p.n_cols * p.n_blocks * 2u * p.n_cols + id % p.n_cols;
}

// The sum of the parts from begin by step: their first number, weighted by their rows for OP 0.
fn sum_first(start: u32, begin: u32, step: u32) -> f32 {
    let p = channel_params;
    var sum = 0.0;
    for (var i = begin; i < p.n_blocks; i += step) {
        let part = join_parts[start + 2u * i * p.n_cols];
        if OP == 0u {
            sum += part * f32(rows_of(i));
        } else {
            sum += part;
        }
    }
    return sum;
}

// And their second number, for OP 0 with what the distance of a part's mean from that of all adds.
fn sum_second(start: u32, begin: u32, step: u32, mean: f32) -> f32 {
    let p = channel_params;
    var sum = 0.0;
    for (var i = begin; i < p.n_blocks; i += step) {
        sum += join_parts[start + (2u * i + 1u) * p.n_cols];
        if OP == 0u {
            let off = join_parts[start + 2u * i * p.n_cols] - mean;
            sum += off * off * f32(rows_of(i));
        }
    }
    return sum;
}

// The last channel also fills its rows up to whole vec4, as ops that take a row as a tensor read four at a time.
fn write_joined(id: u32, first: f32, second: f32) {
    let p = channel_params;
    let c = id % p.n_cols;
    let filled = min((p.n_cols + 3u) / 4u * 4u, p.stride_sums);
    let end = select(0u, filled, c + 1u == p.n_cols);
    if OP == 0u {
        join_out[c] = f32(join_x[c]) + first;
        join_out[p.stride_sums + c] = second * p.inverse_count;
        join_out[2u * p.stride_sums + c] = first;
        for (var k = c + 1u; k < end; k++) {
            join_out[k] = 0.0;
            join_out[p.stride_sums + k] = 0.0;
            join_out[2u * p.stride_sums + k] = 0.0;
        }
        return;
    }
    let row = id / p.n_cols * 2u * p.stride_sums;
    join_out[row + c] = first;
    join_out[row + p.stride_sums + c] = second;
    for (var k = c + 1u; k < end; k++) {
        join_out[row + k] = 0.0;
        join_out[row + p.stride_sums + k] = 0.0;
    }
}

// What the first sums of a channel come to.
fn settled(sum: f32) -> f32 {
    if OP == 0u {
        return sum * channel_params.inverse_count;
    }
    return sum;
}

// One invocation per sample and channel.
@compute @workgroup_size(WG_SIZE)
fn join_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    if id >= channel_params.n_samples * channel_params.n_cols {
        return;
    }
    let start = parts_start(id);
    let first = settled(sum_first(start, 0u, 1u));
    write_joined(id, first, sum_second(start, 0u, 1u, first));
}

// One workgroup per sample and channel, for the many parts of GPUs.
@compute @workgroup_size(WG_SIZE)
fn join_group_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let id = group_id(group, n_groups);
    if id >= channel_params.n_samples * channel_params.n_cols {
        return;
    }
    let start = parts_start(id);
    let first = settled(group_reduce(JOIN_SUM, local, sum_first(start, local, WG_SIZE)));
    workgroupBarrier();
    let second = group_reduce(JOIN_SUM, local, sum_second(start, local, WG_SIZE, first));
    if local == 0u {
        write_joined(id, first, second);
    }
}

// ---- backward ----
@group(0) @binding(5) var<storage, read> channel_d4: array<Elem4>;            // of out
@group(0) @binding(5) var<storage, read> channel_d: array<Elem>;
@group(0) @binding(6) var<storage, read_write> channel_parts4: array<vec4<f32>>;  // [n_samples, n_blocks, 2, n_cols]
@group(0) @binding(6) var<storage, read_write> channel_parts: array<f32>;
@group(0) @binding(6) var<storage, read> channel_sums: array<f32>;            // [n_samples, 2, stride_sums]
@group(0) @binding(7) var<storage, read_write> channel_d_x4: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> channel_d_x: array<Elem>;

// The gradient of z from that of act(z).
fn through_act4(d: vec4<f32>, z: vec4<f32>) -> vec4<f32> {
    if ACT == 0u {
        return d;
    }
    // The derivatives of sigmoid and tanh are functions of the result.
    if ACT == 6u || ACT == 7u {
        return d * act_derivative4(ACT, activate4(ACT, z));
    }
    return d * act_derivative4(ACT, z);
}

struct Back4 { x_hat: vec4<f32>, d: vec4<f32> }

fn back4(at: u32, first: vec4<f32>, c: Channels) -> Back4 {
    let x_hat = (vec4<f32>(channel_x4[at]) - first - c.mean) * c.scale;
    return Back4(x_hat, through_act4(vec4<f32>(channel_d4[at]), x_hat * c.gain + c.bias));
}

fn back1(at: u32, first: f32, c: Channel) -> vec2<f32> {
    let x_hat = (f32(channel_x[at]) - first - c.mean) * c.scale;
    return vec2<f32>(x_hat, through_act4(vec4<f32>(f32(channel_d[at])), vec4<f32>(x_hat * c.gain + c.bias)).x);
}

// Sums run in blocks of 16 fours, so that their error grows with the length of a block and the number of blocks.
@compute @workgroup_size(WG_SIZE)
fn channel_sums_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                         @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let n_vec4 = p.n_cols / 4u;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), n_vec4);
    if here.sample >= p.n_samples {
        return;
    }
    let c = channels_of(here.sample, here.column);
    let first = first4(here.column);
    let step = p.row_step * n_vec4;
    var at = (here.sample * p.n_rows + here.first) * n_vec4 + here.column;
    var d_bias = vec4<f32>(0.0);
    var d_gain = vec4<f32>(0.0);
    var k = 0u;
    while k + 3u < here.n {
        let stop = min(k + 64u, here.n);
        var block_bias = vec4<f32>(0.0);
        var block_gain = vec4<f32>(0.0);
        for (; k + 3u < stop; k += 4u) {
            let r_0 = back4(at, first, c);
            let r_1 = back4(at + step, first, c);
            let r_2 = back4(at + 2u * step, first, c);
            let r_3 = back4(at + 3u * step, first, c);
            block_bias += (r_0.d + r_1.d) + (r_2.d + r_3.d);
            block_gain += (r_0.d * r_0.x_hat + r_1.d * r_1.x_hat) + (r_2.d * r_2.x_hat + r_3.d * r_3.x_hat);
            at += 4u * step;
        }
        d_bias += block_bias;
        d_gain += block_gain;
    }
    for (; k < here.n; k++) {
        let r = back4(at, first, c);
        d_bias += r.d;
        d_gain += r.d * r.x_hat;
        at += step;
    }
    let part = 2u * (here.sample * p.n_blocks + here.block);
    channel_parts4[part * n_vec4 + here.column] = d_bias;
    channel_parts4[(part + 1u) * n_vec4 + here.column] = d_gain;
}

@compute @workgroup_size(WG_SIZE)
fn channel_sums_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), p.n_cols);
    if here.sample >= p.n_samples {
        return;
    }
    let c = channel_of(here.sample, here.column);
    let first = first1(here.column);
    var at = (here.sample * p.n_rows + here.first) * p.n_cols + here.column;
    var sums = vec2<f32>(0.0);
    var k = 0u;
    while k < here.n {
        let stop = min(k + 64u, here.n);
        var block = vec2<f32>(0.0);
        for (; k < stop; k++) {
            let r = back1(at, first, c);
            block += vec2<f32>(r.y, r.y * r.x);
            at += p.row_step * p.n_cols;
        }
        sums += block;
    }
    let part = 2u * (here.sample * p.n_blocks + here.block);
    channel_parts[part * p.n_cols + here.column] = sums.x;
    channel_parts[(part + 1u) * p.n_cols + here.column] = sums.y;
}

// The means of gain d' and gain d' x^ over what shares statistics with a channel; sums of groups have the gain in them.
fn pulls_of(sample: u32, c: u32, gain: f32) -> vec2<f32> {
    let p = channel_params;
    if STATS == 0u {
        return vec2<f32>(0.0);
    }
    var at = 2u * sample * p.stride_sums + c;
    var factor = gain * p.inverse_count;
    if STATS == 2u {
        at = 2u * sample * p.stride_sums + c / p.group_size;
        factor = p.inverse_count;
    }
    return factor * vec2<f32>(channel_sums[at], channel_sums[at + p.stride_sums]);
}

struct Pulls { d: vec4<f32>, d_x_hat: vec4<f32> }

fn d_x4(at: u32, first: vec4<f32>, c: Channels, pulls: Pulls) -> Elem4 {
    let r = back4(at, first, c);
    return Elem4((c.gain * r.d - pulls.d - r.x_hat * pulls.d_x_hat) * c.scale);
}

@compute @workgroup_size(WG_SIZE)
fn channel_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let n_vec4 = p.n_cols / 4u;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), n_vec4);
    if here.sample >= p.n_samples {
        return;
    }
    let c = channels_of(here.sample, here.column);
    let pull_0 = pulls_of(here.sample, 4u * here.column, c.gain.x);
    let pull_1 = pulls_of(here.sample, 4u * here.column + 1u, c.gain.y);
    let pull_2 = pulls_of(here.sample, 4u * here.column + 2u, c.gain.z);
    let pull_3 = pulls_of(here.sample, 4u * here.column + 3u, c.gain.w);
    let pulls = Pulls(vec4<f32>(pull_0.x, pull_1.x, pull_2.x, pull_3.x),
                      vec4<f32>(pull_0.y, pull_1.y, pull_2.y, pull_3.y));
    let first = first4(here.column);
    let step = p.row_step * n_vec4;
    var at = (here.sample * p.n_rows + here.first) * n_vec4 + here.column;
    var k = 0u;
    for (; k + 3u < here.n; k += 4u) {
        let out_0 = d_x4(at, first, c, pulls);
        let out_1 = d_x4(at + step, first, c, pulls);
        let out_2 = d_x4(at + 2u * step, first, c, pulls);
        let out_3 = d_x4(at + 3u * step, first, c, pulls);
        channel_d_x4[at] = out_0;
        channel_d_x4[at + step] = out_1;
        channel_d_x4[at + 2u * step] = out_2;
        channel_d_x4[at + 3u * step] = out_3;
        at += 4u * step;
    }
    for (; k < here.n; k++) {
        channel_d_x4[at] = d_x4(at, first, c, pulls);
        at += step;
    }
}

@compute @workgroup_size(WG_SIZE)
fn channel_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), p.n_cols);
    if here.sample >= p.n_samples {
        return;
    }
    let c = channel_of(here.sample, here.column);
    let pull = pulls_of(here.sample, here.column, c.gain);
    let first = first1(here.column);
    var at = (here.sample * p.n_rows + here.first) * p.n_cols + here.column;
    for (var k = 0u; k < here.n; k++) {
        let r = back1(at, first, c);
        channel_d_x[at] = Elem((c.gain * r.y - pull.x - r.x * pull.y) * c.scale);
        at += p.row_step * p.n_cols;
    }
}

// ---- gain and bias of norms over rows ----
// The same sums where each row has statistics of its own: parts [n_blocks, 2, n_cols].
@group(0) @binding(1) var<storage, read> row_stats: array<vec4<f32>>;         // [n_rows]: first, mean of x - first, scale
@group(0) @binding(2) var<storage, read> row_d4: array<Elem4>;
@group(0) @binding(2) var<storage, read> row_d: array<Elem>;
@group(0) @binding(3) var<storage, read_write> row_parts4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> row_parts: array<f32>;

fn row_back4(at: u32, row: u32) -> Back4 {
    let s = row_stats[row];
    return Back4((vec4<f32>(channel_x4[at]) - s.x - s.y) * s.z, vec4<f32>(row_d4[at]));
}

@compute @workgroup_size(WG_SIZE)
fn row_sums_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let n_vec4 = p.n_cols / 4u;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), n_vec4);
    if here.sample >= p.n_samples {
        return;
    }
    let step = p.row_step * n_vec4;
    var row = here.first;
    var at = row * n_vec4 + here.column;
    var d_bias = vec4<f32>(0.0);
    var d_gain = vec4<f32>(0.0);
    var k = 0u;
    while k + 3u < here.n {
        let stop = min(k + 64u, here.n);
        var block_bias = vec4<f32>(0.0);
        var block_gain = vec4<f32>(0.0);
        for (; k + 3u < stop; k += 4u) {
            let r_0 = row_back4(at, row);
            let r_1 = row_back4(at + step, row + p.row_step);
            let r_2 = row_back4(at + 2u * step, row + 2u * p.row_step);
            let r_3 = row_back4(at + 3u * step, row + 3u * p.row_step);
            block_bias += (r_0.d + r_1.d) + (r_2.d + r_3.d);
            block_gain += (r_0.d * r_0.x_hat + r_1.d * r_1.x_hat) + (r_2.d * r_2.x_hat + r_3.d * r_3.x_hat);
            at += 4u * step;
            row += 4u * p.row_step;
        }
        d_bias += block_bias;
        d_gain += block_gain;
    }
    for (; k < here.n; k++) {
        let r = row_back4(at, row);
        d_bias += r.d;
        d_gain += r.d * r.x_hat;
        at += step;
        row += p.row_step;
    }
    row_parts4[2u * here.block * n_vec4 + here.column] = d_bias;
    row_parts4[(2u * here.block + 1u) * n_vec4 + here.column] = d_gain;
}

@compute @workgroup_size(WG_SIZE)
fn row_sums_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let p = channel_params;
    let here = place(thread_id(group, n_groups, local, WG_SIZE), p.n_cols);
    if here.sample >= p.n_samples {
        return;
    }
    var row = here.first;
    var sums = vec2<f32>(0.0);
    var k = 0u;
    while k < here.n {
        let stop = min(k + 64u, here.n);
        var block = vec2<f32>(0.0);
        for (; k < stop; k++) {
            let at = row * p.n_cols + here.column;
            let s = row_stats[row];
            let d = f32(row_d[at]);
            block += vec2<f32>(d, d * (f32(channel_x[at]) - s.x - s.y) * s.z);
            row += p.row_step;
        }
        sums += block;
    }
    row_parts[2u * here.block * p.n_cols + here.column] = sums.x;
    row_parts[(2u * here.block + 1u) * p.n_cols + here.column] = sums.y;
}

// ---- running statistics ----
// In place, for the i from begin to end: means below n_cols, variances from there on.
struct RunningParams {
    n_cols: u32, begin: u32, end: u32,
    base_out_mean: u32, base_out_var: u32, base_mean: u32, base_var: u32,
    keep: f32, take: f32, take_var: f32,
}
@group(0) @binding(0) var<storage, read> running_mean: array<f32>;        // [n_cols] from base_mean
@group(0) @binding(1) var<storage, read> running_var: array<f32>;         // [n_cols] from base_var
@group(0) @binding(2) var<storage, read_write> running_out: array<f32>;
var<immediate> running_params: RunningParams;

@compute @workgroup_size(WG_SIZE)
fn running_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let p = running_params;
    let i = p.begin + thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.end {
        return;
    }
    if i < p.n_cols {
        let at = p.base_out_mean + i;
        running_out[at] = p.keep * running_out[at] + p.take * running_mean[p.base_mean + i];
    } else {
        let at = p.base_out_var + i - p.n_cols;
        running_out[at] = p.keep * running_out[at] + p.take_var * running_var[p.base_var + i - p.n_cols];
    }
}
