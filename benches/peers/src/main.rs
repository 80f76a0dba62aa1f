//! leanvision beside burn (wgpu back end, WGSL) on one adapter, and candle on the CPU, in one run.
//!
//! They take turns, and CPU time is what counts on a software adapter: its driver computes in threads of this process,
//! while wall time tells more about what else the machine does.

mod contest;
mod ops;
mod report;
mod sides;
mod train;

use anyhow::{Context, ensure};
use burn::tensor::{Device, DeviceKind};
use clap::{Parser, Subcommand};
use leanvision::{DeviceChoice, Runtime};
use std::path::PathBuf;

/// leanvision beside burn on one adapter, and candle on the CPU, in one run
#[derive(Parser)]
struct Config {
    /// Adapter: auto, vulkan, metal, dx12 or gl, then optionally `:` and an index or a part of its name; burn takes its
    /// own default, which must be the same one
    #[arg(long, global = true, default_value = "auto", value_name = "API[:PICK]")]
    device: DeviceChoice,
    /// Folder for the figures, as peers-ADAPTER.json
    #[arg(long, global = true, value_name = "DIR")]
    results: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Single operations, all engines in turns
    Ops {
        /// Only the rows whose operation and shape contain this text
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Training steps, leanvision and burn in turns: images per CPU second
    Train {
        /// Only networks whose name contains this text
        #[arg(long, default_value = "")]
        only: String,
    },
}

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let runtime = Runtime::new(&config.device)?;
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let name = device.identity().map_or_else(String::new, |identity| identity.name);
    ensure!(
        name == runtime.profile().name,
        "burn opened the adapter '{name}', leanvision '{}': choose with --device or CUBECL_WGPU_DEFAULT_DEVICE",
        runtime.profile().name
    );
    println!("{}", runtime.profile());
    println!("{}\n", report::processor());
    let (kind, rows) = match config.command {
        Command::Ops { only } => ("", ops::run(&runtime, &device, &only)?),
        Command::Train { only } => ("-train", train::run(&runtime, &device, &only)?),
    };
    let report = report::Report::new(&runtime, rows)?;
    if let Some(folder) = config.results {
        let path = folder.join(format!("peers{kind}-{}.json", report::slug(runtime.profile())));
        let text = format!("{}\n", serde_json::to_string_pretty(&report)?);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("\n{}", path.display());
    }
    Ok(())
}
