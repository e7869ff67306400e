//! Lists in byte order.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use flexkeep_vault::store::ObjectMeta;

use super::BlobStore;
use crate::failure::Failure;

/// How far a name may be from its place in the service's order. Holds some MiB at most.
const WINDOW: usize = 20_000;

/// Calls `each` in byte order of names. The service lists in that order unless the account has a
/// hierarchical namespace, which sorts `/` before all else: names are put in order again within
/// [`WINDOW`], and what is further off is an error, never a wrong order.
pub(super) fn list(
    store: &BlobStore,
    prefix: &str,
    each: &mut dyn FnMut(ObjectMeta),
) -> Result<(), Failure> {
    let mut sorter = Sorter::new(WINDOW);
    let mut marker: Option<String> = None;
    loop {
        let (container, prefix) = (Arc::clone(&store.container), prefix.to_owned());
        let from = marker.clone();
        let page = store
            .runtime
            .wait(async move { container.page(&prefix, from.as_deref(), None).await })?;
        for object in page.objects {
            sorter.push(object, each)?;
        }
        if page.next.is_none() {
            return sorter.finish(each);
        }
        if page.next == marker {
            return Err(Failure::nonsense("the list does not go on after a page of it"));
        }
        marker = page.next;
    }
}

/// Puts names in order that arrive nearly so.
struct Sorter {
    window: usize,
    held: BinaryHeap<Reverse<ByName>>,
    last: Option<String>,
}

struct ByName(ObjectMeta);

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl Sorter {
    fn new(window: usize) -> Self {
        Self { window, held: BinaryHeap::new(), last: None }
    }

    fn push(
        &mut self,
        object: ObjectMeta,
        each: &mut dyn FnMut(ObjectMeta),
    ) -> Result<(), Failure> {
        self.held.push(Reverse(ByName(object)));
        if self.held.len() > self.window { self.pop(each) } else { Ok(()) }
    }

    fn finish(mut self, each: &mut dyn FnMut(ObjectMeta)) -> Result<(), Failure> {
        while !self.held.is_empty() {
            self.pop(each)?;
        }
        Ok(())
    }

    fn pop(&mut self, each: &mut dyn FnMut(ObjectMeta)) -> Result<(), Failure> {
        let Some(Reverse(ByName(object))) = self.held.pop() else { return Ok(()) };
        match &self.last {
            Some(last) if object.name < *last => {
                return Err(Failure::nonsense(format!(
                    "the service lists {} long after {last}, in an order that can't be used; does \
                     the account have a hierarchical namespace? flexkeep needs one without",
                    object.name
                )));
            }
            // Listed twice, as it was replaced between two pages.
            Some(last) if object.name == *last => return Ok(()),
            _ => {}
        }
        self.last = Some(object.name.clone());
        each(object);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flexkeep_vault::store::Etag;

    use super::*;

    fn sorted(window: usize, names: &[&str]) -> Result<Vec<String>, Failure> {
        let mut out = Vec::new();
        let mut sorter = Sorter::new(window);
        let mut each = |object: ObjectMeta| out.push(object.name);
        for name in names {
            let object =
                ObjectMeta { name: (*name).to_owned(), bytes: 0, etag: Etag(String::new()) };
            sorter.push(object, &mut each)?;
        }
        sorter.finish(&mut each)?;
        Ok(out)
    }

    #[test]
    fn names_that_are_near_their_place_get_there() {
        let order_of_folders = ["a/1", "a/2", "a-b/1", "b", "c/1", "c.x"];
        let expected = ["a-b/1", "a/1", "a/2", "b", "c.x", "c/1"];
        assert_eq!(sorted(2, &order_of_folders).unwrap(), expected);
        assert_eq!(sorted(100, &order_of_folders).unwrap(), expected);
    }

    #[test]
    fn names_that_are_far_from_it_are_an_error() {
        let error = sorted(2, &["b", "c", "d", "e", "a"]).unwrap_err();
        assert!(error.to_string().contains("hierarchical namespace"), "{error}");
    }

    #[test]
    fn a_name_is_told_once() {
        assert_eq!(sorted(2, &["a", "b", "b", "c", "c"]).unwrap(), ["a", "b", "c"]);
    }
}
