// Means of a memory bank's values by the softmax of the products of queries with its keys, chunk by chunk:
//   top = max_j z_j / T,  sum = sum_j exp(z_j / T - top),  mean = sum_j exp(z_j / T - top) value_j / sum
// The products of a chunk are there. First they become weights, in place, and top and sum take them in; where top grows,
// what was summed before shrinks by a factor. Then the product of the weights with the values, made elsewhere, joins the
// mean. So neither products nor weights of all keys exist at once.
// The rows variant of the first gives a query to an invocation, for software adapters; the groups variant to a workgroup.
const WG_SIZE = 64u;
const ROWS_SIZE = 8u;
const LOWEST = -3.4028234663852886e38;

// ---- products to weights ----
struct WeighParams { n_rows: u32, n_vec4: u32, n_cols: u32, goes_on: u32, scale: f32 }  // n_cols of the 4 n_vec4 are keys
@group(0) @binding(0) var<storage, read_write> weigh_z: array<vec4<f32>>;     // [n_rows, n_vec4]
@group(0) @binding(1) var<storage, read_write> weigh_state: array<vec4<f32>>; // [n_rows]: top, sum, factor of what was before
@group(0) @binding(2) var<storage, read_write> weigh_lse: array<f32>;         // [n_rows]: top + log sum
var<immediate> weigh_params: WeighParams;

fn is_key(i: u32) -> vec4<bool> {
    return vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(weigh_params.n_cols);
}

// vec4 i of a row that starts at vec4 `start`; what is no key is the lowest.
fn scaled(start: u32, i: u32) -> vec4<f32> {
    return select(vec4<f32>(LOWEST), weigh_z[start + i] * weigh_params.scale, is_key(i));
}

fn weight(start: u32, i: u32, top: f32) -> vec4<f32> {
    let w = select(vec4<f32>(0.0), exp(scaled(start, i) - vec4<f32>(top)), is_key(i));
    weigh_z[start + i] = w;
    return w;
}

fn state_before(row: u32) -> vec2<f32> {
    if weigh_params.goes_on == 1u {
        return weigh_state[row].xy;
    }
    return vec2<f32>(LOWEST, 0.0);
}

fn take(row: u32, before: vec2<f32>, top: f32, added: f32) {
    let factor = exp(before.x - top);
    let sum = before.y * factor + added;
    weigh_state[row] = vec4<f32>(top, sum, factor, 0.0);
    weigh_lse[row] = top + log(sum);
}

@compute @workgroup_size(ROWS_SIZE)
fn weigh_rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = weigh_params;
    let row = thread_id(group, n_groups, local, ROWS_SIZE);
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_vec4;
    let before = state_before(row);
    var tops = vec4<f32>(before.x);
    for (var i = 0u; i < p.n_vec4; i++) {
        tops = max(tops, scaled(start, i));
    }
    let top = max(max(tops.x, tops.y), max(tops.z, tops.w));
    var sums = vec4<f32>(0.0);
    for (var i = 0u; i < p.n_vec4; i++) {
        sums += weight(start, i, top);
    }
    take(row, before, top, (sums.x + sums.y) + (sums.z + sums.w));
}

@compute @workgroup_size(WG_SIZE)
fn weigh_groups_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = weigh_params;
    let row = group_id(group, n_groups);
    if row >= p.n_rows {
        return;
    }
    let start = row * p.n_vec4;
    let before = state_before(row);
    var tops = vec4<f32>(before.x);
    for (var i = local; i < p.n_vec4; i += WG_SIZE) {
        tops = max(tops, scaled(start, i));
    }
    let top = group_reduce(JOIN_MAX, local, max(max(tops.x, tops.y), max(tops.z, tops.w)));
    var sums = vec4<f32>(0.0);
    for (var i = local; i < p.n_vec4; i += WG_SIZE) {
        sums += weight(start, i, top);
    }
    // Everybody has read the maximum.
    workgroupBarrier();
    let sum = group_reduce(JOIN_SUM, local, (sums.x + sums.y) + (sums.z + sums.w));
    if local == 0u {
        take(row, before, top, sum);
    }
}

// ---- the mean so far: one workgroup per query, without a division by the width ----
struct BlendParams { n_rows: u32, n_cols: u32, goes_on: u32, is_last: u32 }
@group(0) @binding(0) var<storage, read> blend_sums: array<f32>;              // [n_rows, n_cols]: weighted, of this chunk
@group(0) @binding(1) var<storage, read> blend_state: array<vec4<f32>>;       // [n_rows]
@group(0) @binding(2) var<storage, read_write> blend_mean: array<f32>;        // [n_rows, n_cols]
var<immediate> blend_params: BlendParams;

@compute @workgroup_size(WG_SIZE)
fn blend_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let p = blend_params;
    let row = group_id(group, n_groups);
    if row >= p.n_rows {
        return;
    }
    let state = blend_state[row];
    let divisor = select(1.0, state.y, p.is_last == 1u);
    for (var col = local; col < p.n_cols; col += WG_SIZE) {
        let i = row * p.n_cols + col;
        var mean = blend_sums[i];
        if p.goes_on == 1u {
            mean += blend_mean[i] * state.z;
        }
        blend_mean[i] = mean / divisor;
    }
}
