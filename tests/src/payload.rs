//! Bytes that no correct server sends, for [`Action::Body`](crate::Action::Body) and
//! [`Action::Raw`](crate::Action::Raw).

/// A valid BSON document `{ok: 1.0, d: {d: {…}}}` with `depth` levels below the first.
pub fn deep_document(depth: usize) -> Vec<u8> {
    const OK: &[u8] = b"\x01ok\0\0\0\0\0\0\0\xf0\x3f";
    // An empty document has five bytes; each level around it adds a length, `\x03d\0` and an end.
    let length = |levels: usize| 5 + 8 * levels;
    let prefix = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX).to_le_bytes();
    let total = OK.len() + length(depth);
    let mut bytes = prefix(total).to_vec();
    bytes.extend_from_slice(OK);
    for levels_below in (0..depth).rev() {
        bytes.extend_from_slice(b"\x03d\0");
        bytes.extend_from_slice(&prefix(length(levels_below)));
    }
    bytes.resize(total, 0);
    bytes
}

/// `length` bytes that look random and are the same for the same `seed` (SplitMix64).
pub fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_documents_are_valid_bson() {
        for depth in [0, 1, 2, 20] {
            let bytes = deep_document(depth);
            let document = bson::Document::from_reader(&bytes[..]).unwrap();
            assert_eq!(document.get_f64("ok").unwrap(), 1.0);
            let mut level = &document;
            for _ in 0..depth {
                level = level.get_document("d").unwrap();
            }
            assert!(level.get("d").is_none());
        }
    }

    #[test]
    fn random_bytes_depend_on_the_seed_alone() {
        assert_eq!(random_bytes(1, 13), random_bytes(1, 13));
        assert_ne!(random_bytes(1, 13), random_bytes(2, 13));
        assert_eq!(random_bytes(1, 13).len(), 13);
    }
}
