//! Lanes that work through a plan as those of a relay do, with a table in the place of the server's
//! advisory locks and journals of what reading would have come to.

use std::cell::RefCell;
use std::collections::HashMap;

use flexkeep_vault::manifest::Holder;
use flexkeep_vault::store::PutMode;
use jiff::Timestamp;

use super::super::journals::{self, Journaled};
use super::super::state::{self, AttemptPlan, Baton, RunObjects};
use super::super::todo::{Claims, Todo};
use super::source::read_item;
use crate::error::BackupError;

/// How often a lane looks whether its successor has a baton: ten times a second for two seconds.
const LOOKS_FOR_SUCCESSOR: usize = 20;

/// How many items it reads meanwhile.
const ITEMS_WHILE_WAITING: usize = 2;

/// How many items each lane reads while the others read theirs: none is as fast as another.
const PACES: [usize; 4] = [4, 3, 3, 2];

/// Advisory locks: which session, a lane's of one generation, has which item.
#[derive(Default)]
struct Table(RefCell<HashMap<usize, u32>>);

struct LaneClaims<'t>(&'t Table, u32);

impl Claims for LaneClaims<'_> {
    fn claim(&mut self, items: &[usize]) -> Result<Option<usize>, BackupError> {
        let mut held = self.0.0.borrow_mut();
        let free = items.iter().copied().find(|item| held.get(item).is_none_or(|l| *l == self.1));
        if let Some(item) = free {
            assert_eq!(held.insert(item, self.1), None, "item {item} was claimed twice");
        }
        Ok(free)
    }

    fn release(&mut self, items: &[usize]) -> Result<(), BackupError> {
        let mut held = self.0.0.borrow_mut();
        for item in items {
            assert_eq!(held.remove(item), Some(self.1), "item {item} was given back twice");
        }
        Ok(())
    }
}

struct SimLane {
    number: u32,
    generation: u32,
    holder: Holder,
    todo: Todo,
    /// What was read and not written down yet.
    read: Vec<usize>,
    items: usize,
    is_done: bool,
}

impl SimLane {
    fn session(&self) -> u32 {
        self.generation * 1000 + self.number
    }
}

/// A run of several lanes.
pub(crate) struct Sim<'a> {
    pub(crate) objects: &'a RunObjects,
    pub(crate) folder: &'a str,
    pub(crate) plan: &'a AttemptPlan,
    pub(crate) lanes: u32,
    /// Items that a lane reads before it hands over.
    pub(crate) items_per_generation: usize,
    /// A lane that is dead from the beginning.
    pub(crate) dead: Option<u32>,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) hand_overs: u64,
    pub(crate) journaled: Journaled,
    pub(crate) holders: usize,
    pub(crate) plan: Option<AttemptPlan>,
}

impl Sim<'_> {
    /// Works until all is sealed, and removes the run.
    pub(crate) fn run(&self) -> Ran {
        let table = Table::default();
        let mut hand_overs = 0;
        let mut lanes: Vec<SimLane> = (0..self.lanes)
            .filter(|lane| Some(*lane) != self.dead)
            .map(|lane| self.come(lane, 0, None))
            .collect();
        while lanes.iter().any(|lane| !lane.is_done) {
            for lane in lanes.iter_mut().filter(|lane| !lane.is_done) {
                for _ in 0..PACES[lane.number as usize % PACES.len()] {
                    self.step(lane, &table);
                }
                if !lane.is_done && lane.items >= self.items_per_generation {
                    self.hand_over(lane, &table);
                    hand_overs += 1;
                }
            }
        }
        assert!(table.0.borrow().is_empty());
        let journaled = journals::write_contents(self.objects, self.folder, self.plan).unwrap();
        let holders = self.objects.holders(self.folder).unwrap().len();
        self.objects.vault.remove_run(&self.objects.server, &self.objects.run).unwrap();
        Ran { hand_overs, journaled, holders, plan: None }
    }

    /// What a lane asks for when it comes, but for the plan and the last backup, which are one get
    /// each.
    fn come(&self, number: u32, generation: u32, from: Option<String>) -> SimLane {
        assert!(self.objects.has(&state::plan_name(self.folder)).unwrap());
        assert!(!self.objects.has(&state::lost_name(self.folder)).unwrap());
        self.objects.batons(self.folder).unwrap();
        let baton = format!("{number:08X}-{generation:08X}-1");
        let holder = Holder { lane: number, generation, baton, from, since: Timestamp::now() };
        let baton = Baton { holder: holder.clone(), unlocked: Vec::new(), left: false };
        self.objects.put_baton(self.folder, &baton).unwrap();
        let place = (number, self.lanes);
        let items = self.plan.items.len();
        let todo = Todo::recall(self.objects, self.folder, place, items).unwrap();
        SimLane { number, generation, holder, todo, read: Vec::new(), items: 0, is_done: false }
    }

    /// Writes down what was read, and reads another item.
    fn step(&self, lane: &mut SimLane, table: &Table) {
        let mut claims = LaneClaims(table, lane.session());
        let claimed = lane.todo.claim(&mut claims).unwrap();
        // An item is written down while the next one is read.
        self.settle(lane, table);
        match claimed {
            Some(item) => {
                lane.read.push(item);
                lane.items += 1;
            }
            None if lane.todo.is_all_done() => {
                self.objects.leave_baton(self.folder, &lane.holder).unwrap();
                lane.is_done = true;
            }
            None => lane.todo.look_up().unwrap(),
        }
    }

    fn settle(&self, lane: &mut SimLane, table: &Table) {
        for item in &lane.read {
            let done = read_item(&self.plan.entries, &self.plan.items[*item]);
            let name = state::item_name(self.folder, *item);
            assert!(self.objects.put(&name, &done, PutMode::Create).unwrap(), "{name} twice");
        }
        lane.todo.settle(&lane.read, &mut LaneClaims(table, lane.session())).unwrap();
        lane.read.clear();
    }

    /// As a lane does it: it says what it knows, sends for its successor, goes on reading until that
    /// one is there, and leaves.
    fn hand_over(&self, lane: &mut SimLane, table: &Table) {
        lane.todo.leave_known().unwrap();
        for _ in 0..ITEMS_WHILE_WAITING {
            self.step(lane, table);
        }
        for _ in 0..LOOKS_FOR_SUCCESSOR {
            self.objects.batons(self.folder).unwrap();
        }
        if lane.is_done {
            return;
        }
        let before = lane.holder.clone();
        let next = self.come(lane.number, lane.generation + 1, Some(before.baton.clone()));
        self.settle(lane, table);
        self.objects.leave_baton(self.folder, &before).unwrap();
        *lane = next;
    }
}
