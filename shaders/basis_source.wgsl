// One mixture out_e = sum_i c_i U_ie by where the bases come from: drawn by several generators, 16 bytes to an invocation and
// basis, or read from memory. For benchmarks alone.
override GENERATOR: u32 = 0u;    // 0 Philox4x32-10, 1 Threefry2x32-20, 2 pcg4d
const WG_SIZE = 64u;

struct SourceParams { n: u32, k: u32, key_0: u32, key_1: u32 }     // n: elements, a multiple of 16
var<immediate> source_params: SourceParams;

fn source_words(block: u32, basis: u32, key: vec2<u32>) -> vec4<u32> {
    if GENERATOR == 1u {
        return vec4<u32>(threefry2x32(vec2<u32>(2u * block, basis), key), threefry2x32(vec2<u32>(2u * block + 1u, basis), key));
    }
    if GENERATOR == 2u {
        return pcg4d(vec4<u32>(block, basis, key));
    }
    return philox4x32(vec4<u32>(block, basis, 0u, 0u), key);
}

@group(0) @binding(0) var<storage, read> drawn_coefficients: array<f32>;            // [k]
@group(0) @binding(1) var<storage, read_write> drawn_out: array<vec4<f32>>;         // [n / 4]

@compute @workgroup_size(WG_SIZE)
fn source_drawn_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = source_params;
    let block = thread_id(group, n_groups, local, WG_SIZE);
    if 16u * block >= p.n {
        return;
    }
    var a = vec4<f32>();
    var b = vec4<f32>();
    var c = vec4<f32>();
    var d = vec4<f32>();
    for (var i = 0u; i < p.k; i++) {
        let words = source_words(block, i, vec2<u32>(p.key_0, p.key_1));
        let factor = vec4<f32>(drawn_coefficients[i] * 0.0078125);
        a = fma(factor, byte_values(words.x), a);
        b = fma(factor, byte_values(words.y), b);
        c = fma(factor, byte_values(words.z), c);
        d = fma(factor, byte_values(words.w), d);
    }
    drawn_out[4u * block] = a;
    drawn_out[4u * block + 1u] = b;
    drawn_out[4u * block + 2u] = c;
    drawn_out[4u * block + 3u] = d;
}

@group(0) @binding(0) var<storage, read> stored_coefficients: array<f32>;           // [k]
@group(0) @binding(1) var<storage, read> stored_bases: array<Elem4>;                // [n / 256, k, 64]: in the order of reading
@group(0) @binding(2) var<storage, read_write> stored_out: array<vec4<f32>>;        // [n / 4]

@compute @workgroup_size(WG_SIZE)
fn source_stored_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                     @builtin(local_invocation_index) local: u32) {
    let p = source_params;
    let quad = thread_id(group, n_groups, local, WG_SIZE);
    if 4u * quad >= p.n {
        return;
    }
    var sum = vec4<f32>();
    for (var i = 0u; i < p.k; i++) {
        sum = fma(vec4<f32>(stored_coefficients[i]), vec4<f32>(stored_bases[(quad / WG_SIZE * p.k + i) * WG_SIZE + local]), sum);
    }
    stored_out[quad] = sum;
}
