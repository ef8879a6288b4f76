//! What comes out: for each figure its values with their spread, as JSON and as a table.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Serialize;

/// The repeats of one value.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 0 { f64::midpoint(at(middle.wrapping_sub(1)), at(middle)) } else { at(middle) };
    Spread { median, min: at(0), max: at(values.len().wrapping_sub(1)) }
}

/// A figure: what was measured of whom.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// Target → value's name, with its unit → values.
    pub(crate) targets: BTreeMap<String, BTreeMap<String, Spread>>,
}

impl Figure {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), targets: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, target: &str, value: &str, spread: Spread) {
        self.targets.entry(target.to_owned()).or_default().insert(value.to_owned(), spread);
    }

    /// The ratio of two targets' medians of a value.
    pub(crate) fn ratio(&self, value: &str, of: &str, to: &str) -> Option<f64> {
        let median = |target: &str| self.targets.get(target)?.get(value).map(|spread| spread.median);
        Some(median(of)? / median(to)?)
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.name);
        for (target, values) in &self.targets {
            for (value, Spread { median, min, max }) in values {
                println!("  {target:16} {value:34} {median:12.2}   {min:.2} to {max:.2}");
            }
        }
    }

    /// Writes `<name>.json` into the directory.
    pub(crate) fn save(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        let file = directory.join(format!("{}.json", self.name));
        fs::write(file, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }
}
