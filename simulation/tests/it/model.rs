//! The model of a broker as a subject of the contract suite.

use std::sync::Arc;

use fanout::broker::{Events, Keep};
use service::Lifecycle;
use simulation::broker::ModelBroker;
use tokio_util::sync::CancellationToken;

use crate::subject::{Recorder, Subject};

impl Subject {
    pub(crate) fn model(keep: Keep) -> Self {
        let (events, lifecycle, end) = (Arc::<Recorder>::default(), Lifecycle::new(), CancellationToken::new());
        let broker = ModelBroker::alone(keep, Arc::clone(&events) as Arc<dyn Events>, &lifecycle, end.clone());
        Self { broker, events, server: None, lifecycle, end }
    }
}
