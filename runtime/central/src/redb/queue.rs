//! What waits for the writing thread. Appending wakes nobody: the thread looks by itself once a group has been open for as long as it may, and is woken before that only where
//! somebody waits, or much has gathered. Where many wait, others that are on their way get a moment to join them, since a commit costs much the same however many it serves. It knows
//! nothing of what is written.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whoever waits, waits for others this long where the last group had so many waiters; it is full with so many.
const MOMENT: Duration = Duration::from_millis(1);
const MANY: usize = 8;
const FULL: usize = 32;

/// Items for one thread that takes them in groups.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    wake: Condvar,
    /// How long a group for which nobody waits stays open.
    linger: Duration,
    /// Bytes of one group, about.
    bytes_max: usize,
    /// How many waited for the last group.
    last: AtomicUsize,
}

struct Waiting<T> {
    items: VecDeque<(T, usize, bool)>,
    bytes: usize,
    /// Items for which somebody waits.
    waiters: usize,
    sleep: Sleep,
    closed: bool,
}

/// What the taking thread sleeps for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleep {
    No,
    /// For anything.
    Idle,
    /// For others to join a group for which nobody waits.
    Open,
    /// For others to join one for which somebody does.
    Moment,
}

impl<T> Queue<T> {
    /// Empty.
    pub(super) fn new(linger: Duration, bytes_max: usize) -> Self {
        let waiting = Waiting { items: VecDeque::new(), bytes: 0, waiters: 0, sleep: Sleep::No, closed: false };
        Self { waiting: Mutex::new(waiting), wake: Condvar::new(), linger, bytes_max, last: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item of so many bytes; `wanted` says whether somebody waits for it. Gives it back where nobody takes it any more.
    pub(super) fn push(&self, item: T, bytes: usize, wanted: bool) -> Result<(), T> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(item);
        }
        waiting.items.push_back((item, bytes, wanted));
        waiting.bytes += bytes;
        waiting.waiters += usize::from(wanted);
        let wakes = match waiting.sleep {
            Sleep::No => false,
            Sleep::Idle => true,
            Sleep::Open => wanted || waiting.bytes >= self.bytes_max,
            Sleep::Moment => waiting.waiters >= FULL || waiting.bytes >= self.bytes_max,
        };
        if wakes {
            waiting.sleep = Sleep::No;
            drop(waiting);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Takes what waits, in order, up to about the bytes of a group; none once the queue is closed and empty. Blocks until there is something, and while a group is open for others.
    /// A thread that has something else to do by and by is given nothing where nothing came for as long as a group may
    /// be open.
    pub(super) fn take(&self, by_and_by: bool) -> Option<Vec<T>> {
        let mut waiting = self.lock();
        let goes_at = by_and_by.then(|| Instant::now() + self.linger);
        while waiting.items.is_empty() {
            if waiting.closed {
                return None;
            }
            let left = goes_at.map(|at| at.saturating_duration_since(Instant::now()));
            waiting.sleep = Sleep::Idle;
            waiting = match left {
                None => self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    waiting.sleep = Sleep::No;
                    return Some(Vec::new());
                }
                Some(left) => self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        waiting = self.gather(waiting, Sleep::Open, self.linger, |waiting| waiting.waiters == 0);
        if waiting.waiters > 0 && self.last.load(Ordering::Relaxed) >= MANY {
            waiting = self.gather(waiting, Sleep::Moment, MOMENT, |waiting| waiting.waiters < FULL);
        }
        waiting.sleep = Sleep::No;
        let mut taken = Vec::with_capacity(waiting.items.len());
        let (mut bytes, mut waiters) = (0, 0);
        while bytes < self.bytes_max
            && let Some((item, weighs, wanted)) = waiting.items.pop_front()
        {
            bytes += weighs;
            waiters += usize::from(wanted);
            taken.push(item);
        }
        self.last.store(waiters, Ordering::Relaxed);
        waiting.bytes -= bytes;
        waiting.waiters -= waiters;
        Some(taken)
    }

    /// Keeps a group open for as long as it may be and something says so.
    fn gather<'q>(
        &self,
        mut waiting: MutexGuard<'q, Waiting<T>>,
        sleep: Sleep,
        most: Duration,
        open: impl Fn(&Waiting<T>) -> bool,
    ) -> MutexGuard<'q, Waiting<T>> {
        let closes_at = Instant::now() + most;
        while open(&waiting) && waiting.bytes < self.bytes_max && !waiting.closed {
            let left = closes_at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            waiting.sleep = sleep;
            waiting = self.wake.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting
    }

    /// Takes no more items; what waits is still taken.
    pub(super) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        waiting.sleep = Sleep::No;
        drop(waiting);
        self.wake.notify_all();
    }

    /// Takes no more items and drops those that wait: nobody takes them any more.
    pub(super) fn abandon(&self) {
        self.close();
        let mut waiting = self.lock();
        (waiting.bytes, waiting.waiters) = (0, 0);
        let items = std::mem::take(&mut waiting.items);
        drop(waiting);
        drop(items);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    #[test]
    fn what_somebody_waits_for_is_taken_at_once_with_all_before_it() {
        let queue = Queue::new(NEVER, 1000);
        for item in 0..3 {
            queue.push(item, 10, false).expect("open");
        }
        queue.push(3, 0, true).expect("open");
        assert_eq!(queue.take(false), Some(vec![0, 1, 2, 3]));
        queue.push(4, 1, true).expect("open");
        assert_eq!(queue.take(false), Some(vec![4]));
    }

    #[test]
    fn a_group_is_bounded_and_the_rest_comes_next() {
        let queue = Queue::new(NEVER, 25);
        for item in 0..5 {
            queue.push(item, 10, false).expect("open");
        }
        queue.push(5, 0, true).expect("open");
        queue.push(6, 1, false).expect("open");
        assert_eq!(queue.take(false), Some(vec![0, 1, 2]));
        assert_eq!(queue.take(false), Some(vec![3, 4, 5, 6]), "it is still wanted");
        queue.close();
        assert_eq!((queue.push(7, 1, true), queue.take(false)), (Err(7), None));
    }

    #[test]
    fn a_thread_that_sleeps_is_woken_by_what_is_wanted_by_much_and_by_the_end() {
        let queue = Arc::new(Queue::new(NEVER, 100));
        let taker = Arc::clone(&queue);
        let taken = thread::spawn(move || std::iter::from_fn(|| taker.take(false)).flatten().collect::<Vec<_>>());
        let asleep = |sleep: Sleep| {
            while queue.lock().sleep != sleep {
                thread::yield_now();
            }
        };
        asleep(Sleep::Idle);
        queue.push(0, 1, false).expect("open");
        asleep(Sleep::Open);
        queue.push(1, 1, true).expect("open");
        asleep(Sleep::Idle);
        queue.push(2, 1, false).expect("open");
        asleep(Sleep::Open);
        queue.push(3, 99, false).expect("open");
        asleep(Sleep::Idle);
        queue.push(4, 1, false).expect("open");
        asleep(Sleep::Open);
        queue.close();
        assert_eq!(taken.join().expect("no panic"), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn where_many_wait_a_group_is_full_before_it_goes() {
        let queue = Arc::new(Queue::new(NEVER, 1000));
        for item in 0..MANY {
            queue.push(item, 1, true).expect("open");
        }
        assert_eq!(queue.take(false).map(|taken| taken.len()), Some(MANY));
        queue.push(0, 1, true).expect("open");
        let others = Arc::clone(&queue);
        let pushing = thread::spawn(move || (1..FULL).for_each(|item| others.push(item, 1, true).expect("open")));
        let mut taken = queue.take(false).expect("some");
        pushing.join().expect("no panic");
        // On a machine that is slow the moment was over before.
        while taken.len() < FULL {
            taken.extend(queue.take(false).expect("the others"));
        }
        assert_eq!(taken, (0..FULL).collect::<Vec<_>>());
        queue.push(0, 1, true).expect("open");
        assert_eq!(queue.take(false), Some(vec![0]), "after a moment it goes alone");
    }

    #[test]
    fn where_nobody_waits_a_group_is_open_for_a_while() {
        let queue = Queue::new(Duration::from_millis(1), 100);
        queue.push(0, 1, false).expect("open");
        assert_eq!(queue.take(false), Some(vec![0]));
        queue.push(1, 1, false).expect("open");
        queue.abandon();
        assert_eq!(queue.take(false), None);
    }

    #[test]
    fn whoever_has_something_else_to_do_is_not_kept_for_long() {
        let queue = Queue::new(Duration::from_millis(1), 100);
        assert_eq!(queue.take(true), Some(Vec::new()));
        queue.push(0, 1, true).expect("open");
        assert_eq!(queue.take(true), Some(vec![0]));
        queue.close();
        assert_eq!(queue.take(true), None);
    }
}
