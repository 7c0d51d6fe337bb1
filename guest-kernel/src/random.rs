//! Random numbers: ChaCha20, seeded by the VMM with entropy of the host.

use crate::sync::SpinLock;
use alloc::boxed::Box;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

enum Source {
    /// The seed, until a number is asked for: expanding it takes a thousand instructions.
    Seed([u8; 32]),
    Generator(Box<ChaCha20Rng>),
}

static SOURCE: SpinLock<Source> = SpinLock::new(Source::Seed([0; 32]));

/// Seeds the generator.
pub fn seed(seed: [u8; 32]) {
    *SOURCE.lock() = Source::Seed(seed);
}

fn with<T>(use_it: impl FnOnce(&mut ChaCha20Rng) -> T) -> T {
    let mut source = SOURCE.lock();
    if let Source::Seed(seed) = &*source {
        *source = Source::Generator(Box::new(ChaCha20Rng::from_seed(*seed)));
    }
    match &mut *source {
        Source::Generator(generator) => use_it(generator),
        Source::Seed(_) => unreachable!("just replaced"),
    }
}

/// Fills a buffer.
pub fn fill(bytes: &mut [u8]) {
    with(|generator| generator.fill_bytes(bytes));
}

/// A random number.
pub fn next_u64() -> u64 {
    with(ChaCha20Rng::next_u64)
}
