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
