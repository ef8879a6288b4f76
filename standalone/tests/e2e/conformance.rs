//! RFC 6455 as others understand it: the published cases of the Autobahn suite, against the pumps that clients get.

use std::{collections::BTreeMap, process::Command, time::Duration};

use serde_json::Value;

use crate::harness::{Process, Stage, repository, run, tell};

/// Cases by their group: all of the suite, but for compression.
const GROUPS: [(&str, usize); 9] =
    [("1", 16), ("2", 11), ("3", 7), ("4", 10), ("5", 20), ("6", 145), ("7", 37), ("9", 54), ("10", 1)];

#[tokio::test(flavor = "multi_thread")]
async fn the_published_cases_pass() {
    let cases = cases();
    let stage = Stage::plan().with("WS_CONFORMANCE_PATH", "/conformance").start().await;
    let edge = stage.edge(0);
    let warned = |line: &str| line.contains("WS_CONFORMANCE_PATH is set").then_some(());
    edge.process.wait_for("a warning", warned);

    let mut python = Command::new("python3");
    python.arg("-B").arg(repository().join("standalone/tests/conformance/run.py"));
    python.args([&*cases, &edge.ws.to_string(), "/conformance"]);
    let runner = Process::spawn(python);
    let status = runner.ended_within(Duration::from_mins(4)).await;
    let output = runner.output();
    let outcomes: Vec<Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{output}"))).collect();

    let mut groups = BTreeMap::new();
    for outcome in &outcomes {
        let group = outcome["case"].as_str().unwrap().split('.').next().unwrap();
        *groups.entry(group).or_default() += 1;
        for part in ["behavior", "close"] {
            assert!(outcome[part] == "OK" || outcome[part] == "INFORMATIONAL", "{outcome}");
        }
    }
    assert_eq!(groups, GROUPS.into_iter().collect());
    assert!(status.success(), "{output}");
    let informational = outcomes.iter().filter(|outcome| outcome["behavior"] == "INFORMATIONAL").count();
    tell(format_args!("conformance: {} cases, none failed, {informational} informational", outcomes.len()));
}

/// Where the cases are; fetched by the project's own rule.
fn cases() -> String {
    let folder = "standalone/tests/conformance/.cases";
    let mut make = Command::new("make");
    make.args(["--silent", folder]).current_dir(repository());
    run(make);
    repository().join(folder).to_string_lossy().into_owned()
}
