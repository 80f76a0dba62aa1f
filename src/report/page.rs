//! `report.html`: a page that stands alone, for light and dark, wide and narrow screens.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::chart::{Bars, Lines};
use super::points::Points;
use super::roofline::Roofline;
use super::scatter::Scatter;
use super::table::Table;
use crate::Result;
use crate::data::{ImageSet, Picture};
use crate::files::write_whole;

const STYLE: &str = include_str!("page.css");

/// A page being put together, part by part from the top.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with a title and a line under it.
    #[must_use]
    pub fn new(title: &str, subtitle: &str) -> Self {
        let body = format!("<h1>{}</h1><p class=\"note\">{}</p>", escape(title), escape(subtitle));
        Self { title: title.to_string(), body }
    }

    /// Starts a section.
    pub fn heading(&mut self, text: &str) {
        self.add(format_args!("<h2>{}</h2>", escape(text)));
    }

    /// Starts a part of a section.
    pub fn subheading(&mut self, text: &str) {
        self.add(format_args!("<h3>{}</h3>", escape(text)));
    }

    /// A paragraph.
    pub fn text(&mut self, text: &str) {
        self.add(format_args!("<p>{}</p>", escape(text)));
    }

    /// A line as one types it in a terminal.
    pub fn command(&mut self, text: &str) {
        self.add(format_args!("<pre>{}</pre>", escape(text)));
    }

    /// A list of lines.
    pub fn list(&mut self, lines: impl IntoIterator<Item = String>) {
        let items: String = lines.into_iter().map(|line| format!("<li>{}</li>", escape(&line))).collect();
        self.add(format_args!("<ul>{items}</ul>"));
    }

    /// Names and what they are.
    pub fn facts<'a>(&mut self, facts: impl IntoIterator<Item = (&'a str, String)>) {
        let fact = |(name, value): (&str, String)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(&value));
        let items: String = facts.into_iter().map(fact).collect();
        self.add(format_args!("<dl>{items}</dl>"));
    }

    /// A table; a wide one scrolls by itself.
    pub fn table(&mut self, table: &Table) {
        let (heads, right, rows) = table.parts();
        let line = |tag: &str, cells: &[String]| -> String {
            let cell = |(text, right): (&String, &bool)| {
                let class = if *right { " class=\"r\"" } else { "" };
                format!("<{tag}{class}>{}</{tag}>", escape(text))
            };
            format!("<tr>{}</tr>", cells.iter().zip(right).map(cell).collect::<String>())
        };
        let body: String = rows.iter().map(|row| line("td", row)).collect();
        let head = line("th", heads);
        self.add(format_args!("<div class=\"scroll\"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>"));
    }

    /// Bars.
    pub fn bars(&mut self, bars: &Bars) {
        self.body += &bars.html();
    }

    /// Curves.
    pub fn lines(&mut self, lines: &Lines) {
        self.body += &lines.html();
    }

    /// Points in the plane.
    pub fn points(&mut self, points: &Points) {
        self.body += &points.html();
    }

    /// Named points over a logarithmic axis.
    pub fn scatter(&mut self, scatter: &Scatter) {
        self.body += &scatter.html();
    }

    /// A roofline.
    pub fn roofline(&mut self, roofline: &Roofline) {
        self.body += &roofline.html();
    }

    /// A part that shows its title alone until a reader opens it.
    pub fn fold(&mut self, title: &str, part: impl FnOnce(&mut Self)) {
        self.add(format_args!("<details><summary>{}</summary>", escape(title)));
        part(self);
        self.body += "</details>";
    }

    /// A picture with a line under it, every pixel shown as a square.
    ///
    /// # Errors
    /// [`crate::Error::Input`] if the pixels do not fill the picture.
    pub fn picture(&mut self, picture: &Picture, caption: &str) -> Result<()> {
        let uri = data_uri(picture)?;
        self.add(format_args!(
            "<figure><img src=\"{uri}\" alt=\"{0}\" width=\"{1}\" height=\"{2}\"><figcaption>{0}</figcaption></figure>",
            escape(caption),
            picture.width,
            picture.height
        ));
        Ok(())
    }

    /// The whole page.
    #[must_use]
    pub fn html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title><style>{STYLE}</style></head>\
             <body><main>{}</main></body></html>\n",
            escape(&self.title),
            self.body
        )
    }

    /// Writes the page to a file.
    ///
    /// # Errors
    /// [`crate::Error::File`] if it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, |file| std::io::Write::write_all(file, self.html().as_bytes()))
    }

    fn add(&mut self, part: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(part);
    }
}

/// Text as HTML shows it, also inside quotes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A picture as PNG inside an address.
fn data_uri(picture: &Picture) -> Result<String> {
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(picture.png()?)))
}

/// Grey between pictures, quiet on light and on dark.
const GAP: u8 = 128;

/// The first `n` images of a set as one picture, `columns` side by side, each pixel `scale` pixels wide, with a gap
/// between images.
#[must_use]
pub fn sheet(set: &ImageSet, n: usize, columns: usize, scale: usize) -> Picture {
    let (n, columns, scale) = (n.min(set.len()), columns.max(1), scale.max(1));
    let gap = scale;
    let (tile_w, tile_h) = (set.width * scale + gap, set.height * scale + gap);
    let (width, height) = (columns.min(n.max(1)) * tile_w - gap, n.div_ceil(columns).max(1) * tile_h - gap);
    let mut rgb = vec![GAP; width * height * 3];
    for i in 0..n {
        let Some(image) = set.image(i) else { continue };
        let (left, top) = (i % columns * tile_w, i / columns * tile_h);
        for y in 0..set.height * scale {
            for x in 0..set.width * scale {
                let from = (y / scale * set.width + x / scale) * set.channels;
                let to = ((top + y) * width + left + x) * 3;
                for c in 0..3 {
                    rgb[to + c] = image[from + c % set.channels];
                }
            }
        }
    }
    Picture { rgb, height, width }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Split, shapes};

    #[test]
    fn a_page_stands_alone_and_takes_any_text() {
        let mut page = Page::new("a & b", "<script>");
        page.heading("h");
        page.facts([("name", "\"x\"".to_string())]);
        let mut table = Table::new(&["a", ">b"]);
        table.row(["<1>", "2"]);
        page.table(&table);
        page.list(["one".to_string()]);
        page.picture(&sheet(&shapes(4, 0, Split::Test), 4, 2, 1), "four").unwrap();
        let html = page.html();
        assert!(html.contains("<title>a &amp; b</title>") && html.contains("&lt;script&gt;"), "{html}");
        assert!(html.contains("<td>&lt;1&gt;</td><td class=\"r\">2</td>"), "{html}");
        // Nothing is fetched from anywhere.
        assert!(!html.contains("http") && !html.contains("url(") && !html.contains("<script"));
    }

    #[test]
    fn a_picture_survives_its_address() {
        let set = shapes(3, 5, Split::Test);
        let picture = sheet(&set, 3, 2, 2);
        assert_eq!((picture.width, picture.height), (2 * 66 - 2, 2 * 66 - 2));
        let uri = data_uri(&picture).unwrap();
        let bytes = STANDARD.decode(uri.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        let back = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(back.as_raw(), &picture.rgb);
        // Image 2 stands at the left of the second row, two pixels a pixel.
        let at = |x: usize, y: usize| &picture.rgb[(y * picture.width + x) * 3..][..3];
        assert_eq!(at(6, 66 + 8), &set.image(2).unwrap()[(4 * 32 + 3) * 3..][..3]);
        assert_eq!(at(64, 0), [GAP; 3]);
        for n in [2, 5] {
            assert!(data_uri(&Picture { rgb: vec![0; n], height: 1, width: 1 }).is_err());
        }
    }
}
