//! CPUID, as the VMM says that it is.

use crate::sync::SpinLock;
use airlock_abi::boot::CpuidLeaf;

/// What the VMM says that CPUID says, if it does: on host B the instruction in ring 0 tells of the
/// host's processor.
static LEAVES: SpinLock<&'static [CpuidLeaf]> = SpinLock::new(&[]);

/// Takes over the VMM's list.
pub fn set_cpuid(leaves: &'static [CpuidLeaf]) {
    *LEAVES.lock() = leaves;
}

/// What CPUID says (SDM volume 2A): EAX, EBX, ECX and EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let leaves = *LEAVES.lock();
    if leaves.is_empty() {
        let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        return [answer.eax, answer.ebx, answer.ecx, answer.edx];
    }
    leaves
        .iter()
        .find(|entry| entry.leaf == leaf && (entry.indexed == 0 || entry.subleaf == subleaf))
        .map_or([0; 4], |entry| entry.answer)
}
