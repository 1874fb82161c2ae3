//! Writes TensorBoard events of a made-up run that is interrupted and resumed, for `scripts/verify-tensorboard.py` to read with the
//! real package: 20 steps, then again from step 11 with other losses.

use std::path::Path;

use rootstock_train::records::{Record, RunLog};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("expected a folder to write to")?;
    let folder = Path::new(&folder);
    let record = |step: u64, loss: f64| Record {
        step,
        epoch: step as f64 / 10.0,
        loss: Some(loss),
        learning_rate: Some(1e-3 / step as f64),
        grad_norm: Some(0.5),
        eval_loss: step.is_multiple_of(5).then_some(loss + 0.25),
        ..Record::default()
    };
    let metrics = folder.join("metrics.jsonl");
    let mut log = RunLog::create(&metrics, Some(folder))?;
    for step in 1..=20 {
        log.record(&record(step, 4.0))?;
    }
    drop(log);
    // The second file has a later name only in a later second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let (mut log, _) = RunLog::resume(&metrics, Some(folder), 10)?;
    for step in 11..=15 {
        log.record(&record(step, 2.0))?;
    }
    Ok(())
}
