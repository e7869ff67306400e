//! The known word that a wrong one was probably meant to be.

/// Words longer than this are not compared.
const LONGEST_CHARS: usize = 64;

/// The candidate nearest to `word`, if any is near.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.chars().take(LONGEST_CHARS + 1).count() > LONGEST_CHARS {
        return None;
    }
    let folded = |text: &str| text.to_lowercase().replace('-', "_");
    let word = folded(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &folded(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let keys = ["lanes", "schedule", "exclude_databases"];
        assert_eq!(nearest("lane", keys), Some("lanes"));
        assert_eq!(nearest("Schedule", keys), Some("schedule"));
        assert_eq!(nearest("exclude-database", keys), Some("exclude_databases"));
        assert_eq!(nearest("retention", keys), None);
        assert_eq!(nearest(&"lanes".repeat(100), keys), None);
    }
}
