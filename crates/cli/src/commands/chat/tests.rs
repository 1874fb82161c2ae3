//! What lines mean, and what a conversation remembers, with a backend that writes down what it is asked.

use super::*;
use crate::commands::chat::backend::OnText;

/// Answers with the number of messages it saw; fails on "fail".
#[derive(Default)]
struct Counting {
    asked: Vec<(Vec<Value>, Option<String>)>,
}

impl Backend for Counting {
    fn adapters(&self) -> Result<Vec<String>> {
        Ok(vec!["pirate".to_owned(), "poet".to_owned()])
    }

    fn answer(&mut self, messages: &[Value], adapter: Option<&str>, on_text: OnText<'_>) -> Result<String> {
        self.asked.push((messages.to_vec(), adapter.map(str::to_owned)));
        if messages.last().is_some_and(|message| message["content"] == "fail") {
            anyhow::bail!("asked to fail");
        }
        let answer = messages.len().to_string();
        on_text(&answer)?;
        Ok(answer)
    }
}

fn say(conversation: &mut Conversation, backend: &mut Counting, line: &str) -> Result<()> {
    conversation.take(Line::parse(line), backend, &mut Vec::new())
}

#[test]
fn lines_are_messages_or_commands() {
    assert_eq!(Line::parse("  hello /there "), Line::Message("hello /there"));
    assert_eq!(Line::parse("/adapter  poet "), Line::Adapter("poet"));
    assert_eq!(Line::parse("/adapter"), Line::Adapter(""));
    assert_eq!(Line::parse("/system be brief"), Line::System("be brief"));
    assert_eq!(Line::parse("/nonsense x"), Line::Unknown("/nonsense"));
    assert_eq!(Line::parse(" "), Line::Nothing);
    assert_eq!(Line::parse("/quit"), Line::Quit);
}

#[test]
fn an_adapter_switched_to_reads_the_whole_conversation() {
    let (mut conversation, mut backend) = (Conversation::default(), Counting::default());
    for line in ["hello", "/adapter poet", "again", "/adapter", "and again"] {
        say(&mut conversation, &mut backend, line).unwrap();
    }
    let adapters: Vec<_> = backend.asked.iter().map(|(_, adapter)| adapter.as_deref()).collect();
    assert_eq!(adapters, [None, Some("poet"), None]);
    let lengths: Vec<_> = backend.asked.iter().map(|(messages, _)| messages.len()).collect();
    assert_eq!(lengths, [1, 3, 5]);
}

#[test]
fn an_unknown_adapter_changes_nothing_and_names_the_known_ones() {
    let (mut conversation, mut backend) = (Conversation::default(), Counting::default());
    say(&mut conversation, &mut backend, "/adapter poet").unwrap();
    let error = say(&mut conversation, &mut backend, "/adapter nobody").unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no adapter \"nobody\"; there are: pirate, poet"
    );
    assert_eq!(conversation.adapter.as_deref(), Some("poet"));
}

#[test]
fn answers_and_lists_are_all_that_is_written() {
    let (mut conversation, mut backend, mut out) = (Conversation::default(), Counting::default(), Vec::new());
    for line in ["hello", "/adapter poet", "/adapters", "/help", "/nonsense", "again"] {
        conversation.take(Line::parse(line), &mut backend, &mut out).unwrap();
    }
    assert_eq!(String::from_utf8(out).unwrap(), "1\npirate\npoet\n3\n");
}

#[test]
fn a_message_without_an_answer_is_forgotten() {
    let (mut conversation, mut backend) = (Conversation::default(), Counting::default());
    say(&mut conversation, &mut backend, "hello").unwrap();
    say(&mut conversation, &mut backend, "fail").unwrap_err();
    assert_eq!(conversation.messages.len(), 2);
}

#[test]
fn reset_keeps_the_system_message() {
    let (mut conversation, mut backend) = (Conversation::default(), Counting::default());
    for line in ["/system be brief", "hello", "/reset", "hello"] {
        say(&mut conversation, &mut backend, line).unwrap();
    }
    let (messages, _) = &backend.asked[1];
    let roles: Vec<_> = messages
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user"]);
}
