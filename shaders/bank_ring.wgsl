// A memory bank as a ring of batches: those of step t take the place of step t - n_steps, so row i of the batch goes to
// slot (t mod n_steps) * n_batch + i, which is (t * n_batch + i) mod n_rows without that product's overflow. The step lies
// in a tensor, so that a recorded plan goes on by itself. All of it writes in place.
const WG_SIZE = 64u;
const NONE = 0xffffffffu;

struct RingParams { n: u32, n_batch: u32, n_steps: u32, n_vec4: u32 }      // n: invocations; n_vec4: of a row
var<immediate> ring_params: RingParams;

fn slot_of(step: u32, row: u32) -> u32 {
    return step % ring_params.n_steps * ring_params.n_batch + row;
}

// ---- rows of the batch into the ring: one invocation per vec4 ----
@group(0) @binding(0) var<storage, read> enqueue_rows: array<vec4<f32>>;         // [n_batch, n_vec4]
@group(0) @binding(1) var<storage, read> enqueue_step: array<u32>;               // [1]
@group(0) @binding(2) var<storage, read_write> enqueue_bank: array<Elem4>;       // [n_steps * n_batch, n_vec4]

@compute @workgroup_size(WG_SIZE)
fn ring_enqueue_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                    @builtin(local_invocation_index) local: u32) {
    let p = ring_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let row = i / p.n_vec4;
    let slot = slot_of(enqueue_step[0], row);
    enqueue_bank[slot * p.n_vec4 + (i - row * p.n_vec4)] = Elem4(enqueue_rows[i]);
}

// ---- numbers of the batch into those beside the ring: one invocation each ----
@group(0) @binding(0) var<storage, read> mark_values: array<u32>;                // [n_batch]
@group(0) @binding(1) var<storage, read> mark_step: array<u32>;                  // [1]
@group(0) @binding(2) var<storage, read_write> mark_tags: array<u32>;            // [n_steps * n_batch]

@compute @workgroup_size(WG_SIZE)
fn ring_mark_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                 @builtin(local_invocation_index) local: u32) {
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= ring_params.n {
        return;
    }
    mark_tags[slot_of(mark_step[0], i)] = mark_values[i];
}

// ---- rows of the batch to places of their own: one invocation per vec4 ----
struct StoreParams { n: u32, n_rows: u32, n_vec4: u32 }
@group(0) @binding(0) var<storage, read> store_rows: array<vec4<f32>>;           // [n_batch, n_vec4]
@group(0) @binding(1) var<storage, read> store_ids: array<u32>;                  // [n_batch]
@group(0) @binding(2) var<storage, read_write> store_pool: array<Elem4>;         // [n_rows, n_vec4]
var<immediate> store_params: StoreParams;

@compute @workgroup_size(WG_SIZE)
fn ring_store_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = store_params;
    let i = thread_id(group, n_groups, local, WG_SIZE);
    if i >= p.n {
        return;
    }
    let row = i / p.n_vec4;
    let id = store_ids[row];
    if id < p.n_rows {
        store_pool[id * p.n_vec4 + (i - row * p.n_vec4)] = Elem4(store_rows[i]);
    }
}

// ---- what the neighbours are: one invocation per query, which adds up what it found ----
struct TallyParams { n_batch: u32, n_steps: u32, k: u32, n_images: u32 }
@group(0) @binding(0) var<storage, read> tally_rows: array<u32>;                 // [n_batch, k], slots or past the last
@group(0) @binding(1) var<storage, read> tally_bank_ids: array<u32>;             // [n_steps * n_batch], images
@group(0) @binding(2) var<storage, read> tally_ids: array<u32>;                  // [n_batch], images
@group(0) @binding(3) var<storage, read> tally_labels: array<u32>;               // [n_images], NONE without
@group(0) @binding(4) var<storage, read> tally_step: array<u32>;                 // [1]
// Neighbours, of the same label, of the same image, their age in steps (low word), own slots, empty slots, high word.
@group(0) @binding(5) var<storage, read_write> tally_totals: array<atomic<u32>>;
var<immediate> tally_params: TallyParams;

@compute @workgroup_size(WG_SIZE)
fn ring_tally_fwd(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n_groups: vec3<u32>,
                  @builtin(local_invocation_index) local: u32) {
    let p = tally_params;
    let query = thread_id(group, n_groups, local, WG_SIZE);
    if query >= p.n_batch {
        return;
    }
    let now = tally_step[0] % p.n_steps;
    let own = now * p.n_batch + query;
    let image = tally_ids[query];
    var label = NONE;
    if image < p.n_images {
        label = tally_labels[image];
    }
    var n = 0u;
    var n_label = 0u;
    var n_image = 0u;
    var age = 0u;
    var n_own = 0u;
    var n_empty = 0u;
    for (var j = 0u; j < p.k; j++) {
        let slot = tally_rows[query * p.k + j];
        if slot >= p.n_steps * p.n_batch {
            continue;
        }
        if slot == own {
            n_own++;
            continue;
        }
        let id = tally_bank_ids[slot];
        if id >= p.n_images {
            n_empty++;
            continue;
        }
        n++;
        n_label += u32(label != NONE && tally_labels[id] == label);
        n_image += u32(id == image);
        let step = slot / p.n_batch;
        age += now - step + select(0u, p.n_steps, step > now);
    }
    atomicAdd(&tally_totals[0], n);
    atomicAdd(&tally_totals[1], n_label);
    atomicAdd(&tally_totals[2], n_image);
    let before = atomicAdd(&tally_totals[3], age);
    atomicAdd(&tally_totals[4], n_own);
    atomicAdd(&tally_totals[5], n_empty);
    // One addition of all sees the low word wrap, whatever their order.
    atomicAdd(&tally_totals[6], u32(before + age < before));
}
