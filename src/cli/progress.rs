//! How far a run has come: a bar on a terminal, plain lines elsewhere; and a sign of life from what has no steps.

use std::io::IsTerminal as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::complain;

/// Time between two plain lines, where `THERMOSCOPE_PAUSE` names no other number of seconds: programs that draw a bar of
/// their own want more.
const PLAIN: Duration = Duration::from_secs(10);

fn pause() -> Duration {
    let named = std::env::var("THERMOSCOPE_PAUSE").ok().and_then(|seconds| seconds.parse().ok());
    named.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(PLAIN)
}

/// Progress of a run on standard error.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// What is counted.
    unit: &'static str,
    total: u64,
    began: Instant,
    /// When the first was done, and how many were: before that kernels are compiled, and everything is measured once.
    since: Option<(Instant, u64)>,
    first: u64,
    /// Whether it was told that kernels are compiled.
    compiles: bool,
    /// When the last plain line was printed.
    last_line: Option<Instant>,
    pause: Duration,
}

impl Progress {
    /// Progress from step `first` to `total`.
    pub(super) fn new(first: u64, total: u64) -> Self {
        Self::of("steps", first, total)
    }

    /// The same of something else than steps.
    pub(super) fn of(unit: &'static str, first: u64, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total).with_position(first);
            let style = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{msg}}");
            bar.set_style(ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self { bar, unit, total, began: now, since: None, first, compiles: false, last_line: Some(now), pause: pause() }
    }

    /// Shows where the run is; `losses` are those of the first replica.
    pub(super) fn update(&mut self, step: u64, train: Option<f32>, test: Option<f32>) {
        let loss = |name: &str, value: Option<f32>| value.map(|v| format!("  {name} {v:.3e}")).unwrap_or_default();
        let message = format!("{}{}{}", self.pace(step, Instant::now()), loss("train", train), loss("test", test));
        let total = self.total;
        self.tell(message, |message| format!("step {step}/{total}  {message}"));
    }

    /// Shows how much is done, and of what.
    pub(super) fn reach(&mut self, done: u64, of: &str) {
        let message = format!("{}  {of}", self.pace(done, Instant::now()));
        let (total, unit) = (self.total, self.unit);
        self.tell(message, |message| format!("{done}/{total} {unit}  {message}"));
    }

    /// Rate and time left, as soon as they are known.
    fn pace(&mut self, done: u64, now: Instant) -> String {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        if done > self.first && self.since.is_none() {
            self.since = Some((now, done));
        }
        let Some((since, before)) = self.since.filter(|(_, before)| done > *before) else { return String::new() };
        let rate = (done - before) as f64 / (now - since).as_secs_f64().max(1e-9);
        let left = Duration::from_secs(((self.total - done) as f64 / rate.max(1e-9)).min(1e9) as u64);
        let rate = if rate < 10.0 { format!("{rate:.2}") } else { format!("{rate:.0}") };
        format!("{rate} {}/s  {} left", self.unit, humantime::format_duration(left))
    }

    /// Shows how many kernels are compiled, before the first step; that it has begun at once, for it may take minutes.
    pub(super) fn compiled(&mut self, done: usize, of: usize) {
        if !std::mem::replace(&mut self.compiles, true) {
            self.last_line = None;
        }
        self.tell(format!("compiling: {done} of {of} kernels done"), |message| message);
    }

    /// A message beside the bar, or now and then as a line.
    fn tell(&mut self, message: String, line: impl Fn(String) -> String) {
        match &self.bar {
            Some(bar) => bar.set_message(message),
            None if self.last_line.is_none_or(|last| last.elapsed() >= self.pause) => {
                self.last_line = Some(Instant::now());
                complain(&line(message));
            }
            None => {}
        }
    }

    /// Prints a line above the bar.
    pub(super) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(line),
            _ => complain(line),
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Time since the run began or went on.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Says now and then what is being done, and for how long, until it is stopped.
pub(super) struct Ticker {
    /// Takes what is done from now on.
    tell: Option<Sender<&'static str>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Begins with lines on standard error.
    pub(super) fn start(what: &'static str) -> Self {
        Self::every(PLAIN, what, complain)
    }

    fn every(pause: Duration, mut what: &'static str, say: impl Fn(&str) + Send + 'static) -> Self {
        let (tell, told) = channel();
        let began = Instant::now();
        let thread = std::thread::spawn(move || {
            loop {
                match told.recv_timeout(pause) {
                    Ok(next) => what = next,
                    Err(RecvTimeoutError::Timeout) => {
                        let seconds = Duration::from_secs(began.elapsed().as_secs());
                        say(&format!("{what}: {} so far", humantime::format_duration(seconds)));
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { tell: Some(tell), thread: Some(thread) }
    }

    /// Something else is done from now on.
    pub(super) fn now(&self, what: &'static str) {
        // Without its thread nobody listens, and nothing is lost.
        let _ = self.tell.as_ref().map(|tell| tell.send(what));
    }

    /// No line comes after this.
    pub(super) fn stop(self) {
        drop(self);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.tell = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_steps_and_not_of_what_comes_before_them() {
        let mut progress = Progress::new(100, 200);
        let at = |seconds: u64| Instant::now() + Duration::from_secs(seconds);
        // A minute of compiling, and a first step at which everything is measured.
        assert_eq!(progress.pace(100, at(60)), "");
        assert_eq!(progress.pace(101, at(90)), "");
        assert_eq!(progress.pace(111, at(95)), "2.00 steps/s  44s left");
    }

    #[test]
    fn what_takes_long_gives_a_sign_of_life_and_ends_with_its_cause() {
        let (line, lines) = channel();
        let ticker =
            Ticker::every(Duration::from_millis(20), "getting ready", move |text| line.send(text.to_owned()).unwrap());
        assert!(lines.recv_timeout(Duration::from_secs(20)).unwrap().starts_with("getting ready: "));
        ticker.now("measuring");
        let mut found = lines.iter().skip_while(|text| !text.starts_with("measuring: "));
        assert!(found.next().is_some());
        ticker.stop();
        // The thread has ended, and with it the channel.
        assert!(lines.iter().count() < 1000);
    }
}
