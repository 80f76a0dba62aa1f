// Sums, sums of squared differences to a center, maxima and minima of x over some of its axes,
//   out_o = (join over k of lift(x_ok)) / divisor        lift: the identity, or (x - center_o)^2
// with o over the kept axes and k over the reduced ones, and the place of the first maximum or minimum.
// Long reductions are split: each o has n_parts parts of k_each neighbouring k, whose results a second launch reduces.
//   rows     kept axes, then reduced ones, in memory order: an invocation per (o, part), vec4 along k
//   cols     [outer, k, inner] in memory order: an invocation per (outer, part, four inner)
//   strided  any strides over at most four kept and three reduced axes: an invocation per (o, part)
//   group    as rows, without a condition on the length: a workgroup per (o, part), for GPUs
// Sums run in blocks, so that their error grows with the length of a block and the number of blocks, not with n.
override WG_SIZE: u32 = 64u;
override OP: u32 = 0u;            // 0 sum, 1 sum of squared differences, 2 maximum, 3 minimum

// Fours of a block: 16 additions in a chain, then one to the total.
const BLOCK: u32 = 16u;

// Partial results, one per lane of a vec4; bits is the largest NaN seen by its bits, or a number's, for maxima.
struct Part { value: vec4<Acc>, bits: vec4<u32> }

fn lift(x: vec4<Acc>, center: vec4<f32>) -> Part {
    switch OP {
        case 0u: { return Part(x, vec4<u32>(0u)); }
        case 1u: {
            let off = x - vec4<Acc>(center);
            return Part(off * off, vec4<u32>(0u));
        }
        default: { return Part(x, bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)); }
    }
}

fn merge(a: Part, b: Part) -> Part {
    switch OP {
        case 2u: { return Part(max(a.value, b.value), max(a.bits, b.bits)); }
        case 3u: { return Part(min(a.value, b.value), max(a.bits, b.bits)); }
        default: { return Part(a.value + b.value, a.bits); }
    }
}

// What leaves any other part as it is; for maxima the part's own first element.
fn neutral(first: Acc) -> Part {
    if OP < 2u {
        return Part(vec4<Acc>(), vec4<u32>(0u));
    }
    return lift(vec4<Acc>(first), vec4<f32>(0.0));
}

// Only where valid; elsewhere neutral.
fn masked(part: Part, other: Part, valid: vec4<bool>) -> Part {
    return Part(select(other.value, part.value, valid), select(other.bits, part.bits, valid));
}

fn settled4(part: Part) -> vec4<Acc> {
    if OP < 2u || !ACC_IS_FLOAT {
        return part.value;
    }
    return select(part.value, bitcast<vec4<Acc>>(part.bits), part.bits > vec4<u32>(0x7f800000u));
}

fn join_kind() -> u32 {
    return select(OP - 1u, JOIN_SUM, OP < 2u);
}

fn settled(part: Part) -> Acc {
    let v = settled4(part);
    return join(join_kind(), join(join_kind(), v.x, v.y), join(join_kind(), v.z, v.w));
}

// Only floats are divided; naga wants both arms to be of the type all the same.
fn divided(value: Acc, divisor: f32) -> Acc {
    if ACC_IS_FLOAT {
        return Acc(f32(value) / divisor);
    }
    return value;
}

// ---- rows ----
struct RowsParams { n_out: u32, n_reduced: u32, n_parts: u32, k_each: u32, offset: u32, divisor: f32 }
@group(0) @binding(0) var<storage, read> rows_x4: array<Elem4>;           // [n_out, n_reduced / 4]
@group(0) @binding(0) var<storage, read> rows_x: array<Elem>;             // [n_out, n_reduced] from offset
@group(0) @binding(1) var<storage, read> rows_center: array<f32>;         // [n_out]; only for OP 1
@group(0) @binding(2) var<storage, read_write> rows_out: array<Out>;      // [n_out, n_parts]
var<immediate> rows_params: RowsParams;

fn rows_center_of(o: u32) -> vec4<f32> {
    if OP == 1u {
        return vec4<f32>(rows_center[o]);
    }
    return vec4<f32>(0.0);
}

fn rows_lift(i: u32, center: vec4<f32>) -> Part {
    return lift(vec4<Acc>(rows_x4[i]), center);
}

// n_reduced and k_each are multiples of 4.
@compute @workgroup_size(WG_SIZE)
fn reduce_rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = rows_params;
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let o = thread / p.n_parts;
    if o >= p.n_out {
        return;
    }
    let k = thread % p.n_parts * p.k_each;
    let c = rows_center_of(o);
    var i = (o * p.n_reduced + k) / 4u;
    let end = (o * p.n_reduced + min(k + p.k_each, p.n_reduced)) / 4u;
    let none = neutral(Acc(rows_x4[i].x));
    var total = none;
    while i + 3u < end {
        let stop = min(i + 4u * BLOCK, end);
        var block = none;
        for (; i + 3u < stop; i += 4u) {
            let four = merge(merge(rows_lift(i, c), rows_lift(i + 1u, c)),
                             merge(rows_lift(i + 2u, c), rows_lift(i + 3u, c)));
            block = merge(block, four);
        }
        total = merge(total, block);
    }
    for (; i < end; i++) {
        total = merge(total, rows_lift(i, c));
    }
    rows_out[thread] = Out(divided(settled(total), p.divisor));
}

// This lane's share of a part: every WG_SIZE-th element, four at a time.
fn lane_part(o: u32, part: u32, local: u32) -> Acc {
    let p = rows_params;
    let center = rows_center_of(o);
    let first = o * p.n_reduced + part * p.k_each;
    let n = min(p.k_each, p.n_reduced - part * p.k_each);
    let start = p.offset + first;
    let none = neutral(Acc(rows_x[start]));
    var total = none;
    for (var k = local; k < n; k += 4u * WG_SIZE) {
        let at = vec4<u32>(k) + vec4<u32>(0u, WG_SIZE, 2u * WG_SIZE, 3u * WG_SIZE);
        let i = vec4<u32>(start) + min(at, vec4<u32>(n - 1u));
        let x = vec4<Acc>(Acc(rows_x[i.x]), Acc(rows_x[i.y]), Acc(rows_x[i.z]), Acc(rows_x[i.w]));
        total = merge(total, masked(lift(x, center), none, at < vec4<u32>(n)));
    }
    return settled(total);
}

@compute @workgroup_size(WG_SIZE)
fn reduce_group_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = rows_params;
    let id = group_id(group, n_groups);
    let o = id / p.n_parts;
    if o >= p.n_out {
        return;
    }
    let total = group_reduce(join_kind(), local, lane_part(o, id % p.n_parts, local));
    if local == 0u {
        rows_out[id] = Out(divided(total, p.divisor));
    }
}

@compute @workgroup_size(WG_SIZE)
fn reduce_subgroup_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32, @builtin(subgroup_invocation_id) lane: u32,
                       @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) n_subgroups: u32) {
    let p = rows_params;
    let id = group_id(group, n_groups);
    let o = id / p.n_parts;
    if o >= p.n_out {
        return;
    }
    let mine = lane_part(o, id % p.n_parts, local);
    let total = subgroups_reduce(join_kind(), lane, subgroup, n_subgroups, mine);
    if local == 0u {
        rows_out[id] = Out(divided(total, p.divisor));
    }
}

// ---- columns ----
struct ColsParams { n_outer: u32, n_reduced: u32, n_vec4: u32, n_parts: u32, k_each: u32, divisor: f32 }
@group(0) @binding(0) var<storage, read> cols_x4: array<Elem4>;           // [n_outer, n_reduced, n_vec4]
@group(0) @binding(1) var<storage, read> cols_center4: array<vec4<f32>>;  // [n_outer, n_vec4]; only for OP 1
@group(0) @binding(2) var<storage, read_write> cols_out4: array<Out4>;    // [n_outer, n_parts, n_vec4]
var<immediate> cols_params: ColsParams;

fn cols_lift(i: u32, center: vec4<f32>) -> Part {
    return lift(vec4<Acc>(cols_x4[i]), center);
}

@compute @workgroup_size(WG_SIZE)
fn reduce_cols_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = cols_params;
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let column = thread % p.n_vec4;
    let outer = thread / p.n_vec4 / p.n_parts;
    if outer >= p.n_outer {
        return;
    }
    let part = thread / p.n_vec4 % p.n_parts;
    var c = vec4<f32>(0.0);
    if OP == 1u {
        c = cols_center4[outer * p.n_vec4 + column];
    }
    let step = p.n_vec4;
    var k = part * p.k_each;
    let end = min(k + p.k_each, p.n_reduced);
    var i = (outer * p.n_reduced + k) * step + column;
    var none = Part(vec4<Acc>(), vec4<u32>(0u));
    if OP >= 2u {
        none = cols_lift(i, c);
    }
    var total = none;
    while k + 3u < end {
        let stop = min(k + 4u * BLOCK, end);
        var block = none;
        for (; k + 3u < stop; k += 4u) {
            let four = merge(merge(cols_lift(i, c), cols_lift(i + step, c)),
                             merge(cols_lift(i + 2u * step, c), cols_lift(i + 3u * step, c)));
            block = merge(block, four);
            i += 4u * step;
        }
        total = merge(total, block);
    }
    for (; k < end; k++) {
        total = merge(total, cols_lift(i, c));
        i += step;
    }
    let v = settled4(total);
    cols_out4[thread] = Out4(Out(divided(v.x, p.divisor)), Out(divided(v.y, p.divisor)),
                             Out(divided(v.z, p.divisor)), Out(divided(v.w, p.divisor)));
}

// ---- any strides ----
struct StridedParams {
    n_out: u32, n_reduced: u32, n_parts: u32, k_each: u32, offset: u32, divisor: f32,
    kept_1: u32, kept_2: u32,                                             // sizes of the last two of three kept axes
    kept_stride_0: u32, kept_stride_1: u32, kept_stride_2: u32,
    reduced_1: u32, reduced_2: u32,                                       // and of three reduced ones
    reduced_stride_0: u32, reduced_stride_1: u32, reduced_stride_2: u32,
}
@group(0) @binding(0) var<storage, read> strided_x: array<Elem>;
@group(0) @binding(1) var<storage, read> strided_center: array<f32>;      // [n_out]; only for OP 1
@group(0) @binding(2) var<storage, read_write> strided_out: array<Out>;   // [n_out, n_parts]
var<immediate> strided_params: StridedParams;

// Where the k-th reduced element of an o lies, and its indices on the last two reduced axes.
struct Walk { at: u32, i_1: u32, i_2: u32 }

fn walk_from(o: u32, k: u32) -> Walk {
    let p = strided_params;
    let o_1 = o / p.kept_2;
    let kept = o % p.kept_2 * p.kept_stride_2 + o_1 % p.kept_1 * p.kept_stride_1 + o_1 / p.kept_1 * p.kept_stride_0;
    let k_1 = k / p.reduced_2;
    let w = Walk(0u, k_1 % p.reduced_1, k % p.reduced_2);
    let reduced = w.i_2 * p.reduced_stride_2 + w.i_1 * p.reduced_stride_1 + k_1 / p.reduced_1 * p.reduced_stride_0;
    return Walk(p.offset + kept + reduced, w.i_1, w.i_2);
}

// One element on: no division, and differences that wrap below 0 wrap back.
fn next(w: Walk) -> Walk {
    let p = strided_params;
    let wrap_2 = w.i_2 + 1u == p.reduced_2;
    let over = p.reduced_stride_1 - (p.reduced_2 - 1u) * p.reduced_stride_2;
    let i_1 = w.i_1 + select(0u, 1u, wrap_2);
    let wrap_1 = i_1 == p.reduced_1;
    let over_1 = p.reduced_stride_0 - p.reduced_1 * p.reduced_stride_1;
    return Walk(w.at + select(p.reduced_stride_2, over, wrap_2) + select(0u, over_1, wrap_1),
                select(i_1, 0u, wrap_1), select(w.i_2 + 1u, 0u, wrap_2));
}

@compute @workgroup_size(WG_SIZE)
fn reduce_strided_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let p = strided_params;
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let o = thread / p.n_parts;
    if o >= p.n_out {
        return;
    }
    var center = vec4<f32>(0.0);
    if OP == 1u {
        center = vec4<f32>(strided_center[o]);
    }
    var k = thread % p.n_parts * p.k_each;
    let end = min(k + p.k_each, p.n_reduced);
    var w = walk_from(o, k);
    let none = neutral(Acc(strided_x[w.at]));
    var total = none;
    while k + 3u < end {
        let stop = min(k + 4u * BLOCK, end);
        var block = none;
        for (; k + 3u < stop; k += 4u) {
            let w_1 = next(w);
            let w_2 = next(w_1);
            let w_3 = next(w_2);
            let x = vec4<Acc>(Acc(strided_x[w.at]), Acc(strided_x[w_1.at]),
                              Acc(strided_x[w_2.at]), Acc(strided_x[w_3.at]));
            block = merge(block, lift(x, center));
            w = next(w_3);
        }
        total = merge(total, block);
    }
    for (; k < end; k++) {
        let x = vec4<Acc>(Acc(strided_x[w.at]));
        total = merge(total, masked(lift(x, center), none, vec4<bool>(true, false, false, false)));
        w = next(w);
    }
    strided_out[thread] = Out(divided(settled(total), p.divisor));
}

// ---- the place of the first maximum or minimum ----
// A NaN counts as the extreme. The same parameters; the index counts over the reduced axes in row-major order.
@group(0) @binding(1) var<storage, read_write> arg_value: array<Acc>;     // [n_out, n_parts]
@group(0) @binding(2) var<storage, read_write> arg_index: array<u32>;     // [n_out, n_parts]

fn better(a: Acc, b: Acc) -> bool {
    return (select((a < b), (a > b), OP == 2u) || is_nan(a)) && !is_nan(b);
}

@compute @workgroup_size(WG_SIZE)
fn arg_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let p = strided_params;
    let thread = thread_id(group, n_groups, local, WG_SIZE);
    let o = thread / p.n_parts;
    if o >= p.n_out {
        return;
    }
    var k = thread % p.n_parts * p.k_each;
    let end = min(k + p.k_each, p.n_reduced);
    var w = walk_from(o, k);
    var value = Acc(strided_x[w.at]);
    var index = k;
    for (; k < end; k++) {
        let x = Acc(strided_x[w.at]);
        let take = better(x, value);
        value = select(value, x, take);
        index = select(index, k, take);
        w = next(w);
    }
    arg_value[thread] = value;
    arg_index[thread] = index;
}

struct ArgJoinParams { n_out: u32, n_parts: u32 }
@group(0) @binding(0) var<storage, read> arg_join_value: array<Acc>;      // [n_out, n_parts]
@group(0) @binding(1) var<storage, read> arg_join_index: array<u32>;      // [n_out, n_parts]
@group(0) @binding(2) var<storage, read_write> arg_join_out: array<u32>;  // [n_out]
var<immediate> arg_join_params: ArgJoinParams;

@compute @workgroup_size(WG_SIZE)
fn arg_join_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let p = arg_join_params;
    let o = thread_id(group, n_groups, local, WG_SIZE);
    if o >= p.n_out {
        return;
    }
    var best = o * p.n_parts;
    for (var i = best + 1u; i < (o + 1u) * p.n_parts; i++) {
        if better(arg_join_value[i], arg_join_value[best]) {
            best = i;
        }
    }
    arg_join_out[o] = arg_join_index[best];
}
