use super::BODY;

/// What was told to anybody, and what must not be in it.
#[derive(Debug)]
pub(super) struct Told {
    secrets: Vec<String>,
    /// Where, and what.
    texts: Vec<(String, String)>,
}

impl Told {
    pub(super) fn of(secrets: &[&str]) -> Self {
        Self { secrets: secrets.iter().map(|&secret| secret.to_owned()).collect(), texts: Vec::new() }
    }

    /// One more secret. Of a token or grant its telling part as well.
    pub(super) fn secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
        self.secrets.extend(secret.rsplit_once('.').map(|(_, signature)| signature.to_owned()));
    }

    pub(super) fn answer(&mut self, to: &str, text: impl Into<String>) {
        self.texts.push((to.to_owned(), text.into()));
    }

    /// What those see who are no members of a room.
    pub(super) fn private(&mut self, place: &str, text: impl Into<String>) {
        let text = text.into();
        assert!(!text.is_empty(), "{place}: nothing was told");
        assert!(!text.contains(BODY), "{place} has a body");
        self.answer(place, text);
    }

    /// There is none, as it is or as the bytes it is made of.
    pub(super) fn is_clean(&self) {
        let mut found = Vec::new();
        for secret in &self.secrets {
            let bytes = format!("{:?}", secret.as_bytes());
            let hex = secret.bytes().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            let forms = [secret, bytes.trim_matches(['[', ']']), &hex];
            let places = self.texts.iter().filter(|(_, text)| forms.iter().any(|form| text.contains(form)));
            found.extend(places.map(|(place, _)| format!("{place}: {secret}")));
        }
        assert!(
            found.is_empty(),
            "of {} secrets in {} texts:\n{}",
            self.secrets.len(),
            self.texts.len(),
            found.join("\n")
        );
    }
}

#[test]
#[should_panic(expected = "a place: s3cret")]
fn what_is_told_as_bytes_is_found() {
    let mut told = Told::of(&["s3cret"]);
    told.private("a place", format!("{:?}", b"a s3cret of ours"));
    told.is_clean();
}
