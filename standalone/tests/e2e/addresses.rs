//! `ADDRESS_RATE` and `TRUSTED_PROXIES`: new sockets of one address.

use tokio::time::Instant;

use crate::harness::{Edge, Opening, Stage, Token, free_port, refused};

const EVIL: &str = "https://evil.example";

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_so_many_new_sockets_a_second() {
    let stage = Stage::plan().with("ADDRESS_RATE", "5/s").start().await;
    let edge = stage.edge(0);
    let good = Opening::at(edge.ws).bearer(&Token::of("ana").sign());
    let start = Instant::now();
    let mut let_in = 0;
    for _ in 0..30 {
        let answered = good.clone().from([127, 0, 0, 2]).send().await;
        match answered.status {
            101 => let_in += 1,
            _ => assert_eq!((answered.status, &answered.body["payload"]["code"]), (429, &"rate_limited".into())),
        }
    }
    let most = 6 + u64::try_from(start.elapsed().as_millis()).unwrap() / 200;
    assert!((5..=most).contains(&let_in), "{let_in} of {most}");
    assert_eq!(refused(edge.ops, "rate_limited").await, 30 - let_in);

    // Another one is served, and has its own.
    assert_eq!(good.clone().from([127, 0, 0, 3]).send().await.status, 101);
    // Before the origin, after the state: what is not ready counts for nobody.
    let foreign = good.clone().with("origin", EVIL).from([127, 0, 0, 4]);
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "rate_limited") && codes.len() < 1000 {
        codes.push(foreign.refused().await.1);
    }
    let (last, before) = codes.split_last().unwrap();
    assert!(before.len() >= 5 && before.iter().all(|code| code == "origin_not_allowed"), "{codes:?}");
    assert_eq!(last, "rate_limited");
    let settings = [("ADDRESS_RATE".to_owned(), "1/s".to_owned())];
    let lonely = Edge::start(&[([127, 0, 0, 1], free_port()).into()], &settings);
    for _ in 0..5 {
        assert_eq!(Opening::at(lonely.ws).refused().await, (503, "not_ready".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_address_is_the_clients() {
    let plan = Stage::plan().with("ADDRESS_RATE", "1/s").with("TRUSTED_PROXIES", "127.0.0.2, 10.0.0.0/8");
    let stage = plan.start().await;
    // Refused by its token, after it was counted.
    let status = async |from: [u8; 4], forwarded: &str| {
        Opening::at(stage.edge(0).ws).from(from).with("x-forwarded-for", forwarded).send().await.status
    };
    let (proxy, stranger) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    for client in 1..=20 {
        assert_eq!(status(proxy, &format!("198.51.100.1, 192.0.2.{client}, 10.0.0.9")).await, 401, "{client}");
    }
    // Over the rate, if asked often enough for the machine it is; whatever is said of others.
    let limited = async |from: [u8; 4], client: Option<&str>| {
        for other in 0..1000 {
            let client = client.map_or_else(|| format!("192.0.2.{}", other % 200), ToOwned::to_owned);
            if status(from, &format!("198.51.100.{}, {client}", other % 200)).await == 429 {
                return true;
            }
        }
        false
    };
    assert!(limited(proxy, Some("192.0.2.20")).await, "one client");
    assert!(limited(stranger, None).await, "no proxy of ours");
}
