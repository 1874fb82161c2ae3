//! What is trained on is what the preview shows.

use super::{Workplace, succeed};

#[test]
fn a_line_break_in_a_template_may_be_typed_with_a_backslash() {
    let work = Workplace::new();
    let train = |output: &str, template: &str| {
        let flags = ["--max-steps", "2", "--lora-r", "2", "--text-template", template];
        succeed(&mut work.finetune(output, &flags));
        std::fs::read(work.path(output).join("adapter_model.safetensors")).unwrap()
    };
    let typed = train("typed", "{prompt}\\n{completion}");
    assert!(typed == train("broken", "{prompt}\n{completion}"));
    assert!(typed != train("other", "{prompt} {completion}"));
}
