//! A client without a network, for tests of pauses and deadlines: the outcome depends on tokio's clock alone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::answer::{Accepted, Refused};

/// Refuses requests with the scripted answers in their order, then accepts all. Records the time of each
/// request.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScriptedClient(Arc<Mutex<(VecDeque<Refused>, Vec<Instant>)>>);

impl ScriptedClient {
    pub(crate) fn refusing(answers: impl IntoIterator<Item = Refused>) -> Self {
        Self(Arc::new(Mutex::new((answers.into_iter().collect(), Vec::new()))))
    }

    pub(crate) fn sent_at(&self) -> Vec<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    pub(super) fn send(&self) -> Result<Accepted, Refused> {
        let (answers, sent_at) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent_at.push(Instant::now());
        answers.pop_front().map_or_else(|| Ok(Accepted::default()), Err)
    }
}
