//! Tables: one structure for a terminal and for a page.

use std::fmt;

/// Rows of text under heads; a head that starts with `>` stands to the right, and so do its cells.
///
/// ```
/// use leanvision::report::Table;
/// let mut table = Table::new(&["name", ">ms"]);
/// table.row(["matmul", "12.5"]);
/// table.row(["add", "3.25"]);
/// assert_eq!(table.to_string(), "name      ms\nmatmul  12.5\nadd     3.25");
/// ```
#[derive(Debug, Clone)]
pub struct Table {
    heads: Vec<String>,
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    #[must_use]
    pub fn new(heads: &[&str]) -> Self {
        Self {
            right: heads.iter().map(|head| head.starts_with('>')).collect(),
            heads: heads.iter().map(|head| head.trim_start_matches('>').to_string()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; cells that are missing stay empty, cells too many are dropped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.heads.len(), String::new());
        self.rows.push(cells);
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Heads and rows, with whether each column stands to the right.
    pub(super) fn parts(&self) -> (&[String], &[bool], &[Vec<String>]) {
        (&self.heads, &self.right, &self.rows)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.heads).chain(&self.rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.heads.len()).map(width).collect();
        for (i, line) in lines.iter().enumerate() {
            let cells = line.iter().zip(&widths).zip(&self.right);
            let cells: Vec<String> = cells
                .map(
                    |((cell, &width), &right)| {
                        if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
                    },
                )
                .collect();
            write!(f, "{}{}", if i > 0 { "\n" } else { "" }, cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}
