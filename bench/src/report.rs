//! What comes out: for each figure its values with their spread, as JSON and as a table.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// The repeats of one value.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
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
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What kind of figure it is: those of one kind may be points of a curve.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// What it was measured with.
    pub(crate) parameters: BTreeMap<String, f64>,
    /// Target → value's name, with its unit → values.
    pub(crate) targets: BTreeMap<String, BTreeMap<String, Spread>>,
}

impl Figure {
    pub(crate) fn new(kind: &str, name: &str) -> Self {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        Self { kind, name, parameters: BTreeMap::new(), targets: BTreeMap::new() }
    }

    pub(crate) fn parameter(&mut self, name: &str, value: f64) {
        self.parameters.insert(name.to_owned(), value);
    }

    pub(crate) fn median(&self, target: &str, value: &str) -> Option<f64> {
        self.targets.get(target)?.get(value).map(|spread| spread.median)
    }

    pub(crate) fn push(&mut self, target: &str, value: &str, spread: Spread) {
        self.targets.entry(target.to_owned()).or_default().insert(value.to_owned(), spread);
    }

    /// The ratio of two targets' medians of a value.
    pub(crate) fn ratio(&self, value: &str, of: &str, to: &str) -> Option<f64> {
        Some(self.median(of, value)? / self.median(to, value)?)
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.name);
        for (target, values) in &self.targets {
            for (value, Spread { median, min, max }) in values {
                println!("  {target:16} {value:34} {median:12.2}   {min:.2} to {max:.2}");
            }
        }
    }

    /// All that are in the directory, by name.
    pub(crate) fn load_all(directory: &Path) -> anyhow::Result<Vec<Self>> {
        let mut figures = Vec::new();
        for file in fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read_to_string(&path)?;
                figures.push(serde_json::from_str::<Self>(&text).with_context(|| format!("read {}", path.display()))?);
            }
        }
        figures.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(figures)
    }

    /// Writes `<name>.json` into the directory.
    pub(crate) fn save(&self, directory: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(directory)?;
        let file = directory.join(format!("{}.json", self.name));
        fs::write(file, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }
}
