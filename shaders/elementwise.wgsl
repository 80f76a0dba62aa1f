// Elementwise maps. One invocation per vec4 where operands are contiguous, one per element where they are strided.
//   unary    out_i = f(x_i; alpha, beta)
//   binary   out_i = act(f(a_i, b_i)), operands broadcast
//   compare  out_i = a_i < b_i ? 1 : 0 and its kin
//   where    out_i = c_i != 0 ? a_i : b_i
//   copy     out_i = Dst(x at its strides)
override WG_SIZE: u32 = 64u;
override OP: u32 = 0u;
override ACT: u32 = 0u;
override REPEAT: u32 = 0u;   // bit 0: a repeats; bit 1: b repeats

// ---- fill ----
struct FillParams { n: u32, bits: u32 }
@group(0) @binding(0) var<storage, read_write> fill_out: array<vec4<u32>>;   // words
var<immediate> fill_params: FillParams;

@compute @workgroup_size(WG_SIZE)
fn fill_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < fill_params.n {
        fill_out[i] = vec4<u32>(fill_params.bits);
    }
}

// ---- copy: any strides, any cast between 2- and 4-byte types; copies without a cast are gather/rows ----
struct CopyParams {
    n: u32, offset: u32,
    size_1: u32, size_2: u32, size_3: u32, size_4: u32, size_5: u32,
    stride_0: u32, stride_1: u32, stride_2: u32, stride_3: u32, stride_4: u32, stride_5: u32,
}
@group(0) @binding(0) var<storage, read> copy_x: array<Src>;
@group(0) @binding(1) var<storage, read_write> copy_out: array<Dst>;   // [n]
var<immediate> copy_params: CopyParams;

fn copy_index(linear: u32) -> u32 {
    let p = copy_params;
    var i = linear;
    var at = p.offset + (i % p.size_5) * p.stride_5;
    i /= p.size_5;
    at += (i % p.size_4) * p.stride_4;
    i /= p.size_4;
    at += (i % p.size_3) * p.stride_3;
    i /= p.size_3;
    at += (i % p.size_2) * p.stride_2;
    i /= p.size_2;
    at += (i % p.size_1) * p.stride_1;
    return at + (i / p.size_1) * p.stride_0;
}

@compute @workgroup_size(WG_SIZE)
fn copy_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < copy_params.n {
        copy_out[i] = Dst(copy_x[copy_index(i)]);
    }
}

// ---- cast of contiguous data, a vec4 at a time ----
struct CastParams { n_vec4: u32 }
@group(0) @binding(0) var<storage, read> cast_x: array<Src4>;
@group(0) @binding(1) var<storage, read_write> cast_out: array<Dst4>;
var<immediate> cast_params: CastParams;

@compute @workgroup_size(WG_SIZE)
fn cast_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
            @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < cast_params.n_vec4 {
        cast_out[i] = Dst4(cast_x[i]);
    }
}

// ---- bytes: four to a word; one invocation per word ----
// Bytes to numbers: the value 0..255, scaled and shifted per channel, out = byte * scale[c] + shift[c].
struct BytesParams { n_words: u32, n_channels: u32 }
@group(0) @binding(0) var<storage, read> bytes_x: array<u32>;
@group(0) @binding(1) var<storage, read> bytes_scale: array<f32>;   // [n_channels]
@group(0) @binding(2) var<storage, read> bytes_shift: array<f32>;   // [n_channels]
@group(0) @binding(3) var<storage, read_write> bytes_out: array<Elem4>;
var<immediate> bytes_params: BytesParams;

@compute @workgroup_size(WG_SIZE)
fn bytes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= bytes_params.n_words {
        return;
    }
    let word = bytes_x[i];
    let value = vec4<f32>(vec4<u32>(word & 0xffu, (word >> 8u) & 0xffu, (word >> 16u) & 0xffu, word >> 24u));
    let c = (vec4<u32>(i * 4u) + vec4<u32>(0u, 1u, 2u, 3u)) % bytes_params.n_channels;
    let scale = vec4<f32>(bytes_scale[c.x], bytes_scale[c.y], bytes_scale[c.z], bytes_scale[c.w]);
    let shift = vec4<f32>(bytes_shift[c.x], bytes_shift[c.y], bytes_shift[c.z], bytes_shift[c.w]);
    bytes_out[i] = Elem4(value * scale + shift);
}

// Numbers to bytes: rounded and clamped to 0..255.
struct ToBytesParams { n: u32 }
@group(0) @binding(0) var<storage, read> to_bytes_x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> to_bytes_out: array<u32>;
var<immediate> to_bytes_params: ToBytesParams;

@compute @workgroup_size(WG_SIZE)
fn to_bytes_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                @builtin(local_invocation_index) local: u32) {
    let word = thread_id(group, n_groups, local, WG_SIZE);
    if word * 4u >= to_bytes_params.n {
        return;
    }
    var bytes = 0u;
    for (var j = 0u; j < 4u; j++) {
        let i = word * 4u + j;
        if i < to_bytes_params.n {
            bytes |= u32(clamp(round(f32(to_bytes_x[i])), 0.0, 255.0)) << (8u * j);
        }
    }
    to_bytes_out[word] = bytes;
}

// ---- unary ----
struct UnaryParams { n_vec4: u32, alpha: f32, beta: f32 }
@group(0) @binding(0) var<storage, read> unary_x: array<Elem4>;
@group(0) @binding(1) var<storage, read_write> unary_out: array<Elem4>;
var<immediate> unary_params: UnaryParams;

// sin(x + quarters pi / 2), reduced to |r| <= pi / 4 with pi / 2 in three parts, of 10, 11 and 24 bits, then polynomials
// of least error: right to 2e-7 up to |x| of 10^4. The built-in functions are only granted 2^-11, and SwiftShader uses it.
fn sin4(x: vec4<f32>, quarters: i32) -> vec4<f32> {
    let k = round(x * 0.63661977);
    let r = ((x - k * 1.5703125) - k * 4.83751297e-4) - k * 7.54978996e-8;
    let t = r * r;
    let s = r * (1.0 + t * (-0.166666507 + t * (0.00833203688 - t * 1.9504022e-4)));
    let c = 1.0 + t * (-0.5 + t * (0.0416666167 + t * (-0.00138866192 + t * 2.437993e-5)));
    let q = vec4<i32>(k) + quarters;
    let value = select(s, c, (q & vec4<i32>(1)) != vec4<i32>(0));
    return select(value, -value, (q & vec4<i32>(2)) != vec4<i32>(0));
}

fn unary_op(x: vec4<f32>, alpha: f32, beta: f32) -> vec4<f32> {
    switch OP {
        case 0u: { return -x; }
        case 1u: { return abs(x); }
        case 2u: { return exp(x); }
        case 3u: { return log(x); }
        case 4u: { return sqrt(x); }
        case 5u: { return inverseSqrt(x); }
        case 6u: { return x * x; }
        case 7u: { return 1.0 / x; }
        case 8u: { return sin4(x, 0); }
        case 9u: { return sin4(x, 1); }
        case 10u: { return floor(x); }
        case 11u: { return ceil(x); }
        case 12u: { return round(x); }
        case 13u: { return sign(x); }
        case 14u: { return erf4(x); }
        case 15u: { return x * alpha + beta; }
        case 16u: { return clamp(x, vec4<f32>(alpha), vec4<f32>(beta)); }
        case 17u: { return select(x, alpha * x, x < vec4<f32>(0.0)); }
        case 18u: { return max(x, vec4<f32>(0.0)) + log(1.0 + exp(-abs(x))); }
        default: { return activate4(OP - 32u, x); }
    }
}

@compute @workgroup_size(WG_SIZE)
fn unary_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < unary_params.n_vec4 {
        unary_out[i] = Elem4(unary_op(vec4<f32>(unary_x[i]), unary_params.alpha, unary_params.beta));
    }
}

// Gradient of the argument: d_x = d_out f'(x), f' from the result y where that is enough, else from x.
@group(0) @binding(0) var<storage, read> unary_saved: array<Elem4>;   // y or x
@group(0) @binding(1) var<storage, read> unary_d_out: array<Elem4>;
@group(0) @binding(2) var<storage, read_write> unary_d_x: array<Elem4>;

fn unary_derivative(s: vec4<f32>, alpha: f32, beta: f32) -> vec4<f32> {
    switch OP {
        case 1u: { return sign(s); }
        case 2u: { return s; }                        // exp, y
        case 3u: { return 1.0 / s; }
        case 4u: { return 0.5 / s; }                  // sqrt, y
        case 5u: { return -0.5 * s * s * s; }         // rsqrt, y
        case 6u: { return 2.0 * s; }
        case 7u: { return -s * s; }                   // recip, y
        case 8u: { return sin4(s, 1); }
        case 9u: { return -sin4(s, 0); }
        case 14u: { return 1.12837917 * exp(-min(s * s, vec4<f32>(80.0))); }
        case 16u: {
            return select(vec4<f32>(0.0), vec4<f32>(1.0), (s >= vec4<f32>(alpha)) & (s <= vec4<f32>(beta)));
        }
        case 17u: { return select(vec4<f32>(alpha), vec4<f32>(1.0), s > vec4<f32>(0.0)); }
        case 18u: { return sigmoid4(s); }
        default: { return act_derivative4(OP - 32u, s); }
    }
}

@compute @workgroup_size(WG_SIZE)
fn unary_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < unary_params.n_vec4 {
        let slope = unary_derivative(vec4<f32>(unary_saved[i]), unary_params.alpha, unary_params.beta);
        unary_d_x[i] = Elem4(vec4<f32>(unary_d_out[i]) * slope);
    }
}

// ---- binary ----
fn binary_op(a: Elem4, b: Elem4) -> Elem4 {
    switch OP {
        case 0u: { return a + b; }
        case 1u: { return a - b; }
        case 2u: { return a * b; }
        case 3u: { return a / b; }
        case 4u: { return max(a, b); }
        case 5u: { return min(a, b); }
        default: { return Elem4(pow(vec4<f32>(a), vec4<f32>(b))); }
    }
}

fn binary_act(a: Elem4, b: Elem4) -> Elem4 {
    if ACT == 0u {
        return binary_op(a, b);
    }
    return Elem4(activate4(ACT, vec4<f32>(binary_op(a, b))));
}

// Operands that repeat as a whole: same shape, or a row over the last axes. Lengths and periods in vec4.
struct BinaryParams { n_vec4: u32, period_a: u32, period_b: u32 }
@group(0) @binding(0) var<storage, read> binary_a: array<Elem4>;
@group(0) @binding(1) var<storage, read> binary_b: array<Elem4>;
@group(0) @binding(2) var<storage, read_write> binary_out: array<Elem4>;
var<immediate> binary_params: BinaryParams;

@compute @workgroup_size(WG_SIZE)
fn binary_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= binary_params.n_vec4 {
        return;
    }
    // The remainder of an integer division costs more than the addition on software adapters.
    var at_a = i;
    if (REPEAT & 1u) != 0u {
        at_a = i % binary_params.period_a;
    }
    var at_b = i;
    if (REPEAT & 2u) != 0u {
        at_b = i % binary_params.period_b;
    }
    binary_out[i] = binary_act(binary_a[at_a], binary_b[at_b]);
}

// Any strides over at most four collapsed axes; stride 0 repeats.
struct BinaryStridedParams {
    n: u32, offset_a: u32, offset_b: u32,
    size_1: u32, size_2: u32, size_3: u32,
    stride_a_0: u32, stride_a_1: u32, stride_a_2: u32, stride_a_3: u32,
    stride_b_0: u32, stride_b_1: u32, stride_b_2: u32, stride_b_3: u32,
}
@group(0) @binding(0) var<storage, read> strided_a: array<Elem>;
@group(0) @binding(1) var<storage, read> strided_b: array<Elem>;
@group(0) @binding(2) var<storage, read_write> strided_out: array<Elem>;
var<immediate> strided_params: BinaryStridedParams;

fn strided_indices(linear: u32) -> vec2<u32> {
    let p = strided_params;
    let i3 = linear % p.size_3;
    let r3 = linear / p.size_3;
    let i2 = r3 % p.size_2;
    let r2 = r3 / p.size_2;
    let i1 = r2 % p.size_1;
    let i0 = r2 / p.size_1;
    return vec2<u32>(
        p.offset_a + i0 * p.stride_a_0 + i1 * p.stride_a_1 + i2 * p.stride_a_2 + i3 * p.stride_a_3,
        p.offset_b + i0 * p.stride_b_0 + i1 * p.stride_b_1 + i2 * p.stride_b_2 + i3 * p.stride_b_3);
}

@compute @workgroup_size(WG_SIZE)
fn binary_strided_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i < strided_params.n {
        let at = strided_indices(i);
        strided_out[i] = binary_act(Elem4(strided_a[at.x]), Elem4(strided_b[at.y])).x;
    }
}

// ---- compare ----
@group(0) @binding(2) var<storage, read_write> compare_out: array<u32>;

@compute @workgroup_size(WG_SIZE)
fn compare_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= strided_params.n {
        return;
    }
    let at = strided_indices(i);
    let a = strided_a[at.x];
    let b = strided_b[at.y];
    var result: bool;
    switch OP {
        case 0u: { result = a == b; }
        case 1u: { result = a != b; }
        case 2u: { result = a < b; }
        case 3u: { result = a <= b; }
        case 4u: { result = a > b; }
        default: { result = a >= b; }
    }
    compare_out[i] = u32(result);
}

// ---- where ----
struct WhereParams {
    n: u32, size_1: u32, size_2: u32, size_3: u32,
    stride_c_0: u32, stride_c_1: u32, stride_c_2: u32, stride_c_3: u32,
    stride_a_0: u32, stride_a_1: u32, stride_a_2: u32, stride_a_3: u32,
    stride_b_0: u32, stride_b_1: u32, stride_b_2: u32, stride_b_3: u32,
}
@group(0) @binding(0) var<storage, read> where_c: array<u32>;
@group(0) @binding(1) var<storage, read> where_a: array<Elem>;
@group(0) @binding(2) var<storage, read> where_b: array<Elem>;
@group(0) @binding(3) var<storage, read_write> where_out: array<Elem>;
var<immediate> where_params: WhereParams;

@compute @workgroup_size(WG_SIZE)
fn where_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
             @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    let p = where_params;
    if i >= p.n {
        return;
    }
    let i3 = i % p.size_3;
    let r3 = i / p.size_3;
    let i2 = r3 % p.size_2;
    let r2 = r3 / p.size_2;
    let i1 = r2 % p.size_1;
    let i0 = r2 / p.size_1;
    let c = i0 * p.stride_c_0 + i1 * p.stride_c_1 + i2 * p.stride_c_2 + i3 * p.stride_c_3;
    let a = i0 * p.stride_a_0 + i1 * p.stride_a_1 + i2 * p.stride_a_2 + i3 * p.stride_a_3;
    let b = i0 * p.stride_b_0 + i1 * p.stride_b_1 + i2 * p.stride_b_2 + i3 * p.stride_b_3;
    where_out[i] = select(where_b[b], where_a[a], where_c[c] != 0u);
}
