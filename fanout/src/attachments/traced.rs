use std::collections::VecDeque;

use proto::{Room, Stamp};
use service::traces::{Span, Traces};

use crate::room::Run;

/// Most spans of one queue; those of further publications are not made.
const MOST: usize = 256;

/// Spans of the traced publications in an attachment's queue, which end when it hands them to the link.
#[derive(Debug)]
pub(super) struct Traced {
    traces: Traces,
    spans: VecDeque<(Room, u64, Span)>,
}

impl Traced {
    pub(super) fn new(traces: Traces) -> Self {
        Self { traces, spans: VecDeque::new() }
    }

    pub(super) fn queued(&mut self, room: &Room, run: &Run) {
        if !self.traces.is_on() {
            return;
        }
        for (seq, entry) in (run.first_seq..).zip(&run.entries) {
            let parent = Stamp::of(entry).and_then(|stamp| self.traces.parent(stamp.traceparent));
            if let Some(parent) = parent.filter(|_| self.spans.len() < MOST) {
                self.spans.push_back((room.clone(), seq, parent.span("link")));
            }
        }
    }

    pub(super) fn taken(&mut self, room: &Room, run: &Run) {
        if !self.spans.is_empty() {
            let in_run = run.first_seq..=run.last_seq();
            self.spans.retain(|(of, seq, _)| of != room || !in_run.contains(seq));
        }
    }

    pub(super) fn clear(&mut self) {
        self.spans.clear();
    }
}
