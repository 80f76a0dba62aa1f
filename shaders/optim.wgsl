// Optimizers over arenas: flat f32 arrays of many parameters (slots), each from a multiple of 64 elements on, zeros behind.
// One invocation per vec4; 16 of them are a block, and a block belongs to one slot. Norms are summed per block by one
// invocation, per slot by one workgroup, then over the slots by one workgroup: a fixed order. Zeros stay zeros.
override WG_SIZE: u32 = 64u;                                               // power of two
const BLOCK_VEC4 = 16u;

// ---- what every step reads ----
@group(0) @binding(0) var<storage, read> step_blocks: array<u32>;          // [n / 64], the slot of each block
@group(0) @binding(1) var<storage, read> step_decay: array<f32>;           // [n_slots], 1 or 0
@group(0) @binding(2) var<storage, read> step_factor: array<f32>;          // [n_factor]: what multiplies d, with 3 also
                                                                           // whether to step at all, and steps taken
@group(0) @binding(3) var<storage, read_write> step_w: array<vec4<f32>>;   // [n]
@group(0) @binding(4) var<storage, read> step_d: array<vec4<f32>>;         // [n]
@group(0) @binding(5) var<storage, read_write> step_m: array<vec4<f32>>;   // [n]

fn factor_of(n_factor: u32) -> f32 {
    return select(1.0, step_factor[0], n_factor > 0u);
}

// Whether the step is skipped: nothing may change, not even by a decay.
fn is_skipped(n_factor: u32) -> bool {
    return n_factor == 3u && step_factor[1] == 0.0;
}

// ---- stochastic gradient descent: g = d + decay w, m = momentum m + g, w -= lr m (or lr (g + momentum m)) ----
struct SgdParams { n_vec4: u32, n_factor: u32, nesterov: u32, lr: f32, momentum: f32, decay: f32 }
var<immediate> sgd_params: SgdParams;

@compute @workgroup_size(WG_SIZE)
fn sgd_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let p = sgd_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_vec4 || is_skipped(p.n_factor) {
        return;
    }
    let w = step_w[i];
    let decay = p.decay * step_decay[step_blocks[i / BLOCK_VEC4]];
    let g = step_d[i] * factor_of(p.n_factor) + decay * w;
    let m = p.momentum * step_m[i] + g;
    step_m[i] = m;
    step_w[i] = w - p.lr * select(m, g + p.momentum * m, p.nesterov == 1u);
}

// ---- LARS: the same with each slot's g scaled by trust |w| / |g| ----
struct LarsParams { n: u32, n_factor: u32, lr: f32, momentum: f32, decay: f32, trust: f32 }
@group(0) @binding(6) var<storage, read> lars_ratio: array<f32>;           // [n_slots]
var<immediate> lars_params: LarsParams;                                    // n: of vec4, of blocks or of slots

@compute @workgroup_size(WG_SIZE)
fn lars_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let p = lars_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n || is_skipped(p.n_factor) {
        return;
    }
    let w = step_w[i];
    let slot = step_blocks[i / BLOCK_VEC4];
    let g = step_d[i] * factor_of(p.n_factor) + p.decay * step_decay[slot] * w;
    let m = p.momentum * step_m[i] + lars_ratio[slot] * g;
    step_m[i] = m;
    step_w[i] = w - p.lr * m;
}

@group(0) @binding(3) var<storage, read> lars_blocks_w: array<vec4<f32>>;          // [n]
@group(0) @binding(5) var<storage, read_write> lars_blocks_out: array<vec2<f32>>;  // [n / 64], sums of w^2 and g^2

@compute @workgroup_size(WG_SIZE)
fn lars_blocks_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = lars_params;
    let block = thread_id(group, n_groups, local, WG_SIZE);
    if block >= p.n {
        return;
    }
    let decay = p.decay * step_decay[step_blocks[block]];
    let factor = factor_of(p.n_factor);
    var sum_w = vec4<f32>(0.0);
    var sum_g = vec4<f32>(0.0);
    for (var k = 0u; k < BLOCK_VEC4; k++) {
        let w = lars_blocks_w[block * BLOCK_VEC4 + k];
        let g = step_d[block * BLOCK_VEC4 + k] * factor + decay * w;
        sum_w += w * w;
        sum_g += g * g;
    }
    lars_blocks_out[block] = vec2<f32>(dot(sum_w, vec4<f32>(1.0)), dot(sum_g, vec4<f32>(1.0)));
}

@group(0) @binding(0) var<storage, read> slots_starts: array<u32>;                 // [n_slots + 1], in blocks
@group(0) @binding(2) var<storage, read> lars_slots_x: array<vec2<f32>>;           // [n / 64]
@group(0) @binding(3) var<storage, read_write> lars_slots_out: array<f32>;         // [n_slots]

@compute @workgroup_size(WG_SIZE)
fn lars_slots_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = lars_params;
    let slot = group_id(group, n_groups);
    if slot >= p.n {
        return;
    }
    var sum = vec2<f32>(0.0);
    let end = slots_starts[slot + 1u];
    for (var block = slots_starts[slot] + local; block < end; block += WG_SIZE) {
        sum += lars_slots_x[block];
    }
    let norm_w = sqrt(group_reduce(JOIN_SUM, local, sum.x));
    workgroupBarrier();
    let norm_g = sqrt(group_reduce(JOIN_SUM, local, sum.y));
    if local == 0u {
        // A NaN is not above 0 and leaves 1, so the slot's other elements move as they would.
        let above = norm_w > 0.0 && norm_g > 0.0 && !is_nan(norm_w) && !is_nan(norm_g) && step_decay[slot] > 0.0;
        lars_slots_out[slot] = select(1.0, p.trust * norm_w / norm_g, above);
    }
}

// ---- Adam: m and v are means of g and g^2 with weights that fall by beta; w -= lr_m m / (sqrt(v) root + eps) ----
// lr_m = lr / (1 - beta1^t) and root = 1 / sqrt(1 - beta2^t), from the host, which sends lr alone where the device counts
// the steps taken. `shrink` is 1 - lr decay where the decay is decoupled, else 1, and `decay` then 0.
struct AdamParams {
    n_vec4: u32, n_factor: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32,
    eps: f32, lr_m: f32, root: f32, decay: f32, shrink: f32, log_beta1: f32, log_beta2: f32,
}
@group(0) @binding(6) var<storage, read_write> adam_v: array<vec4<f32>>;           // [n]
var<immediate> adam_params: AdamParams;

// 1 - e^x for x < 0: by its series where the difference would lose digits.
fn left(x: f32) -> f32 {
    if x < -0.5 {
        return 1.0 - exp(x);
    }
    var sum = 1.0;
    for (var k = 9u; k > 1u; k--) {
        sum = 1.0 + x / f32(k) * sum;
    }
    return -x * sum;
}

@compute @workgroup_size(WG_SIZE)
fn adam_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let p = adam_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_vec4 || is_skipped(p.n_factor) {
        return;
    }
    let w = step_w[i];
    let decays = step_decay[step_blocks[i / BLOCK_VEC4]];
    let g = step_d[i] * factor_of(p.n_factor) + p.decay * decays * w;
    let m = p.beta1 * step_m[i] + p.rest1 * g;
    let v = p.beta2 * adam_v[i] + p.rest2 * g * g;
    var lr_m = p.lr_m;
    var root = p.root;
    if p.n_factor == 3u {
        lr_m /= left(p.log_beta1 * step_factor[2]);
        root = 1.0 / sqrt(left(p.log_beta2 * step_factor[2]));
    }
    step_m[i] = m;
    adam_v[i] = v;
    step_w[i] = w * select(1.0, p.shrink, decays > 0.0) - lr_m * m / (sqrt(v) * root + p.eps);
}

// ---- exponential moving average: e = momentum e + rest w ----
struct EmaParams { n_vec4: u32, n_factor: u32, momentum: f32, rest: f32 }
@group(0) @binding(0) var<storage, read_write> ema_e: array<vec4<f32>>;            // [n]
@group(0) @binding(1) var<storage, read> ema_w: array<vec4<f32>>;                  // [n]
var<immediate> ema_params: EmaParams;

@compute @workgroup_size(WG_SIZE)
fn ema_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let p = ema_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_vec4 || is_skipped(p.n_factor) {
        return;
    }
    ema_e[i] = p.momentum * ema_e[i] + p.rest * ema_w[i];
}

// ---- the global norm, and the factor that brings it down to max_norm ----
struct ClipParams { n: u32, start: u32, max_norm: f32 }
var<immediate> clip_params: ClipParams;                                            // n: of blocks or of slots
@group(0) @binding(0) var<storage, read> clip_blocks_d: array<vec4<f32>>;          // [n]
@group(0) @binding(1) var<storage, read_write> clip_blocks_out: array<f32>;        // [n / 64]

@compute @workgroup_size(WG_SIZE)
fn clip_blocks_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let block = thread_id(group, n_groups, local, WG_SIZE);
    if block >= clip_params.n {
        return;
    }
    var sum = vec4<f32>(0.0);
    for (var k = 0u; k < BLOCK_VEC4; k++) {
        let d = clip_blocks_d[block * BLOCK_VEC4 + k];
        sum += d * d;
    }
    clip_blocks_out[block] = dot(sum, vec4<f32>(1.0));
}

@group(0) @binding(1) var<storage, read> clip_slots_x: array<f32>;                 // [n / 64]
@group(0) @binding(2) var<storage, read_write> clip_slots_out: array<f32>;         // slots of all arenas, ours from `start` on

@compute @workgroup_size(WG_SIZE)
fn clip_slots_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let slot = group_id(group, n_groups);
    if slot >= clip_params.n {
        return;
    }
    var sum = 0.0;
    let end = slots_starts[slot + 1u];
    for (var block = slots_starts[slot] + local; block < end; block += WG_SIZE) {
        sum += clip_slots_x[block];
    }
    let total = group_reduce(JOIN_SUM, local, sum);
    if local == 0u {
        clip_slots_out[clip_params.start + slot] = total;
    }
}

@group(0) @binding(0) var<storage, read> clip_x: array<f32>;                       // slots of all arenas
@group(0) @binding(1) var<storage, read_write> clip_norm: array<f32>;              // [1]
@group(0) @binding(2) var<storage, read_write> clip_factor: array<f32>;            // [1]

@compute @workgroup_size(WG_SIZE)
fn clip_fwd(@builtin(local_invocation_index) local: u32) {
    var sum = 0.0;
    for (var slot = local; slot < clip_params.n; slot += WG_SIZE) {
        sum += clip_x[slot];
    }
    let norm = sqrt(group_reduce(JOIN_SUM, local, sum));
    if local == 0u {
        let factor = clip_params.max_norm / (norm + 1e-6);
        clip_norm[0] = norm;
        // A NaN passes, so that a broken step shows.
        clip_factor[0] = select(factor, 1.0, factor > 1.0 && !is_nan(factor));
    }
}

// ---- what undoes a loss scale: the norm of scaled gradients, whether they are numbers, and the scale of the next step ----
struct UnscaleParams {
    n: u32, max_norm: f32,                                                         // slots; 0: nothing is clipped
    interval: f32, growth: f32, backoff: f32, least: f32, most: f32,
}
var<immediate> unscale_params: UnscaleParams;
@group(0) @binding(1) var<storage, read_write> unscale_state: array<f32>;          // [4]: scale, good, skipped, taken
@group(0) @binding(2) var<storage, read_write> unscale_out: array<f32>;            // [4]: factor, whether, taken, norm

@compute @workgroup_size(WG_SIZE)
fn unscale_fwd(@builtin(local_invocation_index) local: u32) {
    let p = unscale_params;
    var sum = 0.0;
    for (var slot = local; slot < p.n; slot += WG_SIZE) {
        sum += clip_x[slot];
    }
    let total = group_reduce(JOIN_SUM, local, sum);
    if local == 0u {
        let scale = unscale_state[0];
        // By its bits: all ones stand for infinities and NaN. A square past f32 counts as infinite, too.
        let is_good = (bitcast<u32>(total) & 0x7f800000u) != 0x7f800000u;
        let norm = sqrt(total) / scale;
        var factor = 1.0 / scale;
        if p.max_norm > 0.0 {
            factor *= min(1.0, p.max_norm / (norm + 1e-6));
        }
        if is_good {
            let good = unscale_state[1] + 1.0;
            let grows = good >= p.interval;
            unscale_state[0] = select(scale, min(scale * p.growth, p.most), grows);
            unscale_state[1] = select(good, 0.0, grows);
            unscale_state[3] += 1.0;
        } else {
            unscale_state[0] = max(scale * p.backoff, p.least);
            unscale_state[1] = 0.0;
            unscale_state[2] += 1.0;
        }
        unscale_out[0] = select(0.0, factor, is_good);
        unscale_out[1] = select(0.0, 1.0, is_good);
        unscale_out[2] = unscale_state[3];
        unscale_out[3] = norm;
    }
}

// ---- gradients into their places ----
// One invocation per vec4 of the parts laid end to end, each filled up to whole blocks. Elements behind a part's last are
// zeros, stored where parts are stored and left out where they are added.
override N_PARTS: u32 = 7u;                                                        // 7, or 1: no search
struct CollectParams {
    n_0: u32, n_1: u32, n_2: u32, n_3: u32, n_4: u32, n_5: u32, n_6: u32,          // elements of each part
    at_0: u32, at_1: u32, at_2: u32, at_3: u32, at_4: u32, at_5: u32, at_6: u32,   // its place, in vec4
    adds: u32,
}
@group(0) @binding(0) var<storage, read> collect_0: array<Elem4>;
@group(0) @binding(1) var<storage, read> collect_1: array<Elem4>;
@group(0) @binding(2) var<storage, read> collect_2: array<Elem4>;
@group(0) @binding(3) var<storage, read> collect_3: array<Elem4>;
@group(0) @binding(4) var<storage, read> collect_4: array<Elem4>;
@group(0) @binding(5) var<storage, read> collect_5: array<Elem4>;
@group(0) @binding(6) var<storage, read> collect_6: array<Elem4>;
@group(0) @binding(7) var<storage, read_write> collect_out: array<vec4<f32>>;      // [n]
var<immediate> collect_params: CollectParams;

// A vec4 of a part; while it is not found, i counts on from the end of the parts seen.
struct Place { part: u32, i: u32, n: u32, at: u32 }
const NOWHERE = 7u;

fn find(seen: Place, part: u32, n: u32, at: u32) -> Place {
    if seen.part != NOWHERE {
        return seen;
    }
    let n_vec4 = (n + 63u) / 64u * BLOCK_VEC4;
    if seen.i < n_vec4 {
        return Place(part, seen.i, n, at);
    }
    return Place(NOWHERE, seen.i - n_vec4, 0u, 0u);
}

@compute @workgroup_size(WG_SIZE)
fn collect_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let p = collect_params;
    var place = find(Place(NOWHERE, thread_id(group, n_groups, local, WG_SIZE), 0u, 0u), 0u, p.n_0, p.at_0);
    if N_PARTS > 1u {
        place = find(place, 1u, p.n_1, p.at_1);
        place = find(place, 2u, p.n_2, p.at_2);
        place = find(place, 3u, p.n_3, p.at_3);
        place = find(place, 4u, p.n_4, p.at_4);
        place = find(place, 5u, p.n_5, p.at_5);
        place = find(place, 6u, p.n_6, p.at_6);
    }
    let i = place.i;
    if place.part == NOWHERE || (p.adds == 1u && 4u * i >= place.n) {
        return;
    }
    var x = vec4<f32>(0.0);
    if 4u * i < place.n {
        if N_PARTS == 1u {
            x = vec4<f32>(collect_0[i]);
        } else {
            switch place.part {
                case 0u: { x = vec4<f32>(collect_0[i]); }
                case 1u: { x = vec4<f32>(collect_1[i]); }
                case 2u: { x = vec4<f32>(collect_2[i]); }
                case 3u: { x = vec4<f32>(collect_3[i]); }
                case 4u: { x = vec4<f32>(collect_4[i]); }
                case 5u: { x = vec4<f32>(collect_5[i]); }
                default: { x = vec4<f32>(collect_6[i]); }
            }
        }
        x = select(vec4<f32>(0.0), x, vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(place.n));
    }
    if p.adds == 1u {
        x += collect_out[place.at + i];
    }
    collect_out[place.at + i] = x;
}
