//! Flags that are the same in every binary, and how a binary ends.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde::{Serialize, Serializer};

use crate::runtime::{Tune, list_devices};
use crate::{DeviceChoice, Error, Result, Runtime, RuntimeOptions};

/// Flags that every binary takes, in front of a sub-command or behind it.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
#[command(next_help_heading = "Common to all binaries")]
pub struct CommonFlags {
    /// Adapter: auto, vulkan, metal, dx12 or gl, then optionally `:` and an index or a part of its name
    #[arg(long, global = true, default_value = "auto", value_name = "API[:PICK]")]
    #[serde(serialize_with = "as_text")]
    pub device: DeviceChoice,
    /// List the adapters of this machine and stop
    #[arg(long, global = true)]
    #[serde(skip)]
    pub list_devices: bool,
    /// Seed of everything random
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Folder for what the run leaves behind
    #[arg(long, global = true, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// File for the final figures, as one JSON object
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Time every kernel: a table at the end, and a Chrome trace in the run's folder
    #[arg(long, global = true)]
    pub profile: bool,
    /// Try every variant of every kernel met, however long it takes, and keep what is fastest for later runs
    #[arg(long, global = true, conflicts_with = "no_tune")]
    pub tune: bool,
    /// Take the default variants, neither trying others nor using what earlier runs found
    #[arg(long, global = true)]
    pub no_tune: bool,
    /// Use cooperative matrices (tensor cores) where the adapter has them; experimental
    #[arg(long, global = true)]
    pub cooperative: bool,
    /// Print results only
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Print completions for a shell and stop
    #[arg(long, value_name = "SHELL")]
    #[serde(skip)]
    pub completions: Option<clap_complete::Shell>,
}

fn as_text<S: Serializer>(choice: &DeviceChoice, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(choice)
}

impl CommonFlags {
    /// Opens the adapter and says on standard error which it is.
    ///
    /// # Errors
    /// As [`Runtime::with_options`].
    pub fn open(&self) -> Result<Runtime> {
        let mut options = RuntimeOptions { profile: self.profile, ..RuntimeOptions::default() };
        if self.tune {
            options.tune = Tune::Full;
        } else if self.no_tune {
            options.tune = Tune::Off;
        }
        options.cooperative_matrix |= self.cooperative;
        let runtime = Runtime::with_options(&self.device, options)?;
        if !self.quiet {
            eprintln!("{}", runtime.profile());
        }
        Ok(runtime)
    }
}

/// The whole of a binary's `main`, to be called before any thread is started: parses the flags into `C`, answers `--list-devices` and `--completions`, calls `run`,
/// prints its text or its error in one line. Ends with 0, with 2 for bad input and with 1 for a failed run.
pub fn run_binary<C: Parser>(
    common: impl FnOnce(&C) -> &CommonFlags,
    run: impl FnOnce(&C) -> anyhow::Result<String>,
) -> ExitCode {
    silence_device_chooser();
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("leanvision=warn")).try_init();
    // Before the parser asks for what the listing does not need.
    if std::env::args_os().skip(1).any(|a| a == "--list-devices") {
        return end(devices().map_err(Into::into));
    }
    let flags = match C::try_parse() {
        Ok(flags) => flags,
        Err(e) => return refuse(&e),
    };
    if let Some(shell) = common(&flags).completions {
        let mut command = C::command();
        let name = command.get_name().to_string();
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, name, &mut text);
        return end(Ok(String::from_utf8_lossy(&text).trim_end().to_string()));
    }
    end(run(&flags))
}

/// Outside a desktop session, Mesa's device chooser prints errors about the session it looks for; there is nothing to
/// choose by then.
fn silence_device_chooser() {
    let unset = |name| std::env::var_os(name).is_none();
    if cfg!(target_os = "linux") && unset("XDG_RUNTIME_DIR") && unset("NODEVICE_SELECT") {
        #[expect(unsafe_code, reason = "the environment is a process-wide variable")]
        // SAFETY: a binary's main calls this first, before any other thread exists.
        unsafe {
            std::env::set_var("NODEVICE_SELECT", "1");
        }
    }
}

/// One adapter a line, with what `--device` takes.
fn devices() -> Result<String> {
    let devices = list_devices()?;
    if devices.is_empty() {
        // Opening one says what was looked for and how to get it.
        return Runtime::new(&DeviceChoice::default()).map(|runtime| runtime.profile().to_string());
    }
    let mut index = 0;
    let lines: Vec<String> = devices
        .iter()
        .enumerate()
        .map(|(i, device)| {
            index = if i > 0 && devices[i - 1].backend == device.backend { index + 1 } else { 0 };
            format!("{}:{index}  {} {device}", device.backend, device.kind)
        })
        .collect();
    Ok(lines.join("\n"))
}

/// What the parser says: help and version as they are, an error in one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return end(Ok(error.to_string().trim_end().to_string()));
    }
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        eprint!("{text}");
    } else {
        eprintln!("{line}; --help lists the flags");
    }
    ExitCode::from(2)
}

/// Prints figures to standard output, for a run that has more to say behind them.
///
/// # Errors
/// What the system says; a reader such as `head` that has seen enough is no failure.
pub fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// Prints what a run came to and gives its exit code.
fn end(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(text) => match print(&text) {
            Err(e) => {
                eprintln!("error: standard output: {e}");
                ExitCode::FAILURE
            }
            Ok(()) => ExitCode::SUCCESS,
        },
        Err(e) => {
            if let Some(Error::Interrupted { code, message }) =
                e.chain().find_map(|cause| cause.downcast_ref::<Error>())
            {
                eprintln!("{message}");
                return ExitCode::from(*code);
            }
            eprintln!("error: {e:#}");
            let bad_input = e.chain().find_map(|cause| cause.downcast_ref::<Error>()).is_some_and(Error::is_bad_input);
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}
