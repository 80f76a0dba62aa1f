// What stands on the maximum m_i = max_k x_ik and the sum s_i = sum_k exp(x_ik - m_i) of a row:
//   softmax        out_ij = exp(x_ij - m_i) / s_i
//   log-softmax    out_ij = x_ij - m_i - log s_i
//   log-sum-exp    out_i  = m_i + log s_i
//   cross-entropy  out_i  = m_i + log s_i - (1 - smoothing) x_i,label_i - smoothing mean_k x_ik
// and back, with p_ij = exp(x_ij - m_i) / s_i:
//   softmax        d_x_ij = out_ij (d_ij - sum_k d_ik out_ik)
//   log-softmax    d_x_ij = d_ij - exp(out_ij) sum_k d_ik
//   log-sum-exp    d_x_ij = d_i p_ij
//   cross-entropy  d_x_ij = d_i (p_ij - (1 - smoothing) [j = label_i] - smoothing / n_cols)
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
    var tops = vec4<f32>();
    var factors = vec4<f32>();
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
    workgroupBarrier();
    return RowSums(top, group_reduce(JOIN_SUM, local, row.sum * exp(row.top - top)), row.total);
}

fn subgroups_sums(row: RowSums, lane: u32, subgroup: u32, n_subgroups: u32) -> RowSums {
    let top = subgroups_reduce(JOIN_MAX, lane, subgroup, n_subgroups, row.top);
    workgroupBarrier();
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
// OP 0 log-sum-exp: [n_rows]. OP 1 cross-entropy: [4, n_rows], the losses, the log-sum-exps, and what these are the sums
// of, the maxima and log s: probabilities from a large log-sum-exp would lose digits.
struct LossParams { n_rows: u32, n_cols: u32, smoothing: f32 }
@group(0) @binding(1) var<storage, read> loss_labels: array<u32>;             // [n_rows]; only for cross-entropy
@group(0) @binding(2) var<storage, read_write> loss_out: array<f32>;          // [n_rows] or [4, n_rows]
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
    // Differences first: the maximum and the logits may be large and close.
    let log_sum = log(sums.sum);
    let on_label = (1.0 - p.smoothing) * (sums.top - x_label + log_sum);
    let on_all = select(0.0, p.smoothing * (lse - sums.total / f32(p.n_cols)), p.smoothing > 0.0);
    loss_out[row] = on_label + on_all;
    loss_out[p.n_rows + row] = lse;
    loss_out[2u * p.n_rows + row] = sums.top;
    loss_out[3u * p.n_rows + row] = log_sum;
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
        workgroupBarrier();
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
        workgroupBarrier();
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

// ---- backward of softmax and log-softmax, from their results ----
@group(0) @binding(0) var<storage, read> softmax_y4: array<Elem4>;            // what came out
@group(0) @binding(1) var<storage, read> softmax_d4: array<Elem4>;            // its gradient
@group(0) @binding(2) var<storage, read_write> softmax_d_x4: array<Elem4>;
@group(0) @binding(0) var<storage, read> softmax_y: array<Elem>;
@group(0) @binding(1) var<storage, read> softmax_d: array<Elem>;
@group(0) @binding(2) var<storage, read_write> softmax_d_x: array<Elem>;

fn summand(y: vec4<f32>, d: vec4<f32>) -> vec4<f32> {
    if OP == 0u {
        return y * d;
    }
    return d;
}

fn d_x_of(y: vec4<f32>, d: vec4<f32>, sum: f32) -> vec4<f32> {
    if OP == 0u {
        return y * (d - sum);
    }
    return d - exp(y) * sum;
}

// Row lengths that are multiples of 4; one invocation per row.
@compute @workgroup_size(WG_SIZE)
fn softmax_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    let begin = row * p.n_cols / 4u;
    let end = begin + p.n_cols / 4u;
    var sums = vec4<f32>(0.0);
    var i = begin;
    for (; i + 1u < end; i += 2u) {
        sums += summand(vec4<f32>(softmax_y4[i]), vec4<f32>(softmax_d4[i]))
              + summand(vec4<f32>(softmax_y4[i + 1u]), vec4<f32>(softmax_d4[i + 1u]));
    }
    if i < end {
        sums += summand(vec4<f32>(softmax_y4[i]), vec4<f32>(softmax_d4[i]));
    }
    let sum = (sums.x + sums.y) + (sums.z + sums.w);
    for (i = begin; i < end; i++) {
        softmax_d_x4[i] = Elem4(d_x_of(vec4<f32>(softmax_y4[i]), vec4<f32>(softmax_d4[i]), sum));
    }
}

// The sum over every step-th column from begin, and what comes of it.
fn row_sum(start: u32, begin: u32, step: u32) -> f32 {
    var sum = 0.0;
    for (var c = begin; c < softmax_params.n_cols; c += step) {
        sum += summand(vec4<f32>(f32(softmax_y[start + c])), vec4<f32>(f32(softmax_d[start + c]))).x;
    }
    return sum;
}

fn write_d_x(start: u32, begin: u32, step: u32, sum: f32) {
    for (var c = begin; c < softmax_params.n_cols; c += step) {
        let y = vec4<f32>(f32(softmax_y[start + c]));
        softmax_d_x[start + c] = Elem(d_x_of(y, vec4<f32>(f32(softmax_d[start + c])), sum).x);
    }
}

// Any row length; one invocation per row.
@compute @workgroup_size(WG_SIZE)
fn softmax_rows_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    write_d_x(row * p.n_cols, 0u, 1u, row_sum(row * p.n_cols, 0u, 1u));
}

// Any row length; one workgroup per row.
@compute @workgroup_size(WG_SIZE)
fn softmax_group_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let row = group_id(group, n_groups);
    let p = softmax_params;
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_cols;
    write_d_x(start, local, WG_SIZE, group_reduce(JOIN_SUM, local, row_sum(start, local, WG_SIZE)));
}

// ---- backward of log-sum-exp and cross-entropy, from the log-sum-exps ----
// One invocation per four elements, of rows of any length; WHOLE 1 where rows are whole vec4s.
override WHOLE: u32 = 0u;
@group(0) @binding(2) var<storage, read> loss_lse: array<f32>;                // what came out
@group(0) @binding(3) var<storage, read> loss_d: array<f32>;                  // [n_rows]
@group(0) @binding(4) var<storage, read_write> loss_d_x4: array<Elem4>;

struct LossRow { top: f32, log_sum: f32, d: f32, label: u32 }

fn loss_row(row: u32) -> LossRow {
    let p = loss_params;
    if OP == 0u {
        return LossRow(loss_lse[row], 0.0, loss_d[row], 0u);
    }
    return LossRow(loss_lse[2u * p.n_rows + row], loss_lse[3u * p.n_rows + row], loss_d[row], label_index(row));
}

@compute @workgroup_size(WG_SIZE)
fn loss_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let p = loss_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let n = p.n_rows * p.n_cols;
    if 4u * i >= n {
        return;
    }
    let at = vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u);
    var top: vec4<f32>;
    var log_sum: vec4<f32>;
    var d: vec4<f32>;
    var label: vec4<u32>;
    if WHOLE == 1u {
        let row = loss_row(at.x / p.n_cols);
        top = vec4<f32>(row.top);
        log_sum = vec4<f32>(row.log_sum);
        d = vec4<f32>(row.d);
        label = vec4<u32>(row.label);
    } else {
        // Memory's padding counts as the last row.
        let row = min(at, vec4<u32>(n - 1u)) / p.n_cols;
        let a = loss_row(row.x);
        let b = loss_row(row.y);
        let c = loss_row(row.z);
        let e = loss_row(row.w);
        top = vec4<f32>(a.top, b.top, c.top, e.top);
        log_sum = vec4<f32>(a.log_sum, b.log_sum, c.log_sum, e.log_sum);
        d = vec4<f32>(a.d, b.d, c.d, e.d);
        label = vec4<u32>(a.label, b.label, c.label, e.label);
    }
    var off = exp(load4(i) - top - log_sum);
    if OP == 1u {
        off -= vec4<f32>(p.smoothing / f32(p.n_cols));
        off -= select(vec4<f32>(0.0), vec4<f32>(1.0 - p.smoothing), at == label);
    }
    loss_d_x4[i] = Elem4(d * off);
}
