//! Clients, good and bad, and all that they are told.

use std::net::SocketAddr;

use serde_json::json;

use super::{BODY, Told};
use crate::harness::{Client, Edge, Opening, Token, get, now_s};

/// Three clients, each with its token in another place.
pub(super) async fn speak(edge: &Edge, told: &mut Told) -> Vec<Client> {
    let tokens = ["ana", "bob", "cleo"].map(|user| Token::of(user).sign());
    for token in &tokens {
        told.secret(token);
    }
    let bearer = format!("Bearer {}", tokens[0]);
    let mut clients = vec![
        Client::open(edge.ws, &[("authorization", &bearer)]).await.unwrap(),
        Client::connect(edge.ws, &tokens[1]).await,
        Client::open_url(&format!("ws://{}/ws?token={}", edge.ws, tokens[2])).await,
    ];
    for client in &mut clients {
        be_a_member(client, told).await;
    }
    show_what_is_wrong(&mut clients[0], &tokens[1], told).await;
    be_refused(edge.ws, &tokens[0], told).await;
    clients
}

async fn be_a_member(client: &mut Client, told: &mut Told) {
    let joined = client.ask("join", json!({"room": "lobby"})).await;
    let grant = joined.json["payload"]["grant"].as_str().unwrap().to_owned();
    told.secret(&grant);
    let again = client.ask("join", json!({"room": "lobby", "grant": grant})).await;
    assert!(again.is("joined"), "{}", again.text);
    let second = again.json["payload"]["grant"].as_str().unwrap();
    told.secret(second);
    // One's own grant is for one to know.
    told.answer("a member", joined.text.replace(&grant, "").replace(second, ""));
    told.answer("a member", again.text.replace(&grant, "").replace(second, ""));
    client.broadcast("lobby", &format!("\"{BODY}\"")).await;
}

/// Requests with tokens in them, of which none is done.
async fn show_what_is_wrong(client: &mut Client, of_another: &str, told: &mut Told) {
    let expired = Token::of("ana").with("exp", now_s() - 1).sign();
    let forged = format!("{}x", Token::of("ana").with("forged", 1).sign());
    for token in [of_another, &expired, &forged] {
        told.secret(token);
        told.answer("auth", client.ask("auth", json!({"token": token})).await.text);
    }
    // Not JSON, and not of a shape that is known.
    let newer = Token::of("ana").with("newer", 1).sign();
    told.secret(&newer);
    for malformed in [
        format!(r#"{{"type":"auth","payload":{{"token":"{newer}""#),
        format!(r#"{{"type":"auth","payload":"{newer}"}}"#),
        format!(r#"{{"type":"auth","payload":{{"token":{{"is":"{newer}"}}}}}}"#),
        format!(r#"{{"type":"join","payload":{{"room":"lobby","grant":["{newer}"]}}}}"#),
        format!(r#"{{"type":"join","payload":{{"room":"lobby","since":"{newer}"}}}}"#),
    ] {
        client.send(&malformed).await;
        told.answer("malformed", client.next("error").await.text);
    }
    told.answer("auth", client.ask("auth", json!({"token": newer})).await.text);
}

/// Sockets that nobody gets; and pages that are not there.
async fn be_refused(edge: SocketAddr, good: &str, told: &mut Told) {
    let expired = Token::of("dora").with("exp", now_s() - 1).sign();
    let forged = format!("{}x", Token::of("dora").sign());
    told.secret(&expired);
    told.secret(&forged);
    let opening = Opening::at(edge);
    let mut openings = vec![
        opening.clone().bearer(good).with("origin", "https://evil.example"),
        opening.clone().bearer(good).without("upgrade"),
        opening.clone().bearer(good).with("sec-websocket-version", "12"),
        opening.clone().protocols(&format!("bearer.{good}")),
        opening.clone().protocols(&format!("realtime.v1, bearer.{good}")),
        opening.clone().query(&format!("auto_join=perhaps&token={good}")),
    ];
    for bad in [&expired, &forged] {
        openings.push(opening.clone().bearer(bad));
        openings.push(opening.clone().query(&format!("token={bad}")));
        openings.push(opening.clone().protocols(&format!("chat, bearer.{bad}")));
        let browser = format!("realtime.v1, bearer.{bad}");
        let mut browser = Client::open(edge, &[("sec-websocket-protocol", &browser)]).await.unwrap();
        told.answer("a browser", browser.rest().await);
    }
    for opening in &openings {
        let answered = opening.send().await;
        told.answer("an opening", format!("{} {}", answered.head, answered.body));
    }
    for target in [format!("nowhere?token={good}"), good.to_owned(), format!("ws?token={good}")] {
        let (status, body) = get(&format!("http://{edge}/{target}")).await;
        told.answer("a page", format!("{status} {body}"));
    }
}

/// What they had not asked for yet, and how they were closed.
pub(super) async fn hear_the_end(clients: Vec<Client>, told: &mut Told) {
    for mut client in clients {
        let rest = client.rest().await;
        assert!(rest.contains(BODY) && rest.ends_with("1012 restarting"), "{rest}");
        told.answer("the end", rest);
    }
}
