//! The outer door's own lock: which system calls each of Airlock's threads may make.
//!
//! The rules are in `seccomp/*.json`, with the reason for each, and become BPF when Airlock is built. A call that no rule allows ends the process by SIGSYS (status 159 in a
//! shell): by then the guest may have taken over the thread, and nothing it asks for can be trusted.

use std::fmt;

use seccompiler::sock_filter;

include!(concat!(env!("OUT_DIR"), "/seccomp.rs"));

/// A kind of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Runs guest code, and what its exits ask for.
    Vcpu,
    /// Handles devices, signals and the time limit; what `main` runs on.
    Vmm,
    /// Serves a shared directory, in a process of its own.
    Volume,
}

impl Thread {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Vcpu, Self::Vmm, Self::Volume];

    /// The name of the thread kind, of its file and of its filter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Vmm => "vmm",
            Self::Volume => "volume",
        }
    }

    /// What the thread may do.
    pub fn filter(self) -> &'static Filter {
        match self {
            Self::Vcpu => &VCPU,
            Self::Vmm => &VMM,
            Self::Volume => &VOLUME,
        }
    }
}

/// The rules for one kind of thread.
pub struct Filter {
    program: &'static [sock_filter],
    rules: &'static [Rule],
}

/// One system call, possibly with certain arguments only, that a thread may make.
struct Rule {
    name: &'static str,
    reason: &'static str,
    conditions: &'static [Condition],
}

/// What an argument has to be.
struct Condition {
    argument: u8,
    operator: &'static str,
    mask: Option<u64>,
    value: u64,
    name: &'static str,
}

impl Filter {
    /// Names of the system calls that the filter lets through, each once, in the order of the file.
    pub fn system_calls(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for rule in self.rules {
            if !names.contains(&rule.name) {
                names.push(rule.name);
            }
        }
        names
    }
}

/// Restricts the calling thread, for good, to the system calls of its kind.
///
/// # Errors
///
/// If the host's kernel does not have seccomp, or refuses a filter.
pub fn restrict(thread: Thread) -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter(thread.filter().program)
}

impl fmt::Display for Filter {
    /// A line for each rule: the call, what its arguments have to be, and the reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls: Vec<String> = self.rules.iter().map(ToString::to_string).collect();
        let width = calls.iter().map(String::len).max().unwrap_or(0);
        for (call, rule) in calls.iter().zip(self.rules) {
            writeln!(f, "  {call:width$}  {}", rule.reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        for (index, condition) in self.conditions.iter().enumerate() {
            f.write_str(if index == 0 { "(" } else { ", " })?;
            condition.fmt(f)?;
        }
        f.write_str(if self.conditions.is_empty() { "" } else { ")" })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mask, self.name) {
            // What some bits have to be has a name, and the bits alone say nothing.
            (Some(_), name) if !name.is_empty() => f.write_str(name),
            (mask, name) => {
                write!(f, "arg{}", self.argument)?;
                if let Some(mask) = mask {
                    write!(f, " & {mask:#x}")?;
                }
                write!(f, " {} ", self.operator)?;
                if name.is_empty() { write!(f, "{:#x}", self.value) } else { f.write_str(name) }
            }
        }
    }
}

#[cfg(test)]
mod tests;
