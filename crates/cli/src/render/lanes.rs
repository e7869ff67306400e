//! A run of several lanes: its databases, whose snapshots they hand on, and each lane.

use std::time::Duration;

use flexkeep_engine::{DatabaseProgress, DatabaseState, LaneProgress, RunProgress};
use jiff::Timestamp;

use crate::render::text::plural;
use crate::render::units;

/// Databases that are shown one by one.
const SHOWN: usize = 8;

/// Gives name and value of each line.
pub(crate) fn lines(progress: &RunProgress, now: Timestamp, line: &mut dyn FnMut(&str, &str)) {
    let over =
        |one: &&DatabaseProgress| matches!(one.state, DatabaseState::Done | DatabaseState::Dropped);
    let count = progress.databases.len();
    if count > 1 {
        let done = progress.databases.iter().filter(over).count();
        line("Databases", &format!("{done} of {count} done"));
    }
    let open: Vec<&DatabaseProgress> = progress
        .databases
        .iter()
        .filter(|one| !over(one) && (one.state == DatabaseState::Reading || !one.lost.is_empty()))
        .collect();
    for one in open.iter().take(SHOWN) {
        line("Database", &database(one, now));
        for lost in &one.lost {
            let age = units::age(lost.at, now);
            line(
                "Lost",
                &format!("snapshot {} of {}, {age}: {}", lost.snapshot, one.database, lost.reason),
            );
        }
    }
    if open.len() > SHOWN {
        line("Database", &format!("and {} more", open.len() - SHOWN));
    }
    for one in &progress.lanes {
        line(&format!("Lane {}", one.lane), &lane(one, now));
    }
}

/// `shop: 42 %, 27 of 64 items; snapshot 2, held by 2 lanes for 3 m 5 s, 21 holders so far`
fn database(one: &DatabaseProgress, now: Timestamp) -> String {
    if one.state == DatabaseState::Waiting {
        return format!("{}: waits for snapshot {}", one.database, one.snapshot + 1);
    }
    let mut text = format!("{}: ", one.database);
    if one.items > 0 {
        if let Some(percent) = units::percent(one.done_bytes, one.total_bytes) {
            text.push_str(&format!("{percent}, "));
        }
        text.push_str(&format!(
            "{} of {}; ",
            units::count(one.items_done),
            plural(one.items, "item")
        ));
    }
    text.push_str(&format!("snapshot {}, held by ", one.snapshot));
    match one.holders {
        0 => text.push_str("no lane that shows a sign of life"),
        holders => text.push_str(&plural(u64::from(holders), "lane")),
    }
    if let Some(since) = one.held_since {
        text.push_str(&format!(" for {}", time(since, now)));
    }
    text.push_str(&format!(", {} so far", plural(one.holders_so_far, "holder")));
    text
}

/// `generation 11, on vm (process 123): shop, 18.0 MB/s`
fn lane(one: &LaneProgress, now: Timestamp) -> String {
    let mut text =
        format!("generation {}, on {} (process {}): ", one.generation, one.host, one.pid);
    if let Some(why) = &one.resting {
        text.push_str(&format!("does not work ({} ago): {why}", time(one.at, now)));
        return text;
    }
    if one.silent {
        text.push_str(&format!("silent for {}", time(one.at, now)));
        if let Some(database) = &one.database {
            text.push_str(&format!(", it was on {database}"));
        }
        return text;
    }
    match &one.database {
        Some(database) => {
            text.push_str(&format!("{database}, {}/s", units::bytes(one.bytes_per_second)));
        }
        None => text.push_str("between two databases"),
    }
    if one.leaving {
        text.push_str(", waits for its successor");
    }
    text
}

/// Whole seconds between two moments, which clocks of two machines told.
fn time(from: Timestamp, to: Timestamp) -> String {
    let seconds = units::between(from, to).as_secs();
    match seconds {
        0..10 => format!("{seconds} s"),
        _ => units::duration(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use flexkeep_engine::{LostSnapshot, ProgressReading};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        let now: Timestamp = "2026-11-23T03:00:00Z".parse().unwrap();
        Timestamp::from_second(now.as_second() - seconds).unwrap()
    }

    fn lane(lane: u32, generation: u32, seconds: i64) -> LaneProgress {
        LaneProgress {
            lane,
            generation,
            host: "vm".to_owned(),
            pid: 17,
            at: at(seconds),
            silent: seconds > 30,
            database: Some("shop".to_owned()),
            snapshot: Some(2),
            leaving: false,
            resting: None,
            bytes_per_second: if seconds > 30 { 0 } else { 18_000_000 },
        }
    }

    fn database(name: &str, state: DatabaseState) -> DatabaseProgress {
        DatabaseProgress {
            database: name.to_owned(),
            state,
            total_bytes: 1000,
            done_bytes: 421,
            snapshot: 2,
            items: 64,
            items_done: 27,
            holders: 1,
            holders_so_far: 21,
            held_since: Some(at(185)),
            lost: Vec::new(),
        }
    }

    fn page(lanes: Vec<LaneProgress>, databases: Vec<DatabaseProgress>) -> String {
        let progress = RunProgress {
            at: at(1),
            bytes_per_second: 18_000_000,
            seconds_left: Some(250),
            reading: ProgressReading::default(),
            lanes,
            databases,
        };
        let mut out = String::new();
        lines(&progress, at(0), &mut |name, value| out.push_str(&format!("{name:<9} {value}\n")));
        out
    }

    #[test]
    fn a_run_shows_its_snapshots_with_their_holders_and_each_lane() {
        let lost =
            LostSnapshot { snapshot: 1, at: at(240), reason: "all holders ended".to_owned() };
        let shop =
            DatabaseProgress { lost: vec![lost], ..database("shop", DatabaseState::Reading) };
        let full = LaneProgress {
            resting: Some("the server has 1 connections left".to_owned()),
            database: None,
            ..lane(2, 0, 12)
        };
        let leaving = LaneProgress { leaving: true, ..lane(3, 1, 0) };
        let lanes = vec![lane(0, 11, 3), lane(1, 8, 125), full, leaving];
        let expected = "\
Databases 1 of 3 done
Database  shop: 42 %, 27 of 64 items; snapshot 2, held by 1 lane for 3 m 5 s, 21 holders so far
Lost      snapshot 1 of shop, 4 m ago: all holders ended
Lane 0    generation 11, on vm (process 17): shop, 18.0 MB/s
Lane 1    generation 8, on vm (process 17): silent for 2 m 5 s, it was on shop
Lane 2    generation 0, on vm (process 17): does not work (12 s ago): the server has 1 connections left
Lane 3    generation 1, on vm (process 17): shop, 18.0 MB/s, waits for its successor
";
        let databases = vec![
            database("crm", DatabaseState::Done),
            shop,
            database("later", DatabaseState::Waiting),
        ];
        assert_eq!(page(lanes, databases), expected);
    }

    #[test]
    fn a_snapshot_that_nobody_holds_is_not_said_to_be_held() {
        let orphan =
            DatabaseProgress { holders: 0, items: 0, ..database("shop", DatabaseState::Reading) };
        let text = page(vec![lane(0, 0, 60)], vec![orphan]);
        assert!(text.contains("held by no lane that shows a sign of life"), "{text}");
        assert!(!text.contains('%'), "{text}");
        let lost = LostSnapshot { snapshot: 2, at: at(9), reason: "gone".to_owned() };
        let again =
            DatabaseProgress { lost: vec![lost], ..database("shop", DatabaseState::Waiting) };
        let text = page(Vec::new(), vec![again]);
        assert!(text.starts_with("Database  shop: waits for snapshot 3\n"), "{text}");
    }

    #[test]
    fn of_many_databases_some_are_shown() {
        let many = (0..20).map(|i| database(&format!("d{i}"), DatabaseState::Reading)).collect();
        let text = page(Vec::new(), many);
        assert_eq!(text.lines().count(), 1 + SHOWN + 1, "{text}");
        assert!(text.ends_with("and 12 more\n"), "{text}");
    }
}
