//! Kernels: an entry point of a WGSL file, its bindings and its variants, and the text and module made of them.

use super::device::DeviceProfile;
use crate::tensor::DType;
use crate::{Error, Result};
use std::borrow::Cow;
use std::fmt::Write;

/// How a kernel uses one binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bind {
    /// A storage buffer that is only read.
    Read,
    /// A storage buffer that is written, and may be read.
    Write,
}

/// A feature a kernel cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Subgroup operations, any size.
    Subgroup,
    /// Subgroup operations, on adapters whose only subgroup size is this one.
    SubgroupOf(u32),
    /// Cooperative matrices of this size with f16 operands and f32 sums, workgroups of 256 and [`COOPERATIVE_BYTES`].
    Cooperative(u32),
}

/// Workgroup memory of kernels on cooperative matrices at most, in bytes: what every adapter that has them offers.
pub const COOPERATIVE_BYTES: u32 = 32 << 10;

/// A file of shared WGSL functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Common {
    /// The file's stem under `shaders/common`.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// Index arithmetic: linear group and invocation ids, folded grids.
pub const INDEX: Common = Common { name: "index", source: include_str!("../../shaders/common/index.wgsl") };

/// An entry point of a family's WGSL file with everything needed to build and check it.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// The family: stem of the WGSL file.
    pub family: &'static str,
    /// The entry point.
    pub entry: &'static str,
    /// The family file's text.
    pub source: &'static str,
    /// Shared functions put in front.
    pub commons: &'static [Common],
    /// Bindings from 0, without the parameters.
    pub binds: &'static [Bind],
    /// Size of the parameter struct, in bytes; 0 without one.
    pub params_bytes: usize,
    /// Names of the element-type aliases the text uses (`Elem`, and `Elem4` for its vec4).
    pub aliases: &'static [&'static str],
    /// The element types in use, one list per alias.
    pub types: &'static [&'static [DType]],
    /// Override constants and the values in use; the sets are their product.
    pub overrides: &'static [(&'static str, &'static [u32])],
    /// What the adapter must have.
    pub needs: &'static [Need],
}

impl Kernel {
    /// A kernel on f32 elements without overrides; see the methods below for the rest.
    #[must_use]
    pub const fn new(family: &'static str, entry: &'static str, source: &'static str, binds: &'static [Bind]) -> Self {
        Self {
            family,
            entry,
            source,
            commons: &[INDEX],
            binds,
            params_bytes: 0,
            aliases: &["Elem"],
            types: &[&[DType::F32]],
            overrides: &[],
            needs: &[],
        }
    }

    /// With parameters of type `P`, at most 64 bytes of u32, i32 and f32.
    #[must_use]
    pub const fn params<P: bytemuck::Pod>(mut self) -> Self {
        assert!(size_of::<P>() <= super::PARAMS_BYTES as usize && size_of::<P>().is_multiple_of(4));
        self.params_bytes = size_of::<P>();
        self
    }

    /// With these shared functions.
    #[must_use]
    pub const fn commons(mut self, commons: &'static [Common]) -> Self {
        self.commons = commons;
        self
    }

    /// With these element types for the aliases, one list per alias, or one list for `Elem`.
    #[must_use]
    pub const fn types(mut self, aliases: &'static [&'static str], types: &'static [&'static [DType]]) -> Self {
        self.aliases = aliases;
        self.types = types;
        self
    }

    /// With these override constants and the values in use.
    #[must_use]
    pub const fn overrides(mut self, overrides: &'static [(&'static str, &'static [u32])]) -> Self {
        self.overrides = overrides;
        self
    }

    /// With these needs.
    #[must_use]
    pub const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// `family/entry`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}/{}", self.family, self.entry)
    }

    /// Whether `profile` has what this kernel needs with these element types.
    #[must_use]
    pub fn runs_on(&self, profile: &DeviceProfile, types: &[DType]) -> bool {
        let needs = self.needs.iter().all(|need| match need {
            Need::Subgroup => profile.features.subgroup,
            Need::SubgroupOf(size) => profile.fixed_subgroup() == Some(*size),
            Need::Cooperative(size) => {
                let has = match size {
                    16 => profile.features.cooperative_16,
                    8 => profile.features.cooperative_8,
                    _ => false,
                };
                let limits = &profile.limits;
                has && profile.features.subgroup
                    && limits.workgroup_bytes >= COOPERATIVE_BYTES
                    && limits.workgroup_threads.min(limits.workgroup_size_x) >= 256
            }
        });
        needs && (profile.features.f16 || !types.contains(&DType::F16))
    }

    /// Every combination of element types in use.
    #[must_use]
    pub fn type_sets(&self) -> Vec<Vec<DType>> {
        product(self.types)
    }

    /// Every set of override values in use.
    #[must_use]
    pub fn override_sets(&self) -> Vec<Vec<(&'static str, u32)>> {
        let values: Vec<&[u32]> = self.overrides.iter().map(|(_, values)| *values).collect();
        let named = |set: Vec<u32>| self.overrides.iter().map(|(name, _)| *name).zip(set).collect();
        product(&values).into_iter().map(named).collect()
    }

    /// The files that the WGSL text is made of, each with its name: prelude (enable lines, element types), shared
    /// functions, family file.
    ///
    /// With `uniform`, the parameters become a uniform binding behind the storage bindings.
    #[must_use]
    pub fn parts(&self, types: &[DType], uniform: bool) -> Vec<(String, Cow<'static, str>)> {
        let mut prelude = String::new();
        if self.needs.iter().any(|need| matches!(need, Need::Cooperative(_))) {
            prelude.push_str("enable wgpu_cooperative_matrix;\n");
        }
        if types.contains(&DType::F16) {
            prelude.push_str("enable f16;\n");
        }
        for (alias, dtype) in self.aliases.iter().zip(types) {
            let name = dtype.wgsl();
            let _ = writeln!(prelude, "alias {alias} = {name};\nalias {alias}4 = vec4<{name}>;");
        }
        let mut parts = vec![("prelude".to_owned(), Cow::Owned(prelude))];
        let shared = |common: &Common| (format!("common/{}.wgsl", common.name), Cow::Borrowed(common.source));
        parts.extend(self.commons.iter().map(shared));
        let source = if uniform {
            let binding = format!("@group(0) @binding({}) var<uniform>", self.binds.len());
            Cow::Owned(self.source.replace("var<immediate>", &binding))
        } else {
            Cow::Borrowed(self.source)
        };
        parts.push((format!("{}.wgsl", self.family), source));
        parts
    }

    /// The whole WGSL text: [`Kernel::parts`] one after another.
    #[must_use]
    pub fn text(&self, types: &[DType], uniform: bool) -> String {
        self.parts(types, uniform).into_iter().map(|(_, text)| text).collect()
    }

    /// The module of this entry point alone: parsed, other entry points and what only they use removed.
    ///
    /// naga takes one immediate per entry point and wgpu the size of the module's first, so modules are not shared.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the parser's message and line if the text is not WGSL, or has no such entry point.
    pub fn module(&self, types: &[DType], uniform: bool) -> Result<naga::Module> {
        let error = |message: String| Error::Kernel { kernel: self.label(), message };
        let text = self.text(types, uniform);
        let mut module =
            naga::front::wgsl::parse_str(&text).map_err(|e| error(e.emit_to_string_with_path(&text, self.family)))?;
        module.entry_points.retain(|e| e.name == self.entry);
        if module.entry_points.is_empty() {
            return Err(error(format!("no entry point {} in {}.wgsl", self.entry, self.family)));
        }
        naga::compact::compact(&mut module, naga::compact::KeepUnused::No);
        Ok(module)
    }
}

fn product<T: Copy>(axes: &[&[T]]) -> Vec<Vec<T>> {
    axes.iter().fold(vec![Vec::new()], |sets, axis| {
        sets.iter().flat_map(|set| axis.iter().map(|&value| [set.as_slice(), &[value]].concat())).collect()
    })
}
