// Rotary positions: pair i of a head's elements, (a, b), turns by the angle t = position base^(-2 i / d):
// (a cos t - b sin t, a sin t + b cos t). One invocation turns one pair (plain) or four (vec4) of one token, in several
// heads, whose angles are the same.
// Angles are whole numbers of 2^-32 turns, the product of a position and a frequency of 64 bits, exact up to position 2^24.
const WG_SIZE = 64u;
override HALVES: u32 = 0u;       // pairs are elements (2 i, 2 i + 1) if 0, (i, i + d / 2) if 1

struct RotaryParams {
    n: u32,              // invocations
    n_units: u32,        // of a head: pairs, or fours of them
    n_heads: u32,
    heads_each: u32,
    n_shares: u32,       // invocations that share the heads
    start: u32,          // of x, and strides, in elements
    stride_token: u32,
    stride_head: u32,
    stride_element: u32,
    back: u32,           // 1: by the negative angle
}
var<immediate> rotary_params: RotaryParams;
@group(0) @binding(1) var<storage, read> rotary_positions: array<u32>;    // [n_tokens]

// The high words of a b, from products of 16-bit halves.
fn high_words(a: u32, b: vec4<u32>) -> vec4<u32> {
    let a_low = vec4<u32>(a & 0xffffu);
    let a_high = vec4<u32>(a >> 16u);
    let b_low = b & vec4<u32>(0xffffu);
    let b_high = b >> vec4<u32>(16u);
    let cross = a_low * b_high;
    let middle = ((a_low * b_low) >> vec4<u32>(16u)) + (cross & vec4<u32>(0xffffu)) + a_high * b_low;
    return a_high * b_high + (cross >> vec4<u32>(16u)) + (middle >> vec4<u32>(16u));
}

struct Angles { cosine: vec4<f32>, sine: vec4<f32> }

// Cosine and sine of position * frequency / 2^64 turns, error below 2e-7 on any adapter; the built-in ones may be off by
// 2^-11 and more at large angles.
fn angles(position: u32, high: vec4<u32>, low: vec4<u32>) -> Angles {
    let forth = position * high + high_words(position, low);
    let turn = select(forth, ~forth + vec4<u32>(1u), rotary_params.back != 0u);
    // To the nearest quarter, and what is left: at most an eighth of a turn, in radians.
    let quarter = (turn + vec4<u32>(1u << 29u)) >> vec4<u32>(30u);
    let t = vec4<f32>(bitcast<vec4<i32>>(turn - (quarter << vec4<u32>(30u)))) * 1.4629180792671596e-9;
    let q = t * t;
    let s = t * (1.0 + q * (-0.1666666667 + q * (8.3333333e-3 + q * (-1.98412698e-4 + q * 2.7557319e-6))));
    let c = 1.0 + q * (-0.5 + q * (0.0416666667 + q * (-1.38888889e-3 + q * 2.48015873e-5)));
    let odd = (quarter & vec4<u32>(1u)) == vec4<u32>(1u);
    let x = select(c, s, odd);
    let y = select(s, c, odd);
    // Quarters 1 and 2 lie left, 2 and 3 below.
    let left = ((quarter + vec4<u32>(1u)) & vec4<u32>(2u)) == vec4<u32>(2u);
    let below = (quarter & vec4<u32>(2u)) == vec4<u32>(2u);
    return Angles(select(x, -x, left), select(y, -y, below));
}

// What an invocation works on.
struct Share { unit: u32, token: u32, first_head: u32, end_head: u32 }

fn share(i: u32) -> Share {
    let p = rotary_params;
    let rest = i / p.n_units;
    let first = rest % p.n_shares * p.heads_each;
    return Share(i % p.n_units, rest / p.n_shares, first, min(first + p.heads_each, p.n_heads));
}

// ---- plain: any strides ----
@group(0) @binding(0) var<storage, read> plain_x: array<Elem>;               // [n_tokens, n_heads, d]
@group(0) @binding(2) var<storage, read> plain_frequencies: array<u32>;      // [2, d / 2]: high words, low words
@group(0) @binding(3) var<storage, read_write> plain_out: array<Elem>;       // [n_tokens, n_heads, d]

@compute @workgroup_size(WG_SIZE)
fn rotary_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = rotary_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let mine = share(i);
    let high = plain_frequencies[mine.unit];
    let low = plain_frequencies[p.n_units + mine.unit];
    let turned = angles(rotary_positions[mine.token], vec4<u32>(high), vec4<u32>(low));
    let c = turned.cosine.x;
    let s = turned.sine.x;
    let first = select(2u * mine.unit, mine.unit, HALVES != 0u);
    let second = first + select(1u, p.n_units, HALVES != 0u);
    for (var head = mine.first_head; head < mine.end_head; head++) {
        let at = p.start + mine.token * p.stride_token + head * p.stride_head;
        let a = f32(plain_x[at + first * p.stride_element]);
        let b = f32(plain_x[at + second * p.stride_element]);
        let to = (mine.token * p.n_heads + head) * 2u * p.n_units;
        plain_out[to + first] = Elem(a * c - b * s);
        plain_out[to + second] = Elem(a * s + b * c);
    }
}

// ---- vec4: a head's elements lie side by side, d is a multiple of 8, and so are starts and strides of 4 ----
@group(0) @binding(0) var<storage, read> rotary_x: array<Elem4>;                  // [n_tokens, n_heads, d]
@group(0) @binding(2) var<storage, read> rotary_frequencies: array<vec4<u32>>;    // [2, d / 2]
@group(0) @binding(3) var<storage, read_write> rotary_out: array<Elem4>;          // [n_tokens, n_heads, d]

@compute @workgroup_size(WG_SIZE)
fn rotary_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = rotary_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let mine = share(i);
    let high = rotary_frequencies[mine.unit];
    let low = rotary_frequencies[p.n_units + mine.unit];
    let turned = angles(rotary_positions[mine.token], high, low);
    let c = turned.cosine;
    let s = turned.sine;
    let first = select(2u * mine.unit, mine.unit, HALVES != 0u);
    let second = first + select(1u, p.n_units, HALVES != 0u);
    for (var head = mine.first_head; head < mine.end_head; head++) {
        let at = (p.start + mine.token * p.stride_token + head * p.stride_head) / 4u;
        let x = vec4<f32>(rotary_x[at + first]);
        let y = vec4<f32>(rotary_x[at + second]);
        let to = (mine.token * p.n_heads + head) * 2u * p.n_units;
        if HALVES != 0u {
            rotary_out[to + first] = Elem4(x * c - y * s);
            rotary_out[to + second] = Elem4(x * s + y * c);
        } else {
            let a = vec4<f32>(x.xz, y.xz);
            let b = vec4<f32>(x.yw, y.yw);
            let left = a * c - b * s;
            let right = a * s + b * c;
            rotary_out[to + first] = Elem4(vec4<f32>(left.x, right.x, left.y, right.y));
            rotary_out[to + second] = Elem4(vec4<f32>(left.z, right.z, left.w, right.w));
        }
    }
}
