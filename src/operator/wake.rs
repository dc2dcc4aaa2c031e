//! Wake-ups: a server that came into or went out of sight has its tree looked at now, not at the next tick.

use std::sync::Arc;

use futures::Stream;
use tokio::sync::Notify;

/// Wakes the controller. Wake-ups that come while one is waiting to be heard are one.
#[derive(Debug, Clone, Default)]
pub struct Waker(Arc<Notify>);

impl Waker {
    /// Have every topology looked at.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// The wake-ups, for one listener.
    pub fn wakes(&self) -> impl Stream<Item = ()> + Send + use<> {
        futures::stream::unfold(Arc::clone(&self.0), |notify| async move {
            notify.notified().await;
            Some(((), notify))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::Waker;

    #[tokio::test]
    async fn a_wake_up_before_anybody_listens_is_not_lost_and_many_are_one() {
        let waker = Waker::default();
        waker.wake();
        waker.wake();
        let mut heard = std::pin::pin!(waker.wakes());
        assert_eq!(heard.next().await, Some(()));
        assert_eq!(futures::poll!(heard.next()), std::task::Poll::Pending);
    }
}
