//! The status as lines, one each second. A line is made once for all streams, and there are only so many of these: a
//! console that nobody closes costs little, and many cost no more.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse as _, Response},
};
use futures_util::StreamExt as _;
use serde_json::Value;
use service::limit;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::IntervalStream;

use super::{Api, error::HttpError, report};
use crate::defaults::STATUS_STREAMS;

/// Between two lines of a stream.
const PERIOD: Duration = Duration::from_secs(1);

/// A line is good for so long: a little less than a period, so that each stream gets another one each second.
const GOOD_FOR: Duration = Duration::from_millis(900);

/// All streams of the node. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    places: Arc<Semaphore>,
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Inner { places: Arc::new(Semaphore::new(limit(STATUS_STREAMS))), last: Mutex::default() }))
    }
}

impl Streams {
    /// The status as a line, now and each second, until the node drains.
    pub(super) fn open(&self, api: &Api) -> Result<Response, HttpError> {
        let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() else {
            return Err(HttpError::too_many_streams());
        };
        let (reporting, drain) = (api.clone(), api.drain.clone());
        let mut seconds = interval(PERIOD);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let lines = IntervalStream::new(seconds).map(move |_| {
            // Free again with the stream.
            let _ = &place;
            Ok::<_, Infallible>(reporting.streams.line(|| report::status(&reporting)))
        });
        let body = Body::from_stream(lines.take_until(drain.cancelled_owned()));
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
    }

    fn line(&self, make: impl FnOnce() -> Value) -> Bytes {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, line)) if at.elapsed() < GOOD_FOR => line.clone(),
            _ => {
                let line = Bytes::from(format!("{}\n", make()));
                *last = Some((Instant::now(), line.clone()));
                line
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_made_once_a_second_for_all() {
        let (streams, made) = (Streams::default(), Cell::new(0));
        let line = || {
            streams.line(|| {
                made.set(made.get() + 1);
                made.get().into()
            })
        };
        assert!((0..1000).all(|_| line() == "1\n"));
        tokio::time::advance(PERIOD).await;
        assert!((0..1000).all(|_| line() == "2\n"));
    }
}
