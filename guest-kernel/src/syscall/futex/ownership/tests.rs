use super::*;

type Locks = Ownership<u32, &'static str>;

const NORMAL: u8 = 101;

fn next(locks: &Locks, key: u32) -> Option<Pid> {
    locks.next(key).map(|(tid, _)| tid)
}

#[test]
fn locks_go_to_waiters_by_class_and_then_by_arrival() {
    let mut locks = Locks::new();
    locks.block(7, Some(1), 2, NORMAL, "two").unwrap();
    locks.block(7, Some(1), 3, 50, "three").unwrap();
    locks.block(7, Some(1), 4, NORMAL, "four").unwrap();
    locks.block(7, Some(1), 5, 50, "five").unwrap();
    let mut order = Vec::new();
    while let Some(handle) = locks.hand_over(7) {
        order.push(handle);
    }
    assert_eq!(order, ["three", "five", "two", "four"]);
    assert!(!locks.is_contended(7));
    assert!(locks.blocked.is_empty());
}

#[test]
fn the_next_one_owns_a_lock_that_is_handed_over() {
    let mut locks = Locks::new();
    locks.block(7, Some(1), 2, NORMAL, "two").unwrap();
    locks.block(7, Some(1), 3, NORMAL, "three").unwrap();
    assert_eq!(locks.owner(7), Some(Some(1)));
    assert_eq!(locks.hand_over(7), Some("two"));
    assert_eq!(locks.owner(7), Some(Some(2)));
    // Who waits later does not change that.
    locks.block(7, Some(9), 4, NORMAL, "four").unwrap();
    assert_eq!(locks.owner(7), Some(Some(2)));
}

#[test]
fn cycles_are_refused_and_leave_nothing_behind() {
    let mut locks = Locks::new();
    assert_eq!(locks.block(1, Some(10), 10, NORMAL, ""), Err(Errno::EDEADLK));
    assert!(!locks.is_contended(1));
    // 11 waits for 10, 12 for 11, 13 for 12; 10 must not wait for 13, nor for 11.
    locks.block(1, Some(10), 11, NORMAL, "").unwrap();
    locks.block(2, Some(11), 12, NORMAL, "").unwrap();
    locks.block(3, Some(12), 13, NORMAL, "").unwrap();
    assert_eq!(locks.block(4, Some(13), 10, NORMAL, ""), Err(Errno::EDEADLK));
    assert_eq!(locks.block(2, Some(11), 10, NORMAL, ""), Err(Errno::EDEADLK));
    assert!(!locks.is_contended(4));
    // Another may, and 10 may wait for what no one of them owns.
    locks.block(4, Some(13), 14, NORMAL, "").unwrap();
    locks.block(5, Some(20), 10, NORMAL, "").unwrap();
    // Now 20 is at the end of the chain.
    assert_eq!(locks.block(4, Some(13), 20, NORMAL, ""), Err(Errno::EDEADLK));
    // The chain breaks where a waiter gives up.
    assert_eq!(locks.give_up(3, 13), None);
    locks.block(4, Some(13), 20, NORMAL, "").unwrap();
}

#[test]
fn long_chains_count_as_cycles() {
    let mut locks = Locks::new();
    for number in 1..=1024 {
        locks.block(number, Some(number.cast_signed()), number.cast_signed() + 1, 0, "").unwrap();
    }
    let far = 5000;
    assert_eq!(locks.block(9999, Some(1025), far, 0, ""), Err(Errno::EDEADLK));
    locks.block(9999, Some(1000), far, 0, "").unwrap();
}

#[test]
fn who_is_next_inherits_from_the_dead() {
    let mut locks = Locks::new();
    locks.block(1, Some(10), 11, NORMAL, "eleven").unwrap();
    locks.block(1, Some(10), 12, NORMAL, "twelve").unwrap();
    locks.block(2, Some(10), 13, NORMAL, "thirteen").unwrap();
    locks.block(3, Some(20), 14, NORMAL, "fourteen").unwrap();
    assert!(!locks.inherit(1, 11));
    let mut heirs: Vec<&str> = Vec::new();
    while let Some(heir) = locks.abandon(10) {
        heirs.push(heir);
    }
    heirs.sort_unstable();
    assert_eq!(heirs, ["eleven", "thirteen"]);
    assert_eq!(locks.owner(1), Some(None));
    assert_eq!(locks.owner(3), Some(Some(20)));
    assert!(!locks.inherit(1, 12));
    // The first gives up: the second is told.
    assert_eq!(locks.give_up(1, 11), Some(&"twelve"));
    assert!(locks.inherit(1, 12));
    assert!(!locks.is_contended(1));
    assert!(locks.inherit(2, 13));
}

#[test]
fn random_operations_agree_with_a_plain_model() {
    // By lock: the owner, and who waits in which class, in the order of arrival.
    type Model = alloc::collections::BTreeMap<u32, (Option<Pid>, Vec<(u8, Pid)>)>;
    fn first(waiters: &[(u8, Pid)]) -> Option<usize> {
        let best = waiters.iter().map(|&(class, _)| class).min()?;
        waiters.iter().position(|&(class, _)| class == best)
    }
    fn cycle(model: &Model, mut owner: Option<Pid>, tid: Pid) -> bool {
        while let Some(at) = owner {
            if at == tid {
                return true;
            }
            let waits = model.values().find(|lock| lock.1.iter().any(|&(_, one)| one == at));
            owner = waits.and_then(|lock| lock.0);
        }
        false
    }
    let mut numbers = crate::numbers::Random(0x1234_5678_9abc_def1);
    let mut random = |below: u64| u32::try_from(numbers.below(below)).unwrap();
    let mut locks = Locks::new();
    let mut model = Model::new();
    let mut refused = 0;
    for _ in 0..200_000 {
        let key = random(6);
        let tid = random(12).cast_signed() + 1;
        let owner = random(12).cast_signed() + 1;
        let class = u8::try_from(random(3)).unwrap();
        match random(5) {
            0 | 1 if !model.values().any(|lock| lock.1.iter().any(|&(_, one)| one == tid)) => {
                let owner = model.get(&key).map_or(Some(owner), |lock| lock.0);
                let expected = !cycle(&model, owner, tid);
                assert_eq!(locks.block(key, owner, tid, class, "").is_ok(), expected);
                if expected {
                    model.entry(key).or_insert((owner, Vec::new())).1.push((class, tid));
                } else {
                    refused += 1;
                }
            }
            2 => {
                let handed = locks.hand_over(key).is_some();
                assert_eq!(handed, model.contains_key(&key));
                if let Some(lock) = model.get_mut(&key) {
                    let at = first(&lock.1).unwrap();
                    lock.0 = Some(lock.1.remove(at).1);
                }
            }
            3 => {
                locks.give_up(key, tid);
                if let Some(lock) = model.get_mut(&key) {
                    lock.1.retain(|&(_, one)| one != tid);
                }
            }
            4 => {
                while locks.abandon(owner).is_some() {}
                for lock in model.values_mut().filter(|lock| lock.0 == Some(owner)) {
                    lock.0 = None;
                }
            }
            _ => {}
        }
        model.retain(|_, lock| !lock.1.is_empty());
        for key in 0..6 {
            let lock = model.get(&key);
            assert_eq!(locks.owner(key), lock.map(|lock| lock.0));
            let expected = lock.and_then(|lock| Some(lock.1[first(&lock.1)?].1));
            assert_eq!(next(&locks, key), expected);
        }
    }
    assert!(refused > 100, "only {refused} cycles");
}

#[test]
fn owners_inherit_from_the_first_of_all_their_waiters() {
    let mut locks = Locks::new();
    assert_eq!(locks.inherited(1, NORMAL), NORMAL);
    locks.block(7, Some(1), 2, 60, "").unwrap();
    locks.block(8, Some(1), 3, 50, "").unwrap();
    locks.block(8, Some(1), 4, 40, "").unwrap();
    assert_eq!(locks.inherited(1, NORMAL), 40);
    // The next owner has only those behind it.
    locks.hand_over(8);
    assert_eq!([locks.inherited(1, NORMAL), locks.inherited(4, NORMAL)], [60, 50]);
    locks.give_up(8, 3);
    assert_eq!(locks.inherited(4, NORMAL), NORMAL);
    // A dead owner inherits nothing.
    locks.abandon(1);
    assert_eq!(locks.inherited(1, NORMAL), NORMAL);
}

#[test]
fn a_changed_class_goes_along_the_chain() {
    let mut locks = Locks::new();
    // 12 waits for 11, 11 for 10.
    locks.block(1, Some(10), 11, NORMAL, "").unwrap();
    locks.block(1, Some(10), 13, NORMAL, "").unwrap();
    locks.block(2, Some(11), 12, 30, "").unwrap();
    assert_eq!(locks.inherited(11, NORMAL), 30);
    assert_eq!(locks.change_class(11, 30), Some(10));
    assert_eq!(locks.inherited(10, NORMAL), 30);
    assert_eq!(next(&locks, 1), Some(11));
    // What is no news ends the chain, as does who waits for nothing.
    assert_eq!(locks.change_class(11, 30), None);
    assert_eq!(locks.change_class(10, 30), None);
    // Back again, behind its equals.
    assert_eq!(locks.change_class(11, NORMAL), Some(10));
    assert_eq!(next(&locks, 1), Some(13));
    // A higher class overtakes.
    assert_eq!(locks.change_class(11, 20), Some(10));
    assert_eq!((next(&locks, 1), locks.inherited(10, NORMAL)), (Some(11), 20));
}
