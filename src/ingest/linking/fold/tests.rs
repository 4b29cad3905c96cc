//! The rules one by one, and what must hold of every set of statements.

use super::*;
use proptest::prelude::*;

/// `mrns` as `system|value`; `person` as `family given birth-date`, `-` for nothing.
fn said(seq: i64, identity: &str, mrns: &[&str], person: &str) -> Said {
    let mut words = person.split(' ').map(|word| (word != "-" && !word.is_empty()).then(|| word.to_owned()));
    let mut next = || words.next().flatten();
    let numbers: BTreeSet<Mrn> = mrns
        .iter()
        .map(|mrn| mrn.split_once('|').unwrap())
        .map(|(system, value)| Mrn { system: system.to_owned(), value: value.to_owned() })
        .collect();
    Said {
        id: StatementId(uuid::Uuid::from_u128(seq.unsigned_abs().into())),
        fingerprint: format!("{numbers:?}{identity}{person}{mrns:?}").into_bytes(),
        place: (seq, 0),
        numbers,
        identity: (!identity.is_empty()).then(|| identity.to_owned()),
        replaces: BTreeSet::new(),
        replaced_by: BTreeSet::new(),
        person: Demographics {
            family: next(),
            given: next().into_iter().collect(),
            birth_date: next(),
            ..Demographics::default()
        },
    }
}

fn words(said: &[Said], rulings: &Rulings) -> Vec<String> {
    let folded = fold(said, rulings);
    let word = |placement: &Placement| match placement {
        Placement::Linked(group, _) => group.to_string(),
        Placement::Pending => "pending".to_owned(),
        Placement::Review(reason) => (*reason).to_owned(),
        Placement::Rejected => "rejected".to_owned(),
    };
    folded.placements.iter().map(word).collect()
}

#[test]
fn rules_one_by_one() {
    let (amy, bea, later) = ("shaw amy 1987-02-20", "baxter bea 1987-02-20", "shaw amy 1990-01-01");
    for (name, given, expected) in [
        ("one number", vec![said(1, "a", &["h|1"], amy), said(2, "b", &["h|1"], amy)], vec!["0", "0"]),
        ("one id", vec![said(1, "a", &[], amy), said(2, "a", &["h|1"], amy)], vec!["0", "0"]),
        ("another system", vec![said(1, "a", &["h|1"], amy), said(2, "b", &["g|1"], amy)], vec!["0", "1"]),
        ("leading zero", vec![said(1, "a", &["h|1"], amy), said(2, "b", &["h|01"], amy)], vec!["0", "1"]),
        ("birth date", vec![said(1, "a", &["h|1"], amy), said(2, "b", &["h|1"], later)], vec!["0", "birth_date"]),
        ("name", vec![said(1, "a", &["h|1"], amy), said(2, "b", &["h|1"], bea)], vec!["0", "name"]),
        ("less precise", vec![said(1, "a", &["h|1"], amy), said(2, "b", &["h|1"], "shaw amy 1987")], vec!["0", "0"]),
        ("renumbered", vec![said(1, "a", &["h|1"], amy), said(2, "a", &["h|2"], amy)], vec!["0", "mrn_changed"]),
        (
            "other numbers of one system through another",
            vec![said(1, "a", &["h|1", "g|9"], amy), said(2, "b", &["h|2", "g|9"], amy)],
            vec!["0", "mrn_changed"],
        ),
        (
            "two patients joined too late",
            vec![said(1, "a", &["h|1"], amy), said(2, "b", &["g|2"], amy), said(3, "c", &["h|1", "g|2"], amy)],
            vec!["0", "1", "several_patients"],
        ),
        (
            "joined from the start",
            vec![said(1, "c", &["h|1", "g|2"], amy), said(2, "a", &["h|1"], amy), said(3, "b", &["g|2"], amy)],
            vec!["0", "0", "0"],
        ),
        (
            "what is in review gives nothing",
            vec![said(1, "a", &["h|1"], amy), said(2, "b", &["h|1", "g|5"], later), said(3, "c", &["g|5"], amy)],
            vec!["0", "birth_date", "1"],
        ),
        (
            "every statement counts, not the newest only",
            vec![
                said(1, "a", &["h|1"], amy),
                said(2, "a", &["h|1"], "shaw amy 1987"),
                said(3, "b", &["h|1"], "shaw amy 1987-03-01"),
            ],
            vec!["0", "0", "birth_date"],
        ),
        ("neither number nor id", vec![said(1, "", &[], amy), said(2, "", &[], amy)], vec!["pending", "pending"]),
    ] {
        let mut given = given;
        assert_eq!(words(&given, &Rulings::default()), expected, "{name}");
        given.reverse();
        let mut expected = expected;
        expected.reverse();
        assert_eq!(words(&given, &Rulings::default()), expected, "{name}, given the other way round");
    }
}

#[test]
fn decisions_stand_above_rules() {
    let (amy, later) = ("shaw amy 1987-02-20", "shaw amy 1990-01-01");
    let first = said(1, "a", &["h|1"], amy);
    let second = said(2, "b", &["h|1"], later);
    let again = said(3, "c", &["h|1"], later);
    let third = said(4, "d", &["h|1"], "shaw amy 1999-09-09");
    let all = [first.clone(), second.clone(), again.clone(), third];
    let rule = |ruling: Ruling| Rulings {
        by_fingerprint: HashMap::from([(second.fingerprint.clone(), ruling)]),
        merges: Vec::new(),
    };
    assert_eq!(words(&all, &Rulings::default()), ["0", "birth_date", "birth_date", "birth_date"]);
    // The same contradiction is not asked again; another one is.
    assert_eq!(words(&all, &rule(Ruling::Link(first.id))), ["0", "0", "0", "birth_date"]);
    assert_eq!(words(&all, &rule(Ruling::NewPatient)), ["0", "1", "birth_date", "birth_date"]);
    assert_eq!(words(&all, &rule(Ruling::Reject)), ["0", "rejected", "birth_date", "birth_date"]);
    assert_eq!(words(&all, &rule(Ruling::Unlink)), ["0", "unlinked", "birth_date", "birth_date"]);
    // Also for what was accepted before the statement that it is the same person as.
    let mut early = all.to_vec();
    early[1].place = (0, 0);
    assert_eq!(words(&early, &rule(Ruling::Link(first.id)))[..2], ["0", "0"]);
    // Nor does it matter that this one is in review itself, except that both wait.
    let mut gone = early.clone();
    gone.push(Said { place: (-1, 0), ..said(9, "z", &["h|1"], "shaw amy 1955-05-05") });
    assert_eq!(words(&gone, &rule(Ruling::Link(first.id)))[..2], ["birth_date", "decided_patient_in_review"]);
}

#[test]
fn merged_patients_are_one_for_whatever_comes() {
    let one = said(1, "a", &["h|1"], "shaw amy 1987-02-20");
    let other = said(2, "b", &["g|2"], "baxter amy 1988");
    let both = said(3, "c", &["h|1", "g|2"], "baxter amy 1988");
    let neither = said(4, "d", &["g|2"], "baxter amy 1999");
    let all = [one.clone(), other.clone(), both, neither];
    assert_eq!(words(&all, &Rulings::default()), ["0", "1", "several_patients", "birth_date"]);
    let merged = Rulings { by_fingerprint: HashMap::new(), merges: vec![(one.id, other.id)] };
    assert_eq!(words(&all, &merged), ["0", "0", "0", "birth_date"]);
    assert_eq!(fold(&all, &merged).leads, [1], "the one who stays leads");
}

#[test]
fn replaced_by_joins_what_does_not_contradict() {
    let mut old = said(1, "ref:s|Patient/a", &["h|1"], "shaw amy 1987-02-20");
    let new = said(2, "ref:s|Patient/b", &["h|2"], "shaw amy 1987-02-20");
    old.replaced_by.insert("ref:s|Patient/b".to_owned());
    assert_eq!(words(&[old.clone(), new.clone()], &Rulings::default()), ["0", "0"]);
    let other = said(2, "ref:s|Patient/b", &["h|2"], "shaw amy 1990");
    let folded = fold(&[old.clone(), other], &Rulings::default());
    assert_eq!(folded.leads.len(), 2);
    assert_eq!(folded.contradicted_links, BTreeMap::from([(0, 1)]));
    // From the other side it is the same, and an unknown one means nothing.
    let mut new = new;
    new.replaces.insert("ref:s|Patient/a".to_owned());
    old.replaced_by = BTreeSet::from(["ref:s|Patient/nobody".to_owned()]);
    assert_eq!(words(&[old, new], &Rulings::default()), ["0", "0"]);
}

prop_compose! {
    fn any_said()(
        seq in 0i64..40,
        id in 0usize..4,
        numbers in prop::collection::btree_set((0usize..2, 1usize..4), 0..3),
        family in 0usize..3,
        year in 0usize..3,
    ) -> Said {
        let numbers: Vec<String> = numbers.iter().map(|(system, value)| format!("s{system}|{value}")).collect();
        let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
        let identity = ["", "a", "b", "c"][id];
        let person = format!("{} {} {}", ["-", "shaw", "baxter"][family], ["-", "amy", "bea"][family], ["-", "1987", "1990"][year]);
        let mut made = said(seq, identity, &numbers, &person);
        made.id = StatementId::new();
        made.place.1 = i32::try_from(id * 100 + family * 10 + year).unwrap();
        made
    }
}

/// What an order of acceptance gives: groups of statements by id, and who waits.
fn result(said: &[Said]) -> (BTreeSet<BTreeSet<StatementId>>, BTreeMap<StatementId, String>) {
    let folded = fold(said, &Rulings::default());
    let mut groups: BTreeMap<usize, BTreeSet<StatementId>> = BTreeMap::new();
    let mut others = BTreeMap::new();
    for (one, placement) in said.iter().zip(&folded.placements) {
        match placement {
            Placement::Linked(group, _) => {
                groups.entry(*group).or_default().insert(one.id);
            }
            other => {
                others.insert(one.id, format!("{other:?}"));
            }
        }
    }
    (groups.into_values().collect(), others)
}

fn contradict(one: &Said, other: &Said) -> bool {
    one.person.contradiction(&other.person).is_some()
}

proptest! {
    #[test]
    fn the_fold_does_not_depend_on_the_order_in_which_statements_are_given(
        said in prop::collection::vec(any_said(), 0..12),
        turn in 0usize..12,
    ) {
        let mut turned = said.clone();
        turned.rotate_left(turn.min(said.len()));
        turned.reverse();
        prop_assert_eq!(result(&said), result(&turned));
    }

    #[test]
    fn no_patient_holds_what_the_rules_forbid(said in prop::collection::vec(any_said(), 0..14)) {
        let folded = fold(&said, &Rulings::default());
        let mut members: BTreeMap<usize, Vec<&Said>> = BTreeMap::new();
        for (one, placement) in said.iter().zip(&folded.placements) {
            if let Placement::Linked(group, _) = placement {
                members.entry(*group).or_default().push(one);
            }
        }
        for group in members.values() {
            for (position, one) in group.iter().enumerate() {
                for other in &group[position + 1..] {
                    prop_assert!(!contradict(one, other), "{:?} {:?}", one.place, other.place);
                }
            }
            // Two numbers of a system are one patient's only if some statement says so: each is joined to the others by
            // statements that name both.
            for system in ["s0", "s1"] {
                let values = |one: &&Said| one.numbers.iter().filter(|mrn| mrn.system == system).cloned().collect::<BTreeSet<_>>();
                let mut sets: Vec<BTreeSet<Mrn>> = group.iter().map(values).filter(|set| !set.is_empty()).collect();
                let Some(mut joined) = sets.pop() else { continue };
                while let Some(next) = sets.iter().position(|set| !set.is_disjoint(&joined)) {
                    joined.extend(sets.swap_remove(next));
                }
                prop_assert!(sets.is_empty());
            }
        }
        // Each number is one group's, and every linked statement's free numbers are its own group's or somebody's.
        for (one, placement) in said.iter().zip(&folded.placements) {
            if let Placement::Linked(group, _) = placement {
                for mrn in &one.numbers {
                    prop_assert_eq!(folded.holders.get(mrn), Some(group));
                }
            }
        }
    }

    #[test]
    fn without_contradictions_and_late_joins_the_order_of_acceptance_does_not_matter(
        patients in prop::collection::vec((0usize..3, prop::collection::vec(0usize..4, 1..5)), 1..5),
        order in Just(()).prop_perturb(|(), mut rng| rng.next_u64()),
    ) {
        // Each person has numbers of their own in two systems, and each of their statements names the first of them.
        let mut said = Vec::new();
        for (person, (family, statements)) in patients.iter().enumerate() {
            for kind in statements {
                let first = format!("s0|{person}");
                let second = format!("s1|{person}");
                let numbers: Vec<&str> = if *kind % 2 == 0 { vec![&first] } else { vec![&first, &second] };
                let who = ["shaw amy 1987", "baxter bea 1990", "- - -"][*family];
                let mut one = self::said(0, &format!("p{person}-{kind}"), &numbers, who);
                one.id = StatementId::new();
                said.push(one);
            }
        }
        let place = |said: &mut Vec<Said>, seed: u64| {
            let count = said.len() as u64;
            for (index, one) in said.iter_mut().enumerate() {
                one.place = (i64::try_from((index as u64).wrapping_mul(seed | 1).wrapping_add(seed) % (count * 7 + 1)).unwrap(), i32::try_from(index).unwrap());
            }
        };
        place(&mut said, 1);
        let before = result(&said);
        prop_assert!(before.1.is_empty());
        prop_assert_eq!(before.0.len(), patients.len());
        place(&mut said, order);
        prop_assert_eq!(result(&said), before);
    }
}
