//! The line to the guard: orders on the standard output, reports on the standard input.

use std::io::{Stdout, Write as _, stdout};

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines, Stdin, stdin};
use tracing::error;

use crate::guard::words::{Order, Report};

/// What the guard says.
pub(super) struct Reports(Lines<BufReader<Stdin>>);

/// Where it listens.
pub(super) struct Orders(Stdout);

pub(super) fn open() -> (Reports, Orders) {
    (Reports(BufReader::new(stdin()).lines()), Orders(stdout()))
}

impl Reports {
    /// The next report; `None` when the guard is gone. Nothing is lost when this is not waited for to its end.
    pub(super) async fn hear(&mut self) -> Option<Report> {
        let line = self.0.next_line().await.ok()??;
        line.parse().inspect_err(|unknown| error!("{unknown}")).ok()
    }
}

impl Orders {
    /// A guard that is gone is noticed by [`Reports::hear`].
    pub(super) fn give(&self, order: Order) {
        let mut out = self.0.lock();
        let _ = writeln!(out, "{order}").and_then(|()| out.flush());
    }
}
