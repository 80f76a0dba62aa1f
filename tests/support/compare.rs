//! Element-by-element comparison against f64.

/// How far a result may lie from its reference: `atol + rtol |reference|`, per element.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub atol: f64,
    pub rtol: f64,
    /// Elements that may lie outside, for ties and cutoffs, counted.
    pub allowed: usize,
}

impl Tolerance {
    /// What f32 arithmetic with a few roundings keeps.
    pub const F32: Self = Self { atol: 1e-5, rtol: 1e-4, allowed: 0 };
    /// What f16 storage with f32 arithmetic keeps: half a unit in the last of 11 bits, and subnormals of 2^-24.
    pub const F16: Self = Self { atol: 2e-4, rtol: 2e-3, allowed: 0 };

    /// Twice as wide, for two results that are each held to this one.
    pub fn doubled(self) -> Self {
        Self { atol: 2.0 * self.atol, rtol: 2.0 * self.rtol, allowed: 2 * self.allowed }
    }
}

/// Largest absolute error, or what is wrong: how many elements, the worst of them, and a constant bias.
///
/// NaN equals only NaN, an infinity only itself.
pub fn compare(got: &[f64], want: &[f64], tolerance: Tolerance) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{} elements, {} wanted", got.len(), want.len()));
    }
    let (mut bad, mut worst, mut worst_excess, mut largest, mut sum, mut scale) = (0, 0, 0.0, 0.0_f64, 0.0, 0.0);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        if (g.is_nan() && w.is_nan()) || g == w {
            continue;
        }
        let error = (g - w).abs();
        let bound = tolerance.atol + tolerance.rtol * w.abs();
        largest = largest.max(error);
        if error.is_finite() {
            sum += g - w;
            scale += bound;
        }
        let excess = if error.is_finite() && w.is_finite() { error / bound } else { f64::INFINITY };
        if excess > 1.0 {
            bad += 1;
            if excess > worst_excess {
                (worst, worst_excess) = (i, excess);
            }
        }
    }
    if bad > tolerance.allowed {
        let (g, w) = (got[worst], want[worst]);
        return Err(format!(
            "{bad} of {} elements off, worst at {worst}: {g:e}, {w:e} wanted ({worst_excess:.1} x the tolerance)",
            got.len()
        ));
    }
    // Rounding errors cancel over many elements; a bias does not.
    if got.len() >= 64 && sum.abs() > 0.5 * scale && largest > tolerance.atol {
        return Err(format!("a constant bias of {:e}", sum / got.len() as f64));
    }
    Ok(largest)
}

#[test]
fn comparison_catches_each_kind_of_fault() {
    let want: Vec<f64> = (0..1000).map(|i| f64::from(i).sin() * 3.0).collect();
    let check = |f: &dyn Fn(&mut Vec<f64>)| {
        let mut got = want.clone();
        f(&mut got);
        compare(&got, &want, Tolerance::F32)
    };
    assert_eq!(check(&|_| ()), Ok(0.0));
    assert!(check(&|g| g[17] += 1e-3).is_err(), "one wrong element");
    assert!(check(&|g| g[999] = f64::NAN).is_err(), "one NaN");
    assert!(check(&|g| g[3] = f64::INFINITY).is_err(), "one infinity");
    assert!(check(&|g| g.swap(4, 5)).is_err(), "a swapped pair");
    assert!(check(&|g| g.iter_mut().for_each(|v| *v += 0.9 * (1e-5 + 1e-4 * v.abs()))).is_err(), "a constant bias");
    assert!(check(&|g| g.truncate(999)).is_err(), "a missing element");
    assert!(compare(&[1.0], &[f64::NAN], Tolerance::F32).is_err(), "a number in place of NaN");
    assert!(compare(&[f64::NAN, f64::INFINITY], &[f64::NAN, f64::INFINITY], Tolerance::F32).is_ok());
}
