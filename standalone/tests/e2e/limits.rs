//! What SECURITY.md says of limits is true: each number is the code's, and each setting, code and label is there. That the
//! metrics are, `make test-deploy` checks (`k8s/tests/test_metrics.py`).

mod constants;

use std::{collections::BTreeSet, fs, process::Command};

use edge::close::CloseReason;

use self::constants::{Constants, numbers};
use crate::harness::{repository, run, workspace_binary};

/// The numbers of each row of the first table, in their order: file and constant. All other rows have none.
const EDGE: &[(&str, &[(&str, &str)])] = &[
    ("head of a request", &[("service/src/accept.rs", "MAX_HEAD_BYTES"), ("service/src/accept.rs", "HEAD_TIMEOUT")]),
    ("a TLS handshake", &[("service/src/tls.rs", "HANDSHAKE")]),
    ("connections that have not said", &[("service/src/accept.rs", "MAX_OPEN")]),
    ("sockets opened only to say", &[("edge/src/defaults.rs", "MAX_FAREWELLS"), ("edge/src/defaults.rs", "FAREWELL")]),
    ("frames of one message", &[("edge/src/connection/frame_watch.rs", "LEAST_FRAMES")]),
    ("messages not understood", &[("edge/src/session/limits.rs", "MAX_MALFORMED")]),
    ("joins", &[("edge/src/session/limits.rs", "JOINS_PERIOD")]),
    (
        "requests that wait for a busy room",
        &[("edge/src/session.rs", "MAX_WAITING"), ("edge/src/session.rs", "MAX_WAITING_BYTES")],
    ),
    ("tokens with unknown keys", &[("edge/src/keys/issuer.rs", "PAUSE")]),
    (
        "members of a room of",
        &[
            ("edge/src/hub/room/pace.rs", "CROWD"),
            ("edge/src/hub/room/pace.rs", "STILL"),
            ("edge/src/hub/room/pace.rs", "PATIENCE"),
        ],
    ),
    (
        "rooms for which edges ask",
        &[("fanout/src/defaults.rs", "HELD_BACK_ROOMS"), ("fanout/src/defaults.rs", "MAX_SHARDS")],
    ),
    ("removals that an edge knows", &[("edge/src/removals.rs", "CAPACITY")]),
    ("removals that the store keeps", &[("proto/src/lib.rs", "MAX_REMOVALS")]),
];

/// Those with which an edge closes.
const CLOSES: &[CloseReason] = &[
    CloseReason::Binary,
    CloseReason::BadUtf8,
    CloseReason::MessageTooLarge,
    CloseReason::ProtocolError,
    CloseReason::TooManyErrors,
    CloseReason::SlowConsumer,
    CloseReason::PingTimeout,
    CloseReason::TooManyConnections,
    CloseReason::RateLimited,
];

struct Row {
    limit: String,
    beyond: String,
    told: String,
    counted: String,
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Both tables: what clients can make an edge do, and backends a fanout node.
fn tables() -> [Vec<Row>; 2] {
    let page = read("SECURITY.md");
    let (_, section) = page.split_once("\n## Limits\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let (edge, api) = section.split_once("\nThe publish API:\n").unwrap();
    [edge, api].map(|table| {
        let lines = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| limit "));
        let rows: Vec<_> = lines.map(row).collect();
        assert!(rows.len() > 10);
        rows
    })
}

fn row(line: &str) -> Row {
    let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
    let [_, limit, beyond, told, counted, _] = cells.try_into().unwrap_or_else(|_| panic!("no row: {line}"));
    Row { limit, beyond, told, counted }
}

/// What is written as code.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_number_is_the_codes() {
    let [edge, api] = tables();
    for Row { limit, .. } in &edge {
        let named =
            EDGE.iter().find(|(begin, _)| limit.starts_with(begin)).map_or(&[][..], |(_, constants)| *constants);
        let of_code: Vec<_> = named
            .iter()
            .map(|(file, name)| {
                let files = BTreeSet::from([*file, "proto/src/lib.rs"]);
                Constants::of(files.into_iter().map(read)).value(name)
            })
            .collect();
        assert_eq!(numbers(limit), of_code, "{limit}: {named:?}");
    }
    for (begin, _) in EDGE {
        assert!(edge.iter().any(|row| row.limit.starts_with(begin)), "there is no row of {begin}");
    }
    // Whatever its rows are.
    let values = Constants::below(&["fanout/src", "service/src", "proto/src"]).values();
    for Row { limit, .. } in &api {
        for number in numbers(limit) {
            assert!(values.contains(&number), "{limit}: no constant is {number}");
        }
    }
}

#[test]
fn each_setting_is_one() {
    let help = ["edge", "fanout"].map(|tier| {
        let mut command = Command::new(workspace_binary(tier));
        command.arg("--help");
        run(command)
    });
    let secrets = ["edge/src/config/secrets.rs", "fanout/src/config.rs"].map(read);
    let is_setting = |name: &str| {
        // One of several that begin so.
        let (name, end) = name.strip_suffix('…').map_or((name, true), |name| (name, false));
        let flag = if end {
            [format!("[env: {name}="), format!("[env: {name}]")]
        } else {
            [format!("[env: {name}"), String::from("\0")]
        };
        help.iter().any(|help| flag.iter().any(|flag| help.contains(flag)))
            || secrets.iter().any(|source| source.contains(&format!("\"{name}\"")))
    };
    let grpc =
        ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN", "UNAUTHENTICATED", "PERMISSION_DENIED"];
    let page = read("SECURITY.md");
    let capitals = |name: &&str| {
        name.len() > 3 && name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c == '…') && !grpc.contains(name)
    };
    let named: BTreeSet<_> = names(&page).map(|name| name.split('=').next().unwrap()).filter(capitals).collect();
    let missing: Vec<_> = named.iter().filter(|name| !is_setting(name)).collect();
    assert!(named.len() > 20 && missing.is_empty(), "no settings: {missing:?}");
    assert!(!is_setting("MAX_CONNECTION") && !is_setting("NO_SUCH_…"));
}

#[test]
fn each_code_is_told_as_the_page_has_it() {
    let page = read("PROTOCOL.md");
    let [edge, _] = tables();
    for Row { limit, beyond, told, counted } in &edge {
        let told: Vec<_> = names(told)
            .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
            .collect();
        for code in &told {
            let known = page.contains(&format!("`{code}`")) || CLOSES.iter().any(|reason| reason.label() == *code);
            assert!(known, "{limit}: the page does not know {code}");
        }
        for status in beyond.split(|c: char| !c.is_ascii_digit()).filter(|number| number.len() == 4) {
            let is_it = |reason: &&CloseReason| reason.frame().is_some_and(|(code, _)| code.to_string() == status);
            let reason = CLOSES.iter().find(is_it).unwrap_or_else(|| panic!("{limit}: no close code {status}"));
            assert!(told.contains(&reason.label()), "{limit}: {status} is {}", reason.label());
        }
        for status in beyond.split(|c: char| !c.is_ascii_digit()).filter(|number| number.len() == 3) {
            let of_status = page.lines().find(|line| line.starts_with(&format!("| {status} |")));
            let known = told.is_empty() || told.iter().any(|code| of_status.is_some_and(|line| line.contains(*code)));
            assert!(known, "{limit}: the page has no {status} {told:?}");
        }
        let refused = counted.contains("refused_total") || counted.contains("closed_total");
        assert!(!refused || beyond != "–", "{limit}");
    }
}

#[test]
fn each_label_is_counted_under() {
    let [edge, api] = tables();
    for (rows, sources) in [(&edge, "edge/src"), (&api, "fanout/src")] {
        let source = constants::sources(&[sources]);
        for Row { limit, counted, .. } in rows {
            for label in names(counted).filter(|name| !name.starts_with("espigon_")) {
                assert!(source.contains(&format!("\"{label}\"")), "{limit}: {label} is no label");
            }
        }
    }
}
