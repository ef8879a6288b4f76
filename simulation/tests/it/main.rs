//! The simulation's own tests. Without `--cfg simulation` there are none: see the Makefile.
#![cfg(simulation)]
#![expect(clippy::unwrap_used, reason = "tests")]

/// Runs each case of the contract of brokers on the model.
macro_rules! contract {
    ($($case:ident($keep:expr);)*) => {
        mod on_the_model {
            $(#[test]
            fn $case() {
                simulation::run::alone(1, async {
                    let subject = crate::subject::Subject::model($keep);
                    super::$case(&subject).await;
                    subject.finish().await;
                });
            })*
        }
    };
}

mod campaign;
mod ci;
#[path = "../../../fanout/tests/it/contract.rs"]
mod contract;
mod model;
#[path = "../../../fanout/tests/it/patience.rs"]
mod patience;
mod seeds;
#[path = "../../../fanout/tests/it/subject.rs"]
mod subject;

/// The model has no server of its own to be asked.
enum Server {}

impl Server {
    #[expect(clippy::unused_async, reason = "as a real one")]
    async fn ask<T>(&self, _: &[&str]) -> T {
        match *self {}
    }
}
