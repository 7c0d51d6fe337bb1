//! Compiles the seccomp filters in `seccomp/*.json` to BPF, and keeps the reason for each rule for
//! `airlock seccomp print`.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use seccompiler::{BpfProgram, TargetArch};
use serde::Deserialize;

/// The thread kinds: each has a file of its name, with a filter of its name.
const THREADS: [&str; 3] = ["vcpu", "vmm", "volume"];

/// Writes `seccomp.rs` to `out`: one `Filter` constant for each thread kind.
pub fn compile(directory: &Path, out: &Path) -> Result<(), String> {
    let mut source = String::new();
    for thread in THREADS {
        let path = directory.join(thread).with_extension("json");
        let json =
            fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let filter =
            filter_source(thread, &json).map_err(|error| format!("{}: {error}", path.display()))?;
        source.push_str(&filter);
    }
    let path = out.join("seccomp.rs");
    fs::write(&path, source).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// What `airlock seccomp print` shows of a filter file; seccompiler reads the rest.
#[derive(Deserialize)]
struct Described {
    mismatch_action: String,
    match_action: String,
    filter: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    syscall: String,
    comment: Option<String>,
    #[serde(default)]
    args: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    index: u8,
    op: serde_json::Value,
    val: u64,
    comment: Option<String>,
}

fn filter_source(thread: &str, json: &[u8]) -> Result<String, String> {
    let mut programs = seccompiler::compile_from_json(json, TargetArch::x86_64)
        .map_err(|error| error.to_string())?;
    let program = programs.remove(thread).ok_or("the file has no filter of its own name")?;
    let mut described: std::collections::HashMap<String, Described> =
        serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let described = described.remove(thread).ok_or("the file has no filter of its own name")?;
    if described.mismatch_action != "kill_process" || described.match_action != "allow" {
        return Err("a filter must allow what matches and kill the process for all else".to_owned());
    }

    let mut source = format!("pub(super) static {}: Filter = Filter {{\n", thread.to_uppercase());
    write_program(&mut source, &program);
    source.push_str("    rules: &[\n");
    for rule in &described.filter {
        let of_the_same_call =
            described.filter.iter().filter(|other| other.syscall == rule.syscall);
        if rule.args.is_empty() && of_the_same_call.count() > 1 {
            return Err(format!(
                "{}: a rule without conditions makes the others pointless",
                rule.syscall
            ));
        }
        let reason = rule
            .comment
            .as_deref()
            .ok_or_else(|| format!("{}: the rule gives no reason", rule.syscall))?;
        // Writing to a String cannot fail.
        let _ = write!(
            source,
            "        Rule {{ name: {:?}, reason: {reason:?}, conditions: &[",
            rule.syscall
        );
        for condition in &rule.args {
            let (operator, mask) = operator_source(&condition.op)?;
            let _ = write!(
                source,
                "Condition {{ argument: {}, operator: {operator:?}, mask: {mask:?}, value: {:#x}, name: {:?} }}, ",
                condition.index,
                condition.val,
                condition.comment.as_deref().unwrap_or(""),
            );
        }
        source.push_str("] },\n");
    }
    source.push_str("    ],\n};\n");
    Ok(source)
}

fn write_program(source: &mut String, program: &BpfProgram) {
    source.push_str("    program: &[\n");
    for step in program {
        let _ = writeln!(
            source,
            "        sock_filter {{ code: {:#x}, jt: {}, jf: {}, k: {:#x} }},",
            step.code, step.jt, step.jf, step.k,
        );
    }
    source.push_str("    ],\n");
}

/// seccompiler's operators, as they are written between an argument and a value.
fn operator_source(operator: &serde_json::Value) -> Result<(&'static str, Option<u64>), String> {
    if let Some(mask) = operator.get("masked_eq").and_then(serde_json::Value::as_u64) {
        return Ok(("==", Some(mask)));
    }
    Ok((
        match operator.as_str() {
            Some("eq") => "==",
            Some("ne") => "!=",
            Some("lt") => "<",
            Some("le") => "<=",
            Some("gt") => ">",
            Some("ge") => ">=",
            _ => return Err(format!("unknown operator {operator}")),
        },
        None,
    ))
}
