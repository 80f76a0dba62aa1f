//! LoRA adapters in the files of other programs: peft's folders, and the names of LoRA's authors.
//!
//! peft keeps an adapter in a folder: `adapter_model.safetensors` with `base_model.model.<layer>.lora_A.weight` `[r, n_in]`,
//! `....lora_B.weight` `[n_out, r]` and whole tensors of other layers, and `adapter_config.json` with the factor of the product.
//! The authors' files have `<layer>.lora_A` and `<layer>.lora_B`, and no configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::nn::{Checkpoint, ParamList, RawTensor, Weights};
use crate::report::write_json;
use crate::{DType, Error, Result};

/// What peft puts in front of every name.
const PREFIX: &str = "base_model.model.";
/// The files of a folder.
const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";
/// Most problems that are spelled out.
const MAX_PROBLEMS: usize = 8;

/// The low-rank change of one layer: its weight `[n_out, n_in]` grows by `scale b a`.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraLayer {
    /// The layer's name in its network.
    pub name: String,
    /// Rank.
    pub rank: usize,
    /// Input width.
    pub n_in: usize,
    /// Output width.
    pub n_out: usize,
    /// First factor, `[rank, n_in]`.
    pub a: Vec<f32>,
    /// Second factor, `[n_out, rank]`.
    pub b: Vec<f32>,
    /// Factor of the product.
    pub scale: f32,
}

impl LoraLayer {
    /// A layer of a network whose weights lie as products read them: `a` `[n_in, rank]`, `b` `[rank, n_out]`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the numbers of values do not fit.
    pub fn from_device(name: &str, [n_in, rank, n_out]: [usize; 3], a: &[f32], b: &[f32], scale: f32) -> Result<Self> {
        if [a.len(), b.len()] != [n_in * rank, rank * n_out] {
            let given = format!("{name}: factors of {} and {} values", a.len(), b.len());
            return Err(Error::argument("lora", format!("{given}, {n_in} to {rank} to {n_out} wanted")));
        }
        let (a, b) = (turned(a, n_in, rank), turned(b, rank, n_out));
        Ok(Self { name: name.into(), rank, n_in, n_out, a, b, scale })
    }

    /// The factors as products read them: `[n_in, rank]` and `[rank, n_out]`.
    #[must_use]
    pub fn to_device(&self) -> [Vec<f32>; 2] {
        [turned(&self.a, self.rank, self.n_in), turned(&self.b, self.n_out, self.rank)]
    }

    /// Layers that one packed layer called `name` of `n_out` outputs holds, each with its first output there, as one change
    /// of the packed layer: their factors side by side, and zeros.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there is a layer, and all have one input width, one factor and their place in it.
    pub fn packed(name: &str, n_out: usize, parts: &[(usize, &Self)]) -> Result<Self> {
        let fail = |message: &str| Err(Error::argument("lora", format!("{name}: {message}")));
        let Some((_, first)) = parts.first() else { return fail("no layer to pack") };
        let (n_in, scale) = (first.n_in, first.scale);
        let rank: usize = parts.iter().map(|(_, part)| part.rank).sum();
        let (mut a, mut b) = (Vec::with_capacity(rank * n_in), vec![0.0; n_out * rank]);
        let mut column = 0;
        for (start, part) in parts {
            if part.n_in != n_in || part.scale.to_bits() != scale.to_bits() || start + part.n_out > n_out {
                return fail("its layers differ in input width or factor, or lie outside");
            }
            a.extend_from_slice(&part.a);
            for (o, row) in part.b.chunks_exact(part.rank.max(1)).enumerate() {
                b[(start + o) * rank + column..][..part.rank].copy_from_slice(row);
            }
            column += part.rank;
        }
        Ok(Self { name: name.into(), rank, n_in, n_out, a, b, scale })
    }

    /// Numbers in both factors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.a.len() + self.b.len()
    }

    /// Whether it has no numbers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `[rows, cols]` transposed.
fn turned(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// A LoRA adapter as a file holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoraFile {
    /// The layers that it changes, in the order of the file.
    pub layers: Vec<LoraLayer>,
    /// Whole tensors that stand in the place of the network's own, such as a new head's: name, shape, values.
    pub others: Vec<(String, Vec<usize>, Vec<f32>)>,
    /// The network it belongs to, as its configuration calls it.
    pub base: Option<String>,
}

impl LoraFile {
    /// Reads an adapter: a folder or file of peft's, or a file with the authors' names. Elements of 16 bits are widened.
    ///
    /// The product's factor is `alpha / rank`, by what the configuration beside the file says (`alpha / sqrt(rank)` for
    /// `use_rslora`), else by `alpha`, else 1.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read, is no LoRA adapter or a kind of it that is not known (`DoRA`, embeddings),
    /// or has factors that are missing, do not fit or hold what is no number: all of them are named.
    pub fn read(path: impl AsRef<Path>, alpha: Option<f64>) -> Result<Self> {
        let path = path.as_ref();
        let path = &if path.is_dir() { path.join(WEIGHTS) } else { path.to_path_buf() };
        let config = Settings::beside(path, alpha)?;
        let checkpoint = Checkpoint::read(path)?;
        let mut factors: BTreeMap<&str, [Option<&str>; 2]> = BTreeMap::new();
        let (mut order, mut others, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for name in checkpoint.header().names() {
            match part_of(name) {
                Part::Factor(layer, which) => {
                    let slot = factors.entry(layer).or_insert_with(|| {
                        order.push(layer);
                        [None, None]
                    });
                    slot[which] = Some(name);
                }
                Part::Unknown => problems.push(format!("{name} is of a kind of LoRA that is not read")),
                Part::Other(short) => others.push((name, short)),
            }
        }
        let take = |name: &str, problems: &mut Vec<String>| -> Vec<f32> {
            let values = checkpoint.floats(name);
            match &values {
                None => problems.push(format!("{name} holds no floats")),
                Some(values) if values.iter().any(|v| !v.is_finite()) => {
                    problems.push(format!("{name} holds a value that is no number"));
                }
                Some(_) => {}
            }
            values.unwrap_or_default()
        };
        let shape = |name: &str| checkpoint.header().shape(name).unwrap_or_default();
        let mut layers = Vec::new();
        for layer in order {
            let [Some(a), Some(b)] = factors[layer] else {
                problems.push(format!("{layer} has one of its two factors"));
                continue;
            };
            match (shape(a), shape(b)) {
                (&[rank, n_in], &[n_out, r]) if rank == r && rank * n_in * n_out > 0 => {
                    let (a, b) = (take(a, &mut problems), take(b, &mut problems));
                    let scale = config.scale(layer, rank);
                    if !scale.is_finite() {
                        problems.push(format!("{layer}: its alpha over its rank is no number of 32 bits"));
                    }
                    layers.push(LoraLayer { name: layer.into(), rank, n_in, n_out, a, b, scale });
                }
                (a, b) => {
                    problems.push(format!("{layer}: factors {a:?} and {b:?} do not fit [r, n_in] and [n_out, r]"));
                }
            }
        }
        let others: Vec<_> =
            others.into_iter().map(|(name, short)| (short, shape(name).to_vec(), take(name, &mut problems))).collect();
        if layers.is_empty() && problems.is_empty() {
            problems.push("no lora_A and lora_B in it: no LoRA adapter".into());
        }
        if problems.is_empty() {
            return Ok(Self { layers, others, base: config.base });
        }
        let n_more = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        if n_more > 0 {
            problems.push(format!("and {n_more} more"));
        }
        Err(Error::file(path, problems.join("; ")))
    }

    /// Writes the adapter into `folder` as peft reads it; answers the weights' file.
    ///
    /// # Errors
    /// [`Error::File`] if a file cannot be written, [`Error::Input`] if there is no layer.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<PathBuf> {
        let folder = folder.as_ref();
        let Some(first) = self.layers.first() else {
            return Err(Error::Input("an adapter that changes no layer has no LoRA factors to write".into()));
        };
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
        let mut raw = Vec::new();
        for LoraLayer { name, rank, n_in, n_out, a, b, .. } in &self.layers {
            raw.push(of_floats(format!("{PREFIX}{name}.lora_A.weight"), vec![*rank, *n_in], a));
            raw.push(of_floats(format!("{PREFIX}{name}.lora_B.weight"), vec![*n_out, *rank], b));
        }
        let others = self.others.iter();
        raw.extend(others.map(|(name, shape, values)| of_floats(format!("{PREFIX}{name}"), shape.clone(), values)));
        let none = ParamList::default();
        let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
        let path = folder.join(WEIGHTS);
        Weights::new(&none, Vec::new())?.save_with(&path, &none, &raw, &metadata)?;
        let alpha = |layer: &LoraLayer| f64::from(layer.scale) * layer.rank as f64;
        let (mut ranks, mut alphas) = (Map::new(), Map::new());
        for layer in &self.layers {
            if layer.rank != first.rank {
                ranks.insert(layer.name.clone(), json!(layer.rank));
            }
            if alpha(layer) != alpha(first) {
                alphas.insert(layer.name.clone(), json!(alpha(layer)));
            }
        }
        let mut modules: Vec<&str> =
            self.others.iter().map(|(name, ..)| name.rsplit_once('.').map_or(name.as_str(), |(m, _)| m)).collect();
        modules.dedup();
        let config = json!({
            "peft_type": "LORA",
            "base_model_name_or_path": self.base,
            "r": first.rank,
            "lora_alpha": alpha(first),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "target_modules": self.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>(),
            "modules_to_save": if modules.is_empty() { Value::Null } else { json!(modules) },
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "use_rslora": false,
            "inference_mode": true,
            "task_type": Value::Null,
        });
        write_json(&folder.join(CONFIG), &config)?;
        Ok(path)
    }

    /// Numbers in all factors.
    #[must_use]
    pub fn n_factors(&self) -> usize {
        self.layers.iter().map(LoraLayer::len).sum()
    }
}

/// What a tensor's name says it is.
enum Part<'a> {
    /// A factor of a layer: 0 for A, 1 for B.
    Factor(&'a str, usize),
    /// A whole tensor, by its name in the network.
    Other(String),
    /// Something of LoRA that is not known here.
    Unknown,
}

fn part_of(name: &str) -> Part<'_> {
    let short = name.strip_prefix(PREFIX).unwrap_or(name);
    for (which, factor) in ["lora_A", "lora_B"].into_iter().enumerate() {
        let Some((layer, rest)) = short.split_once(&format!(".{factor}")) else { continue };
        return if ["", ".weight", ".default.weight"].contains(&rest) {
            Part::Factor(layer, which)
        } else {
            Part::Unknown
        };
    }
    if short.contains("lora_") {
        return Part::Unknown;
    }
    Part::Other(short.replace(".modules_to_save.default.", ".").replace(".modules_to_save.", "."))
}

fn of_floats(name: String, shape: Vec<usize>, values: &[f32]) -> RawTensor {
    RawTensor { name, dtype: DType::F32, shape, bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
}

/// What the configuration says of the products' factors.
#[derive(Debug, Default)]
struct Settings {
    /// Of every layer, and of some by their names' ends.
    alpha: Option<f64>,
    alphas: Map<String, Value>,
    by_root: bool,
    base: Option<String>,
}

impl Settings {
    /// Of the file beside the weights at `path`, if there is one; `alpha` where there is none.
    fn beside(path: &Path, alpha: Option<f64>) -> Result<Self> {
        let path = path.with_file_name(CONFIG);
        if !path.exists() {
            return Ok(Self { alpha, ..Self::default() });
        }
        let fail = |message: String| Error::file(&path, message);
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))?;
        let config: Map<String, Value> = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
        let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("none");
        if kind != "LORA" {
            return Err(fail(format!("an adapter of type {kind}; LORA is read")));
        }
        let is = |key: &str| config.get(key).and_then(Value::as_bool) == Some(true);
        if is("use_dora") {
            return Err(fail("a DoRA adapter, whose magnitudes are not read".into()));
        }
        let said = config.get("lora_alpha").and_then(Value::as_f64).filter(|alpha| alpha.is_finite());
        let Some(said) = said else { return Err(fail("no number lora_alpha".into())) };
        let alphas = config.get("alpha_pattern").and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some((name, _)) = alphas.iter().find(|(_, value)| value.as_f64().is_none()) {
            return Err(fail(format!("alpha_pattern of {name} is no number")));
        }
        // peft reads them as regular expressions; names alone are read here.
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(key) = alphas.keys().find(|key| !key.chars().all(plain)) {
            return Err(fail(format!("alpha_pattern {key}: names of layers are read, no patterns")));
        }
        let base = config.get("base_model_name_or_path").and_then(Value::as_str).map(String::from);
        Ok(Self { alpha: Some(said), alphas, by_root: is("use_rslora"), base })
    }

    fn scale(&self, layer: &str, rank: usize) -> f32 {
        let ends = |end: &str| layer == end || layer.strip_suffix(end).is_some_and(|front| front.ends_with('.'));
        let own = self.alphas.iter().find(|(end, _)| ends(end)).and_then(|(_, alpha)| alpha.as_f64());
        let rank = rank as f64;
        let alpha = own.or(self.alpha).unwrap_or(rank);
        (if self.by_root { alpha / rank.sqrt() } else { alpha / rank }) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, [n_in, rank, n_out]: [usize; 3], scale: f32) -> LoraLayer {
        let values = |n: usize, seed: usize| (0..n).map(|i| ((i * 31 + seed * 7) % 17) as f32 - 8.0).collect();
        LoraLayer { name: name.into(), rank, n_in, n_out, a: values(rank * n_in, 1), b: values(n_out * rank, 2), scale }
    }

    fn file() -> LoraFile {
        let layers = vec![layer("encoder.0.q", [5, 2, 7], 4.0), layer("encoder.0.v", [5, 3, 4], 0.5)];
        let others =
            vec![("head.weight".into(), vec![2, 5], vec![0.5; 10]), ("head.bias".into(), vec![2], vec![1.0, 2.0])];
        LoraFile { layers, others, base: Some("net".into()) }
    }

    /// `scale b a`, `[n_out, n_in]`.
    fn product(layer: &LoraLayer) -> Vec<f32> {
        let LoraLayer { rank, n_in, n_out, a, b, scale, .. } = layer;
        let at = |o: usize, i: usize| (0..*rank).map(|r| b[o * rank + r] * a[r * n_in + i]).sum::<f32>() * scale;
        (0..n_out * n_in).map(|x| at(x / n_in, x % n_in)).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = file().save(folder.path()).unwrap();
        assert_eq!(LoraFile::read(folder.path(), None).unwrap(), file());
        // What the configuration says wins.
        assert_eq!(LoraFile::read(&path, Some(99.0)).unwrap(), file());
        let header = crate::nn::Header::read(&path).unwrap();
        let names: Vec<&str> = header.names().collect();
        assert_eq!(
            names[..2],
            ["base_model.model.encoder.0.q.lora_A.weight", "base_model.model.encoder.0.q.lora_B.weight"]
        );
        assert_eq!(names[5], "base_model.model.head.bias");
        assert_eq!((header.shape(names[0]), header.shape(names[1])), (Some(&[2, 5][..]), Some(&[7, 2][..])));
        let config: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!(
            (&config["peft_type"], &config["r"], &config["lora_alpha"]),
            (&json!("LORA"), &json!(2), &json!(8.0))
        );
        assert_eq!(config["target_modules"], json!(["encoder.0.q", "encoder.0.v"]));
        assert_eq!(config["modules_to_save"], json!(["head"]));
        assert_eq!(
            (&config["rank_pattern"]["encoder.0.v"], &config["alpha_pattern"]["encoder.0.v"]),
            (&json!(3), &json!(1.5))
        );
    }

    #[test]
    fn layouts_turn_and_pack() {
        let q = layer("q", [5, 2, 7], 4.0);
        let [a, b] = q.to_device();
        assert_eq!((a[1], b[1]), (q.a[5], q.b[2]));
        assert_eq!(LoraLayer::from_device("q", [5, 2, 7], &a, &b, 4.0).unwrap(), q);
        assert!(LoraLayer::from_device("q", [5, 3, 7], &a, &b, 4.0).is_err());
        let v = layer("v", [5, 3, 4], 4.0);
        let packed = LoraLayer::packed("qkv", 15, &[(0, &q), (11, &v)]).unwrap();
        let (whole, zeros) = (product(&packed), vec![0.0; 4 * 5]);
        assert_eq!(whole, [product(&q), zeros, product(&v)].concat());
        assert!(LoraLayer::packed("qkv", 14, &[(0, &q), (11, &v)]).is_err());
        assert!(LoraLayer::packed("qkv", 15, &[(0, &q), (11, &layer("v", [5, 3, 4], 2.0))]).is_err());
    }

    /// A file of f32 tensors with these names and shapes.
    fn write(folder: &Path, tensors: &[(&str, &[usize])], value: f32) -> PathBuf {
        let path = folder.join("adapter.safetensors");
        let raw: Vec<RawTensor> = tensors
            .iter()
            .map(|(name, shape)| of_floats(name.to_string(), shape.to_vec(), &vec![value; shape.iter().product()]))
            .collect();
        let none = ParamList::default();
        Weights::new(&none, Vec::new()).unwrap().save_with(&path, &none, &raw, &BTreeMap::new()).unwrap();
        path
    }

    #[test]
    fn names_of_the_authors_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path =
            write(folder.path(), &[("a.q.lora_A", &[2, 3]), ("a.q.lora_B", &[4, 2]), ("head.weight", &[2])], 0.5);
        let file = LoraFile::read(&path, Some(16.0)).unwrap();
        assert_eq!((file.layers[0].name.as_str(), file.layers[0].scale), ("a.q", 8.0));
        assert_eq!((file.others[0].0.as_str(), file.n_factors()), ("head.weight", 14));
        assert_eq!(LoraFile::read(&path, None).unwrap().layers[0].scale, 1.0);
        // With a configuration that counts by the root of the rank.
        let config = json!({"peft_type": "LORA", "lora_alpha": 4, "use_rslora": true, "alpha_pattern": {"q": 6.0}});
        std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
        assert_eq!(LoraFile::read(&path, None).unwrap().layers[0].scale, (6.0 / 2.0_f64.sqrt()) as f32);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = |tensors: &[(&str, &[usize])], value| {
            LoraFile::read(write(folder.path(), tensors, value), None).unwrap_err().to_string()
        };
        let error = message(
            &[
                ("a.lora_A.weight", &[2, 3]),
                ("b.lora_A", &[2, 3]),
                ("b.lora_B", &[4, 3]),
                ("c.lora_magnitude_vector", &[1]),
            ],
            0.5,
        );
        for part in
            ["a has one of its two factors", "b: factors [2, 3] and [4, 3]", "c.lora_magnitude_vector is of a kind"]
        {
            assert!(error.contains(part), "{error}");
        }
        assert!(message(&[("a.lora_A", &[2, 3]), ("a.lora_B", &[4, 2])], f32::NAN).contains("no number"));
        assert!(message(&[("head.weight", &[2, 3])], 0.5).contains("no LoRA adapter"));
        let config = |text: &str| {
            std::fs::write(folder.path().join(CONFIG), text).unwrap();
            message(&[("a.lora_A", &[2, 3]), ("a.lora_B", &[4, 2])], 0.5)
        };
        assert!(config("{\"peft_type\": \"VERA\"}").contains("an adapter of type VERA"));
        assert!(config("{\"peft_type\": \"LORA\", \"lora_alpha\": 1, \"use_dora\": true}").contains("DoRA"));
        assert!(config("{\"peft_type\": \"LORA\"}").contains("no number lora_alpha"));
        assert!(config("{").contains("adapter_config.json"));
        let pattern = r#"{"peft_type": "LORA", "lora_alpha": 1, "alpha_pattern": {"layers\\.0\\..*": 2}}"#;
        assert!(config(pattern).contains("no patterns"));
        assert!(config("{\"peft_type\": \"LORA\", \"lora_alpha\": 1e300}").contains("32 bits"));
        std::fs::remove_file(folder.path().join(CONFIG)).unwrap();
        assert!(message(&[("a.lora_A", &[2, 0]), ("a.lora_B", &[4, 2])], 0.5).contains("do not fit"));
        assert!(LoraFile::default().save(folder.path()).is_err());
    }

    #[test]
    fn a_published_adapter_is_read() {
        let Some(data) = std::env::var_os("LEANVISION_DATA") else {
            eprintln!("skipped: LEANVISION_DATA is not set");
            return;
        };
        let path = PathBuf::from(data).join("models/roberta_base_lora_mnli.safetensors");
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
            return;
        }
        let file = LoraFile::read(&path, Some(16.0)).unwrap();
        assert_eq!((file.layers.len(), file.n_factors(), file.others.len()), (24, 294_912, 4));
        let first = &file.layers[0];
        assert_eq!(first.name, "roberta.encoder.layer.0.attention.self.query");
        assert_eq!((first.rank, first.n_in, first.n_out, first.scale), (8, 768, 768, 2.0));
        let folder = tempfile::tempdir().unwrap();
        file.save(folder.path()).unwrap();
        assert_eq!(LoraFile::read(folder.path(), None).unwrap(), file);
    }
}
