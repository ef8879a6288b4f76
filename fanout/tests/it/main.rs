//! Fanout from outside: real listeners, real clients, and both brokers under one contract.

#![expect(clippy::unwrap_used, reason = "tests")]

use redis_server::RedisServer as Server;

/// Runs each case on the memory broker, on a real Redis, on one that a Sentinel names, and on a Cluster.
macro_rules! contract {
    ($($case:ident($keep:expr);)*) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $case() {
                let subject = crate::subject::Subject::memory($keep);
                super::$case(&subject).await;
                subject.finish().await;
            })*
        }
        mod on_redis {
            $(#[tokio::test]
            async fn $case() {
                let subject = crate::subject::Subject::redis($keep).await;
                super::$case(&subject).await;
                subject.finish().await;
            })*
        }
        mod on_cluster {
            /// On one for all of them, as it takes a while to form.
            #[tokio::test]
            async fn every_case() {
                let cluster = crate::redis_cluster::RedisCluster::start().await;
                $({
                    let subject = cluster.subject(stringify!($case), $keep).await;
                    super::$case(&subject).await;
                    subject.finish().await;
                    println!("{}: well", stringify!($case));
                })*
            }
        }
        mod on_sentinel {
            $(#[tokio::test]
            async fn $case() {
                let subject = crate::subject::Subject::sentinel($keep).await;
                super::$case(&subject).await;
                subject.finish().await;
            })*
        }
    };
}

mod api;
mod brokers;
mod cluster;
mod contract;
mod crowd;
mod door;
mod drain;
mod failover;
mod hearing;
mod history;
mod hold_back;
mod joined;
mod link;
mod memory;
mod patience;
mod process;
mod proxy;
mod publish_api;
mod publish_stream;
mod queues;
mod redis;
mod redis_cluster;
mod redis_node;
mod redis_server;
mod removals;
mod safety;
mod sentinel;
mod sentinels;
mod shares;
mod status;
mod subject;
mod support;
mod sweep;
mod tls;
