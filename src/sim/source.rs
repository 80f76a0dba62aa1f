//! The text of a kernel, put together from files, and the way back from its lines to theirs.

/// A WGSL text made of one or several files.
#[derive(Debug, Clone, Default)]
pub struct Source {
    text: String,
    /// Names of the files, with the number of lines before each.
    files: Vec<(String, u32)>,
}

/// A line of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Place {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl Source {
    /// One file.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl AsRef<str>) -> Self {
        Self::default().with(name, text)
    }

    /// With one more file behind the others.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, text: impl AsRef<str>) -> Self {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.files.push((name.into(), self.text.matches('\n').count() as u32));
        self.text.push_str(text.as_ref());
        self
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file and line of line `line` (from 1) of the whole text.
    #[must_use]
    pub fn place(&self, line: u32) -> Place {
        let file = self.files.iter().rev().find(|(_, before)| *before < line);
        file.map_or_else(Place::default, |(name, before)| Place { file: name.clone(), line: line - before })
    }

    /// Line `line` (from 1) of the whole text, without its indentation.
    #[must_use]
    pub fn line(&self, line: u32) -> &str {
        (line as usize).checked_sub(1).and_then(|line| self.text.lines().nth(line)).unwrap_or("").trim()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_back_to_their_files() {
        let source = Source::new("a", "one\ntwo").with("b", "three\n").with("c", "  four\nfive\n");
        assert_eq!(source.text(), "one\ntwo\nthree\n  four\nfive\n");
        let places: Vec<_> = (1..=5).map(|line| source.place(line)).map(|p| format!("{}:{}", p.file, p.line)).collect();
        assert_eq!(places, ["a:1", "a:2", "b:1", "c:1", "c:2"]);
        assert_eq!(source.line(4), "four");
        assert_eq!((source.line(0), source.line(9)), ("", ""));
    }
}
