//! Which lines and branches of shaders ran.

use super::program::{Code, Op, PASSED, RAN, TAKEN};
use super::source::Place;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// What was seen of a line of a shader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Some invocation executed it.
    pub ran: bool,
    /// It holds a condition, such as that of an `if` or a loop, or a case.
    pub branches: bool,
    /// The condition held for some invocation.
    pub taken: bool,
    /// It did not hold for some invocation.
    pub passed: bool,
}

impl Line {
    fn merge(&mut self, other: Self) {
        self.ran |= other.ran;
        self.branches |= other.branches;
        self.taken |= other.taken;
        self.passed |= other.passed;
    }
}

/// The lines that hold code, by file and number, and what was seen of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    files: BTreeMap<String, BTreeMap<u32, Line>>,
}

impl Coverage {
    /// Adds what another run saw.
    pub fn merge(&mut self, other: &Self) {
        for (file, lines) in &other.files {
            let own = self.files.entry(file.clone()).or_default();
            for (number, line) in lines {
                own.entry(*number).or_default().merge(*line);
            }
        }
    }

    /// The files, each with its lines from 1.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<String, BTreeMap<u32, Line>> {
        &self.files
    }

    /// Lines that ran, and all that hold code.
    #[must_use]
    pub fn lines(&self) -> (usize, usize) {
        let all = || self.files.values().flat_map(BTreeMap::values);
        (all().filter(|line| line.ran).count(), all().count())
    }

    /// Outcomes of conditions that were seen, and all there are: two for each line with a condition.
    #[must_use]
    pub fn branches(&self) -> (usize, usize) {
        let all = || self.files.values().flat_map(BTreeMap::values).filter(|line| line.branches);
        (all().map(|line| usize::from(line.taken) + usize::from(line.passed)).sum(), 2 * all().count())
    }

    /// The lines that no run executed.
    pub fn missed(&self) -> impl Iterator<Item = Place> + '_ {
        self.files.iter().flat_map(|(file, lines)| {
            let missed = lines.iter().filter(|(_, line)| !line.ran);
            missed.map(|(number, _)| Place { file: file.clone(), line: *number })
        })
    }
}

/// What was seen of a program so far.
pub(super) fn of(code: &Code) -> Coverage {
    let mut lines: BTreeMap<u32, Line> = BTreeMap::new();
    for function in &code.functions {
        for (i, op) in (function.first as usize..).zip(&function.ops) {
            if code.lines[i] == 0 || matches!(op, Op::EndFunction | Op::Skip { .. }) {
                continue;
            }
            let seen = code.seen[i].load(Relaxed);
            let branches = matches!(op, Op::If { .. } | Op::BreakIf { .. } | Op::Case { .. });
            lines.entry(code.lines[i]).or_default().merge(Line {
                ran: seen & RAN != 0,
                branches,
                taken: branches && seen & TAKEN != 0,
                passed: branches && seen & PASSED != 0,
            });
        }
    }
    let mut out = Coverage::default();
    for (number, line) in lines {
        let Place { file, line: number } = code.source.place(number);
        out.files.entry(file).or_default().entry(number).or_default().merge(line);
    }
    out
}
