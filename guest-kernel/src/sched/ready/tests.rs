use super::{FAIR, Rank, ReadyQueue};
use crate::numbers::Random;
use crate::sched::task::weight;

/// Against a list that is searched from end to end.
#[test]
fn gives_back_each_once_and_in_order() {
    let mut random = Random(3);
    let mut queue = ReadyQueue::new();
    let mut model: Vec<(Rank, usize)> = Vec::new();
    let mut least = 0_u64;
    for number in 0..20_000 {
        match random.below(6) {
            0..3 if model.len() < 50 => {
                let class = random.one_of(&[FAIR, FAIR, 1, 50, 90]);
                let rank = Rank { class, time: least.saturating_sub(10) + random.below(30) };
                let mut begun = None;
                queue.add(rank, number, |_, time| begun = Some(time));
                let fair = class == FAIR;
                let time = if fair { rank.time.max(least) } else { rank.time };
                assert_eq!(begun, fair.then_some(time));
                model.push((Rank { class, time }, number));
            }
            3 => {
                let n = 1 + random.index(4);
                let fits = |number: &usize| number.is_multiple_of(n);
                let first = model.iter().copied().filter(|one| fits(&one.1)).min();
                assert_eq!(queue.take_which(fits), first.map(|(_, number)| number));
                model.retain(|one| Some(one.1) != first.map(|first| first.1));
            }
            _ => {
                let first = model.iter().copied().min();
                assert_eq!(queue.take(), first.map(|(_, number)| number));
                if let Some((rank, _)) = first.filter(|first| first.0.class == FAIR) {
                    least = least.max(rank.time);
                }
                model.retain(|one| Some(one.1) != first.map(|first| first.1));
            }
        }
        assert_eq!(queue.len(), model.len());
        assert_eq!(queue.least_time(), least);
        let last = model.iter().map(|(rank, _)| rank.time).max();
        assert_eq!(queue.last_time(), last.unwrap_or(0));
    }
}

/// Threads that always want to run get time by their weights, whatever their slices are; and one that sleeps for
/// a while is neither starved when it comes back, nor does it starve the others.
#[test]
fn shares_are_fair() {
    const LONGEST: u64 = 1000;
    let mut random = Random(5);
    for round in 0..100 {
        let sleeps = round % 2 == 1;
        let count = 2 + random.index(5);
        let weights: Vec<u64> = (0..count)
            .map(|_| weight(i32::try_from(random.below(20)).expect("small") - 10))
            .collect();
        let (mut ran, mut times) = (vec![0_u64; count], vec![0_u64; count]);
        let mut queue = ReadyQueue::new();
        for index in 0..count {
            queue.add(Rank { class: FAIR, time: 0 }, index, |_, _| {});
        }
        for turn in 0..3000 {
            if sleeps && turn == 1000 {
                assert_eq!(queue.take_which(|&index| index == 0), Some(0));
            }
            if sleeps && turn == 2000 {
                let rank = Rank { class: FAIR, time: times[0] };
                queue.add(rank, 0, |_, time| times[0] = time);
            }
            let next = queue.take().expect("all others are ready");
            let slice = 1 + random.below(LONGEST);
            ran[next] += slice;
            times[next] += slice * 1024 / weights[next];
            queue.add(Rank { class: FAIR, time: times[next] }, next, |_, _| {});
        }
        // In virtual time, nobody is further from another than by two turns of the lightest.
        let furthest = LONGEST * 1024 / weights.iter().min().expect("some") * 2;
        let (least, most) = (times.iter().min().expect("some"), times.iter().max().expect("some"));
        assert!(most - least <= furthest, "{weights:?}: {times:?}");
        // And that is the time that it ran, by weight, but for what rounding loses.
        for index in usize::from(sleeps)..count {
            let fair = ran[index] * 1024 / weights[index];
            assert!(times[index] <= fair && fair - times[index] <= 3000, "{weights:?}: {ran:?}");
        }
    }
}

#[test]
fn real_time_goes_before_fair() {
    let mut queue = ReadyQueue::new();
    queue.add(Rank { class: FAIR, time: 0 }, "fair", |_, _| {});
    queue.add(Rank { class: 90, time: 0 }, "priority 11", |_, _| {});
    queue.add(Rank { class: 2, time: 0 }, "priority 99", |_, _| {});
    queue.add(Rank { class: 90, time: 0 }, "priority 11, later", |_, _| {});
    let order: Vec<_> = core::iter::from_fn(|| queue.take()).collect();
    assert_eq!(order, ["priority 99", "priority 11", "priority 11, later", "fair"]);
}
