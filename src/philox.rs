//! Philox4x32-10, the counter-based generator behind every random number of the crate.
//!
//! A draw is a pure function of its key and counter, so the same words come out on the CPU, on every adapter, in any order and
//! on any number of threads. The layout is fixed:
//!
//! | word | meaning |
//! |---|---|
//! | key 0, 1 | the seed, low word first |
//! | counter 0, 1 | `element / 4`, low word first: four neighbouring elements share one call |
//! | counter 2 | the step: training step, epoch or image, whatever the stream repeats over |
//! | counter 3 | the stream: who draws; see [`stream`] |
//!
//! Element `e` of a (stream, step) is output word `e % 4` of that call. Floats in `[0, 1)` take the top 24 bits of one word.
//!
//! Salmon, Moraes, Dror and Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).

/// The streams in use, one number each, so that no two users of a seed draw the same words.
pub mod stream {
    /// Training images of the procedural set `shapes`; the step is the image.
    pub const SHAPES_TRAIN: u32 = 1;
    /// Test images of the procedural set `shapes`; the step is the image.
    pub const SHAPES_TEST: u32 = 2;
    /// Weights of untrained networks; the step is the tensor.
    pub const WEIGHTS: u32 = 3;
    /// Weights at the start of training, by the papers' rules; the step is the tensor.
    pub const INITIAL_WEIGHTS: u32 = 4;
    /// Crops and flips of training images; the step is the training step.
    pub const CROP_FLIP: u32 = 5;
    /// Order of the items of a training run; the step is the epoch.
    pub const ORDER: u32 = 6;
    /// Random inputs of a kernel in the simulator; the step is the binding.
    pub const INPUTS: u32 = 7;
    /// Views of training images, the step being the epoch: this stream for the first view of an image, the next for the
    /// second, eight in all.
    pub const VIEWS: u32 = 8;
    /// First rows of memory banks.
    pub const BANK: u32 = 16;
    /// Which images keep their label where few do; the step is the class.
    pub const FEW_LABELS: u32 = 20;
    /// Images of each class that few-shot learning sees; the step is the class.
    pub const FEW_SHOTS: u32 = 21;
    /// Which texts are to judge by.
    pub const TEXT_SPLIT: u32 = 22;
    /// Draws of the next token of a text; the step is the number of tokens in front.
    pub const SAMPLE: u32 = 23;
    /// Fixed bases of mixtures. These four have the layout of [`crate::ops::basis`]: counter 0 is the call, counter 1 the
    /// basis or group of bases, counter 2 the layer.
    pub const BASIS_FIXED: u32 = 24;
    /// Bases of first factors.
    pub const BASIS_A: u32 = 25;
    /// Bases of second factors.
    pub const BASIS_B: u32 = 26;
    /// Bases of whole weights.
    pub const BASIS_DENSE: u32 = 27;
    /// Which images of a set without halves are held out; the step is the class.
    pub const HOLDOUT: u32 = 28;
    /// First values of adapters and new heads; the step is the tensor.
    pub const ADAPTER: u32 = 29;
}

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const N_ROUNDS: usize = 10;

/// Four random words for one counter under one key.
///
/// ```
/// let words = leanvision::philox::philox4x32([0; 4], [0; 2]);
/// assert_eq!(words, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
/// ```
#[must_use]
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let halves = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut key_0, mut key_1] = key;
    for _ in 0..N_ROUNDS {
        let (high_a, low_a) = halves(MULTIPLIERS[0], a);
        let (high_c, low_c) = halves(MULTIPLIERS[1], c);
        (a, b, c, d) = (high_c ^ b ^ key_0, low_c, high_a ^ d ^ key_1, low_a);
        key_0 = key_0.wrapping_add(KEY_STEPS[0]);
        key_1 = key_1.wrapping_add(KEY_STEPS[1]);
    }
    [a, b, c, d]
}

/// The elements of one (seed, stream, step), read in order.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u32,
    step: u32,
    element: u64,
    words: [u32; 4],
}

impl Philox {
    /// Starts at element 0.
    #[must_use]
    pub fn new(seed: u64, stream: u32, step: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream, step, element: 0, words: [0; 4] }
    }

    /// Goes to `element`, which the next draw reads.
    #[must_use]
    pub fn at(mut self, element: u64) -> Self {
        self.element = element;
        if !element.is_multiple_of(4) {
            self.words = self.call();
        }
        self
    }

    /// The next word, uniform over all 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        let lane = (self.element % 4) as usize;
        if lane == 0 {
            self.words = self.call();
        }
        self.element = self.element.wrapping_add(1);
        self.words[lane]
    }

    /// The next float, uniform in `[0, 1)`: a multiple of 2^-24.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// The next integer under `n`, from one word; `n` = 0 gives 0. The bias is under `n` / 2^32.
    pub fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.next_u32()) * u64::from(n)) >> 32) as u32
    }

    fn call(&self) -> [u32; 4] {
        let call = self.element / 4;
        philox4x32([call as u32, (call >> 32) as u32, self.step, self.stream], self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The known answers published with the algorithm.
    #[test]
    fn philox_known_answers() {
        let cases: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox4x32(counter, key), want);
        }
    }

    #[test]
    fn philox_elements_follow_the_layout() {
        let seed = 0x0123_4567_89ab_cdef;
        let mut draws = Philox::new(seed, 7, 9);
        for element in 0..11u64 {
            let counter = [(element / 4) as u32, 0, 9, 7];
            let want = philox4x32(counter, [0x89ab_cdef, 0x0123_4567])[(element % 4) as usize];
            assert_eq!(draws.next_u32(), want, "element {element}");
            assert_eq!(Philox::new(seed, 7, 9).at(element).next_u32(), want, "element {element} by seek");
        }
        let far = (5u64 << 34) + 6;
        let mut draws = Philox::new(seed, 7, 9).at(far);
        let want = philox4x32([1, 5, 9, 7], [0x89ab_cdef, 0x0123_4567]);
        assert_eq!([draws.next_u32(), draws.next_u32()], [want[2], want[3]]);
    }

    #[test]
    fn philox_uniform_takes_the_top_24_bits() {
        let mut words = Philox::new(3, 0, 0);
        let mut floats = words.clone();
        let mut sum = 0.0f64;
        for _ in 0..4096 {
            let float = floats.uniform_f32();
            assert!((0.0..1.0).contains(&float));
            assert_eq!((float * 16_777_216.0) as u32, words.next_u32() >> 8);
            sum += f64::from(float);
        }
        // Mean of 4,096 uniform draws: standard deviation 0.0045.
        assert!((sum / 4096.0 - 0.5).abs() < 0.02, "mean {}", sum / 4096.0);
        let mut draws = Philox::new(4, 0, 0);
        let mut counts = [0u32; 10];
        (0..10_000).for_each(|_| counts[draws.below(10) as usize] += 1);
        assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{counts:?}");
        assert_eq!(draws.below(0), 0);
    }
}
