//! README, followed word for word.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Process, free_environment, repository, run, workspace_binary};

/// A debug build from nothing, with other tests running.
const BUILD_TIME: Duration = Duration::from_mins(15);

#[tokio::test(flavor = "multi_thread")]
async fn the_quick_start_works_from_a_clean_clone() {
    let clone = clone();
    let readme = std::fs::read_to_string(clone.join("README.md")).unwrap();
    let quick_start = section(&readme, "## Quick start");
    let [serve, connect, test] = &blocks(quick_start, "sh")[..] else { panic!("three blocks of commands") };
    let [requests] = &blocks(quick_start, "json")[..] else { panic!("one block to type") };

    let server = Process::spawn(shell(&clone, serve));
    let printed = |what: &'static str, start: &'static str| {
        let find = move |line: &str| line.trim().starts_with(start).then(|| line.trim().to_owned());
        server.wait_longer_for(BUILD_TIME, what, find)
    };
    let (url, curl) = (printed("a WebSocket URL", "ws://"), printed("a curl line", "curl "));

    let client = Process::spawn(shell(&clone, &connect.replace("<WebSocket URL>", &url)));
    client.wait_longer_for(BUILD_TIME, "that it has connected", |line| line.contains("welcome").then_some(()));
    for request in requests.lines() {
        client.type_line(request);
    }
    for (what, part) in
        [("that it has joined", r#""room":"lobby","epoch""#), ("its own broadcast", r#""text":"hi all""#)]
    {
        client.wait_for(what, |line| line.contains(part).then_some(()));
    }
    let answer: Value = serde_json::from_str(&run(shell(&clone, &format!("{curl} --silent")))).unwrap();
    assert_eq!(answer["seq"], 2);
    client.wait_for("what was published", |line| line.contains(r#""text":"hello""#).then_some(()));

    server.terminate();
    client.wait_for("why it was closed", |line| line.contains("1012").then_some(()));
    // Not run in earnest, as it would run this test.
    assert_eq!(test, "make test");
    assert!(run(shell(&clone, "make --dry-run test")).contains("cargo test --workspace"));
}

#[test]
fn readme_lists_the_settings_that_there_are() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let settings = section(&readme, "## Settings");
    let both = table(settings, "Of both tiers:");
    for (binary, title, secrets) in [
        ("edge", "Of an edge:", &["JWT_SECRET", "GRANT_SECRET", "LINK_TOKEN"][..]),
        ("fanout", "Of a fanout node:", &["LINK_TOKEN", "API_KEYS", "REDIS_PASSWORD"]),
    ] {
        let mut told = table(settings, title);
        for secret in secrets {
            assert!(told.remove(*secret).is_some(), "{binary}: {secret}");
        }
        told.extend(both.clone());
        assert_eq!(told, settings_of(binary), "{binary}");
    }
}

/// From what is committed, as somebody else would get it. The place is always the same, so that what is built there
/// replaces what was.
fn clone() -> PathBuf {
    let clone = Path::new(env!("CARGO_TARGET_TMPDIR")).join("quick-start");
    if clone.exists() {
        std::fs::remove_dir_all(&clone).unwrap();
    }
    let mut git = Command::new("git");
    git.args(["clone", "--quiet"]).arg(repository()).arg(&clone);
    run(git);
    clone
}

fn shell(directory: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-e", "-c", script]).current_dir(directory);
    // Free ports, as the usual ones may be taken. Nothing is shared with the build under test: cargo takes a clone's
    // crates for the workspace's own, and would think the one fresh after building the other.
    command.envs(free_environment()).env("LOG_FORMAT", "json");
    command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("quick-start-target"));
    command
}

fn section<'a>(text: &'a str, title: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("{title}\n")).unwrap_or_else(|| panic!("no section {title}"));
    rest.split("\n## ").next().unwrap()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut parts = text.split("```");
    let mut blocks = Vec::new();
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        if let Some(block) = block.strip_prefix(&format!("{language}\n")) {
            blocks.push(block.trim_end().to_owned());
        }
    }
    blocks
}

/// Names and defaults of the table below this line.
fn table(text: &str, title: &str) -> BTreeMap<String, String> {
    let (_, rest) = text.split_once(title).unwrap_or_else(|| panic!("no table {title}"));
    let rows = rest.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    let cell = |text: &str| text.trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        (cell(cells[1]), cell(cells[2]))
    })
    .collect()
}

/// Names and defaults as the binary's own help has them.
fn settings_of(binary: &str) -> BTreeMap<String, String> {
    let mut help = Command::new(workspace_binary(binary));
    help.arg("--help").env_clear();
    let help = run(help);
    let settings = help.split("[env: ").skip(1);
    settings
        .map(|rest| {
            let (name, rest) = rest.split_once("=]").unwrap();
            let default = rest.trim_start().strip_prefix("[default: ").and_then(|rest| rest.split_once(']'));
            (name.to_owned(), default.map(|(default, _)| default.to_owned()).unwrap_or_default())
        })
        .collect()
}
