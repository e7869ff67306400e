//! What may be done next: rows in parts, and definitions that wait for rows and for each other.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use flexkeep_pg_archive::Entry;
use flexkeep_vault::contents::ChunkRef;

use super::journal::{Done, PART_BYTES};
use super::parts::{Parts, by_target, desc};

/// One entry to restore.
#[derive(Debug)]
pub(super) struct Node {
    /// Its place in the table of contents.
    pub(super) place: usize,
    pub(super) dump_id: i32,
    /// The ranges of chunks that are loaded together; empty for a statement.
    pub(super) parts: Vec<Range<usize>>,
    /// Bytes of rows: of its own, or of the table that it is about.
    size: u64,
    /// Unfinished nodes that it waits for.
    waits: usize,
    followers: Vec<usize>,
    /// Tables that it locks, and whether others that only read their rows may work beside it.
    locks: Vec<(i32, Lock)>,
    state: State,
    /// Parts that nobody has taken.
    open: Vec<usize>,
    at_work: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Shared,
    Exclusive,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Done,
    Failed,
    /// Waits for one that failed.
    Held,
}

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// The statements of a node.
    Statement(usize),
    /// A part of a node's rows.
    Part(usize, usize),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Task(Task),
    /// Everything that can be done is being done.
    Wait,
    /// Nothing is left.
    End,
}

/// All nodes of one phase.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Nodes that wait for nothing and are not at work, by size, then by place.
    statements: BTreeSet<(u64, Reverse<usize>)>,
    /// Nodes with parts that nobody has taken, likewise.
    rows: BTreeSet<(u64, Reverse<usize>)>,
    at_work: usize,
    locked: HashMap<i32, (usize, bool)>,
}

impl Graph {
    /// A graph of the entries at `places`. What is done counts as finished.
    pub(super) fn new(parts: &Parts<'_>, places: &[usize], done: &Done) -> Self {
        let entries = parts.entries();
        let sizes = table_sizes(parts);
        let mut nodes: Vec<Node> =
            places.iter().map(|&place| node(parts, &entries[place], place, &sizes, done)).collect();
        let by_id: HashMap<i32, usize> =
            nodes.iter().enumerate().map(|(index, node)| (node.dump_id, index)).collect();
        let rows_of = rows_of_tables(parts);
        for index in 0..nodes.len() {
            let entry = &entries[nodes[index].place];
            let mut before: HashSet<usize> = HashSet::new();
            for id in entry.dependencies() {
                before.extend(by_id.get(id));
                // Who waits for a table waits for its rows, but for those rows themselves.
                if !entry.had_dumper() && desc(entry) != b"SEQUENCE SET" {
                    let rows = rows_of.get(id).into_iter().flatten();
                    before.extend(rows.filter_map(|id| by_id.get(id)));
                }
            }
            before.remove(&index);
            let open = before.iter().filter(|one| nodes[**one].state == State::Open);
            let open: Vec<usize> = open.copied().collect();
            nodes[index].waits = open.len();
            for one in open {
                nodes[one].followers.push(index);
            }
        }
        Self::of(nodes)
    }

    fn of(nodes: Vec<Node>) -> Self {
        let mut graph = Self { nodes, ..Self::default() };
        for index in 0..graph.nodes.len() {
            graph.note_ready(index);
        }
        graph
    }

    fn note_ready(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.state != State::Open || node.waits > 0 {
            return;
        }
        let place = (node.size, Reverse(index));
        if node.parts.is_empty() {
            self.statements.insert(place);
        } else if !node.open.is_empty() {
            self.rows.insert(place);
        }
    }

    /// What to do next: a definition that is ready, about the largest table first; then rows of
    /// the largest table.
    pub(super) fn next(&mut self) -> Next {
        let free = |(_, Reverse(index)): &&(u64, Reverse<usize>)| self.is_free(&self.nodes[*index]);
        if let Some(place) = self.statements.iter().rev().find(free).copied() {
            self.statements.remove(&place);
            let (_, Reverse(index)) = place;
            self.nodes[index].at_work = 1;
            self.at_work += 1;
            self.lock(index);
            return Next::Task(Task::Statement(index));
        }
        if let Some(&place) = self.rows.last() {
            let (_, Reverse(index)) = place;
            let node = &mut self.nodes[index];
            if let Some(part) = node.open.pop() {
                node.at_work += 1;
                if node.open.is_empty() {
                    self.rows.remove(&place);
                }
                self.at_work += 1;
                return Next::Task(Task::Part(index, part));
            }
        }
        if self.at_work > 0 { Next::Wait } else { Next::End }
    }

    /// Notes the end of a task; gives whether it was the last one of its node's rows.
    pub(super) fn finish(&mut self, task: &Task, well: bool) -> bool {
        let (Task::Statement(index) | Task::Part(index, _)) = *task;
        if let Task::Statement(_) = task {
            self.unlock(index);
        }
        self.at_work -= 1;
        let node = &mut self.nodes[index];
        node.at_work -= 1;
        let rows = !node.parts.is_empty();
        if !well {
            node.state = State::Failed;
            node.open.clear();
            self.rows.remove(&(node.size, Reverse(index)));
        } else if node.state == State::Open && node.at_work == 0 && node.open.is_empty() {
            node.state = State::Done;
        }
        if node.at_work > 0 {
            return false;
        }
        match node.state {
            State::Failed if rows => self.hold_followers(index),
            State::Done | State::Failed => self.release_followers(index),
            State::Open | State::Held => {}
        }
        rows && self.nodes[index].state == State::Done
    }

    /// A node that can't be done because of what happened before, such as rows without a table.
    pub(super) fn give_up(&mut self, index: usize) {
        if self.nodes[index].state == State::Open {
            let node = &mut self.nodes[index];
            node.state = State::Failed;
            node.open.clear();
            self.rows.remove(&(node.size, Reverse(index)));
            self.hold_followers(index);
        }
    }

    /// Chunks of a node's rows that are there already.
    pub(super) fn loaded(&self, index: usize) -> impl Iterator<Item = usize> {
        let node = &self.nodes[index];
        let done = (0..node.parts.len()).filter(|part| !node.open.contains(part));
        done.flat_map(|part| node.parts[part].clone())
    }

    /// Whether a node is finished.
    pub(super) fn is_done(&self, index: usize) -> bool {
        self.nodes[index].state == State::Done
    }

    /// Nodes that wait for rows that did not come.
    pub(super) fn held(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.state == State::Held)
    }

    fn release_followers(&mut self, index: usize) {
        for follower in std::mem::take(&mut self.nodes[index].followers) {
            self.nodes[follower].waits -= 1;
            self.note_ready(follower);
        }
    }

    /// Nothing that must come after rows is made while rows are missing: it would see half of them,
    /// and triggers would fire for those that come later.
    fn hold_followers(&mut self, index: usize) {
        let mut open = std::mem::take(&mut self.nodes[index].followers);
        while let Some(follower) = open.pop() {
            if self.nodes[follower].state == State::Open {
                self.nodes[follower].state = State::Held;
                open.append(&mut self.nodes[follower].followers);
            }
        }
    }

    fn is_free(&self, node: &Node) -> bool {
        node.locks.iter().all(|(table, lock)| match self.locked.get(table) {
            None | Some((0, _)) => true,
            Some((_, exclusive)) => *lock == Lock::Shared && !exclusive,
        })
    }

    fn lock(&mut self, index: usize) {
        for (table, lock) in self.nodes[index].locks.clone() {
            let held = self.locked.entry(table).or_default();
            held.0 += 1;
            held.1 = lock == Lock::Exclusive;
        }
    }

    fn unlock(&mut self, index: usize) {
        for (table, _) in self.nodes[index].locks.clone() {
            if let Some(held) = self.locked.get_mut(&table) {
                held.0 -= 1;
            }
        }
    }
}

fn node(
    parts: &Parts<'_>,
    entry: &Entry,
    place: usize,
    sizes: &HashMap<i32, u64>,
    done: &Done,
) -> Node {
    let dump_id = entry.dump_id();
    let mut ranges = Vec::new();
    let mut size = 0;
    if let Some(data) = parts.data_of(entry) {
        ranges = cut(&data.chunks);
        size = data.chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum();
    } else {
        for id in entry.dependencies() {
            size = size.max(sizes.get(id).copied().unwrap_or(0));
        }
    }
    // Popped from the end: the first part comes first.
    let open: Vec<usize> =
        (0..ranges.len()).rev().filter(|part| !done.has(dump_id, *part as i32)).collect();
    let finished =
        if parts.data_of(entry).is_some() { open.is_empty() } else { done.has(dump_id, 0) };
    Node {
        place,
        dump_id,
        parts: ranges,
        size,
        waits: 0,
        followers: Vec::new(),
        locks: locks(parts, entry),
        state: if finished { State::Done } else { State::Open },
        open,
        at_work: 0,
    }
}

/// Ranges of about [`PART_BYTES`] that neither cut a row nor a large object.
pub(super) fn cut(chunks: &[ChunkRef]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, chunk) in chunks.iter().enumerate() {
        bytes += u64::from(chunk.raw_bytes);
        if bytes >= PART_BYTES && !chunk.continued {
            ranges.push(start..index + 1);
            (start, bytes) = (index + 1, 0);
        }
    }
    if start < chunks.len() {
        ranges.push(start..chunks.len());
    }
    ranges
}

/// Bytes of rows, by the dump id of the table.
fn table_sizes(parts: &Parts<'_>) -> HashMap<i32, u64> {
    let mut sizes = HashMap::new();
    for entry in parts.entries() {
        if let (Some(data), Some(table)) = (parts.data_of(entry), entry.dependencies().first()) {
            let bytes: u64 = data.chunks.iter().map(|chunk| u64::from(chunk.raw_bytes)).sum();
            *sizes.entry(*table).or_default() += bytes;
        }
    }
    sizes
}

/// From a table's dump id to the data entries that bring its rows.
fn rows_of_tables(parts: &Parts<'_>) -> HashMap<i32, Vec<i32>> {
    let mut rows: HashMap<i32, Vec<i32>> = HashMap::new();
    for group in by_target(parts.entries().iter()).into_values() {
        let data: Vec<i32> = group.iter().map(|entry| entry.dump_id()).collect();
        for table in group.iter().filter_map(|entry| entry.dependencies().first()) {
            rows.entry(*table).or_default().extend(&data);
        }
    }
    rows
}

/// The tables that a statement locks against others, as pg_restore takes them into account: all
/// that it depends on. Building an index lets others read, and others build indexes.
fn locks(parts: &Parts<'_>, entry: &Entry) -> Vec<(i32, Lock)> {
    if entry.had_dumper() {
        return Vec::new();
    }
    let lock = if desc(entry) == b"INDEX" { Lock::Shared } else { Lock::Exclusive };
    let is_table = |id: &&i32| parts.toc.get(**id).is_some_and(|one| desc(one) == b"TABLE");
    entry.dependencies().iter().filter(is_table).map(|id| (*id, lock)).collect()
}

#[cfg(test)]
mod tests {
    use flexkeep_vault::ContentHash;

    use super::*;

    fn chunk(raw_bytes: u32, continued: bool) -> ChunkRef {
        ChunkRef { hash: ContentHash::of(b"x"), raw_bytes, stored_bytes: 1, continued }
    }

    #[test]
    fn parts_never_end_within_a_row() {
        let half = (PART_BYTES / 2) as u32;
        let chunks = [chunk(half, false), chunk(half, true), chunk(half, true), chunk(1, false)];
        assert_eq!(cut(&chunks), vec![0..4]);
        let chunks = [chunk(half, false), chunk(half, false), chunk(half, false)];
        assert_eq!(cut(&chunks), [0..2, 2..3]);
        assert_eq!(cut(&[]).len(), 0);
    }

    fn bare(index: usize, parts: usize, size: u64, followers: Vec<usize>, waits: usize) -> Node {
        Node {
            place: index,
            dump_id: index as i32 + 1,
            parts: (0..parts).map(|part| part..part + 1).collect(),
            size,
            waits,
            followers,
            locks: Vec::new(),
            state: State::Open,
            open: (0..parts).rev().collect(),
            at_work: 0,
        }
    }

    #[test]
    fn a_definition_waits_for_all_rows_and_then_comes_first() {
        let nodes =
            vec![bare(0, 2, 10, vec![1], 0), bare(1, 0, 10, vec![], 1), bare(2, 1, 5, vec![], 0)];
        let mut graph = Graph::of(nodes);
        assert_eq!(graph.next(), Next::Task(Task::Part(0, 0)));
        assert_eq!(graph.next(), Next::Task(Task::Part(0, 1)));
        assert_eq!(graph.next(), Next::Task(Task::Part(2, 0)));
        assert_eq!(graph.next(), Next::Wait);
        graph.finish(&Task::Part(0, 1), true);
        assert_eq!(graph.next(), Next::Wait);
        graph.finish(&Task::Part(0, 0), true);
        assert_eq!(graph.next(), Next::Task(Task::Statement(1)));
        graph.finish(&Task::Statement(1), true);
        graph.finish(&Task::Part(2, 0), true);
        assert_eq!(graph.next(), Next::End);
    }

    #[test]
    fn nothing_is_made_on_rows_that_did_not_come() {
        let nodes =
            vec![bare(0, 2, 10, vec![1], 0), bare(1, 0, 10, vec![2], 1), bare(2, 0, 10, vec![], 1)];
        let mut graph = Graph::of(nodes);
        let first = Task::Part(0, 0);
        assert_eq!(graph.next(), Next::Task(first.clone()));
        graph.finish(&first, false);
        assert_eq!(graph.next(), Next::End);
        assert_eq!(graph.held().map(|node| node.dump_id).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn a_definition_that_fails_does_not_hold_up_the_next() {
        let nodes = vec![bare(0, 0, 0, vec![1], 0), bare(1, 0, 0, vec![], 1)];
        let mut graph = Graph::of(nodes);
        assert_eq!(graph.next(), Next::Task(Task::Statement(0)));
        graph.finish(&Task::Statement(0), false);
        assert_eq!(graph.next(), Next::Task(Task::Statement(1)));
    }

    #[test]
    fn exclusive_work_on_one_table_is_not_done_at_once() {
        let mut nodes =
            vec![bare(0, 0, 3, vec![], 0), bare(1, 0, 2, vec![], 0), bare(2, 0, 1, vec![], 0)];
        nodes[0].locks = vec![(9, Lock::Shared)];
        nodes[1].locks = vec![(9, Lock::Exclusive)];
        nodes[2].locks = vec![(9, Lock::Shared)];
        let mut graph = Graph::of(nodes);
        assert_eq!(graph.next(), Next::Task(Task::Statement(0)));
        assert_eq!(graph.next(), Next::Task(Task::Statement(2)));
        assert_eq!(graph.next(), Next::Wait);
        graph.finish(&Task::Statement(0), true);
        assert_eq!(graph.next(), Next::Wait);
        graph.finish(&Task::Statement(2), true);
        assert_eq!(graph.next(), Next::Task(Task::Statement(1)));
    }
}
