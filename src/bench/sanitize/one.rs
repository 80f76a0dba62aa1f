//! One kernel: a file's, or one of the registry, on the inputs that the flags name.

use std::path::Path;
use std::time::Instant;

use super::input::{Filled, Input, Slot};
use super::report::SanitizeReport;
use super::{SanitizeFlags, options, pairs};
use crate::data::npy;
use crate::files::check_writable;
use crate::runtime::Kernel;
use crate::sim::{Access, Bound, Program, Source};
use crate::tensor::DType;
use crate::{Error, Result};

pub(super) fn run(flags: &SanitizeFlags, seed: u64, quiet: bool, report: &mut SanitizeReport) -> Result<()> {
    let program = if flags.is_file() { of_file(flags)? } else { of_registry(flags)? };
    let slots = slots(&program, !flags.is_file());
    let filled = fill(&program, &slots, &flags.input, seed)?;
    let outputs = outputs(flags, &program, &slots)?;
    let mut first: Option<Vec<Vec<u8>>> = None;
    for pair in pairs(flags) {
        let options = options(flags, pair);
        let n_bindings = program.bindings().len();
        let buffers: Vec<_> = filled[..n_bindings].iter().map(Filled::buffer).collect();
        let bound: Vec<_> = buffers.iter().map(Bound::all).collect();
        let immediates = filled.get(n_bindings).and_then(Filled::bytes).unwrap_or_default();
        let start = Instant::now();
        let mut outcome = program.run(flags.groups.0, &bound, immediates, &options)?;
        let seconds = start.elapsed().as_secs_f64();
        if options.checks.unwritten && !flags.partial_outputs {
            // Only what came unwritten can show it.
            outcome.findings.extend(program.never_written(&bound, &options));
        }
        report.ran(pair, outcome.operations, seconds, outcome.findings, quiet);
        let after: Vec<Vec<u8>> = buffers.iter().map(|buffer| buffer.read(0, buffer.len())).collect();
        match &first {
            None => {
                for (slot, path) in &outputs {
                    let shape = &filled[*slot].shape;
                    let name = slots[*slot].layout.only_type().unwrap_or("f32");
                    let values = slots[*slot].decode(&after[*slot], shape.iter().product());
                    npy::write(path, shape, name, &values)?;
                }
                first = Some(after);
            }
            Some(first) => {
                for (info, (a, b)) in program.bindings().iter().zip(first.iter().zip(&after)) {
                    let words = a.chunks(4).zip(b.chunks(4));
                    report.differ(&info.name, words.filter(|(a, b)| a != b).count() as u64, pair);
                }
            }
        }
    }
    Ok(())
}

fn of_file(flags: &SanitizeFlags) -> Result<Program> {
    let path = Path::new(&flags.target);
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::file(path, "not a text in UTF-8"))?;
    let source = Source::new(&flags.target, text);
    let entry = match &flags.entry {
        Some(entry) => entry.clone(),
        None => {
            let mut entries = Program::entries(&source)?;
            match (entries.pop(), entries.is_empty()) {
                (Some(only), true) => only,
                (None, _) => return Err(Error::file(path, "no compute entry point")),
                (Some(last), false) => {
                    entries.push(last);
                    return Err(Error::file(
                        path,
                        format!("several entry points, give --entry: {}", entries.join(", ")),
                    ));
                }
            }
        }
    };
    let constants: Vec<(&str, f64)> = flags.set.iter().map(|set| (set.name.as_str(), set.value)).collect();
    Program::new(source, &entry, &constants)
}

fn of_registry(flags: &SanitizeFlags) -> Result<Program> {
    let (family, entry) = (flags.target.as_str(), flags.entry.as_deref().unwrap_or_default());
    let kernels = crate::kernels();
    let of_family: Vec<&Kernel> = kernels.iter().copied().filter(|kernel| kernel.family == family).collect();
    if of_family.is_empty() {
        let mut families: Vec<&str> = kernels.iter().map(|kernel| kernel.family).collect();
        families.dedup();
        let there = families.join(", ");
        return Err(Error::Input(format!("no family is called '{family}'; there are {there}; a file ends in .wgsl")));
    }
    // The registry may have one more than once, with other types.
    let candidates: Vec<&Kernel> = of_family.iter().copied().filter(|kernel| kernel.entry == entry).collect();
    if candidates.is_empty() {
        let mut entries: Vec<&str> = Vec::new();
        for kernel in of_family {
            if !entries.contains(&kernel.entry) {
                entries.push(kernel.entry);
            }
        }
        return Err(Error::Input(format!("{family}: no entry point '{entry}'; there are: {}", entries.join(", "))));
    }
    let (kernel, types) = types(&candidates, &flags.types)?;
    let mut values = kernel.override_sets().into_iter().next().unwrap_or_default();
    for set in &flags.set {
        let slot = values.iter_mut().find(|(name, _)| *name == set.name);
        let Some((_, value)) = slot else {
            let names: Vec<&str> = kernel.overrides.iter().map(|(name, _)| *name).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let message = format!("{}: no override constant '{}'; there are: {there}", kernel.label(), set.name);
            return Err(Error::Input(message));
        };
        if set.value < 0.0 || set.value.fract() != 0.0 || set.value > f64::from(u32::MAX) {
            return Err(Error::Input(format!("{} = {}: expected a number of type u32", set.name, set.value)));
        }
        *value = set.value as u32;
    }
    kernel.program(&types, &values, false).map_err(|error| match error {
        // The registry's kernels are right: what is refused is what the flags made of them.
        Error::Kernel { message, .. } => Error::Input(message),
        other => other,
    })
}

/// The kernel that takes these element types, and the type of each of its aliases.
fn types<'a>(kernels: &[&'a Kernel], asked: &[DType]) -> Result<(&'a Kernel, Vec<DType>)> {
    let all = kernels.iter().flat_map(|kernel| kernel.type_sets().into_iter().map(|set| (*kernel, set)));
    let all: Vec<(&Kernel, Vec<DType>)> = all.collect();
    let fits = |set: &[DType]| {
        let same = asked.len() == 1 && set.iter().all(|t| *t == asked[0]);
        asked.is_empty() || set == asked || same
    };
    let told = |set: &[DType]| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    all.iter().find(|(_, set)| fits(set)).cloned().ok_or_else(|| {
        let there: Vec<String> = all.iter().map(|(_, set)| told(set)).collect();
        let label = kernels.first().map(|kernel| kernel.label()).unwrap_or_default();
        Error::Input(format!("{label}: --types {} is not in use; there are: {}", told(asked), there.join(" ")))
    })
}

/// The bindings, then the immediates if there are any.
fn slots(program: &Program, padded: bool) -> Vec<Slot> {
    let bindings = program.bindings().iter().map(|info| (info.name.clone(), info.layout.clone(), info.min_bytes));
    let immediates = program.immediates().zip(program.immediate_layout());
    let immediates = immediates.map(|((name, bytes), layout)| (name.to_owned(), layout.clone(), u64::from(bytes)));
    let n_bindings = program.bindings().len() as u32;
    let all = bindings.chain(immediates).zip(0..);
    all.map(|((name, layout, min_bytes), number)| Slot {
        name,
        layout,
        min_bytes,
        padded: padded && number < n_bindings,
        number,
    })
    .collect()
}

fn fill(program: &Program, slots: &[Slot], inputs: &[Input], seed: u64) -> Result<Vec<Filled>> {
    let told = || slots.iter().map(Slot::told).collect::<Vec<_>>().join(", ");
    for (i, input) in inputs.iter().enumerate() {
        if !slots.iter().any(|slot| slot.name == input.name) {
            return Err(Error::Input(format!("--input {}: no such binding; there are: {}", input.name, told())));
        }
        if inputs[..i].iter().any(|other| other.name == input.name) {
            return Err(Error::Input(format!("--input {}: given twice", input.name)));
        }
    }
    let missing: Vec<String> =
        slots.iter().filter(|slot| !inputs.iter().any(|i| i.name == slot.name)).map(Slot::told).collect();
    if !missing.is_empty() {
        return Err(Error::Input(format!(
            "no --input for {}; each is NAME=FILE.npy or NAME=random|zeros|unwritten[:SHAPE] or NAME=values:1,2,3",
            missing.join(", ")
        )));
    }
    let filled = slots.iter().map(|slot| {
        let input = inputs.iter().find(|input| input.name == slot.name);
        let filled = slot.fill(input.ok_or_else(|| Error::Input(format!("no --input for {}", slot.name)))?, seed)?;
        if slot.number as usize >= program.bindings().len() && filled.bytes().is_none() {
            return Err(Error::Input(format!("--input {}: immediates cannot be unwritten", slot.name)));
        }
        Ok(filled)
    });
    filled.collect()
}

/// The slots to save, and where.
fn outputs<'a>(flags: &'a SanitizeFlags, program: &Program, slots: &[Slot]) -> Result<Vec<(usize, &'a Path)>> {
    let output = |output: &'a super::Output| {
        let wrong = |message: String| Error::Input(format!("--output {}: {message}", output.name));
        let written = |info: &&crate::sim::BindingInfo| info.access == Access::ReadWrite;
        let Some(slot) = program.bindings().iter().position(|info| info.name == output.name && written(&info)) else {
            let names: Vec<&str> = program.bindings().iter().filter(written).map(|info| info.name.as_str()).collect();
            return Err(wrong(format!("no such output; there are: {}", names.join(", "))));
        };
        if slots[slot].layout.only_type().is_none() {
            return Err(wrong("numbers of several types do not go into one .npy file".into()));
        }
        check_writable(&output.path)?;
        Ok((slot, output.path.as_path()))
    };
    flags.output.iter().map(output).collect()
}
