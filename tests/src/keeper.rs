//! A thread that owns processes which must outlive the test that started them: children die with the thread that
//! started them, and every test has a thread of its own.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};

type Deed<S> = Box<dyn FnOnce(&mut S) + Send>;

/// A thread with a state of its own. Dropping the keeper drops the state, on that thread.
#[derive(Debug)]
pub struct Keeper<S> {
    tell: Option<Sender<Deed<S>>>,
    thread: Option<JoinHandle<()>>,
}

impl<S: 'static> Keeper<S> {
    /// Starts the thread and makes the state on it.
    pub fn start(make: impl FnOnce() -> Result<S> + Send + 'static) -> Result<Self> {
        let (tell, deeds) = channel::<Deed<S>>();
        let (answer, answered) = channel();
        let thread = thread::spawn(move || {
            let mut state = match make() {
                Ok(state) => state,
                Err(error) => return drop(answer.send(Err(error))),
            };
            // Whoever started us has gone if this fails, and the loop ends at once.
            let _ = answer.send(Ok(()));
            deeds.into_iter().for_each(|deed| deed(&mut state));
        });
        answered.recv().context("a keeper died")??;
        Ok(Self { tell: Some(tell), thread: Some(thread) })
    }

    /// Does something with the state, on its thread.
    pub fn ask<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut S) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = channel();
        let deed: Deed<S> = Box::new(move |state| drop(answer.send(deed(state))));
        self.tell.as_ref().context("a keeper has ended")?.send(deed).ok().context("a keeper has ended")?;
        answered.recv().context("a keeper died")?
    }
}

impl<S> Drop for Keeper<S> {
    fn drop(&mut self) {
        drop(self.tell.take());
        // A panic there has been printed there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
