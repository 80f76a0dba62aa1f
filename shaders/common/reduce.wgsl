// Reductions over a workgroup of WG_SIZE (a power of two, defined by the family file); every lane gets the result.
// All of the workgroup must call them, with a barrier between two calls: lanes may still read the result of the first.
// The order is fixed, so that a run repeats bit for bit.

const JOIN_SUM: u32 = 0u;
const JOIN_MAX: u32 = 1u;
const JOIN_MIN: u32 = 2u;

// Whether Acc is a float type: integers cut the half off.
const ACC_IS_FLOAT: bool = Acc(0.5) != Acc(0.0);

var<workgroup> sh_reduce: array<Acc, WG_SIZE>;

// By its bits, as compilers may take comparisons of floats to mean that there is no NaN.
fn is_nan(x: Acc) -> bool {
    return ACC_IS_FLOAT && (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}

// A NaN wins over every maximum and minimum.
fn join(kind: u32, a: Acc, b: Acc) -> Acc {
    switch kind {
        case JOIN_SUM: { return a + b; }
        case JOIN_MAX: { return select(select(max(a, b), b, is_nan(b)), a, is_nan(a)); }
        default: { return select(select(min(a, b), b, is_nan(b)), a, is_nan(a)); }
    }
}

// A tree in workgroup memory: right on every adapter.
fn group_reduce(kind: u32, local: u32, x: Acc) -> Acc {
    sh_reduce[local] = x;
    for (var half = WG_SIZE / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            sh_reduce[local] = join(kind, sh_reduce[local], sh_reduce[local + half]);
        }
    }
    workgroupBarrier();
    return sh_reduce[0];
}

// Subgroups first, then their results: one barrier, any subgroup size.
fn subgroups_reduce(kind: u32, lane: u32, subgroup: u32, n_subgroups: u32, x: Acc) -> Acc {
    var part: Acc;
    switch kind {
        case JOIN_SUM: { part = subgroupAdd(x); }
        case JOIN_MAX: { part = subgroupMax(x); }
        default: { part = subgroupMin(x); }
    }
    if kind != JOIN_SUM && ACC_IS_FLOAT {
        // What these make of a NaN is up to the adapter.
        let nan = subgroupMax(select(0u, bitcast<u32>(x) & 0x7fffffffu, is_nan(x)));
        part = select(part, bitcast<Acc>(nan), nan != 0u);
    }
    if lane == 0u {
        sh_reduce[subgroup] = part;
    }
    workgroupBarrier();
    var total = sh_reduce[0];
    for (var i = 1u; i < n_subgroups; i++) {
        total = join(kind, total, sh_reduce[i]);
    }
    return total;
}
