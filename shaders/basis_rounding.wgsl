// Numbers rounded to a few bits, group by group: q step with step = max |x| * per_step and q = round(x / step), ties to even.
// One workgroup per group; its lanes stride over the numbers.
const WG_SIZE = 64u;
const SMALLEST = 1e-30;    // a group below is one of zeros: its step would be no normal number

struct RoundingParams { n_groups: u32, per_step: f32 }
var<immediate> rounding_params: RoundingParams;
@group(0) @binding(0) var<storage, read> rounding_groups: array<vec2<u32>>;     // of each group: first number, how many
@group(0) @binding(1) var<storage, read> rounding_x: array<f32>;
@group(0) @binding(2) var<storage, read_write> rounding_out: array<f32>;

// The multiple of step nearest to x. The quotient is only a guess: adapters round it their own way. The middles between multiples
// are single products, which are rounded alike everywhere; they decide.
fn nearest_multiple(x: f32, step: f32) -> f32 {
    let size = abs(x);
    let guess = round(size / step);
    let odd = (u32(guess) & 1u) == 1u;
    let upper = (guess + 0.5) * step;
    let lower = (guess - 0.5) * step;
    let up = select(0.0, 1.0, (size > upper) | ((size == upper) & odd));
    let down = select(0.0, 1.0, (size < lower) | ((size == lower) & odd));
    let multiple = guess + up - down;
    return select(multiple, -multiple, x < 0.0) * step;
}

@compute @workgroup_size(WG_SIZE)
fn basis_rounding_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let p = rounding_params;
    let id = group_id(group, n_groups);
    if id >= p.n_groups {
        return;
    }
    let place = rounding_groups[id];
    let end = place.x + place.y;
    var largest = 0.0;
    for (var i = place.x + local; i < end; i += WG_SIZE) {
        let x = rounding_x[i];
        largest = max(largest, select(abs(x), 0.0, is_nan(x)));
    }
    largest = group_reduce(JOIN_MAX, local, largest);
    let step = largest * p.per_step;
    for (var i = place.x + local; i < end; i += WG_SIZE) {
        let x = rounding_x[i];
        let nearest = select(0.0, nearest_multiple(x, step), largest >= SMALLEST);
        rounding_out[i] = select(nearest, x, is_nan(x));
    }
}
