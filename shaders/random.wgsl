// Random tensors from the counter-based generator. One invocation draws the four words of one call and writes the four
// elements 4 i .. 4 i + 3; the words are those that the CPU draws for the same seed, stream, step and element.
const WG_SIZE = 64u;

// Counts in vec4, that is calls. `bound`, `shift` and `scale` are what the distribution needs.
struct RandomParams {
    n_vec4: u32, key_0: u32, key_1: u32, step: u32, stream: u32,
    bound: u32, shift: f32, scale: f32, top: f32,
}
var<immediate> random_params: RandomParams;

fn words_of(call: u32) -> vec4<u32> {
    let p = random_params;
    return philox4x32(vec4<u32>(call, 0u, p.step, p.stream), vec2<u32>(p.key_0, p.key_1));
}

@group(0) @binding(0) var<storage, read_write> bits_out: array<vec4<u32>>;

@compute @workgroup_size(WG_SIZE)
fn bits_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        bits_out[i] = words_of(i);
    }
}

// 1 where the top 24 bits lie below `bound`, else 0.
@compute @workgroup_size(WG_SIZE)
fn bernoulli_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        let below = (words_of(i) >> vec4<u32>(8u)) < vec4<u32>(random_params.bound);
        bits_out[i] = select(vec4<u32>(0u), vec4<u32>(1u), below);
    }
}

// Shuffling sorts the indices by 64 bits: word 2 j for the high half and word 2 j + 1 for the low half of element j.
@compute @workgroup_size(WG_SIZE)
fn low_words_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        bits_out[i] = vec4<u32>(words_of(2u * i).yw, words_of(2u * i + 1u).yw);
    }
}

@group(0) @binding(0) var<storage, read> high_words_order: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> high_words_out: array<vec4<u32>>;

fn high_word(j: u32) -> u32 {
    let words = words_of(j / 2u);
    return select(words.x, words.z, j % 2u == 1u);
}

@compute @workgroup_size(WG_SIZE)
fn high_words_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        let j = high_words_order[i];
        high_words_out[i] = vec4<u32>(high_word(j.x), high_word(j.y), high_word(j.z), high_word(j.w));
    }
}

@group(0) @binding(0) var<storage, read_write> random_out: array<vec4<f32>>;

// shift + scale u, at most `top`, since the sum may round up to the open end of the interval.
@compute @workgroup_size(WG_SIZE)
fn uniform_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        let value = unit_floats(words_of(i)) * random_params.scale + random_params.shift;
        random_out[i] = min(value, vec4<f32>(random_params.top));
    }
}

// ln(m / 2^24) for whole m in 1 ..= 2^24, relative error below 1e-6 on any adapter; the built-in log may be off by 2^-21
// where its result is near 0.
fn log_unit(m: vec2<u32>) -> vec2<f32> {
    let bits = bitcast<vec2<u32>>(vec2<f32>(m));
    // m = 2^e f with f in sqrt(1/2) .. sqrt 2, so that e - 24 is 0 for all m near 2^24.
    let e = (bits + vec2<u32>(0x4afb0du)) >> vec2<u32>(23u);
    let f = bitcast<vec2<f32>>(bits - ((e - vec2<u32>(127u)) << vec2<u32>(23u)));
    let s = (f - 1.0) / (f + 1.0);
    let q = s * s;
    let series = 2.0 + q * (0.6666666667 + q * (0.4 + q * (0.2857142857 + q * 0.2222222222)));
    return (vec2<f32>(e) - 151.0) * 0.6931471806 + s * series;
}

// Cosine and sine of 2 pi turn / 2^24, error below 2e-7 on any adapter; the built-in ones may be off by 2^-11.
fn circle(turn: vec2<u32>) -> mat2x2<f32> {
    let quarter = (turn + vec2<u32>(1u << 21u)) >> vec2<u32>(22u);
    let t = vec2<f32>(vec2<i32>(turn) - vec2<i32>(quarter << vec2<u32>(22u))) * 3.7450702829e-7;
    let q = t * t;
    let sine = t * (1.0 + q * (-0.1666666667 + q * (8.3333333e-3 + q * (-1.98412698e-4 + q * 2.7557319e-6))));
    let cosine = 1.0 + q * (-0.5 + q * (0.0416666667 + q * (-1.38888889e-3 + q * 2.48015873e-5)));
    let odd = (quarter & vec2<u32>(1u)) == vec2<u32>(1u);
    let x = select(cosine, sine, odd);
    let y = select(sine, cosine, odd);
    // Quarters 1 and 2 lie left, 2 and 3 below.
    let left = ((quarter + vec2<u32>(1u)) & vec2<u32>(2u)) == vec2<u32>(2u);
    let below = (quarter & vec2<u32>(2u)) == vec2<u32>(2u);
    return mat2x2<f32>(select(x, -x, left), select(y, -y, below));
}

// Box-Muller: words (a, b) give sqrt(-2 ln(1 - u_a)) times the cosine, then the sine, of 2 pi u_b.
@compute @workgroup_size(WG_SIZE)
fn normal_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        let top = words_of(i) >> vec4<u32>(8u);
        let radius = sqrt(-2.0 * log_unit(vec2<u32>(1u << 24u) - top.xz));
        let point = circle(top.yw);
        let value = vec4<f32>(radius.x * point[0].x, radius.x * point[1].x, radius.y * point[0].y, radius.y * point[1].y);
        random_out[i] = value * random_params.scale + random_params.shift;
    }
}

// The generator on counters of the caller's choice.
@group(0) @binding(0) var<storage, read> philox_counters: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> philox_out: array<vec4<u32>>;

@compute @workgroup_size(WG_SIZE)
fn philox_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < random_params.n_vec4 {
        philox_out[i] = philox4x32(philox_counters[i], vec2<u32>(random_params.key_0, random_params.key_1));
    }
}
