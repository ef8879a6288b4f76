//! What neighbours say on a link: the messages of each version from the first on, as they were sent then. Edges and fanout
//! nodes of two versions work together because each of these lines means now what it meant when it was recorded.
//!
//! A line is who says it (`stored`: what Redis keeps, and links carry), its bytes, and their meaning. With a new version of the link, record one more file of lines, and
//! its descriptors beside it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::{collections::BTreeSet, fmt::Write as _};

use prost::Message as _;
use proto::{
    VERSION,
    wire::{EdgeMessage, Entry, FILE_DESCRIPTOR_SET, FanoutMessage},
};
use protox::prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

struct Recorded {
    lines: &'static str,
    descriptors: &'static [u8],
}

const VERSIONS: &[Recorded] =
    &[Recorded { lines: include_str!("recorded/v1.txt"), descriptors: include_bytes!("recorded/v1.fds") }];

impl Recorded {
    /// Who says it, the bytes in hexadecimal, the meaning.
    fn lines(&self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.lines.lines().map(|line| {
            let (who, rest) = line.split_once(' ').unwrap();
            let (bytes, meaning) = rest.split_once(' ').unwrap();
            (who, bytes, meaning)
        })
    }

    fn then(&self) -> DescriptorPool {
        DescriptorPool::decode(self.descriptors).unwrap()
    }
}

fn now() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap()
}

fn of(pool: &DescriptorPool, who: &str) -> MessageDescriptor {
    let name = match who {
        "edge" => "realtime.v1.EdgeMessage",
        "fanout" => "realtime.v1.FanoutMessage",
        "stored" => "realtime.v1.Entry",
        other => panic!("{other} says nothing on a link"),
    };
    pool.get_message_by_name(name).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn each_version_is_recorded() {
    assert_eq!(VERSIONS.len(), VERSION as usize);
}

#[test]
fn what_was_recorded_means_the_same() {
    for (who, recorded, meaning) in VERSIONS.iter().flat_map(Recorded::lines) {
        let pool = now();
        let meant = DynamicMessage::parse_text_format(of(&pool, who), meaning).unwrap();
        assert_eq!(hex(&meant.encode_to_vec()), recorded, "how this build says {meaning}");
        assert_eq!(DynamicMessage::decode(of(&pool, who), &*bytes(recorded)).unwrap(), meant, "{meaning}");
        // And by the code that is generated, in which nothing of it may be missing.
        let again = match who {
            "edge" => EdgeMessage::decode(&*bytes(recorded)).unwrap().encode_to_vec(),
            "stored" => Entry::decode(&*bytes(recorded)).unwrap().encode_to_vec(),
            _ => FanoutMessage::decode(&*bytes(recorded)).unwrap().encode_to_vec(),
        };
        assert_eq!(hex(&again), recorded, "{meaning}");
    }
}

#[test]
fn fields_are_only_ever_added() {
    let now = now();
    let told = |field: &FieldDescriptor| {
        let oneof = field.containing_oneof().map(|oneof| oneof.name().to_owned());
        (field.name().to_owned(), format!("{:?}", field.kind()), field.cardinality(), oneof)
    };
    for recorded in VERSIONS {
        let then = recorded.then();
        for message in then.all_messages() {
            let name = message.full_name();
            let today = now.get_message_by_name(name).unwrap_or_else(|| panic!("{name} is gone"));
            for field in message.fields() {
                let same = today.get_field(field.number()).map(|today| told(&today));
                assert_eq!(same, Some(told(&field)), "{name}, field {}", field.number());
            }
        }
        for before in then.all_enums() {
            let today = now.get_enum_by_name(before.full_name()).unwrap();
            for value in before.values() {
                let same = today.get_value(value.number()).map(|value| value.name().to_owned());
                assert_eq!(same.as_deref(), Some(value.name()), "{}", before.full_name());
            }
        }
    }
}

/// A version's lines have all fields that it has.
#[test]
fn all_is_recorded() {
    for recorded in VERSIONS {
        let then = recorded.then();
        let (mut all, mut said) = (BTreeSet::new(), BTreeSet::new());
        for who in ["edge", "fanout", "stored"] {
            fields(&of(&then, who), &mut all);
        }
        for (who, hex, _) in recorded.lines() {
            spoken(&DynamicMessage::decode(of(&then, who), &*bytes(hex)).unwrap(), &mut said);
        }
        assert_eq!(all.difference(&said).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

fn fields(message: &MessageDescriptor, all: &mut BTreeSet<String>) {
    for field in message.fields() {
        if all.insert(field.full_name().to_owned())
            && let Kind::Message(inner) = field.kind()
        {
            fields(&inner, all);
        }
    }
}

fn spoken(message: &DynamicMessage, said: &mut BTreeSet<String>) {
    for (field, value) in message.fields() {
        said.insert(field.full_name().to_owned());
        let values = value.as_list().unwrap_or(std::slice::from_ref(value));
        for inner in values.iter().filter_map(Value::as_message) {
            spoken(inner, said);
        }
    }
}
