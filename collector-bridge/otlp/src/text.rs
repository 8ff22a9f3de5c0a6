//! Escapes bytes of unknown origin, so that backends accept the text and it cannot control a terminal.

/// Appends `raw` to `out` as at most `limit` bytes of UTF-8. Bytes that are invalid UTF-8, control characters
/// (C0 with NUL, DEL, C1) and line separators become `\xNN`, and a backslash becomes `\\`. The text is never
/// cut within a character or an escape.
pub fn escape_into(out: &mut Vec<u8>, raw: &[u8], limit: usize) {
    let end = out.len() + limit;
    for chunk in raw.utf8_chunks() {
        for character in chunk.valid().chars() {
            if !push_character(out, character, end) {
                return;
            }
        }
        for &byte in chunk.invalid() {
            if !push_escaped(out, byte, end) {
                return;
            }
        }
    }
}

/// Like [`escape_into`], but returns a new string.
#[must_use]
pub fn escape(raw: &[u8], limit: usize) -> String {
    let mut out = Vec::with_capacity(raw.len().min(limit));
    escape_into(&mut out, raw, limit);
    String::from_utf8(out).unwrap_or_default()
}

fn push_character(out: &mut Vec<u8>, character: char, end: usize) -> bool {
    let mut buffer = [0; 4];
    match character {
        '\\' => push_whole(out, br"\\", end),
        // The line and the paragraph separator end a line on some terminals and in JavaScript.
        '\u{2028}' | '\u{2029}' => {
            character.encode_utf8(&mut buffer).bytes().all(|byte| push_escaped(out, byte, end))
        }
        _ if character.is_control() => {
            character.encode_utf8(&mut buffer).bytes().all(|byte| push_escaped(out, byte, end))
        }
        _ => push_whole(out, character.encode_utf8(&mut buffer).as_bytes(), end),
    }
}

fn push_escaped(out: &mut Vec<u8>, byte: u8, end: usize) -> bool {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    push_whole(out, &[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]], end)
}

fn push_whole(out: &mut Vec<u8>, piece: &[u8], end: usize) -> bool {
    let fits = out.len() + piece.len() <= end;
    if fits {
        out.extend_from_slice(piece);
    }
    fits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn printable_text_stays_and_other_bytes_are_escaped() {
        assert_eq!(escape("nginx: ä 漢".as_bytes(), 64), "nginx: ä 漢");
        assert_eq!(escape(b"a\x1b[31m\0\n\\ \xff\x7f", 64), r"a\x1b[31m\x00\x0a\\ \xff\x7f");
        assert_eq!(escape("\u{85}\u{2028}".as_bytes(), 64), r"\xc2\x85\xe2\x80\xa8");
    }

    #[test]
    fn nothing_is_cut_in_the_middle() {
        assert_eq!(escape("ää".as_bytes(), 3), "ä");
        assert_eq!(escape(b"ab\x01", 5), "ab");
        assert_eq!(escape(b"ab\\", 3), "ab");
    }

    proptest! {
        #[test]
        fn any_bytes_are_one_printable_line_within_the_limit(raw in proptest::collection::vec(any::<u8>(), 0..300), limit in 0_usize..200) {
            let text = escape(&raw, limit);
            prop_assert!(text.len() <= limit);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
