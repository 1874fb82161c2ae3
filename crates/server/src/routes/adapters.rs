//! Adapters come and go while the server runs, with vLLM's endpoints and answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use tokio::task::spawn_blocking;

use crate::app::App;
use crate::body;
use crate::error::{ApiError, ApiResult};
use crate::wire::fields::Fields;
use crate::wire::models::served_name;

/// Loads an adapter from below one of the adapter roots.
pub(crate) async fn load_adapter(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<String> {
    let _flight = app.flights.accept()?;
    let mut fields = Fields::parse(&body::read(request, app.body_limit).await?)?;
    let name = required(&mut fields, "lora_name")?;
    served_name("lora_name", &name)?;
    let path = required(&mut fields, "lora_path")?;
    let inplace = fields.flag("load_inplace")?;
    fields.finish()?;
    // Goes with the load, which runs to its end even if the client leaves.
    let turn = app.loading.clone().lock_owned().await;
    let load = move || {
        let _turn = turn;
        let base = app.bases.current();
        if *name == *base.name || !inplace && base.adapters.get(&name).is_some() {
            return Err(ApiError::AdapterExists(name));
        }
        let found = below_roots(Path::new(&path), &app.adapter_roots).ok_or(ApiError::AdapterPath(path))?;
        base.adapters.load(&name, &found).map_err(ApiError::Adapter)?;
        Ok(format!("Success: LoRA adapter '{name}' added successfully."))
    };
    spawn_blocking(load).await.unwrap_or(Err(ApiError::Internal))
}

/// Takes an adapter's name away.
pub(crate) async fn unload_adapter(State(app): State<Arc<App>>, request: Request<Body>) -> ApiResult<String> {
    let mut fields = Fields::parse(&body::read(request, app.body_limit).await?)?;
    let name = required(&mut fields, "lora_name")?;
    fields.finish()?;
    // A base that is replaced at this moment must not bring the name back.
    let _turn = app.loading.lock().await;
    match app.bases.current().adapters.unload(&name) {
        true => Ok(format!("Success: LoRA adapter '{name}' removed successfully.")),
        false => Err(ApiError::AdapterUnknown(name)),
    }
}

fn required(fields: &mut Fields, name: &'static str) -> ApiResult<String> {
    let text = fields.required_string(name)?;
    match text.is_empty() {
        true => Err(ApiError::Missing(name)),
        false => Ok(text),
    }
}

/// The folder or GGUF file with links resolved if it lies below a root; a relative path starts at each root in turn.
/// What does not exist and what is elsewhere look alike.
fn below_roots(path: &Path, roots: &[PathBuf]) -> Option<PathBuf> {
    roots.iter().find_map(|root| {
        let root = root.canonicalize().ok()?;
        let found = root.join(path).canonicalize().ok()?;
        let is_adapter = found.is_dir()
            || found
                .extension()
                .is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
        (found != root && found.starts_with(&root) && is_adapter).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::below_roots;

    #[test]
    fn only_folders_and_gguf_files_below_a_root_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (root, other) = (dir.path().join("root"), dir.path().join("root-other"));
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let found = |path: &str| below_roots(path.as_ref(), std::slice::from_ref(&root));
        std::fs::write(root.join("a/b.gguf"), "").unwrap();
        std::fs::write(other.join("c.gguf"), "").unwrap();
        let expected = Some(root.canonicalize().unwrap().join("a"));
        assert_eq!(found("a/b.gguf"), Some(root.canonicalize().unwrap().join("a/b.gguf")));
        assert_eq!(found("a"), expected);
        assert_eq!(found("../root/a"), expected);
        assert_eq!(found(root.join("a").to_str().unwrap()), expected);
        for outside in [
            "",
            ".",
            "..",
            "../root-other",
            "../root-other/c.gguf",
            "missing",
            "missing.gguf",
            "file",
            "/",
            "\0",
            other.to_str().unwrap(),
        ] {
            assert_eq!(found(outside), None, "{outside:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_count_as_where_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("inside")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("out")).unwrap();
        std::os::unix::fs::symlink(root.join("inside"), root.join("in")).unwrap();
        let roots = [root.clone()];
        assert_eq!(below_roots("out".as_ref(), &roots), None);
        let inside = root.canonicalize().unwrap().join("inside");
        assert_eq!(below_roots("in".as_ref(), &roots), Some(inside));
    }
}
