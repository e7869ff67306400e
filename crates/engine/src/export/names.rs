//! File names for databases, whatever they are called.

use std::collections::HashSet;

use flexkeep_vault::ContentHash;

/// Most bytes of a file name before its ending. File systems allow 255 in all, and a file that is
/// not complete yet has a longer name.
const MOST_BYTES: usize = 200;

/// The names, without ending, of files for these databases, in the same order.
///
/// Letters, digits, `.`, `_` and `-` of ASCII stay; every other byte becomes `%` and its two
/// hexadecimal digits. Names that would differ in case only, which some file systems take for one,
/// get `~2`, `~3` and so on.
pub(crate) fn file_stems<'a>(databases: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    databases
        .into_iter()
        .map(|database| {
            let stem = escape(database);
            let mut candidate = stem.clone();
            let mut number = 1_u64;
            while !taken.insert(candidate.to_ascii_lowercase()) {
                number += 1;
                candidate = format!("{stem}~{number}");
            }
            candidate
        })
        .collect()
}

fn escape(database: &str) -> String {
    let mut stem = String::with_capacity(database.len());
    for (index, byte) in database.bytes().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        // A leading dot hides a file, a leading dash makes it an option.
        if plain && (index > 0 || !matches!(byte, b'.' | b'-')) {
            stem.push(char::from(byte));
        } else {
            stem.push_str(&format!("%{byte:02X}"));
        }
    }
    if stem.len() > MOST_BYTES {
        let hash = ContentHash::of(database.as_bytes()).to_string();
        stem.truncate(MOST_BYTES - 17);
        stem.push('~');
        stem.push_str(&hash[..16]);
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        assert_eq!(file_stems(["shop", "my-db_2.old"]), ["shop", "my-db_2.old"]);
    }

    #[test]
    fn what_a_path_or_a_shell_would_take_amiss_is_escaped() {
        assert_eq!(
            file_stems(["../x", "a/b", ".hid", "-rf", "a b'", "tab\t\0", "100%", "ü"]),
            ["%2E.%2Fx", "a%2Fb", "%2Ehid", "%2Drf", "a%20b%27", "tab%09%00", "100%25", "%C3%BC"]
        );
    }

    #[test]
    fn names_that_would_meet_are_kept_apart() {
        let stems = file_stems(["Shop", "shop", "SHOP", "shop~2", "a/b", "a%2Fb", "a%2fb"]);
        assert_eq!(&stems[..3], ["Shop", "shop~2", "SHOP~3"]);
        let folded: HashSet<String> = stems.iter().map(|stem| stem.to_ascii_lowercase()).collect();
        assert_eq!(folded.len(), stems.len(), "{stems:?}");
    }

    #[test]
    fn a_long_name_is_cut_and_stays_unique() {
        let (a, b) = ("/".repeat(90) + "a", "/".repeat(90) + "b");
        let stems = file_stems([a.as_str(), b.as_str()]);
        assert!(stems.iter().all(|stem| stem.len() == MOST_BYTES), "{stems:?}");
        assert_ne!(stems[0], stems[1]);
    }
}
