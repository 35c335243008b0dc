//! The notation in which nearly every request is written, read in a quarter of the instructions that a general
//! reader takes: one object of plain strings, none with an escape. Whatever isn't of that notation is left to the
//! general reader, the only one that says what is wrong; so what is read here must be all that it would read.

use std::borrow::Cow;

use memchr::memchr2;

use super::{Fields, Text};

/// Reads an object of that notation; none for any other text.
pub(super) fn read(text: &[u8]) -> Option<Fields<'_>> {
    let text = text.trim_ascii();
    // No control character stands in a string, and between strings hardly anybody writes one. Looked for without a
    // way out of the loop, which then takes many bytes at a time, and, as UTF-8 is, over all the text at once.
    if text.iter().copied().fold(u8::MAX, u8::min) < b' ' {
        return None;
    }
    let mut reader = Reader { rest: std::str::from_utf8(text).ok()? };
    let (mut id, mut qr, mut at, mut direction) = (None, None, None, None);
    reader.token(b'{')?;
    loop {
        reader.skip_spaces();
        let slot = if reader.follows("\"id\"") {
            &mut id
        } else if reader.follows("\"qr\"") {
            &mut qr
        } else if reader.follows("\"at\"") {
            &mut at
        } else if reader.follows("\"direction\"") {
            &mut direction
        } else {
            return None;
        };
        reader.token(b':')?;
        if slot.replace(Cow::Borrowed(reader.string()?)).is_some() {
            return None;
        }
        if reader.token(b',').is_none() {
            break;
        }
    }
    reader.token(b'}')?;
    reader.rest.is_empty().then_some(())?;
    Some(Fields { id: id?, qr: qr?, at: at.map(Text), direction: direction.map(Text) })
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_spaces(&mut self) {
        while let Some(b' ') = self.rest.as_bytes().first() {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
    }

    /// Whether this comes next; if so, it is passed over.
    fn follows(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn token(&mut self, token: u8) -> Option<()> {
        self.skip_spaces();
        if *self.rest.as_bytes().first()? != token {
            return None;
        }
        self.rest = self.rest.get(1..)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        self.token(b'"')?;
        let (text, rest) = self.rest.split_at_checked(memchr2(b'"', b'\\', self.rest.as_bytes())?)?;
        // A backslash is none.
        self.rest = rest.strip_prefix('"')?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owned(fields: &Fields<'_>) -> [Option<String>; 4] {
        let text = |text: &Option<Text<'_>>| text.as_ref().map(|Text(text)| text.to_string());
        [Some(fields.id.to_string()), Some(fields.qr.to_string()), text(&fields.at), text(&fields.direction)]
    }

    #[test]
    fn the_usual_notations_are_read() {
        for text in [
            r#"{"id":"a","qr":"x|Phố Huế","at":"2021-11-24T06:49:29Z","direction":"in"}"#,
            "{ \"qr\" : \"\u{7f}\",  \"id\": \"\" } \r\n",
        ] {
            let (plain, general) =
                (read(text.as_bytes()).unwrap(), serde_json::from_str::<Fields<'_>>(text).unwrap());
            assert_eq!(owned(&plain), owned(&general));
        }
    }

    #[test]
    fn everything_else_is_left_to_the_general_reader() {
        for text in [
            r#"{"id":"a\n","qr":"x"}"#,
            r#"{"id":"a","qr":"x","at":null}"#,
            r#"{"id":"a","qr":"x","id":"a"}"#,
            r#"{"id":"a","qr":"x",}"#,
            r#"{"id":"a","qr":"x"}}"#,
            r#"{"id":"a","qr":"x","more":"y"}"#,
            r#"{"id":"a"}"#,
            r#"{"\u0069d":"a","qr":"x"}"#,
            "{\"id\":\"a\",\n\"qr\":\"x\"}",
            "{\"id\":\"a\",\"qr\":\"\t\"}",
            "{}",
            "",
        ] {
            assert!(read(text.as_bytes()).is_none(), "{text}");
        }
        assert!(read(b"{\"id\":\"a\",\"qr\":\"\xff\"}").is_none());
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_the_general_reader_reads(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", "\"", ":", ",", " ", "\n", "\\", "\\u0041", "\u{1}", "\u{7f}", "ố", "null", "[", "7",
                "\"id\":\"a\"", "\"qr\":\"x\"", "\"at\": \"noon\"", "\"direction\" :\"in\"", "{\"id\":\"a\",\"qr\":\"",
            ]), 0..12),
            junk in prop::collection::vec(any::<u8>(), 0..3),
        ) {
            let mut text = pieces.concat().into_bytes();
            text.extend(junk);
            if let Some(plain) = read(&text) {
                let general: Fields<'_> = serde_json::from_slice(&text).expect("a text that was read");
                prop_assert_eq!(owned(&plain), owned(&general));
            }
        }
    }
}
