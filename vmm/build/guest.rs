//! Builds packages of this workspace for the guest, with a cargo of their own.
//!
//! The guest's target and profile differ from those of the build that this script is part of, so
//! the inner cargo gets its own target directory (the outer one holds the lock of its own), and
//! none of the variables that tell the outer build what to do.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::variable;

/// An executable of this workspace that runs in the guest.
pub struct GuestProgram {
    package: &'static str,
    binary: &'static str,
    profile: &'static str,
    target: &'static str,
    /// The crates to build where the toolchain has none for the target (cargo's `-Zbuild-std`).
    standard_library: &'static str,
}

/// The guest kernel.
pub const KERNEL: GuestProgram = GuestProgram {
    package: "guest-kernel",
    binary: "guest-kernel",
    profile: "kernel",
    target: "x86_64-unknown-none",
    standard_library: "core,alloc",
};

/// The program that runs when the user names none.
pub const TOUR: GuestProgram = GuestProgram {
    package: "guest-init",
    binary: "tour",
    profile: "guest-program",
    target: "x86_64-unknown-linux-musl",
    standard_library: "std,panic_abort",
};

impl GuestProgram {
    /// Builds the program below `out`, copies it there under its own name, and returns that path.
    pub fn build(&self, workspace: &Path, out: &Path) -> Result<PathBuf, String> {
        // Debian's toolchain has no such target; with this variable the user says that the outer
        // build makes its standard library from source, and so must this one.
        let from_source = env::var_os("CARGO_UNSTABLE_BUILD_STD").is_some();
        if !from_source {
            self.check_target()?;
        }

        let target_directory = out.join(self.package);
        let mut cargo = Command::new(variable("CARGO")?);
        cargo.current_dir(workspace);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(directs_the_outer_build) {
                cargo.env_remove(name);
            }
        }
        cargo.args(["build", "--locked", "--package", self.package, "--bin", self.binary]);
        cargo.args(["--profile", self.profile, "--target", self.target]);
        cargo.args(["--jobs", &variable("NUM_JOBS")?]);
        cargo.arg("--target-dir").arg(&target_directory);
        if from_source {
            cargo.arg(format!("-Zbuild-std={}", self.standard_library));
        }

        let output = cargo
            .output()
            .map_err(|error| format!("cannot start cargo for {}: {error}", self.package))?;
        if !output.status.success() {
            return Err(format!(
                "{}\ncannot build {} for {}: cargo ended with {}",
                String::from_utf8_lossy(&output.stderr),
                self.binary,
                self.target,
                output.status,
            ));
        }
        let built = target_directory.join(self.target).join(self.profile).join(self.binary);
        let copy = out.join(format!("{}.elf", self.binary));
        std::fs::copy(&built, &copy).map_err(|error| {
            format!("cannot copy {} to {}: {error}", built.display(), copy.display())
        })?;
        Ok(copy)
    }

    /// Fails with the remedy if the toolchain cannot compile for the target; cargo's own message
    /// ("can't find crate for `core`") is about the first crate that happens to be compiled.
    fn check_target(&self) -> Result<(), String> {
        let rustc = variable("RUSTC")?;
        let output = Command::new(&rustc)
            .args(["--print", "target-libdir", "--target", self.target])
            .output()
            .map_err(|error| format!("cannot start {rustc}: {error}"))?;
        let directory = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && Path::new(directory.trim_end()).is_dir() {
            return Ok(());
        }
        Err(format!(
            "the Rust target {target} is not installed, and {binary} is built for it: rustup target add {target}",
            target = self.target,
            binary = self.binary,
        ))
    }
}

/// Whether a variable says what the outer cargo builds, and how. Where cargo and rustup live, and how
/// they reach a registry, stays.
fn directs_the_outer_build(name: &str) -> bool {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRY_",
        "CARGO_REGISTRIES_",
        "CARGO_SOURCE_",
    ];
    const DIRECTING: [&str; 6] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CLIPPY_", "MIRI"];
    const EXACT: [&str; 10] = [
        "TARGET",
        "HOST",
        "OUT_DIR",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "MAKEFLAGS",
        "MFLAGS",
        "LD_LIBRARY_PATH",
    ];
    if name == "RUSTC_BOOTSTRAP" || KEPT.iter().any(|kept| name.starts_with(kept)) {
        return false;
    }
    EXACT.contains(&name) || DIRECTING.iter().any(|prefix| name.starts_with(prefix))
}
