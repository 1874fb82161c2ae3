//! What a user sees of a run while it goes on, on stderr alone: a bar where that is a terminal, and else a line per logged step.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rootstock_report::quantity::{bytes, duration, significant};

use crate::records::Record;

/// The live display of a run.
pub struct Display {
    total: u64,
    logging_steps: u64,
    /// The last values: what is not measured at every step stays in view.
    last: Record,
    output: Output,
}

enum Output {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Display {
    /// Of a run of `total` steps, on stderr. A line is written every `logging_steps` steps.
    pub fn new(total: u64, logging_steps: u64) -> Self {
        match io::stderr().is_terminal() {
            true => Self::with(total, logging_steps, Output::Bar(bar(total))),
            false => Self::lines(total, logging_steps, Box::new(io::stderr())),
        }
    }

    /// With lines, to wherever they are wanted.
    pub fn lines(total: u64, logging_steps: u64, to: Box<dyn Write + Send>) -> Self {
        Self::with(total, logging_steps, Output::Lines(to))
    }

    fn with(total: u64, logging_steps: u64, output: Output) -> Self {
        Self {
            total,
            logging_steps: logging_steps.max(1),
            last: Record::default(),
            output,
        }
    }

    /// Shows where the run is, after a step or an evaluation; `left` is the time that the rest will take. What the record does not
    /// have stays as it was.
    pub fn step(&mut self, record: &Record, left: Option<Duration>) {
        let measured = record.eval_loss.is_some();
        self.last = Record {
            loss: record.loss.or(self.last.loss),
            eval_loss: record.eval_loss.or(self.last.eval_loss),
            tokens_per_second: record.tokens_per_second.or(self.last.tokens_per_second),
            memory: record.memory.or(self.last.memory),
            ..Record::default()
        };
        let facts = facts(&self.last, left);
        let logged = record.step.is_multiple_of(self.logging_steps) || record.step == self.total;
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(record.step);
                bar.set_message(facts);
            }
            // A display that cannot be written to is no reason to end a run.
            Output::Lines(to) if logged || measured => {
                let _ = writeln!(to, "step {}/{}  {facts}", record.step, self.total);
            }
            Output::Lines(_) => {}
        }
    }

    /// Says something that stays, above the bar: a warning, a checkpoint.
    pub fn say(&mut self, text: &str) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(text),
            Output::Lines(to) => {
                let _ = writeln!(to, "{text}");
            }
        }
    }

    /// Leaves the bar as it is and the cursor below it.
    pub fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{bar:24} {pos}/{len}  {wide_msg}") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// What is known of the run, in the order in which it matters.
fn facts(record: &Record, left: Option<Duration>) -> String {
    let facts = [
        record.loss.map(|loss| format!("loss {}", significant(loss))),
        record.eval_loss.map(|loss| format!("eval {}", significant(loss))),
        record.tokens_per_second.map(|rate| format!("{rate:.0} tok/s")),
        record.memory.map(bytes),
        left.map(|left| format!("{} left", duration(left))),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    fn record(step: u64) -> Record {
        Record {
            step,
            loss: Some(2.0 / step as f64),
            eval_loss: (step == 3).then_some(1.5),
            tokens_per_second: Some(512.4),
            memory: Some(3 << 29),
            ..Record::default()
        }
    }

    /// What was written, as a file and as a terminal that nothing is erased from.
    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<String>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_str(str::from_utf8(bytes).unwrap()).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl TermLike for Written {
        fn width(&self) -> u16 {
            90
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, line: &str) -> io::Result<()> {
            self.write_str(&format!("{line}\n"))
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_per_logged_step_and_per_evaluation() {
        let written = Written::default();
        let mut display = Display::lines(10, 4, Box::new(written.clone()));
        for step in 1..=10 {
            display.step(&record(step), Some(Duration::from_secs(10 - step)));
        }
        let evaluated = Record {
            step: 10,
            eval_loss: Some(1.25),
            ..Record::default()
        };
        display.step(&evaluated, None);
        display.say("saved checkpoint-10");
        display.finish();
        let text = written.0.lock().unwrap().clone();
        let expected = "step 3/10  loss 0.6667  eval 1.5  512 tok/s  1.5 GiB  7 s left\n\
                        step 4/10  loss 0.5  eval 1.5  512 tok/s  1.5 GiB  6 s left\n\
                        step 8/10  loss 0.25  eval 1.5  512 tok/s  1.5 GiB  2 s left\n\
                        step 10/10  loss 0.2  eval 1.5  512 tok/s  1.5 GiB  0 s left\n\
                        step 10/10  loss 0.2  eval 1.25  512 tok/s  1.5 GiB\n\
                        saved checkpoint-10\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn on_a_terminal_the_bar_shows_the_last_step_and_messages_stay_above_it() {
        let written = Written::default();
        let bar = bar(10);
        bar.set_draw_target(ProgressDrawTarget::term_like(Box::new(written.clone())));
        let mut display = Display::with(10, 1, Output::Bar(bar));
        display.step(&record(3), None);
        display.step(&record(5), Some(Duration::from_secs(65)));
        display.say("a warning");
        display.finish();
        let text = written.0.lock().unwrap().clone();
        let (_, after) = text.split_once("a warning").unwrap();
        assert!(
            after.contains("5/10  loss 0.4  eval 1.5  512 tok/s  1.5 GiB  1 min 05 s left"),
            "{text}"
        );
    }
}
