use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proto::Room;
use reqwest::Url;

use super::question::Question;

/// All but the characters that a URL never encodes (RFC 3986, 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a pattern and its path have in common.
const ID: &str = "{id}";

/// `JOIN_ROUTES`: which path of the backend is asked about which rooms; the first match wins, and about all others
/// `/ws/can_join` is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinRoutes(Box<[Route]>);

/// `order-{id}=/orders/{id}/can_access`, each side without its `{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    room: (Box<str>, Box<str>),
    path: (Box<str>, Box<str>),
}

impl JoinRoutes {
    /// Reads the setting; blank: none.
    pub fn try_new(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        text.split(',').map(|entry| Route::try_new(entry.trim())).collect::<Result<_, _>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Path and query of the question.
    pub(super) fn target(&self, question: &Question) -> String {
        let room = &question.room;
        let user = utf8_percent_encode(&question.user, ENCODED);
        match self.0.iter().find_map(|route| Some((route, route.id_of(room)?))) {
            Some((Route { path: (before, after), .. }, id)) => {
                format!("{before}{}{after}?user_id={user}", utf8_percent_encode(id, ENCODED))
            }
            None => format!("/ws/can_join?room={}&user_id={user}", utf8_percent_encode(room, ENCODED)),
        }
    }
}

impl Route {
    fn try_new(entry: &str) -> Result<Self, String> {
        let (room, path) = entry
            .split_once('=')
            .ok_or_else(|| format!("{entry:?} is not a route: write order-{{id}}=/orders/{{id}}/can_access"))?;
        let (room, path) = (room.trim_end(), path.trim_start());
        let route = Self { room: around_id(room)?, path: around_id(path)? };
        let (before, after) = &route.room;
        if Room::try_new(&format!("{before}x{after}")).is_err() {
            return Err(format!("{room:?} matches no name of a room"));
        }
        let (before, after) = &route.path;
        if !before.starts_with('/') || !before.ends_with('/') || !(after.is_empty() || after.starts_with('/')) {
            return Err(format!("{path:?}: {ID} is a whole segment of a path that begins with /"));
        }
        // What a URL would encode, drop (`..`) or take for a query is not what was meant.
        let plain = format!("http://backend{before}x{after}");
        let url = Url::parse(&plain).ok().filter(|url| url.query().is_none() && url.fragment().is_none());
        if url.is_none_or(|url| url.as_str() != plain) {
            return Err(format!("{path:?} is not a path as URLs have it"));
        }
        Ok(route)
    }

    /// What stands for `{id}` in this room's name, if it matches.
    fn id_of<'a>(&self, room: &'a Room) -> Option<&'a str> {
        let (before, after) = &self.room;
        let id = room.strip_prefix(&**before)?.strip_suffix(&**after)?;
        // As a segment they would lead elsewhere, encoded or not.
        (!matches!(id, "" | "." | "..")).then_some(id)
    }
}

fn around_id(text: &str) -> Result<(Box<str>, Box<str>), String> {
    match text.split_once(ID) {
        Some((before, after)) if !before.contains(['{', '}']) && !after.contains(['{', '}']) => {
            Ok((before.into(), after.into()))
        }
        _ => Err(format!("{text:?} must have {ID} in it, once, and no other braces")),
    }
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;
    use crate::auth::UserId;

    const ROUTES: &str =
        "order-{id}=/orders/{id}/can_access, order-{id}=/never,seller-{id}-chat=/sellers/{id},{id}!=/x/{id}/";

    fn routes() -> JoinRoutes {
        JoinRoutes::try_new(&ROUTES.replace("/never", "/never/{id}")).unwrap()
    }

    fn target(room: &str, user: &str) -> String {
        routes().target(&Question {
            room: Room::try_new(room).unwrap(),
            user: UserId::try_new(user).unwrap(),
            token: None,
            removed: 0,
        })
    }

    #[test]
    fn the_first_route_that_matches_is_asked() {
        for (room, asked) in [
            ("order-42", "/orders/42/can_access?user_id=7"),
            ("seller-9-chat", "/sellers/9?user_id=7"),
            ("order-1!", "/orders/1%21/can_access?user_id=7"),
            ("wow!", "/x/wow/?user_id=7"),
            ("order-a/b?c=d&e#f%2e", "/orders/a%2Fb%3Fc%3Dd%26e%23f%252e/can_access?user_id=7"),
            ("order-é 1", "/orders/%C3%A9%201/can_access?user_id=7"),
            ("order-...", "/orders/.../can_access?user_id=7"),
            ("order-%2E%2e", "/orders/%252E%252e/can_access?user_id=7"),
            ("order-\\..\\", "/orders/%5C..%5C/can_access?user_id=7"),
            // No match: nothing for the id, or what a path takes for more than a name.
            ("order-", "/ws/can_join?room=order-&user_id=7"),
            ("order-.", "/ws/can_join?room=order-.&user_id=7"),
            ("order-..", "/ws/can_join?room=order-..&user_id=7"),
            ("seller-chat", "/ws/can_join?room=seller-chat&user_id=7"),
            ("Order-42", "/ws/can_join?room=Order-42&user_id=7"),
            ("reorder-42", "/ws/can_join?room=reorder-42&user_id=7"),
        ] {
            assert_eq!(target(room, "7"), asked, "{room}");
        }
        assert_eq!(target("order-42", "7&x=/8"), "/orders/42/can_access?user_id=7%26x%3D%2F8");
    }

    #[test]
    fn a_blank_setting_is_no_route() {
        for blank in ["", "  "] {
            assert!(JoinRoutes::try_new(blank).unwrap().is_empty());
        }
    }

    #[test]
    fn bad_routes_are_refused() {
        for bad in [
            "order-{id}",
            "order-{id}=",
            "=/orders/{id}",
            "order=/orders/{id}",
            "order-{id}=/orders",
            "order-{id}=orders/{id}",
            "order-{id}={id}",
            "order-{id}=/orders/{id}x",
            "order-{id}=/orders/x{id}",
            "order-{id}=/orders/{id}/{id}",
            "{id}-{id}=/orders/{id}",
            "order-{name}=/orders/{name}",
            "order-{id}-{x}=/orders/{id}",
            "order-{id}=/orders/{id}?x",
            "order-{id}=/orders/{id}/#x",
            "order-{id}=/orders/../{id}",
            "order-{id}=/./{id}",
            "order-{id}=/%2e%2e/{id}",
            "order-{id}=/two words/{id}",
            "order-{id}=/é/{id}",
            "order-{id}=/a\\{id}",
            "order-\n{id}=/orders/{id}",
            "order-{id}=/orders/{id},",
            ",",
        ] {
            assert!(JoinRoutes::try_new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// However it is named, a room stays in its segment: what is asked has the route's path, and the id, decoded, in
        /// its place; no other user, and no other parameter.
        #[test]
        fn a_room_never_escapes_its_segment(
            id in prop_oneof!["\\PC{1,40}", "[./%2eE5cfF?#&=;\\\\@:]{1,12}"],
            user in prop_oneof!["\\PC{1,40}", "[./%&=?#]{1,12}"],
        ) {
            let (Ok(room), Ok(user)) = (Room::try_new(&format!("order-{id}")), UserId::try_new(&user)) else {
                return Ok(());
            };
            let target = routes().target(&Question { room: room.clone(), user: user.clone(), token: None, removed: 0 });
            let url = Url::parse(&format!("http://backend/api{target}")).unwrap();
            prop_assert_eq!((url.host_str(), url.fragment()), (Some("backend"), None));
            let segments: Vec<_> = url.path_segments().unwrap().collect();
            let mut expected = vec![("user_id".to_owned(), user.to_string())];
            if matches!(&*id, "." | "..") {
                prop_assert_eq!(segments, ["api", "ws", "can_join"]);
                expected.insert(0, ("room".to_owned(), room.to_string()));
            } else {
                prop_assert_eq!(segments.len(), 4);
                prop_assert_eq!((segments[0], segments[1], segments[3]), ("api", "orders", "can_access"));
                let decoded = percent_decode_str(segments[2]).decode_utf8().unwrap();
                prop_assert_eq!(&*decoded, &*id);
            }
            let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            prop_assert_eq!(pairs, expected);
        }
    }
}
