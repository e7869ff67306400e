//! What is sent and told over months of ticks: failures, outages, clocks that move, edited policies.

use flexkeep_policy::{
    Due, Every, Outcome, Overdue, Policy, RestoreReason, ScheduleState, ServerPolicy, Tick,
    Transition,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

const DAILY: &str = r#"{ every = "day", at = "03:15", zone = "Europe/Berlin" }"#;
const WEEKLY: &str = r#"{ every = "week", on = "sunday", at = "02:30", zone = "Europe/Berlin" }"#;

fn server(schedule: &str) -> ServerPolicy {
    server_with(schedule, "")
}

fn server_with(schedule: &str, lines: &str) -> ServerPolicy {
    let text = format!(
        "[vault]\nplace = \"/v\"\n[[server]]\nname = \"shop\"\n\
         connection = \"host=db user=u\"\nschedule = {schedule}\n{lines}\n"
    );
    let policy = Policy::parse(&text, "policy.toml", &|_: &str| None).unwrap();
    policy.servers()[0].clone()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// One server and all that was sent and told of it.
struct World {
    server: ServerPolicy,
    state: ScheduleState,
    now: Timestamp,
    sent: Vec<(Timestamp, Due)>,
    overdue: Vec<(Timestamp, Overdue)>,
    transitions: Vec<(Timestamp, Transition)>,
    clock_behind: usize,
    /// Backups that run: when they end, their instants, how.
    running: Vec<(Timestamp, Timestamp, Outcome)>,
}

impl World {
    fn new(schedule: &str, now: &str) -> Self {
        World {
            server: server(schedule),
            state: ScheduleState::default(),
            now: time(now),
            sent: Vec::new(),
            overdue: Vec::new(),
            transitions: Vec::new(),
            clock_behind: 0,
            running: Vec::new(),
        }
    }

    /// One tick now, with what holds for every tick.
    fn tick(&mut self) -> Tick {
        // As it is stored and read back.
        let stored = serde_json::to_vec(&self.state).unwrap();
        let state: ScheduleState = serde_json::from_slice(&stored).unwrap();
        assert_eq!(state, self.state);
        let degraded_before = state.degraded;
        let tick = state.tick(&self.server, self.now);
        if let Some(due) = tick.due {
            let effective = tick.state.effective(&self.server);
            assert_eq!(due.instant, effective.latest_instant(self.now), "not the latest");
            assert!(due.instant <= self.now);
            assert_eq!(due.catch_up, self.now.duration_since(due.instant) > hours(1));
            if let Some((_, last)) = self.sent.last() {
                assert!(due.instant > last.instant, "{due:?} after {last:?}");
            }
            self.sent.push((self.now, due));
        }
        if let Some(overdue) = tick.overdue {
            assert!(self.now.duration_since(overdue.instant) >= hours(24), "{overdue:?}");
            assert!(self.overdue.iter().all(|(_, told)| told.instant != overdue.instant));
            assert_eq!(overdue.last_success, self.state.last_success);
            self.overdue.push((self.now, overdue));
        }
        if let Some(transition) = tick.transition {
            assert!(degraded_before && !tick.state.degraded);
            self.transitions.push((self.now, transition));
        }
        self.clock_behind += usize::from(tick.clock_behind.is_some());
        self.state = tick.state.clone();
        if let Some(next) = tick.next {
            assert!(next > self.now);
        }
        // A second tick at once changes nothing.
        let again = self.state.tick(&self.server, self.now);
        let quiet = Tick {
            due: None,
            overdue: None,
            clock_behind: None,
            transition: None,
            next: tick.next,
            state: self.state.clone(),
        };
        assert_eq!(again, quiet);
        tick
    }

    fn finish(&mut self, instant: Timestamp, outcome: Outcome) {
        let transition = self.state.outcome(&self.server, instant, outcome);
        self.transitions.extend(transition.map(|transition| (self.now, transition)));
        // A message that is delivered again.
        let before = self.state.clone();
        assert_eq!(self.state.outcome(&self.server, instant, outcome), None);
        assert_eq!(self.state, before);
    }

    /// Ticks every `step` minutes until `until`; a backup takes an hour and ends as `outcome` says.
    fn run(&mut self, until: &str, step: i64, outcome: impl Fn(Timestamp) -> Outcome) {
        let until = time(until);
        while self.now < until {
            let now = self.now;
            let (ended, running): (Vec<_>, _) =
                self.running.drain(..).partition(|(end, _, _)| *end <= now);
            self.running = running;
            for (_, instant, outcome) in ended {
                self.finish(instant, outcome);
            }
            if let Some(due) = self.tick().due {
                self.running.push((now + hours(1), due.instant, outcome(due.instant)));
            }
            self.now += minutes(step);
        }
    }

    fn instants(&self) -> Vec<String> {
        self.sent.iter().map(|(_, due)| due.instant.to_string()).collect()
    }
}

fn good(_: Timestamp) -> Outcome {
    Outcome::Success
}

fn bad(_: Timestamp) -> Outcome {
    Outcome::Failure
}

#[test]
fn over_eleven_months_every_day_is_sent_once_and_nothing_is_told() {
    let mut world = World::new(DAILY, "2026-01-15T12:00:00Z");
    world.run("2026-12-15T12:00:00Z", 10, good);
    // The first one is caught up at once; then one for each of 334 days.
    let (first, rest) = world.sent.split_first().unwrap();
    assert_eq!((first.0, first.1.catch_up), (time("2026-01-15T12:00:00Z"), true));
    assert_eq!(first.1.instant, time("2026-01-15T02:15:00Z"));
    assert_eq!(rest.len(), 334);
    for (now, due) in rest {
        assert!(!due.catch_up && due.missed == 0, "{due:?}");
        assert!(now.duration_since(due.instant) < minutes(10));
    }
    assert!(world.overdue.is_empty() && world.transitions.is_empty());
}

#[test]
fn over_half_a_year_every_week_is_sent_once() {
    let mut world = World::new(WEEKLY, "2026-01-15T12:00:00Z");
    world.run("2026-07-15T12:00:00Z", 15, good);
    assert_eq!(world.sent.len(), 27);
    assert!(world.sent[1..].iter().all(|(_, due)| !due.catch_up));
    assert!(world.overdue.is_empty() && world.transitions.is_empty());
    // Where 02:30 does not exist, it is 03:30 in summer time.
    assert!(world.instants().contains(&"2026-03-29T01:30:00Z".to_owned()));
}

#[test]
fn of_what_an_outage_missed_only_the_latest_is_sent_and_the_gap_is_told() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-05T12:00:00Z", 5, good);
    world.now = time("2026-06-15T12:00:00Z");
    let tick = world.tick();
    let due = tick.due.unwrap();
    assert_eq!(due.instant, time("2026-06-15T01:15:00Z"));
    // From the 6th to the 14th.
    assert_eq!((due.catch_up, due.missed), (true, 9));
    let overdue = tick.overdue.unwrap();
    assert_eq!(overdue.instant, time("2026-06-14T01:15:00Z"));
    assert_eq!(overdue.last_success, Some(time("2026-06-05T01:15:00Z")));
    world.finish(due.instant, Outcome::Success);
    let before = world.sent.len();
    world.run("2026-06-20T12:00:00Z", 5, good);
    assert_eq!((world.sent.len() - before, world.overdue.len()), (5, 1));
}

#[test]
fn a_short_outage_delays_one_backup_and_is_no_alarm() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-05T00:00:00Z", 5, good);
    world.now = time("2026-06-05T08:00:00Z");
    world.run("2026-06-08T00:00:00Z", 5, good);
    let late: Vec<_> = world.sent[1..].iter().filter(|(_, due)| due.catch_up).collect();
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].1.instant, time("2026-06-05T01:15:00Z"));
    assert_eq!((late[0].1.missed, world.overdue.len()), (0, 0));
}

#[test]
fn two_failures_in_a_row_make_daily_weekly_until_one_succeeds() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    let down = time("2026-06-10T00:00:00Z")..time("2026-06-24T00:00:00Z");
    let outcome = |instant: Timestamp| {
        if down.contains(&instant) { Outcome::Failure } else { Outcome::Success }
    };
    world.run("2026-07-01T00:00:00Z", 5, outcome);
    assert_eq!(
        world.transitions,
        [
            (time("2026-06-11T02:15:00Z"), Transition::FellBack { failures: 2 }),
            (
                time("2026-06-28T02:15:00Z"),
                Transition::Restored { reason: RestoreReason::BackupSucceeded }
            ),
        ]
    );
    let between: Vec<String> = world
        .instants()
        .into_iter()
        .filter(|instant| instant.as_str() > "2026-06-09" && instant.as_str() < "2026-07")
        .collect();
    assert_eq!(
        between,
        [
            "2026-06-09T01:15:00Z",
            "2026-06-10T01:15:00Z",
            "2026-06-11T01:15:00Z",
            // Sundays.
            "2026-06-14T01:15:00Z",
            "2026-06-21T01:15:00Z",
            "2026-06-28T01:15:00Z",
            "2026-06-29T01:15:00Z",
            "2026-06-30T01:15:00Z",
        ]
    );
    let told: Vec<String> =
        world.overdue.iter().map(|(_, overdue)| overdue.instant.to_string()).collect();
    assert_eq!(told, ["2026-06-10T01:15:00Z", "2026-06-14T01:15:00Z", "2026-06-21T01:15:00Z"]);
}

#[test]
fn one_failure_between_successes_changes_nothing_and_a_weekly_policy_stays_weekly() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    let every_second = |instant: Timestamp| {
        if instant.as_second() / 86_400 % 2 == 0 { Outcome::Success } else { Outcome::Failure }
    };
    world.run("2026-08-01T00:00:00Z", 5, every_second);
    assert_eq!((world.sent.len(), world.transitions.len()), (61, 0));
    // Told for each that failed, a day later, when the next one has only begun. The first one,
    // which was caught up, has until noon.
    let end = world.now;
    let late = |due: &&Due| {
        let failed = every_second(due.instant) == Outcome::Failure;
        failed && !due.catch_up && end.duration_since(due.instant) > hours(24)
    };
    assert_eq!(world.overdue.len(), world.sent.iter().map(|(_, due)| due).filter(late).count());
    assert!(world.overdue.len() > 25);

    let mut world = World::new(WEEKLY, "2026-06-01T12:00:00Z");
    world.run("2026-08-01T00:00:00Z", 5, bad);
    assert_eq!((world.sent.len(), world.transitions.len()), (9, 0));
    assert_eq!(world.state.consecutive_failures, 9);
    assert_eq!(world.overdue.len(), 9);
}

#[test]
fn the_day_of_the_fallback_is_the_one_of_the_policy() {
    let daily = r#"{ every = "day", at = "03:15", weekly_on = "wednesday" }"#;
    let mut world = World::new(daily, "2026-06-01T12:00:00Z");
    world.run("2026-06-20T00:00:00Z", 5, bad);
    assert_eq!(
        world.instants(),
        // Caught up, Tuesday, and Wednesdays; the first one of them is before it fell back.
        [
            "2026-06-01T03:15:00Z",
            "2026-06-02T03:15:00Z",
            "2026-06-03T03:15:00Z",
            "2026-06-10T03:15:00Z",
            "2026-06-17T03:15:00Z",
        ]
    );
    assert_eq!(world.transitions.len(), 1);
}

#[test]
fn a_new_server_is_not_overdue_before_it_had_a_day() {
    let mut world = World::new(WEEKLY, "2026-06-05T12:00:00Z");
    world.run("2026-06-06T12:00:00Z", 5, bad);
    assert_eq!((world.sent.len(), world.overdue.len()), (1, 0));
    let tick = world.tick();
    let overdue = tick.overdue.unwrap();
    assert_eq!(overdue.instant, time("2026-05-31T00:30:00Z"));
    assert_eq!(overdue.last_success, None);
}

#[test]
fn a_backup_that_hangs_is_overdue_once() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-04T00:00:00Z", 5, good);
    world.running.clear();
    let before = world.sent.len();
    while world.now < time("2026-06-06T00:00:00Z") {
        world.tick();
        world.now += minutes(5);
    }
    assert_eq!(world.sent.len() - before, 2);
    assert_eq!(world.overdue.len(), 1);
    assert_eq!(world.overdue[0].1.instant, time("2026-06-04T01:15:00Z"));
}

#[test]
fn a_clock_that_goes_back_sends_nothing_again_and_is_told_once() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-10T12:00:00Z", 5, good);
    let before = world.sent.len();
    // The battery was empty.
    world.now = time("2020-01-01T00:00:00Z");
    while world.now < time("2020-02-01T00:00:00Z") {
        world.tick();
        world.now += minutes(60);
    }
    assert_eq!((world.sent.len(), world.clock_behind), (before, 1));
    world.now = time("2026-06-10T13:00:00Z");
    let state = world.state.clone();
    world.run("2026-06-14T12:00:00Z", 5, good);
    assert_eq!((world.sent.len() - before, world.overdue.len()), (4, 0), "{state:?}");
    // Some minutes are nothing to tell.
    world.now -= minutes(700);
    world.tick();
    assert_eq!((world.sent.len() - before, world.clock_behind), (4, 1));
}

#[test]
fn an_edited_time_that_is_still_to_come_is_kept_and_one_just_past_waits() {
    let at = |at: &str| format!(r#"{{ every = "day", at = "{at}", zone = "UTC" }}"#);
    // Noon; today's was sent at 03:15. Five minutes later, or earlier: tomorrow.
    for moved in ["03:20", "03:10", "10:00"] {
        let mut world = World::new(&at("03:15"), "2026-06-01T12:00:00Z");
        world.run("2026-06-05T12:00:00Z", 5, good);
        world.server = server(&at(moved));
        let before = world.sent.len();
        world.run("2026-06-06T03:00:00Z", 5, good);
        assert_eq!(world.sent.len(), before, "{moved}");
        world.run("2026-06-10T12:00:00Z", 5, good);
        assert_eq!(world.sent.len() - before, 5, "{moved}");
        assert!(world.overdue.is_empty(), "{moved}: {:?}", world.overdue);
    }
    // Still to come today: the user waits for it.
    let mut world = World::new(&at("03:15"), "2026-06-01T12:00:00Z");
    world.run("2026-06-05T12:00:00Z", 5, good);
    world.server = server(&at("12:10"));
    let before = world.sent.len();
    world.run("2026-06-05T13:00:00Z", 5, good);
    assert_eq!(world.sent.len() - before, 1);
    assert_eq!(world.sent.last().unwrap().1.instant, time("2026-06-05T12:10:00Z"));
    assert!(world.overdue.is_empty());
}

#[test]
fn what_was_moved_past_after_a_failure_is_tried_at_the_new_time() {
    let on = |day: &str| format!(r#"{{ every = "week", on = "{day}", at = "03:00" }}"#);
    let mut world = World::new(&on("monday"), "2026-06-01T12:00:00Z");
    world.run("2026-06-09T12:00:00Z", 60, bad);
    world.server = server(&on("tuesday"));
    assert_eq!(world.tick().due.unwrap().instant, time("2026-06-09T03:00:00Z"));
    // One that still runs is enough for now; if it fails, that is told.
    let mut world = World::new(&on("monday"), "2026-06-01T12:00:00Z");
    world.run("2026-06-08T12:00:00Z", 60, good);
    world.running.clear();
    world.state.last_success = Some(time("2026-06-01T03:00:00Z"));
    world.now = time("2026-06-09T12:00:00Z");
    world.server = server(&on("tuesday"));
    assert_eq!(world.tick().due, None);
    world.finish(time("2026-06-08T03:00:00Z"), Outcome::Failure);
    assert_eq!(world.tick().due.unwrap().instant, time("2026-06-09T03:00:00Z"));
}

#[test]
fn a_week_that_is_moved_leaves_no_gap_above_one_and_a_half() {
    let on = |day: &str| format!(r#"{{ every = "week", on = "{day}", at = "03:00" }}"#);
    let days = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    for from in days {
        for to in days {
            for edited_on in 8..15 {
                let mut world = World::new(&on(from), "2026-06-01T12:00:00Z");
                world.run(&format!("2026-06-{edited_on:02}T12:00:00Z"), 180, good);
                world.server = server(&on(to));
                world.run("2026-07-01T12:00:00Z", 180, good);
                for pair in world.sent[1..].windows(2) {
                    let gap = pair[1].0.duration_since(pair[0].0);
                    assert!(gap <= hours(252) + hours(13), "{from} {to} {edited_on}: {gap}");
                }
                assert!(world.overdue.is_empty(), "{from} {to} {edited_on}: {:?}", world.overdue);
            }
        }
    }
}

#[test]
fn an_edit_ends_a_fallback_and_says_so() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-05T12:00:00Z", 5, bad);
    assert!(world.state.degraded);
    world.server = server(WEEKLY);
    let tick = world.tick();
    assert_eq!(
        tick.transition,
        Some(Transition::Restored { reason: RestoreReason::ScheduleEdited })
    );
    assert_eq!((world.state.degraded, world.state.consecutive_failures), (false, 0));
    world.run("2026-06-20T12:00:00Z", 5, good);
    assert_eq!(world.transitions.len(), 2);
}

#[test]
fn daily_and_weekly_may_be_exchanged_at_any_time() {
    let mut world = World::new(WEEKLY, "2026-06-01T12:00:00Z");
    world.run("2026-06-10T12:00:00Z", 5, good);
    world.server = server(DAILY);
    // The last one is of Sunday: today's is caught up at once.
    let due = world.tick().due.unwrap();
    assert_eq!(due.instant, time("2026-06-10T01:15:00Z"));
    assert_eq!(due.missed, 0);
    world.finish(due.instant, Outcome::Success);
    world.run("2026-06-18T12:00:00Z", 5, good);
    world.server = server(WEEKLY);
    let before = world.sent.len();
    world.run("2026-06-30T12:00:00Z", 5, good);
    assert_eq!(world.instants()[before..], ["2026-06-21T00:30:00Z", "2026-06-28T00:30:00Z"]);
    assert!(world.overdue.is_empty());
}

#[test]
fn a_disabled_server_rests_and_goes_on_without_alarm() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-05T12:00:00Z", 5, good);
    world.server = server_with(DAILY, "enabled = false");
    let before = world.sent.len();
    let tick = world.tick();
    assert_eq!(tick.next, None);
    world.run("2026-08-05T12:00:00Z", 60, good);
    assert_eq!(world.sent.len(), before);
    world.server = server(DAILY);
    let due = world.tick().due.unwrap();
    assert_eq!((due.instant, due.catch_up), (time("2026-08-05T01:15:00Z"), true));
    assert_eq!(due.missed, 0);
    world.finish(due.instant, Outcome::Success);
    world.run("2026-08-10T12:00:00Z", 5, good);
    assert_eq!((world.sent.len() - before, world.overdue.len()), (6, 0));
}

#[test]
fn outcomes_that_come_late_or_in_another_order_do_no_harm() {
    let server = server(DAILY);
    let (first, second) = (time("2026-06-01T01:15:00Z"), time("2026-06-02T01:15:00Z"));
    // The first one fails after the second one succeeded.
    let mut state = ScheduleState::default();
    state.outcome(&server, second, Outcome::Success);
    state.outcome(&server, first, Outcome::Failure);
    assert_eq!((state.consecutive_failures, state.last_success), (0, Some(second)));
    // It succeeds after the second one failed.
    let mut state = ScheduleState::default();
    state.outcome(&server, second, Outcome::Failure);
    state.outcome(&server, first, Outcome::Success);
    assert_eq!((state.consecutive_failures, state.last_success), (1, Some(first)));
    // What was given up succeeds after all.
    let mut state = ScheduleState::default();
    state.outcome(&server, first, Outcome::Failure);
    let fell = state.outcome(&server, second, Outcome::Failure);
    assert_eq!(fell, Some(Transition::FellBack { failures: 2 }));
    let restored = state.outcome(&server, second, Outcome::Success);
    let reason = RestoreReason::BackupSucceeded;
    assert_eq!(restored, Some(Transition::Restored { reason }));
}

#[test]
fn a_lost_state_costs_one_backup_at_most() {
    let mut world = World::new(DAILY, "2026-06-01T12:00:00Z");
    world.run("2026-06-05T12:00:00Z", 5, good);
    world.state = ScheduleState::default();
    world.sent.clear();
    world.run("2026-06-08T12:00:00Z", 5, good);
    assert_eq!(world.sent.len(), 4);
    // An outcome that comes before the next tick spares even that.
    world.state = ScheduleState::default();
    let last = world.sent.last().unwrap().1.instant;
    world.finish(last, Outcome::Success);
    assert_eq!(world.tick().due, None);
}

#[test]
fn a_state_of_another_version_is_read() {
    let state: ScheduleState = serde_json::from_str("{}").unwrap();
    assert_eq!(state, ScheduleState::default());
    let state: ScheduleState = serde_json::from_str(
        r#"{ "last_sent": "2026-06-05T01:15:00Z", "degraded": true, "of_the_future": [1] }"#,
    )
    .unwrap();
    assert_eq!((state.last_sent, state.degraded), (Some(time("2026-06-05T01:15:00Z")), true));
}

/// What may happen in a month.
#[derive(Clone, Debug)]
enum Event {
    Ticks { hours: i64, fails: bool },
    Outage { hours: i64 },
    ClockBack { minutes: i64 },
    Edit { schedule: usize },
    Disable,
    Lost,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..200i64, any::<bool>()).prop_map(|(hours, fails)| Event::Ticks { hours, fails }),
        2 => (1..400i64).prop_map(|hours| Event::Outage { hours }),
        1 => (1..3000i64).prop_map(|minutes| Event::ClockBack { minutes }),
        2 => (0..5usize).prop_map(|schedule| Event::Edit { schedule }),
        1 => Just(Event::Disable),
        1 => Just(Event::Lost),
    ]
}

const SCHEDULES: [&str; 5] = [
    DAILY,
    WEEKLY,
    r#"{ every = "day", at = "23:45", zone = "America/New_York", weekly_on = "monday" }"#,
    r#"{ every = "week", on = "thursday", at = "00:00", zone = "Pacific/Kiritimati" }"#,
    r#"{ every = "day", at = "02:10", zone = "Australia/Lord_Howe" }"#,
];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The promises that [`World::tick`] and [`World::finish`] check, whatever happens; and that
    /// transitions take turns, and that ten good days end all trouble.
    #[test]
    fn whatever_happens_the_promises_hold(events in proptest::collection::vec(event(), 1..14)) {
        let mut world = World::new(DAILY, "2026-03-01T12:00:00Z");
        for event in events {
            match event {
                Event::Ticks { hours: length, fails } => {
                    let until = (world.now + hours(length)).to_string();
                    world.run(&until, 30, if fails { bad } else { good });
                }
                Event::Outage { hours: length } => {
                    world.now += hours(length);
                    let before = world.sent.len();
                    world.tick();
                    prop_assert!(world.sent.len() - before <= 1);
                    if let Some((now, due)) = world.sent.get(before).copied() {
                        world.running.push((now, due.instant, Outcome::Success));
                    }
                }
                Event::ClockBack { minutes: length } => world.now -= minutes(length),
                Event::Edit { schedule } => world.server = server(SCHEDULES[schedule]),
                Event::Disable => {
                    let schedule = SCHEDULES[0];
                    world.server = server_with(schedule, "enabled = false");
                    let until = (world.now + hours(30)).to_string();
                    let before = world.sent.len();
                    world.run(&until, 30, good);
                    prop_assert_eq!(world.sent.len(), before);
                    world.server = server(schedule);
                }
                Event::Lost => {
                    world.state = ScheduleState::default();
                    world.sent.clear();
                    world.overdue.clear();
                    world.transitions.clear();
                }
            }
        }
        for pair in world.transitions.windows(2) {
            let fell = |(_, transition): &(Timestamp, Transition)| {
                matches!(transition, Transition::FellBack { .. })
            };
            prop_assert_ne!(fell(&pair[0]), fell(&pair[1]));
        }
        // Past every instant that a wrong clock sent, then ten quiet days.
        world.now += hours(24 * 14);
        let until = (world.now + hours(24 * 10)).to_string();
        world.run(&until, 30, good);
        prop_assert!(!world.state.degraded);
        prop_assert_eq!(world.state.consecutive_failures, 0);
        let last = world.state.last_success.unwrap();
        let weekly = matches!(world.server.schedule().every(), Every::Week { .. });
        let most = if weekly { 24 * 8 } else { 26 };
        prop_assert!(world.now.duration_since(last) <= hours(most), "{} {last}", world.now);
        let now = world.now;
        prop_assert!(world.overdue.iter().all(|(told, _)| now.duration_since(*told) > hours(24 * 8)));
    }
}
