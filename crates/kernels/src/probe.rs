//! What the machine gives: products a second without memory, and bytes a second without products. Benches print them
//! beside what the operators reach; nothing else uses them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Context;
use crate::isa::Kernel;
use crate::simd::{LANES, Simd};

/// Rows of the register tile that the product probes run, times two columns of weights: twelve independent chains.
const ROWS: usize = 6;
/// Steps between two looks at the clock.
const STEPS: usize = 4096;
/// Bytes of a vector of [`Simd::load_bytes`].
const VECTOR: usize = 64;

/// Multiply-adds of int8 by all threads of the pool, per second, from registers and the first-level cache.
pub fn int8_products(context: &mut Context, time: Duration) -> f64 {
    let isa = context.isa;
    let per_step = ROWS * 2 * VECTOR;
    per_second(context, time, move |_| {
        isa.run(Int8Tile);
        STEPS * per_step
    })
}

/// Fused multiply-adds of f32 by all threads of the pool, per second, from registers and the first-level cache.
pub fn f32_products(context: &mut Context, time: Duration) -> f64 {
    let isa = context.isa;
    let per_step = ROWS * 2 * LANES;
    per_second(context, time, move |_| {
        isa.run(F32Tile);
        STEPS * per_step
    })
}

/// Bytes read by all threads of the pool together, per second, each thread again and again over its share of `bytes`:
/// more than the caches hold measures memory, less measures them.
pub fn read_bytes(context: &mut Context, bytes: usize, time: Duration) -> f64 {
    let (isa, threads) = (context.isa, context.pool.threads());
    let floats = (bytes / threads / size_of::<f32>()).next_multiple_of(8 * LANES);
    let shares: Vec<Vec<f32>> = (0..threads).map(|_| vec![1.0; floats]).collect();
    per_second(context, time, |thread| {
        // A share that fits the caches is read many times between two looks at the clock.
        let times = (1_usize << 20).div_ceil(floats);
        for _ in 0..times {
            black_box(isa.run(Read(&shares[thread])));
        }
        times * floats * size_of::<f32>()
    })
}

/// Runs `work`, which tells how much it has done, on every thread until `time` is over.
fn per_second(context: &mut Context, time: Duration, work: impl Fn(usize) -> usize + Sync) -> f64 {
    let rates: Vec<std::sync::Mutex<f64>> = (0..context.pool.threads()).map(|_| 0.0.into()).collect();
    context.pool.run(|thread| {
        work(thread);
        let (start, mut done) = (Instant::now(), 0);
        while start.elapsed() < time {
            done += work(thread);
        }
        if let Ok(mut rate) = rates[thread].lock() {
            *rate = done as f64 / start.elapsed().as_secs_f64();
        }
    });
    rates.into_iter().filter_map(|rate| rate.into_inner().ok()).sum()
}

/// Twelve chains of int8 products.
struct Int8Tile;

impl Kernel for Int8Tile {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = black_box([[1i8; VECTOR]; ROWS]);
        let weights = black_box([[2u8; VECTOR]; 16]);
        let mut sums = [[s.splat_i32(0); 2]; ROWS];
        for step in 0..STEPS {
            let at = step % 8 * 2;
            // SAFETY: every pointer is that of an array of a vector's length.
            let columns = unsafe {
                [
                    s.load_bytes(weights[at].as_ptr()),
                    s.load_bytes(weights[at + 1].as_ptr()),
                ]
            };
            for (row, sums) in inputs.iter().zip(&mut sums) {
                // SAFETY: as above.
                let row = unsafe { s.load_bytes(row.as_ptr().cast()) };
                sums[0] = s.dot_u7(sums[0], columns[0], row);
                sums[1] = s.dot_u7(sums[1], columns[1], row);
            }
        }
        for sums in sums {
            black_box(s.sum(s.to_f32(s.add_i32(sums[0], sums[1]))));
        }
    }
}

/// Twelve chains of f32 products.
struct F32Tile;

impl Kernel for F32Tile {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let inputs = black_box([0.5f32; ROWS]);
        let weights = black_box([[0.25f32; LANES]; 16]);
        let mut sums = [[s.splat(0.0); 2]; ROWS];
        for step in 0..STEPS {
            let at = step % 8 * 2;
            // SAFETY: every pointer is that of an array of a vector's length.
            let columns = unsafe { [s.load(weights[at].as_ptr()), s.load(weights[at + 1].as_ptr())] };
            for (row, sums) in inputs.iter().zip(&mut sums) {
                let row = s.splat(*row);
                sums[0] = s.mul_add(columns[0], row, sums[0]);
                sums[1] = s.mul_add(columns[1], row, sums[1]);
            }
        }
        for sums in sums {
            black_box(s.sum(s.add(sums[0], sums[1])));
        }
    }
}

/// Reads everything, eight vectors at a time.
struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut largest = [s.splat(0.0); 8];
        for group in self.0.chunks_exact(8 * LANES) {
            for (index, largest) in largest.iter_mut().enumerate() {
                // SAFETY: the group has eight vectors.
                *largest = s.max(*largest, unsafe { s.load(group.as_ptr().add(index * LANES)) });
            }
        }
        let mut all = s.splat(0.0);
        for lanes in largest {
            all = s.max(all, lanes);
        }
        s.maximum(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Isa, ThreadPool};

    #[test]
    fn every_instruction_set_gives_rates_above_nothing() {
        for isa in Isa::available() {
            let pool = ThreadPool::new(2).unwrap();
            let mut context = Context { pool, isa };
            let time = Duration::from_millis(2);
            let rates = [
                int8_products(&mut context, time),
                f32_products(&mut context, time),
                read_bytes(&mut context, 1 << 16, time),
            ];
            for rate in rates {
                assert!(rate.is_finite() && rate > 0.0, "{}: {rates:?}", isa.name());
            }
        }
    }

    #[test]
    fn reading_sees_every_element() {
        for isa in Isa::available() {
            let mut values = vec![0.0; 3 * 8 * LANES];
            for at in [0, 127, 128, 383] {
                values[at] = 2.0;
                assert_eq!(isa.run(Read(&values)), 2.0, "{} at {at}", isa.name());
                values[at] = 0.0;
            }
        }
    }
}
