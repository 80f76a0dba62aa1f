//! What kernels may say: control flow, memory, functions, built-ins, against results worked out by hand.

use crate::sim::{Bound, Buffer, Options, Program, Source};

fn words(buffer: &Buffer) -> Vec<u32> {
    buffer.read(0, buffer.len()).chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Runs `main` on an output of `n` words under several subgroup sizes and schedules, all of which must agree.
fn result(text: &str, groups: [u32; 3], n: usize, inputs: &[&Buffer]) -> Vec<u32> {
    let program = Program::new(Source::new("kernel.wgsl", text), "main", &[]).unwrap_or_else(|e| panic!("{e}"));
    let mut results = Vec::new();
    for (size, schedule) in [(4, "alone"), (8, "random:2"), (32, "straight"), (64, "interleaved:9"), (128, "reversed")]
    {
        let out = Buffer::unwritten(4 * n as u64);
        let bound: Vec<Bound<'_>> = [&out].into_iter().chain(inputs.iter().copied()).map(Bound::all).collect();
        let options = Options { subgroup_size: size, schedule: schedule.parse().unwrap(), ..Options::default() };
        let outcome = program.run(groups, &bound, &[], &options).unwrap();
        assert_eq!(outcome.findings, [], "subgroups of {size}, {schedule}");
        results.push(words(&out));
    }
    assert!(results.iter().all(|r| *r == results[0]), "{results:?}");
    results.swap_remove(0)
}

const OUT: &str = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;\n";

#[test]
fn loops_switches_and_returns_diverge_and_meet_again() {
    let text = format!(
        "{OUT}
fn classify(i: u32) -> u32 {{
    if i == 3u {{ return 100u; }}
    switch i % 5u {{
        case 0u, 1u: {{ return 1u; }}
        default: {{ if i > 8u {{ break; }} return 2u; }}
        case 4u: {{ return 3u; }}
    }}
    return 4u;
}}
@compute @workgroup_size(16)
fn main(@builtin(local_invocation_index) i: u32) {{
    var sum = 0u;
    for (var j = 0u; j < 20u; j++) {{
        if j == i {{ continue; }}
        if j > i + 4u {{ break; }}
        var k = 0u;
        loop {{
            k += 1u;
            if k > j {{ break; }}
            continuing {{ sum += 1u; break if k == 3u; }}
        }}
    }}
    out[i] = sum * 1000u + classify(i);
}}"
    );
    let want: Vec<u32> = (0..16_u32)
        .map(|i| {
            let mut sum = 0;
            for j in 0..20 {
                if j == i {
                    continue;
                }
                if j > i + 4 {
                    break;
                }
                sum += j.min(3);
            }
            let class = match (i, i % 5) {
                (3, _) => 100,
                (_, 0 | 1) => 1,
                (_, 4) => 3,
                (9.., _) => 4,
                _ => 2,
            };
            sum * 1000 + class
        })
        .collect();
    assert_eq!(result(&text, [1, 1, 1], 16, &[]), want);
}

#[test]
fn pointers_structs_and_arrays_reach_their_parts() {
    let text = format!(
        "{OUT}
struct Inner {{ a: u32, b: vec2<u32> }}
struct Outer {{ first: vec3<u32>, inner: array<Inner, 2>, m: mat2x2<f32> }}
@group(0) @binding(1) var<storage, read> x: Outer;
var<private> count: u32 = 7u;
fn bump(p: ptr<function, vec4<u32>>, i: u32) {{
    (*p)[i] += 10u;
    count += 1u;
}}
fn swap(p: ptr<private, u32>) -> u32 {{ let old = *p; *p = 50u; return old; }}
@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32) {{
    var v = vec4<u32>(x.first, x.inner[1].a);
    bump(&v, i);
    bump(&v, 0u);
    var places: array<vec2<u32>, 3>;
    places[0] = x.inner[0].b;
    places[1] = x.inner[i % 2u].b.yx;
    places[2] = vec2<u32>(count, swap(&count));
    let copy = places;
    let j = i % 3u;
    out[4u * i] = v[i];
    out[4u * i + 1u] = copy[j].x * 100u + copy[j].y;
    out[4u * i + 2u] = u32(x.m[1][i % 2u]) + count;
    out[4u * i + 3u] = u32((x.m * vec2<f32>(1.0, 10.0)).y);
}}"
    );
    // first at 0, inner at 16 (16 bytes each: a at 0, b at 8), m at 48.
    let mut x = [0_u32; 16];
    x[..3].copy_from_slice(&[1, 2, 3]);
    x[4..8].copy_from_slice(&[4, 0, 5, 6]);
    x[8..12].copy_from_slice(&[7, 0, 8, 9]);
    for (i, value) in [1.0_f32, 2.0, 3.0, 4.0].into_iter().enumerate() {
        x[12 + i] = value.to_bits();
    }
    let x = Buffer::new(bytemuck::cast_slice(&x));
    let got = result(&text, [1, 1, 1], 16, &[&x]);
    // v = 1 2 3 7; bump adds 10 to v[i] and v[0].
    assert_eq!([got[0], got[4], got[8], got[12]], [21, 12, 13, 17]);
    let places = |i: usize| [[5, 6], [[6, 5], [9, 8]][i % 2], [9, 9]];
    for i in 0..4 {
        let [a, b] = places(i)[i % 3];
        assert_eq!(got[4 * i + 1], a * 100 + b, "{i}");
        assert_eq!(got[4 * i + 2], [3, 4][i % 2] + 50);
        assert_eq!(got[4 * i + 3], 2 + 40);
    }
}

#[test]
fn invocations_know_where_they_are() {
    let text = format!(
        "{OUT}
@compute @workgroup_size(4, 2, 3)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>,
        @builtin(local_invocation_index) i: u32, @builtin(workgroup_id) g: vec3<u32>,
        @builtin(num_workgroups) n: vec3<u32>) {{
    let group = (g.z * n.y + g.y) * n.x + g.x;
    let inside = (local.z * 2u + local.y) * 4u + local.x;
    let ok = inside == i && all(id == g * vec3<u32>(4u, 2u, 3u) + local);
    out[group * 24u + i] = select(0u, 1u + group, ok);
}}"
    );
    let want: Vec<u32> = (0..12).flat_map(|group| [1 + group; 24]).collect();
    assert_eq!(result(&text, [3, 2, 2], 288, &[]), want);
}

#[test]
fn subgroups_are_those_asked_for() {
    let text = format!(
        "{OUT}
@compute @workgroup_size(40)
fn main(@builtin(local_invocation_index) i: u32, @builtin(subgroup_size) size: u32, @builtin(subgroup_id) id: u32,
        @builtin(num_subgroups) n: u32, @builtin(subgroup_invocation_id) lane: u32) {{
    let first = subgroupBroadcastFirst(i);
    let sum = subgroupAdd(i);
    let before = subgroupExclusiveAdd(1u);
    let up = subgroupShuffleUp(i, 1u);
    let votes = subgroupBallot(i % 2u == 0u);
    let ones = countOneBits(votes.x) + countOneBits(votes.y) + countOneBits(votes.z) + countOneBits(votes.w);
    let ok = first == id * size && lane == before && i == id * size + lane && n == (39u + size) / size
          && (lane == 0u || up == i - 1u) && subgroupAll(size >= 4u) && !subgroupAny(i > 40u)
          && subgroupMax(i) == min(first + size, 40u) - 1u && subgroupShuffleXor(i, 1u) == (i ^ 1u);
    out[i] = select(0u, sum * 100u + ones, ok);
}}"
    );
    let program = Program::new(Source::new("kernel.wgsl", &text), "main", &[]).unwrap();
    for (size, schedule) in
        [(4, "alone"), (8, "random:2"), (16, "reversed"), (32, "straight"), (64, "straight"), (128, "reversed")]
    {
        let out = Buffer::unwritten(160);
        let options = Options { subgroup_size: size, schedule: schedule.parse().unwrap(), ..Options::default() };
        let outcome = program.run([1, 1, 1], &[Bound::all(&out)], &[], &options).unwrap();
        assert_eq!(outcome.findings, []);
        let want = |i: u32| {
            let first = i / size * size;
            let members = first..(first + size).min(40);
            members.clone().sum::<u32>() * 100 + members.filter(|i| i % 2 == 0).count() as u32
        };
        assert_eq!(words(&out), (0..40).map(want).collect::<Vec<_>>(), "{size}");
    }
}

#[test]
fn atomics_count_in_any_order() {
    let text = "
@group(0) @binding(0) var<storage, read_write> out: array<atomic<u32>>;
var<workgroup> sh_max: atomic<i32>;
var<workgroup> sh_n: u32;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) i: u32) {
    if i == 0u {
        atomicStore(&sh_max, -5);
        sh_n = 3u;
    }
    let n = workgroupUniformLoad(&sh_n);
    atomicMax(&sh_max, i32(i) - 3);
    workgroupBarrier();
    atomicAdd(&out[0], u32(atomicLoad(&sh_max)) * n);
    atomicOr(&out[1], 1u << i);
    let won = atomicCompareExchangeWeak(&out[2], 0u, i + 1u).exchanged;
    if won {
        atomicAdd(&out[3], 1u);
    }
}";
    let program = Program::new(Source::new("kernel.wgsl", text), "main", &[]).unwrap();
    for schedule in ["straight", "reversed", "random:4", "interleaved:1", "alone"] {
        let out = Buffer::new(&[0; 16]);
        let options = Options { schedule: schedule.parse().unwrap(), ..Options::default() };
        let outcome = program.run([5, 1, 1], &[Bound::all(&out)], &[], &options).unwrap();
        assert_eq!(outcome.findings, []);
        let got = words(&out);
        assert_eq!((got[0], got[1], got[3]), (5 * 32 * 28 * 3, u32::MAX, 1), "{schedule}");
        assert!((1..=32).contains(&got[2]));
    }
}

#[test]
fn overrides_and_immediates_reach_the_kernel() {
    let text = format!(
        "{OUT}
override N: u32 = 4u;
override TWICE: u32 = 2u * N;
struct Params {{ base: u32, scale: f32 }}
var<immediate> params: Params;
var<workgroup> sh: array<u32, TWICE>;
@compute @workgroup_size(TWICE)
fn main(@builtin(local_invocation_index) i: u32) {{
    sh[i] = i;
    workgroupBarrier();
    out[i] = params.base + u32(f32(sh[TWICE - 1u - i]) * params.scale);
}}"
    );
    let source = || Source::new("kernel.wgsl", &text);
    let program = Program::new(source(), "main", &[("N", 3.0)]).unwrap();
    assert_eq!((program.workgroup_size(), program.immediates()), ([6, 1, 1], Some(("params", 8))));
    let out = Buffer::unwritten(24);
    let mut params = 100_u32.to_le_bytes().to_vec();
    params.extend(2.0_f32.to_le_bytes());
    let outcome = program.run([1, 1, 1], &[Bound::all(&out)], &params, &Options::default()).unwrap();
    assert_eq!(outcome.findings, []);
    assert_eq!(words(&out), [110, 108, 106, 104, 102, 100]);
    // What is wrong with the way it is called is told, not guessed.
    let told = |result: crate::Result<crate::sim::Outcome>| result.unwrap_err().to_string();
    assert!(told(program.run([1; 3], &[], &params, &Options::default())).contains("0 buffers given, 1 wanted: out"));
    assert!(
        told(program.run([1; 3], &[Bound::all(&out)], &[], &Options::default())).contains("0 bytes of immediates, 8")
    );
    let odd = Options { subgroup_size: 12, ..Options::default() };
    assert!(told(program.run([1; 3], &[Bound::all(&out)], &params, &odd)).contains("subgroups of 12"));
    for (entry, constants, message) in [
        ("other", &[][..], "no compute entry point 'other'; there are: main"),
        ("main", &[("M", 1.0)][..], "no override constant 'M' in use; there are: N, TWICE"),
        ("main", &[("N", 600.0)][..], "past WGSL's limits"),
    ] {
        let error = Program::new(source(), entry, constants).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let error = Program::new(Source::new("k", "fn main() { let x = y; }"), "main", &[]).unwrap_err().to_string();
    assert!(error.contains("k:1:21"), "{error}");
    let text = "@group(0) @binding(0) var t: texture_2d<f32>;
@compute @workgroup_size(1) fn main() { let x = textureLoad(t, vec2<i32>(0), 0); }";
    let error = Program::new(Source::new("k", text), "main", &[]).unwrap_err().to_string();
    assert!(error.contains("not simulated"), "{error}");
}

#[test]
fn halves_are_two_bytes_and_do_not_race_within_a_word() {
    let text = "enable f16;
@group(0) @binding(0) var<storage, read_write> out: array<f16>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f16>>;
@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) i: u32) {
    out[i] = x[i / 4u][i % 4u] * 3.0h + f16(f32(i));
}";
    let x: Vec<half::f16> = (0..8).map(|i| half::f16::from_f32(0.1 * i as f32)).collect();
    let got = result(text, [1, 1, 1], 4, &[&Buffer::new(bytemuck::cast_slice(&x))]);
    let got: Vec<half::f16> = bytemuck::cast_slice(&got).to_vec();
    let want: Vec<half::f16> =
        (0..8).map(|i| x[i] * half::f16::from_f32(3.0) + half::f16::from_f32(i as f32)).collect();
    assert_eq!(got, want);
}

#[test]
fn cooperative_matrices_multiply() {
    let cases = [(8_usize, "f32"), (16, "f16"), (8, "f16"), (16, "f32")].into_iter();
    // Strides count what the pointer points to: single elements or vectors of them.
    for ((n, scalar), width) in cases.flat_map(|case| [1, 2, 4].map(|width| (case, width))) {
        let element = if width == 1 { scalar.to_owned() } else { format!("vec{width}<{scalar}>") };
        let stride = n / width;
        let enable = if scalar == "f16" { "enable f16;\n" } else { "" };
        let text = format!(
            "enable wgpu_cooperative_matrix;
{enable}@group(0) @binding(0) var<storage, read_write> out: array<f32>;
@group(0) @binding(1) var<storage, read> a: array<{element}>;
@group(0) @binding(2) var<storage, read> b: array<{element}>;
@compute @workgroup_size(64)
fn main(@builtin(subgroup_id) id: u32, @builtin(num_subgroups) n: u32) {{
    if n > 1u && id != 0u {{ return; }}
    let x = coopLoadT<coop_mat{n}x{n}<{scalar}, A>>(&a[0], {stride}u);
    let y = coopLoad<coop_mat{n}x{n}<{scalar}, B>>(&b[0], {stride}u);
    var c = coopLoadT<coop_mat{n}x{n}<f32, C>>(&out[0], {n}u);
    c = coopMultiplyAdd(x, y, c);
    coopStoreT(c, &out[0], {n}u);
}}"
        );
        let program = Program::new(Source::new("kernel.wgsl", &text), "main", &[]).unwrap_or_else(|e| panic!("{e}"));
        let at = |i: usize, j: usize| ((i * 7 + j * 3) % 11) as f32 - 5.0;
        let pack = |values: Vec<f32>| {
            let halves: Vec<half::f16> = values.iter().map(|x| half::f16::from_f32(*x)).collect();
            if scalar == "f16" {
                Buffer::new(bytemuck::cast_slice(&halves))
            } else {
                Buffer::new(bytemuck::cast_slice(&values))
            }
        };
        let a = pack((0..n * n).map(|i| at(i / n, i % n)).collect());
        // Column by column.
        let b = pack((0..n * n).map(|i| at(i % n + 1, i / n)).collect());
        let out = Buffer::new(bytemuck::cast_slice(&vec![1.0_f32; n * n]));
        for size in [32, 64] {
            let options = Options { subgroup_size: size, ..Options::default() };
            let bound = [Bound::all(&out), Bound::all(&a), Bound::all(&b)];
            assert_eq!(program.run([1, 1, 1], &bound, &[], &options).unwrap().findings, [], "{size}");
        }
        let got: Vec<f32> = words(&out).into_iter().map(f32::from_bits).collect();
        for i in 0..n {
            for j in 0..n {
                let product: f32 = (0..n).map(|l| at(i, l) * at(l + 1, j)).sum();
                assert_eq!(got[i * n + j], 1.0 + 2.0 * product, "{scalar} {n}: {i} {j}");
            }
        }
    }
}
