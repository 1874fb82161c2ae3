//! The curves against those of transformers, and what is refused.

use serde::Deserialize;

use super::kind::KINDS;
use super::*;

#[derive(Deserialize)]
struct Golden {
    name: String,
    kwargs: ScheduleOptions,
    learning_rate: f64,
    warmup: u64,
    total: u64,
    rates: Vec<f64>,
}

#[test]
fn every_curve_is_that_of_transformers() {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("../../tests/fixtures/schedules.json")).unwrap();
    let mut kinds: Vec<&str> = golden.iter().map(|golden| golden.name.as_str()).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), KINDS.len(), "{kinds:?}");
    for golden in golden {
        let kind = golden.name.parse().unwrap();
        let warmup = Warmup::Steps(golden.warmup);
        let schedule = Schedule::new(kind, &golden.kwargs, golden.learning_rate, warmup, golden.total).unwrap();
        for (step, expected) in golden.rates.into_iter().enumerate() {
            let rate = schedule.learning_rate(step as u64);
            let close = (rate - expected).abs() <= 1e-12 * expected.abs();
            assert!(
                close,
                "{kind} {:?} of {}, step {step}: {rate} is not {expected}",
                golden.kwargs, golden.total
            );
        }
    }
}

#[test]
fn a_ratio_of_warm_up_is_rounded_up() {
    let steps = |ratio, total| {
        let schedule = Schedule::new(
            ScheduleKind::Linear,
            &ScheduleOptions::default(),
            1.0,
            Warmup::Ratio(ratio),
            total,
        );
        schedule.unwrap().warmup_steps()
    };
    assert_eq!((steps(0.03, 100), steps(0.031, 100), steps(0.0, 100)), (3, 4, 0));
}

#[test]
fn a_constant_rate_has_no_warm_up() {
    let constant = Schedule::new(
        ScheduleKind::Constant,
        &ScheduleOptions::default(),
        0.5,
        Warmup::Steps(10),
        20,
    );
    assert_eq!(constant.unwrap().learning_rate(0), 0.5);
}

#[test]
fn a_name_nobody_knows_is_answered_with_those_that_are_known() {
    let error = "cosin".parse::<ScheduleKind>().unwrap_err().to_string();
    assert!(
        error.contains("cosine_with_restarts") && error.contains("\"cosin\""),
        "{error}"
    );
    for (kind, name, _) in KINDS {
        assert_eq!(name.parse::<ScheduleKind>().unwrap(), kind);
        assert_eq!(kind.to_string(), name);
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("{name:?}"));
    }
}

#[test]
fn what_makes_no_schedule_is_refused_with_its_field() {
    let fault = |kind, options: &str, rate, warmup| {
        let options = serde_json::from_str(options).unwrap();
        Schedule::new(kind, &options, rate, warmup, 100)
            .unwrap_err()
            .to_string()
    };
    use ScheduleKind::*;
    let none = Warmup::Steps(0);
    for (kind, options, rate, warmup, named) in [
        (Linear, "{}", f64::NAN, none, "learning_rate"),
        (Linear, "{}", -1.0, none, "learning_rate"),
        (Linear, r#"{"power": 2}"#, 1.0, none, "lr_scheduler_kwargs.power"),
        (
            Cosine,
            r#"{"num_cycles": -1}"#,
            1.0,
            none,
            "lr_scheduler_kwargs.num_cycles",
        ),
        (Linear, "{}", 1.0, Warmup::Ratio(1.5), "warmup_ratio"),
        (Polynomial, r#"{"lr_end": 2}"#, 1.0, none, "lr_scheduler_kwargs.lr_end"),
        (CosineWithMinLr, "{}", 1.0, none, "min_lr_rate"),
        (
            WarmupStableDecay,
            r#"{"num_decay_steps": 95}"#,
            1.0,
            Warmup::Steps(6),
            "num_decay_steps",
        ),
        (WarmupStableDecay, r#"{"min_lr_ratio": 2}"#, 1.0, none, "min_lr_ratio"),
    ] {
        let error = fault(kind, options, rate, warmup);
        assert!(error.contains(named), "{kind} {options}: {error}");
    }
}

#[test]
fn no_step_of_any_length_of_run_is_out_of_bounds() {
    let options = ScheduleOptions::default();
    for (kind, ..) in KINDS {
        let options = match kind {
            ScheduleKind::CosineWithMinLr => ScheduleOptions {
                min_lr_rate: Some(0.1),
                ..options.clone()
            },
            _ => options.clone(),
        };
        for total in 0..7 {
            for warmup in 0..9 {
                let Ok(schedule) = Schedule::new(kind, &options, 1.0, Warmup::Steps(warmup), total) else {
                    assert!(kind == ScheduleKind::WarmupStableDecay && warmup + 1 > total.saturating_sub(1));
                    continue;
                };
                for step in 0..20 {
                    let factor = schedule.factor(step);
                    assert!(
                        (0.0..=1.0).contains(&factor),
                        "{kind} {warmup}/{total} at {step}: {factor}"
                    );
                }
            }
        }
    }
}
