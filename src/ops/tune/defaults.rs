//! The variants that ops take without trying, by class of adapter: the one table of them.
//!
//! The numbers for software adapters were measured on lavapipe (Mesa 22.3, two cores). Those for GPUs are guesses, the same
//! for all vendors: large tiles through workgroup memory where there is work enough to fill them. None was measured on a
//! GPU yet; where tuning is on, they are only where it starts from. What a vendor's GPUs turn out to want goes into its row.

use crate::ops::attention::AttentionVariant;
use crate::ops::conv::{self, WeightVariant};
use crate::ops::norm::ChannelVariant;
use crate::ops::sort::SortVariant;
use crate::ops::{matmul, quant};
use crate::runtime::DeviceProfile;

/// What ops take on one class of adapters. Lists are in order of preference; the first that takes the problem and runs on
/// the adapter is taken, else the plain variant.
pub(crate) struct Defaults {
    /// Rows of up to this many columns are one invocation's; longer ones are shared by a workgroup.
    pub(crate) row_alone: usize,
    /// Products of tiles, with the rate of full tiles in any unit: the variant with the least time for the tiles filled up is
    /// taken. Where empty, large tiles from so many workgroups on, else small ones.
    pub(crate) matmul_rates: &'static [(matmul::Variant, f64)],
    /// The same where the operands do not lie in fours.
    pub(crate) matmul_rates_any: &'static [(matmul::Variant, f64)],
    pub(crate) matmul_large_from: u64,
    /// The same on cooperative matrices.
    pub(crate) cooperative_large_from: u64,
    /// A row times a matrix, or a matrix times a column.
    pub(crate) matmul_vector: matmul::Variant,
    pub(crate) attention: &'static [AttentionVariant],
    pub(crate) attention_bwd: &'static [AttentionVariant],
    /// By output channels of a group, up to the number in front.
    pub(crate) conv: &'static [(usize, &'static [conv::Variant])],
    pub(crate) conv_bwd_w: &'static [(usize, &'static [WeightVariant])],
    pub(crate) channels: ChannelVariant,
    pub(crate) sort: SortVariant,
    /// By rows, up to the number in front.
    pub(crate) quant: &'static [(usize, quant::Variant)],
    pub(crate) quant_bwd: &'static [(usize, quant::Variant)],
}

const ANY: usize = usize::MAX;

/// Measured: registers, few loads, no workgroup memory.
const SOFTWARE: Defaults = Defaults {
    row_alone: ANY,
    // GFLOP/s of one core.
    matmul_rates: &[
        (matmul::Variant::Subgroup32x8, 30.0),
        (matmul::Variant::Subgroup32x4, 23.0),
        (matmul::Variant::Subgroup8x8, 16.5),
        (matmul::Variant::Registers16, 12.0),
        (matmul::Variant::Registers8, 10.5),
    ],
    matmul_rates_any: &[
        (matmul::Variant::Subgroup32x8, 30.0),
        (matmul::Variant::Subgroup32x4, 29.0),
        (matmul::Variant::Subgroup8x8, 18.5),
        (matmul::Variant::Registers16, 13.0),
        (matmul::Variant::Registers8, 11.0),
    ],
    matmul_large_from: 0,
    cooperative_large_from: 0,
    matmul_vector: matmul::Variant::Vector,
    attention: &[
        AttentionVariant::Narrow,
        AttentionVariant::Lanes,
        AttentionVariant::Registers,
        AttentionVariant::Tiled,
    ],
    // Where there are no subgroups of 8, tiles still do better than one row at a time.
    attention_bwd: &[AttentionVariant::Lanes, AttentionVariant::Tiled],
    conv: &[
        // The products' tiles are wider than 16 channels.
        (
            16,
            &[
                conv::Variant::Depthwise3,
                conv::Variant::Depthwise,
                conv::Variant::Subgroup,
                conv::Variant::Matmul,
                conv::Variant::Stem,
                conv::Variant::Registers,
            ],
        ),
        (
            ANY,
            &[
                conv::Variant::Depthwise3,
                conv::Variant::Depthwise,
                conv::Variant::Matmul,
                conv::Variant::Subgroup,
                conv::Variant::Stem,
                conv::Variant::Registers,
            ],
        ),
    ],
    conv_bwd_w: &[(
        ANY,
        &[WeightVariant::Depthwise, WeightVariant::Matmul, WeightVariant::Window3, WeightVariant::Subgroup],
    )],
    channels: ChannelVariant::Neighbours,
    sort: SortVariant::Lanes,
    quant: &[(2, quant::Variant::Row), (32, quant::Variant::Registers), (ANY, quant::Variant::Unpacked)],
    quant_bwd: &[(32, quant::Variant::Registers), (ANY, quant::Variant::Unpacked)],
};

/// Guessed: workgroup memory, subgroups, neighbouring lanes at neighbouring elements.
const GPU: Defaults = Defaults {
    row_alone: 32,
    matmul_rates: &[],
    matmul_rates_any: &[],
    // What fills a large GPU.
    matmul_large_from: 256,
    cooperative_large_from: 128,
    matmul_vector: matmul::Variant::VectorShared,
    attention: &[AttentionVariant::Tiled],
    attention_bwd: &[AttentionVariant::Tiled],
    conv: &[
        // A tile for a handful of channels would mostly compute what nobody stores.
        (7, &[conv::Variant::Depthwise3, conv::Variant::Depthwise, conv::Variant::Matmul]),
        (ANY, &[conv::Variant::Depthwise3, conv::Variant::Depthwise, conv::Variant::Matmul, conv::Variant::Tile]),
    ],
    conv_bwd_w: &[
        (7, &[WeightVariant::Depthwise, WeightVariant::Matmul]),
        (ANY, &[WeightVariant::Depthwise, WeightVariant::Matmul, WeightVariant::Tile]),
    ],
    channels: ChannelVariant::Interleaved,
    sort: SortVariant::Groups,
    // By the share of the tiles that is in use.
    quant: &[(4, quant::Variant::Row), (512, quant::Variant::Tiled), (ANY, quant::Variant::Unpacked)],
    quant_bwd: &[(512, quant::Variant::Tiled), (ANY, quant::Variant::Unpacked)],
};

const NVIDIA: Defaults = GPU;
const AMD: Defaults = GPU;
const INTEL: Defaults = GPU;
const APPLE: Defaults = GPU;

impl Defaults {
    /// Those of the adapter's class.
    pub(crate) fn of(profile: &DeviceProfile) -> &'static Self {
        // PCI vendors; Metal names none.
        match profile.vendor {
            _ if profile.is_software() => &SOFTWARE,
            0x10de => &NVIDIA,
            0x1002 => &AMD,
            0x8086 => &INTEL,
            0x106b => &APPLE,
            _ if profile.backend == "metal" => &APPLE,
            _ => &GPU,
        }
    }
}

/// What stands behind the first bound that is not below `n`; the last bound is [`ANY`].
pub(crate) fn up_to<T: Copy>(rows: &[(usize, T)], n: usize) -> Option<T> {
    rows.iter().find(|(most, _)| n <= *most).map(|(_, value)| *value)
}
