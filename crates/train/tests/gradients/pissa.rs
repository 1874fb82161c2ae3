//! Pairs that begin as their weights' largest components, against peft's. A component's sign is nobody's: A's row and B's column
//! of it may both be turned, and stay so through training.

use rootstock_decoder::{Parameters, Subject, Trained};
use rootstock_formats::peft::AdapterConfig;
use rootstock_model::Checkpoint;
use rootstock_model::packing::WeightPrecision;
use rootstock_train::adapter::{
    Configuration, Folder, Initialisation, LoraSettings, Targets, adapter_config, attach, begin_as_components,
    doubled_config, write_folder,
};
use rootstock_train::run::Row;
use serde_json::Value;

use crate::cases::{
    BOUND, Case, Make, Tensors, batch, compare, engine, expected, fixture, frozen, learned, own, samples, train,
    train_on, twenty_steps, values,
};

const RANK: usize = 4;

fn config() -> Value {
    let maps = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ];
    let settings = LoraSettings {
        rank: RANK,
        alpha: 8.0,
        targets: Targets::Names(maps.map(str::to_owned).to_vec()),
        ..LoraSettings::default()
    };
    adapter_config(&settings, "base", Checkpoint::open(&fixture("base")).unwrap().hash())
}

/// Pairs on all maps; exact components, or those that so many iterations find.
pub fn case(iterations: Option<usize>) -> Case {
    let model = frozen(&fixture("base"), WeightPrecision::Stored);
    let config = Configuration::parse(config().to_string().as_bytes()).unwrap();
    let mut attached = attach(&config, 0.0, &model, 1).unwrap();
    begin_as_components(&mut attached, &model, Initialisation::Pissa { iterations }, (1, 2)).unwrap();
    Case { model, attached }
}

/// Rows of A and columns of B turned to point as they do in `like`.
fn aligned(tensors: Tensors, beginning: &Tensors, like: &Tensors) -> Tensors {
    let turned = |(name, values): (String, Vec<f32>)| {
        let a = name.replace("lora_B", "lora_A");
        let (ours, theirs) = (&beginning[&a], &like[&a]);
        let inputs = ours.len() / RANK;
        let sign = |component: usize| -> f32 {
            let row = component * inputs..(component + 1) * inputs;
            let dot: f32 = ours[row.clone()].iter().zip(&theirs[row]).map(|(a, b)| a * b).sum();
            dot.signum()
        };
        let component = |at: usize| if name == a { at / inputs } else { at % RANK };
        let values = values.iter().enumerate().map(|(at, value)| value * sign(component(at)));
        let values = values.collect();
        (name, values)
    };
    tensors.into_iter().map(turned).collect()
}

fn rows() -> Vec<Row> {
    samples().into_iter().map(|sample| vec![sample]).collect()
}

/// Mean loss of the samples without a way back.
fn loss(case: &mut Case) -> f64 {
    let samples = samples();
    let subject = Subject {
        model: &case.model,
        trained: &case.attached.trained,
        parameters: &mut case.attached.parameters,
    };
    let losses = engine(false, 2).step(subject, &batch(&samples), None);
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / learned(&samples) as f64
}

/// Checks the values that pairs begin with, and their gradients.
pub fn begins_as_pefts(make: Make) {
    let file = fixture("pissa.safetensors");
    let (initial, gradients) = (expected(&file, "initial."), expected(&file, "gradient."));
    let mut case = case(None);
    let begun = values(&case.attached);
    compare(
        "initial",
        &aligned(begun.clone(), &begun, &initial),
        &initial,
        10.0 * BOUND,
    );
    let samples = samples();
    let (loss, found) = case.gradients(make(&case.model, false).as_mut(), &batch(&samples), learned(&samples));
    let peft = f64::from(expected(&file, "loss")[""][0]);
    assert!((loss / peft - 1.0).abs() < 1e-5, "loss {loss}, expected {peft}");
    compare("gradients", &aligned(found, &begun, &initial), &gradients, 10.0 * BOUND);
}

/// Checks what 20 steps make of the pairs.
pub fn trains_as_pefts(make: Make) {
    let file = fixture("pissa.safetensors");
    let (initial, after) = (expected(&file, "initial."), expected(&file, "trained."));
    let case = case(None);
    let begun = values(&case.attached);
    let rows = rows();
    let (attached, losses) = train_on(make, case, &rows, twenty_steps(&rows));
    compare(
        "trained",
        &aligned(values(&attached), &begun, &initial),
        &after,
        10.0 * BOUND,
    );
    assert!(losses[19] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn pairs_begin_as_pefts_do_and_have_its_gradients() {
    begins_as_pefts(own);
}

#[test]
fn pairs_that_begin_as_components_train_as_pefts_do() {
    trains_as_pefts(own);
}

#[test]
fn before_the_first_step_the_model_is_its_base() {
    for iterations in [None, Some(2)] {
        let mut begun = case(iterations);
        let with = loss(&mut begun);
        begun.attached.trained = Trained::default();
        begun.attached.parameters = Parameters::default();
        let without = loss(&mut begun);
        assert!(
            (with / without - 1.0).abs() < 1e-5,
            "{with} with pairs, {without} without"
        );
    }
}

#[test]
fn what_is_written_is_a_plain_pair_of_twice_the_rank_with_the_same_effect() {
    let rows = rows();
    let case = case(None);
    let model = frozen(&fixture("base"), WeightPrecision::Stored);
    let (attached, _) = train(case, &rows, twenty_steps(&rows));
    let folder = tempfile::tempdir().unwrap();
    let config = doubled_config(&config());
    assert_eq!((&config["r"], &config["lora_alpha"]), (&8.into(), &16.into()));
    let written = Folder {
        config: &config,
        parameters: &attached.parameters,
        spec: model.spec(),
        card: "",
    };
    write_folder(folder.path(), written).unwrap();
    let trained = loss(&mut Case { model, attached });
    let read = loss(&mut Case::load(&fixture("base"), folder.path()));
    assert!(
        (trained / read - 1.0).abs() < 1e-5,
        "{trained} as trained, {read} as written"
    );
}

#[test]
fn patterns_and_stabilised_ranks_keep_their_factors() {
    let mut config = config();
    config["use_rslora"] = true.into();
    config["rank_pattern"] = serde_json::json!({"down_proj": 9});
    config["alpha_pattern"] = serde_json::json!({"down_proj": 3});
    let parse = |config: &Value| AdapterConfig::parse(config.to_string().as_bytes()).unwrap();
    let (before, after) = (parse(&config), parse(&doubled_config(&config)));
    for path in ["model.layers.0.mlp.down_proj", "model.layers.0.self_attn.q_proj"] {
        assert_eq!(after.rank_for(path), 2 * before.rank_for(path), "{path}");
        assert!(
            (after.scale_for(path) / before.scale_for(path) - 1.0).abs() < 1e-6,
            "{path}"
        );
    }
}
