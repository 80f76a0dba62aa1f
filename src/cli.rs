//! What every binary shares: common flags, opening the runtime, JSON out, exit codes.

use crate::runtime::{DeviceChoice, Runtime, RuntimeOptions, list_devices};
use crate::{Error, Result};
use clap::{Args, Parser};
use clap_complete::Shell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags that every binary takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Adapter: auto, vulkan, metal, dx12 or gl, then optionally ':' and an index or a part of its name.
    #[arg(long, global = true, default_value_t, value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// List the adapters of this machine and exit.
    #[arg(long, global = true)]
    pub list_devices: bool,
    /// Seed of everything random.
    #[arg(long, global = true, default_value_t = 0)]
    pub seed: u64,
    /// Folder of the run: run.json, pictures, report.
    #[arg(long, global = true, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write the final figures to this file as one JSON object.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Time every kernel: a table at the end and, with --out, a Chrome trace.
    #[arg(long, global = true)]
    pub profile: bool,
    /// Only errors and the final figures.
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Print shell completions and exit.
    #[arg(long, global = true, value_name = "SHELL")]
    pub completions: Option<Shell>,
}

impl Common {
    /// Opens the adapter, and says on standard error which it is.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none fits, [`Error::Device`] if it gives no device.
    pub fn open(&self) -> Result<Runtime> {
        let options = RuntimeOptions { profile: self.profile, ..RuntimeOptions::default() };
        let runtime = Runtime::with_options(&self.device, options)?;
        if !self.quiet {
            eprintln!("adapter: {}", runtime.profile());
        }
        Ok(runtime)
    }

    /// Makes sure, before any work, that what was asked to be written can be.
    ///
    /// # Errors
    /// [`Error::File`] if `--out` cannot be made a folder or `--json` lies in no writable folder.
    pub fn check_outputs(&self) -> Result<()> {
        if let Some(out) = &self.out {
            std::fs::create_dir_all(out).map_err(|e| Error::file(out, format!("cannot be made a folder: {e}")))?;
            probe(&out.join(".write-test"), out)?;
        }
        if let Some(json) = &self.json {
            if json.is_dir() {
                return Err(Error::file(json, "is a folder, a file is wanted"));
            }
            probe(&temporary(json), json)?;
        }
        Ok(())
    }

    /// Writes the final figures to `--json`, if given.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be written.
    pub fn write_json<T: serde::Serialize>(&self, figures: &T) -> Result<()> {
        self.json.as_ref().map_or(Ok(()), |path| write_json(path, figures))
    }

    /// Prints the profile to standard error and writes the trace to `--out`, if profiling was asked for.
    ///
    /// # Errors
    /// [`Error::File`] if the trace cannot be written, [`Error::DeviceLost`].
    pub fn finish_profile(&self, runtime: &Runtime) -> Result<()> {
        if !self.profile {
            return Ok(());
        }
        let profile = runtime.take_profile()?;
        eprintln!("{profile}");
        self.out.as_ref().map_or(Ok(()), |out| write_json(&out.join("profile.json"), &profile.chrome_trace()))
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

fn probe(file: &Path, wanted: &Path) -> Result<()> {
    std::fs::write(file, []).map_err(|e| Error::file(wanted, format!("cannot be written: {e}")))?;
    std::fs::remove_file(file).map_err(|e| Error::file(wanted, format!("cannot be written: {e}")))
}

/// Writes bytes to a temporary file beside `path`, then renames it, so that no half-written file is ever seen.
///
/// # Errors
/// [`Error::File`] if that fails.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::file(path, format!("cannot be written: {e}"))
    })
}

/// Writes `value` as indented JSON; see [`write_file`].
///
/// # Errors
/// [`Error::File`] if that fails.
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::file(path, e))?;
    text.push(b'\n');
    write_file(path, &text)
}

/// A binary's command line.
pub trait Cli: Parser {
    /// The flags that every binary takes.
    fn common(&self) -> &Common;
}

/// The whole of a binary's `main`: parses the command line, serves `--list-devices` and `--completions`, checks that
/// outputs can be written, runs, and turns an error into one line and an exit code: 2 for bad input, 1 for a failed run.
pub fn main<C: Cli>(run: impl FnOnce(&C) -> anyhow::Result<()>) -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off,leanvision=warn")).init();
    // --list-devices and --completions work without the sub-command that clap would ask for first.
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--list-devices") {
        return finish(print_devices());
    }
    if let Some(shell) = completions(&args) {
        return finish(shell.and_then(|shell| {
            let mut command = C::command();
            let name = command.get_name().to_owned();
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut script);
            Ok(std::io::stdout().write_all(&script)?)
        }));
    }
    let cli = match C::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return finish(Err(Error::Input(one_line(&error)).into())),
        // --help and --version.
        Err(error) => return finish(error.print().map_err(Into::into)),
    };
    finish(cli.common().check_outputs().map_err(Into::into).and_then(|()| run(&cli)))
}

/// What clap says, without its usage block: one line that names the flag and what was wanted.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said: Vec<_> = said.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    said.join(" ").trim_start_matches("error: ").to_owned()
}

fn completions(args: &[String]) -> Option<anyhow::Result<Shell>> {
    let at = args.iter().position(|arg| arg == "--completions" || arg.starts_with("--completions="))?;
    let name = args[at].split_once('=').map(|(_, name)| name.to_owned()).or_else(|| args.get(at + 1).cloned());
    let name = name.unwrap_or_default();
    let wanted = "bash, elvish, fish, powershell or zsh";
    Some(name.parse::<Shell>().map_err(|_| Error::Input(format!("--completions {name}: {wanted} wanted")).into()))
}

fn print_devices() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let devices = list_devices()?;
    for (i, device) in devices.iter().enumerate() {
        writeln!(out, "{i}: {device}, {}, subgroups {}..{}", device.kind, device.subgroup_min, device.subgroup_max)?;
    }
    if devices.is_empty() {
        writeln!(out, "no adapter")?;
    }
    Ok(())
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // A closed pipe, as behind `| head`, is the reader's choice and no failure.
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    if error.chain().filter_map(|e| e.downcast_ref()).any(closed) {
        return ExitCode::SUCCESS;
    }
    let line = format!("{error:#}").lines().map(str::trim).collect::<Vec<_>>().join(" ");
    eprintln!("error: {line}");
    let bad_input = error.chain().filter_map(|e| e.downcast_ref::<Error>()).any(Error::is_bad_input);
    ExitCode::from(if bad_input { 2 } else { 1 })
}
