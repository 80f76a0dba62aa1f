//! The ring of a memory bank.

/// The slot of row `row` of the batch `counter` of `batch` rows in a ring of `n_rows`: `(counter * batch + row) mod n_rows`.
#[must_use]
pub fn slot(counter: u32, row: usize, batch: usize, n_rows: usize) -> usize {
    ((u128::from(counter) * batch as u128 + row as u128) % n_rows as u128) as usize
}
