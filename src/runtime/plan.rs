//! Plans: a stretch of recorded work that is handed to the device again and again without being put together anew.

use super::buffer::Buffer;
use super::dispatch::{Binding, Dispatch};
use super::{Inner, Runtime};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::ThreadId;

/// What a plan does, in order.
#[derive(Debug)]
pub(super) enum Command {
    Dispatch(Dispatch),
    Copy { from: (wgpu::Buffer, u64), to: (wgpu::Buffer, u64), bytes: u64 },
}

/// A plan while it is recorded, by one thread.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) id: u64,
    thread: ThreadId,
    commands: Vec<Command>,
    /// What it uses of others' memory, and its own memory that the host wrote.
    held: HashMap<u64, Arc<Buffer>>,
}

impl Recording {
    /// Whether it is this thread that records.
    pub(super) fn is_here(&self) -> bool {
        self.thread == std::thread::current().id()
    }

    pub(super) fn push(&mut self, command: Command, bindings: &[Binding]) {
        self.commands.push(command);
        for binding in bindings {
            if binding.buffer.plan != self.id {
                self.hold(&binding.buffer);
            }
        }
    }

    pub(super) fn hold(&mut self, buffer: &Arc<Buffer>) {
        self.held.entry(buffer.id).or_insert_with(|| Arc::clone(buffer));
    }
}

/// Work that was recorded once and can be handed to the device again, with its pipelines, bind groups, parameters and
/// memory as they were: [`Runtime::record_plan`].
///
/// It keeps the memory of everything that came about while it was recorded, and of what it reads and writes besides; it
/// gives it back when it is dropped.
#[derive(Debug)]
pub struct Plan {
    runtime: Runtime,
    id: u64,
    commands: Vec<Command>,
    held: Vec<Arc<Buffer>>,
}

impl Runtime {
    /// Runs `work` and keeps what it records as a plan, beside what `work` returns.
    ///
    /// Each [`Plan::replay`] then does the same again: it reads the tensors that were there before where they lie, with
    /// what they hold by then, and writes the tensors that `work` made, in place. Numbers that `work` got from the host are
    /// fixed for good, so what changes from one replay to the next must come from tensors: write those with
    /// [`crate::Tensor::write`]. Only what this thread records belongs to the plan.
    ///
    /// # Errors
    /// What `work` returns; [`Error::Argument`] if it reads back or writes from the host, or if a plan is being recorded
    /// already; [`Error::Feature`] in a simulated runtime.
    ///
    /// ```no_run
    /// use leanvision::{Runtime, Tensor, ops::elementwise};
    /// let runtime = Runtime::new(&Default::default())?;
    /// let x = Tensor::from_slice(&runtime, &[1.0_f32, 2.0], &[2])?;
    /// let (plan, y) = runtime.record_plan(|| elementwise::square(&x))?;
    /// x.write(&[3.0_f32, 4.0])?;
    /// plan.replay()?;
    /// assert_eq!(y.to_vec::<f32>()?, [9.0, 16.0]);
    /// # Ok::<(), leanvision::Error>(())
    /// ```
    pub fn record_plan<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(Plan, T)> {
        self.can_plan()?;
        let id = {
            let mut recorder = self.recorder();
            if recorder.recording.is_some() {
                return Err(Error::argument("record_plan", "a plan is being recorded already"));
            }
            let id = self.pool().open_plan();
            recorder.recording =
                Some(Recording { id, thread: std::thread::current().id(), commands: Vec::new(), held: HashMap::new() });
            id
        };
        let open = Open { runtime: self, id };
        let out = work()?;
        let recording = self.recorder().recording.take();
        std::mem::forget(open);
        let Some(Recording { commands, held, .. }) = recording else {
            return Err(Error::argument("record_plan", "the recording was lost"));
        };
        let held = held.into_values().collect();
        Ok((Plan { runtime: self.clone(), id, commands, held }, out))
    }

    /// Whether [`Runtime::record_plan`] works here: not in simulated runtimes.
    ///
    /// # Errors
    /// [`Error::Feature`] if not.
    pub fn can_plan(&self) -> Result<()> {
        #[cfg(feature = "sim")]
        if self.0.simulator.is_some() {
            return Err(Error::Feature {
                what: "a plan".into(),
                feature: "recorded commands".into(),
                adapter: self.0.profile.name.clone(),
            });
        }
        Ok(())
    }

    /// Whether this thread is recording a plan.
    #[must_use]
    pub fn is_recording_plan(&self) -> bool {
        self.recorder().recording.as_ref().is_some_and(Recording::is_here)
    }

    /// An error if this thread is recording a plan, which could not repeat what the host reads or writes.
    pub(crate) fn refuse_in_plan(&self, op: &'static str) -> Result<()> {
        if self.is_recording_plan() {
            return Err(Error::argument(op, "a plan is being recorded, which cannot repeat what the host does"));
        }
        Ok(())
    }

    /// Keeps what the host writes to `buffer` for the plan that this thread is recording: nothing else may take its place.
    pub(crate) fn hold_in_plan(&self, buffer: &Arc<Buffer>) {
        if let Some(recording) = self.recorder().recording_here() {
            recording.hold(buffer);
        }
    }
}

/// Ends a recording that came to no plan.
struct Open<'a> {
    runtime: &'a Runtime,
    id: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let recording = self.runtime.recorder().recording.take();
        self.runtime.pool().close_plan(self.id);
        // Behind the locks: it may give memory back.
        drop(recording);
    }
}

impl Plan {
    /// Hands the work to the device once more.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device is gone.
    pub fn replay(&self) -> Result<()> {
        let inner: &Inner = &self.runtime.0;
        inner.check_lost()?;
        let mut recorder = self.runtime.recorder();
        for command in &self.commands {
            match command {
                Command::Dispatch(dispatch) => recorder.dispatch(inner, dispatch)?,
                Command::Copy { from: (from, start), to: (to, at), bytes } => {
                    recorder.copy(inner, (from, *start), (to, *at), *bytes)?;
                }
            }
        }
        // What the host writes next must come behind all of it.
        for buffer in &self.held {
            buffer.last_batch.store(recorder.batch, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Dispatches of one replay.
    #[must_use]
    pub fn n_dispatches(&self) -> usize {
        self.commands.iter().filter(|command| matches!(command, Command::Dispatch(_))).count()
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        self.runtime.pool().close_plan(self.id);
    }
}

/// Work that does the same each time it is asked for: done plainly at first, which compiles and chooses kernels, recorded
/// the second time, replayed from then on. Where plans cannot be had it is done plainly each time.
#[derive(Debug)]
pub struct Repeated<T> {
    has_run: bool,
    recorded: Option<(Plan, T)>,
}

impl<T> Default for Repeated<T> {
    fn default() -> Self {
        Self { has_run: false, recorded: None }
    }
}

impl<T: Clone> Repeated<T> {
    /// Does the work; what it answers with is written anew each time.
    ///
    /// # Errors
    /// As `work`, [`Runtime::record_plan`] and [`Plan::replay`].
    pub fn run(&mut self, runtime: &Runtime, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Some((plan, out)) = &self.recorded {
            plan.replay()?;
            return Ok(out.clone());
        }
        // Nor while another plan is being recorded.
        if !self.has_run || runtime.can_plan().is_err() || runtime.recorder().recording.is_some() {
            let out = work()?;
            self.has_run = true;
            return Ok(out);
        }
        // A plan takes memory of its own, so what the first time left is given back.
        runtime.trim()?;
        let recorded = runtime.record_plan(work)?;
        Ok(self.recorded.insert(recorded).1.clone())
    }
}
