//! A strict reader of the text of Prometheus: what it does not understand is a mistake.

use std::collections::{BTreeMap, BTreeSet};

/// The labels of a value, in order.
pub(super) type Labels = BTreeMap<String, String>;

/// A metric with its values.
#[derive(Debug, Default)]
pub(super) struct Family {
    pub(super) kind: String,
    pub(super) samples: Vec<(String, Labels, f64)>,
}

fn is_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == b'_')
}

/// Reads a whole text.
#[track_caller]
pub(super) fn read(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let mut helped = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(is_name(name) && !help.trim().is_empty(), "{line}");
            assert!(helped.insert(name.to_owned()), "twice: {line}");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE follows HELP: {line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            families.insert(name.to_owned(), Family { kind: kind.to_owned(), samples: Vec::new() });
        } else {
            let (name, labels, value) = sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("no TYPE: {line}"));
            let suffix = name.strip_prefix(&current).unwrap_or_else(|| panic!("of another metric: {line}"));
            match family.kind.as_str() {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                _ => assert_eq!(suffix, "", "{line}"),
            }
            assert!(value >= 0.0 && value.is_finite(), "{line}");
            let is_twice = family.samples.iter().any(|(of, with, _)| *of == name && *with == labels);
            assert!(!is_twice, "twice: {line}");
            family.samples.push((name, labels, value));
        }
    }
    families
        .iter()
        .filter(|(_, family)| family.kind == "histogram")
        .for_each(|(name, family)| check(name, family));
    families
}

fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let name = &line[..end];
    assert!(is_name(name), "{line}");
    let mut rest = &line[end..];
    let mut labels = Labels::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            let (label, after) = inner.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label), "{line}");
            let mut value = String::new();
            let mut letters = after.char_indices();
            let after = loop {
                match letters.next().unwrap_or_else(|| panic!("a label without an end: {line}")) {
                    (at, '"') => break &after[at + 1..],
                    (_, '\\') => match letters.next().unwrap().1 {
                        'n' => value.push('\n'),
                        other => value.push(other),
                    },
                    (_, letter) => value.push(letter),
                }
            };
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            match after.split_at(1) {
                (",", more) => inner = more,
                ("}", more) => {
                    rest = more;
                    break;
                }
                _ => panic!("{line}"),
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no space before the value: {line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// The buckets of a histogram rise, and the last one has all values.
fn check(name: &str, family: &Family) {
    let mut series: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for (of, labels, value) in &family.samples {
        if of.ends_with("_bucket") {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            series.entry(labels).or_default().push((bound, *value));
        }
    }
    for (labels, buckets) in series {
        let rise = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let (last, all) = *buckets.last().unwrap();
        assert!(rise && last.is_infinite(), "{name} {labels:?} {buckets:?}");
        let of = |suffix: &str| {
            let wanted = format!("{name}{suffix}");
            let found = family.samples.iter().find(|(of, with, _)| *of == wanted && *with == labels);
            found.unwrap_or_else(|| panic!("no {wanted}")).2
        };
        assert!((of("_count") - all).abs() < 0.5, "{name} {labels:?}");
        let _ = of("_sum");
    }
}

/// The sum of the values of a metric that have these labels.
pub(super) fn sum(families: &BTreeMap<String, Family>, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("there is no {name}"));
    let has =
        |labels: &Labels| wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|is| is == value));
    family.samples.iter().filter(|(_, labels, _)| has(labels)).map(|(_, _, value)| value).sum()
}
