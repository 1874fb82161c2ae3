//! Properties of searches: the same seed is the same search, bounds hold, nothing is lost or repeated over interruptions.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::*;

fn space(dimensions: Value) -> Result<SearchSpace, TrainError> {
    SearchSpace::new(serde_json::from_value(dimensions).unwrap())
}

fn mixed() -> SearchSpace {
    space(json!({
        "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": true},
        "lora_r": {"type": "int", "low": 4, "high": 64, "log": true},
        "dropout": {"type": "float", "low": 0.0, "high": 0.5},
        "epochs": {"type": "int", "low": 1, "high": 4},
        "target": {"type": "choice", "values": ["all-linear", ["q_proj", "v_proj"], null]},
    }))
    .unwrap()
}

fn random(trials: usize, seed: u64) -> SearchSettings {
    SearchSettings {
        strategy: Strategy::Random { trials, seed },
        direction: Direction::Minimize,
        pruning: None,
    }
}

fn grid() -> SearchSettings {
    SearchSettings {
        strategy: Strategy::Grid,
        ..random(0, 0)
    }
}

fn file() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trials.jsonl");
    (folder, file)
}

fn points(space: &SearchSpace, settings: SearchSettings) -> Vec<Parameters> {
    let (_folder, file) = file();
    let mut search = Search::open(&file, space, settings).unwrap();
    assert!(
        search
            .run(|number, _, _| TrialEnd::Value(number as f64), |_| Ok(()))
            .unwrap()
    );
    search.trials().iter().map(|trial| trial.parameters.clone()).collect()
}

#[test]
fn the_same_seed_tries_the_same_points_and_more_trials_only_add_to_them() {
    let twenty = points(&mixed(), random(20, 7));
    assert_eq!(twenty, points(&mixed(), random(20, 7)));
    assert_eq!(twenty[..], points(&mixed(), random(30, 7))[..20]);
    assert_ne!(twenty, points(&mixed(), random(20, 8)));
}

#[test]
fn every_value_is_inside_its_bounds_and_of_its_type() {
    for point in points(&mixed(), random(500, 3)) {
        let rate = point["learning_rate"].as_f64().unwrap();
        assert!((1e-5..=1e-2).contains(&rate), "{rate}");
        assert_eq!(rate, format!("{rate:.5e}").parse::<f64>().unwrap());
        assert!((0.0..=0.5).contains(&point["dropout"].as_f64().unwrap()));
        assert!((4..=64).contains(&point["lora_r"].as_i64().unwrap()));
        assert!((1..=4).contains(&point["epochs"].as_i64().unwrap()));
        let targets = [json!("all-linear"), json!(["q_proj", "v_proj"]), Value::Null];
        assert!(targets.contains(&point["target"]));
    }
}

#[test]
fn logarithmic_ranges_are_uniform_in_the_logarithm_and_others_in_the_value() {
    let points = points(&mixed(), random(4000, 11));
    let share = |name: &str, below: f64| {
        let hits = points
            .iter()
            .filter(|point| point[name].as_f64().unwrap() < below)
            .count();
        hits as f64 / points.len() as f64
    };
    // Four standard deviations of a share of 4000 are about 0.03.
    for (name, below, expected) in [
        ("learning_rate", 1e-4, 1.0 / 3.0),
        ("learning_rate", 1e-3, 2.0 / 3.0),
        ("dropout", 0.125, 0.25),
        ("epochs", 2.5, 0.5),
        // Both ends are half a step wider: from 3.5 to 64.5.
        ("lora_r", 15.5, (15.5f64 / 3.5).ln() / (64.5f64 / 3.5).ln()),
    ] {
        let share = share(name, below);
        assert!(
            (share - expected).abs() < 0.03,
            "{name} < {below}: {share} is not {expected}"
        );
    }
}

#[test]
fn a_grid_has_every_point_once() {
    let space = space(json!({
        "a": {"type": "int", "low": -1, "high": 2},
        "b": {"type": "choice", "values": ["x", "y", "z"]},
        "c": {"type": "float", "values": [0.1, 1]},
    }))
    .unwrap();
    let points = points(&space, grid());
    let distinct: BTreeSet<String> = points.iter().map(|point| json!(point).to_string()).collect();
    assert_eq!((points.len(), distinct.len()), (24, 24));
    assert_eq!(json!(points[1]), json!({"a": -1, "b": "x", "c": 1}));
    assert_eq!(json!(points[23]), json!({"a": 2, "b": "z", "c": 1}));
}

#[test]
fn a_random_search_tries_no_point_twice_and_ends_with_its_space() {
    let space = space(json!({
        "a": {"type": "int", "low": 1, "high": 3},
        "b": {"type": "choice", "values": [true, false]},
    }))
    .unwrap();
    let points = points(&space, random(50, 1));
    let distinct: BTreeSet<String> = points.iter().map(|point| json!(point).to_string()).collect();
    assert_eq!((points.len(), distinct.len()), (6, 6));
}

/// What a trial comes to, from its parameters alone.
fn loss(point: &Parameters) -> f64 {
    (point["learning_rate"].as_f64().unwrap().ln() + 7.0).powi(2) + point["dropout"].as_f64().unwrap()
}

fn objective(point: &Parameters, reports: &mut Reports<'_>) -> TrialEnd {
    for step in [10, 20, 30] {
        if reports.report(step, loss(point) + 1.0 / step as f64) == Decision::Prune {
            break;
        }
    }
    TrialEnd::Value(loss(point))
}

#[test]
fn a_search_that_is_interrupted_anywhere_comes_to_the_same_trials() {
    let settings = SearchSettings {
        pruning: Some(MedianPruning::default()),
        ..random(12, 5)
    };
    let (_folder, whole_file) = file();
    let mut whole = Search::open(&whole_file, &mixed(), settings).unwrap();
    assert!(
        whole
            .run(|_, point, reports| objective(point, reports), |_| Ok(()))
            .unwrap()
    );
    assert!(whole.trials().iter().any(|trial| trial.state == State::Pruned));
    for at in 0..12 {
        let (_folder, file) = file();
        let mut first = Search::open(&file, &mixed(), settings).unwrap();
        let stopped = first.run(
            |number, point, reports| match number == at {
                true => TrialEnd::Interrupted,
                false => objective(point, reports),
            },
            |_| Ok(()),
        );
        assert!(!stopped.unwrap());
        drop(first);
        // Killed while it wrote the next line.
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("{\"trial\": 1");
        std::fs::write(&file, text).unwrap();
        let mut second = Search::open(&file, &mixed(), settings).unwrap();
        assert_eq!(second.trials().len(), at);
        assert!(
            second
                .run(|_, point, reports| objective(point, reports), |_| Ok(()))
                .unwrap()
        );
        assert_eq!(second.trials(), whole.trials());
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&whole_file).unwrap());
    }
}

#[test]
fn a_trial_that_failed_is_tried_again_when_the_search_is_resumed() {
    let (_folder, file) = file();
    let mut search = Search::open(&file, &mixed(), random(3, 1)).unwrap();
    let fails = |number, point: &Parameters| match number {
        1 => TrialEnd::Failed("disk\nfull".to_owned()),
        _ => TrialEnd::Value(loss(point)),
    };
    assert!(search.run(|number, point, _| fails(number, point), |_| Ok(())).unwrap());
    assert_eq!(search.trials()[1].state, State::Failed);
    assert!(search.table().contains("disk full"));
    let mut search = Search::open(&file, &mixed(), random(3, 1)).unwrap();
    let mut tried = Vec::new();
    let again = search.run(
        |number, point, _| {
            tried.push(number);
            TrialEnd::Value(loss(point))
        },
        |_| Ok(()),
    );
    assert!(again.unwrap());
    assert_eq!(tried, [1]);
    let search = Search::open(&file, &mixed(), random(3, 1)).unwrap();
    let numbers: Vec<_> = search.trials().iter().map(|trial| (trial.trial, trial.state)).collect();
    assert_eq!(numbers, [0, 1, 2].map(|number| (number, State::Finished)));
}

#[test]
fn trials_of_another_search_are_refused_with_their_line() {
    let (_folder, file) = file();
    let mut search = Search::open(&file, &mixed(), random(3, 1)).unwrap();
    search
        .run(|_, point, _| TrialEnd::Value(loss(point)), |_| Ok(()))
        .unwrap();
    for settings in [random(3, 2), random(0, 1)] {
        let error = Search::open(&file, &mixed(), settings).unwrap_err().to_string();
        assert!(
            error.contains("trials.jsonl:1: trial 0 is of another search"),
            "{error}"
        );
    }
    assert_eq!(Search::open(&file, &mixed(), random(9, 1)).unwrap().trials().len(), 3);
}

/// Trials whose value at step s is `level * s`, and what a new one is told at each step.
fn told(pruning: MedianPruning, direction: Direction, levels: &[f64], level: f64) -> Vec<Decision> {
    let finished = |(trial, level): (usize, &f64)| Trial {
        trial,
        parameters: Parameters::new(),
        state: State::Finished,
        values: [1, 2, 3].map(|step| (step, Some(level * step as f64))).to_vec(),
        result: Some(*level),
        error: None,
    };
    let others: Vec<Trial> = levels.iter().enumerate().map(finished).collect();
    let point = Parameters::new();
    let mut reports = Reports {
        parameters: &point,
        others: &others,
        pruning: Some(pruning),
        direction,
        values: Vec::new(),
        pruned: false,
    };
    [1, 2, 3].map(|step| reports.report(step, level * step as f64)).to_vec()
}

#[test]
fn a_trial_is_pruned_when_it_is_worse_than_the_median_and_not_before_the_warm_up() {
    use Decision::{Continue, Prune};
    use Direction::{Maximize, Minimize};
    let pruning = |warmup_trials, warmup_steps| MedianPruning {
        warmup_trials,
        warmup_steps,
    };
    let levels = [1.0, 2.0, 3.0, 10.0];
    assert_eq!(told(pruning(4, 0), Minimize, &levels, 2.5), [Continue; 3]);
    assert_eq!(told(pruning(4, 0), Minimize, &levels, 2.6), [Prune; 3]);
    assert_eq!(told(pruning(4, 0), Maximize, &levels, 2.4), [Prune; 3]);
    assert_eq!(told(pruning(4, 0), Maximize, &levels, 2.6), [Continue; 3]);
    assert_eq!(told(pruning(4, 2), Minimize, &levels, 9.0), [Continue, Continue, Prune]);
    assert_eq!(told(pruning(5, 0), Minimize, &levels, 9.0), [Continue; 3]);
    assert_eq!(told(pruning(0, 0), Minimize, &[], 9.0), [Continue; 3]);
    assert_eq!(told(pruning(1, 0), Minimize, &[1.0], f64::NAN), [Prune; 3]);
}

#[test]
fn the_best_is_the_lowest_or_the_highest_result_and_never_no_number() {
    let results = [f64::NAN, 2.0, 1.0, 3.0, 1.0];
    let best = |direction| {
        let (_folder, file) = file();
        let settings = SearchSettings {
            direction,
            ..random(5, 1)
        };
        let mut search = Search::open(&file, &mixed(), settings).unwrap();
        search
            .run(|number, _, _| TrialEnd::Value(results[number]), |_| Ok(()))
            .unwrap();
        search.best().map(|trial| trial.trial)
    };
    assert_eq!(
        (best(Direction::Minimize), best(Direction::Maximize)),
        (Some(2), Some(3))
    );
}

#[test]
fn a_table_has_a_row_per_trial_and_marks_the_best() {
    let (_folder, file) = file();
    let space = space(json!({
        "name": {"type": "choice", "values": ["plain", "two\nlines", "long enough"]},
        "r": {"type": "int", "values": [8]},
    }))
    .unwrap();
    let mut search = Search::open(&file, &space, grid()).unwrap();
    search
        .run(
            |number, _, reports| {
                let _ = reports.report(10, 2.0);
                reports.pruned = number == 1;
                TrialEnd::Value(0.5 - number as f64 / 8.0)
            },
            |_| Ok(()),
        )
        .unwrap();
    let expected = "trial  name          r  state     result\n\
                    0      plain         8  finished  0.5\n\
                    1      \"two\\nlines\"  8  pruned    2 at step 10\n\
                    2      long enough   8  finished  0.25  best\n";
    assert_eq!(search.table(), expected);
    let json = search.json();
    assert_eq!((&json["best"]["trial"], &json["planned"]), (&json!(2), &json!(3)));
    assert_eq!(json["trials"][1]["values"], json!([[10, 2.0]]));
    let plot = search.plot();
    assert_eq!(plot.series[0].points, [(0.0, 0.5), (2.0, 0.25)]);
}

#[test]
fn a_space_that_is_none_is_refused_with_its_dimension() {
    for (dimension, reason) in [
        (json!({"type": "float", "low": 1}), "low and high"),
        (json!({"type": "float", "low": 2, "high": 1}), "low <= high"),
        (json!({"type": "float", "low": 0, "high": 1, "log": true}), "low > 0"),
        (json!({"type": "int", "low": 0.5, "high": 1}), "whole numbers"),
        (json!({"type": "int", "low": 0, "high": 1e300}), "whole numbers"),
        (json!({"type": "int", "values": [1, 1.5]}), "got 1.5"),
        (json!({"type": "choice", "low": 0, "high": 1}), "values instead"),
        (json!({"type": "choice"}), "found none"),
        (json!({"type": "choice", "values": []}), "found none"),
        (json!({"type": "int", "low": 0, "high": 1, "values": [1]}), "got both"),
    ] {
        let error = space(json!({"alpha": dimension})).unwrap_err().to_string();
        assert!(
            error.starts_with("search_space.alpha: ") && error.contains(reason),
            "{error}"
        );
    }
    assert!(space(json!({})).unwrap_err().to_string().contains("found none"));
    let unknown = serde_json::from_value::<Dimension>(json!({"type": "float", "low": 0, "hihg": 1}));
    assert!(unknown.unwrap_err().to_string().contains("hihg"));
}

#[test]
fn a_grid_without_end_is_refused() {
    let (_folder, file) = file();
    let fault = |dimension: Value| {
        let space = space(json!({"alpha": dimension})).unwrap();
        Search::open(&file, &space, grid()).unwrap_err().to_string()
    };
    assert!(fault(json!({"type": "float", "low": 0, "high": 1})).starts_with("search_space.alpha: "));
    let error = fault(json!({"type": "int", "low": -9e15, "high": 9e15}));
    assert!(error.contains("more than 10000 points"), "{error}");
}
