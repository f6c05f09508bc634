//! Bytes of a terminal as keys.

/// What was pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A printable ASCII character.
    Char(char),
    /// Enter.
    Enter,
    /// Backspace or Delete.
    Erase,
    /// Ctrl-U: everything typed so far goes.
    EraseAll,
    /// Escape alone, or Ctrl-C.
    Back,
    /// Ctrl-L.
    Redraw,
    /// Ctrl-D.
    End,
}

/// Longest escape sequence that is skipped; what is longer is noise.
const SEQUENCE_BYTES_MAX: usize = 16;

/// Turns bytes into keys. Arrows, function keys and answers of the terminal are skipped, other bytes dropped: on a
/// serial line they are noise.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    after_return: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Ground,
    /// After ESC: alone it is the key, before `[` or `O` it begins a sequence.
    Escape,
    /// In a sequence, after so many bytes.
    Sequence(usize),
}

impl Decoder {
    /// True while an ESC waits for what follows it.
    pub fn is_waiting(&self) -> bool {
        !matches!(self.state, State::Ground)
    }

    /// Nothing followed for a while: an ESC was the key, and a sequence is over.
    pub fn timeout(&mut self) -> Option<Key> {
        match std::mem::take(&mut self.state) {
            State::Escape => Some(Key::Back),
            State::Ground | State::Sequence(_) => None,
        }
    }

    /// The next byte; at most two keys.
    pub fn push(&mut self, byte: u8) -> [Option<Key>; 2] {
        match self.state {
            State::Ground => [self.ground(byte), None],
            State::Escape if matches!(byte, b'[' | b'O') => {
                self.state = State::Sequence(0);
                [None, None]
            }
            State::Escape => {
                self.state = State::Ground;
                [Some(Key::Back), self.ground(byte)]
            }
            State::Sequence(len) => {
                let over = (0x40..=0x7e).contains(&byte) || len >= SEQUENCE_BYTES_MAX || byte < 0x20;
                self.state = if over { State::Ground } else { State::Sequence(len + 1) };
                [None, None]
            }
        }
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        // Some terminals send CR LF for one Enter.
        let second_half = std::mem::take(&mut self.after_return) && byte == b'\n';
        match byte {
            b'\r' => {
                self.after_return = true;
                Some(Key::Enter)
            }
            b'\n' => (!second_half).then_some(Key::Enter),
            0x08 | 0x7f => Some(Key::Erase),
            0x03 => Some(Key::Back),
            0x04 => Some(Key::End),
            0x0c => Some(Key::Redraw),
            0x15 => Some(Key::EraseAll),
            0x1b => {
                self.state = State::Escape;
                None
            }
            0x20..=0x7e => Some(Key::Char(char::from(byte))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::default();
        let mut keys: Vec<Key> = bytes.iter().flat_map(|b| decoder.push(*b)).flatten().collect();
        keys.extend(decoder.timeout());
        keys
    }

    #[test]
    fn arrows_and_answers_of_the_terminal_are_skipped() {
        use Key::{Back, Char, Enter};
        for (bytes, wanted) in [
            (&b"a\x1b[A\x1bOPb"[..], vec![Char('a'), Char('b')]),
            (b"\x1b[24;80Rc", vec![Char('c')]),
            (b"\x1b", vec![Back]),
            (b"\x1bx", vec![Back, Char('x')]),
            (b"\x1b\x1b[Ax", vec![Back, Char('x')]),
            (b"\r\n", vec![Enter]),
            (b"\r\r\n\n", vec![Enter, Enter, Enter]),
            (b"\xff\x80\x00\x07", vec![]),
            (b"\x1b[", vec![]),
        ] {
            assert_eq!(keys(bytes), wanted, "{bytes:?}");
        }
    }
}
