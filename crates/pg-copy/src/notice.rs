//! Notices that came beside the answers.

use std::collections::VecDeque;

use crate::error::ServerError;

/// How many notices are kept until they are taken.
const KEPT: usize = 100;

/// The newest notices; older ones are counted and dropped.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    kept: VecDeque<ServerError>,
    dropped: u64,
}

impl Notices {
    pub(crate) fn push(&mut self, notice: ServerError) {
        tracing::debug!(severity = notice.severity(), sqlstate = notice.sqlstate(), "{notice}");
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(notice);
    }

    pub(crate) fn take(&mut self) -> Vec<ServerError> {
        if self.dropped > 0 {
            tracing::debug!(dropped = self.dropped, "older notices were dropped");
            self.dropped = 0;
        }
        self.kept.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_notices_are_kept() {
        let mut notices = Notices::default();
        for _ in 0..KEPT + 5 {
            notices.push(ServerError::default());
        }
        assert_eq!(notices.take().len(), KEPT);
        assert!(notices.take().is_empty());
    }
}
