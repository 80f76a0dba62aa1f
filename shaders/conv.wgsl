// Two-dimensional convolution, images [n, h, w, ci], weights [kh, kw, ci / groups, co], out [n, ho, wo, co]:
//   out[n, y, x, o] = act(bias[o] + residual[n, y, x, o]
//                         + sum over r, s, c of x[n, y sh - ph + r dh, x sw - pw + s dw, c] w[r, s, c, o])
// with zeros outside the image and c over the channels of o's group.
struct ConvParams {
    n_pixels: u32,                         // n ho wo
    h: u32, w: u32, ci: u32,
    ho: u32, wo: u32, co: u32,
    ci_group: u32, co_group: u32,          // channels of a group
    kernel: u32, stride: u32,              // pairs: height in the low half, width in the high half
    padding: u32, dilation: u32,
    operands: u32,                         // 1: there is a bias, 2: there is a residual
    act: u32,
}
const BIAS: u32 = 1u;
const RESIDUAL: u32 = 2u;
var<immediate> conv_params: ConvParams;

fn conv_pair(packed: u32) -> vec2<u32> {
    return vec2<u32>(packed & 0xffffu, packed >> 16u);
}

// ---- plain: one invocation per output element, any shape ----
override WG_SIZE: u32 = 64u;
@group(0) @binding(0) var<storage, read> conv_x: array<Elem>;          // [n, h, w, ci]
@group(0) @binding(1) var<storage, read> conv_w: array<Elem>;          // [kh, kw, ci_group, co]
@group(0) @binding(2) var<storage, read> conv_bias: array<Elem>;       // [co]
@group(0) @binding(3) var<storage, read> conv_residual: array<Elem>;   // [n, ho, wo, co]
@group(0) @binding(4) var<storage, read_write> conv_out: array<Elem>;  // [n, ho, wo, co]

@compute @workgroup_size(WG_SIZE)
fn conv_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = conv_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_pixels * p.co {
        return;
    }
    let o = i % p.co;
    let pixel = i / p.co;
    let kernel = conv_pair(p.kernel);
    let dilation = conv_pair(p.dilation);
    // Positions left of and above the image wrap to large numbers, so one comparison sees both sides.
    let start = vec2<u32>(pixel / p.wo % p.ho, pixel % p.wo) * conv_pair(p.stride) - conv_pair(p.padding);
    let image = pixel / (p.ho * p.wo) * p.h * p.w;
    let first = o / p.co_group * p.ci_group;
    var sum = 0.0;
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let at = start + vec2<u32>(r, s) * dilation;
            if at.x < p.h && at.y < p.w {
                let x = (image + at.x * p.w + at.y) * p.ci + first;
                let w = (r * kernel.y + s) * p.ci_group * p.co + o;
                for (var c = 0u; c < p.ci_group; c++) {
                    sum += f32(conv_x[x + c]) * f32(conv_w[w + c * p.co]);
                }
            }
        }
    }
    if (p.operands & BIAS) != 0u {
        sum += f32(conv_bias[o]);
    }
    if (p.operands & RESIDUAL) != 0u {
        sum += f32(conv_residual[i]);
    }
    conv_out[i] = Elem(activate(p.act, sum));
}
