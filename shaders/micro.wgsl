// What an adapter can do at most: arithmetic, memory and launch rates, on data that is never constant.
//   fma      N_PAIRS times x <- c1 - (c0 - x) in 8 chains of a vec4 per invocation: exact in f32 and in f16
//   integer  x <- x f + a in 8 chains of a vec4<u32> per invocation, modulo 2^32
//   dot4     x <- dot(four bytes of x, four of f) + a in 8 chains per invocation
//   copy     out_i = x_i, a vec4 per invocation
//   read     out_i = xor over k of x_(i + k n), 16 vec4 read for one written
//   write    out_i = four words made of i alone
//   gather   out_i = xor of 8 words of x at places made of i alone
//   atomics  8 additions of 1 per invocation, to words side by side
//   step     out_i = x_i + 1
//   empty    nothing
override WG_SIZE: u32 = 64u;
const N_READS = 16u;
const N_GATHERS = 8u;
const N_ATOMICS = 8u;

// ---- fma ----
struct FmaParams { n: u32, n_pairs: u32, factor: f32, first: f32, second: f32, apart: f32 }
@group(0) @binding(0) var<storage, read> fma_x: array<Elem4>;               // [n]
@group(0) @binding(1) var<storage, read_write> fma_out: array<vec4<f32>>;   // [n], sum over k of (k + 1) chain_k
var<immediate> fma_params: FmaParams;

@compute @workgroup_size(WG_SIZE)
fn fma_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
           @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let p = fma_params;
    if i >= p.n {
        return;
    }
    // The numbers come with the launch, so that no compiler can see what the chains come to.
    let f = Elem4(Elem(p.factor));
    let u = Elem4(Elem(p.first));
    let v = Elem4(Elem(p.second));
    let d = Elem4(Elem(p.apart));
    var c0 = fma_x[i];
    var c1 = c0 + d;
    var c2 = c1 + d;
    var c3 = c2 + d;
    var c4 = c3 + d;
    var c5 = c4 + d;
    var c6 = c5 + d;
    var c7 = c6 + d;
    for (var pair = 0u; pair < p.n_pairs; pair += 2u) {
        c0 = fma(c0, f, u); c1 = fma(c1, f, u); c2 = fma(c2, f, u); c3 = fma(c3, f, u);
        c4 = fma(c4, f, u); c5 = fma(c5, f, u); c6 = fma(c6, f, u); c7 = fma(c7, f, u);
        c0 = fma(c0, f, v); c1 = fma(c1, f, v); c2 = fma(c2, f, v); c3 = fma(c3, f, v);
        c4 = fma(c4, f, v); c5 = fma(c5, f, v); c6 = fma(c6, f, v); c7 = fma(c7, f, v);
        c0 = fma(c0, f, u); c1 = fma(c1, f, u); c2 = fma(c2, f, u); c3 = fma(c3, f, u);
        c4 = fma(c4, f, u); c5 = fma(c5, f, u); c6 = fma(c6, f, u); c7 = fma(c7, f, u);
        c0 = fma(c0, f, v); c1 = fma(c1, f, v); c2 = fma(c2, f, v); c3 = fma(c3, f, v);
        c4 = fma(c4, f, v); c5 = fma(c5, f, v); c6 = fma(c6, f, v); c7 = fma(c7, f, v);
    }
    fma_out[i] = vec4<f32>(c0) + 2.0 * vec4<f32>(c1) + 3.0 * vec4<f32>(c2) + 4.0 * vec4<f32>(c3)
        + 5.0 * vec4<f32>(c4) + 6.0 * vec4<f32>(c5) + 7.0 * vec4<f32>(c6) + 8.0 * vec4<f32>(c7);
}

// ---- integers ----
struct ChainParams { n: u32, n_rounds: u32, factor: u32, addend: u32 }
var<immediate> chain_params: ChainParams;

@group(0) @binding(0) var<storage, read> integer_x: array<vec4<u32>>;          // [n]
@group(0) @binding(1) var<storage, read_write> integer_out: array<vec4<u32>>;  // [n], xor of the chains

@compute @workgroup_size(WG_SIZE)
fn integer_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let p = chain_params;
    if i >= p.n {
        return;
    }
    let f = vec4<u32>(p.factor);
    let a = vec4<u32>(p.addend);
    var c0 = integer_x[i];
    var c1 = c0 + a;
    var c2 = c1 + a;
    var c3 = c2 + a;
    var c4 = c3 + a;
    var c5 = c4 + a;
    var c6 = c5 + a;
    var c7 = c6 + a;
    for (var round = 0u; round < p.n_rounds; round += 2u) {
        c0 = c0 * f + a; c1 = c1 * f + a; c2 = c2 * f + a; c3 = c3 * f + a;
        c4 = c4 * f + a; c5 = c5 * f + a; c6 = c6 * f + a; c7 = c7 * f + a;
        c0 = c0 * f + a; c1 = c1 * f + a; c2 = c2 * f + a; c3 = c3 * f + a;
        c4 = c4 * f + a; c5 = c5 * f + a; c6 = c6 * f + a; c7 = c7 * f + a;
    }
    integer_out[i] = c0 ^ c1 ^ c2 ^ c3 ^ c4 ^ c5 ^ c6 ^ c7;
}

@group(0) @binding(0) var<storage, read> dot4_x: array<u32>;            // [n]
@group(0) @binding(1) var<storage, read_write> dot4_out: array<u32>;    // [n], xor of the chains

fn dot4(x: u32, f: u32, a: u32) -> u32 {
    return bitcast<u32>(dot4I8Packed(x, f)) + a;
}

@compute @workgroup_size(WG_SIZE)
fn dot4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let p = chain_params;
    if i >= p.n {
        return;
    }
    let f = p.factor;
    let a = p.addend;
    var c0 = dot4_x[i];
    var c1 = c0 + a;
    var c2 = c1 + a;
    var c3 = c2 + a;
    var c4 = c3 + a;
    var c5 = c4 + a;
    var c6 = c5 + a;
    var c7 = c6 + a;
    for (var round = 0u; round < p.n_rounds; round += 2u) {
        c0 = dot4(c0, f, a); c1 = dot4(c1, f, a); c2 = dot4(c2, f, a); c3 = dot4(c3, f, a);
        c4 = dot4(c4, f, a); c5 = dot4(c5, f, a); c6 = dot4(c6, f, a); c7 = dot4(c7, f, a);
        c0 = dot4(c0, f, a); c1 = dot4(c1, f, a); c2 = dot4(c2, f, a); c3 = dot4(c3, f, a);
        c4 = dot4(c4, f, a); c5 = dot4(c5, f, a); c6 = dot4(c6, f, a); c7 = dot4(c7, f, a);
    }
    dot4_out[i] = c0 ^ c1 ^ c2 ^ c3 ^ c4 ^ c5 ^ c6 ^ c7;
}

// ---- memory ----
struct MemoryParams { n: u32, seed: u32 }
var<immediate> memory_params: MemoryParams;

@group(0) @binding(0) var<storage, read> copy_x: array<vec4<u32>>;          // [n]
@group(0) @binding(1) var<storage, read_write> copy_out: array<vec4<u32>>;  // [n]

@compute @workgroup_size(WG_SIZE)
fn copy_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < memory_params.n {
        copy_out[i] = copy_x[i];
    }
}

@group(0) @binding(0) var<storage, read> read_x: array<vec4<u32>>;          // [16, n]
@group(0) @binding(1) var<storage, read_write> read_out: array<vec4<u32>>;  // [n]

@compute @workgroup_size(WG_SIZE)
fn read_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let n = memory_params.n;
    if i >= n {
        return;
    }
    var all = vec4<u32>(0u);
    for (var k = 0u; k < N_READS; k++) {
        all ^= read_x[i + k * n];
    }
    read_out[i] = all;
}

@group(0) @binding(0) var<storage, read_write> write_out: array<vec4<u32>>; // [n]

@compute @workgroup_size(WG_SIZE)
fn write_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < memory_params.n {
        write_out[i] = (vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) + memory_params.seed) * 0x9E3779B1u;
    }
}

struct GatherParams { n: u32, mask: u32 }                                    // mask: words of x less 1
@group(0) @binding(0) var<storage, read> gather_x: array<u32>;              // [mask + 1]
@group(0) @binding(1) var<storage, read_write> gather_out: array<u32>;      // [n]
var<immediate> gather_params: GatherParams;

// PCG's output permutation of one step.
fn scatter(word: u32) -> u32 {
    let state = word * 747796405u + 2891336453u;
    let mixed = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (mixed >> 22u) ^ mixed;
}

@compute @workgroup_size(WG_SIZE)
fn gather_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let p = gather_params;
    if i >= p.n {
        return;
    }
    var all = 0u;
    for (var k = 0u; k < N_GATHERS; k++) {
        all ^= gather_x[scatter(i + k * p.n) & p.mask];
    }
    gather_out[i] = all;
}

// ---- launches ----
@group(0) @binding(0) var<storage, read> step_x: array<u32>;                // [n]
@group(0) @binding(1) var<storage, read_write> step_out: array<u32>;        // [n]
struct StepParams { n: u32 }
var<immediate> step_params: StepParams;

@compute @workgroup_size(WG_SIZE)
fn step_fwd(@builtin(local_invocation_index) local: u32) {
    if local < step_params.n {
        step_out[local] = step_x[local] + 1u;
    }
}

@compute @workgroup_size(WG_SIZE)
fn empty_fwd() {
}

// ---- atomics ----
struct AtomicsParams { n: u32, mask: u32 }
@group(0) @binding(0) var<storage, read_write> atomics_out: array<atomic<u32>>;  // [mask + 1], counts on top of what is there
var<immediate> atomics_params: AtomicsParams;

@compute @workgroup_size(WG_SIZE)
fn atomics_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let p = atomics_params;
    if i >= p.n {
        return;
    }
    for (var k = 0u; k < N_ATOMICS; k++) {
        atomicAdd(&atomics_out[(i + k) & p.mask], 1u);
    }
}
