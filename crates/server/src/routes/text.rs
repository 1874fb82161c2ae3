//! Text to token ids and back, in vLLM's shapes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::response::Response;
use rootstock_model::text::TokenId;
use serde::Serialize;

use super::json_response;
use crate::app::App;
use crate::base::Base;
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::prompt;
use crate::target::Target;
use crate::wire::chat::Conversation;
use crate::wire::fields::Fields;
use crate::wire::options::{ModelChoice, token_ids};

#[derive(Serialize)]
struct Tokens {
    count: usize,
    max_model_len: usize,
    tokens: Vec<TokenId>,
    token_strs: Option<Vec<String>>,
}

/// Ids of a prompt, or of messages as the chat template puts them.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<Response> {
    let body = body::read(request, app.body_limit).await?;
    let base = app.bases.current();
    app.workshop
        .run(body.len(), move || {
            let mut fields = Fields::parse(&body)?;
            let target = target(&mut fields, &base)?;
            let strings = fields.flag("return_token_strs")?;
            let tokens = match fields.string("prompt")? {
                Some(text) => {
                    let add_special = fields.optional_flag("add_special_tokens")?.unwrap_or(true);
                    prompt::encode_text(&text, &base.tokenizer, add_special)?
                }
                None => {
                    let conversation = Conversation::take(&mut fields)?;
                    let text = prompt::render(&conversation, &base, target.defaults())?;
                    prompt::encode_text(&text, &base.tokenizer, conversation.add_special_tokens)?
                }
            };
            fields.finish()?;
            let spell = |id: &TokenId| base.tokenizer.decode(&[*id], false);
            Ok(json_response(&Tokens {
                count: tokens.len(),
                max_model_len: base.max_context,
                token_strs: strings.then(|| tokens.iter().map(spell).collect()),
                tokens,
            }))
        })
        .await
}

#[derive(Serialize)]
struct Detokenized {
    prompt: String,
}

/// Text of ids, special tokens included.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<Response> {
    let body = body::read(request, app.body_limit).await?;
    let base = app.bases.current();
    app.workshop
        .run(body.len(), move || {
            let mut fields = Fields::parse(&body)?;
            target(&mut fields, &base)?;
            let ids = fields.array("tokens")?.ok_or(ApiError::Missing("tokens"))?;
            fields.finish()?;
            let ids = token_ids("tokens", &ids, base.bounds)?;
            Ok(json_response(&Detokenized {
                prompt: base.tokenizer.decode(&ids, false),
            }))
        })
        .await
}

/// The tokenizer is the base's whatever the model, so it may be left out; but it may not be wrong.
fn target(fields: &mut Fields, base: &Base) -> ApiResult<Target> {
    let model = fields.string("model")?.unwrap_or_else(|| base.name.to_string());
    Target::resolve(&ModelChoice::plain(model), base)
}
