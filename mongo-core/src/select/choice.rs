//! Two random choices by operation count.

use std::sync::Arc;

use super::ServerEntry;

/// Two distinct random places below `len`, in no order; `None` if there are fewer than two.
fn two_places(len: usize, random: u64) -> Option<(usize, usize)> {
    if len < 2 {
        return None;
    }
    let (high, low) = (random >> 32, random & u64::from(u32::MAX));
    // Multiplying and shifting maps 32 random bits onto `0..len` without a division.
    let first = (low.wrapping_mul(len as u64) >> 32) as usize;
    let second = (high.wrapping_mul(len as u64 - 1) >> 32) as usize;
    // The second is drawn from the places without the first.
    Some((first, second + usize::from(second >= first)))
}

/// Chooses one of `len` servers: of two random ones the one with fewer operations, and with equal
/// counts the first one.
pub(super) fn choose<'a>(
    len: usize,
    at: impl Fn(usize) -> Option<&'a Arc<ServerEntry>>,
    random: u64,
) -> Option<&'a Arc<ServerEntry>> {
    let Some((first, second)) = two_places(len, random) else {
        return at(0);
    };
    let (first, second) = (at(first)?, at(second)?);
    match second.operation_count() < first.operation_count() {
        true => Some(second),
        false => Some(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Halves of a `u64`, at the edges and in between.
    const HALVES: [u64; 5] = [0, 1, 1 << 31, (1 << 32) - 2, (1 << 32) - 1];

    #[test]
    fn places_are_different_and_within_bounds() {
        assert_eq!(two_places(0, 7), None);
        assert_eq!(two_places(1, 7), None);
        for len in [2, 3, 50, 1000] {
            for high in HALVES {
                for low in HALVES {
                    let random = high << 32 | low;
                    let (first, second) = two_places(len, random).expect("two places");
                    assert!(
                        first < len && second < len && first != second,
                        "{len} {random}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_pair_is_drawn_equally_often() {
        let mut drawn = [[0_u32; 5]; 5];
        let mut random = 0_u64;
        for _ in 0..20_000 {
            // An odd step visits all numbers evenly.
            random = random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let (first, second) = two_places(5, random).expect("two places");
            drawn[first][second] += 1;
        }
        for (first, row) in drawn.iter().enumerate() {
            for (second, &times) in row.iter().enumerate() {
                let expected = if first == second { 0..=0 } else { 800..=1200 };
                assert!(expected.contains(&times), "{first} {second}: {times}");
            }
        }
    }
}
