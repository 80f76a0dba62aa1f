// What stands on the maximum m_i = max_k x_ik and the sum s_i = sum_k exp(x_ik - m_i) of a row:
//   softmax        out_ij = exp(x_ij - m_i) / s_i
//   log-softmax    out_ij = x_ij - m_i - log s_i
//   log-sum-exp    out_i  = m_i + log s_i
//   cross-entropy  out_i  = m_i + log s_i - (1 - smoothing) x_i,label_i - smoothing mean_k x_ik
// Both numbers come from one reading of the row: where the maximum grows, the sum so far shrinks by the exponential of
// the difference. The rows variants give a row, or four, to one invocation and use no workgroup memory: for software
// adapters, where only the number of loads counts, and for short rows. The group variants give a row to a workgroup,
// whose lanes read side by side.
override WG_SIZE: u32 = 64u;
override OP: u32 = 0u;

// The lowest f32: below it there is only -infinity, whose exponential is 0 whatever the maximum.
const LOWEST: f32 = -3.4028234663852886e38;

struct Lanes { top: vec4<f32>, sum: vec4<f32>, total: vec4<f32> }   // maximum, sum of exponentials, plain sum
struct RowSums { top: f32, sum: f32, total: f32 }

fn no_lanes() -> Lanes {
    return Lanes(vec4<f32>(LOWEST), vec4<f32>(0.0), vec4<f32>(0.0));
}

fn take1(l: Lanes, x: vec4<f32>, valid: vec4<bool>) -> Lanes {
    let top = max(l.top, select(vec4<f32>(LOWEST), x, valid));
    let sum = l.sum * exp(l.top - top) + select(vec4<f32>(0.0), exp(x - top), valid);
    return Lanes(top, sum, l.total + select(vec4<f32>(0.0), x, valid));
}

// Four at once: five exponentials in place of eight, and a short tree in place of a chain.
fn take4(l: Lanes, a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> Lanes {
    let top = max(l.top, max(max(a, b), max(c, d)));
    let added = (exp(a - top) + exp(b - top)) + (exp(c - top) + exp(d - top));
    return Lanes(top, l.sum * exp(l.top - top) + added, l.total + ((a + b) + (c + d)));
}

fn joined(l: Lanes) -> RowSums {
    let top = max(max(l.top.x, l.top.y), max(l.top.z, l.top.w));
    let sum = l.sum * exp(l.top - top);
    return RowSums(top, (sum.x + sum.y) + (sum.z + sum.w), (l.total.x + l.total.y) + (l.total.z + l.total.w));
}

fn log_sum_exp(row: RowSums) -> f32 {
    return row.top + log(row.sum);
}

// ---- softmax and log-softmax ----
// OP 0 softmax, 1 log-softmax.
struct SoftmaxParams { n_rows: u32, n_cols: u32 }
@group(0) @binding(0) var<storage, read> softmax_x4: array<Elem4>;            // [n_rows, n_cols], as vec4
@group(0) @binding(1) var<storage, read_write> softmax_out4: array<Elem4>;    // [n_rows, n_cols], as vec4
@group(0) @binding(0) var<storage, read> softmax_x: array<Elem>;              // [n_rows, n_cols]
@group(0) @binding(1) var<storage, read_write> softmax_out: array<Elem>;      // [n_rows, n_cols]
var<immediate> softmax_params: SoftmaxParams;

fn load4(i: u32) -> vec4<f32> {
    return vec4<f32>(softmax_x4[i]);
}

// The elements of vec4 i that lie in start..end.
fn inside(i: u32, start: u32, end: u32) -> vec4<bool> {
    let at = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    return (at >= vec4<u32>(start)) & (at < vec4<u32>(end));
}

// The vec4s begin..end, all of one row, after those in l.
fn take_span(before: Lanes, begin: u32, end: u32) -> Lanes {
    var l = before;
    var i = begin;
    for (; i + 3u < end; i += 4u) {
        l = take4(l, load4(i), load4(i + 1u), load4(i + 2u), load4(i + 3u));
    }
    for (; i < end; i++) {
        l = take1(l, load4(i), vec4<bool>(true));
    }
    return l;
}

// The row of n elements from start, which may begin and end inside a vec4.
fn row_sums(start: u32, n: u32) -> RowSums {
    let end = start + n;
    let first = start / 4u;
    let last = (end - 1u) / 4u;
    let l = take1(no_lanes(), load4(first), inside(first, start, end));
    let both = take1(l, load4(last), inside(last, start, end) & vec4<bool>(last > first));
    return joined(take_span(both, first + 1u, last));
}

// What the second reading needs besides the maximum.
fn factor(sum: f32) -> f32 {
    // Where exp(NaN) is infinity, as on SwiftShader, the sum of a row that holds infinity is too: NaN as elsewhere.
    // One bit makes it so; arithmetic to that end, such as sum - sum, is folded away elsewhere.
    let s = select(sum, bitcast<f32>(bitcast<u32>(sum) | 0x400000u), sum > 3e38);
    if OP == 0u {
        return 1.0 / s;
    }
    return log(s);
}

fn mapped(x: vec4<f32>, top: vec4<f32>, factor: vec4<f32>) -> Elem4 {
    if OP == 0u {
        return Elem4(exp(x - top) * factor);
    }
    return Elem4(x - top - factor);
}

// The vec4s i..end, all of one row.
fn write_span(begin: u32, end: u32, top: f32, f: f32) {
    let top4 = vec4<f32>(top);
    let f4 = vec4<f32>(f);
    var i = begin;
    for (; i + 3u < end; i += 4u) {
        let a = load4(i);
        let b = load4(i + 1u);
        let c = load4(i + 2u);
        let d = load4(i + 3u);
        softmax_out4[i] = mapped(a, top4, f4);
        softmax_out4[i + 1u] = mapped(b, top4, f4);
        softmax_out4[i + 2u] = mapped(c, top4, f4);
        softmax_out4[i + 3u] = mapped(d, top4, f4);
    }
    for (; i < end; i++) {
        softmax_out4[i] = mapped(load4(i), top4, f4);
    }
}

// Row lengths that are multiples of 4; one invocation per row.
@compute @workgroup_size(WG_SIZE)
fn softmax_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    let begin = row * p.n_cols / 4u;
    let end = begin + p.n_cols / 4u;
    let sums = joined(take_span(no_lanes(), begin, end));
    write_span(begin, end, sums.top, factor(sums.sum));
}

// Any row length; one invocation per four rows, whose elements together fill whole vec4s.
@compute @workgroup_size(WG_SIZE)
fn softmax_rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let row = 4u * thread_id(group, n_groups, local, WG_SIZE);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    let n = p.n_cols;
    let n_here = min(p.n_rows - row, 4u);
    let base = row / 4u * n;
    var tops: vec4<f32>;
    var factors: vec4<f32>;
    for (var q = 0u; q < n_here; q++) {
        let sums = row_sums((row + q) * n, n);
        let f = factor(sums.sum);
        write_span(base + (q * n + 3u) / 4u, base + (q + 1u) * n / 4u, sums.top, f);
        let here = vec4<u32>(q) == vec4<u32>(0u, 1u, 2u, 3u);
        tops = select(tops, vec4<f32>(sums.top), here);
        factors = select(factors, vec4<f32>(f), here);
    }
    // What is left are the vec4s in which a row ends and others begin, or memory's padding.
    for (var q = 1u; q <= n_here; q++) {
        let i = q * n / 4u;
        if q * n % 4u != 0u {
            let at = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
            let second = at >= vec4<u32>(n);
            let third = at >= vec4<u32>(2u * n);
            let fourth = at >= vec4<u32>(3u * n);
            var top = select(vec4<f32>(tops.x), vec4<f32>(tops.y), second);
            top = select(select(top, vec4<f32>(tops.z), third), vec4<f32>(tops.w), fourth);
            var f = select(vec4<f32>(factors.x), vec4<f32>(factors.y), second);
            f = select(select(f, vec4<f32>(factors.z), third), vec4<f32>(factors.w), fourth);
            softmax_out4[base + i] = mapped(load4(base + i), top, f);
        }
    }
}

// This lane's share of a row of n elements from start: every WG_SIZE-th, four at a time.
fn lane_sums(start: u32, n: u32, local: u32) -> RowSums {
    var l = no_lanes();
    for (var c = local; c < n; c += 4u * WG_SIZE) {
        let at = vec4<u32>(c) + vec4<u32>(0u, WG_SIZE, 2u * WG_SIZE, 3u * WG_SIZE);
        let i = vec4<u32>(start) + min(at, vec4<u32>(n - 1u));
        let x = vec4<f32>(f32(softmax_x[i.x]), f32(softmax_x[i.y]), f32(softmax_x[i.z]), f32(softmax_x[i.w]));
        l = take1(l, x, at < vec4<u32>(n));
    }
    return joined(l);
}

fn write_row(start: u32, n: u32, local: u32, row: RowSums) {
    let f = factor(row.sum);
    for (var c = local; c < n; c += WG_SIZE) {
        softmax_out[start + c] =
            mapped(vec4<f32>(f32(softmax_x[start + c])), vec4<f32>(row.top), vec4<f32>(f)).x;
    }
}

// The maxima and sums of all lanes of a workgroup as one; the plain sums stay each lane's own.
fn group_sums(row: RowSums, local: u32) -> RowSums {
    let top = group_reduce(JOIN_MAX, local, row.top);
    return RowSums(top, group_reduce(JOIN_SUM, local, row.sum * exp(row.top - top)), row.total);
}

fn subgroups_sums(row: RowSums, lane: u32, subgroup: u32, n_subgroups: u32) -> RowSums {
    let top = subgroups_reduce(JOIN_MAX, lane, subgroup, n_subgroups, row.top);
    let sum = subgroups_reduce(JOIN_SUM, lane, subgroup, n_subgroups, row.sum * exp(row.top - top));
    return RowSums(top, sum, row.total);
}

// Any row length; one workgroup per row.
@compute @workgroup_size(WG_SIZE)
fn softmax_group_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let row = group_id(group, n_groups);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    write_row(start, p.n_cols, local, group_sums(lane_sums(start, p.n_cols, local), local));
}

@compute @workgroup_size(WG_SIZE)
fn softmax_subgroup_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32, @builtin(subgroup_invocation_id) lane: u32,
                        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) n_subgroups: u32) {
    let row = group_id(group, n_groups);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    let mine = lane_sums(start, p.n_cols, local);
    write_row(start, p.n_cols, local, subgroups_sums(mine, lane, subgroup, n_subgroups));
}

// ---- log-sum-exp and cross-entropy ----
// OP 0 log-sum-exp: [n_rows]. OP 1 cross-entropy: [2, n_rows], the losses and the log-sum-exps.
struct LossParams { n_rows: u32, n_cols: u32, smoothing: f32 }
@group(0) @binding(1) var<storage, read> loss_labels: array<u32>;             // [n_rows]; only for cross-entropy
@group(0) @binding(2) var<storage, read_write> loss_out: array<f32>;          // [n_rows] or [2, n_rows]
var<immediate> loss_params: LossParams;

// Labels past the last class read that class: which labels are right is the host's business, stray reads are not.
fn label_index(row: u32) -> u32 {
    return row * loss_params.n_cols + min(loss_labels[row], loss_params.n_cols - 1u);
}

fn write_loss(row: u32, sums: RowSums, x_label: f32) {
    let p = loss_params;
    let lse = log_sum_exp(sums);
    if OP == 0u {
        loss_out[row] = lse;
        return;
    }
    // Differences first: the log-sum-exp and the logits may be large and close.
    let on_label = (1.0 - p.smoothing) * (lse - x_label);
    let on_all = select(0.0, p.smoothing * (lse - sums.total / f32(p.n_cols)), p.smoothing > 0.0);
    loss_out[row] = on_label + on_all;
    loss_out[p.n_rows + row] = lse;
}

@compute @workgroup_size(WG_SIZE)
fn loss_rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = loss_params;
    if row >= p.n_rows {
        return;
    }
    var x_label = 0.0;
    if OP == 1u {
        let at = label_index(row);
        x_label = load4(at / 4u)[at % 4u];
    }
    write_loss(row, row_sums(row * p.n_cols, p.n_cols), x_label);
}

@compute @workgroup_size(WG_SIZE)
fn loss_group_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let row = group_id(group, n_groups);
    let p = loss_params;
    if row >= p.n_rows {
        return;
    }
    var sums = group_sums(lane_sums(row * p.n_cols, p.n_cols, local), local);
    if OP == 1u {
        sums.total = group_reduce(JOIN_SUM, local, sums.total);
    }
    if local == 0u {
        var x_label = 0.0;
        if OP == 1u {
            x_label = f32(softmax_x[label_index(row)]);
        }
        write_loss(row, sums, x_label);
    }
}

@compute @workgroup_size(WG_SIZE)
fn loss_subgroup_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32, @builtin(subgroup_invocation_id) lane: u32,
                     @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) n_subgroups: u32) {
    let row = group_id(group, n_groups);
    let p = loss_params;
    if row >= p.n_rows {
        return;
    }
    let mine = lane_sums(row * p.n_cols, p.n_cols, local);
    var sums = subgroups_sums(mine, lane, subgroup, n_subgroups);
    if OP == 1u {
        sums.total = subgroups_reduce(JOIN_SUM, lane, subgroup, n_subgroups, sums.total);
    }
    if local == 0u {
        var x_label = 0.0;
        if OP == 1u {
            x_label = f32(softmax_x[label_index(row)]);
        }
        write_loss(row, sums, x_label);
    }
}
