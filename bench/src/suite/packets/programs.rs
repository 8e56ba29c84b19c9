//! The programs that make and take frames, and what they share with the bench.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use frames::{Count, Course, FRAME};
use lab::netns::Netns;

/// Names the built programs.
const VARIABLE: &str = "SLUICE_FRAMES_OBJECT";
/// Frames that are made before they go on: what a driver's receive queue hands over at once.
const BATCH: u32 = 64;

/// The object that `cargo xtask bench` has built.
pub(super) fn read() -> Result<Vec<u8>> {
    let path = std::env::var_os(VARIABLE)
        .with_context(|| format!("{VARIABLE} is not set (`cargo xtask bench` sets it)"))?;
    std::fs::read(&path).with_context(|| format!("could not read {}", PathBuf::from(path).display()))
}

/// One set of the programs, and its maps.
pub(super) struct Programs(Ebpf);

impl Programs {
    /// Loads them.
    pub(super) fn load(object: &[u8]) -> Result<Self> {
        let mut programs = Self(EbpfLoader::new().load(object)?);
        for name in ["generate", "far_end", "near_end"] {
            programs.get(name)?.load().with_context(|| format!("could not load {name}"))?;
        }
        Ok(programs)
    }

    /// Puts one on a link, for as long as this lives.
    pub(super) fn attach(&mut self, name: &str, netns: &Netns, link: &str) -> Result<()> {
        let program = self.get(name)?;
        netns.run(|| {
            program
                .attach(link, XdpMode::Driver)
                .with_context(|| format!("could not attach {name} to {link}"))
        })?;
        Ok(())
    }

    /// Makes so many frames on the calling thread, and forwards them.
    pub(super) fn generate(&mut self, frames: u32) -> Result<()> {
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let options =
            TestRunOptions { data_in: Some(&[0; FRAME]), repeat: frames, attrs, ..TestRunOptions::new() };
        self.get("generate")?.test_run(options).context("could not make frames")?;
        Ok(())
    }

    /// Says what is sent from now on, and counts afresh.
    pub(super) fn set(&mut self, course: Course) -> Result<()> {
        let mut courses: Array<&mut MapData, Course> = self.map("COURSE")?.try_into()?;
        courses.set(0, course, 0)?;
        let mut counts: Array<&mut MapData, u64> = self.map("COUNTS")?.try_into()?;
        (0..Count::ALL as u32).try_for_each(|place| Ok(counts.set(place, 0, 0)?))
    }

    /// How often something happened since [`Programs::set`].
    pub(super) fn count(&self, what: Count) -> Result<u64> {
        let map = self.0.map("COUNTS").context("no map COUNTS")?;
        let counts: Array<&MapData, u64> = map.try_into()?;
        Ok(counts.get(&(what as u32), 0)?)
    }

    fn get(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.0.program_mut(name).ok_or_else(|| anyhow!("no program {name}"))?;
        Ok(program.try_into()?)
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.0.map_mut(name).ok_or_else(|| anyhow!("no map {name}"))
    }
}
