//! The files against what reads them, and the watches against runs that go right and wrong.

use std::time::Duration;

use tempfile::tempdir;

use super::tensorboard::{event, frame, masked_checksum, scalar};
use super::*;

fn record(step: u64, loss: f64) -> Record {
    Record {
        step,
        epoch: step as f64 / 10.0,
        loss: Some(loss),
        ..Record::default()
    }
}

fn full(step: u64) -> Record {
    Record {
        learning_rate: Some(2e-4),
        grad_norm: Some(0.5),
        tokens: Some(4096),
        tokens_per_second: Some(512.5),
        memory: Some(1 << 30),
        eval_loss: Some(1.25),
        more: [("eval_accuracy".to_owned(), 0.75)].into(),
        ..record(step, 2.0)
    }
}

#[test]
fn a_line_of_metrics_has_what_was_measured_and_nothing_else() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    log.append(&record(1, 2.5)).unwrap();
    log.append(&full(2)).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().next().unwrap(), r#"{"step":1,"epoch":0.1,"loss":2.5}"#);
    let (_, records) = MetricsLog::resume(&path, 2).unwrap();
    assert_eq!(records, [record(1, 2.5), full(2)]);
}

#[test]
fn a_resumed_log_keeps_what_lies_up_to_its_step_and_goes_on() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let mut log = MetricsLog::create(&path).unwrap();
    (1..=9).for_each(|step| log.append(&record(step, 1.0)).unwrap());
    // Killed in the middle of a line.
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let (mut log, records) = MetricsLog::resume(&path, 6).unwrap();
    assert_eq!(records.len(), 6);
    log.append(&record(7, 0.5)).unwrap();
    let (_, records) = MetricsLog::resume(&path, 100).unwrap();
    let steps: Vec<u64> = records.iter().map(|record| record.step).collect();
    assert_eq!((steps, records[6].loss), ((1..=7).collect(), Some(0.5)));
}

#[test]
fn a_torn_last_line_is_cut_and_a_broken_one_before_it_is_named() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    std::fs::write(&path, "{\"step\":1}\n{\"step\":2,\"lo").unwrap();
    let (_, records) = MetricsLog::resume(&path, 5).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
    std::fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":3}\n").unwrap();
    let error = MetricsLog::resume(&path, 5).unwrap_err().to_string();
    assert!(
        error.contains("metrics.jsonl:2: expected a line as this program writes it"),
        "{error}"
    );
    let nowhere = folder.path().join("nothing").join("metrics.jsonl");
    assert!(
        MetricsLog::create(&nowhere)
            .unwrap_err()
            .to_string()
            .contains("metrics.jsonl")
    );
}

#[test]
fn a_loss_that_is_no_number_leaves_a_line_that_can_be_read() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    MetricsLog::create(&path).unwrap().append(&record(1, f64::NAN)).unwrap();
    let (_, records) = MetricsLog::resume(&path, 1).unwrap();
    assert_eq!((records.len(), records[0].loss), (1, None));
}

#[test]
fn scalars_have_the_names_of_hugging_faces_callback() {
    let names: Vec<String> = full(3).scalars().into_iter().map(|(name, _)| name).collect();
    let expected = [
        "train/epoch",
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens",
        "train/tokens_per_second",
        "train/memory",
        "eval/loss",
        "eval/accuracy",
    ];
    assert_eq!(names, expected);
}

#[test]
fn an_event_file_is_byte_for_byte_that_of_tensorboard() {
    let mut bytes = frame(&event(1_700_000_000.25, 0, b"\x1a\x0dbrain.Event:2"));
    bytes.extend(frame(&event(1_700_000_000.5, 301, &[0x3a, 2, 8, 1])));
    let scalars = [
        (1, "train/loss", 2.5),
        (1, "train/learning_rate", 2e-4),
        (1, "train/grad_norm", 0.75),
        (300, "eval/loss", 1.25),
        (70_000, "train/loss", f64::NAN),
    ];
    for (second, (step, tag, value)) in scalars.into_iter().enumerate() {
        bytes.extend(frame(&scalar(1_700_000_001.0 + second as f64, step, tag, value)));
    }
    assert!(bytes == include_bytes!("../../tests/fixtures/events.tfevents"));
}

/// The messages of a file, after their checksums.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(number(&bytes[8..12]), masked_checksum(&bytes[..8]));
        let (message, rest) = bytes[12..].split_at(length);
        assert_eq!(number(&rest[..4]), masked_checksum(message));
        messages.push(message);
        bytes = &rest[4..];
    }
    messages
}

#[test]
fn a_run_with_events_writes_a_whole_file_and_a_resumed_one_a_second_that_purges() {
    let folder = tempdir().unwrap();
    let (metrics, events) = (folder.path().join("metrics.jsonl"), folder.path().join("runs/one"));
    let mut log = RunLog::create(&metrics, Some(&events)).unwrap();
    log.record(&full(1)).unwrap();
    log.record(&record(2, 1.5)).unwrap();
    let (mut log, records) = RunLog::resume(&metrics, Some(&events), 1).unwrap();
    assert_eq!(records, [full(1)]);
    log.record(&record(2, 1.25)).unwrap();
    let mut files: Vec<_> = events.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files[0].to_str().unwrap().contains("events.out.tfevents."));
    let files: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let counts: Vec<usize> = files.iter().map(|file| messages(file).len()).collect();
    // The version, then nine scalars and two; the version, the purge of what follows step 1, then two.
    assert_eq!(counts, [12, 4]);
    assert!(messages(&files[0])[0].ends_with(b"\x1a\x0dbrain.Event:2"));
    assert!(messages(&files[1])[1].ends_with(&[2 << 3, 2, 0x3a, 2, 8, 1]));
}

fn verdicts(patience: Option<u32>, min_delta: f64, losses: &[f64]) -> (String, Option<Best>) {
    let mut stopping = EarlyStopping::new(patience, min_delta);
    let letter = |verdict: Verdict| match (verdict.best, verdict.stop) {
        (true, false) => 'b',
        (false, false) => '.',
        (true, true) => 'B',
        (false, true) => 'S',
    };
    let observe = |(index, &loss): (usize, &f64)| letter(stopping.observe(index as u64 * 10, loss));
    let letters = losses.iter().enumerate().map(observe).collect();
    (letters, stopping.best())
}

#[test]
fn patience_ends_with_the_evaluation_that_uses_it_up_and_the_best_is_known() {
    let (letters, best) = verdicts(Some(2), 0.0, &[3.0, 2.0, 2.5, 1.5, 1.6, 1.5, 1.7]);
    assert_eq!(letters, "bb.b.SS");
    assert_eq!(best, Some(Best { step: 30, loss: 1.5 }));
    assert_eq!(verdicts(None, 0.0, &[1.0, 2.0, 3.0, 4.0]).0, "b...");
    assert_eq!(verdicts(Some(1), 0.0, &[f64::NAN, 1.0]).0, "Sb");
}

#[test]
fn gains_below_the_least_count_together_but_not_alone() {
    let (letters, best) = verdicts(Some(3), 0.1, &[1.0, 0.96, 0.92, 0.88, 0.87, 0.86, 0.85]);
    assert_eq!(letters, "bbbbbbB");
    assert_eq!(best, Some(Best { step: 60, loss: 0.85 }));
}

#[test]
fn a_stopping_that_was_saved_goes_on_where_it_was() {
    let mut whole = EarlyStopping::new(Some(3), 0.01);
    let mut saved = whole.clone();
    for (step, loss) in [2.0, 1.0, 1.1, 1.0, 0.995].into_iter().enumerate() {
        saved = serde_json::from_str(&serde_json::to_string(&saved).unwrap()).unwrap();
        assert_eq!(whole.observe(step as u64, loss), saved.observe(step as u64, loss));
    }
    assert_eq!(whole, saved);
}

/// Trains four steps at each loss of training, evaluates, and says at which evaluations it was warned.
fn parted(losses: &[(f64, f64)]) -> Vec<u64> {
    let mut watch = LossWatch::default();
    let mut warned = Vec::new();
    for (index, &(train, eval)) in losses.iter().enumerate() {
        (0..4).for_each(|_| assert_eq!(watch.step(index as u64, train, 1.0), None));
        watch = serde_json::from_str(&serde_json::to_string(&watch).unwrap()).unwrap();
        warned.extend(watch.evaluation(index as u64, eval).map(|_| index as u64));
    }
    warned
}

#[test]
fn losses_that_part_are_warned_of_once_for_each_best() {
    let part = [(2.0, 2.1), (1.5, 1.9), (1.2, 2.0), (1.0, 2.1), (0.8, 2.2)];
    assert_eq!(parted(&part), [3]);
    let again = [part.as_slice(), &[(0.7, 1.8), (0.6, 1.9), (0.5, 2.0)]].concat();
    assert_eq!(parted(&again), [3, 7]);
}

#[test]
fn losses_that_rise_together_or_once_or_hardly_are_not_warned_of() {
    assert!(parted(&[(2.0, 2.0), (2.1, 2.3), (2.2, 2.5), (2.3, 2.7)]).is_empty());
    assert!(parted(&[(2.0, 2.0), (1.8, 2.2), (1.7, 2.03), (1.6, 2.2), (1.5, 2.0)]).is_empty());
    assert!(parted(&[(2.0, 2.0), (1.8, 2.02), (1.7, 2.03), (1.6, 2.03)]).is_empty());
}

#[test]
fn numbers_that_are_none_are_warned_of_when_they_begin() {
    let mut watch = LossWatch::default();
    let warned = |warning: Option<Warning>| warning.map(|warning| warning.to_string()).unwrap_or_default();
    assert_eq!(watch.step(1, 2.0, 1.0), None);
    assert!(warned(watch.step(2, f64::NAN, 1.0)).starts_with("step 2: the loss is not a finite number"));
    assert_eq!(watch.step(3, f64::NAN, f64::NAN), None);
    assert_eq!(watch.step(4, 2.0, 1.0), None);
    assert!(warned(watch.step(5, 2.0, f64::INFINITY)).starts_with("step 5: the gradient"));
    assert!(warned(watch.evaluation(5, f64::NAN)).starts_with("step 5: the eval loss"));
}

#[test]
fn a_tensor_without_a_gradient_in_two_steps_is_found_and_loras_a_is_not() {
    let mut watch = GradientWatch::new(3);
    // A, B, and one that is cut off.
    for gradients in [[0.0, 1.0, 0.0], [1e-9, 1.0, -0.0]] {
        assert!(watch.watches());
        for (index, gradient) in gradients.into_iter().enumerate() {
            watch.gradient(index, &[0.0, gradient]);
        }
        let verdict = watch.end_step(1e-4);
        assert_eq!(verdict, (gradients[0] > 0.0).then(|| vec![2]));
    }
    assert!(!watch.watches());
    assert_eq!(watch.end_step(1e-4), None);
}

#[test]
fn a_first_step_of_a_warm_up_that_moves_nothing_is_not_held_against_a_tensor() {
    let mut watch = GradientWatch::new(2);
    for (rate, gradients) in [(0.0, [0.0, 1.0]), (1e-5, [0.0, 1.0])] {
        (0..2).for_each(|index| watch.gradient(index, &[gradients[index]]));
        assert_eq!(watch.end_step(rate), None);
    }
    (0..2).for_each(|index| watch.gradient(index, &[1.0]));
    assert_eq!(watch.end_step(2e-5), Some(vec![]));
}

#[test]
fn throughput_follows_a_change_and_begins_without_a_bias() {
    let mut throughput = Throughput::default();
    assert_eq!((throughput.tokens_per_second(), throughput.time_for(3)), (None, None));
    throughput.step(1000, Duration::from_secs(2));
    assert!((throughput.tokens_per_second().unwrap() - 500.0).abs() < 1e-9);
    assert!((throughput.time_for(10).unwrap().as_secs_f64() - 20.0).abs() < 1e-6);
    (0..60).for_each(|_| throughput.step(1000, Duration::from_secs(1)));
    assert!((throughput.tokens_per_second().unwrap() - 1000.0).abs() < 5.0);
}
