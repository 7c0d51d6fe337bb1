//! Builds what the `airlock` executable carries inside: the guest kernel, the guest programs, and
//! the seccomp filters of its own threads.

mod guest;
mod kernel;
mod seccomp;

use std::env;
use std::path::PathBuf;

fn main() {
    if let Err(message) = build() {
        eprintln!("{message}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let workspace = manifest.parent().ok_or("the vmm package is not in a workspace")?;

    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=seccomp");
    seccomp::compile(&manifest.join("seccomp"), &out)?;

    for path in
        ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo", "guest-kernel", "guest-init"]
    {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    let kernel = guest::KERNEL.build(workspace, &out)?;
    kernel::embed(&kernel, &out)?;
    guest::TOUR.build(workspace, &out)?;
    Ok(())
}

/// An environment variable that cargo sets for build scripts.
fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cannot read the environment variable {name}: {error}"))
}
