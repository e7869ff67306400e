//! The relay's protocol as a model (docs/relay.md): a few lanes, one table in a few items, messages
//! that come late, twice or never, hand-overs, crashes and time limits between any two steps, and a
//! TRUNCATE whenever no lock forbids it. Every state that can be reached is looked at. What the model
//! takes for granted is what PostgreSQL promises (locks end with their session, and a snapshot can be
//! imported only from a session that lives), that a queue delivers the message of a dead worker
//! again, and that who is at work as a lane is seen by its sign.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Lane {
    /// It has a connection, and knows nothing.
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

/// A message that starts a lane: which lane, and how many were in it before.
type Message = (u8, u8);

/// A message's worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Worker {
    message: Message,
    lane: Lane,
    /// It has sent for its successor, and has the lock that only one can have who has.
    sent: bool,
}

impl Worker {
    fn of(message: Message) -> Self {
        Self { message, lane: Lane::Away, sent: false }
    }
}

/// What becomes of a delivery.
enum Came {
    Begins(Worker),
    /// Its successor is at work.
    TooLate,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    attempts: Vec<Attempt>,
    done: Option<Vec<Journaled>>,
    failed: bool,
    /// How often the table was emptied.
    version: u8,
    /// Sorted, as messages are: who came first makes no difference.
    workers: Vec<Worker>,
    messages: Vec<Message>,
    left: Budget,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Budget {
    /// Workers that die, or have to go at once because their time is up.
    crashes: u8,
    truncates: u8,
    /// Successors that are sent for.
    handovers: u8,
    /// Messages that are delivered twice.
    twins: u8,
    /// Messages that nobody gets.
    losses: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Crash(usize),
    /// It has to go, whoever holds the snapshot then; it sends for its successor.
    TimeLimit(usize),
    Truncate,
    Deliver(usize),
    DeliverTwice(usize),
    Lose(usize),
    /// The request's own message finds nobody at work, and starts the run's lanes again.
    Revive,
    /// It sends for its successor.
    Send(usize),
    /// Its next step, where there is one only.
    Step(usize),
    /// Imports the snapshot from another lane.
    Import(usize, usize),
    /// Locks the table and checks it, or finds the lock taken by somebody who waits.
    Lock(usize, bool),
    Claim(usize, usize),
    /// Its time is up, and its successor has the snapshot; or, as that one does not come, another
    /// lane has.
    Leave(usize),
    /// Its successor does not come, and there is nobody else: it is sent for once more.
    AskAgain(usize),
    /// Writes down that the database is done.
    Finish(usize),
}

struct Relay {
    lanes: u8,
    items: usize,
    budget: Budget,
    /// A mistake to be found, to see that the model finds mistakes.
    mistake: Option<Mistake>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mistake {
    /// An adopter that does not compare the table with the snapshot.
    NoCheck,
    /// A new attempt that goes on with the items of the one before.
    KeptItems,
    /// Who goes does not look whether somebody else has the snapshot.
    LeavesAlone,
    /// Who finds its place taken goes on all the same.
    NoPlace,
}

impl Relay {
    fn steps_of(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let worker = state.workers[index];
        match worker.lane {
            Lane::Holds { attempt, locked } => {
                let open = &state.attempts[attempt];
                for item in 0..open.items.len() {
                    let is_claim = |w: &Worker| w.lane.claims() == Some((attempt, item));
                    let taken = state.workers.iter().any(is_claim);
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
                self.hand_over(state, index, attempt, actions);
            }
            Lane::Shares { .. } => {
                actions.push(Action::Lock(index, true));
                actions.push(Action::Lock(index, false));
            }
            Lane::Orphan { attempt } => {
                for other in 0..state.workers.len() {
                    if state.workers[other].lane.gives() == Some(attempt) {
                        actions.push(Action::Import(index, other));
                    }
                }
                actions.push(Action::Step(index));
            }
            _ => actions.push(Action::Step(index)),
        }
    }

    /// How a lane whose time is up, as it may be at any moment, comes to go.
    fn hand_over(&self, state: &State, index: usize, attempt: usize, actions: &mut Vec<Action>) {
        let worker = state.workers[index];
        if !worker.sent {
            let is_free = state.workers.iter().all(|other| !other.sent);
            if is_free && state.left.handovers > 0 {
                actions.push(Action::Send(index));
            }
            return;
        }
        let gives = |(other, one): (usize, &Worker)| {
            other != index && one.lane.gives() == Some(attempt) && one.message > worker.message
                || other != index
                    && one.lane.gives() == Some(attempt)
                    && one.message.0 != worker.message.0
        };
        if state.workers.iter().enumerate().any(gives) || self.mistake == Some(Mistake::LeavesAlone)
        {
            actions.push(Action::Leave(index));
        } else if state.left.handovers > 0 {
            actions.push(Action::AskAgain(index));
        }
    }

    /// Whether a worker begins when a message is delivered, and as which; `None`: its place is taken,
    /// and the message comes again later.
    fn come(&self, state: &State, message: Message) -> Option<Came> {
        let is_of_lane = |one: &&Worker| one.message.0 == message.0;
        let others: Vec<&Worker> = state.workers.iter().filter(is_of_lane).collect();
        // Its lock says so.
        if others.iter().any(|other| other.message > message) {
            return Some(Came::TooLate);
        }
        let is_sent_for = others.iter().all(|other| other.sent && other.message < message);
        let comes = is_sent_for || self.mistake == Some(Mistake::NoPlace);
        comes.then(|| Came::Begins(Worker::of(message)))
    }

    fn look(state: &State) -> Lane {
        match state.attempts.last() {
            Some(last) if !last.lost => Lane::Orphan { attempt: state.attempts.len() - 1 },
            _ => Lane::WantsToTake { attempts: state.attempts.len() },
        }
    }

    fn step(&self, state: &mut State, index: usize) {
        let others = |state: &State, test: fn(Lane) -> bool| {
            (0..state.workers.len()).any(|other| other != index && test(state.workers[other].lane))
        };
        let free = |state: &State| !others(state, |lane| lane.shares() || lane.excludes());
        state.workers[index].lane = match state.workers[index].lane {
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
        let attempt = match state.workers[index].lane {
            Lane::Shares { attempt } | Lane::Holds { attempt, .. } => attempt,
            _ => return,
        };
        let open = &mut state.attempts[attempt];
        let emptied = open.version != state.version;
        if emptied && !open.is_read() && self.mistake != Some(Mistake::NoCheck) {
            open.lost = true;
            state.workers[index].lane = Lane::Away;
        } else {
            state.workers[index].lane = Lane::Holds { attempt, locked: gets_it };
        }
    }
}

impl State {
    fn send_successor(&mut self, index: usize) {
        let (lane, generation) = self.workers[index].message;
        self.left.handovers = self.left.handovers.saturating_sub(1);
        self.messages.push((lane, generation + 1));
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
            workers: Vec::new(),
            messages: (0..self.lanes).map(|lane| (lane, 0)).collect(),
            left: self.budget,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.done.is_some() || state.failed {
            return;
        }
        for index in 0..state.workers.len() {
            let worker = &state.workers[index];
            if state.left.crashes > 0 {
                actions.push(Action::Crash(index));
                if self.budget.handovers > 0 && matches!(worker.lane, Lane::Holds { .. }) {
                    actions.push(Action::TimeLimit(index));
                }
            }
            self.steps_of(state, index, actions);
        }
        if state.left.truncates > 0 && !state.workers.iter().any(|one| one.lane.locks_table()) {
            actions.push(Action::Truncate);
        }
        for index in 0..state.messages.len() {
            actions.push(Action::Deliver(index));
            if state.left.twins > 0 {
                actions.push(Action::DeliverTwice(index));
            }
            if state.left.losses > 0 {
                actions.push(Action::Lose(index));
            }
        }
        if state.workers.is_empty() && state.messages.is_empty() {
            actions.push(Action::Revive);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Crash(index) => {
                state.left.crashes -= 1;
                let message = state.workers.remove(index).message;
                state.messages.push(message);
            }
            Action::TimeLimit(index) => {
                state.left.crashes -= 1;
                if !state.workers[index].sent {
                    state.send_successor(index);
                }
                state.workers.remove(index);
            }
            Action::Truncate => {
                state.left.truncates -= 1;
                state.version += 1;
            }
            Action::Deliver(index) | Action::DeliverTwice(index) => {
                let came = self.come(&state, state.messages[index])?;
                if let Action::DeliverTwice(_) = action {
                    state.left.twins -= 1;
                } else {
                    state.messages.remove(index);
                }
                if let Came::Begins(worker) = came {
                    state.workers.push(worker);
                }
            }
            Action::Lose(index) => {
                state.left.losses -= 1;
                state.messages.remove(index);
            }
            Action::Revive => {
                // Later than all that were: their generations are in their signs.
                state.messages = (0..self.lanes).map(|lane| (lane, LATE)).collect();
            }
            Action::Send(index) => {
                state.workers[index].sent = true;
                state.send_successor(index);
            }
            Action::AskAgain(index) => state.send_successor(index),
            Action::Step(index) => self.step(&mut state, index),
            Action::Import(index, from) => {
                state.workers[index].lane =
                    Lane::Imported { attempt: state.workers[from].lane.gives()? };
            }
            Action::Lock(index, gets_it) => self.lock(&mut state, index, gets_it),
            Action::Claim(index, item) => {
                let attempt = state.workers[index].lane.gives()?;
                state.workers[index].lane = Lane::Reads { attempt, item };
            }
            Action::Leave(index) => drop(state.workers.remove(index)),
            Action::Finish(index) => {
                let attempt = state.workers[index].lane.gives()?;
                state.done = state.attempts[attempt].items.iter().copied().collect();
                state.workers[index].lane = Lane::Away;
            }
        }
        state.workers.sort_unstable();
        state.messages.sort_unstable();
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
            Property::always("no more connections than lanes, and one", |model, state: &State| {
                state.workers.len() <= usize::from(model.lanes) + 1
            }),
            // Else later hand-overs would be refused, as they would be one connection too many.
            Property::always("two in a lane only while one gives way", |model, state: &State| {
                (0..model.lanes).all(|lane| {
                    let in_lane = || state.workers.iter().filter(|one| one.message.0 == lane);
                    in_lane().count() <= 1 + usize::from(in_lane().any(|one| one.sent))
                })
            }),
            Property::always("no snapshot is lost while nobody dies", |model, state: &State| {
                let died = state.left.crashes < model.budget.crashes;
                let emptied = state.left.truncates < model.budget.truncates;
                died || emptied || state.attempts.iter().all(|attempt| !attempt.lost)
            }),
            Property::sometimes("a seal after a lost snapshot", |_, state: &State| {
                state.done.is_some() && state.attempts.len() > 1
            }),
            Property::sometimes(
                "a seal of items of several lanes, one of which died",
                |model, s: &State| {
                    s.done.is_some()
                        && s.attempts.len() == 1
                        && s.left.crashes < model.budget.crashes
                },
            ),
        ]
    }
}

/// The generation of lanes that were started again.
const LATE: u8 = 9;

fn relay(lanes: u8, items: usize, budget: Budget) -> Relay {
    Relay { lanes, items, budget, mistake: None }
}

fn crashes(crashes: u8, truncates: u8) -> Budget {
    Budget { crashes, truncates, ..Budget::default() }
}

#[test]
fn two_lanes_with_crashes_and_truncates_never_seal_what_never_was() {
    relay(2, 2, crashes(3, 2)).checker().spawn_bfs().join().assert_properties();
}

#[test]
fn three_lanes_with_a_crash_and_a_truncate_never_seal_what_never_was() {
    relay(3, 2, crashes(1, 1)).checker().spawn_bfs().join().assert_properties();
}

#[test]
fn hand_overs_survive_late_doubled_and_lost_messages_time_limits_and_crashes() {
    let one = Budget { handovers: 1, ..Budget::default() };
    for (what, budget) in [
        ("an emptied table", Budget { crashes: 1, truncates: 1, ..one }),
        ("two hand-overs", Budget { handovers: 2, crashes: 1, ..one }),
        ("a twin", Budget { twins: 1, crashes: 1, ..one }),
        ("two twins", Budget { handovers: 2, twins: 2, ..one }),
        ("a lost message", Budget { handovers: 2, losses: 1, ..one }),
    ] {
        let checker = relay(2, 1, budget).checker().spawn_bfs().join();
        for never in [
            "one snapshot in a seal",
            "only rows that the snapshot sees",
            "no seal without an item",
            "an end",
            "no more connections than lanes, and one",
            "two in a lane only while one gives way",
            "no snapshot is lost while nobody dies",
        ] {
            if let Some(path) = checker.discovery(never) {
                panic!("with {what}, not {never:?}: {:#?}", path.into_actions());
            }
        }
    }
}

fn finds(mistake: Mistake, budget: Budget, what: &'static str) {
    let model = Relay { mistake: Some(mistake), ..relay(2, 2, budget) };
    model.checker().spawn_bfs().join().assert_any_discovery(what);
}

#[test]
fn the_model_finds_a_lane_that_does_not_look_at_the_table() {
    finds(Mistake::NoCheck, crashes(2, 1), "only rows that the snapshot sees");
}

#[test]
fn the_model_finds_an_item_of_another_snapshot() {
    finds(Mistake::KeptItems, crashes(2, 1), "one snapshot in a seal");
}

#[test]
fn the_model_finds_a_lane_that_goes_before_another_holds_the_snapshot() {
    let budget = Budget { handovers: 1, ..Budget::default() };
    finds(Mistake::LeavesAlone, budget, "no snapshot is lost while nobody dies");
}

#[test]
fn the_model_finds_a_lane_that_works_twice() {
    let budget = Budget { handovers: 1, twins: 1, ..Budget::default() };
    finds(Mistake::NoPlace, budget, "no more connections than lanes, and one");
}
