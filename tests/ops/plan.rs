//! Plans: work recorded once and handed to the device again.

use crate::support::{adapter_runtime, device_choice, options, runtime};
use leanvision::ops::{elementwise as e, gather, matmul, reduce};
use leanvision::runtime::Repeated;
use leanvision::{DType, Error, Result, Runtime, Tensor};

/// A runtime without guards, on an adapter: one that uses memory again.
fn plain() -> Option<Runtime> {
    adapter_runtime()?;
    let mut options = options();
    options.guard = false;
    Some(Runtime::with_options(&device_choice(), options).unwrap())
}

/// A chain that goes through many blocks of memory of a few sizes, with a gradient, a copy and a constant of an op's own.
fn chain(x: &Tensor, w: &Tensor, ids: &Tensor) -> Result<(Tensor, Tensor)> {
    let w = w.require_grad()?;
    let mut y = x.clone();
    for _ in 0..4 {
        y = e::affine(&matmul::matmul(&y, &w)?, 0.5, 0.25)?;
    }
    let picked = gather::index_select(&y, 0, ids)?;
    let loss = reduce::mean_all(&e::square(&picked)?)?;
    let d = loss.backward()?.take(&w).ok_or_else(|| Error::Failed("no gradient".into()))?;
    Ok((loss.detach(), d))
}

fn values(seed: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + seed * 101) % 64) as f32 / 64.0 - 0.5).collect()
}

#[test]
fn a_replay_does_the_same_with_what_the_tensors_hold_by_then() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::from_slice(&runtime, &values(0, 12 * 8), &[12, 8]).unwrap();
    let w = Tensor::from_slice(&runtime, &values(9, 64), &[8, 8]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[3_u32, 0, 3, 11], &[4]).unwrap();
    let (plan, (loss, d)) = runtime.record_plan(|| chain(&x, &w, &ids)).unwrap();
    assert!(plan.n_dispatches() > 10);
    let mut others = Vec::new();
    for round in 1..6_usize {
        x.write(&values(round, 96)).unwrap();
        ids.write(&[round as u32, 0, 2, 2]).unwrap();
        let before = runtime.counts();
        plan.replay().unwrap();
        let counts = runtime.counts();
        assert_eq!(counts.bind_groups, before.bind_groups, "round {round}: a replay made bind groups");
        assert_eq!(counts.dispatches - before.dispatches, plan.n_dispatches() as u64);
        // Other work, of the same sizes, whose results live on: it must not get the plan's memory.
        let (want, want_d) = chain(&x, &w, &ids).unwrap();
        let kept = e::affine(&x, 1.0, round as f32).unwrap();
        others.push((kept, values(round, 96).iter().map(|v| v + round as f32).collect::<Vec<f32>>()));
        assert_eq!(loss.to_vec::<f32>().unwrap(), want.to_vec::<f32>().unwrap(), "round {round}");
        assert_eq!(d.to_vec::<f32>().unwrap(), want_d.to_vec::<f32>().unwrap(), "round {round}");
    }
    plan.replay().unwrap();
    for (kept, want) in others {
        assert_eq!(kept.to_vec::<f32>().unwrap(), want, "a replay wrote memory that is not the plan's");
    }
}

#[test]
fn one_submission_takes_a_replay_and_its_result() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::from_slice(&runtime, &values(0, 64), &[8, 8]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[1_u32], &[1]).unwrap();
    let (plan, (loss, _)) = runtime.record_plan(|| chain(&x, &x, &ids)).unwrap();
    runtime.sync().unwrap();
    let before = runtime.counts().submits;
    for round in 1..4 {
        x.write(&values(round, 64)).unwrap();
        plan.replay().unwrap();
        loss.item::<f32>().unwrap();
    }
    assert_eq!(runtime.counts().submits - before, 3);
}

#[test]
fn a_plan_holds_its_memory_and_gives_it_back() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::from_slice(&runtime, &values(0, 64), &[8, 8]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[1_u32], &[1]).unwrap();
    runtime.trim().unwrap();
    let before = runtime.memory();
    let (plan, (loss, d)) = runtime.record_plan(|| chain(&x, &x, &ids)).unwrap();
    drop((loss, d));
    runtime.trim().unwrap();
    let with = runtime.memory();
    assert!(with.reserved_bytes > before.reserved_bytes, "{with:?} with the plan, {before:?} without");
    // Far fewer blocks than results: what one op is done with, the next takes.
    let held = with.reserved_bytes - before.reserved_bytes;
    assert!(held < 256 * plan.n_dispatches() as u64, "{held} bytes for {plan:?}");
    plan.replay().unwrap();
    drop(plan);
    runtime.trim().unwrap();
    assert_eq!(
        (runtime.memory().used_bytes, runtime.memory().reserved_bytes),
        (before.used_bytes, before.reserved_bytes)
    );
}

#[test]
fn a_plan_keeps_what_it_reads() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::from_slice(&runtime, &[1.0_f32; 64], &[64]).unwrap();
    let (plan, y) = runtime.record_plan(|| e::affine(&x, 2.0, 1.0)).unwrap();
    drop(x);
    // Would take the block of `x` if the plan had let go of it.
    let other = Tensor::from_slice(&runtime, &[5.0_f32; 64], &[64]).unwrap();
    plan.replay().unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [3.0; 64]);
    assert_eq!(other.to_vec::<f32>().unwrap(), [5.0; 64]);
}

#[test]
fn what_a_plan_cannot_repeat_is_refused_and_leaves_the_runtime_as_it_was() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::from_slice(&runtime, &values(0, 64), &[8, 8]).unwrap();
    let used = runtime.memory().used_bytes;
    let refused = |what: &str, work: &dyn Fn() -> Result<()>| {
        let error = runtime.record_plan(|| e::square(&x).and_then(|_| work())).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }) && error.to_string().contains(what), "{error}");
        assert!(!runtime.is_recording_plan());
        assert_eq!(runtime.memory().used_bytes, used);
    };
    refused("cannot repeat", &|| x.to_vec::<f32>().map(drop));
    refused("cannot repeat", &|| x.write(&values(1, 64)));
    refused("cannot repeat", &|| Tensor::from_slice(&runtime, &[1.0_f32], &[1]).map(drop));
    refused("recorded already", &|| runtime.record_plan(|| Ok(())).map(drop));
    // What was recorded by then still comes before what the host writes to its memory.
    let failed =
        runtime.record_plan(|| e::square(&x).map(drop).and_then(|()| Err::<(), _>(Error::Failed("no".into()))));
    assert!(failed.is_err());
    let fresh = Tensor::from_slice(&runtime, &[5.0_f32; 64], &[8, 8]).unwrap();
    assert_eq!(fresh.to_vec::<f32>().unwrap(), [5.0; 64]);
    // Another thread is not part of it.
    let (plan, ()) = runtime
        .record_plan(|| {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| e::square(&x).unwrap().to_vec::<f32>().unwrap());
                assert!(other.join().is_ok_and(|squares| squares.len() == 64));
            });
            Ok(())
        })
        .unwrap();
    assert_eq!(plan.n_dispatches(), 0);
}

#[test]
fn host_writes_come_behind_the_replays_before_them() {
    let Some(runtime) = plain() else { return };
    let x = Tensor::from_slice(&runtime, &[3.0_f32; 64], &[64]).unwrap();
    let (plan, y) = runtime.record_plan(|| e::square(&x)).unwrap();
    runtime.sync().unwrap();
    plan.replay().unwrap();
    y.write(&[7.0_f32; 64]).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [7.0; 64]);
    plan.replay().unwrap();
    drop(plan);
    drop(y);
    let other = Tensor::from_slice(&runtime, &[5.0_f32; 64], &[64]).unwrap();
    assert_eq!(other.to_vec::<f32>().unwrap(), [5.0; 64]);
}

#[test]
fn constants_of_ops_survive() {
    let Some(runtime) = plain() else { return };
    // The gradient of a selection sorts its ids and bounds them by a constant of its own.
    let x = Tensor::from_slice(&runtime, &values(3, 40), &[10, 4]).unwrap();
    let ids = Tensor::from_slice(&runtime, &[7_u32, 2, 7], &[3]).unwrap();
    let work = || {
        let leaf = x.require_grad()?;
        let picked = gather::index_select(&leaf, 0, &ids)?;
        let d = reduce::sum_all(&e::square(&picked)?)?.backward()?.take(&leaf);
        let d = d.ok_or_else(|| Error::Failed("no gradient".into()))?;
        // Small results that would lie where the constant was.
        let small: Vec<Tensor> = (0..8).map(|i| e::affine(&x.slice(0, 0..1)?, 0.0, i as f32)).collect::<Result<_>>()?;
        Ok((d, small))
    };
    let mut repeated = Repeated::default();
    for round in 0..4_u32 {
        // An id past the end counts as the last: what the constant is for.
        ids.write(&[round, 12, round]).unwrap();
        let got = repeated.run(&runtime, work).unwrap().0.to_vec::<f32>().unwrap();
        assert_eq!(got, work().unwrap().0.to_vec::<f32>().unwrap(), "round {round}");
        assert!(got[36..] != [0.0; 4] && got[4 * round as usize] != 0.0);
    }
}

#[test]
fn writes_fit_or_are_refused() {
    let Some(runtime) = runtime() else { return };
    let all = Tensor::from_slice(&runtime, &values(0, 96), &[12, 8]).unwrap();
    let rows = all.slice(0, 4..6).unwrap();
    rows.write(&[2.5_f32; 16]).unwrap();
    let mut want = values(0, 96);
    want[32..48].fill(2.5);
    assert_eq!(all.to_vec::<f32>().unwrap(), want);
    assert!(matches!(all.write(&[1_u32; 96]), Err(Error::DType { .. })));
    assert!(matches!(all.write(&[1.0_f32; 95]), Err(Error::Shape { .. })));
    assert!(matches!(all.transpose().unwrap().write(&[1.0_f32; 96]), Err(Error::Argument { .. })));
    let bytes = Tensor::zeros(&runtime, &[7], DType::U8).unwrap();
    assert!(matches!(bytes.write(&[1_u8; 7]), Err(Error::Argument { .. })));
    bytes.slice(0, 0..4).unwrap().write(&[1_u8, 2, 3, 4]).unwrap();
    assert_eq!(bytes.to_vec::<u8>().unwrap(), [1, 2, 3, 4, 0, 0, 0]);
    assert_eq!(runtime.damaged_guards().unwrap(), 0);
}
