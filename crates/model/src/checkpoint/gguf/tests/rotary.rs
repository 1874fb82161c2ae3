use super::*;

/// Angles and magnitude of the first layer of a llama with heads of 4.
fn rotary(changes: &[(&str, Value)]) -> (Vec<f32>, f32) {
    let mut file = File::tiny();
    for (key, value) in changes {
        file.set(&format!("llama.rope.{key}"), value.clone());
    }
    of(&file)
}

fn of(file: &File) -> (Vec<f32>, f32) {
    match &file.open().unwrap().spec().layers[0].attention.position {
        Position::Rotary {
            inverse_frequencies,
            magnitude,
        } => (inverse_frequencies.to_vec(), *magnitude),
        Position::None => panic!("no rotary embedding"),
    }
}

fn scaled(kind: &str, factor: f32) -> Vec<(&'static str, Value)> {
    vec![("scaling.type", text(kind)), ("scaling.factor", Value::F32(factor))]
}

#[test]
fn the_base_defaults_to_that_of_llama() {
    assert_eq!(rotary(&[]), (vec![1.0, 0.01], 1.0));
    assert_eq!(rotary(&[("freq_base", Value::F32(100.0))]), (vec![1.0, 0.1], 1.0));
}

#[test]
fn linear_scaling_divides_every_angle() {
    assert_eq!(rotary(&scaled("linear", 4.0)), (vec![0.25, 0.0025], 1.0));
    let unnamed = [("scaling.factor", Value::F32(4.0))];
    assert_eq!(
        rotary(&unnamed).0,
        [0.25, 0.0025],
        "linear where the kind is not stated"
    );
    let old = [("scale_linear", Value::F32(4.0))];
    assert_eq!(rotary(&old).0, [0.25, 0.0025]);
    assert_eq!(
        rotary(&scaled("none", 4.0)).0,
        [1.0, 0.01],
        "no scaling whatever the factor"
    );
    assert_eq!(rotary(&scaled("linear", 0.0)).0, [1.0, 0.01], "zero stands for none");
}

#[test]
fn yarn_has_a_magnitude_and_blends() {
    let mut keys = scaled("yarn", 4.0);
    keys.push(("scaling.original_context_length", Value::U32(64)));
    let magnitude = (1.0 + 0.1 * 4f64.ln()) as f32;
    assert_eq!(rotary(&keys), (vec![1.0, 0.0025], magnitude));
    // So few turns count as many that nothing is stretched, and as few that everything is.
    keys.push(("scaling.yarn_beta_slow", Value::F32(1e-6)));
    keys.push(("scaling.yarn_beta_fast", Value::F32(1e-5)));
    assert_eq!(rotary(&keys), (vec![1.0, 0.01], magnitude));
    keys.push(("scaling.attn_factor", Value::F32(0.5)));
    assert_eq!(rotary(&keys).1, (0.5 * (1.0 + 0.1 * 4f64.ln())) as f32);
}

/// What right factors do, the files of the families show.
#[test]
fn factors_that_cannot_be_are_refused_by_name() {
    let zero = refusal(|file| file.tensor("rope_freqs.weight", &[2], F32));
    assert!(
        zero.ends_with("tensor rope_freqs.weight: expected positive factors, got 0"),
        "{zero}"
    );
    for (name, shape, code) in [
        ("rope_freqs", [3], F32),
        ("rope_freqs", [2], F16),
        ("rope_factors_short", [1], F32),
    ] {
        let message = refusal(|file| file.tensor(&format!("{name}.weight"), &shape, code));
        assert!(
            message.contains(&format!("tensor {name}.weight: expected F32 of shape [2]")),
            "{message}"
        );
    }
}

#[test]
fn scalings_that_are_not_understood_are_refused_by_name() {
    let refused = |changes: &[(&str, Value)]| {
        refusal(|file| {
            for (key, value) in changes {
                file.set(&format!("llama.rope.{key}"), value.clone());
            }
        })
    };
    for (key, value) in [
        ("scaling.type", text("dynamic")),
        ("scaling.factor", Value::F32(-1.0)),
        ("scaling.factor", Value::F32(f32::NAN)),
        ("scaling.attn_factor", Value::F32(0.0)),
        ("scaling.yarn_attn_factor", Value::F32(1.5)),
        ("scaling.yarn_ext_factor", Value::F32(0.5)),
        ("scaling.yarn_log_multiplier", Value::F32(0.1)),
        ("scaling.alpha", Value::F32(1.0)),
        ("freq_base", Value::F32(1.0)),
        ("freq_base_swa", Value::F32(1e4)),
        ("dimension_count", Value::U32(2)),
        ("dimension_sections", Value::Array(Array::I32(vec![1, 1, 0, 0]))),
    ] {
        let message = refused(&[(key, value)]);
        assert!(message.contains(&format!("llama.rope.{key}")), "{key}: {message}");
    }
    let longrope = refused(&[("scaling.type", text("longrope"))]);
    assert!(
        longrope.ends_with("tensor rope_factors_short.weight is missing"),
        "{longrope}"
    );
    let mut partial = scaled("yarn", 4.0);
    partial.push(("scaling.yarn_ext_factor", Value::F32(0.0)));
    assert!(refused(&partial).contains("rope.scaling.yarn_ext_factor"));
}

#[test]
fn keys_of_scaling_without_effect_are_accepted() {
    let keys = [
        ("scaling.finetuned", Value::Bool(true)),
        ("scaling.original_context_length", Value::U32(32)),
        ("scaling.yarn_ext_factor", Value::F32(-1.0)),
        ("scaling.yarn_attn_factor", Value::F32(1.0)),
        ("scaling.yarn_beta_fast", Value::F32(32.0)),
        ("scaling.yarn_log_multiplier", Value::F32(0.0)),
    ];
    assert_eq!(rotary(&keys), (vec![1.0, 0.01], 1.0));
}

#[test]
fn layers_with_a_window_have_a_base_of_their_own_and_no_scaling() {
    let mut file = File::of("gemma3", 7);
    file.set("gemma3.attention.sliding_window", Value::U32(16));
    file.set("gemma3.rope.freq_base", Value::F32(1e6));
    file.set("gemma3.rope.scaling.type", text("linear"));
    file.set("gemma3.rope.scaling.factor", Value::F32(8.0));
    let angles = |file: &File, layer: usize| match &file.open().unwrap().spec().layers[layer].attention.position {
        Position::Rotary {
            inverse_frequencies, ..
        } => inverse_frequencies.to_vec(),
        Position::None => panic!("no rotary embedding"),
    };
    assert_eq!(angles(&file, 0), [1.0, 0.01]);
    assert_eq!(angles(&file, 5), [0.125, 0.000_125]);
    file.set("gemma3.rope.freq_base_swa", Value::F32(100.0));
    assert_eq!(angles(&file, 0), [1.0, 0.1]);
}

#[test]
fn part_of_a_head_may_rotate_where_rows_are_not_interleaved() {
    let mut file = File::of("phi3", 1);
    file.set("phi3.rope.dimension_count", Value::U32(2));
    assert_eq!(of(&file).0, [1.0]);
    for width in [0, 3, 6] {
        let message = refusal_of(file.clone(), |file| {
            file.set("phi3.rope.dimension_count", Value::U32(width))
        });
        assert!(message.contains("phi3.rope.dimension_count"), "{message}");
    }
}
