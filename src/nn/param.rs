//! The tensors of a network: published name and shape, role, and how each lies on the device.

use std::ops::Index;

/// What a tensor does in its layer; it fixes how the published layout maps to the device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// Convolution weight: published `[out, in / groups, kh, kw]`, on the device `[kh, kw, in / groups, out]`.
    ConvWeight,
    /// Linear weight: published `[out, in]`, on the device `[in, out]`.
    LinearWeight,
    /// Linear weight behind a flattened image of `c` channels: published `[out, c h w]` with the channel slowest, on
    /// the device `[h w c, out]`, as images are NHWC there.
    FlattenedWeight {
        /// Channels of the flattened image.
        channels: usize,
    },
    /// Linear weight that is published as it lies on the device, `[in, out]`: GPT-2's.
    TransposedWeight,
    /// Rows that tokens and positions are looked up in: `[rows, width]`.
    Table,
    /// An added vector of a layer: `[n]`.
    Bias,
    /// An added vector of a norm: `[n]`.
    NormBias,
    /// A norm's factor: `[n]`.
    Gain,
    /// A norm's factor that stays 1: `[n]`. Not trained.
    UnitGain,
    /// A norm's added vector that stays 0: `[n]`. Not trained.
    ZeroBias,
    /// Batch norm's running mean: `[n]`. Not trained.
    RunningMean,
    /// Batch norm's running variance: `[n]`. Not trained.
    RunningVar,
    /// A learned token or position table: published `[1, tokens, width]`, on the device `[tokens, width]`.
    Token,
}

impl ParamKind {
    /// Whether training moves the tensor; running statistics are not counted as parameters.
    #[must_use]
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::RunningMean | Self::RunningVar | Self::UnitGain | Self::ZeroBias)
    }

    /// Whether mixed precision reads it as f16: all but what norms have. See [`super::Precision`].
    #[must_use]
    pub fn is_half(self) -> bool {
        self.is_trained() && !matches!(self, Self::Gain | Self::NormBias)
    }
}

/// One tensor of a network, in its published layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamSpec {
    /// Published name.
    pub name: String,
    /// Published shape.
    pub shape: Vec<usize>,
    /// Role.
    pub kind: ParamKind,
}

impl ParamSpec {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape on the device.
    #[must_use]
    pub fn device_shape(&self) -> Vec<usize> {
        let s = &self.shape;
        match self.kind {
            ParamKind::ConvWeight => vec![s[2], s[3], s[1], s[0]],
            ParamKind::LinearWeight | ParamKind::FlattenedWeight { .. } => vec![s[1], s[0]],
            ParamKind::Token => s[1..].to_vec(),
            _ => s.clone(),
        }
    }

    /// The values `[len]` from published to device order.
    #[must_use]
    pub fn to_device(&self, published: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; published.len()];
        self.for_each_pair(|p, d| out[d] = published[p]);
        out
    }

    /// The values `[len]` from device to published order, the inverse of [`ParamSpec::to_device`].
    #[must_use]
    pub fn to_published(&self, device: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; device.len()];
        self.for_each_pair(|p, d| out[p] = device[d]);
        out
    }

    /// Calls `f(published index, device index)` for every element.
    fn for_each_pair(&self, mut f: impl FnMut(usize, usize)) {
        // Every layout is a permutation of [out, slow, fast]: the device has fast, slow, out.
        let (n_out, n_slow, n_fast) = match self.kind {
            ParamKind::ConvWeight => (self.shape[0], self.shape[1], self.shape[2] * self.shape[3]),
            ParamKind::LinearWeight => (self.shape[0], 1, self.shape[1]),
            ParamKind::FlattenedWeight { channels } => (self.shape[0], channels, self.shape[1] / channels),
            _ => (1, 1, self.len()),
        };
        let mut published = 0;
        for out in 0..n_out {
            for slow in 0..n_slow {
                for fast in 0..n_fast {
                    f(published, (fast * n_slow + slow) * n_out + out);
                    published += 1;
                }
            }
        }
    }
}

/// Place of a tensor in its network's [`ParamList`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamId(usize);

impl ParamId {
    /// Index into anything kept in the list's order.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// The tensors of a network in the order of its layers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParamList(Vec<ParamSpec>);

impl ParamList {
    /// Adds a tensor at the end.
    pub fn add(&mut self, name: impl Into<String>, shape: impl Into<Vec<usize>>, kind: ParamKind) -> ParamId {
        self.0.push(ParamSpec { name: name.into(), shape: shape.into(), kind });
        ParamId(self.0.len() - 1)
    }

    /// The first `n` tensors.
    #[must_use]
    pub(super) fn first(&self, n: usize) -> Self {
        Self(self.0.iter().take(n).cloned().collect())
    }

    /// The tensors in order.
    pub fn iter(&self) -> std::slice::Iter<'_, ParamSpec> {
        self.0.iter()
    }

    /// Number of tensors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of trained values, running statistics left out.
    #[must_use]
    pub fn n_trained(&self) -> u64 {
        self.iter().filter(|p| p.kind.is_trained()).map(|p| p.len() as u64).sum()
    }

    /// Number of values, running statistics included.
    #[must_use]
    pub fn n_stored(&self) -> u64 {
        self.iter().map(|p| p.len() as u64).sum()
    }
}

impl Index<ParamId> for ParamList {
    type Output = ParamSpec;

    fn index(&self, id: ParamId) -> &ParamSpec {
        &self.0[id.0]
    }
}

impl<'a> IntoIterator for &'a ParamList {
    type Item = &'a ParamSpec;
    type IntoIter = std::slice::Iter<'a, ParamSpec>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[usize], kind: ParamKind) -> ParamSpec {
        ParamSpec { name: "w".into(), shape: shape.to_vec(), kind }
    }

    #[test]
    fn conv_weight_goes_from_oihw_to_hwio() {
        let p = spec(&[2, 3, 2, 2], ParamKind::ConvWeight);
        let published: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let device = p.to_device(&published);
        assert_eq!(p.device_shape(), [2, 2, 3, 2]);
        for (o, i, y, x) in (0..24).map(|n| (n / 12, n / 4 % 3, n / 2 % 2, n % 2)) {
            assert_eq!(device[((y * 2 + x) * 3 + i) * 2 + o], published[((o * 3 + i) * 2 + y) * 2 + x]);
        }
        assert_eq!(p.to_published(&device), published);
    }

    #[test]
    fn linear_weight_is_transposed() {
        let p = spec(&[2, 3], ParamKind::LinearWeight);
        assert_eq!(p.to_device(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(p.device_shape(), [3, 2]);
    }

    #[test]
    fn flattened_weight_follows_nhwc() {
        // 2 channels of 3 pixels, 1 output: c0 p0..2, c1 p0..2 becomes p0 c0 c1, p1 c0 c1, p2 c0 c1.
        let p = spec(&[1, 6], ParamKind::FlattenedWeight { channels: 2 });
        let device = p.to_device(&[0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
        assert_eq!(device, [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
        assert_eq!(p.to_published(&device), [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
    }

    #[test]
    fn tokens_and_vectors_stay_as_they_are() {
        let p = spec(&[1, 2, 2], ParamKind::Token);
        assert_eq!(p.device_shape(), [2, 2]);
        assert_eq!(p.to_device(&[1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn running_statistics_are_stored_but_not_trained() {
        let mut list = ParamList::default();
        list.add("gain", [4], ParamKind::Gain);
        list.add("mean", [4], ParamKind::RunningMean);
        assert_eq!((list.n_trained(), list.n_stored()), (4, 8));
    }
}
