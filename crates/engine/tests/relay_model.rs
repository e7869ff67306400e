//! The relay's protocol as a model (docs/relay.md): a few lanes, one table in a few items, crashes
//! between any two steps, and a TRUNCATE whenever no lock forbids it. Every state that can be
//! reached is looked at. What the model takes for granted is what PostgreSQL promises: locks end
//! with their session, and a snapshot can be imported only from a session that lives.

use stateright::{Checker, Model, Property};

/// Snapshots that may be taken before the run fails.
const ATTEMPTS: usize = 3;

/// An item's journal: of which snapshot it was read, and whether the table was still what that
/// snapshot sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Journaled {
    attempt: usize,
    true_rows: bool,
}

/// The objects of one attempt in the vault.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    /// How often the table had been emptied when the snapshot was taken.
    version: u8,
    lost: bool,
    items: Vec<Option<Journaled>>,
}

impl Attempt {
    fn is_read(&self) -> bool {
        self.items.iter().all(Option::is_some)
    }
}

/// Where a lane is. Attempts count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Its message is on the queue.
    Away,
    /// It has seen that there are so many attempts and that the last one is lost (or none is there),
    /// and wants to take the next.
    WantsToTake { attempts: usize },
    /// It has the snapshot's lock for itself.
    Taking,
    /// It has locked the table, too, and taken a snapshot.
    Taken { version: u8 },
    /// It has seen an attempt that goes on, but found nobody to adopt from.
    Orphan { attempt: usize },
    /// It has imported the snapshot.
    Imported { attempt: usize },
    /// It shares the snapshot's lock, and the attempt was not lost then.
    Shares { attempt: usize },
    /// It gives the snapshot on. `locked`: it has the table's lock and has checked the table.
    Holds { attempt: usize, locked: bool },
    /// It has claimed an item that is not journaled.
    Reads { attempt: usize, item: usize },
    /// It has read it.
    Writes { attempt: usize, item: usize, true_rows: bool },
}

impl Lane {
    fn shares(self) -> bool {
        matches!(
            self,
            Self::Shares { .. } | Self::Holds { .. } | Self::Reads { .. } | Self::Writes { .. }
        )
    }

    fn excludes(self) -> bool {
        matches!(self, Self::Taking | Self::Taken { .. })
    }

    /// The attempt whose snapshot others can have from it.
    fn gives(self) -> Option<usize> {
        match self {
            Self::Holds { attempt, .. }
            | Self::Reads { attempt, .. }
            | Self::Writes { attempt, .. } => Some(attempt),
            _ => None,
        }
    }

    fn locks_table(self) -> bool {
        matches!(
            self,
            Self::Taken { .. }
                | Self::Holds { locked: true, .. }
                | Self::Reads { .. }
                | Self::Writes { .. }
        )
    }

    fn claims(self) -> Option<(usize, usize)> {
        match self {
            Self::Reads { attempt, item } | Self::Writes { attempt, item, .. } => {
                Some((attempt, item))
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    attempts: Vec<Attempt>,
    done: Option<Vec<Journaled>>,
    failed: bool,
    /// How often the table was emptied.
    version: u8,
    lanes: Vec<Lane>,
    crashes_left: u8,
    truncates_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Crash(usize),
    Truncate,
    /// Its next step, where there is one only.
    Step(usize),
    /// Imports the snapshot from another lane.
    Import(usize, usize),
    /// Locks the table and checks it, or finds the lock taken by somebody who waits.
    Lock(usize, bool),
    Claim(usize, usize),
    /// Its time is up and somebody else gives the snapshot.
    Leave(usize),
    /// Writes down that the database is done.
    Finish(usize),
}

struct Relay {
    lanes: usize,
    items: usize,
    crashes: u8,
    truncates: u8,
    /// A mistake to be found, to see that the model finds mistakes.
    mistake: Option<Mistake>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// An adopter that does not compare the table with the snapshot.
    NoCheck,
    /// A new attempt that goes on with the items of the one before.
    KeptItems,
}

impl Relay {
    fn steps_of(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let lane = state.lanes[index];
        match lane {
            Lane::Holds { attempt, locked } => {
                let open = &state.attempts[attempt];
                for item in 0..open.items.len() {
                    let taken = state.lanes.iter().any(|l| l.claims() == Some((attempt, item)));
                    if locked && open.items[item].is_none() && !taken {
                        actions.push(Action::Claim(index, item));
                    }
                }
                if !locked && !open.is_read() {
                    actions.push(Action::Lock(index, true));
                }
                if open.is_read() {
                    actions.push(Action::Finish(index));
                }
                let gives =
                    |other: usize| other != index && state.lanes[other].gives() == Some(attempt);
                if (0..state.lanes.len()).any(gives) {
                    actions.push(Action::Leave(index));
                }
            }
            Lane::Shares { .. } => {
                actions.push(Action::Lock(index, true));
                actions.push(Action::Lock(index, false));
            }
            Lane::Orphan { attempt } => {
                for other in 0..state.lanes.len() {
                    if state.lanes[other].gives() == Some(attempt) {
                        actions.push(Action::Import(index, other));
                    }
                }
                actions.push(Action::Step(index));
            }
            _ => actions.push(Action::Step(index)),
        }
    }

    fn look(state: &State) -> Lane {
        match state.attempts.last() {
            Some(last) if !last.lost => Lane::Orphan { attempt: state.attempts.len() - 1 },
            _ => Lane::WantsToTake { attempts: state.attempts.len() },
        }
    }

    fn step(&self, state: &mut State, index: usize) {
        let others = |state: &State, test: fn(Lane) -> bool| {
            (0..state.lanes.len()).any(|other| other != index && test(state.lanes[other]))
        };
        let free = |state: &State| !others(state, |lane| lane.shares() || lane.excludes());
        state.lanes[index] = match state.lanes[index] {
            Lane::Away => Self::look(state),
            Lane::WantsToTake { attempts } => {
                // The lock, and a second look under it.
                if !free(state) || Self::look(state) != (Lane::WantsToTake { attempts }) {
                    Lane::Away
                } else if attempts == ATTEMPTS {
                    state.failed = true;
                    Lane::Away
                } else {
                    Lane::Taking
                }
            }
            Lane::Taking => Lane::Taken { version: state.version },
            Lane::Taken { version } => {
                let items = match state.attempts.last() {
                    Some(last) if self.mistake == Some(Mistake::KeptItems) => last.items.clone(),
                    _ => vec![None; self.items],
                };
                state.attempts.push(Attempt { version, lost: false, items });
                Lane::Holds { attempt: state.attempts.len() - 1, locked: true }
            }
            Lane::Orphan { attempt } => {
                // The lock is free: nobody holds the snapshot.
                if free(state) && !state.attempts[attempt].is_read() {
                    state.attempts[attempt].lost = true;
                }
                if free(state)
                    && state.attempts[attempt].is_read()
                    && !state.attempts[attempt].lost
                    && state.done.is_none()
                {
                    state.done = state.attempts[attempt].items.iter().copied().collect();
                }
                Lane::Away
            }
            Lane::Imported { attempt } => {
                let excluded = others(state, Lane::excludes);
                if excluded || state.attempts[attempt].lost {
                    Lane::Away
                } else {
                    Lane::Shares { attempt }
                }
            }
            Lane::Reads { attempt, item } => {
                let true_rows = state.attempts[attempt].version == state.version;
                Lane::Writes { attempt, item, true_rows }
            }
            Lane::Writes { attempt, item, true_rows } => {
                let journal = &mut state.attempts[attempt].items[item];
                // Created, never replaced.
                journal.get_or_insert(Journaled { attempt, true_rows });
                Lane::Holds { attempt, locked: true }
            }
            lane => lane,
        };
    }

    fn lock(&self, state: &mut State, index: usize, gets_it: bool) {
        let attempt = match state.lanes[index] {
            Lane::Shares { attempt } | Lane::Holds { attempt, .. } => attempt,
            _ => return,
        };
        let open = &mut state.attempts[attempt];
        let emptied = open.version != state.version;
        if emptied && !open.is_read() && self.mistake != Some(Mistake::NoCheck) {
            open.lost = true;
            state.lanes[index] = Lane::Away;
        } else {
            state.lanes[index] = Lane::Holds { attempt, locked: gets_it };
        }
    }
}

impl Model for Relay {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            attempts: Vec::new(),
            done: None,
            failed: false,
            version: 0,
            lanes: vec![Lane::Away; self.lanes],
            crashes_left: self.crashes,
            truncates_left: self.truncates,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.done.is_some() || state.failed {
            return;
        }
        for index in 0..state.lanes.len() {
            if state.crashes_left > 0 && state.lanes[index] != Lane::Away {
                actions.push(Action::Crash(index));
            }
            self.steps_of(state, index, actions);
        }
        if state.truncates_left > 0 && !state.lanes.iter().any(|lane| lane.locks_table()) {
            actions.push(Action::Truncate);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Crash(index) => {
                state.crashes_left -= 1;
                state.lanes[index] = Lane::Away;
            }
            Action::Truncate => {
                state.truncates_left -= 1;
                state.version += 1;
            }
            Action::Step(index) => self.step(&mut state, index),
            Action::Import(index, from) => {
                state.lanes[index] = Lane::Imported { attempt: state.lanes[from].gives()? };
            }
            Action::Lock(index, gets_it) => self.lock(&mut state, index, gets_it),
            Action::Claim(index, item) => {
                let attempt = state.lanes[index].gives()?;
                state.lanes[index] = Lane::Reads { attempt, item };
            }
            Action::Leave(index) => state.lanes[index] = Lane::Away,
            Action::Finish(index) => {
                let attempt = state.lanes[index].gives()?;
                state.done = state.attempts[attempt].items.iter().copied().collect();
                state.lanes[index] = Lane::Away;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one snapshot in a seal", |_, state: &State| {
                let Some(done) = &state.done else { return true };
                done.iter().all(|item| item.attempt == done[0].attempt)
            }),
            Property::always("only rows that the snapshot sees", |_, state: &State| {
                state.done.iter().flatten().all(|item| item.true_rows)
            }),
            Property::always("no seal without an item", |model, state: &State| {
                state.done.as_ref().is_none_or(|done| done.len() == model.items)
            }),
            Property::eventually("an end", |_, state: &State| state.done.is_some() || state.failed),
            Property::sometimes("a seal after a lost snapshot", |_, state: &State| {
                state.done.is_some() && state.attempts.len() > 1
            }),
            Property::sometimes(
                "a seal of items of several lanes, one of which died",
                |model, s: &State| {
                    s.done.is_some() && s.attempts.len() == 1 && s.crashes_left < model.crashes
                },
            ),
        ]
    }
}

fn relay(lanes: usize, items: usize, crashes: u8, truncates: u8) -> Relay {
    Relay { lanes, items, crashes, truncates, mistake: None }
}

#[test]
fn two_lanes_with_crashes_and_truncates_never_seal_what_never_was() {
    relay(2, 2, 3, 2).checker().spawn_bfs().join().assert_properties();
}

#[test]
fn three_lanes_with_crashes_and_a_truncate_never_seal_what_never_was() {
    relay(3, 2, 2, 1).checker().spawn_bfs().join().assert_properties();
}

#[test]
fn the_model_finds_a_lane_that_does_not_look_at_the_table() {
    let model = Relay { mistake: Some(Mistake::NoCheck), ..relay(2, 2, 2, 1) };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("only rows that the snapshot sees");
}

#[test]
fn the_model_finds_an_item_of_another_snapshot() {
    let model = Relay { mistake: Some(Mistake::KeptItems), ..relay(2, 2, 2, 1) };
    let checker = model.checker().spawn_bfs().join();
    checker.assert_any_discovery("one snapshot in a seal");
}
