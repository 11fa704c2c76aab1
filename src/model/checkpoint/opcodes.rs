//! Pickles of protocol 0 and 1, which no first byte tells: content that is one from its first opcode to its last, and calls
//! something on the way.
//!
//! Knows how long each opcode's arguments are, and no more: it makes no values. What the opcodes of newer protocols mean
//! [`super::unpickle`] knows. The list: CPython's `pickletools`.

use std::io::BufRead;

/// Longer lines are no arguments of a pickle that anybody writes.
const LINE: u64 = 64 << 10;

/// What the first global that such a pickle names is called (`os.system`), where it also calls something. `None`: it is no
/// pickle, or one that only holds values.
pub fn calls(input: &mut impl BufRead) -> Option<String> {
    let (mut named, mut called) = (None, false);
    loop {
        match byte(input)? {
            b'.' => return named.filter(|_| called),
            b'c' => named = named.or(Some(global(input)?)),
            b'i' => {
                named = named.or(Some(global(input)?));
                called = true;
            }
            b'R' | b'o' | b'b' | 0x81 | 0x92 => called = true,
            b'0' | b'1' | b'2' | b'(' | b')' | b']' | b'}' | b'a' | b'd' | b'e' | b'l' | b's' | b't' | b'u' | b'N'
            | b'Q' => {}
            b'F' | b'I' | b'L' | b'P' | b'S' | b'V' | b'g' | b'p' => drop(line(input)?),
            b'K' | b'h' | b'q' => skip(input, 1)?,
            b'M' => skip(input, 2)?,
            b'J' | b'j' | b'r' => skip(input, 4)?,
            b'G' => skip(input, 8)?,
            b'U' => {
                let length = byte(input)?;
                skip(input, length.into())?;
            }
            b'T' | b'X' => {
                let length = [byte(input)?, byte(input)?, byte(input)?, byte(input)?];
                skip(input, u32::from_le_bytes(length).into())?;
            }
            _ => return None,
        }
    }
}

fn byte(input: &mut impl BufRead) -> Option<u8> {
    let first = *input.fill_buf().ok()?.first()?;
    input.consume(1);
    Some(first)
}

fn skip(input: &mut impl BufRead, length: u64) -> Option<()> {
    let skipped = std::io::copy(&mut std::io::Read::take(input, length), &mut std::io::sink()).ok()?;
    (skipped == length).then_some(())
}

fn line(input: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    std::io::Read::take(input, LINE).read_until(b'\n', &mut line).ok()?;
    (line.pop()? == b'\n').then_some(line)
}

/// A module and a name in it.
fn global(input: &mut impl BufRead) -> Option<String> {
    let mut word = || {
        let line = String::from_utf8(line(input)?).ok()?;
        let fits = !line.is_empty() && line.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
        fits.then_some(line)
    };
    Some(format!("{}.{}", word()?, word()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(content: &[u8]) -> Option<String> {
        calls(&mut &*content)
    }

    #[test]
    fn a_pickle_of_an_old_protocol_that_calls_something_is_told_by_its_opcodes() {
        assert_eq!(called(b"cos\nsystem\n(S'id'\ntR.").as_deref(), Some("os.system"));
        assert_eq!(called(b"(S'id'\nios\nsystem\n.").as_deref(), Some("os.system"));
        // pickle.dumps(X(), protocol=1), where X reduces to os.system
        assert_eq!(
            called(b"cposix\nsystem\nq\x00(X\x02\x00\x00\x00idq\x01tq\x02Rq\x03.").as_deref(),
            Some("posix.system")
        );
    }

    #[test]
    fn values_and_texts_and_weights_are_none() {
        assert_eq!(called(b"(lp0\nI1\naI2\na."), None);
        for text in ["cat\ndog\nbird\n", "class A:\n    pass\n", "(see below).", "c.", "", "Is it?\n.", "cos\nsystem\n"]
        {
            assert_eq!(called(text.as_bytes()), None, "{text}");
        }
        assert_eq!(called(&[0; 4096]), None);
    }
}
