//! Names, keys and JSON as `PROTOCOL.md` and RFC 8259 have them, read plainly: what the tiers take must be this, and
//! nothing else.

/// The name of a room, or not.
pub(crate) fn is_room(name: &str) -> bool {
    let controls = |c: char| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}');
    let ends = [name.chars().next(), name.chars().next_back()];
    (1..=200).contains(&name.len())
        && !name.chars().any(controls)
        && !ends.into_iter().flatten().any(char::is_whitespace)
}

/// A key, or none.
pub(crate) fn is_key(key: &str) -> bool {
    key.len() <= 128
}

/// Who may be named as the sender of a broadcast.
pub(crate) fn is_sender(user: &str) -> bool {
    (1..=200).contains(&user.len()) && !user.starts_with('@')
}

/// What a segment of a path says, if it is UTF-8: `%` and two digits are a byte, all else stands for itself.
pub(crate) fn percent_decoded(segment: &str) -> Option<String> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (bytes, mut at, mut decoded) = (segment.as_bytes(), 0, Vec::new());
    while let Some(byte) = bytes.get(at) {
        match (*byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high * 16 + low);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

/// Whether it is one JSON value in UTF-8, with white space around it or not.
pub(crate) fn is_json(bytes: &[u8]) -> bool {
    let mut text = Text(bytes);
    std::str::from_utf8(bytes).is_ok() && {
        text.space();
        text.value().is_some() && {
            text.space();
            text.0.is_empty()
        }
    }
}

/// What is left to be read. Each reading is `None` if it is not there.
struct Text<'a>(&'a [u8]);

impl Text<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Reads the byte if it is one of these.
    fn one_of(&mut self, these: &[u8]) -> Option<u8> {
        let first = self.0.first().filter(|first| these.contains(first))?;
        self.0 = &self.0[1..];
        Some(*first)
    }

    fn space(&mut self) {
        while self.one_of(b" \t\r\n").is_some() {}
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(word)?;
        Some(())
    }

    fn value(&mut self) -> Option<()> {
        match self.0.first()? {
            b'{' => self.list(b'}', |text| {
                text.string()?;
                text.space();
                text.word(b":")?;
                text.space();
                text.value()
            }),
            b'[' => self.list(b']', Self::value),
            b'"' => self.string(),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    /// Items between brackets, of which the first is here.
    fn list(&mut self, end: u8, item: impl Fn(&mut Self) -> Option<()>) -> Option<()> {
        self.next()?;
        self.space();
        if self.one_of(&[end]).is_some() {
            return Some(());
        }
        loop {
            item(self)?;
            self.space();
            if self.one_of(&[b',', end])? == end {
                return Some(());
            }
            self.space();
        }
    }

    fn string(&mut self) -> Option<()> {
        self.word(b"\"")?;
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' if self.one_of(b"u").is_some() => {
                    for _ in 0..4 {
                        self.one_of(b"0123456789abcdefABCDEF")?;
                    }
                }
                b'\\' => drop(self.one_of(b"\"\\/bfnrt")?),
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        self.one_of(b"0123456789")?;
        while self.one_of(b"0123456789").is_some() {}
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.one_of(b"-");
        if self.one_of(b"0").is_none() {
            self.digits()?;
        }
        if self.one_of(b".").is_some() {
            self.digits()?;
        }
        if self.one_of(b"eE").is_some() {
            let _ = self.one_of(b"+-");
            self.digits()?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_the_standard_says() {
        for good in ["0", " [] ", "-0.5e+7", r#"{"a":[1,{},"\u00e9\n"],"a":null}"#, r#""\ud800""#, "true"] {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in ["", "01", "+1", "1.", ".5", "[1,]", "{\"a\"}", "{,}", "\"\n\"", r#""\x""#, "1 2", "nul", "'a'"] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
        assert!(!is_json(b"\"\xff\""));
    }

    #[test]
    fn segments_are_decoded_once() {
        assert_eq!(percent_decoded("a%2Fb%2525%zz%4").as_deref(), Some("a/b%25%zz%4"));
        assert_eq!(percent_decoded("%ff"), None);
    }
}
