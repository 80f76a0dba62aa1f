// Random crops and flips of images picked from a set, normalised: out_b(y, x) = scale image(y + dy - pad, x' + dx - pad) + shift,
// x' = w - 1 - x where the picture is flipped, black (byte 0) outside the image. One invocation draws a picture's choice; one
// computes four neighbouring elements of the batch, which may lie in several pixels and pictures.
const WG_SIZE = 64u;

struct ChoiceParams {
    n: u32, n_images: u32, n_shifts: u32, flips: u32, key_0: u32, key_1: u32, step: u32, stream: u32, has_counter: u32,
}
@group(0) @binding(0) var<storage, read> choice_ids: array<u32>;                       // [b]
@group(0) @binding(1) var<storage, read> choice_counter: array<u32>;                   // [1], or anything
@group(0) @binding(2) var<storage, read_write> choice_out: array<vec4<u32>>;           // [b]: image, dy, dx, 1 where flipped
var<immediate> choice_params: ChoiceParams;

@compute @workgroup_size(WG_SIZE)
fn choice_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
              @builtin(local_invocation_index) local: u32) {
    let p = choice_params;
    let b = thread_id(group, n_groups, local, WG_SIZE);
    if b >= p.n {
        return;
    }
    let step = p.step + p.has_counter * choice_counter[0];
    let words = philox4x32(vec4<u32>(b, 0u, step, p.stream), vec2<u32>(p.key_0, p.key_1));
    let dy = mul_wide(words.x, p.n_shifts).x;
    let dx = mul_wide(words.y, p.n_shifts).x;
    choice_out[b] = vec4<u32>(min(choice_ids[b], p.n_images - 1u), dy, dx, (words.z >> 31u) & p.flips);
}

struct CropParams { n: u32, height: u32, width: u32, n_channels: u32, pad: u32 }           // n: elements of the batch
@group(0) @binding(0) var<storage, read> crop_images: array<u32>;                      // bytes [n_images, h, w, c]
@group(0) @binding(1) var<storage, read> crop_choice: array<vec4<u32>>;                // [b]
@group(0) @binding(2) var<storage, read> crop_scale: array<f32>;                       // [c]
@group(0) @binding(3) var<storage, read> crop_shift: array<f32>;                       // [c]
@group(0) @binding(4) var<storage, read_write> crop_out: array<Elem4>;                 // [b, h, w, c]
var<immediate> crop_params: CropParams;

struct Place { b: u32, y: u32, x: u32, c: u32 }

// The element behind: no division.
fn next(place: Place) -> Place {
    let p = crop_params;
    let c_ends = place.c + 1u == p.n_channels;
    let x_ends = c_ends && place.x + 1u == p.width;
    let y_ends = x_ends && place.y + 1u == p.height;
    return Place(select(place.b, place.b + 1u, y_ends),
                 select(select(place.y, place.y + 1u, x_ends), 0u, y_ends),
                 select(select(place.x, place.x + 1u, c_ends), 0u, x_ends),
                 select(place.c + 1u, 0u, c_ends));
}

fn pixel(place: Place) -> f32 {
    let p = crop_params;
    let choice = crop_choice[place.b];
    // Differences below 0 wrap to values that lie outside.
    let y = place.y + choice.y - p.pad;
    let x = select(place.x, p.width - 1u - place.x, choice.w == 1u) + choice.z - p.pad;
    var byte = 0u;
    if y < p.height && x < p.width {
        let at = ((choice.x * p.height + y) * p.width + x) * p.n_channels + place.c;
        byte = (crop_images[at / 4u] >> (at % 4u * 8u)) & 0xffu;
    }
    return f32(byte) * crop_scale[place.c] + crop_shift[place.c];
}

@compute @workgroup_size(WG_SIZE)
fn crop_flip_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let p = crop_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= (p.n + 3u) / 4u {
        return;
    }
    let pixels = 4u * i / p.n_channels;
    let rows = pixels / p.width;
    let b = rows / p.height;
    var place = Place(b, rows - b * p.height, pixels - rows * p.width, 4u * i - pixels * p.n_channels);
    var out = vec4<f32>(0.0);
    for (var j = 0u; j < 4u && 4u * i + j < p.n; j++) {
        let value = pixel(place);
        out = select(out, vec4<f32>(value), vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(j));
        place = next(place);
    }
    crop_out[i] = Elem4(out);
}
