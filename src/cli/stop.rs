//! Signals that ask the program to stop: seen at once, obeyed where nothing is lost.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::complain;
use crate::error::{Error, Result};

/// Whether a signal has asked the program to stop. That is told within a moment, whatever is being waited for; a second
/// signal ends the program. Copies are of one: a program asks for signals once.
#[derive(Clone)]
pub(super) struct Stop {
    /// Exit code of the first signal; 0 as long as there was none.
    code: Arc<AtomicUsize>,
    word: Arc<Mutex<Word>>,
}

/// What is said of a signal, once.
struct Word {
    /// What must come to its end first.
    behind: &'static str,
    said: bool,
}

/// Says that a signal was seen, unless that was said. Who stops says so before, the watcher as long as nobody does.
fn say(word: &Mutex<Word>) {
    let mut word = word.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut word.said, true) {
        // A terminal has put ^C behind the bar.
        let line = if std::io::stderr().is_terminal() { "\n" } else { "" };
        complain(&format!("{line}asked to stop: waiting for {}. Ctrl-C again quits at once", word.behind));
    }
}

/// The signals that a process ignores, by Linux's account of it: bit n - 1 for signal n. Other systems keep none.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// How often it is looked for a signal.
const LOOK: Duration = Duration::from_millis(50);

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP ask, but one that whoever started the program has ignored (as `nohup` does with
    /// SIGHUP). `behind` is what must come to its end first.
    ///
    /// # Errors
    /// Where the system gives no signals.
    pub(super) fn on_signals(behind: &'static str) -> Result<Self> {
        let (code, word) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Word { behind, said: false })));
        let second = Arc::new(AtomicBool::new(false));
        let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
        let heard = |number: i32| ignored >> (number - 1) & 1 == 0;
        for (number, of_signal) in [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129)].into_iter().filter(|s| heard(s.0)) {
            let fail = |error| Error::Unsupported(format!("signals cannot be handled: {error}"));
            // In this order: the first signal finds nothing to shut down and leaves word for the second.
            signal_hook::flag::register_conditional_shutdown(number, of_signal, Arc::clone(&second)).map_err(fail)?;
            signal_hook::flag::register(number, Arc::clone(&second)).map_err(fail)?;
            signal_hook::flag::register_usize(number, Arc::clone(&code), of_signal as usize).map_err(fail)?;
        }
        let seen = (Arc::clone(&code), Arc::clone(&word));
        // Nobody else is free to say so: the device may be waited for, or a kernel compiled.
        std::thread::spawn(move || {
            while seen.0.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(LOOK);
            }
            say(&seen.1);
        });
        Ok(Self { code, word })
    }

    /// From now on this must come to its end first.
    pub(super) fn behind(&self, what: &'static str) {
        self.word.lock().unwrap_or_else(PoisonError::into_inner).behind = what;
    }

    /// The exit code to stop with; `None` as long as nobody asked.
    pub(super) fn code(&self) -> Option<u8> {
        let code = Some(self.code.load(Ordering::Relaxed) as u8).filter(|code| *code != 0);
        code.inspect(|_| say(&self.word))
    }
}
