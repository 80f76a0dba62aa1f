// New centres of clusters: the mean of a cluster's rows, or, where it has none, a row drawn by round and cluster.
// One workgroup per cluster. The sums are there, as are the places where the rows of each cluster start.
const WG_SIZE = 64u;

struct CentresParams {
    n_clusters: u32, n_cols: u32, n_data: u32,                          // elements of a row; rows
    key_0: u32, key_1: u32, step: u32, stream: u32,
    round: u32,
}
@group(0) @binding(0) var<storage, read> centres_data: array<Elem>;            // [n_data, n_cols]
@group(0) @binding(1) var<storage, read> centres_sums: array<f32>;             // [n_clusters, n_cols]
@group(0) @binding(2) var<storage, read> centres_starts: array<u32>;           // [n_clusters + 1]
@group(0) @binding(3) var<storage, read_write> centres_out: array<f32>;        // [n_clusters, n_cols]
var<immediate> centres_params: CentresParams;

// The rounds have the high word of the element to themselves; word 0 is for the rows that are there before all rounds.
fn drawn_row(cluster: u32) -> u32 {
    let p = centres_params;
    let counter = vec4<u32>(cluster / 4u, p.round + 1u, p.step, p.stream);
    return mul_wide(philox4x32(counter, vec2<u32>(p.key_0, p.key_1))[cluster % 4u], p.n_data).x;
}

@compute @workgroup_size(WG_SIZE)
fn kmeans_centres_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let p = centres_params;
    let cluster = group_id(group, n_groups);
    if cluster >= p.n_clusters {
        return;
    }
    let count = centres_starts[cluster + 1u] - centres_starts[cluster];
    var row = 0u;
    if count == 0u {
        row = drawn_row(cluster);
    }
    for (var col = local; col < p.n_cols; col += WG_SIZE) {
        let i = cluster * p.n_cols + col;
        var centre = centres_sums[i] / f32(max(count, 1u));
        if count == 0u {
            centre = f32(centres_data[row * p.n_cols + col]);
        }
        centres_out[i] = centre;
    }
}
