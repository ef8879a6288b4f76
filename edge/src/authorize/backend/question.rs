use std::{
    num::{NonZeroU64, NonZeroU128},
    time::Duration,
};

use aws_lc_rs::digest;
use http::{StatusCode, header};
use proto::Room;
use reqwest::Client;

use super::{
    BackendConfig,
    answer::{self, Answer, Verdict},
    routes::JoinRoutes,
};
use crate::{
    auth::UserId,
    outbound::{self, ClientError},
};

/// Longest answer, in bytes: a hundred times what it needs, and small enough to hold one for each question under way.
const MAX_ANSWER_BYTES: usize = 4 << 10;

/// May this user join this room?
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) room: Room,
    pub(super) user: UserId,
    /// What the backend sees of the token may change its answer.
    pub(super) token: Option<TokenHash>,
    /// Asked after this removal of the user.
    pub(super) removed: u64,
}

/// Stands for a token that is forwarded: what is kept with an answer is of no use to a thief.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenHash([u8; digest::SHA256_OUTPUT_LEN]);

impl TokenHash {
    pub(super) fn of(token: &str) -> Self {
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Self(hash)
    }
}

/// `BACKEND_URL`: `http` or `https`, perhaps with a path, to which the route is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendUrl(String);

impl BackendUrl {
    pub fn try_new(text: &str) -> Result<Self, String> {
        let url = outbound::parse_url(text)?;
        if url.query().is_some() || url.fragment().is_some() {
            Err("the URL to which routes are added has neither ? nor #".to_owned())
        } else {
            Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
        }
    }
}

/// Why there is no answer. The text is for the log; it names neither room nor user.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("too many questions wait already")]
    QueueFull,
    #[error("no place came free in time")]
    QueueTime,
    #[error("no answer in time")]
    Timeout,
    #[error("{}", outbound::causes(.0))]
    Transport(reqwest::Error),
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    #[error("the answer is not the JSON agreed on")]
    Malformed,
}

impl Failure {
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueTime => "queue_time",
            Self::Timeout => "timeout",
            Self::Transport(_) => "transport",
            Self::Status(_) => "status",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
        }
    }
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Transport(error.without_url())
    }
}

/// Asks one question at a time, over connections that are kept.
#[derive(Debug)]
pub(super) struct Asker {
    client: Client,
    url: BackendUrl,
    routes: JoinRoutes,
    timeout: Duration,
}

impl Asker {
    pub(super) fn new(config: BackendConfig) -> Result<Self, ClientError> {
        let client = outbound::client().pool_max_idle_per_host(config.max_inflight).build()?;
        Ok(Self { client, url: config.url, routes: config.routes, timeout: config.timeout })
    }

    /// `token`: shown to the backend, if it is to see it.
    pub(super) async fn ask(&self, question: &Question, token: Option<&str>) -> Result<Answer, Failure> {
        let exchange = async {
            let mut request = self.client.get(self.target(question)).header(header::ACCEPT, "application/json");
            request = request.header("traceparent", traceparent());
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            let response = request.send().await?;
            match answer::verdict(response.status()) {
                Verdict::ReadBody => {
                    let body = outbound::body(response, MAX_ANSWER_BYTES).await?.ok_or(Failure::TooLong)?;
                    answer::parse(&body).ok_or(Failure::Malformed)
                }
                Verdict::No => Ok(Answer::No),
                Verdict::Unanswered => Err(Failure::Status(response.status())),
            }
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(Failure::Timeout))
    }

    fn target(&self, question: &Question) -> String {
        format!("{}{}", self.url.0, self.routes.target(question))
    }
}

/// Begins a trace of its own (W3C Trace Context, level 1), not sampled: no spans are recorded here that it could continue.
fn traceparent() -> String {
    // All zeros would be invalid.
    let (trace, parent): (NonZeroU128, NonZeroU64) = rand::random();
    format!("00-{trace:032x}-{parent:016x}-00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_and_user_are_percent_encoded() {
        let question = |room: &str, user: &str| Question {
            room: Room::try_new(room).unwrap(),
            user: UserId::try_new(user).unwrap(),
            token: None,
            removed: 0,
        };
        let can_join = |base: &str, question: &Question| {
            let url = BackendUrl::try_new(base).unwrap();
            format!("{}{}", url.0, JoinRoutes::default().target(question))
        };
        let odd = question("a&b=c d/é+#%", "7?&x");
        for base in ["http://backend:3000/api", "http://backend:3000/api/"] {
            assert_eq!(
                can_join(base, &odd),
                "http://backend:3000/api/ws/can_join?room=a%26b%3Dc%20d%2F%C3%A9%2B%23%25&user_id=7%3F%26x"
            );
        }
        let plain = can_join("https://backend", &question("a-b.c_d~e", "7"));
        assert_eq!(plain, "https://backend/ws/can_join?room=a-b.c_d~e&user_id=7");
    }

    #[test]
    fn each_question_begins_a_trace_of_its_own() {
        let one = traceparent();
        let parts: Vec<_> = one.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{one}");
        assert!(parts.concat().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)), "{one}");
        assert_eq!((parts[0], parts[3]), ("00", "00"));
        assert!(parts[1..3].iter().all(|id| id.contains(|c| c != '0')), "{one}");
        assert_ne!(one, traceparent());
    }

    #[test]
    fn bad_urls_are_refused() {
        for bad in ["", "backend", "ftp://backend", "http://u:p@b", "http://b?x", "http://b#x"] {
            assert!(BackendUrl::try_new(bad).is_err(), "{bad}");
        }
    }
}
