//! Whether the box is well, and with that the watchdog: it is fed only from here.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::services::Fare;

/// How often the daemon is asked.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(15);
/// How often the watchdog is fed while all is well. Watchdogs are set to a minute and more.
pub(crate) const FEED_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for the daemon's answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Questions in a row without an answer after which the daemon hangs: most of a minute.
const MISSES_MAX: u32 = 3;
/// How long a daemon may take from its start to its first answer: it reads its journal before it answers.
const START_TIME_MAX: Duration = Duration::from_secs(600);
/// How long firmware that has never worked on this box may take to work.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(180);

/// What is known of the daemon at a moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Since the first process began.
    pub(crate) uptime: Duration,
    /// What its API answered; none if it was not asked.
    pub(crate) answered: Option<Answer>,
    /// How the process fares.
    pub(crate) fare: Fare,
    /// Something that takes its time is under way: a pool is made, a reset carried out, the machine stops.
    pub(crate) busy: bool,
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An answer. That a command is refused, such as for want of a disk, is one.
    Well,
    /// It lives and says that it cannot work, such as with a pool that does not open.
    Ill,
    /// Silence.
    None,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All is well.
    Well,
    /// It is being waited for, and that is all right.
    Waiting,
    /// The watchdog is to start the machine again.
    Lost(String),
}

/// Keeps count.
#[derive(Debug, Default)]
pub(crate) struct Health {
    misses: u32,
    /// This firmware has worked on this box: at an earlier start, or at this one.
    proved: bool,
    ever_answered: bool,
}

impl Health {
    /// `proved`: this firmware has worked on this box before.
    pub(crate) fn new(proved: bool) -> Self {
        Self { proved, ..Self::default() }
    }

    /// Takes what is seen. On firmware that has worked before, a daemon that ends again and again is no reason to start the
    /// machine anew, which would take the consoles away from whoever repairs it; one that hangs is. On firmware on trial
    /// both are, since the other slot may work.
    pub(crate) fn take(&mut self, seen: Seen) -> Verdict {
        if seen.answered == Some(Answer::Well) {
            self.misses = 0;
            self.proved = true;
            self.ever_answered = true;
            return Verdict::Well;
        }
        if seen.busy {
            self.misses = 0;
            return Verdict::Waiting;
        }
        if !self.proved {
            return if seen.uptime < TRIAL_TIME_MAX {
                Verdict::Waiting
            } else {
                Verdict::Lost(format!("this firmware did not come to serve within {} s", TRIAL_TIME_MAX.as_secs()))
            };
        }
        let Some(running_for) = seen.fare.running_for else {
            self.misses = 0;
            return Verdict::Waiting;
        };
        match seen.answered {
            Some(Answer::None) => self.misses += 1,
            // It does not hang: whoever repairs it needs its consoles.
            Some(Answer::Ill | Answer::Well) => self.misses = 0,
            None => {}
        }
        // A process younger than the count of its misses is another one than the one that missed them.
        let starting = running_for < START_TIME_MAX && (!self.ever_answered || running_for < ASK_EVERY * MISSES_MAX);
        if starting || self.misses < MISSES_MAX {
            Verdict::Waiting
        } else {
            Verdict::Lost(format!("the daemon has not answered {} times in a row", self.misses))
        }
    }
}

/// Asks the daemon's API.
pub(crate) fn ask(socket: &Path) -> Answer {
    match ask_for(socket, ANSWER_TIME_MAX) {
        Some(..500) => Answer::Well,
        Some(500) => Answer::Ill,
        // Such as 504: a command that does not come to its end within the daemon is what hangs look like.
        Some(_) | None => Answer::None,
    }
}

fn ask_for(socket: &Path, limit: Duration) -> Option<u16> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n").ok()?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).ok()?;
    std::str::from_utf8(&line).ok()?.strip_prefix("HTTP/1.1 ")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn seen(uptime: u64, answered: Option<Answer>, running_for: Option<u64>) -> Seen {
        let fare = Fare { running_for: running_for.map(Duration::from_secs), failures: 0 };
        Seen { uptime: Duration::from_secs(uptime), answered, fare, busy: false }
    }

    fn lost(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Lost(_))
    }

    #[test]
    fn a_daemon_that_hangs_is_given_up_after_three_questions() {
        let mut health = Health::new(true);
        assert_eq!(health.take(seen(20, Some(Answer::Well), Some(10))), Verdict::Well);
        assert_eq!(health.take(seen(700, Some(Answer::None), Some(690))), Verdict::Waiting);
        assert_eq!(health.take(seen(705, None, Some(695))), Verdict::Waiting);
        assert_eq!(health.take(seen(715, Some(Answer::None), Some(705))), Verdict::Waiting);
        assert!(lost(&health.take(seen(730, Some(Answer::None), Some(720)))));
        assert!(lost(&health.take(seen(735, None, Some(725)))), "and stays given up between two questions");
        assert_eq!(health.take(seen(745, Some(Answer::Well), Some(735))), Verdict::Well, "unless it answers after all");
    }

    #[test]
    fn reading_a_long_journal_takes_its_time() {
        let mut health = Health::new(true);
        for second in (15..600).step_by(15) {
            assert_eq!(health.take(seen(second, Some(Answer::None), Some(second))), Verdict::Waiting);
        }
        assert!(lost(&health.take(seen(615, Some(Answer::None), Some(615)))));
    }

    #[test]
    fn a_daemon_that_ends_again_and_again_leaves_the_consoles_on_proved_firmware() {
        let mut health = Health::new(true);
        for second in (15..3000).step_by(15) {
            let running_for = (second % 2 == 0).then_some(3);
            assert_eq!(health.take(seen(second, Some(Answer::None), running_for)), Verdict::Waiting);
        }
    }

    #[test]
    fn a_daemon_that_says_it_cannot_work_keeps_the_consoles_and_proves_no_firmware() {
        let mut proved = Health::new(true);
        let mut on_trial = Health::new(false);
        for second in (15..3000).step_by(15) {
            let ill = seen(second, Some(Answer::Ill), Some(second));
            assert_eq!(proved.take(ill), Verdict::Waiting);
            assert_eq!(lost(&on_trial.take(ill)), second >= 180);
        }
        assert!(on_trial.take(seen(3000, Some(Answer::Well), Some(3000))) == Verdict::Well);
    }

    #[test]
    fn firmware_on_trial_has_to_work_in_time() {
        for running in [None, Some(5)] {
            let mut health = Health::new(false);
            assert_eq!(health.take(seen(170, Some(Answer::None), running)), Verdict::Waiting);
            assert!(lost(&health.take(seen(180, Some(Answer::None), running))));
        }
        let mut health = Health::new(false);
        assert_eq!(health.take(seen(30, Some(Answer::Well), Some(20))), Verdict::Well);
        assert_eq!(health.take(seen(300, Some(Answer::None), None)), Verdict::Waiting, "it is proved then");
    }

    #[test]
    fn what_takes_its_time_is_waited_for() {
        let mut health = Health::new(false);
        for second in (15..30_000).step_by(15) {
            let busy = Seen { busy: true, ..seen(second, Some(Answer::None), Some(700)) };
            assert_eq!(health.take(busy), Verdict::Waiting);
        }
    }

    #[test]
    fn any_answer_of_the_api_is_one_and_silence_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        assert_eq!(ask(&path), Answer::None, "nobody is there");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for reply in
                ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 409 x\r\n", "HTTP/1.1 500 x\r\n", "HTTP/1.1 504 x\r\n", "no\r\n", ""]
            {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 200];
                let len = stream.read(&mut request).unwrap();
                assert!(request[..len].starts_with(b"GET /api/v1/status HTTP/1.1\r\n"));
                stream.write_all(reply.as_bytes()).unwrap();
            }
            listener
        });
        let answers: Vec<Answer> = (0..6).map(|_| ask(&path)).collect();
        assert_eq!(answers, [Answer::Well, Answer::Well, Answer::Ill, Answer::None, Answer::None, Answer::None]);
        let _silent = server.join().unwrap();
        assert_eq!(ask_for(&path, Duration::from_millis(50)), None);
    }
}
