//! Messages that failed too often.

use jiff::Timestamp;

use crate::commands::dead_letters::Document;
use crate::render::table::{Align, Table};
use crate::render::units;

/// What was listed, or done.
pub(crate) fn page(document: &Document, status: &str, now: Timestamp) -> String {
    let letters = &document.dead_letters;
    if status != "listed" {
        let done = letters.iter().map(|letter| {
            format!("{status} {}: {} on {}", letter.id, letter.message, letter.queue)
        });
        return done.collect::<Vec<_>>().join("\n");
    }
    if letters.is_empty() {
        return "There are no dead letters.".to_owned();
    }
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("QUEUE", Align::Left),
        ("MESSAGE", Align::Left),
        ("DIED", Align::Left),
        ("AGE", Align::Right),
        ("WHY", Align::Left),
    ]);
    for letter in letters {
        // As the queue, or whoever refused the message, says it.
        let why = match letter.description.as_str() {
            "" => letter.reason.clone(),
            description => description.to_owned(),
        };
        table.row(vec![
            letter.id.to_string(),
            letter.queue.clone(),
            letter.message.clone(),
            units::time(letter.died),
            units::age(letter.died, now),
            why,
        ]);
    }
    table.render("")
}
