//! Noise that is the same everywhere: Philox4x64-10 (Random123) as numpy has it, and normal numbers from it.
//!
//! A picture's noise depends on (seed, label, index) alone, not on batches, order or threads. In numpy:
//!
//! ```text
//! raw = np.random.Philox(key=np.array([seed, label << 32 | index], np.uint64), counter=0).random_raw(n + n % 2)
//! u = ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53          # never 0, never 1
//! r, a = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]                 # Box-Muller
//! z = np.stack([r * np.cos(a), r * np.sin(a)], axis=1).ravel()[:n].astype(np.float32)
//! ```
//!
//! The integers are exact on every machine. `ln`, `cos` and `sin` are the platform's f64 functions, which may differ in the
//! last bit; rounding to f32 hides that but in about one number of 10^8.

const MULTIPLIERS: [u64; 2] = [0xD2E7_470E_E14C_6C93, 0xCA5A_8263_9512_1157];
const WEYL: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xBB67_AE85_84CA_A73B];
const ROUNDS: usize = 10;

/// The stream of `np.random.Philox(key=key, counter=0).random_raw`.
#[derive(Debug, Clone)]
pub struct Philox {
    key: [u64; 2],
    counter: [u64; 4],
    block: [u64; 4],
    /// Words of `block` given out.
    used: usize,
}

impl Philox {
    /// A stream at its beginning.
    pub fn new(key: [u64; 2]) -> Self {
        Philox { key, counter: [0; 4], block: [0; 4], used: 4 }
    }

    /// numpy counts up before each block, so that the first one is that of counter 1.
    fn refill(&mut self) {
        for word in &mut self.counter {
            *word = word.wrapping_add(1);
            if *word != 0 {
                break;
            }
        }
        self.block = philox4x64(self.counter, self.key);
        self.used = 0;
    }
}

impl Iterator for Philox {
    type Item = u64;
    fn next(&mut self) -> Option<u64> {
        if self.used == 4 {
            self.refill();
        }
        self.used += 1;
        Some(self.block[self.used - 1])
    }
}

/// One block of Philox4x64-10.
pub fn philox4x64(mut x: [u64; 4], mut key: [u64; 2]) -> [u64; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let first = u128::from(MULTIPLIERS[0]) * u128::from(x[0]);
        let second = u128::from(MULTIPLIERS[1]) * u128::from(x[2]);
        let (high0, low0) = ((first >> 64) as u64, first as u64);
        let (high1, low1) = ((second >> 64) as u64, second as u64);
        x = [high1 ^ x[1] ^ key[0], low1, high0 ^ x[3] ^ key[1], low0];
    }
    x
}

/// A number in (0, 1) from the upper 53 bits.
fn uniform(raw: u64) -> f64 {
    ((raw >> 11) as f64 + 0.5) * (1.0 / 9_007_199_254_740_992.0)
}

/// `n` standard normal numbers of picture `index` of `label` (both below 2^32), as the module's head defines them.
pub fn normals(seed: u64, label: u64, index: u64, n: usize) -> Vec<f32> {
    let mut raw = Philox::new([seed, (label << 32) | index]).map(uniform);
    let mut numbers = Vec::with_capacity(n + 1);
    while numbers.len() < n {
        let (Some(first), Some(second)) = (raw.next(), raw.next()) else { break };
        let (radius, angle) = ((-2.0 * first.ln()).sqrt(), 2.0 * std::f64::consts::PI * second);
        numbers.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    numbers.truncate(n);
    numbers
}
