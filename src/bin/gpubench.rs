//! Cross-vendor benchmark.

use clap::Parser;
use leanvision::bench::kernel;
use leanvision::cli::{Cli, Common};
use std::process::ExitCode;

/// Compare GPUs of different vendors on the kernels of leanvision.
#[derive(Debug, Parser)]
#[command(name = "gpubench", version)]
struct Gpubench {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The families that are measured.
    List,
}

impl Cli for Gpubench {
    fn common(&self) -> &Common {
        &self.common
    }
}

fn main() -> ExitCode {
    leanvision::cli::main(|cli: &Gpubench| match cli.command {
        Command::List => {
            use std::io::Write;
            for family in kernel::families() {
                writeln!(std::io::stdout(), "{family}")?;
            }
            Ok(())
        }
    })
}
