// Random views of images for self-supervised learning: resized crop, flip, colour jitter in random order, grey, Gaussian blur,
// solarisation, normalisation. One invocation draws what is done to a picture; then one per pixel resamples it, changes its
// colours in place, blurs it along rows and along columns. Pixels are vec4 with channels in 0..1; grey pictures fill all three.
const WG_SIZE = 64u;

// Words of a draw.
const IMAGE = 0u;
const TOP = 1u;
const LEFT = 2u;
const HEIGHT = 3u;
const WIDTH = 4u;
const FLAGS = 5u;
const ORDER = 6u;
const FACTORS = 7u;                                                        // brightness, contrast, saturation
const HUE = 10u;
const SIGMA = 11u;
const N_WORDS = 12u;

const FLIP = 1u;
const JITTER = 2u;
const GREY = 4u;
const BLUR = 8u;
const SOLARIZE = 16u;

// ---- draws ----
struct DrawParams {
    n: u32, n_images: u32, height: u32, width: u32,
    key_0: u32, key_1: u32, step: u32, stream: u32, has_counter: u32,
    least_area: u32, area_span: u32,                                       // shares of the image in 2^-24
    n_pixels: u32, half_bits: u32,                                         // pixels times 4^(half_bits + 1)
    middle_place: u32, middle_size: u32,                                   // what is cut where no try fits: y and x, h and w
}
@group(0) @binding(0) var<storage, read> draw_ids: array<u32>;             // [b]
@group(0) @binding(1) var<storage, read> draw_counter: array<u32>;         // [1], or anything
@group(0) @binding(2) var<storage, read> draw_tables: array<u32>;          // numbers, orders, aspects: see the constants
@group(0) @binding(3) var<storage, read_write> draw_out: array<u32>;       // [b, 12]
var<immediate> draw_params: DrawParams;

// Places in the tables.
const LIKELY = 0u;                                                         // of flip, jitter, grey, blur, solarize, in 2^-24
const SPANS = 5u;                                                          // of the four factors of jitter
const SIGMAS = 9u;                                                         // least sigma, span
const ORDERS = 16u;                                                        // 24 orders of four, two bits each
const ASPECTS = 40u;                                                       // 1,024 times sqrt-free w/h and h/w in 2^-16
const N_TRIES = 10u;

fn draw_words(image: u32, call: u32, step: u32) -> vec4<u32> {
    let p = draw_params;
    return philox4x32(vec4<u32>(16u * image + call, 0u, step, p.stream), vec2<u32>(p.key_0, p.key_1));
}

// The largest whole number whose square is at most x.
fn whole_root(x: u32) -> u32 {
    var root = 0u;
    for (var bit = 1u << 15u; bit > 0u; bit >>= 1u) {
        let next = root | bit;
        root = select(root, next, next * next <= x);
    }
    return root;
}

// sqrt(area ratio), rounded, where area holds 4^(half_bits + 1) times the pixels and ratio 2^16 times the ratio.
fn side_of(area: u32, ratio: u32) -> u32 {
    let p = draw_params;
    let product = mul_wide(area, ratio);
    let squared = (product.x << 16u) | (product.y >> 16u);
    return (whole_root(squared) + (1u << p.half_bits)) >> (p.half_bits + 1u);
}

// 1 plus or minus up to the span.
fn factor(word: u32, span: u32) -> u32 {
    let u = f32(word >> 8u) * 5.9604644775390625e-8;
    return bitcast<u32>(1.0 + bitcast<f32>(span) * (2.0 * u - 1.0));
}

@compute @workgroup_size(WG_SIZE)
fn view_draw_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = draw_params;
    let b = thread_id(group, n_groups, local, WG_SIZE);
    if b >= p.n {
        return;
    }
    let id = draw_ids[b];
    let step = p.step + p.has_counter * draw_counter[0];
    let coins = draw_words(id, 0u, step) >> vec4<u32>(8u);
    let others = draw_words(id, 1u, step);
    let colours = draw_words(id, 2u, step);
    var flags = 0u;
    flags |= select(0u, FLIP, coins.x < draw_tables[LIKELY]);
    flags |= select(0u, JITTER, coins.y < draw_tables[LIKELY + 1u]);
    flags |= select(0u, GREY, coins.z < draw_tables[LIKELY + 2u]);
    flags |= select(0u, BLUR, coins.w < draw_tables[LIKELY + 3u]);
    flags |= select(0u, SOLARIZE, (others.x >> 8u) < draw_tables[LIKELY + 4u]);

    var place = vec2<u32>(p.middle_place >> 16u, p.middle_place & 0xffffu);
    var size = vec2<u32>(p.middle_size >> 16u, p.middle_size & 0xffffu);
    for (var i = 0u; i < N_TRIES; i++) {
        let words = draw_words(id, 3u + i, step);
        let share = p.least_area + mul_wide(words.x, p.area_span).x;
        let product = mul_wide(p.n_pixels, share);
        let area = (product.x << 8u) | (product.y >> 24u);
        let at = ASPECTS + 2u * (words.y >> 22u);
        let wanted = vec2<u32>(side_of(area, draw_tables[at + 1u]), side_of(area, draw_tables[at]));
        if all(wanted >= vec2<u32>(1u)) && all(wanted <= vec2<u32>(p.height, p.width)) {
            size = wanted;
            place = vec2<u32>(mul_wide(words.z, p.height - wanted.x + 1u).x, mul_wide(words.w, p.width - wanted.y + 1u).x);
            break;
        }
    }
    let first = b * N_WORDS;
    draw_out[first + IMAGE] = min(id, p.n_images - 1u);
    draw_out[first + TOP] = place.x;
    draw_out[first + LEFT] = place.y;
    draw_out[first + HEIGHT] = size.x;
    draw_out[first + WIDTH] = size.y;
    draw_out[first + FLAGS] = flags;
    draw_out[first + ORDER] = draw_tables[ORDERS + mul_wide(others.z, 24u).x];
    draw_out[first + FACTORS] = factor(others.w, draw_tables[SPANS]);
    draw_out[first + FACTORS + 1u] = factor(colours.x, draw_tables[SPANS + 1u]);
    draw_out[first + FACTORS + 2u] = factor(colours.y, draw_tables[SPANS + 2u]);
    let turn = f32(colours.z >> 8u) * 5.9604644775390625e-8;
    draw_out[first + HUE] = bitcast<u32>(bitcast<f32>(draw_tables[SPANS + 3u]) * (2.0 * turn - 1.0));
    let u = f32(others.y >> 8u) * 5.9604644775390625e-8;
    draw_out[first + SIGMA] = bitcast<u32>(bitcast<f32>(draw_tables[SIGMAS]) + bitcast<f32>(draw_tables[SIGMAS + 1u]) * u);
}

// ---- resampling ----
struct CropParams {
    n: u32, height: u32, width: u32, n_channels: u32,                      // n: pixels of all views
    out_height: u32, out_width: u32, cubic: u32,
}
@group(0) @binding(0) var<storage, read> crop_images: array<u32>;          // bytes [n_images, h, w, c]
@group(0) @binding(1) var<storage, read> crop_draws: array<u32>;           // [b, 12]
@group(0) @binding(2) var<storage, read_write> crop_out: array<vec4<f32>>; // [b, ho, wo]
var<immediate> crop_params: CropParams;

fn crop_byte(at: u32) -> f32 {
    return f32((crop_images[at / 4u] >> (at % 4u * 8u)) & 0xffu);
}

// The triangle, or the cubic of Keys (1981) with a = -1/2, at a distance in pixels of the coarser of both grids.
fn weight(distance: f32) -> f32 {
    let d = abs(distance);
    if crop_params.cubic == 0u {
        return max(1.0 - d, 0.0);
    }
    if d < 1.0 {
        return (1.5 * d - 2.5) * d * d + 1.0;
    }
    return select(((-0.5 * d + 2.5) * d - 4.0) * d + 2.0, 0.0, d >= 2.0);
}

// Input pixels that pixel i of n_out looks at, from first to before end, of n_in.
struct Reach { centre: f32, width: f32, first: u32, end: u32 }

fn reach(i: u32, n_out: u32, n_in: u32) -> Reach {
    let ratio = f32(n_in) / f32(n_out);
    let width = max(ratio, 1.0);
    let support = width * select(1.0, 2.0, crop_params.cubic == 1u);
    let centre = (f32(i) + 0.5) * ratio;
    return Reach(centre, width, u32(max(centre - support + 0.5, 0.0)), min(u32(centre + support + 0.5), n_in));
}

@compute @workgroup_size(WG_SIZE)
fn view_crop_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = crop_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let row = i / p.out_width;
    let b = row / p.out_height;
    let draw = b * N_WORDS;
    let x = i - row * p.out_width;
    let flipped = (crop_draws[draw + FLAGS] & FLIP) != 0u;
    let across = reach(select(x, p.out_width - 1u - x, flipped), p.out_width, crop_draws[draw + WIDTH]);
    let down = reach(row - b * p.out_height, p.out_height, crop_draws[draw + HEIGHT]);
    let first_row = crop_draws[draw + IMAGE] * p.height + crop_draws[draw + TOP];
    var sum = vec3<f32>(0.0);
    var weights = 0.0;
    for (var k = down.first; k < down.end; k++) {
        let by_row = weight((f32(k) + 0.5 - down.centre) / down.width);
        let start = ((first_row + k) * p.width + crop_draws[draw + LEFT]) * p.n_channels;
        for (var j = across.first; j < across.end; j++) {
            let w = by_row * weight((f32(j) + 0.5 - across.centre) / across.width);
            let at = start + j * p.n_channels;
            var pixel = vec3<f32>(crop_byte(at));
            if p.n_channels == 3u {
                pixel = vec3<f32>(pixel.x, crop_byte(at + 1u), crop_byte(at + 2u));
            }
            sum += w * pixel;
            weights += w;
        }
    }
    crop_out[i] = vec4<f32>(clamp(sum / (255.0 * weights), vec3<f32>(0.0), vec3<f32>(1.0)), 0.0);
}

// ---- colours ----
struct ColourParams { n: u32, n_pixels: u32 }                              // n: views or pixels of all; n_pixels: of a view
@group(0) @binding(0) var<storage, read> mean_x: array<vec4<f32>>;         // [b, n_pixels]
@group(0) @binding(1) var<storage, read> colour_draws: array<u32>;         // [b, 12]
@group(0) @binding(2) var<storage, read_write> mean_out: array<f32>;       // [b]: mean grey when contrast's turn comes

@group(0) @binding(0) var<storage, read> colour_means: array<f32>;         // [b]
@group(0) @binding(2) var<storage, read_write> colour_x: array<vec4<f32>>; // [b, n_pixels]
var<immediate> colour_params: ColourParams;

var<workgroup> sh_means: array<f32, WG_SIZE>;

// Luma of ITU-R BT.601.
fn grey(rgb: vec3<f32>) -> f32 {
    return dot(rgb, vec3<f32>(0.299, 0.587, 0.114));
}

// The colour circle turned by a share of a whole turn.
fn turned(rgb: vec3<f32>, turn: f32) -> vec3<f32> {
    let high = max(max(rgb.x, rgb.y), rgb.z);
    let low = min(min(rgb.x, rgb.y), rgb.z);
    let chroma = high - low;
    if chroma <= 0.0 {
        return rgb;
    }
    var sixths = 4.0 + (rgb.x - rgb.y) / chroma;
    if rgb.x == high {
        sixths = (rgb.y - rgb.z) / chroma;
    } else if rgb.y == high {
        sixths = 2.0 + (rgb.z - rgb.x) / chroma;
    }
    let hue = sixths / 6.0 + turn;
    // How far each of red, green and blue is from its own place on the circle.
    let away = abs(fract(vec3<f32>(hue) + vec3<f32>(1.0, 2.0 / 3.0, 1.0 / 3.0)) * 6.0 - 3.0);
    return low + chroma * clamp(away - 1.0, vec3<f32>(0.0), vec3<f32>(1.0));
}

// One change of jitter: 0 brightness, 1 contrast, 2 saturation, 3 hue.
fn jittered(rgb: vec3<f32>, change: u32, draw: u32, mean: f32) -> vec3<f32> {
    if change == 3u {
        return turned(rgb, bitcast<f32>(colour_draws[draw + HUE]));
    }
    let share = bitcast<f32>(colour_draws[draw + FACTORS + change]);
    let other = select(select(0.0, mean, change == 1u), grey(rgb), change == 2u);
    return clamp(share * rgb + (1.0 - share) * other, vec3<f32>(0.0), vec3<f32>(1.0));
}

@compute @workgroup_size(WG_SIZE)
fn view_mean_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = colour_params;
    let b = group_id(group, n_groups);
    var sum = 0.0;
    if b < p.n && (colour_draws[b * N_WORDS + FLAGS] & JITTER) != 0u {
        let draw = b * N_WORDS;
        let order = colour_draws[draw + ORDER];
        for (var i = local; i < p.n_pixels; i += WG_SIZE) {
            var rgb = mean_x[b * p.n_pixels + i].xyz;
            for (var turn = 0u; turn < 4u; turn++) {
                let change = (order >> (2u * turn)) & 3u;
                if change == 1u {
                    break;
                }
                rgb = jittered(rgb, change, draw, 0.0);
            }
            sum += grey(rgb);
        }
    }
    sh_means[local] = sum;
    for (var half = WG_SIZE / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            sh_means[local] += sh_means[local + half];
        }
    }
    if local == 0u && b < p.n {
        mean_out[b] = sh_means[0] / f32(p.n_pixels);
    }
}

@compute @workgroup_size(WG_SIZE)
fn view_colour_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                   @builtin(local_invocation_index) local: u32) {
    let p = colour_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let b = i / p.n_pixels;
    let draw = b * N_WORDS;
    let flags = colour_draws[draw + FLAGS];
    if (flags & (JITTER | GREY)) == 0u {
        return;
    }
    var rgb = colour_x[i].xyz;
    if (flags & JITTER) != 0u {
        let order = colour_draws[draw + ORDER];
        for (var turn = 0u; turn < 4u; turn++) {
            rgb = jittered(rgb, (order >> (2u * turn)) & 3u, draw, colour_means[b]);
        }
    }
    if (flags & GREY) != 0u {
        rgb = vec3<f32>(grey(rgb));
    }
    colour_x[i] = vec4<f32>(rgb, 0.0);
}

// ---- blur, and the end ----
struct BlurParams { n: u32, height: u32, width: u32, n_channels: u32, has_blur: u32 }
@group(0) @binding(0) var<storage, read> rows_x: array<vec4<f32>>;         // [b, h, w]
@group(0) @binding(1) var<storage, read> blur_draws: array<u32>;           // [b, 12]
@group(0) @binding(2) var<storage, read_write> rows_out: array<vec4<f32>>; // [b, h, w]; only where a view is blurred

@group(0) @binding(2) var<storage, read> ends_rows: array<vec4<f32>>;      // [b, h, w]: blurred along rows
@group(0) @binding(3) var<storage, read> ends_scale: array<f32>;           // [c], for bytes
@group(0) @binding(4) var<storage, read> ends_shift: array<f32>;           // [c]
@group(0) @binding(5) var<storage, read_write> ends_out: array<Elem>;      // [b, h, w, c]
var<immediate> blur_params: BlurParams;

// How many pixels to each side count, and what a distance of 1 takes from the logarithm of a weight.
fn blur_radius(sigma: f32) -> i32 {
    return i32(ceil(3.0 * sigma));
}

fn blur_decay(sigma: f32) -> f32 {
    return -0.5 / max(sigma * sigma, 1e-12);
}

@compute @workgroup_size(WG_SIZE)
fn view_rows_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = blur_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let row = i / p.width;
    let draw = row / p.height * N_WORDS;
    if (blur_draws[draw + FLAGS] & BLUR) == 0u {
        return;
    }
    let sigma = bitcast<f32>(blur_draws[draw + SIGMA]);
    let radius = blur_radius(sigma);
    let x = i32(i - row * p.width);
    var sum = vec4<f32>(0.0);
    var weights = 0.0;
    for (var j = -radius; j <= radius; j++) {
        let w = exp(blur_decay(sigma) * f32(j * j));
        sum += w * rows_x[row * p.width + u32(clamp(x + j, 0, i32(p.width) - 1))];
        weights += w;
    }
    rows_out[i] = sum / weights;
}

@compute @workgroup_size(WG_SIZE)
fn view_ends_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = blur_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let row = i / p.width;
    let b = row / p.height;
    let draw = b * N_WORDS;
    let flags = blur_draws[draw + FLAGS];
    var rgb = vec4<f32>(0.0);
    if p.has_blur != 0u && (flags & BLUR) != 0u {
        let sigma = bitcast<f32>(blur_draws[draw + SIGMA]);
        let radius = blur_radius(sigma);
        let y = i32(row - b * p.height);
        let column = i - row * p.width;
        var weights = 0.0;
        for (var k = -radius; k <= radius; k++) {
            let w = exp(blur_decay(sigma) * f32(k * k));
            let at_row = b * p.height + u32(clamp(y + k, 0, i32(p.height) - 1));
            rgb += w * ends_rows[at_row * p.width + column];
            weights += w;
        }
        rgb /= weights;
    } else {
        rgb = rows_x[i];
    }
    if (flags & SOLARIZE) != 0u {
        rgb = select(rgb, 1.0 - rgb, rgb >= vec4<f32>(0.5));
    }
    let bytes = 255.0 * rgb;
    let first = i * p.n_channels;
    ends_out[first] = Elem(bytes.x * ends_scale[0] + ends_shift[0]);
    if p.n_channels == 3u {
        ends_out[first + 1u] = Elem(bytes.y * ends_scale[1] + ends_shift[1]);
        ends_out[first + 2u] = Elem(bytes.z * ends_scale[2] + ends_shift[2]);
    }
}
