//! `bench SUITE [--quick] [--json]`: measures the daemon beside a rival, in turns, within one run. It reports and does
//! not judge.

mod cluster;
mod kernel;
mod memory;
mod report;
mod rival;
mod shapes;
mod spread;
mod suite;
mod traffic;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use report::Report;
use suite::Bench;

/// Measures Sluice beside kube-proxy and beside connections without any service.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    suite: Name,
    /// Smaller cases and fewer rounds: about a minute a suite
    #[arg(long)]
    quick: bool,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Connections, datagrams and throughput through a service address
    Connect,
    /// Packets that one core forwards through a service address
    Packets,
    /// From the start of the daemon to the complete dataplane, and its memory
    Coldstart,
    /// From one changed endpoint list to the kernel
    Change,
    /// What Prometheus gets and waits for, and whether changes wait for it
    Scrape,
    /// The pure parts, in a plain loop
    Host,
    /// What is desired of up to 50,000 Services: time, memory, and how they grow
    Desired,
    /// All of them
    All,
}

fn main() -> Result<()> {
    // Clients and servers are this same program, started inside the laboratory.
    if std::env::args().nth(1).as_deref() == Some(traffic::VERB) {
        return traffic::play(std::env::args().skip(2));
    }
    let Arguments { suite, quick, json } = Arguments::parse();
    let mut bench = Bench::new(quick, Report::new(json));
    let chosen = |name| suite == name || suite == Name::All;
    if chosen(Name::Host) {
        suite::host::run(&mut bench)?;
    }
    if chosen(Name::Desired) {
        suite::desired::run(&mut bench)?;
    }
    if chosen(Name::Connect) {
        suite::connect::run(&mut bench)?;
    }
    if chosen(Name::Packets) {
        suite::packets::run(&mut bench)?;
    }
    if chosen(Name::Coldstart) {
        suite::coldstart::run(&mut bench)?;
    }
    if chosen(Name::Change) {
        suite::change::run(&mut bench)?;
    }
    if chosen(Name::Scrape) {
        suite::scrape::run(&mut bench)?;
    }
    bench.report.finish();
    Ok(())
}
