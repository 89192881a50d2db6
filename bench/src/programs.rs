//! The contenders that are programs of their own: the limits probe, some peers and Python. What cannot run is left out, and said.

use crate::area::{Area, Python};
use crate::lines;
use crate::options::{Options, Pin, home, target_dir};
use crate::record::Sink;
use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long one program may take.
fn patience(options: &Options) -> Duration {
    Duration::from_secs(if options.quick { 60 } else { 300 })
}

/// Builds the limits probe and runs its part of `area`.
pub fn limits(area: &Area, options: &Options, sink: &mut Sink) -> Result<()> {
    build_and_run("limits", area.limits, &format!("limits of {}", area.name), options, sink)
}

/// Builds the peers of `area` that are programs of their own, and runs them.
pub fn peers(area: &Area, options: &Options, sink: &mut Sink) -> Result<()> {
    area.peers.iter().try_for_each(|peer| build_and_run(peer, area.name, peer, options, sink))
}

/// Builds the package in `folder`, which is a workspace of its own, and runs its program, which has the same name.
fn build_and_run(folder: &str, only: &str, what: &str, options: &Options, sink: &mut Sink) -> Result<()> {
    let target = target_dir().join(folder);
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        // As this program is built.
        .envs([("CARGO_PROFILE_RELEASE_LTO", "fat"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")])
        .args(["build", "--quiet", "--release", "--manifest-path"])
        .arg(home().join(folder).join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cannot start cargo")?;
    if !built.success() {
        sink.leave_out(format!("{what}: it does not build ({built})"));
        return Ok(());
    }
    let mut probe = Command::new(target.join("release").join(folder));
    probe.args(["--only", only]);
    run(probe, what, options, sink);
    Ok(())
}

/// Runs the Python scripts of `area`.
pub fn python(area: &Area, options: &Options, sink: &mut Sink) -> Result<()> {
    for script in area.python {
        let what = format!("python {} {}", script.module, script.args.join(" "));
        if let Err(reason) = importable(script) {
            sink.leave_out(format!("{what}: {reason:#}"));
            continue;
        }
        if script.script == "bench_pools.py" && options.pin != Pin::None {
            sink.leave_out(format!("{what}: cannot be pinned"));
            continue;
        }
        let mut python = Command::new("python3");
        python
            .arg(home().join("peers").join(script.script))
            .args(["--module", script.name()])
            .args(script.args);
        // Python keeps no cache beside its scripts: the source tree stays clean.
        python.env("PYTHONDONTWRITEBYTECODE", "1");
        run(python, &what, options, sink);
    }
    Ok(())
}

fn importable(script: &Python) -> Result<()> {
    let output = Command::new("python3")
        .args(["-c", &format!("import {}", script.module)])
        .stdin(Stdio::null())
        .output()
        .context("cannot start python3")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", stderr.lines().last().unwrap_or("not importable"));
    Ok(())
}

fn run(mut command: Command, what: &str, options: &Options, sink: &mut Sink) {
    command.args(["--reps", &options.runs().to_string(), "--scale", &options.scale().to_string()]);
    if options.pin != Pin::None {
        command.args(["--pin", options.pin.name()]);
    }
    if let Err(error) = lines::read(command, patience(options), |line| sink.add_line(line)) {
        sink.leave_out(format!("{what}: {error:#}"));
    }
}
