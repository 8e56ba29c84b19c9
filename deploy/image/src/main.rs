//! Packs the daemon into an OCI image archive, with a bill of materials beside it.
//!
//! Everything that decides is a function of its input; this file alone reads and writes.

mod bill;
mod elf;
mod layer;
mod layout;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use layout::About;

#[derive(Parser)]
#[command(about = "Packs the daemon into an OCI image archive")]
struct Arguments {
    /// The daemon, statically linked
    #[arg(long)]
    binary: PathBuf,
    /// Folder for the archive and the bill of materials
    #[arg(long)]
    out: PathBuf,
    /// The commit it was built from
    #[arg(long)]
    revision: String,
    /// Seconds since 1970 that stand in the image as the time of everything
    #[arg(long)]
    created: u64,
}

fn main() -> Result<()> {
    let Arguments { binary, out, revision, created } = Arguments::parse();
    // That of the whole workspace, and the image's tag.
    let version = env!("CARGO_PKG_VERSION");
    let program = fs::read(&binary).with_context(|| format!("could not read {}", binary.display()))?;
    let architecture = elf::architecture(&program).with_context(|| binary.display().to_string())?;
    ensure!(
        !elf::wants_interpreter(&program)?,
        "{} is linked dynamically: the image holds no libraries",
        binary.display()
    );
    let bill = bill::text(&metadata()?, &lock()?, &libc()?)?;
    let layer = layer::pack(&layer::files(program, bill.clone()), created)?;
    let about = About { version, revision: &revision, created, architecture };
    let archive = layout::pack(&layer, &about)?;
    fs::create_dir_all(&out)?;
    let file = out.join(format!("sluice-{version}-{architecture}.oci.tar"));
    fs::write(&file, &archive.bytes).with_context(|| format!("could not write {}", file.display()))?;
    let beside = file.with_extension("").with_extension("cdx.json");
    fs::write(&beside, bill)?;
    println!("{}  {}", archive.manifest, file.display());
    eprintln!("{} bytes; the bill of materials is {}", archive.bytes.len(), beside.display());
    Ok(())
}

/// The packages that cargo chose, and which of them the daemon needs.
fn metadata() -> Result<serde_json::Value> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let text =
        ask(cargo().args(["metadata", "--format-version", "1", "--locked", "--filter-platform", &triple]))?;
    serde_json::from_str(&text).context("cargo metadata is not JSON")
}

/// Cargo.lock, for the checksums.
fn lock() -> Result<String> {
    let place = ask(cargo().args(["locate-project", "--workspace", "--message-format", "plain"]))?;
    let file = PathBuf::from(place.trim()).with_file_name("Cargo.lock");
    fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
}

/// The C library of this machine, which is linked in.
fn libc() -> Result<String> {
    let text = ask(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    Ok(text.trim().rsplit(' ').next().unwrap_or_default().to_owned())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn ask(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("could not start {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
