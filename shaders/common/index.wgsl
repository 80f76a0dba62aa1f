// Linear ids in grids that the runtime folded over x and y because they pass 65,535 groups.

// Number of this workgroup; may pass the number asked for in the last row of a folded grid, so callers guard.
fn group_id(group: vec3<u32>, n_groups: vec3<u32>) -> u32 {
    return group.y * n_groups.x + group.x;
}

// Number of this invocation over the whole grid of one-dimensional workgroups of wg_size.
fn thread_id(group: vec3<u32>, n_groups: vec3<u32>, local: u32, wg_size: u32) -> u32 {
    return (group.y * n_groups.x + group.x) * wg_size + local;
}
