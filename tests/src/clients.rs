//! A client that connects all the time, so that something happens at every moment of a start or a stop.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::wait;

/// When a client connects, and how many connections it keeps.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many connections it makes at once.
    pub burst: usize,
    /// How long it rests after each burst.
    pub rest: Duration,
    /// How many connections it keeps open. It closes the oldest one first.
    pub held: usize,
}

/// A thread that connects at a [`Pace`] until it is dropped.
#[derive(Debug)]
pub struct Client {
    pace: Pace,
    made: Arc<AtomicUsize>,
    stops: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Starts the thread. `connect` makes one connection, which closes when its result is dropped.
    pub fn start<C>(pace: Pace, connect: impl Fn() -> C + Send + 'static) -> Self {
        let made = Arc::new(AtomicUsize::new(0));
        let stops = Arc::new(AtomicBool::new(false));
        let (count, end) = (Arc::clone(&made), Arc::clone(&stops));
        let thread = thread::spawn(move || {
            let mut held = VecDeque::new();
            while !end.load(Ordering::Relaxed) {
                for _ in 0..pace.burst {
                    held.push_back(connect());
                    count.fetch_add(1, Ordering::Relaxed);
                    if held.len() > pace.held {
                        held.pop_front();
                    }
                }
                thread::sleep(pace.rest);
            }
        });
        Self { pace, made, stops, thread: Some(thread) }
    }

    /// Waits until every connection that is open now has been closed.
    ///
    /// # Panics
    /// If the deadline passes first.
    pub fn wait_until_renewed(&self) {
        let made = || self.made.load(Ordering::Relaxed);
        let enough = made() + self.pace.held + self.pace.burst;
        wait::until("the connections to be replaced", || (made() > enough).then_some(()));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Relaxed);
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            // The panic hook has printed the message.
            eprintln!("a client ended early");
        }
    }
}
