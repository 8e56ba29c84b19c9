//! The terminal while it is ours. It is given back whatever ends the process in good order: a key, a signal, an error, a panic.

use std::io::{self, IsTerminal as _, Write as _};
use std::panic;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyModifiers};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, execute};
use futures::StreamExt as _;

use super::Sort;
use super::rows::Page;
use crate::inspect::Output;
use crate::inspect::answer::Answer as _;
use crate::inspect::colour::{dress, is_wanted};

/// A key that was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The end.
    Quit,
    /// Another order.
    Sort(Sort),
    /// Nothing; or the terminal has another size.
    Other,
}

/// The terminal.
pub(super) struct Screen {
    /// Nothing, where standard input is no terminal.
    keys: Option<EventStream>,
}

/// Lines besides the rows: the keys, the sums, the head, and what parts them.
const OTHER_LINES: usize = 5;

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |what| {
            give_back();
            before(what);
        }));
        let has_keys = io::stdin().is_terminal();
        if has_keys {
            enable_raw_mode()?;
        }
        // From here on the end of this value gives it back.
        let screen = Self { keys: has_keys.then(EventStream::new) };
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    /// The next key; never, where there are none.
    pub(super) async fn key(&mut self) -> Key {
        let Some(keys) = &mut self.keys else { return std::future::pending().await };
        match keys.next().await {
            Some(Ok(Event::Key(key))) => meaning(key),
            Some(Ok(_)) => Key::Other,
            // The terminal has gone.
            Some(Err(_)) | None => Key::Quit,
        }
    }

    /// Shows a page, as far as there is room.
    pub(super) fn draw(&self, page: &mut Page, output: Output) -> io::Result<()> {
        // A terminal over a serial line may not know its size, and says zero.
        let known = size().ok().filter(|(columns, lines)| *columns > 0 && *lines > 0);
        let (columns, lines) = known.unwrap_or((80, 24));
        page.most = usize::from(lines).saturating_sub(OTHER_LINES);
        let keys = if self.keys.is_some() {
            "keys: n new, r refused, o open, d draining, s service, q quit"
        } else {
            "SIGINT ends this"
        };
        let text = format!("sluice top   {keys}\n{}", page.text(output == Output::Wide));
        let cut = |line: &str| line.chars().take(columns.into()).collect::<String>();
        let text = text.lines().map(cut).collect::<Vec<_>>().join("\n");
        // A raw terminal does not go back to the first column by itself.
        let text = dress(&text, is_wanted(true)).replace('\n', "\r\n");
        let mut out = io::stdout().lock();
        out.write_all(format!("\x1b[H\x1b[2J{text}").as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// What cannot be given back is gone.
fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = disable_raw_mode();
}

/// A raw terminal makes no signal of Ctrl-C.
fn meaning(key: KeyEvent) -> Key {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Key::Quit } else { Key::Other };
    }
    let KeyCode::Char(letter) = key.code else {
        return if key.code == KeyCode::Esc { Key::Quit } else { Key::Other };
    };
    match letter {
        'q' => Key::Quit,
        'n' => Key::Sort(Sort::New),
        'r' => Key::Sort(Sort::Refused),
        'o' => Key::Sort(Sort::Open),
        'd' => Key::Sort(Sort::Draining),
        's' => Key::Sort(Sort::Service),
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_the_screen_says() {
        let press = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        let letter = |letter| press(KeyCode::Char(letter), KeyModifiers::NONE);
        assert_eq!(letter('q'), Key::Quit);
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Key::Quit);
        assert_eq!(letter('c'), Key::Other);
        assert_eq!(press(KeyCode::Char('q'), KeyModifiers::CONTROL), Key::Other);
        let orders = ['n', 'r', 'o', 'd', 's'].map(letter);
        let expected = [Sort::New, Sort::Refused, Sort::Open, Sort::Draining, Sort::Service].map(Key::Sort);
        assert_eq!(orders, expected);
    }
}
