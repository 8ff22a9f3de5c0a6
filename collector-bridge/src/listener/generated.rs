//! Recognises the parts of a UNIX socket's name that a program generated, so that the listeners of such names
//! share one series. The rule is in docs/metrics.md.

/// Stands for a generated part.
const ANY: &str = "*";

/// Fewest digits of a number that is generated in any name. A process id may have fewer; so have a port and a
/// user id, which say something.
const LONG_NUMBER: usize = 6;

/// Fewest digits of a number that is generated in a name with another generated part.
const NUMBER_BESIDE: usize = 3;

/// Fewest characters of a hexadecimal number.
const LONG_HEX: usize = 8;

/// Bytes of a UUID with its four dashes.
const UUID_LENGTH: usize = 36;

/// Fewest changes between letters and digits, or from a small letter to a capital one, in random text. On
/// average a run has at most [`LONGEST_RUN`] characters.
const CHANGES: usize = 3;

/// See [`CHANGES`].
const LONGEST_RUN: usize = 3;

/// The name with `*` for each generated part.
#[must_use]
pub(crate) fn without_generated_parts(name: &str) -> String {
    let words = || split(name);
    let has_generated = words().any(is_generated);
    let mut out = String::with_capacity(name.len());
    for word in words() {
        let replaced = is_generated(word) || has_generated && is_number(word, NUMBER_BESIDE);
        out.push_str(if replaced { ANY } else { word });
    }
    out
}

/// Words of letters and digits, UUIDs, and the characters between them.
fn split(name: &str) -> impl Iterator<Item = &str> {
    let is_word = |character: char| character.is_ascii_alphanumeric();
    let mut rest = name;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if rest.get(..UUID_LENGTH).is_some_and(is_uuid) {
            UUID_LENGTH
        } else if is_word(first) {
            rest.find(|character| !is_word(character)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

fn is_generated(word: &str) -> bool {
    is_number(word, LONG_NUMBER) || is_hex(word) || is_random(word) || is_uuid(word)
}

fn is_uuid(word: &str) -> bool {
    word.len() == UUID_LENGTH
        && word.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_number(word: &str, digits: usize) -> bool {
    word.len() >= digits && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Digits and letters of a hexadecimal number, with at least one of each.
fn is_hex(word: &str) -> bool {
    let has = |is: fn(&u8) -> bool| word.bytes().any(|byte| is(&byte));
    word.len() >= LONG_HEX
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic)
}

/// Text as mktemp(3) and tempfile make it, such as `tmpk3j2h1xq` and `Ab3dE9xY1z`.
fn is_random(word: &str) -> bool {
    let changes = word
        .as_bytes()
        .windows(2)
        .filter(|pair| {
            pair[0].is_ascii_digit() != pair[1].is_ascii_digit()
                || pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase()
        })
        .count();
    changes >= CHANGES && word.len() <= LONGEST_RUN * (changes + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_a_person_gave_stay() {
        for name in [
            "/run/php/php8.2-fpm.sock",
            "/var/run/postgresql/.s.PGSQL.5432",
            "/run/user/1000/bus",
            "/run/user/1000/pipewire-0-manager",
            "/tmp/.X11-unix/X0",
            "/var/run/docker.sock",
            "/run/postgresql15/python312.sock",
            "/run/MyVeryLongServiceName/x86_64/i386.sock",
            "/run/decade/facade.sock",
            "@/org/kernel/linux/storage/multipathd",
            "@redis6379",
            "/tmp/app.12345.sock",
            "",
        ] {
            assert_eq!(without_generated_parts(name), name);
        }
    }

    #[test]
    fn generated_parts_become_one_sign() {
        for (name, expected) in [
            ("/tmp/app.123456.sock", "/tmp/app.*.sock"),
            ("/tmp/tmpk3j2h1xq/agent.4711", "/tmp/*/agent.*"),
            ("/tmp/ssh-pJ2kL5mN8qR0/agent.12345", "/tmp/ssh-*/agent.*"),
            ("@/tmp/dbus-aB3dE9xY1z", "@/tmp/dbus-*"),
            (
                "/run/containerd/s/0f5a3c1e7b9d2468ace013579bdf02468ace13579bdf02468ace13579bdf0246",
                "/run/containerd/s/*",
            ),
            (
                "/run/user/1000/vscode-ipc-7d6c5b4a-1f2e-4d3c-8b7a-0123456789ab.sock",
                "/run/user/*/vscode-ipc-*.sock",
            ),
            ("/run/app/0f5a3c1e7b9d/main.sock", "/run/app/*/main.sock"),
        ] {
            assert_eq!(without_generated_parts(name), expected, "{name}");
        }
    }

    #[test]
    fn three_thousand_names_of_one_program_are_one() {
        let names: std::collections::HashSet<String> = (0..3000_u64)
            .map(|number| {
                let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                without_generated_parts(&format!("/run/app/{id:016x}a1/{}.sock", 1000 + number))
            })
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    proptest! {
        #[test]
        fn any_name_is_collapsed_once(name: String) {
            let once = without_generated_parts(&name);
            prop_assert!(once.len() <= name.len().max(1));
            prop_assert_eq!(without_generated_parts(&once).matches('*').count(), once.matches('*').count());
        }
    }
}
