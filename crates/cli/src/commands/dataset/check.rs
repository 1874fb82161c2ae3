//! `rootstock data check`: a report of what is wrong with data, for people or as JSON.

use std::fmt::Write as _;
use std::io::{self, Write};

use anyhow::{Result, bail};
use rootstock_train::dataset::check::{Finding, Label, Lengths, Report, Severity, Survey};
use rootstock_train::dataset::load_each;

use super::{encoder, shape};
use crate::UsageError;
use crate::args::CheckArgs;

/// Columns of the longest bar of a histogram.
const BAR: usize = 40;
/// Labels that are listed.
const LABELS: usize = 20;

/// Prints the report.
///
/// # Errors
/// The model or the data cannot be used, or the report has errors.
pub fn run(args: CheckArgs) -> Result<()> {
    let report = report(&args)?;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => out.write_all(as_text(&report, args.lines).as_bytes())?,
    }
    match report.count(Severity::Error) {
        0 => Ok(()),
        errors => bail!("the data have {errors} {}", noun(errors, "error")),
    }
}

fn report(args: &CheckArgs) -> Result<Report> {
    if !(0.0..1.0).contains(&args.eval_share) {
        let reason = format!(
            "--eval-share: expected a share from 0 to below 1, got {}",
            args.eval_share
        );
        return Err(UsageError(reason).into());
    }
    let encoder = encoder(&args.source)?;
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or_else(available);
    let rows = load_each(&args.source.data_name, &args.train_split)?;
    let shape = shape(&args.source, &rows)?;
    let mut survey = Survey::default();
    survey.add_train(rows, &shape, &encoder, threads);
    match &args.eval_split {
        Some(slice) => survey.add_eval(load_each(&args.source.data_name, slice)?, &shape, &encoder, threads),
        None => survey.hold_out(args.eval_share, args.seed),
    }
    Ok(Report::of(&survey))
}

/// The report with at most so many lines for each kind of finding.
fn as_text(report: &Report, lines: usize) -> String {
    let mut text = format!(
        "{} rows to train on, {} to evaluate on, {} unreadable\n",
        report.train, report.eval, report.unreadable
    );
    text += &lengths(&report.lengths);
    text += &labels(&report.labels);
    for alike in report.findings.chunk_by(|one, next| one.fault == next.fault) {
        alike.iter().take(lines).for_each(|finding| text += &line(finding));
        if alike.len() > lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  and {} more of {}", alike.len() - lines, alike[0].fault.name());
        }
    }
    let (errors, warnings) = (report.count(Severity::Error), report.count(Severity::Warning));
    let (error, warning) = (noun(errors, "error"), noun(warnings, "warning"));
    let _ = writeln!(text, "{errors} {error}, {warnings} {warning}");
    text
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let place = finding
        .place
        .as_ref()
        .map(|place| format!("{place}: "))
        .unwrap_or_default();
    format!("{severity}: {place}{}: {}\n", finding.fault.name(), finding.detail)
}

fn lengths(lengths: &Lengths) -> String {
    let mut text = format!(
        "{} tokens, {} of them learned; half of the rows have up to {}, 9 of 10 up to {}, 99 of 100 up to {}, the longest {}\n",
        lengths.tokens, lengths.learned, lengths.median, lengths.p90, lengths.p99, lengths.longest
    );
    let most = lengths.histogram.iter().map(|bucket| bucket.rows).max().unwrap_or(0);
    for bucket in &lengths.histogram {
        let bar = "#".repeat((bucket.rows * BAR).div_ceil(most.max(1)));
        let line = format!("{:>8} to {:<8} {:>8} {bar}", bucket.from, bucket.to, bucket.rows);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn labels(labels: &[Label]) -> String {
    let mut text = String::new();
    for label in labels.iter().take(LABELS) {
        let _ = writeln!(
            text,
            "label {:?}: {} to train on, {} to evaluate on",
            label.label, label.train, label.eval
        );
    }
    if labels.len() > LABELS {
        let _ = writeln!(text, "  and {} more labels", labels.len() - LABELS);
    }
    text
}

fn noun(count: usize, one: &str) -> String {
    match count {
        1 => one.to_owned(),
        _ => format!("{one}s"),
    }
}

#[cfg(test)]
mod tests {
    use rootstock_train::dataset::check::{Bucket, Fault};

    use super::*;

    fn finding(severity: Severity, fault: Fault, line: usize) -> Finding {
        let file = "a.jsonl".into();
        Finding {
            severity,
            fault,
            place: Some(rootstock_train::dataset::Place { file, line }),
            detail: "so it is".to_owned(),
        }
    }

    #[test]
    fn a_report_has_a_line_for_each_finding_up_to_a_number_of_each_kind() {
        let warnings = (1..=3).map(|line| finding(Severity::Warning, Fault::Duplicate, line));
        let label = |label: &str| Label {
            label: label.to_owned(),
            train: 4,
            eval: 1,
        };
        let bucket = |to, rows| Bucket {
            from: to / 2 + 1,
            to,
            rows,
        };
        let report = Report {
            train: 8,
            eval: 2,
            unreadable: 0,
            lengths: Lengths {
                tokens: 60,
                learned: 20,
                median: 6,
                p90: 8,
                p99: 8,
                longest: 8,
                histogram: vec![bucket(4, 1), bucket(8, 9)],
            },
            labels: vec![label("ham"), label("spam")],
            findings: [finding(Severity::Error, Fault::Leakage, 7)]
                .into_iter()
                .chain(warnings)
                .collect(),
        };
        let expected = "\
8 rows to train on, 2 to evaluate on, 0 unreadable
60 tokens, 20 of them learned; half of the rows have up to 6, 9 of 10 up to 8, 99 of 100 up to 8, the longest 8
       3 to 4               1 #####
       5 to 8               9 ########################################
label \"ham\": 4 to train on, 1 to evaluate on
label \"spam\": 4 to train on, 1 to evaluate on
error: a.jsonl:7: leakage: so it is
warning: a.jsonl:1: duplicate: so it is
warning: a.jsonl:2: duplicate: so it is
  and 1 more of duplicate
1 error, 3 warnings
";
        assert_eq!(as_text(&report, 2), expected);
    }
}
