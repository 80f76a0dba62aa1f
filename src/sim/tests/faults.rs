//! A fault planted for each check, and the same kernel without it.

use crate::sim::{Bound, Buffer, Check, Checks, Finding, Options, Outcome, Program, Schedule, Source};

fn options(subgroup_size: u32, schedule: &str) -> Options {
    Options { subgroup_size, schedule: schedule.parse().unwrap(), ..Options::default() }
}

/// Schedules and subgroup sizes a fault must show under, or a right kernel be clean under.
fn runs() -> Vec<Options> {
    let mut out = Vec::new();
    for size in [4, 8, 32, 128] {
        for schedule in ["straight", "reversed", "random:3", "interleaved:5", "alone"] {
            out.push(options(size, schedule));
        }
    }
    out
}

fn run(text: &str, groups: u32, buffers: &[&Buffer], options: &Options) -> Outcome {
    let program = Program::new(Source::new("kernel.wgsl", text), "main", &[]).unwrap();
    let bound: Vec<Bound<'_>> = buffers.iter().map(|buffer| Bound::all(buffer)).collect();
    program.run([groups, 1, 1], &bound, &[], options).unwrap()
}

fn floats(values: &[f32]) -> Buffer {
    Buffer::new(bytemuck::cast_slice(values))
}

fn read_floats(buffer: &Buffer) -> Vec<f32> {
    buffer.read(0, buffer.len()).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Runs a kernel that writes `out: array<f32>` of `n` elements under every schedule; answers all findings.
fn everywhere(text: &str, groups: u32, n: usize) -> Vec<Vec<Finding>> {
    runs().iter().map(|options| run(text, groups, &[&Buffer::unwritten(4 * n as u64)], options).findings).collect()
}

/// The kernel is clean, and with `from` replaced by `to` each run shows `check` on a line that holds `on`.
fn planted(text: &str, from: &str, to: &str, groups: u32, n: usize, check: Check, on: &str) {
    for findings in everywhere(text, groups, n) {
        assert_eq!(findings, [], "{text}");
    }
    assert!(text.contains(from), "{from} in {text}");
    for findings in everywhere(&text.replacen(from, to, 1), groups, n) {
        let found = findings.iter().find(|f| f.check == check);
        let found = found.unwrap_or_else(|| panic!("{check:?} is not among {findings:?}"));
        assert!(found.text.contains(on), "{found}");
        assert_eq!(found.place.line, found.line);
    }
}

const OUT: &str = "@group(0) @binding(0) var<storage, read_write> out: array<f32>;\n";

fn with_out(text: &str) -> String {
    format!("{OUT}{text}")
}

#[test]
fn a_missing_barrier_is_a_race() {
    let text = with_out(
        "var<workgroup> sh_x: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) g: vec3<u32>) {
    sh_x[i] = f32(i);
    workgroupBarrier();
    out[g.x * 64u + i] = sh_x[63u - i];
}",
    );
    planted(&text, "workgroupBarrier();", "", 3, 192, Check::WorkgroupRace, "sh_x[");
    // Which words, who, and both accesses.
    let options = options(32, "straight");
    let findings = run(&text.replacen("workgroupBarrier();", "", 1), 1, &[&Buffer::unwritten(256)], &options).findings;
    assert_eq!(findings[0].address.as_deref(), Some("sh_x[63]"));
    assert_eq!(findings[0].invocation.unwrap().local, 0);
    let (what, who, place) = findings[0].other.clone().unwrap();
    assert_eq!((what.as_str(), who.local, place.line), ("a write", 63, 5));
}

#[test]
fn a_workgroup_barrier_does_not_order_storage() {
    let text = with_out(
        "@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    out[i] = f32(i);
    storageBarrier();
    let x = out[63u - i];
    storageBarrier();
    out[i] = x;
}",
    );
    planted(&text, "storageBarrier();", "workgroupBarrier();", 1, 64, Check::StorageRace, "out[");
}

#[test]
fn no_barrier_orders_workgroups() {
    let text = with_out(
        "@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32, @builtin(workgroup_id) g: vec3<u32>) {
    out[g.x * 4u + i] = 1.0;
}",
    );
    planted(&text, "g.x * 4u + i", "g.x * 3u + i", 4, 16, Check::StorageRace, "out[");
}

#[test]
fn a_missing_guard_is_out_of_bounds() {
    let text = with_out(
        "@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x >= arrayLength(&out) {
        return;
    }
    out[id.x] = 1.0;
}",
    );
    planted(&text, "return;", "", 2, 100, Check::OutOfBounds, "out[id.x]");
    let out = Buffer::unwritten(400);
    let findings = run(&text.replacen("return;", "", 1), 2, &[&out], &options(8, "straight")).findings;
    assert_eq!(findings[0].message, "write with index 100 of 100 elements bound");
    assert_eq!(findings[0].count, 28);
    assert_eq!(read_floats(&out), [1.0; 100]);
}

#[test]
fn indices_into_arrays_vectors_and_matrices_are_checked() {
    for (declared, index, len) in
        [("array<f32, 5>", 5, 5), ("vec3<f32>", 3, 3), ("array<vec2<f32>, 2>", 2, 2), ("mat2x3<f32>", -1, 2)]
    {
        let text = with_out(&format!(
            "@group(0) @binding(1) var<storage, read> at: array<i32>;
@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32) {{
    var x = {declared}();
    let y = x[at[0]];
    out[i] = f32(at[0]);
}}"
        ));
        let outcome =
            run(&text, 1, &[&Buffer::unwritten(16), &Buffer::new(&i32::to_le_bytes(index))], &options(4, "straight"));
        assert_eq!(outcome.findings.len(), 1, "{declared}");
        assert_eq!(outcome.findings[0].check, Check::OutOfBounds);
        assert!(outcome.findings[0].message.contains(&format!("index {index} of {len}")), "{}", outcome.findings[0]);
    }
}

#[test]
fn memory_that_nothing_wrote_is_told_of() {
    let text = with_out(
        "var<workgroup> sh_x: array<f32, 64>;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) i: u32) {
    sh_x[i] = 1.0;
    sh_x[i + 32u] = 1.0;
    workgroupBarrier();
    out[i] = sh_x[i * 2u];
}",
    );
    planted(&text, "sh_x[i + 32u] = 1.0;", "", 1, 32, Check::Unwritten, "sh_x[i * 2u]");
    let text = with_out(
        "@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32) {
    var sums: array<f32, 4>;
    for (var j = 0u; j < 4u; j++) {
        sums[j] = f32(j);
    }
    var x: f32;
    if i < 9u {
        x = sums[i];
    }
    out[i] = x;
}",
    );
    planted(&text, "i < 9u", "i < 3u", 1, 4, Check::Unwritten, "out[i] = x");
    planted(&text, "j < 4u", "j < 2u", 1, 4, Check::Unwritten, "x = sums[i]");
    // A storage buffer, word for word.
    let text = with_out(
        "@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32) {
    out[i] += 1.0;
}",
    );
    let half = Buffer::unwritten(16);
    half.write(0, &[0; 8]);
    let findings = run(&text, 1, &[&half], &options(4, "straight")).findings;
    assert_eq!((findings[0].check, findings[0].count), (Check::Unwritten, 2));
    assert_eq!(findings[0].address.as_deref(), Some("out[2], byte 8"));
}

#[test]
fn barriers_in_divergent_flow_are_told_of() {
    let text = with_out(
        "@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    out[i] = 0.0;
    if i < 64u {
        workgroupBarrier();
    }
}",
    );
    planted(&text, "i < 64u", "i < 40u", 1, 64, Check::DivergentBarrier, "workgroupBarrier");
    let text = with_out(
        "@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    out[i] = 0.0;
    if i >= 64u {
        return;
    }
    workgroupBarrier();
}",
    );
    planted(&text, "i >= 64u", "i >= 32u", 1, 64, Check::DivergentBarrier, "workgroupBarrier");
}

#[test]
fn barriers_of_other_calls_or_rounds_are_not_the_same() {
    // Whole waves part here, so that each stands at the one barrier with all its invocations.
    for (body, to) in [
        ("if i < 128u { turn(i); } else { turn(i); }", "turn(i);"),
        ("for (var k = 0u; k < 4u; k++) { if k % 2u == i / 128u { continue; } turn(i); }", "turn(i);"),
    ] {
        let text = with_out(&format!(
            "var<workgroup> sh_x: array<f32, 256>;
fn turn(i: u32) {{
    sh_x[i] = 1.0;
    workgroupBarrier();
}}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) i: u32) {{
    out[i] = 0.0;
    {body}
}}"
        ));
        for schedule in ["straight", "alone"] {
            let told = |text: &str| run(text, 1, &[&Buffer::unwritten(1024)], &options(8, schedule)).findings;
            let findings = told(&text);
            assert!(findings.iter().any(|f| f.check == Check::DivergentBarrier), "{schedule}: {findings:?}");
            assert_eq!(told(&text.replace(body, to)), []);
        }
    }
}

#[test]
fn a_uniform_load_of_different_places_is_told_of() {
    let text = with_out(
        "var<workgroup> sh_x: array<f32, 64>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    sh_x[i] = 1.0;
    out[i] = workgroupUniformLoad(&sh_x[i / 64u]);
}",
    );
    planted(&text, "i / 64u", "i / 63u", 1, 64, Check::DivergentBarrier, "workgroupUniformLoad");
}

#[test]
fn fixed_indices_into_arrays_sized_by_overrides_are_checked() {
    let text = with_out(
        "override N: u32 = 4;
var<workgroup> sh_a: array<atomic<u32>, N>;
var<workgroup> sh_b: array<f32, N>;
@compute @workgroup_size(1)
fn main() {
    sh_b[3] = 2.0;
    atomicStore(&sh_a[3], 7u);
    out[0] = sh_b[3] + f32(atomicLoad(&sh_a[3]));
}",
    );
    assert_eq!(run(&text, 1, &[&Buffer::unwritten(4)], &options(8, "straight")).findings, []);
    let past = text.replace("[3]", "[6]");
    let findings = run(&past, 1, &[&Buffer::unwritten(4)], &options(8, "straight")).findings;
    let told: Vec<_> = findings.iter().map(|f| (f.line, f.check, f.message.as_str())).collect();
    let out = Check::OutOfBounds;
    let (read, write) = ("read with index 6 of 4 elements", "write with index 6 of 4 elements");
    assert_eq!(told, [(7, out, write), (8, out, write), (9, out, read), (9, out, read)]);
    let large = text.replace("N: u32 = 4", "N: u32 = 1000000");
    let error = Program::new(Source::new("k", large), "main", &[]).unwrap_err().to_string();
    assert!(error.contains("bytes of workgroup memory"), "{error}");
}

#[test]
fn subgroup_operations_in_divergent_flow_are_told_of() {
    let text = with_out(
        "@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    if i < 64u {
        out[i] = subgroupAdd(1.0);
    }
}",
    );
    planted(&text, "i < 64u", "i < 61u", 1, 64, Check::DivergentSubgroup, "subgroupAdd");
}

#[test]
fn a_subgroup_read_of_nobody_is_told_of() {
    let text = with_out(
        "@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) i: u32) {
    out[i] = subgroupBroadcast(f32(i), 6u);
}",
    );
    for (size, clean) in [(4, false), (8, true), (128, true)] {
        let findings = run(&text, 1, &[&Buffer::unwritten(256)], &options(size, "straight")).findings;
        assert_eq!(findings.is_empty(), clean, "{size}: {findings:?}");
        assert!(clean || findings[0].check == Check::SubgroupLane);
    }
}

#[test]
fn loops_without_an_end_are_left() {
    let text = with_out(
        "@compute @workgroup_size(4)
fn main(@builtin(local_invocation_index) i: u32) {
    var j = 0u;
    while j < 10u {
        j += 1u;
    }
    out[i] = f32(j);
}",
    );
    let few = |limit| Options { loop_limit: limit, ..options(4, "straight") };
    assert_eq!(run(&text, 1, &[&Buffer::unwritten(16)], &few(10)).findings, []);
    assert_eq!(run(&text, 1, &[&Buffer::unwritten(16)], &few(9)).findings[0].check, Check::EndlessLoop);
    let endless = text.replacen("j += 1u", "j += 0u", 1);
    let findings = run(&endless, 1, &[&Buffer::unwritten(16)], &few(20)).findings;
    assert_eq!((findings[0].check, findings[0].line), (Check::EndlessLoop, 5));
}

#[test]
fn integer_arithmetic_that_wgsl_leaves_open_is_told_of() {
    for (expression, check) in [
        ("7 / x[0]", Check::DivisionByZero),
        ("7 % x[0]", Check::DivisionByZero),
        ("i32(7u / u32(x[0]))", Check::DivisionByZero),
        ("x[1] / x[2]", Check::SignedOverflow),
        ("-x[1]", Check::SignedOverflow),
        ("abs(x[1])", Check::SignedOverflow),
        ("1 << u32(x[4])", Check::ShiftPastWidth),
        ("x[1] >> u32(x[4])", Check::ShiftPastWidth),
        ("extractBits(x[1], 20u, u32(x[4]))", Check::ShiftPastWidth),
        ("insertBits(x[1], 3, u32(x[4]), 1u)", Check::ShiftPastWidth),
    ] {
        let text = with_out(&format!(
            "@group(0) @binding(1) var<storage, read> x: array<i32>;
@compute @workgroup_size(1)
fn main() {{
    out[0] = f32({expression});
}}"
        ));
        let x = [0_i32, i32::MIN, -1, f32::to_bits(3e9) as i32, 32];
        let x = Buffer::new(bytemuck::cast_slice(&x));
        let findings = run(&text, 1, &[&Buffer::unwritten(4), &x], &options(32, "straight")).findings;
        assert_eq!(findings.iter().map(|f| f.check).collect::<Vec<_>>(), [check], "{expression}");
        assert_eq!(findings[0].line, 5);
        // The same on harmless numbers.
        let x = Buffer::new(bytemuck::cast_slice(&[3_i32, 5, 7, f32::to_bits(3.0) as i32, 9]));
        assert_eq!(run(&text, 1, &[&Buffer::unwritten(4), &x], &options(32, "straight")).findings, [], "{expression}");
    }
}

#[test]
fn an_f16_sum_that_overflows_is_told_of() {
    let text = "enable f16;
@group(0) @binding(0) var<storage, read> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> out: array<f16>;
@compute @workgroup_size(1)
fn main() {
    var sum = 0.0h;
    for (var i = 0u; i < arrayLength(&x); i++) {
        sum += x[i];
    }
    out[0] = sum;
}";
    let halves = |x: f32, n: usize| Buffer::new(bytemuck::cast_slice(&vec![half::f16::from_f32(x); n]));
    let findings = run(text, 1, &[&halves(1000.0, 66), &Buffer::unwritten(2)], &options(32, "straight")).findings;
    assert_eq!((findings[0].check, findings[0].line, findings[0].count), (Check::F16Overflow, 8, 1));
    let out = Buffer::unwritten(2);
    assert_eq!(run(text, 1, &[&halves(900.0, 66), &out], &options(32, "straight")).findings, []);
    // Sums past 2048 lose digits: as many adders of 900 in f16 as the reference in the `half` crate says.
    let want = (0..66).fold(half::f16::ZERO, |sum, _| sum + half::f16::from_f32(900.0));
    assert_eq!(out.read(0, 2), want.to_le_bytes());
}

#[test]
fn f16_overflows_within_a_step_are_told_of() {
    for expression in [
        "f16(i32(x[0]))",
        "f16(u32(x[0]))",
        "f16(x[0])",
        "dot(vec2<f16>(h), vec2<f16>(h, -h))",
        "(mat2x2<f16>(h, h, h, h) * vec2<f16>(h, -h)).x",
        "f16(unpack2x16float(pack2x16float(vec2<f32>(x[0], 1.0))).y)",
    ] {
        let text = format!(
            "enable f16;
@group(0) @binding(0) var<storage, read_write> out: array<f16>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@compute @workgroup_size(1)
fn main() {{
    let h = f16(x[1]);
    out[0] = {expression};
}}"
        );
        let told = |x: [f32; 2]| run(&text, 1, &[&Buffer::unwritten(2), &floats(&x)], &options(8, "straight")).findings;
        let findings = told([-1e5, 300.0]);
        let findings = if expression.starts_with("f16(u32") { told([1e5, 300.0]) } else { findings };
        assert_eq!(findings.iter().map(|f| f.check).collect::<Vec<_>>(), [Check::F16Overflow], "{expression}");
        assert_eq!(told([1000.0, 10.0]), [], "{expression}");
    }
}

#[test]
fn numbers_born_infinite_are_told_of_if_asked() {
    let text = with_out(
        "@group(0) @binding(1) var<storage, read> x: array<f32>;
@compute @workgroup_size(1)
fn main() {
    out[0] = log(x[0]) + 1.0;
}",
    );
    let mut all = options(32, "straight");
    assert_eq!(run(&text, 1, &[&Buffer::unwritten(4), &floats(&[0.0])], &all).findings, []);
    all.checks = Checks::all();
    let findings = run(&text, 1, &[&Buffer::unwritten(4), &floats(&[0.0])], &all).findings;
    // The logarithm is to blame, not the sum.
    assert_eq!((findings.len(), findings[0].check), (1, Check::NonFinite));
    assert_eq!(findings[0].message, "-inf of 0");
    // An integer that is made of no number; floats past the ends of integers are clamped.
    let text = text.replace("log(x[0]) + 1.0", "f32(i32(x[0]))");
    let told = |x: f32| run(&text, 1, &[&Buffer::unwritten(4), &floats(&[x])], &all).findings;
    assert_eq!(told(3e9), []);
    assert_eq!(told(f32::NAN)[0].message, "an integer of NaN");
}

#[test]
fn a_buffer_bound_twice_is_told_of() {
    let text = with_out(
        "@group(0) @binding(1) var<storage, read> x: array<f32>;
@compute @workgroup_size(1)
fn main() {
    out[0] = x[1];
}",
    );
    let x = floats(&[1.0, 2.0]);
    assert_eq!(run(&text, 1, &[&x, &x], &options(32, "straight")).findings[0].check, Check::Alias);
}

#[test]
fn schedules_reach_every_order() {
    // The last to write a word wins: each order shows, and each is a race.
    let text = with_out(
        "@compute @workgroup_size(8)
fn main(@builtin(local_invocation_index) i: u32) {
    out[0] = f32(i);
}",
    );
    let last = |schedule: &str| {
        let out = Buffer::unwritten(4);
        let findings = run(&text, 1, &[&out], &options(4, schedule)).findings;
        assert_eq!(findings[0].check, Check::StorageRace);
        read_floats(&out)[0]
    };
    assert_eq!((last("straight"), last("reversed")), (7.0, 0.0));
    let shuffled: std::collections::BTreeSet<u32> = (0..40).map(|i| last(&format!("random:{i}")) as u32).collect();
    assert_eq!(shuffled.len(), 8, "{shuffled:?}");
    assert_eq!("interleaved:4".parse::<Schedule>().unwrap().to_string(), "interleaved:4");
}
