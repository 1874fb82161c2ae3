//! Dynamic maps of 8 bits, for numbers of many magnitudes: second moments, and the scales of NF4.
//!
//! They are those of Dettmers et al. 2022 (arXiv 2110.02861), value for value the ones of bitsandbytes: seven decades from 1
//! downwards, every decade with twice the codes of the one below, so that large values are fine and small ones still there.

/// Decades between the largest and the smallest magnitude.
const DECADES: i32 = 7;

/// What the 256 codes mean, ascending to 1, from -1 or, for numbers without a sign, from 0 with double the resolution.
pub fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut values = [0.0; 256];
    // The first is 0.
    values[1] = 1.0;
    let mut to = values[2..].iter_mut();
    for decade in 0..DECADES {
        let scale = 10f64.powi(decade + 1 - DECADES) as f32;
        let intervals = 1 << (decade + i32::from(!signed));
        for centre in centres(intervals) {
            let both = [scale * centre, -(scale * centre)];
            let few = if signed { &both[..] } else { &both[..1] };
            few.iter().zip(&mut to).for_each(|(value, to)| *to = *value);
        }
    }
    values.sort_by(f32::total_cmp);
    values
}

/// Centres of equal intervals from 0.1 to 1.
fn centres(intervals: i32) -> impl Iterator<Item = f32> {
    let width = 0.9f32 / intervals as f32;
    // From the nearer end and rounded once, as torch.linspace does it: the values are then the same bits.
    let edge = move |index: i32| match index * 2 < intervals + 1 {
        true => width.mul_add(index as f32, 0.1),
        false => (-width).mul_add((intervals - index) as f32, 1.0),
    };
    (0..intervals).map(move |index| (edge(index) + edge(index + 1)) / 2.0)
}
