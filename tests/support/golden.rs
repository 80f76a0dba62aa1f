//! The cases computed with PyTorch: `tests/golden/ops.safetensors` and `optim.safetensors`.

use leanvision::reference::Array;
use safetensors::tensor::SafeTensors;
use serde_json::Value;

/// The file, read once.
pub struct Golden(Vec<u8>);

/// One case: its op, its parameters and its tensors.
pub struct Case<'a> {
    pub name: String,
    pub op: String,
    pub params: Value,
    file: SafeTensors<'a>,
}

impl Golden {
    pub fn open() -> Self {
        Self::open_file("ops.safetensors")
    }

    pub fn open_file(name: &str) -> Self {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        Self(std::fs::read(path).expect("the golden file is part of the repository"))
    }

    /// The cases of one op, in order of name; at least one.
    pub fn cases(&self, op: &str) -> Vec<Case<'_>> {
        let (_, header) = SafeTensors::read_metadata(&self.0).expect("a whole file");
        let described = header.metadata().as_ref().expect("cases are described");
        let mut cases: Vec<_> = described
            .iter()
            .map(|(name, text)| (name.clone(), serde_json::from_str::<Value>(text).expect("JSON")))
            .filter(|(_, case)| case["op"] == op)
            .map(|(name, case)| Case {
                name,
                op: op.to_owned(),
                params: case["params"].clone(),
                file: SafeTensors::deserialize(&self.0).expect("a whole file"),
            })
            .collect();
        assert!(!cases.is_empty(), "no case of {op}");
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        cases
    }
}

impl Case<'_> {
    /// The tensor of this role, if the case has one.
    pub fn tensor(&self, role: &str) -> Option<Array> {
        let view = self.file.tensor(&format!("{}.{role}", self.name)).ok()?;
        let words = view.data().as_chunks::<4>().0.iter();
        let data = match view.dtype() {
            safetensors::Dtype::F32 => words.map(|w| f64::from(f32::from_le_bytes(*w))).collect(),
            safetensors::Dtype::I32 => words.map(|w| f64::from(i32::from_le_bytes(*w))).collect(),
            other => panic!("{}.{role} is {other:?}", self.name),
        };
        Some(Array::new(view.shape(), data))
    }

    /// The tensor of this role.
    pub fn need(&self, role: &str) -> Array {
        self.tensor(role).unwrap_or_else(|| panic!("{} has no {role}", self.name))
    }

    /// A parameter that is one number for both axes, or a pair; `default` if it is absent.
    pub fn pair(&self, name: &str, default: usize) -> [usize; 2] {
        let number = |value: &Value| value.as_u64().expect("a count") as usize;
        match &self.params[name] {
            Value::Null => [default; 2],
            Value::Array(pair) => [number(&pair[0]), number(&pair[1])],
            value => [number(value); 2],
        }
    }
}

/// `x` with its axes in another order: axis `i` of the result is axis `axes[i]`.
pub fn permuted(x: &Array, axes: &[usize]) -> Array {
    let shape: Vec<usize> = axes.iter().map(|a| x.shape[*a]).collect();
    Array::from_fn(&shape, |index| {
        let mut own = vec![0; axes.len()];
        for (axis, i) in axes.iter().zip(index) {
            own[*axis] = *i;
        }
        x.at(&own)
    })
}
