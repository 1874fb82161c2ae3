//! Random numbers that are the same on every machine and in every version: a run is repeated by its seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of numbers of its own for each purpose of a seed, so that drawing more for one changes none of another.
#[derive(Debug, Clone)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of a seed for a purpose.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        for (index, byte) in purpose.bytes().enumerate() {
            let at = 8 + index % 24;
            key[at] = key[at].rotate_left(3) ^ byte;
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// A number below `bound`, which is not 0, each as likely as the others.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "there is no number below 0");
        let bound = bound as u64;
        // The rest of 2^64 that would make the small ones likelier is drawn again.
        let whole = u64::MAX - (u64::MAX % bound + 1) % bound;
        loop {
            let drawn = self.0.next_u64();
            if drawn <= whole {
                return (drawn % bound) as usize;
            }
        }
    }

    /// A number in 0..1 with 24 random bits.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// A number from the normal distribution (Box & Muller, 1958).
    pub fn normal(&mut self) -> f32 {
        // In (0, 1]: its logarithm is a number.
        let radius = (-2.0 * (1.0 - f64::from(self.uniform())).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.uniform())).cos()) as f32
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_purpose_give_the_same_numbers_for_ever() {
        let draw = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            [(); 3].map(|()| random.below(1000))
        };
        assert_eq!(draw(7, "shuffle"), draw(7, "shuffle"));
        assert_ne!(draw(7, "shuffle"), draw(8, "shuffle"));
        assert_ne!(draw(7, "shuffle"), draw(7, "dropout"));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_variance_one() {
        let mut random = Random::new(2, "test");
        let drawn: Vec<f64> = (0..20_000).map(|_| f64::from(random.normal())).collect();
        let mean = |of: &dyn Fn(f64) -> f64| drawn.iter().map(|x| of(*x)).sum::<f64>() / drawn.len() as f64;
        assert!(mean(&|x| x).abs() < 0.03 && (mean(&|x| x * x) - 1.0).abs() < 0.05);
        let beyond = mean(&|x| f64::from(u8::from(x.abs() > 1.96)));
        assert!((0.04..0.06).contains(&beyond), "{beyond}");
    }

    #[test]
    fn every_number_is_drawn_and_a_shuffle_loses_none() {
        let mut random = Random::new(1, "test");
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[random.below(7)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        let mut items: Vec<usize> = (0..100).collect();
        random.shuffle(&mut items);
        assert!(items.windows(2).any(|pair| pair[0] > pair[1]));
        items.sort_unstable();
        assert!(items.into_iter().eq(0..100));
    }
}
