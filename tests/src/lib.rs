//! Whole-system tests: they run the `airlock` command as a user does, and look only at what a user
//! sees, that is output, error output, exit status, time, and what is left behind.
//!
//! Most of them are comparisons: a program runs on the host and then in a microVM, and the two runs
//! have to look the same. So few tests say what Linux does; Linux says it.
//!
//! * [`command`]: runs a command with a time limit, and sees what it leaves behind
//! * [`comparison`]: runs a program on the host and in a microVM
//! * [`harness`]: names, filters, parallel runs, the report
//! * [`suite`]: the tests, by subject
//!
//! The tests are one static executable without any need for cargo or a library, because they also
//! run inside an emulated machine that has nothing else (`scripts/emulated-kvm`).

pub mod command;
pub mod comparison;
pub mod harness;
pub mod suite;
