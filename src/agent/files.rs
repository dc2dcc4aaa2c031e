//! The files of a data directory over time: what was asked for is written, PostgreSQL is asked about it, and what it does not
//! take is left out, as it would not start with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::configure::{self, lines_there};
use super::refused::Refused;
use super::{NotAsOrdered, NotConfigured, Place, data, programs};
use crate::model::orders::Orders;

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
    /// Whether it did not come up last: whatever was written last may be why.
    in_doubt: bool,
}

impl Files {
    /// There are other orders.
    pub(super) fn forget(&mut self) {
        (self.refused, self.checked) = (Refused::default(), false);
    }

    /// The data may be others.
    pub(super) fn of_other_data(&mut self) {
        self.floors = None;
    }

    /// PostgreSQL has ended.
    pub(super) fn ended(&mut self, came_up: bool) {
        self.in_doubt = !came_up;
    }

    /// What is left out, for people; empty where nothing is.
    pub(super) fn told(&self) -> String {
        self.refused.told()
    }

    /// Writes what differs; true where something did. PostgreSQL can tell of settings at any time, and of who is let in only
    /// while it runs: until it `answers` nobody new is.
    ///
    /// # Errors
    /// When it cannot be written, or PostgreSQL not be asked.
    pub(super) async fn write(&mut self, place: &Place, orders: &Orders, answers: bool) -> Result<bool, NotAsOrdered> {
        let version = match self.version {
            Some(version) => version,
            None => *self.version.insert(programs::version().await?),
        };
        let floors = match self.floors.take() {
            Some(floors) => floors,
            None => data::floors(&place.data).await?,
        };
        let floors = &*self.floors.insert(floors);
        let there = if answers || self.in_doubt { Vec::new() } else { lines_there(&place.data) };
        let mut changed = false;
        loop {
            let mut wanted = self.refused.without(orders);
            wanted.hba.retain(|line| answers || there.contains(line));
            let written = configure::write(place, &wanted, version, floors)?;
            changed |= written;
            if self.checked && !written {
                return Ok(changed);
            }
            match programs::faults(&place.data).await? {
                None => self.checked = true,
                Some(said) if self.refused.learn_parameters(&said, &orders.parameters) => self.checked = false,
                Some(said) => return Err(NotConfigured::Refused(said).into()),
            }
        }
    }

    /// Whether the certificates are others than when this was asked last: Kubernetes puts new ones in their place.
    pub(super) fn are_certificates_new(&mut self, place: &Place) -> bool {
        let read = |folder: &PathBuf| {
            let files = ["tls.crt", "tls.key", "ca.crt"].map(|file| fs::read(folder.join(file)));
            files.into_iter().collect::<Result<Vec<_>, _>>().map(|files| files.concat())
        };
        // What cannot be read now may be on its way.
        let Some(Ok(now)) = place.certificates.as_ref().map(read) else { return false };
        let is_new = !self.certificates.is_empty() && self.certificates != now;
        self.certificates = now;
        is_new
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
