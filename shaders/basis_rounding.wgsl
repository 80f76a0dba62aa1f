// Numbers rounded to a few bits, group by group: q step with step = max |x| / n_levels and q = round(x / step), ties to even.
// One workgroup per group; its lanes stride over the numbers.
const WG_SIZE = 64u;
const SMALLEST = 1e-30;    // a group below is one of zeros: its step would be no normal number

struct RoundingParams { n_groups: u32, n_levels: f32 }
var<immediate> rounding_params: RoundingParams;
@group(0) @binding(0) var<storage, read> rounding_groups: array<vec2<u32>>;     // of each group: first number, how many
@group(0) @binding(1) var<storage, read> rounding_x: array<f32>;
@group(0) @binding(2) var<storage, read_write> rounding_out: array<f32>;

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
    let step = largest / p.n_levels;
    for (var i = place.x + local; i < end; i += WG_SIZE) {
        let x = rounding_x[i];
        let nearest = select(0.0, round(x / step) * step, largest >= SMALLEST);
        rounding_out[i] = select(nearest, x, is_nan(x));
    }
}
