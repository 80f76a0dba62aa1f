// Pooling over windows of images [n, h, w, c] to [n, ho, wo, c].
// Plain kernels compute one element per invocation; the others four channels, of windows four neighbours of a row.
//   max   out = max over the window's pixels in the image; NaN wins, as in PyTorch
//   avg   out = sum over the window's pixels in the image / (pixels of the window, or those in the image)
override WG_SIZE: u32 = 64u;
override OP: u32 = 0u;      // 0 max, 1 average over the whole window, 2 average over the window's pixels in the image
struct PoolParams {
    n_rows: u32,                              // n ho
    h: u32, w: u32, c: u32,
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
    if i >= p.n_rows * p.wo * p.c {
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

// ---- four channels of four neighbours in a row; c % 4 = 0 ----
@group(0) @binding(0) var<storage, read> pool_x4: array<Elem4>;
@group(0) @binding(1) var<storage, read_write> pool_out4: array<Elem4>;

fn pool_add(sum: vec4<f32>, row: u32, column: u32, c: u32, is_first: bool) -> vec4<f32> {
    let p = pool_params;
    // At most half of a window lies outside, so the nearest pixel of the image is one of its own: for a maximum it may
    // stand in for those outside.
    let y = clamp(bitcast<i32>(row), 0, i32(p.h) - 1);
    let x = clamp(bitcast<i32>(column), 0, i32(p.w) - 1);
    let value = vec4<f32>(pool_x4[(u32(y) * p.w + u32(x)) * (p.c / 4u) + c]);
    if OP == 0u {
        let nan = (bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
        return select(sum, value, (value > sum) | nan | vec4<bool>(is_first));
    }
    return sum + select(vec4<f32>(0.0), value, row < p.h && column < p.w);
}

// How many of the window's pixels lie in the image along one axis, or the window's size where padding counts.
fn pool_count(start: u32, kernel: u32, size: u32) -> f32 {
    let inside = min(bitcast<i32>(start) + i32(kernel), i32(size)) - max(bitcast<i32>(start), 0);
    return f32(select(i32(kernel), inside, OP == 2u));
}

@compute @workgroup_size(WG_SIZE)
fn pool_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = pool_params;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let c4 = p.c / 4u;
    let tiles = (p.wo + 3u) / 4u;
    let tile = id / c4;
    let row = tile / tiles;
    if row >= p.n_rows {
        return;
    }
    let column = (tile - row * tiles) * 4u;
    let image = row / p.ho;
    let kernel = pool_pair(p.kernel);
    let step = pool_pair(p.stride).y;
    let start = vec2<u32>(row - image * p.ho, column) * pool_pair(p.stride) - pool_pair(p.padding);
    let c = id - tile * c4 + image * p.h * p.w * c4;
    var sum = array<vec4<f32>, 4>();
    for (var r = 0u; r < kernel.x; r++) {
        for (var s = 0u; s < kernel.y; s++) {
            let at = start + vec2<u32>(r, s);
            let is_first = (r | s) == 0u;
            sum[0] = pool_add(sum[0], at.x, at.y, c, is_first);
            sum[1] = pool_add(sum[1], at.x, at.y + step, c, is_first);
            sum[2] = pool_add(sum[2], at.x, at.y + 2u * step, c, is_first);
            sum[3] = pool_add(sum[3], at.x, at.y + 3u * step, c, is_first);
        }
    }
    let rows = pool_count(start.x, kernel.x, p.h);
    let at = (row * p.wo + column) * c4 + id - tile * c4;
    pool_put(at, sum[0], rows * pool_count(start.y, kernel.y, p.w));
    if column + 1u < p.wo {
        pool_put(at + c4, sum[1], rows * pool_count(start.y + step, kernel.y, p.w));
    }
    if column + 2u < p.wo {
        pool_put(at + 2u * c4, sum[2], rows * pool_count(start.y + 2u * step, kernel.y, p.w));
    }
    if column + 3u < p.wo {
        pool_put(at + 3u * c4, sum[3], rows * pool_count(start.y + 3u * step, kernel.y, p.w));
    }
}

fn pool_put(at: u32, sum: vec4<f32>, count: f32) {
    if OP == 0u {
        pool_out4[at] = Elem4(sum);
    } else {
        pool_out4[at] = Elem4(sum / count);
    }
}

// ---- gradients: an input pixel takes from the windows over it; n_rows = n h ----
@group(0) @binding(0) var<storage, read> pool_bwd_d_out: array<Elem>;          // [n, ho, wo, c]
@group(0) @binding(1) var<storage, read> pool_bwd_index: array<u32>;           // [n, ho, wo, c], of a maximum: its y w + x
@group(0) @binding(2) var<storage, read_write> pool_bwd_d_x: array<Elem>;      // [n, h, w, c]
@group(0) @binding(0) var<storage, read> pool_bwd_d_out4: array<Elem4>;
@group(0) @binding(1) var<storage, read> pool_bwd_index4: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> pool_bwd_d_x4: array<Elem4>;

// The first window over a row or column, and past the last: none where they are equal, or the first is larger.
fn pool_over(at: u32, kernel: u32, stride: u32, padding: u32, n_out: u32) -> vec2<u32> {
    let padded = at + padding;
    let first = select(0u, (padded - kernel) / stride + 1u, padded >= kernel);
    return vec2<u32>(first, min(padded / stride + 1u, n_out));
}

@compute @workgroup_size(WG_SIZE)
fn pool_plain_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = pool_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_rows * p.w * p.c {
        return;
    }
    let kernel = pool_pair(p.kernel);
    let stride = pool_pair(p.stride);
    let padding = pool_pair(p.padding);
    let pixel = i / p.c;
    let row = pixel / p.w;
    let image = row / p.h;
    let at = vec2<u32>(row - image * p.h, pixel - row * p.w);
    let rows = pool_over(at.x, kernel.x, stride.x, padding.x, p.ho);
    let columns = pool_over(at.y, kernel.y, stride.y, padding.y, p.wo);
    let here = at.x * p.w + at.y;
    var sum = 0.0;
    for (var y = rows.x; y < rows.y; y++) {
        let high = pool_count(y * stride.x - padding.x, kernel.x, p.h);
        for (var x = columns.x; x < columns.y; x++) {
            let window = ((image * p.ho + y) * p.wo + x) * p.c + i - pixel * p.c;
            let d = f32(pool_bwd_d_out[window]);
            if OP == 0u {
                sum += select(0.0, d, pool_bwd_index[window] == here);
            } else {
                sum += d / (high * pool_count(x * stride.y - padding.y, kernel.y, p.w));
            }
        }
    }
    pool_bwd_d_x[i] = Elem(sum);
}

// ---- four channels; c % 4 = 0 ----
@compute @workgroup_size(WG_SIZE)
fn pool_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = pool_params;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let c4 = p.c / 4u;
    let pixel = id / c4;
    let row = pixel / p.w;
    if row >= p.n_rows {
        return;
    }
    let kernel = pool_pair(p.kernel);
    let stride = pool_pair(p.stride);
    let padding = pool_pair(p.padding);
    let image = row / p.h;
    let at = vec2<u32>(row - image * p.h, pixel - row * p.w);
    let rows = pool_over(at.x, kernel.x, stride.x, padding.x, p.ho);
    let columns = pool_over(at.y, kernel.y, stride.y, padding.y, p.wo);
    let here = vec4<u32>(at.x * p.w + at.y);
    var sum = vec4<f32>(0.0);
    for (var y = rows.x; y < rows.y; y++) {
        let high = pool_count(y * stride.x - padding.x, kernel.x, p.h);
        for (var x = columns.x; x < columns.y; x++) {
            let window = ((image * p.ho + y) * p.wo + x) * c4 + id - pixel * c4;
            let d = vec4<f32>(pool_bwd_d_out4[window]);
            if OP == 0u {
                sum += select(vec4<f32>(0.0), d, pool_bwd_index4[window] == here);
            } else {
                sum += d / (high * pool_count(x * stride.y - padding.y, kernel.y, p.w));
            }
        }
    }
    pool_bwd_d_x4[id] = Elem4(sum);
}

// ---- where a maximum stands, the first of equal ones in row-major order; n_rows = n ho ----
@group(0) @binding(1) var<storage, read_write> pool_index_out: array<u32>;
@group(0) @binding(1) var<storage, read_write> pool_index_out4: array<vec4<u32>>;

@compute @workgroup_size(WG_SIZE)
fn pool_index_plain_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                        @builtin(local_invocation_index) local: u32) {
    let p = pool_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n_rows * p.wo * p.c {
        return;
    }
    let window = pool_window(i);
    var index = window.lo.x * p.w + window.lo.y;
    var best = f32(pool_x[window.base + index * p.c]);
    for (var y = window.lo.x; y < window.hi.x; y++) {
        for (var x = window.lo.y; x < window.hi.y; x++) {
            let here = y * p.w + x;
            let value = f32(pool_x[window.base + here * p.c]);
            let wins = value > best || pool_is_nan(value);
            best = select(best, value, wins);
            index = select(index, here, wins);
        }
    }
    pool_index_out[i] = index;
}

@compute @workgroup_size(WG_SIZE)
fn pool_index_vec4_bwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                       @builtin(local_invocation_index) local: u32) {
    let p = pool_params;
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let c4 = p.c / 4u;
    if id >= p.n_rows * p.wo * c4 {
        return;
    }
    let window = pool_window(id * 4u);
    var index = vec4<u32>(window.lo.x * p.w + window.lo.y);
    var best = vec4<f32>(pool_x4[window.base / 4u + index.x * c4]);
    for (var y = window.lo.x; y < window.hi.x; y++) {
        for (var x = window.lo.y; x < window.hi.y; x++) {
            let here = y * p.w + x;
            let value = vec4<f32>(pool_x4[window.base / 4u + here * c4]);
            let nan = (bitcast<vec4<u32>>(value) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
            let wins = (value > best) | nan;
            best = select(best, value, wins);
            index = select(index, vec4<u32>(here), wins);
        }
    }
    pool_index_out4[id] = index;
}
