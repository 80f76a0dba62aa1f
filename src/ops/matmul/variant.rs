//! How a product is computed: the kernels, the tiles they work on, and their loops.

use super::super::act::{self, ACT, Act};
use crate::runtime::{
    Bind::{Read, Write},
    Common, DeviceProfile, INDEX, Kernel, Need,
};
use crate::tensor::DType;

const SOURCE: &str = include_str!("../../../shaders/matmul.wgsl");
const FAMILY: &str = "matmul";
const MATMUL: Common = Common { name: "matmul", source: include_str!("../../../shaders/common/matmul.wgsl") };
const COMMONS: &[Common] = &[INDEX, ACT, MATMUL];
const FLOATS: &[DType] = &[DType::F32, DType::F16];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct MatmulParams {
    pub(super) n_batch: u32,
    pub(super) n_batch_inner: u32,
    pub(super) n_rows: u32,
    pub(super) n_cols: u32,
    pub(super) n_inner: u32,
    pub(super) base_a: u32,
    pub(super) base_b: u32,
    pub(super) stride_a_row: u32,
    pub(super) stride_a_inner: u32,
    pub(super) stride_b_inner: u32,
    pub(super) stride_b_col: u32,
    pub(super) stride_a_batch: [u32; 2],
    pub(super) stride_b_batch: [u32; 2],
    pub(super) bias: u32,
}

/// Override constants and the values in use.
type Overrides = &'static [(&'static str, &'static [u32])];

const fn kernel(entry: &'static str, overrides: Overrides) -> Kernel {
    Kernel::new(FAMILY, entry, SOURCE, &[Read, Read, Read, Write])
        .commons(COMMONS)
        .params::<MatmulParams>()
        .types(&["Elem"], &[FLOATS])
        .overrides(overrides)
}

const ALL_ACTS: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7, 8];
/// Without an activation, every layout.
const PLAIN: [(&str, &[u32]); 2] = [("ACT", &[0]), ("LAYOUT", &[0, 1, 2, 3, 4])];
/// With one, fewer: the operands of other layouts are copied first.
const WITH_ACT: [(&str, &[u32]); 2] = [("ACT", act::CODES), ("LAYOUT", &[0, 4])];

/// A kernel without and with an activation; the sizes come behind `ACT` and `LAYOUT`.
macro_rules! pair {
    ($entry:literal $(, $name:literal = $value:literal)* $(; $need:expr)?) => {
        [
            kernel($entry, &[PLAIN[0], PLAIN[1] $(, ($name, &[$value]))*])$(.needs(&[$need]))?,
            kernel($entry, &[WITH_ACT[0], WITH_ACT[1] $(, ($name, &[$value]))*])$(.needs(&[$need]))?,
        ]
    };
}

const MATMUL_PLAIN_FWD: Kernel = kernel("matmul_plain_fwd", &[("ACT", ALL_ACTS)]);
const REGISTERS_8: [Kernel; 2] = pair!("matmul_registers_fwd", "WG_SIZE" = 16, "ROWS" = 8);
const REGISTERS_16: [Kernel; 2] = pair!("matmul_registers_fwd", "WG_SIZE" = 16, "ROWS" = 16);
const SUBGROUP_8X8: [Kernel; 2] = pair!("matmul_subgroup_fwd", "ROWS" = 8, "COLS" = 8; Need::SubgroupOf(8));
const SUBGROUP_32X4: [Kernel; 2] = pair!("matmul_subgroup_fwd", "ROWS" = 32, "COLS" = 4; Need::SubgroupOf(8));
const SUBGROUP_32X8: [Kernel; 2] = pair!("matmul_subgroup_fwd", "ROWS" = 32, "COLS" = 8; Need::SubgroupOf(8));
const TILED_64: [Kernel; 2] = pair!("matmul_tiled_fwd", "TILE" = 64);
const TILED_128: [Kernel; 2] = pair!("matmul_tiled_fwd", "TILE" = 128);
const VECTOR: [Kernel; 2] = pair!("matmul_vector_fwd", "WG_SIZE" = 8, "QUADS" = 8);
const VECTOR_SHARED: [Kernel; 2] = pair!("matmul_vector_fwd", "WG_SIZE" = 128, "QUADS" = 8);

/// Tiles on cooperative matrices.
pub(in crate::ops) const COOP: Common =
    Common { name: "coop", source: include_str!("../../../shaders/common/coop.wgsl") };

/// On cooperative matrices: f16 operands, and a result in f16, or in f32 for partial sums.
const fn coop(entry: &'static str, overrides: Overrides) -> Kernel {
    Kernel::new("matmul_coop", entry, include_str!("../../../shaders/matmul_coop.wgsl"), &[Read, Read, Read, Write])
        .commons(&[INDEX, ACT, MATMUL, COOP])
        .params::<MatmulParams>()
        .types(&["Elem", "Out"], &[&[DType::F16], FLOATS])
        .overrides(overrides)
}

/// A kernel on matrices of a size, without and with an activation.
macro_rules! coop_pair {
    ($entry:literal, $tile:literal, $size:literal) => {
        [
            coop($entry, &[PLAIN[0], PLAIN[1], ("TILE", &[$tile])]).needs(&[Need::Cooperative($size)]),
            coop($entry, &[WITH_ACT[0], WITH_ACT[1], ("TILE", &[$tile])]).needs(&[Need::Cooperative($size)]),
        ]
    };
}

const COOPERATIVE_16: [Kernel; 2] = coop_pair!("matmul_coop_16_fwd", 128, 16);
const COOPERATIVE_16_SMALL: [Kernel; 2] = coop_pair!("matmul_coop_16_fwd", 64, 16);
const COOPERATIVE_8: [Kernel; 2] = coop_pair!("matmul_coop_8_fwd", 64, 8);

/// The kernels of this family.
pub const KERNELS: &[Kernel] = &[
    MATMUL_PLAIN_FWD,
    REGISTERS_8[0],
    REGISTERS_8[1],
    REGISTERS_16[0],
    REGISTERS_16[1],
    SUBGROUP_8X8[0],
    SUBGROUP_8X8[1],
    SUBGROUP_32X4[0],
    SUBGROUP_32X4[1],
    SUBGROUP_32X8[0],
    SUBGROUP_32X8[1],
    TILED_64[0],
    TILED_64[1],
    TILED_128[0],
    TILED_128[1],
    VECTOR[0],
    VECTOR[1],
    VECTOR_SHARED[0],
    VECTOR_SHARED[1],
    COOPERATIVE_16[0],
    COOPERATIVE_16[1],
    COOPERATIVE_16_SMALL[0],
    COOPERATIVE_16_SMALL[1],
    COOPERATIVE_8[0],
    COOPERATIVE_8[1],
];

/// How a product is computed; tiles are rows x columns of one invocation unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Variant {
    /// One output per invocation, any strides: what the others are checked against.
    Plain,
    /// 8 x 8 in registers, operands straight from memory: software adapters.
    Registers8,
    /// 16 x 8 in registers, operands straight from memory: software adapters.
    Registers16,
    /// 8 x 8, the rows of `a` shared by broadcast: adapters with subgroups of 8.
    Subgroup8x8,
    /// 32 x 4, the rows of `a` shared by broadcast: adapters with subgroups of 8.
    Subgroup32x4,
    /// 32 x 8, the rows of `a` shared by broadcast: adapters with subgroups of 8.
    Subgroup32x8,
    /// 64 x 64 of a workgroup of 64, operands through workgroup memory: GPUs.
    Tiled64,
    /// 128 x 128 of a workgroup of 256, operands through workgroup memory: GPUs.
    Tiled128,
    /// A row times a matrix, or a matrix times a column, one invocation per 4 sums: software adapters. Refused where
    /// both `m` and `n` pass 1.
    Vector,
    /// The same with each sum shared by 16 invocations of a workgroup: GPUs.
    VectorShared,
    /// f16, 128 x 128 of a workgroup of 256 on cooperative matrices of 16: adapters that have them, where they are asked for.
    Cooperative16,
    /// f16, 64 x 64 of a workgroup of 128 on cooperative matrices of 16.
    Cooperative16Small,
    /// f16, 64 x 64 of a workgroup of 128 on cooperative matrices of 8.
    Cooperative8,
}

impl Variant {
    /// Every variant.
    pub const ALL: &[Self] = &[
        Self::Plain,
        Self::Registers8,
        Self::Registers16,
        Self::Subgroup8x8,
        Self::Subgroup32x4,
        Self::Subgroup32x8,
        Self::Tiled64,
        Self::Tiled128,
        Self::Vector,
        Self::VectorShared,
        Self::Cooperative16,
        Self::Cooperative16Small,
        Self::Cooperative8,
    ];

    /// Whether an adapter has what it needs for `dtype`.
    #[must_use]
    pub fn runs_on(self, profile: &DeviceProfile, dtype: DType) -> bool {
        let kernel = self.kernel(Act::None);
        kernel.types[0].contains(&dtype) && kernel.runs_on(profile, &[dtype])
    }

    /// Whether it uses cooperative matrices: f16 operands alone, and results in f16 or, for partial sums, f32.
    #[must_use]
    pub fn is_cooperative(self) -> bool {
        matches!(self, Self::Cooperative16 | Self::Cooperative16Small | Self::Cooperative8)
    }

    pub(super) fn kernel(self, act: Act) -> &'static Kernel {
        let pair: &'static [Kernel; 2] = match self {
            Self::Plain => return &MATMUL_PLAIN_FWD,
            Self::Registers8 => &REGISTERS_8,
            Self::Registers16 => &REGISTERS_16,
            Self::Subgroup8x8 => &SUBGROUP_8X8,
            Self::Subgroup32x4 => &SUBGROUP_32X4,
            Self::Subgroup32x8 => &SUBGROUP_32X8,
            Self::Tiled64 => &TILED_64,
            Self::Tiled128 => &TILED_128,
            Self::Vector => &VECTOR,
            Self::VectorShared => &VECTOR_SHARED,
            Self::Cooperative16 => &COOPERATIVE_16,
            Self::Cooperative16Small => &COOPERATIVE_16_SMALL,
            Self::Cooperative8 => &COOPERATIVE_8,
        };
        &pair[usize::from(act != Act::None)]
    }

    /// Rows and columns that one step of the grid covers.
    pub(super) fn tile(self) -> (u64, u64) {
        match self {
            Self::Plain => (1, 1),
            Self::Registers8 => (8, 8),
            Self::Registers16 => (16, 8),
            Self::Subgroup8x8 => (8, 64),
            Self::Subgroup32x4 => (32, 32),
            Self::Subgroup32x8 => (32, 64),
            Self::Tiled64 | Self::Cooperative16Small | Self::Cooperative8 => (64, 64),
            Self::Tiled128 | Self::Cooperative16 => (128, 128),
            Self::Vector | Self::VectorShared => (1, 32),
        }
    }

    /// Rounds of an invocation's loops for 64 inner indices.
    pub(super) fn rounds_of_64(self) -> usize {
        match self {
            Self::Plain => 64,
            // 16 inner indices take one round each, staging the operands up to two, and leaving each loop one more.
            Self::Tiled64 | Self::Tiled128 => 4 * (16 + 2 + 3),
            Self::VectorShared => 1,
            // Two panels of up to five rounds and one more, gone through up to four times by one or two large subgroups.
            Self::Cooperative16 | Self::Cooperative16Small | Self::Cooperative8 => 4 * 2 * (5 + 1),
            _ => 16,
        }
    }

    /// Workgroups for `n_batch` products of `m` x `n` outputs.
    pub(super) fn groups(self, n_batch: u64, m: u64, n: u64) -> u64 {
        let (rows, cols) = self.tile();
        let (down, across) = (m.div_ceil(rows), n.div_ceil(cols));
        match self {
            Self::Plain => (n_batch * m * n).div_ceil(64),
            // Strips of at most eight tiles, equally wide.
            Self::Registers8 | Self::Registers16 => {
                let n_strips = across.div_ceil(8);
                (n_batch * down * n_strips * across.div_ceil(n_strips.max(1))).div_ceil(16)
            }
            _ => n_batch * down * across,
        }
    }
}
