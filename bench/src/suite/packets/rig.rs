//! One subject's road with the programs on it: what is sent and what it costs.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use frames::{Count, Course, head};
use lab::{Node, wait};

use super::case::Load;
use super::clock::Core;
use super::conntrack;
use super::pair::Pair;
use super::programs::Programs;
use super::road::{self, Road};
use crate::suite::edge::FlowTable;

/// How long the last frame may take to arrive.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long it is tried again when a frame of a warm-up got lost, as happens where others take the core away.
const ATTEMPTS: Duration = Duration::from_secs(10);

/// What one turn was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Of the core, for each frame; for each connection, on the wall.
    pub(super) nanoseconds: f64,
    pub(super) sent: u64,
    pub(super) arrived: u64,
    /// The core's time for the frames, as a part of the time on the wall.
    pub(super) share: f64,
}

/// A road, and what is on it.
pub(super) struct Rig {
    road: Road,
    programs: Programs,
    pair: Pair,
    /// A table of flows beside the kernel's.
    table: Option<FlowTable>,
}

impl Rig {
    /// Lays a road through a node and puts the programs on it.
    pub(super) fn new(node: &Node, object: &[u8]) -> Result<Self> {
        let road = Road::lay(node)?;
        let mut programs = Programs::load(object)?;
        programs.attach("far_end", road.far().netns(), road::LINK)?;
        programs.attach("near_end", road.near().netns(), road::LINK)?;
        Ok(Self { road, programs, pair: Pair::settle(node)?, table: None })
    }

    /// The same with another table of flows that is to be emptied.
    pub(super) fn beside(self, table: FlowTable) -> Self {
        Self { table: Some(table), ..self }
    }

    fn forget(&mut self) -> Result<()> {
        conntrack::forget(self.road.node())?;
        self.table.as_mut().map_or(Ok(()), FlowTable::forget)
    }

    /// Sends, and says what it cost. The kernel knows no flow afterwards: its table is one for all namespaces.
    pub(super) fn turn(&mut self, target: SocketAddrV4, load: Load) -> Result<Turn> {
        self.forget()?;
        let turn = match load {
            Load::Known { flows, frames } => {
                let warm = || self.there_and_back(target, flows);
                wait::until(&format!("{target} to answer every flow"), ATTEMPTS, warm)?;
                self.there(target, flows, frames)
            }
            Load::Fresh { flows } => self.there(target, flows, flows),
            Load::Connections(time) => self.pair.turn(target, time),
        };
        self.forget()?;
        turn
    }

    /// Frames that take turns over some flows, and are not answered.
    fn there(&mut self, target: SocketAddrV4, flows: u32, frames: u32) -> Result<Turn> {
        self.course(target, flows, false)?;
        let (spent, passed) = self.send(frames)?;
        let (sent, arrived) = self.arrived()?;
        let nanoseconds = spent.as_nanos() as f64 / f64::from(frames);
        Ok(Turn { nanoseconds, sent, arrived, share: spent.as_secs_f64() / passed.as_secs_f64() })
    }

    /// One frame of each flow there and one back: a flow is known when it has been answered.
    fn there_and_back(&mut self, target: SocketAddrV4, flows: u32) -> Result<()> {
        self.course(target, flows, true)?;
        self.send(flows)?;
        wait::until("frames to come back", PATIENCE, || {
            let (arrived, returned) =
                (self.programs.count(Count::Arrived)?, self.programs.count(Count::Returned)?);
            ensure!(returned == u64::from(flows), "of {flows}, {arrived} arrived and {returned} came back");
            Ok(())
        })
    }

    /// How many were sent and how many arrived, when no more are on their way.
    fn arrived(&self) -> Result<(u64, u64)> {
        let sent = self.programs.count(Count::Sent)?;
        let all = || {
            let arrived = self.programs.count(Count::Arrived)?;
            ensure!(arrived == sent, "{arrived} of {sent}");
            Ok(arrived)
        };
        match wait::until("frames to arrive", PATIENCE, all) {
            Ok(arrived) => Ok((sent, arrived)),
            Err(_) => Ok((sent, self.programs.count(Count::Arrived)?)),
        }
    }

    fn course(&mut self, target: SocketAddrV4, flows: u32, reflects: bool) -> Result<()> {
        let head = head(road::CLIENT, road::NODE_NEAR, target);
        let link = self.road.link();
        self.programs.set(Course { head, reflects: reflects.into(), link, flows, next: 0 })
    }

    /// On a thread in the client's namespace that stays on one core: the core's time, and the time that passed.
    fn send(&mut self, frames: u32) -> Result<(Duration, Duration)> {
        let Self { road, programs, pair: _, table: _ } = self;
        road.near().netns().run(|| {
            let core = Core::take()?;
            let (before, begin) = (core.spent()?, Instant::now());
            programs.generate(frames)?;
            Ok((core.spent()?.saturating_sub(before), begin.elapsed()))
        })
    }
}
