//! SmolLM2 and the golden adapters against the reference's numbers, over HTTP.

use serde_json::{Map, Value};

use crate::reference::{F32, INT8, Tolerance, check};
use crate::server::{BASE, Server, fixture_adapters};

/// Values of the base and of each adapter, by the name they are served under.
pub fn expected() -> Map<String, Value> {
    serde_json::from_str(include_str!("../fixtures/expected.json")).unwrap()
}

fn served(activations: &str, tolerance: &Tolerance) {
    let server = Server::start(&["--adapters", fixture_adapters(), "--activations", activations]);
    let expected = expected();
    assert_eq!(expected.len(), 6);
    check(&server, &expected, tolerance);
}

#[test]
fn int8_activations_stay_near_the_reference() {
    served("int8", &INT8);
    served("int16-prompts", &INT8);
}

#[test]
fn f32_activations_match_the_reference() {
    served("f32", &F32);
}

#[test]
fn the_base_is_listed_as_the_parent_of_every_adapter() {
    let server = Server::start(&["--adapters", fixture_adapters()]);
    let models = server.get("/v1/models").json();
    let models = models["data"].as_array().unwrap();
    let mut names: Vec<&str> = models.iter().map(|model| model["id"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            BASE,
            "dora-r8",
            "r1-down-late-layers",
            "r16-qv",
            "r8-all",
            "rslora-r4-patterns"
        ]
    );
    for model in models.iter().filter(|model| model["id"] != BASE) {
        assert_eq!(model["parent"], BASE, "{model}");
    }
}
