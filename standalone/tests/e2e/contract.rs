//! `contract.md` has each clause of the contract, and each names tests that exist, or the issue that is to build it. So
//! does what ARCHITECTURE.md guarantees.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::harness::repository;

const TABLE: &str = "standalone/tests/e2e/contract.md";

/// Issues whose clauses may still be without a test.
const LATER: &[&str] = &["*When the store itself fails*"];

struct Row {
    number: String,
    clause: String,
    tests: Vec<String>,
    later: Option<String>,
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of each numbered section.
fn sections(page: &str) -> BTreeMap<&str, &str> {
    let parts = page.split("\n## ").skip(1).filter_map(|part| part.split_once('\n'));
    parts.filter(|(heading, _)| heading.starts_with(|c: char| c.is_ascii_digit())).collect()
}

/// Its words, without what only makes it a list, a table or code.
fn words(section: &str) -> String {
    let mark_of_list = |line: &str| {
        let number = line.split_once(". ").filter(|(number, _)| number.parse::<u8>().is_ok());
        line.strip_prefix("- ").or(number.map(|(_, rest)| rest)).unwrap_or(line).to_owned()
    };
    let lines = section.lines().filter(|line| !line.starts_with("```") && !line.starts_with("|-"));
    let text: String = lines.map(mark_of_list).collect();
    text.chars().filter(|c| !c.is_whitespace() && *c != '|').collect()
}

fn rows(section: &str) -> Vec<Row> {
    let cells = |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
    let lines = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    lines
        .map(|line| {
            let [_, number, clause, tests, _] = &cells(line)[..] else { panic!("{TABLE}: {line}") };
            let at = if tests.starts_with("later") { Some(0) } else { tests.find(", later (") };
            let (tests, later) = match at {
                Some(at) => (&tests[..at], Some(tests[at..].to_owned())),
                None => (&**tests, None),
            };
            let tests = tests.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Row { number: number.clone(), clause: clause.clone(), tests, later }
        })
        .collect()
}

/// A line of code, without the marks that make it code.
fn plain(clause: &str) -> &str {
    let code = clause.strip_prefix('`').and_then(|code| code.strip_suffix('`'));
    code.filter(|code| code.starts_with("{\"") && !code.contains('`')).unwrap_or(clause)
}

/// Files where the tests of a module may be.
fn files(test: &str) -> Vec<PathBuf> {
    let segments: Vec<_> = test.split("::").collect();
    let (modules, of_crate) = (&segments[1..segments.len() - 1], segments[0]);
    let (root, modules) = match (of_crate, modules) {
        ("e2e", modules) => ("standalone/tests/e2e".to_owned(), modules),
        (of_crate, ["it", modules @ ..]) => (format!("{of_crate}/tests/it"), modules),
        (of_crate, modules) => (format!("{of_crate}/src"), modules),
    };
    let outer = modules.strip_suffix(&["tests"]).unwrap_or(modules);
    [modules, outer].map(|modules| repository().join(root.clone()).join(modules.join("/")).with_extension("rs")).into()
}

/// Whether one of these files has a test of this name. Those of the JavaScript client are named by their titles.
fn exists(test: &str) -> bool {
    if let Some(test) = test.strip_prefix("js::") {
        return is_titled(test);
    }
    let name = format!("fn {}(", test.rsplit("::").next().unwrap());
    files(test).iter().filter_map(|file| fs::read_to_string(file).ok()).any(|source| {
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        lines.iter().enumerate().any(|(index, line)| {
            let is_it = line.contains(&name) && ["fn ", "async fn "].iter().any(|start| line.starts_with(start));
            let above = lines[..index].iter().rev().take_while(|line| line.starts_with(['#', '/']));
            let is_test =
                above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
            is_it && is_test || is_case(line, test)
        })
    })
}

fn is_titled(test: &str) -> bool {
    let Some((file, title)) = test.rsplit_once("::") else { return false };
    let file = repository().join("clients/js/test").join(file.replace("::", "/")).with_extension("test.ts");
    let is_it = |line: &str| ["it(", "])("].iter().any(|start| line.contains(&format!("{start}\"{title}\"")));
    fs::read_to_string(file).is_ok_and(|source| source.lines().any(is_it))
}

/// The brokers' contract lists its cases in a macro, which makes each a test on both.
fn is_case(line: &str, test: &str) -> bool {
    let case = test.strip_prefix("fanout::it::contract::").and_then(|case| line.strip_prefix(case));
    case.is_some_and(|rest| rest.starts_with('('))
}

#[test]
fn each_clause_of_the_page_has_a_test() {
    let (page, table) = (read("PROTOCOL.md"), read(TABLE));
    let (page, table) = (sections(&page), sections(&table));
    assert!(page.len() == 5 && page.keys().eq(table.keys()), "sections: {:?}, {:?}", page.keys(), table.keys());
    let mut wrong = Vec::new();
    for (heading, section) in &page {
        let rows = rows(table[heading]);
        let section_number = heading.split('.').next().unwrap();
        let mut left = &*words(section);
        for (index, Row { number, clause, tests, later }) in rows.iter().enumerate() {
            assert_eq!(*number, format!("{section_number}.{}", index + 1), "clauses are numbered in turn");
            let words: String = plain(clause).chars().filter(|c| !c.is_whitespace()).collect();
            left = left.strip_prefix(&*words).unwrap_or_else(|| {
                let next: String = left.chars().take(60).collect();
                panic!("{TABLE} {number}: the page goes on with {next:?}, the table with {clause:?}")
            });
            if tests.is_empty() && later.is_none() {
                wrong.push(format!("{number} has no test"));
            }
            if later.as_ref().is_some_and(|later| !LATER.iter().any(|title| later.contains(title))) {
                wrong.push(format!("{number} names no issue"));
            }
            wrong.extend(tests.iter().filter(|test| !exists(test)).map(|test| format!("{number}: there is no {test}")));
        }
        assert_eq!(left, "", "{heading}: the page goes on where the table ends");
    }
    assert!(wrong.is_empty(), "{TABLE}:\n{}", wrong.join("\n"));
}

#[test]
fn each_guarantee_has_a_test() {
    let page = read("ARCHITECTURE.md");
    let (_, section) = page.split_once("\n## What is guaranteed\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let in_code: Vec<_> = section.split('`').skip(1).step_by(2).filter(|code| code.matches("::").count() > 1).collect();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    assert!(rows.clone().count() >= 10 && rows.clone().all(|row| row.contains("::")), "each row names a test");
    let missing: Vec<_> = in_code.iter().filter(|test| !exists(test)).collect();
    assert!(in_code.len() > 20 && missing.is_empty(), "there is no {missing:?}");
}

#[test]
fn each_path_that_the_pages_name_is_there() {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let root = fs::read_dir(repository()).unwrap().map(|entry| entry.unwrap().path());
    let pages: Vec<_> = root.filter(is_page).map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_path = |code: &&str| {
        let folder =
            code.split_once('/').is_some_and(|(first, _)| !first.is_empty() && repository().join(first).is_dir());
        folder && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte))
    };
    let in_code = pages.iter().flat_map(|page| page.split('`').skip(1).step_by(2)).filter(is_path);
    let (there, missing): (Vec<_>, Vec<_>) = in_code.partition(|path| repository().join(path).exists());
    assert_eq!(missing, [""; 0]);
    assert!(there.len() > 30, "{there:?}");
}

#[test]
fn a_test_that_is_not_there_is_not_found() {
    for there in [
        "e2e::contract::a_test_that_is_not_there_is_not_found",
        "edge::session::tests::leave_of_a_member_and_of_a_stranger",
        "edge::close::tests::codes_and_words_are_those_of_the_contract",
        "edge::hub::tests::members_get_consecutive_publications",
        "fanout::it::link::a_link_needs_its_token_and_a_version",
        "fanout::it::contract::the_history_is_exact",
        "js::unit::machine::tries again with a backoff when that fails",
    ] {
        assert!(exists(there), "{there}");
    }
    for not in [
        "e2e::contract::no_such_test",
        "e2e::contract::exists",
        "e2e::connecting::a_test_that_is_not_there_is_not_found",
        "edge::session::leave_of_a_member",
        "edge::no_such_module::tests::x",
        "fanout::it::contract::the_history",
        "js::unit::machine::tries again with a backoff",
        "js::unit::rooms::tries again with a backoff when that fails",
    ] {
        assert!(!exists(not), "{not}");
    }
}
