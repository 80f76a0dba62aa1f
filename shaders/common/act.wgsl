// Activations, shared by every kernel that applies one to its result. The kinds are those of `Act` in Rust.

// Error function, Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
fn erf4(x: vec4<f32>) -> vec4<f32> {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    // Past 6 the result is 1 to the last bit, and the exponent of the square could overflow.
    let c = min(a, vec4<f32>(6.0));
    return sign(x) * (1.0 - poly * exp(-c * c));
}

fn sigmoid4(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-clamp(x, vec4<f32>(-80.0), vec4<f32>(80.0))));
}

// Some drivers compute tanh from exponentials that overflow; past 15 it is 1 to the last bit.
fn tanh4(x: vec4<f32>) -> vec4<f32> {
    return tanh(clamp(x, vec4<f32>(-15.0), vec4<f32>(15.0)));
}

fn activate4(kind: u32, x: vec4<f32>) -> vec4<f32> {
    switch kind {
        case 1u: { return max(x, vec4<f32>(0.0)); }                                             // relu
        case 2u: { return clamp(x, vec4<f32>(0.0), vec4<f32>(6.0)); }                           // relu6
        case 3u: { return 0.5 * x * (1.0 + erf4(x * 0.70710678)); }                             // gelu
        case 4u: { return 0.5 * x * (1.0 + tanh4(0.79788456 * (x + 0.044715 * x * x * x))); }   // gelu_tanh
        case 5u: { return x * sigmoid4(x); }                                                    // silu
        case 6u: { return sigmoid4(x); }                                                        // sigmoid
        case 7u: { return tanh4(x); }                                                           // tanh
        case 8u: { return x * clamp(x + 3.0, vec4<f32>(0.0), vec4<f32>(6.0)) * (1.0 / 6.0); }   // hardswish
        default: { return x; }
    }
}

fn activate(kind: u32, x: f32) -> f32 {
    return activate4(kind, vec4<f32>(x)).x;
}

// Derivatives: from the result where it fixes them (relu, relu6, sigmoid, tanh), else from the argument. At a kink, as
// PyTorch has it: 0 for relu and relu6, the inner side for hardswish.
fn act_derivative4(kind: u32, s: vec4<f32>) -> vec4<f32> {
    let zero = vec4<f32>(0.0);
    let one = vec4<f32>(1.0);
    switch kind {
        case 1u: { return select(zero, one, s > zero); }
        case 2u: { return select(zero, one, (s > zero) & (s < vec4<f32>(6.0))); }
        case 3u: { return 0.5 * (1.0 + erf4(s * 0.70710678)) + s * 0.39894228 * exp(-0.5 * min(s * s, vec4<f32>(160.0))); }
        case 4u: {
            let t = tanh4(0.79788456 * (s + 0.044715 * s * s * s));
            let inner = 0.79788456 * (1.0 + 0.134145 * s * s);
            return 0.5 * (1.0 + t) + 0.5 * s * (1.0 - t * t) * inner;
        }
        case 5u: {
            let y = sigmoid4(s);
            return y * (1.0 + s * (1.0 - y));
        }
        case 6u: { return s * (1.0 - s); }
        case 7u: { return 1.0 - s * s; }
        case 8u: { return select(select((2.0 * s + 3.0) * (1.0 / 6.0), one, s > vec4<f32>(3.0)), zero, s < vec4<f32>(-3.0)); }
        default: { return one; }
    }
}
