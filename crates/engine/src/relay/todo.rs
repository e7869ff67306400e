//! Which items of a snapshot a lane has still to do: what it knows, and how it finds out more.
//!
//! A run may have a hundred thousand items, so nobody lists them all again and again. Each lane
//! takes the items of its own first, every fourth if there are four lanes, so that lanes hardly
//! meet; it hands what it knows of them on to its successor. Only when its own are done it lists
//! what the others have done, and helps them.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

use flexkeep_vault::store::PutMode;
use serde::{Deserialize, Serialize};

use super::state::{self, RunObjects};
use crate::error::BackupError;

/// Items that are offered to one claim.
const OFFERED: usize = 64;

/// How often a lane that has nothing to claim looks what the others have done, at first and after
/// nothing was done for long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY_LATER: Duration = Duration::from_secs(5);

/// Of so many blocks each is listed by itself; of more, all items are.
const FEW_BLOCKS: usize = 8;

/// Who reads an item. A claim ends with whoever has it.
pub(super) trait Claims {
    /// Claims the first of `items` that nobody else has.
    fn claim(&mut self, items: &[usize]) -> Result<Option<usize>, BackupError>;

    /// Gives claims back.
    fn release(&mut self, items: &[usize]) -> Result<(), BackupError>;
}

/// What a lane leaves to its successor.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// Lanes that share the items.
    lanes: usize,
    /// Whether the lane's own were done, and it had begun to help the others.
    helps: bool,
    /// By lane: which of its items are done, counted among its own: the first of those that follow
    /// each other, and how many they are. As they are done in order, that is little.
    done: Vec<Vec<(usize, usize)>>,
}

/// The items of one snapshot, as one lane sees them.
#[derive(Debug)]
pub(super) struct Todo {
    objects: RunObjects,
    folder: String,
    lane: usize,
    lanes: usize,
    /// The lane's number, for the names of its objects.
    number: u32,
    /// By item: whether it is known to be done.
    done: Vec<bool>,
    done_count: usize,
    /// How many of the lane's own are.
    own_done: usize,
    /// Items to be claimed, in this order; some may be done.
    queue: VecDeque<usize>,
    /// Whether the others' items are in the queue too.
    helps: bool,
    /// Claims of this lane that are not written down yet.
    claimed: HashSet<usize>,
    /// When it was last looked up what others have done.
    looked: Instant,
    /// When something was last done, by this lane or by others.
    moved: Instant,
}

impl Todo {
    /// What `lane` of `lanes` finds of `items` items when it comes.
    pub(super) fn recall(
        objects: &RunObjects,
        folder: &str,
        (lane, lanes): (u32, u32),
        items: usize,
    ) -> Result<Self, BackupError> {
        let now = Instant::now();
        let mut todo = Self {
            objects: objects.clone(),
            folder: folder.to_owned(),
            lane: (lane % lanes.max(1)) as usize,
            lanes: lanes.max(1) as usize,
            number: lane,
            done: vec![false; items],
            done_count: 0,
            own_done: 0,
            queue: VecDeque::new(),
            helps: false,
            claimed: HashSet::new(),
            looked: now,
            moved: now,
        };
        match objects.get::<Known>(&state::known_name(folder, lane))? {
            Some(known) if known.lanes == todo.lanes => todo.take_over(&known),
            _ => todo.list()?,
        }
        let wanted = |&item: &usize| (todo.helps || todo.is_own(item)) && !todo.done[item];
        todo.queue = (0..items).filter(wanted).collect();
        Ok(todo)
    }

    fn take_over(&mut self, known: &Known) {
        self.helps = known.helps;
        for (lane, ranges) in known.done.iter().enumerate() {
            for &(first, count) in ranges {
                let mut number = first;
                while number - first < count
                    && let Some(item) = self.item_of(lane, number)
                {
                    self.set_done(item);
                    number += 1;
                }
            }
        }
    }

    /// Leaves what is known to the next one of this lane. To be called before that one is sent for:
    /// it comes before this one has left.
    pub(super) fn leave_known(&self) -> Result<(), BackupError> {
        let of_lane = |lane| {
            let mut ranges: Vec<(usize, usize)> = Vec::new();
            let mut number = 0;
            while let Some(item) = self.item_of(lane, number) {
                match ranges.last_mut() {
                    _ if !self.done[item] => {}
                    Some((first, count)) if *first + *count == number => *count += 1,
                    _ => ranges.push((number, 1)),
                }
                number += 1;
            }
            ranges
        };
        let done = (0..self.lanes).map(of_lane).collect();
        let known = Known { lanes: self.lanes, helps: self.helps, done };
        let name = state::known_name(&self.folder, self.number);
        self.objects.put(&name, &known, PutMode::Overwrite)?;
        Ok(())
    }

    /// An item of a lane, counted among that lane's own.
    fn item_of(&self, lane: usize, number: usize) -> Option<usize> {
        let item = number.checked_mul(self.lanes)?.checked_add(lane)?;
        (item < self.done.len()).then_some(item)
    }

    /// Whether an item is one of the lane's share.
    pub(super) fn is_own(&self, item: usize) -> bool {
        item % self.lanes == self.lane
    }

    /// Whether an item is known to be done.
    pub(super) fn is_done(&self, item: usize) -> bool {
        self.done.get(item).is_some_and(|done| *done)
    }

    /// Whether this lane has claimed an item, and not yet written it down.
    pub(super) fn is_claimed(&self, item: usize) -> bool {
        self.claimed.contains(&item)
    }

    fn set_done(&mut self, item: usize) {
        if let Some(done) = self.done.get_mut(item)
            && !*done
        {
            *done = true;
            self.done_count += 1;
            self.own_done += usize::from(self.is_own(item));
            self.moved = Instant::now();
        }
    }

    /// Whether it has none of its own left, and helps the others.
    pub(super) fn helps(&self) -> bool {
        self.helps
    }

    /// Items that are known to be done, of all and of the lane's own.
    pub(super) fn done_counts(&self) -> (usize, usize) {
        (self.done_count, self.own_done)
    }

    /// For how long nothing has been done.
    pub(super) fn still_for(&self) -> Duration {
        self.moved.elapsed()
    }

    /// Something was done.
    pub(super) fn move_on(&mut self) {
        self.moved = Instant::now();
    }

    /// Looks up which items are done, all of them.
    fn list(&mut self) -> Result<(), BackupError> {
        self.list_below(&state::item_prefix(&self.folder))
    }

    fn list_below(&mut self, prefix: &str) -> Result<(), BackupError> {
        let objects = self.objects.clone();
        objects.each_name(prefix, |name| {
            if let Some(item) = state::item_of(name) {
                self.set_done(item);
            }
        })?;
        self.looked = Instant::now();
        Ok(())
    }

    /// Whether every item is done, and none is left of this lane to be written down.
    pub(super) fn is_all_done(&mut self) -> bool {
        self.drop_done();
        self.queue.is_empty() && self.claimed.is_empty() && self.done_count >= self.done.len()
    }

    /// Puts the others' items into the queue too.
    fn help(&mut self) -> Result<(), BackupError> {
        self.list()?;
        self.helps = true;
        // Nothing twice: a session can claim what it has claimed.
        let mut seen: HashSet<usize> = self.queue.iter().chain(&self.claimed).copied().collect();
        let open = (0..self.done.len()).filter(|&item| !self.done[item] && seen.insert(item));
        self.queue.extend(open);
        Ok(())
    }

    fn drop_done(&mut self) {
        while self.queue.front().is_some_and(|&item| self.done[item]) {
            self.queue.pop_front();
        }
    }

    /// The next items of the queue, from a place on, that are not known to be done; others are
    /// taken out.
    fn offer(&mut self, from: usize) -> Vec<usize> {
        let mut some = Vec::with_capacity(OFFERED);
        while some.len() < OFFERED
            && let Some(&item) = self.queue.get(from + some.len())
        {
            if self.done[item] {
                self.queue.remove(from + some.len());
            } else {
                some.push(item);
            }
        }
        some
    }

    /// Claims an item that is not done. What others have claimed is passed over.
    pub(super) fn claim(&mut self, claims: &mut dyn Claims) -> Result<Option<usize>, BackupError> {
        let mut from = 0;
        loop {
            let some = self.offer(from);
            if some.is_empty() && !self.helps {
                self.help()?;
                continue;
            } else if some.is_empty() {
                break;
            }
            let Some(item) = claims.claim(&some)? else {
                from += some.len();
                continue;
            };
            let place = some.iter().position(|&one| one == item).ok_or_else(|| {
                BackupError::Internal(format!("item {item} was claimed and not wanted"))
            })?;
            self.queue.remove(from + place);
            let has = self.objects.has(&state::item_name(&self.folder, item));
            if has.is_err() {
                // Else nobody would read it while this session lives.
                self.give_back(item, claims)?;
            }
            if has? {
                self.set_done(item);
                claims.release(&[item])?;
                // Whoever did it has probably done its neighbours.
                self.list_below(&state::block_prefix(&self.folder, item))?;
                continue;
            }
            self.claimed.insert(item);
            self.moved = Instant::now();
            return Ok(Some(item));
        }
        // Somebody else has claimed each of them; some are done by now.
        let every = (self.still_for() / 8).clamp(LOOK_EVERY, LOOK_EVERY_LATER);
        if self.looked.elapsed() > every {
            self.look_up()?;
        }
        Ok(None)
    }

    /// Looks up which of the items in the queue are done.
    pub(super) fn look_up(&mut self) -> Result<(), BackupError> {
        let prefixes: BTreeSet<String> = self
            .queue
            .iter()
            .filter(|item| !self.done[**item])
            .map(|&item| state::block_prefix(&self.folder, item))
            .take(FEW_BLOCKS * state::BLOCK)
            .collect();
        if prefixes.len() > FEW_BLOCKS {
            return self.list();
        }
        prefixes.iter().try_for_each(|prefix| self.list_below(prefix))?;
        self.looked = Instant::now();
        Ok(())
    }

    /// Gives a claim back; the item comes last from now on.
    pub(super) fn give_back(
        &mut self,
        item: usize,
        claims: &mut dyn Claims,
    ) -> Result<(), BackupError> {
        self.claimed.remove(&item);
        self.queue.push_back(item);
        claims.release(&[item])
    }

    /// Gives claims back whose items are written down.
    pub(super) fn settle(
        &mut self,
        written: &[usize],
        claims: &mut dyn Claims,
    ) -> Result<(), BackupError> {
        for &item in written {
            self.claimed.remove(&item);
            self.set_done(item);
        }
        if written.is_empty() { Ok(()) } else { claims.release(written) }
    }

    /// Whether an item that is not known to be done is `wanted`. Those come first from now on, also
    /// if they are not the lane's own.
    pub(super) fn wants(&mut self, wanted: impl Fn(usize) -> bool) -> bool {
        let open: Vec<usize> =
            (0..self.done.len()).filter(|&item| !self.done[item] && wanted(item)).collect();
        if open.is_empty() {
            return false;
        }
        let first: HashSet<usize> =
            open.iter().copied().filter(|item| !self.claimed.contains(item)).collect();
        self.queue.retain(|item| !first.contains(item));
        for item in open.into_iter().rev().filter(|item| first.contains(item)) {
            self.queue.push_front(item);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::relay::scale::memory_run;

    const FOLDER: &str = "database-5/attempt-1";

    /// Claims as a session has them: what it has it can have again.
    #[derive(Default)]
    struct Session {
        own: Vec<usize>,
        others: BTreeSet<usize>,
    }

    impl Claims for Session {
        fn claim(&mut self, items: &[usize]) -> Result<Option<usize>, BackupError> {
            let free = items.iter().copied().find(|item| !self.others.contains(item));
            self.own.extend(free);
            Ok(free)
        }

        fn release(&mut self, items: &[usize]) -> Result<(), BackupError> {
            self.own.retain(|item| !items.contains(item));
            Ok(())
        }
    }

    fn write(objects: &RunObjects, item: usize) {
        assert!(objects.put(&state::item_name(FOLDER, item), &0, PutMode::Create).unwrap());
    }

    fn claim_all(todo: &mut Todo, session: &mut Session) -> Vec<usize> {
        std::iter::from_fn(|| todo.claim(session).unwrap()).collect()
    }

    #[test]
    fn a_lane_takes_its_own_first_then_those_of_others_and_each_once() {
        let objects = memory_run();
        let mut session = Session::default();
        let mut todo = Todo::recall(&objects, FOLDER, (1, 3), 8).unwrap();
        // Somebody needs item 3 soon.
        assert!(todo.wants(|item| item == 3));
        write(&objects, 0);
        assert_eq!(claim_all(&mut todo, &mut session), [3, 1, 4, 7, 2, 5, 6]);
        assert_eq!(session.own, [3, 1, 4, 7, 2, 5, 6]);
        assert!(!todo.is_all_done());
        (1..8).for_each(|item| write(&objects, item));
        todo.settle(&[3, 1, 4, 7, 2, 5, 6], &mut session).unwrap();
        assert!(todo.is_all_done() && session.own.is_empty());
    }

    #[test]
    fn what_others_have_claimed_or_done_is_passed_over() {
        let objects = memory_run();
        let mut session = Session { others: BTreeSet::from([0, 3]), ..Session::default() };
        let mut todo = Todo::recall(&objects, FOLDER, (0, 2), 4).unwrap();
        write(&objects, 2);
        assert_eq!(claim_all(&mut todo, &mut session), [1]);
        assert_eq!(session.own, [1]);
        assert!(!todo.is_all_done());
        // They have died: their items are to be had, once.
        session.others.clear();
        assert_eq!(claim_all(&mut todo, &mut session), [0, 3]);
    }

    #[test]
    fn a_successor_knows_what_the_one_before_knew_and_finds_the_rest() {
        let objects = memory_run();
        let mut session = Session::default();
        let mut first = Todo::recall(&objects, FOLDER, (1, 2), 500).unwrap();
        for wanted in [1, 3, 5] {
            let item = first.claim(&mut session).unwrap().unwrap();
            assert_eq!(item, wanted);
            write(&objects, item);
            first.settle(&[item], &mut session).unwrap();
        }
        first.leave_known().unwrap();
        // It goes on until the other one is there.
        write(&objects, 7);
        let mut next = Todo::recall(&objects, FOLDER, (1, 2), 500).unwrap();
        assert_eq!(next.done_counts(), (3, 3));
        assert_eq!(next.claim(&mut session).unwrap(), Some(9));
        assert_eq!(next.done_counts(), (4, 4));
        // Of a run with another number of lanes it would be of no use: all is listed.
        let other = Todo::recall(&objects, FOLDER, (1, 3), 500).unwrap();
        assert_eq!(other.done_counts().0, 4);
    }
}
