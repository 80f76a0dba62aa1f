//! What a network is and costs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::config::InfoConfig;
use crate::methods::network::need_head;
use crate::nn::{Header, ModelSpec, Summary, TextSpec};
use crate::report::{bytes, grouped};
use crate::{Error, Result};

/// Describes a network: a table to print, and the same as a JSON object. Reads the weights' header only.
///
/// # Errors
/// [`Error::File`] if the weights are unreadable, of another kind or do not fit, [`Error::Input`] if the flags have no
/// sense or the image does not suit the network.
pub fn info(config: &InfoConfig) -> Result<(String, Value)> {
    let (spec, open) = match (&config.weights, &config.network.arch) {
        (Some(path), _) => {
            let header = Header::read(path)?;
            let found = config.network.identify(&header)?;
            let mut header = header;
            if let ModelSpec::Text(text) = &found.spec {
                header.forget(|name| text.ignores(name));
            } else {
                need_head(path, &found.spec, &header.plan(&found.spec))?;
            }
            let report = header.compare(&found.spec.plan().params, &found.spec.to_string());
            if !report.is_fit() {
                return Err(Error::file(path, report));
            }
            (found.spec, found.open)
        }
        (None, Some(arch)) => {
            let text = TextSpec::by_name(arch).map(ModelSpec::from);
            (text.or_else(|_| ModelSpec::by_name(arch))?, vec![])
        }
        (None, None) => return Err(Error::Input("give --weights FILE or --arch NAME".into())),
    };
    let mut spec = spec;
    if let Some(classes) = config.classes {
        spec.set_classes(classes as usize);
    }
    let side = config.side.map_or(spec.image(), |side| side as usize);
    let summary = spec.plan().summary([side; 2])?;
    Ok((table(&spec, side, &summary, &open), object(&spec, side, &summary, &open)))
}

fn shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

/// A column's cells and whether they stand to the right.
fn column(title: &str, right: bool, cells: impl Iterator<Item = String>) -> (bool, Vec<String>) {
    (right, std::iter::once(title.to_string()).chain(cells).collect())
}

fn table(spec: &ModelSpec, side: usize, s: &Summary, open: &[&str]) -> String {
    let count = |n: u64| if n == 0 { String::new() } else { grouped(n) };
    let rows = || s.rows.iter();
    let columns = [
        column("layer", false, rows().map(|r| r.name.clone()).chain(["total".into()])),
        column("what", false, rows().map(|r| r.op.clone()).chain([String::new()])),
        column("output", false, rows().map(|r| shape(&r.output)).chain([String::new()])),
        column("parameters", true, rows().map(|r| count(r.params)).chain([grouped(s.params)])),
        column("multiply-adds", true, rows().map(|r| count(r.multiply_adds)).chain([grouped(s.multiply_adds)])),
    ];
    let is_text = matches!(spec, ModelSpec::Text(_));
    let input = if is_text {
        format!("texts of {side} tokens")
    } else {
        format!("images {}", shape(&[side, side, spec.channels()]))
    };
    let mut text = format!("{spec}, {input}\n");
    for i in 0..columns[0].1.len() {
        let mut line = String::new();
        for (right, cells) in &columns {
            let width = cells.iter().map(String::len).max().unwrap_or(0);
            let cell = &cells[i];
            // Writing to a String cannot fail.
            let _ = if *right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    let statistics = if s.statistics > 0 {
        format!(", {} running statistics among them", grouped(s.statistics))
    } else {
        String::new()
    };
    text += &format!(
        "memory in f32: weights {}{statistics}; activations of one {} {} at most",
        bytes(s.weight_bytes),
        if is_text { "text" } else { "image" },
        bytes(s.activation_bytes)
    );
    if !open.is_empty() {
        text += &format!("\nassumed above, and to be given to run it: {}", open.join(", "));
    }
    text
}

fn object(spec: &ModelSpec, side: usize, s: &Summary, open: &[&str]) -> Value {
    let rows: Vec<Value> = s
        .rows
        .iter()
        .map(|r| {
            json!({
                "name": r.name, "op": r.op, "output": r.output, "params": r.params, "multiply_adds": r.multiply_adds,
            })
        })
        .collect();
    json!({
        "network": spec.to_string(),
        "image": [side, side, spec.channels()],
        "classes": spec.classes(),
        "params": s.params,
        "statistics": s.statistics,
        "multiply_adds": s.multiply_adds,
        "weight_bytes": s.weight_bytes,
        "activation_bytes": s.activation_bytes,
        "open": open,
        "layers": rows,
    })
}
