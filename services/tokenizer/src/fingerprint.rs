//! Which vocabulary this is, in a form that two processes can compare.

use sha2::{Digest as _, Sha256};

/// SHA-256 of the bytes of `tokenizer.json`, in lower-case hex.
pub fn of(tokenizer_json: &[u8]) -> String {
    hex::encode(Sha256::digest(tokenizer_json))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_what_sha256sum_prints() {
        // printf abc | sha256sum
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(super::of(b"abc"), abc);
    }
}
