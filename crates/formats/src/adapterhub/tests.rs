use serde_json::json;

use super::*;

fn config(changes: &[(&str, Value)]) -> Value {
    let mut config = json!({
        "mh_adapter": true, "output_adapter": true, "reduction_factor": 16, "non_linearity": "ReLU", "original_ln_before": true,
        "original_ln_after": true, "residual_before_ln": true, "scaling": 1.0, "leave_out": [2], "phm_dim": 4,
    });
    for (name, value) in changes {
        config[name] = value.clone();
    }
    json!({"config": config, "name": "a", "hidden_size": 576, "model_name": "", "version": "adapters.1.3.0"})
}

fn parse(file: &Value) -> Result<BottleneckConfig, FormatError> {
    BottleneckConfig::parse(file.to_string().as_bytes())
}

#[test]
fn a_configuration_is_told_from_pefts_and_read() {
    let file = config(&[]);
    assert!(is_adapterhub(file.to_string().as_bytes()) && !is_adapterhub(br#"{"peft_type": "LORA", "config": {}}"#));
    let read = parse(&file).unwrap();
    assert_eq!(
        (
            read.name.as_str(),
            read.base_model.as_deref(),
            read.non_linearity.as_str()
        ),
        ("a", None, "relu")
    );
    assert!(read.after_attention && read.after_feed_forward && read.sees_sum);
    assert_eq!(
        (read.scaling, read.left_out(), read.hidden_size),
        (1.0, &[2][..], Some(576))
    );
}

#[test]
fn widths_are_whole_parts_by_layer() {
    let read = parse(&config(&[(
        "reduction_factor",
        json!({"1": 1.5, "3": 1000, "default": 16.0}),
    )]))
    .unwrap();
    let widths: Vec<_> = (0..4).map(|layer| read.width(layer, 64).unwrap()).collect();
    assert_eq!(widths, [Some(4), Some(42), None, Some(1)]);
    let read = parse(&config(&[("reduction_factor", json!({"1": 8}))])).unwrap();
    assert_eq!(read.width(1, 64).unwrap(), Some(8));
    assert!(
        read.width(0, 64)
            .unwrap_err()
            .to_string()
            .contains("a value for layer 0")
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (name, value) in [
        ("is_parallel", json!(true)),
        ("phm_layer", json!(true)),
        ("use_gating", json!(true)),
        ("ln_before", json!(true)),
        ("inv_adapter", json!("nice")),
        ("architecture", json!("union")),
        ("scaling", json!("learned")),
        ("original_ln_after", json!(false)),
        ("residual_before_ln", json!("post_add")),
        ("field_of_the_future", json!(3)),
    ] {
        let error = parse(&config(&[(name, value.clone())])).unwrap_err();
        assert!(
            matches!(&error, FormatError::Unsupported { what, .. } if what == name),
            "{name}: {error}"
        );
    }
    for (name, value) in [
        ("reduction_factor", json!(0)),
        ("reduction_factor", json!("16")),
        ("mh_adapter", Value::Null),
        ("leave_out", json!([-1])),
    ] {
        let error = parse(&config(&[(name, value)])).unwrap_err();
        assert!(
            matches!(&error, FormatError::Malformed { what, .. } if what == name),
            "{name}: {error}"
        );
    }
    let mut outer = config(&[]);
    outer["lineage"] = json!("x");
    assert!(parse(&outer).unwrap_err().to_string().contains("lineage"));
    assert!(
        parse(&json!({"config": "pfeiffer", "name": "a"}))
            .unwrap_err()
            .to_string()
            .starts_with("config: ")
    );
}
