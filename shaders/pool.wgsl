// Pooling over windows of images [n, h, w, c] to [n, ho, wo, c], and over whole images to [n, c].
//   max   out = max over the window's pixels in the image; NaN wins, as in PyTorch
//   avg   out = sum over the window's pixels in the image / (pixels of the window, or those in the image)
override WG_SIZE: u32 = 64u;
override OP: u32 = 0u;      // 0 max, 1 average over the whole window, 2 average over the window's pixels in the image
struct PoolParams {
    n_out: u32,                               // elements, or vec4
    h: u32, w: u32, c: u32,                   // c in elements, or vec4
    ho: u32, wo: u32,
    kernel: u32, stride: u32, padding: u32,   // pairs: height in the low half, width in the high half
}
var<immediate> pool_params: PoolParams;

fn pool_pair(packed: u32) -> vec2<u32> {
    return vec2<u32>(packed & 0xffffu, packed >> 16u);
}

// The window of one output element: its rows and columns inside the image, and its first element.
struct PoolWindow { lo: vec2<u32>, hi: vec2<u32>, base: u32, scale: f32 }

fn pool_window(i: u32) -> PoolWindow {
    let p = pool_params;
    let pixel = i / p.c;
    let kernel = pool_pair(p.kernel);
    let padding = pool_pair(p.padding);
    let size = vec2<u32>(p.h, p.w);
    let at = vec2<u32>(pixel / p.wo % p.ho, pixel % p.wo) * pool_pair(p.stride);
    var window: PoolWindow;
    window.lo = max(at, padding) - padding;
    window.hi = min(at + kernel - padding, size);
    window.base = pixel / (p.ho * p.wo) * p.h * p.w * p.c + i % p.c;
    let inside = window.hi - window.lo;
    let n = select(kernel.x * kernel.y, inside.x * inside.y, OP == 2u);
    window.scale = 1.0 / f32(n);
    return window;
}

// By its bits: compilers may take value != value for false.
fn pool_is_nan(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
}

// ---- plain: one invocation per element ----
@group(0) @binding(0) var<storage, read> pool_x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> pool_out: array<Elem>;

@compute @workgroup_size(WG_SIZE)
fn pool_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = pool_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_out {
        return;
    }
    let window = pool_window(i);
    // A window always holds a pixel of the image, so the maximum can start there.
    var sum = 0.0;
    if OP == 0u {
        sum = f32(pool_x[window.base + (window.lo.x * p.w + window.lo.y) * p.c]);
    }
    for (var y = window.lo.x; y < window.hi.x; y++) {
        for (var x = window.lo.y; x < window.hi.y; x++) {
            let value = f32(pool_x[window.base + (y * p.w + x) * p.c]);
            if OP == 0u {
                sum = select(sum, value, value > sum || pool_is_nan(value));
            } else {
                sum += value;
            }
        }
    }
    if OP != 0u {
        sum *= window.scale;
    }
    pool_out[i] = Elem(sum);
}

// ---- whole images: one invocation per image and channel ----
struct GlobalAvgParams { n_out: u32, h: u32, w: u32, c: u32 }
@group(0) @binding(0) var<storage, read> global_avg_x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> global_avg_out: array<Elem>;
var<immediate> global_avg_params: GlobalAvgParams;

@compute @workgroup_size(WG_SIZE)
fn global_avg_plain_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let p = global_avg_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_out {
        return;
    }
    var at = i / p.c * p.h * p.w * p.c + i % p.c;
    // Row sums first: rounding grows with h + w, not with h w.
    var sum = 0.0;
    for (var y = 0u; y < p.h; y++) {
        var row = 0.0;
        for (var x = 0u; x < p.w; x++) {
            row += f32(global_avg_x[at]);
            at += p.c;
        }
        sum += row;
    }
    global_avg_out[i] = Elem(sum / f32(p.h * p.w));
}
