//! What CPUID tells each vCPU: what KVM supports, with the topology of this machine.
//!
//! The topology is one package of as many single-threaded cores as there are vCPUs, which share the
//! last-level cache. Leaf numbers and fields are those of SDM volume 2, CPUID, and, for leaves from
//! 0x8000_0000 on, of AMD's manual volume 3, appendix E.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const LEAF_FEATURES: u32 = 0x1;
const LEAF_CACHES: u32 = 0x4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const FEATURES_ECX_X2APIC: u32 = 1 << 21;
const FEATURES_ECX_TSC_DEADLINE: u32 = 1 << 24;
const FEATURES_ECX_HYPERVISOR: u32 = 1 << 31;
const FEATURES_EDX_HTT: u32 = 1 << 28;
/// Level types of the topology leaves.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;
/// Cache level that all cores share.
const LAST_LEVEL: u32 = 3;

/// Replaces the bits from `low` on, `width` of them, with `value`.
fn set_bits(register: &mut u32, low: u32, width: u32, value: u32) {
    let mask = ((1 << width) - 1) << low;
    *register = *register & !mask | value << low & mask;
}

/// The leaves for the vCPU with this index among `cpus`.
///
/// `tsc_deadline` says that KVM's local APIC has the TSC-deadline timer, which the list of
/// supported leaves leaves to the VMM to announce.
pub fn for_vcpu(
    supported: &[kvm_cpuid_entry2],
    index: u8,
    cpus: u8,
    tsc_deadline: bool,
) -> Vec<kvm_cpuid_entry2> {
    let id = u32::from(index);
    let count = u32::from(cpus);
    let topology =
        |leaf: &kvm_cpuid_entry2| matches!(leaf.function, LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2);
    let mut leaves: Vec<_> = supported.iter().filter(|leaf| !topology(leaf)).copied().collect();
    for leaf in &mut leaves {
        match leaf.function {
            LEAF_FEATURES => {
                set_bits(&mut leaf.ebx, 24, 8, id);
                set_bits(&mut leaf.ebx, 16, 8, count);
                leaf.ecx |= FEATURES_ECX_X2APIC | FEATURES_ECX_HYPERVISOR;
                if tsc_deadline {
                    leaf.ecx |= FEATURES_ECX_TSC_DEADLINE;
                }
                leaf.edx &= !FEATURES_EDX_HTT;
                if count > 1 {
                    leaf.edx |= FEATURES_EDX_HTT;
                }
            }
            LEAF_CACHES | LEAF_AMD_CACHES if leaf.eax & 0x1f != 0 => {
                let shared = leaf.eax >> 5 & 7 == LAST_LEVEL;
                set_bits(&mut leaf.eax, 14, 12, if shared { count - 1 } else { 0 });
                if leaf.function == LEAF_CACHES {
                    set_bits(&mut leaf.eax, 26, 6, (count - 1).min(63));
                }
            }
            // Zero on Intel's processors, which describe the same elsewhere.
            LEAF_AMD_SIZES if leaf.ecx != 0 => {
                set_bits(&mut leaf.ecx, 0, 8, count - 1);
                set_bits(&mut leaf.ecx, 12, 4, u8::BITS);
            }
            LEAF_AMD_TOPOLOGY => {
                leaf.eax = id;
                leaf.ebx = id;
                leaf.ecx = 0;
            }
            _ => {}
        }
    }
    for function in [LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2] {
        if supported.iter().any(|leaf| leaf.function == function) {
            leaves.extend(topology_leaves(function, id, count));
        }
    }
    leaves
}

/// Subleaves of a topology leaf: threads, cores, and the end of the list.
fn topology_leaves(function: u32, id: u32, count: u32) -> [kvm_cpuid_entry2; 3] {
    // How far to shift an x2APIC id to leave the levels up to this one behind.
    let core_bits = count.next_power_of_two().trailing_zeros();
    [(0, 1, LEVEL_THREAD), (core_bits, count, LEVEL_CORE), (0, 0, 0)].map(
        |(shift, processors, level)| {
            let subleaf = match level {
                LEVEL_THREAD => 0,
                LEVEL_CORE => 1,
                _ => 2,
            };
            kvm_cpuid_entry2 {
                function,
                index: subleaf,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax: shift,
                ebx: processors,
                ecx: level << 8 | subleaf,
                edx: id,
                ..kvm_cpuid_entry2::default()
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, ..kvm_cpuid_entry2::default() }
    }

    fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found =
            leaves.iter().filter(|leaf| (leaf.function, leaf.index) == (function, index));
        let leaf = *found.next().expect("the leaf exists");
        assert!(found.next().is_none(), "the leaf exists once");
        leaf
    }

    #[test]
    fn each_vcpu_has_its_own_id() {
        let supported = [leaf(0x1, 0), leaf(0xb, 0), leaf(0x8000_001e, 0)];
        for index in [0, 1, 5] {
            let leaves = for_vcpu(&supported, index, 6, false);
            assert_eq!(find(&leaves, 0x1, 0).ebx >> 24, u32::from(index));
            assert_eq!(find(&leaves, 0xb, 0).edx, u32::from(index));
            assert_eq!(find(&leaves, 0xb, 1).edx, u32::from(index));
            assert_eq!(find(&leaves, 0x8000_001e, 0).eax, u32::from(index));
        }
    }

    #[test]
    fn topology_covers_all_vcpus_and_ends() {
        let leaves = for_vcpu(&[leaf(0xb, 0), leaf(0xb, 1)], 0, 6, false);
        assert_eq!((find(&leaves, 0xb, 0).eax, find(&leaves, 0xb, 0).ebx), (0, 1));
        assert_eq!((find(&leaves, 0xb, 1).eax, find(&leaves, 0xb, 1).ebx), (3, 6));
        assert_eq!(find(&leaves, 0xb, 2).ebx, 0);
        assert!(
            !leaves.iter().any(|leaf| leaf.function == 0x1f),
            "a leaf that KVM lacks is not made up"
        );
    }

    #[test]
    fn one_vcpu_is_not_multithreaded() {
        let mut features = leaf(0x1, 0);
        features.edx = FEATURES_EDX_HTT;
        assert_eq!(find(&for_vcpu(&[features], 0, 1, false), 0x1, 0).edx & FEATURES_EDX_HTT, 0);
        assert_ne!(find(&for_vcpu(&[features], 0, 2, false), 0x1, 0).edx & FEATURES_EDX_HTT, 0);
    }

    #[test]
    fn timer_is_announced_only_if_kvm_has_it() {
        let ecx = |tsc_deadline| find(&for_vcpu(&[leaf(0x1, 0)], 0, 1, tsc_deadline), 0x1, 0).ecx;
        assert_eq!(ecx(false) & FEATURES_ECX_TSC_DEADLINE, 0);
        assert_ne!(ecx(true) & FEATURES_ECX_TSC_DEADLINE, 0);
        assert_ne!(ecx(false) & FEATURES_ECX_HYPERVISOR, 0);
    }

    #[test]
    fn last_level_cache_is_shared_and_others_are_not() {
        let mut first = leaf(0x4, 0);
        first.eax = 1 << 5 | 1 | 0xfff << 14;
        let mut last = leaf(0x4, 3);
        last.eax = 3 << 5 | 3 | 0xfff << 14;
        let leaves = for_vcpu(&[first, last], 0, 4, false);
        assert_eq!(find(&leaves, 0x4, 0).eax >> 14 & 0xfff, 0);
        assert_eq!(find(&leaves, 0x4, 3).eax >> 14 & 0xfff, 3);
        assert_eq!(find(&leaves, 0x4, 3).eax >> 26, 3);
    }
}
