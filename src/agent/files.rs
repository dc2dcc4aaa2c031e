//! The files of a data directory over time: what was asked for is written, PostgreSQL is asked about it, and what it does not
//! take is left out, as it would not start with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::configure::{self, lines_there};
use super::refused::Refused;
use super::{NotAsOrdered, NotConfigured, Place, data, programs};
use crate::model::orders::Orders;

/// After so many starts in vain in a row nothing that users want is asked of it: not all that keeps it from coming up is seen
/// before, a library that is not there for one.
const PLAIN_AFTER: u32 = 3;

/// What is known of them.
#[derive(Default)]
pub(super) struct Files {
    /// The major version of the PostgreSQL of this image, once it was asked for.
    version: Option<u32>,
    /// What the data need to start; `None` before they were asked.
    floors: Option<BTreeMap<String, u64>>,
    /// Whether PostgreSQL was asked about the files as they are.
    checked: bool,
    /// What it does not take of these orders.
    refused: Refused,
    /// The certificates that it was told to read last.
    certificates: Vec<u8>,
    /// Whether something was written that it has not read: by this agent, or perhaps by the one before.
    unread: bool,
    /// How often in a row it did not come up: whatever was written last may be why.
    failures: u32,
    /// Whether nothing is asked of it that users want, as it did not come up with that.
    plain: bool,
}

impl Files {
    /// There are other orders, perhaps of other `parameters`: those of before are not tried again.
    pub(super) fn forget(&mut self, parameters: bool) {
        (self.refused, self.checked) = (Refused::default(), false);
        self.plain &= !parameters;
    }

    /// The data may be others.
    pub(super) fn of_other_data(&mut self) {
        self.floors = None;
    }

    /// PostgreSQL has ended.
    pub(super) fn ended(&mut self, came_up: bool) {
        self.failures = if came_up { 0 } else { self.failures + 1 };
        self.plain |= self.failures >= PLAIN_AFTER;
    }

    /// How often in a row it did not come up.
    pub(super) fn starts_in_vain(&self) -> u32 {
        self.failures
    }

    /// Whether something was written that it has not read.
    pub(super) fn are_unread(&self) -> bool {
        self.unread
    }

    /// It has read all, or is about to.
    pub(super) fn were_read(&mut self) {
        self.unread = false;
    }

    /// Somebody else may have written.
    pub(super) fn may_be_unread(&mut self) {
        self.unread = true;
    }

    /// What is left out, for people; empty where nothing is.
    pub(super) fn told(&self) -> String {
        if self.plain {
            return "PostgreSQL did not come up with postgres.parameters, several times: it is started without them until they \
                    are others"
                .to_owned();
        }
        self.refused.told()
    }

    /// Writes what differs. PostgreSQL can tell of settings at any time, and of who is let in only
    /// while it runs: until it `answers` nobody new is.
    ///
    /// # Errors
    /// When it cannot be written, or PostgreSQL not be asked.
    pub(super) async fn write(&mut self, place: &Place, orders: &Orders, answers: bool) -> Result<(), NotAsOrdered> {
        let version = match self.version {
            Some(version) => version,
            None => *self.version.insert(programs::version().await?),
        };
        let floors = match self.floors.take() {
            Some(floors) => floors,
            None => data::floors(&place.data).await?,
        };
        let floors = &*self.floors.insert(floors);
        let there = if answers || self.failures > 0 { Vec::new() } else { lines_there(&place.data) };
        loop {
            let mut wanted = self.refused.without(orders);
            wanted.hba.retain(|line| answers || there.contains(line));
            if self.plain {
                wanted.parameters.clear();
            }
            let written = configure::write(place, &wanted, version, floors)?;
            // Before anything is waited for: whoever waits may be given up.
            self.unread |= written;
            if self.checked && !written {
                return Ok(());
            }
            self.checked = false;
            match programs::faults(&place.data).await? {
                None => self.checked = true,
                Some(said) if self.refused.learn_parameters(&said, &orders.parameters) => {}
                Some(said) => return Err(NotConfigured::Refused(said).into()),
            }
        }
    }

    /// Kubernetes puts new certificates in the place of those that are there.
    pub(super) fn look_at_certificates(&mut self, place: &Place) {
        let read = |folder: &PathBuf| {
            let files = ["tls.crt", "tls.key", "ca.crt"].map(|file| fs::read(folder.join(file)));
            files.into_iter().collect::<Result<Vec<_>, _>>().map(|files| files.concat())
        };
        // What cannot be read now may be on its way.
        let Some(Ok(now)) = place.certificates.as_ref().map(read) else { return };
        self.unread |= !self.certificates.is_empty() && self.certificates != now;
        self.certificates = now;
    }

    /// Leaves out lines that PostgreSQL says these `faults` of.
    ///
    /// # Errors
    /// As of [`Self::write`].
    pub(super) async fn judge(
        &mut self,
        place: &Place,
        orders: &Orders,
        faults: Vec<(String, String)>,
    ) -> Result<(), NotAsOrdered> {
        if self.refused.learn_lines(faults, &orders.hba) {
            self.write(place, orders, true).await?;
        }
        Ok(())
    }
}
