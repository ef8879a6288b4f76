//! What the servers count of themselves, read from `/metrics`: differences between two looks.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

/// All series of some servers, added up by name and labels.
#[derive(Debug, Default)]
pub(crate) struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    pub(crate) fn take(ops: &[SocketAddr]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for ops in ops {
            let mut stream = TcpStream::connect(ops)?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            all.add(&answer);
        }
        Ok(all)
    }

    fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| line.starts_with("espigon_")) {
            if let Some((series, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                *self.0.entry(series.to_owned()).or_default() += value;
            }
        }
    }

    pub(crate) fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    /// What was counted since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().map(|(series, value)| (series.clone(), value - before.get(series))).collect())
    }

    /// The upper end, in seconds, of the bucket in which this share of a stage's durations ends; none without any.
    pub(crate) fn stage(&self, tier: &str, stage: &str, share: f64) -> Option<f64> {
        let (begin, end) = (format!("espigon_{tier}_stage_seconds_bucket{{le=\""), format!("\",stage=\"{stage}\"}}"));
        let ends = self.0.iter().filter_map(|(series, count)| {
            let end = series.strip_prefix(&begin)?.strip_suffix(&end)?;
            Some((end.parse::<f64>().unwrap_or(f64::INFINITY), *count))
        });
        let mut ends: Vec<_> = ends.collect();
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        let all = ends.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
        ends.into_iter().find(|(_, count)| *count >= share * all).map(|(end, _)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_and_differences_are_read() {
        let bucket =
            |le: &str, count| format!("espigon_edge_stage_seconds_bucket{{le=\"{le}\",stage=\"written\"}} {count}\n");
        let mut before = Scrape::default();
        before.add("# TYPE x\nespigon_edge_rooms 3\n");
        let mut after = Scrape::default();
        after.add(&(bucket("+Inf", 100) + &bucket("0.001", 99) + &bucket("0.0005", 50) + "espigon_edge_rooms 5\n"));
        let since = after.since(&before);
        assert_eq!(since.0["espigon_edge_rooms"].to_string(), "2");
        assert_eq!(since.stage("edge", "written", 0.5), Some(0.0005));
        assert_eq!(since.stage("edge", "written", 0.99), Some(0.001));
        assert_eq!(since.stage("edge", "written", 1.0), Some(f64::INFINITY));
        assert_eq!(since.stage("edge", "received", 0.5), None);
    }
}
