//! The keys of mappings, each text once.
//!
//! In: texts. Out: shared texts. Must not: grow with the input.

use std::sync::Arc;

use hashbrown::HashSet;

/// The largest number of texts that are kept. Fields of the API and common labels are fewer.
const MAX_NAMES: usize = 4_096;

/// The texts so far.
#[derive(Debug, Default)]
pub(super) struct Names(HashSet<Arc<str>>);

impl Names {
    /// The text, shared with those before it that are equal.
    pub(super) fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        if self.0.len() < MAX_NAMES {
            self.0.insert(Arc::clone(&new));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_shared_and_their_number_is_bounded() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.shared("cidr"), &names.shared("cidr")));
        for n in 0..2 * MAX_NAMES {
            assert_eq!(*names.shared(&n.to_string()), *n.to_string());
        }
        assert_eq!(names.0.len(), MAX_NAMES);
    }
}
