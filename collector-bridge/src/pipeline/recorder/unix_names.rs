//! Which path a UNIX socket has now, and when the next survey must look.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use acceptd_common::{SocketCall, UnixName, family::AF_UNIX};

use crate::bpf::unix_paths::UnixPaths;

/// How long a server has to rename its new socket, before a survey looks for the path.
const RENAME_TIME: Duration = Duration::from_millis(100);

/// Shortest time between two surveys that only look for paths.
const SURVEY_INTERVAL: Duration = Duration::from_secs(1);

/// The paths of UNIX listeners.
pub(super) struct UnixNames {
    paths: Arc<UnixPaths>,
    surveyed: Instant,
    /// When the first process began to listen on a path since the last survey.
    listened: Option<Instant>,
}

impl UnixNames {
    pub(super) fn new() -> Self {
        Self { paths: Arc::default(), surveyed: Instant::now(), listened: None }
    }

    /// The path of a listener that was bound to `bound`, if it differs from that.
    pub(super) fn find(&self, listener_inode: u64, bound: &UnixName) -> Option<UnixName> {
        self.paths.find(listener_inode, bound)
    }

    /// Notes a call of listen(2).
    pub(super) fn listening(&mut self, call: &SocketCall) {
        let SocketCall { operation, result, socket, name, .. } = call;
        let has_path = socket.family == AF_UNIX && name.length > 0 && name.bytes[0] != 0;
        if *operation == SocketCall::LISTEN && *result == 0 && has_path {
            self.listened.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn is_survey_due(&self) -> bool {
        self.listened.is_some_and(|listened| listened.elapsed() >= RENAME_TIME)
            && self.surveyed.elapsed() >= SURVEY_INTERVAL
    }

    pub(super) fn surveyed(&mut self, paths: Arc<UnixPaths>) {
        self.paths = paths;
        (self.surveyed, self.listened) = (Instant::now(), None);
    }
}
