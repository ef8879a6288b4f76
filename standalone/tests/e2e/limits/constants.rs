use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::harness::repository;

/// Constants as sources have them, by name: numbers as they are, bytes as bytes, times as milliseconds.
#[derive(Debug)]
pub(super) struct Constants(BTreeMap<String, Vec<String>>);

impl Constants {
    pub(super) fn of(sources: impl IntoIterator<Item = String>) -> Self {
        let mut constants = BTreeMap::<_, Vec<_>>::new();
        for source in sources {
            for line in source.lines() {
                let Some((_, constant)) = line.split_once("const ") else { continue };
                let Some((name, rest)) = constant.split_once(": ") else { continue };
                let Some((_, value)) = rest.trim_end_matches(';').split_once(" = ") else { continue };
                constants.entry(name.to_owned()).or_default().push(value.to_owned());
            }
        }
        Self(constants)
    }

    pub(super) fn below(folders: &[&str]) -> Self {
        Self::of([sources(folders)])
    }

    /// Of the one constant that has this name.
    pub(super) fn value(&self, name: &str) -> u64 {
        let Some([value]) = self.0.get(name).map(Vec::as_slice) else { panic!("not one {name}") };
        self.evaluate(value).unwrap_or_else(|| panic!("{name} = {value}"))
    }

    /// Of all that are numbers.
    pub(super) fn values(&self) -> BTreeSet<u64> {
        self.0.values().flatten().filter_map(|value| self.evaluate(value)).collect()
    }

    fn evaluate(&self, value: &str) -> Option<u64> {
        let value = value.trim();
        if let Some((a, b)) = value.split_once(" << ") {
            return Some(self.evaluate(a)? << self.evaluate(b)?);
        }
        if let Some((a, b)) = value.split_once(" * ") {
            return Some(self.evaluate(a)? * self.evaluate(b)?);
        }
        for (unit, ms) in [("millis", 1), ("secs", 1000), ("mins", 60_000), ("hours", 3_600_000)] {
            let inner = value.strip_prefix(&format!("Duration::from_{unit}(")).and_then(|rest| rest.strip_suffix(')'));
            if let Some(inner) = inner {
                return Some(self.evaluate(inner)? * ms);
            }
        }
        let named = || match self.0.get(value).map(Vec::as_slice) {
            Some([named]) => self.evaluate(named),
            _ => None,
        };
        value.replace('_', "").parse().ok().or_else(named)
    }
}

/// All sources below these folders, tests left out.
pub(super) fn sources(folders: &[&str]) -> String {
    fn add(folder: &Path, all: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, all);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
                let source = fs::read_to_string(path).unwrap();
                all.push_str(source.split("#[cfg(test)]\nmod tests {").next().unwrap());
            }
        }
    }
    let mut all = String::new();
    for folder in folders {
        add(&repository().join(folder), &mut all);
    }
    all
}

/// The numbers that a limit names, as [`Constants`] has them; what is a name, a version or written as a word is none.
pub(super) fn numbers(limit: &str) -> Vec<u64> {
    let plain: String = limit.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let plain = plain.replace("HTTP/1.1", "").replace("HTTP/2", "").replace("RFC 6455", "").replace(',', "");
    let words: Vec<_> =
        plain.split(|c: char| c.is_whitespace() || ";:".contains(c)).filter(|word| !word.is_empty()).collect();
    let number = |(index, word): (usize, &&str)| {
        let number: u64 = word.parse().ok()?;
        Some(match words.get(index + 1).copied() {
            Some("KiB") => number << 10,
            Some("MiB") => number << 20,
            Some("s") => number * 1000,
            Some("min") => number * 60_000,
            Some("h") => number * 3_600_000,
            _ => number,
        })
    };
    words.iter().enumerate().filter_map(number).collect()
}

#[test]
fn numbers_of_both_sides_are_understood() {
    assert_eq!(numbers("head of a request: 16 KiB, 5 s"), [16 << 10, 5000]);
    assert_eq!(
        numbers("HTTP/1.1 connections that are quiet: 1,024 for 2 min; `MAX_9 8` for 1 h"),
        [1024, 120_000, 3_600_000]
    );
    let constants = Constants::of(["const A: u8 = 2_000;\n  pub(crate) const B: usize = 2 * A;\nconst C: Duration = \
         Duration::from_mins(2);\nconst D: u8 = 1 << 4;\nconst E: X = X::new();"
        .to_owned()]);
    assert_eq!(["A", "B", "C", "D"].map(|name| constants.value(name)), [2000, 4000, 120_000, 16]);
    assert_eq!(constants.values(), BTreeSet::from([16, 2000, 4000, 120_000]));
}
