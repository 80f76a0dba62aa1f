//! Shapes: strides, broadcasting, collapsing, and checks with named sizes.

use super::Tensor;
use crate::{Error, Result};

/// Strides of a contiguous tensor of this shape, in elements.
#[must_use]
pub fn contiguous_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i].max(1);
    }
    strides
}

/// The shape that `a` and `b` broadcast to, by NumPy's rule.
///
/// # Errors
/// [`Error::Shape`] naming both shapes if an axis differs and neither is 1.
pub fn broadcast(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (m, n) if m == n => Ok(m),
            (1, n) => Ok(n),
            (m, 1) => Ok(m),
            _ => Err(Error::shape(op, format!("{a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// A shape with the fewest axes over which every operand still has one stride per axis.
///
/// Answers with the sizes and, per operand, the strides in elements; axes of size 1 vanish.
#[must_use]
pub fn collapse(shape: &[usize], operands: &[&[usize]]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let mut sizes: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<usize>> = vec![Vec::new(); operands.len()];
    for (axis, &size) in shape.iter().enumerate() {
        if size == 1 {
            continue;
        }
        let merges = !sizes.is_empty()
            && operands.iter().zip(&strides).all(|(op, merged)| merged.last() == Some(&(op[axis] * size)));
        if merges {
            if let Some(last) = sizes.last_mut() {
                *last *= size;
            }
            for (op, merged) in operands.iter().zip(&mut strides) {
                if let Some(last) = merged.last_mut() {
                    *last = op[axis];
                }
            }
        } else {
            sizes.push(size);
            for (op, merged) in operands.iter().zip(&mut strides) {
                merged.push(op[axis]);
            }
        }
    }
    (sizes, strides)
}

/// Sizes bound by [`check`], by name.
#[derive(Debug, Clone, Default)]
pub struct Dims(Vec<(String, usize)>);

impl Dims {
    /// The size bound to `name`; 0 for a name that no pattern holds.
    #[must_use]
    pub fn get(&self, name: &str) -> usize {
        self.0.iter().find(|(n, _)| n == name).map_or(0, |(_, size)| *size)
    }
}

/// Checks shapes at the front of an op and binds their sizes.
///
/// A pattern names the axes: `"m k"`; a number must match exactly; a leading `..` stands for any axes, and their
/// product is bound to `..`. One name has one size over all tensors.
///
/// ```text
/// let dims = check("matmul", &[("a", a, "m k"), ("b", b, "k n")])?;
/// let k = dims.get("k");
/// ```
///
/// # Errors
/// [`Error::Shape`] naming the tensors and the size in which they differ.
pub fn check(op: &'static str, tensors: &[(&str, &Tensor, &str)]) -> Result<Dims> {
    let shapes: Vec<_> = tensors.iter().map(|(name, t, pattern)| (*name, t.shape(), *pattern)).collect();
    check_shapes(op, &shapes)
}

fn check_shapes(op: &'static str, tensors: &[(&str, &[usize], &str)]) -> Result<Dims> {
    let mut dims = Dims::default();
    let mut owners: Vec<(&str, &[usize])> = Vec::new();
    for &(name, shape, pattern) in tensors {
        let axes: Vec<&str> = pattern.split_whitespace().collect();
        let (rest, named) = match axes.split_first() {
            Some((&"..", named)) => (true, named),
            _ => (false, axes.as_slice()),
        };
        if shape.len() < named.len() || (!rest && shape.len() > named.len()) {
            return Err(Error::shape(op, format!("{name} {shape:?} does not fit [{}]", axes.join(", "))));
        }
        let (front, back) = shape.split_at(shape.len() - named.len());
        let mut bind = |axis: &str, size: usize| -> Result<()> {
            if let Ok(wanted) = axis.parse::<usize>() {
                return if wanted == size {
                    Ok(())
                } else {
                    Err(Error::shape(op, format!("{name} {shape:?} has {size} where {wanted} is wanted")))
                };
            }
            match dims.0.iter().position(|(n, _)| n == axis) {
                None => {
                    dims.0.push((axis.to_owned(), size));
                    owners.push((name, shape));
                    Ok(())
                }
                Some(i) if dims.0[i].1 == size => Ok(()),
                Some(i) => {
                    let (other, other_shape) = owners[i];
                    Err(Error::shape(op, format!("{other} {other_shape:?} and {name} {shape:?} differ in {axis}")))
                }
            }
        };
        if rest {
            bind("..", front.iter().product())?;
        }
        for (axis, size) in named.iter().zip(back) {
            bind(axis, *size)?;
        }
    }
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_sizes_bind_once_and_differences_are_named() {
        let dims = check_shapes("matmul", &[("a", &[5, 4, 7], ".. m k"), ("b", &[7, 3], "k n")]).unwrap();
        assert_eq!((dims.get(".."), dims.get("m"), dims.get("k"), dims.get("n")), (5, 4, 7, 3));
        let error = check_shapes("matmul", &[("a", &[4, 7], "m k"), ("b", &[8, 3], "k n")]).unwrap_err();
        assert_eq!(error.to_string(), "matmul: a [4, 7] and b [8, 3] differ in k");
        assert!(check_shapes("x", &[("a", &[4], "m k")]).is_err());
        assert!(check_shapes("x", &[("a", &[4, 3], "m 2")]).is_err());
    }

    #[test]
    fn collapse_merges_what_strides_allow() {
        let (sizes, strides) = collapse(&[2, 3, 4], &[&[12, 4, 1]]);
        assert_eq!((sizes, strides), (vec![24], vec![vec![1]]));
        let (sizes, strides) = collapse(&[2, 3, 4], &[&[12, 4, 1], &[0, 4, 1]]);
        assert_eq!((sizes, strides), (vec![2, 12], vec![vec![12, 1], vec![0, 1]]));
        let (sizes, _) = collapse(&[2, 1, 4], &[&[1, 9, 2]]);
        assert_eq!(sizes, vec![2, 4]);
    }

    #[test]
    fn broadcast_follows_numpy() {
        assert_eq!(broadcast("add", &[3, 1], &[4]).unwrap(), vec![3, 4]);
        assert_eq!(broadcast("add", &[], &[4]).unwrap(), vec![4]);
        assert!(broadcast("add", &[3], &[4]).is_err());
    }
}
