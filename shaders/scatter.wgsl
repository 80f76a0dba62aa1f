// Sums of rows by index: out[o, r, :] = sum of x[o, i, :] over the i with ids[i] = r, in their order.
// The ids come sorted, so that those of a row lie side by side, and starts says where. One invocation per unit of the
// output, a vec4 or an element, walks over them. A row that many ids name is the sum of whole chunks of them, which other
// invocations have summed before.
override WG_SIZE: u32 = 64u;

struct ScatterParams {
    n_units: u32,      // of the output: vec4 or elements
    n_ids: u32, n_axis: u32,
    n_inner: u32,      // units of a row
    chunk_log2: u32,   // ids of a chunk
}
@group(0) @binding(0) var<storage, read> scatter_sorted: array<u32>;              // [n_ids], for scatter_starts_fwd
@group(0) @binding(1) var<storage, read_write> scatter_starts_out: array<u32>;    // [n_axis + 1]
@group(0) @binding(0) var<storage, read> scatter_x: array<Elem>;                  // [n_outer, n_ids, n_inner]
@group(0) @binding(0) var<storage, read> scatter_x4: array<Elem4>;
@group(0) @binding(1) var<storage, read> scatter_keys: array<u32>;                // [n_ids], ids in order
@group(0) @binding(1) var<storage, read> scatter_starts: array<u32>;              // [n_axis + 1]
@group(0) @binding(2) var<storage, read> scatter_order: array<u32>;               // [n_ids], where each stood
@group(0) @binding(3) var<storage, read_write> scatter_chunks_out: array<f32>;    // [n_outer, n_ids >> chunk_log2, n_inner]
@group(0) @binding(3) var<storage, read_write> scatter_chunks_out4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> scatter_chunks: array<f32>;
@group(0) @binding(3) var<storage, read> scatter_chunks4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> scatter_out: array<Out>;           // [n_outer, n_axis, n_inner]
@group(0) @binding(4) var<storage, read_write> scatter_out4: array<Out4>;
var<immediate> scatter_params: ScatterParams;

// The first place whose key is not below the row.
@compute @workgroup_size(WG_SIZE)
fn scatter_starts_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let row = thread_id(group, n_groups, local, WG_SIZE);
    let p = scatter_params;
    if row >= p.n_units {
        return;
    }
    var low = 0u;
    var high = p.n_ids;
    while low < high {
        let middle = (low + high) / 2u;
        if scatter_sorted[middle] < row {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    scatter_starts_out[row] = low;
}

// What an invocation sums: a unit of a row, or of a chunk.
struct ScatterUnit {
    outer: u32,
    row: u32,
    column: u32,
}

fn scatter_unit(unit: u32, n_rows: u32) -> ScatterUnit {
    let r = unit / scatter_params.n_inner;
    let outer = r / n_rows;
    return ScatterUnit(outer, r - outer * n_rows, unit - r * scatter_params.n_inner);
}

// Whether one row takes a whole chunk; the others are not needed.
fn is_whole(chunk: u32) -> bool {
    let first = chunk << scatter_params.chunk_log2;
    return scatter_keys[first] == scatter_keys[first + (1u << scatter_params.chunk_log2) - 1u];
}

@compute @workgroup_size(WG_SIZE)
fn scatter_chunks_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                      @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let p = scatter_params;
    if id >= p.n_units {
        return;
    }
    let unit = scatter_unit(id, p.n_ids >> p.chunk_log2);
    if !is_whole(unit.row) {
        return;
    }
    let first = unit.row << p.chunk_log2;
    var sum = 0.0;
    for (var i = first; i < first + (1u << p.chunk_log2); i++) {
        sum += f32(scatter_x[(unit.outer * p.n_ids + scatter_order[i]) * p.n_inner + unit.column]);
    }
    scatter_chunks_out[id] = sum;
}

@compute @workgroup_size(WG_SIZE)
fn scatter_chunks_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                           @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let p = scatter_params;
    if id >= p.n_units {
        return;
    }
    let unit = scatter_unit(id, p.n_ids >> p.chunk_log2);
    if !is_whole(unit.row) {
        return;
    }
    let first = unit.row << p.chunk_log2;
    var sum = vec4<f32>(0.0);
    for (var i = first; i < first + (1u << p.chunk_log2); i++) {
        sum += vec4<f32>(scatter_x4[(unit.outer * p.n_ids + scatter_order[i]) * p.n_inner + unit.column]);
    }
    scatter_chunks_out4[id] = sum;
}

// The places of a row: up to the first whole chunk, whole chunks, from the last one on.
struct ScatterSpan {
    start: u32,
    chunk: u32,
    chunk_end: u32,
    end: u32,
}

fn scatter_span(row: u32) -> ScatterSpan {
    let log2 = scatter_params.chunk_log2;
    let start = scatter_starts[row];
    let end = scatter_starts[row + 1u];
    let chunk = (start + (1u << log2) - 1u) >> log2;
    return ScatterSpan(start, chunk, max(chunk, end >> log2), end);
}

@compute @workgroup_size(WG_SIZE)
fn scatter_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
               @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let p = scatter_params;
    if id >= p.n_units {
        return;
    }
    let unit = scatter_unit(id, p.n_axis);
    let span = scatter_span(unit.row);
    let n_chunks = p.n_ids >> p.chunk_log2;
    var sum = 0.0;
    for (var i = span.start; i < min(span.chunk << p.chunk_log2, span.end); i++) {
        sum += f32(scatter_x[(unit.outer * p.n_ids + scatter_order[i]) * p.n_inner + unit.column]);
    }
    for (var c = span.chunk; c < span.chunk_end; c++) {
        sum += scatter_chunks[(unit.outer * n_chunks + c) * p.n_inner + unit.column];
    }
    for (var i = span.chunk_end << p.chunk_log2; i < span.end; i++) {
        sum += f32(scatter_x[(unit.outer * p.n_ids + scatter_order[i]) * p.n_inner + unit.column]);
    }
    scatter_out[id] = Out(sum);
}

@compute @workgroup_size(WG_SIZE)
fn scatter_vec4_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let id = thread_id(group, n_groups, local, WG_SIZE);
    let p = scatter_params;
    if id >= p.n_units {
        return;
    }
    let unit = scatter_unit(id, p.n_axis);
    let span = scatter_span(unit.row);
    let n_chunks = p.n_ids >> p.chunk_log2;
    var sum = vec4<f32>(0.0);
    for (var i = span.start; i < min(span.chunk << p.chunk_log2, span.end); i++) {
        sum += vec4<f32>(scatter_x4[(unit.outer * p.n_ids + scatter_order[i]) * p.n_inner + unit.column]);
    }
    for (var c = span.chunk; c < span.chunk_end; c++) {
        sum += scatter_chunks4[(unit.outer * n_chunks + c) * p.n_inner + unit.column];
    }
    for (var i = span.chunk_end << p.chunk_log2; i < span.end; i++) {
        sum += vec4<f32>(scatter_x4[(unit.outer * p.n_ids + scatter_order[i]) * p.n_inner + unit.column]);
    }
    scatter_out4[id] = Out4(sum);
}
