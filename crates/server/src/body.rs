//! Request bodies: read whole within a size and a time, and the threads that work on large ones.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::{ApiError, ApiResult};

/// From the end of the headers to the end of the body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Of a body above the limit this many times the limit is read and dropped, because a client that is still writing
/// would see a reset connection instead of the answer.
const DISCARDED_LIMITS: usize = 8;
/// Bytes above which parsing, tokenizing and writing leave the async threads; below, they take well under a millisecond.
const INLINE_BYTES: usize = 4096;

/// The whole body.
pub(crate) async fn read(request: Request<Body>, limit: usize) -> ApiResult<Vec<u8>> {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let waits = request.headers().contains_key(header::EXPECT);
    if waits && declared.is_some_and(|declared| declared > limit) {
        return Err(ApiError::BodyTooLarge(limit));
    }
    let bytes = Vec::with_capacity(declared.unwrap_or(0).min(limit));
    timeout(BODY_TIME, collect(request.into_body(), bytes, limit))
        .await
        .unwrap_or(Err(ApiError::SlowBody(BODY_TIME.as_secs())))
}

async fn collect(body: Body, mut bytes: Vec<u8>, limit: usize) -> ApiResult<Vec<u8>> {
    let mut frames = body.into_data_stream();
    let mut total = 0;
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(incomplete)?;
        total += frame.len();
        if total <= limit {
            bytes.extend_from_slice(&frame);
        } else if total > limit.saturating_mul(DISCARDED_LIMITS) {
            break;
        } else {
            bytes = Vec::new();
        }
    }
    match total <= limit {
        true => Ok(bytes),
        false => Err(ApiError::BodyTooLarge(limit)),
    }
}

fn incomplete(error: axum::Error) -> ApiError {
    ApiError::IncompleteBody(error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// Threads for work on large bodies. Parsed JSON takes up to 30 times the memory of its text, and tokenizing takes
/// seconds of a core that the engine needs too: a storm of large bodies waits for its turn instead.
#[derive(Clone)]
pub(crate) struct Workshop {
    places: Arc<Semaphore>,
    count: usize,
}

impl Workshop {
    /// So many pieces of work at a time, at least one.
    pub(crate) fn new(places: usize) -> Self {
        let count = places.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(count)),
            count,
        }
    }

    /// Nothing is being worked on.
    pub(crate) fn is_idle(&self) -> bool {
        self.places.available_permits() == self.count
    }

    /// Runs `work` where it may take as long as `bytes` of input or output need.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        if bytes <= INLINE_BYTES {
            return work();
        }
        // The permit goes with the work, which runs to its end even if the client leaves.
        let permit = self.places.clone().acquire_owned().await;
        let work = move || {
            let _permit = permit.map_err(|_| ApiError::Internal)?;
            work()
        };
        spawn_blocking(work).await.unwrap_or(Err(ApiError::Internal))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn large_work_takes_turns_and_small_work_does_not_wait() {
        let workshop = Workshop::new(2);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let large = |_| {
            let (now, most) = (now.clone(), most.clone());
            workshop.run(INLINE_BYTES + 1, move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            })
        };
        let done = join_all((0..12).map(large)).await;
        assert!(done.iter().all(Result::is_ok));
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert!(workshop.is_idle());
        let all = workshop.places.clone().acquire_many_owned(2).await.unwrap();
        assert!(!workshop.is_idle());
        assert!(workshop.run(INLINE_BYTES, || Ok(())).await.is_ok());
        drop(all);
    }
}
