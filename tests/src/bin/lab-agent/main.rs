//! The laboratory's client and server, as a process of its own: what is under test is what a process experiences.

mod call;
mod exchange;
mod load;
mod probe;
mod serve;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use exchange::Protocol;

#[derive(Parser)]
#[command(about = "Client and server of Sluice's laboratory")]
struct Arguments {
    #[command(subcommand)]
    deed: Deed,
}

#[derive(Subcommand)]
enum Deed {
    /// Answer with name and source, one line a request, or HTTP for requests that begin with GET.
    Serve(serve::Serve),
    /// Ask, and print one line an answer.
    Call {
        protocol: Protocol,
        address: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: u64,
        #[arg(long, default_value_t = 2000)]
        timeout_ms: u64,
        /// One socket for all.
        #[arg(long)]
        keep: bool,
    },
    /// Ask for a while, and print how it goes.
    Load(load::Load),
    /// Do single calls on single sockets, as told on standard input.
    Probe,
    /// Ask an API server for its version.
    ApiVersion { kubeconfig: PathBuf },
}

fn main() -> Result<()> {
    match Arguments::parse().deed {
        Deed::Serve(serve) => serve.run(),
        Deed::Call { protocol, address, count, timeout_ms, keep } => {
            call::run(protocol, address, count, Duration::from_millis(timeout_ms), keep)
        }
        Deed::Load(load) => load.run(),
        Deed::Probe => probe::run(),
        Deed::ApiVersion { kubeconfig } => api_version(&kubeconfig),
    }
}

fn api_version(kubeconfig: &Path) -> Result<()> {
    let kubeconfig = std::fs::read_to_string(kubeconfig)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let version = runtime.block_on(async {
        let client = lab::objects::client(&kubeconfig).await?;
        anyhow::Ok(client.apiserver_version().await?)
    })?;
    println!("{}", version.git_version);
    Ok(())
}
