//! `docs/syscalls.md` says what the list says.

#[path = "../examples/syscalls-table.rs"]
mod table;

#[test]
fn the_table_of_system_calls_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/syscalls.md");
    let file = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        file == table::document(),
        "run scripts/generate-docs: docs/syscalls.md is not up to date"
    );
}
