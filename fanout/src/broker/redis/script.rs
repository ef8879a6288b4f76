//! The two scripts: what goes in, what comes out.

use bytes::Bytes;
use proto::{Epoch, Position};
use redis::{Cmd, Script, Value};

use super::{keys::Keys, publish::Job};
use crate::broker::{Keep, Page, PageLimit, ReadFrom, Receipt, StoreError};

const PUBLISH: &str = concat!(include_str!("fence.lua"), include_str!("publish.lua"));
const READ: &str = concat!(include_str!("fence.lua"), include_str!("read.lua"));

/// The scripts with their hashes.
#[derive(Debug)]
pub(super) struct Scripts {
    publish: Script,
    read: Script,
    texts: [String; 2],
}

impl Scripts {
    /// `sharded`: for a Cluster, where a room is announced by the server that has it.
    pub(super) fn new(sharded: bool) -> Self {
        let publish = if sharded { PUBLISH.replace("'PUBLISH'", "'SPUBLISH'") } else { PUBLISH.to_owned() };
        Self { publish: Script::new(&publish), read: Script::new(READ), texts: [publish, READ.to_owned()] }
    }

    /// What makes the server know both.
    pub(super) fn load(&self) -> redis::Pipeline {
        let mut pipeline = redis::pipe();
        for text in &self.texts {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(text);
        }
        pipeline
    }

    /// Adds one call of the publish script to a pipeline.
    pub(super) fn publish(&self, pipeline: &mut redis::Pipeline, jobs: &[Job], keys: &Keys, keep: &Keep, floor: u64) {
        let rows: usize = jobs.iter().map(|job| 1 + job.publication.unless.len()).sum();
        let call = pipeline.cmd("EVALSHA").arg(self.publish.get_hash()).arg(rows * 3);
        for Job { publication, .. } in jobs {
            let (meta, history) = (keys.meta(&publication.room), keys.history(&publication.room));
            let key = |key| keys.key(&publication.room, &publication.sender, key);
            for later in &publication.unless {
                call.arg(&meta).arg(&history).arg(key(later));
            }
            call.arg(&meta).arg(&history).arg(publication.key.as_ref().map(key).as_ref().unwrap_or(&meta));
        }
        call.arg(keep.history_size).arg(millis(keep.history_ttl)).arg(millis(keep.meta_ttl())).arg(random()).arg(floor);
        for Job { publication, .. } in jobs {
            for _ in &publication.unless {
                call.arg("").arg("").arg(0);
            }
            let ttl = publication.key.as_ref().map_or(0, |_| millis(publication.key_ttl.unwrap_or(keep.dedup_window)));
            call.arg(keys.channel(&publication.room)).arg(&publication.entry[..]).arg(ttl);
        }
    }

    /// One call of the read script.
    pub(super) fn read(&self, meta: &str, history: &str, from: &ReadFrom, limit: PageLimit, floor: u64) -> Cmd {
        let (mode, epoch, number) = match from {
            ReadFrom::After(after) => ("after", after.epoch.as_str(), after.seq),
            ReadFrom::Last(count) => ("last", "", *count),
            ReadFrom::Oldest => ("oldest", "", 0),
        };
        // The latest none are no publications.
        let items = if *from == ReadFrom::Last(0) { 0 } else { limit.items.max(1) };
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.read.get_hash()).arg(2).arg(meta).arg(history);
        call.arg(mode).arg(epoch).arg(number).arg(items).arg(limit.bytes).arg(random()).arg(floor);
        call
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn random() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// The receipts of one call, in order; `None` if the answer is not understood.
pub(super) fn receipts(answer: Vec<Value>, count: usize) -> Option<Vec<Result<Receipt, StoreError>>> {
    if answer.len() != count * 3 {
        return None;
    }
    let mut receipts = Vec::with_capacity(count);
    let mut values = answer.into_iter();
    let mut epoch = Epoch::default();
    while let (Some(name), Some(Value::Int(seq)), Some(Value::Int(flag))) =
        (values.next(), values.next(), values.next())
    {
        let name = text(name)?;
        if name != epoch.as_str() {
            epoch = Epoch::new(&name);
        }
        let position = Position { epoch: epoch.clone(), seq: u64::try_from(seq).ok()? };
        receipts.push(match flag {
            0 | 1 => Ok(Receipt { position, duplicate: flag == 1 }),
            2 => Err(StoreError::Unavailable),
            _ => Err(StoreError::Unknown),
        });
    }
    (receipts.len() == count).then_some(receipts)
}

/// A page; `None` if the answer is not understood.
pub(super) fn page(answer: Value) -> Option<Page> {
    let Value::Array(values) = answer else { return None };
    let Ok([epoch, seq, prev_epoch, prev_seq, first_seq, complete, entries]) = <[Value; 7]>::try_from(values) else {
        return None;
    };
    let Value::Array(entries) = entries else { return None };
    let prev_epoch = text(prev_epoch)?;
    let prev_seq = number(&prev_seq)?;
    Some(Page {
        position: Position::new(&text(epoch)?, number(&seq)?),
        prev: (!prev_epoch.is_empty()).then(|| Position::new(&prev_epoch, prev_seq)),
        first_seq: number(&first_seq)?,
        complete: number(&complete)? == 1,
        entries: entries.into_iter().map(bytes).collect::<Option<_>>()?,
    })
}

fn bytes(value: Value) -> Option<Bytes> {
    if let Value::BulkString(bytes) = value { Some(bytes.into()) } else { None }
}

pub(super) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    if let Value::Int(number) = value { u64::try_from(*number).ok() } else { None }
}
