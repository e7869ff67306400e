//! How values without a natural JSON form are written with a run.

/// Bytes that are mostly text: a string where they are UTF-8, else an array of numbers.
pub(crate) mod bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => to.serialize_str(text),
            Err(_) => to.collect_seq(bytes),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Either::deserialize(from)? {
            Either::Text(text) => text.into_bytes(),
            Either::Bytes(bytes) => bytes,
        })
    }
}

/// Numbers that mostly follow each other: each as its distance from the one before, wrapped, which
/// compresses to next to nothing.
pub(crate) mod ascending {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(numbers: &[u32], to: S) -> Result<S::Ok, S::Error> {
        let mut before = 0u32;
        to.collect_seq(numbers.iter().map(|&number| {
            let step = number.wrapping_sub(before);
            before = number;
            step
        }))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
        let mut numbers = Vec::<u32>::deserialize(from)?;
        let mut before = 0u32;
        for number in &mut numbers {
            before = before.wrapping_add(*number);
            *number = before;
        }
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Both {
        #[serde(with = "super::bytes")]
        name: Vec<u8>,
        #[serde(with = "super::ascending")]
        oids: Vec<u32>,
    }

    #[test]
    fn names_in_any_encoding_and_numbers_in_any_order_come_back() {
        for name in [&b"public.\"a\nb\""[..], b"\xff\x00x", b""] {
            let both = Both { name: name.to_vec(), oids: vec![5, 6, 0, 8, u32::MAX, 1] };
            let text = serde_json::to_string(&both).unwrap();
            assert_eq!(serde_json::from_str::<Both>(&text).unwrap(), both);
        }
    }
}
