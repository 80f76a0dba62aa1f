// The best elements seen by one invocation: a sorted list in registers. An element is a key, greater is better, and an
// id; key 0 is no element. Only whole vec4 are touched and every index is a constant once inlined, so nothing is kept in
// memory.

override TOP_NODES: u32 = 1u;      // vec4 in use, 1 to 8

struct TopList { keys: array<vec4<u32>, 8>, ids: array<vec4<u32>, 8> }

// Where the element comes in front of those listed. Of equal keys the listed one stays in front, or, where `by_id`, the
// one with the lower id.
fn top_beats(key: u32, id: u32, keys: vec4<u32>, ids: vec4<u32>, by_id: bool) -> vec4<bool> {
    let above = vec4<u32>(key) > keys;
    if by_id {
        return above | ((vec4<u32>(key) == keys) & (vec4<u32>(id) < ids));
    }
    return above;
}

// Every place of a vec4 takes the element, its left neighbour or keeps its own, whatever the other places do.
fn top_insert_node(list: ptr<function, TopList>, node: u32, key: u32, id: u32, by_id: bool) {
    let keys = (*list).keys[node];
    let ids = (*list).ids[node];
    var left_keys = vec4<u32>(0xffffffffu, keys.xyz);
    var left_ids = vec4<u32>(0u, ids.xyz);
    if node > 0u {
        left_keys.x = (*list).keys[node - 1u].w;
        left_ids.x = (*list).ids[node - 1u].w;
    }
    let beats = top_beats(key, id, keys, ids, by_id);
    let beats_left = top_beats(key, id, left_keys, left_ids, by_id);
    (*list).keys[node] = select(keys, select(vec4<u32>(key), left_keys, beats_left), beats);
    (*list).ids[node] = select(ids, select(vec4<u32>(id), left_ids, beats_left), beats);
}

// Puts an element where it belongs; the last one drops out. The back goes first, as each vec4 needs its left one as it was.
fn top_insert(list: ptr<function, TopList>, key: u32, id: u32, by_id: bool) {
    if TOP_NODES > 7u { top_insert_node(list, 7u, key, id, by_id); }
    if TOP_NODES > 6u { top_insert_node(list, 6u, key, id, by_id); }
    if TOP_NODES > 5u { top_insert_node(list, 5u, key, id, by_id); }
    if TOP_NODES > 4u { top_insert_node(list, 4u, key, id, by_id); }
    if TOP_NODES > 3u { top_insert_node(list, 3u, key, id, by_id); }
    if TOP_NODES > 2u { top_insert_node(list, 2u, key, id, by_id); }
    if TOP_NODES > 1u { top_insert_node(list, 1u, key, id, by_id); }
    top_insert_node(list, 0u, key, id, by_id);
}

// The worst key listed; whoever is not above it can be passed over, unless ids decide.
fn top_worst(list: ptr<function, TopList>) -> u32 {
    return (*list).keys[TOP_NODES - 1u].w;
}

// Four elements at once.
fn top_offer4(list: ptr<function, TopList>, keys: vec4<u32>, ids: vec4<u32>, by_id: bool) {
    var worst = top_worst(list);
    if max(max(keys.x, keys.y), max(keys.z, keys.w)) < worst + u32(!by_id) {
        return;
    }
    for (var j = 0u; j < 4u; j++) {
        if keys[j] > worst || (by_id && keys[j] == worst) {
            top_insert(list, keys[j], ids[j], by_id);
            worst = top_worst(list);
        }
    }
}
