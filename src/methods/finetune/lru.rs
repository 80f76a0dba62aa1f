//! Which of many things lie in few places, by when they were last used.

use std::collections::{BTreeSet, HashMap};

/// Places, each with the key of what lies there; the one used longest ago goes first.
#[derive(Debug, Clone)]
pub(super) struct Lru {
    /// Key, and when it was last used, of each place.
    places: Vec<(Option<usize>, u64)>,
    by_key: HashMap<usize, usize>,
    /// When, place: in the order of leaving.
    order: BTreeSet<(u64, usize)>,
    now: u64,
}

/// What became of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Where each of them lies from now on.
    pub(super) places: Vec<usize>,
    /// Those among them that were not there, once each, and their places.
    pub(super) missing: Vec<(usize, usize)>,
}

impl Lru {
    pub(super) fn new(n: usize) -> Self {
        Self {
            places: vec![(None, 0); n],
            by_key: HashMap::new(),
            order: (0..n).map(|place| (0, place)).collect(),
            now: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Finds a place for each of these keys; `None` if there are more different ones than places. None of the keys takes another
    /// one's place.
    pub(super) fn place(&mut self, keys: &[usize]) -> Option<Placed> {
        let different: BTreeSet<usize> = keys.iter().copied().collect();
        if different.len() > self.places.len() {
            return None;
        }
        self.now += 1;
        // Those that are there first, so that newcomers do not drive them out.
        for key in &different {
            if let Some(&place) = self.by_key.get(key) {
                self.touch(place);
            }
        }
        let mut missing = Vec::new();
        for &key in &different {
            if self.by_key.contains_key(&key) {
                continue;
            }
            let &(_, place) = self.order.first()?;
            if let Some(old) = self.places[place].0.replace(key) {
                self.by_key.remove(&old);
            }
            self.by_key.insert(key, place);
            self.touch(place);
            missing.push((key, place));
        }
        Some(Placed { places: keys.iter().map(|key| self.by_key[key]).collect(), missing })
    }

    fn touch(&mut self, place: usize) {
        self.order.remove(&(self.places[place].1, place));
        self.places[place].1 = self.now;
        self.order.insert((self.now, place));
    }

    /// Empties the place of a key.
    pub(super) fn forget(&mut self, key: usize) {
        if let Some(place) = self.by_key.remove(&key) {
            self.order.remove(&(self.places[place].1, place));
            self.places[place] = (None, 0);
            self.order.insert((0, place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_leaves() {
        let mut lru = Lru::new(3);
        let placed = |places: &[usize], missing: &[(usize, usize)]| {
            Some(Placed { places: places.to_vec(), missing: missing.to_vec() })
        };
        assert_eq!(lru.place(&[7, 8, 7]), placed(&[0, 1, 0], &[(7, 0), (8, 1)]));
        assert_eq!(lru.place(&[9]), placed(&[2], &[(9, 2)]));
        assert_eq!(lru.place(&[7]), placed(&[0], &[]));
        // 8 was used longest ago.
        assert_eq!(lru.place(&[10]), placed(&[1], &[(10, 1)]));
        // 9 would be next, but it is wanted here.
        assert_eq!(lru.place(&[8, 9]), placed(&[0, 2], &[(8, 0)]));
        assert!(lru.place(&[1, 2, 3, 4]).is_none());
        lru.forget(10);
        lru.forget(55);
        assert_eq!(lru.place(&[11]), placed(&[1], &[(11, 1)]));
        assert_eq!(lru.place(&[8, 9, 11]).unwrap().missing, []);
    }

    #[test]
    fn it_is_what_a_list_would_do() {
        let (mut lru, mut list) = (Lru::new(5), Vec::<usize>::new());
        let mut state = 1_u32;
        for step in 0..2000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (state >> 16) as usize % 9;
            let hit = list.iter().position(|k| *k == key).map(|i| list.remove(i)).is_some();
            list.push(key);
            if list.len() > 5 {
                list.remove(0);
            }
            let placed = lru.place(&[key]).unwrap();
            assert_eq!((placed.places.len(), placed.missing.is_empty()), (1, hit), "{step}");
        }
    }
}
