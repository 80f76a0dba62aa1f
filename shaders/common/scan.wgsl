// Sums over a workgroup of SCAN_SIZE invocations, without subgroups.
const SCAN_SIZE = 256u;
// Two halves take turns, so that one barrier per step is enough.
var<workgroup> sh_sums: array<u32, 2u * SCAN_SIZE>;

// The sum of the values up to each invocation's; all of them stay in sh_sums[0 .. SCAN_SIZE] until the next
// call, in front of which the caller puts a barrier.
fn group_sums(local: u32, value: u32) -> u32 {
    var half = 0u;
    sh_sums[local] = value;
    workgroupBarrier();
    for (var step = 1u; step < SCAN_SIZE; step *= 2u) {
        var sum = sh_sums[half + local];
        if local >= step {
            sum += sh_sums[half + local - step];
        }
        half = SCAN_SIZE - half;
        sh_sums[half + local] = sum;
        workgroupBarrier();
    }
    // Eight steps, so the sums are back in the first half.
    return sh_sums[local];
}
