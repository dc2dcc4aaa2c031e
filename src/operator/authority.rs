//! The certificate authority of one topology: who its servers and its operator are is what it has signed, and nobody else is
//! let in. Its key is in a Secret that no pod mounts.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::model::NodeName;
use crate::model::orders::OPERATOR;

/// How long the authority itself is good for (safety.md, law 15).
const AUTHORITY_YEARS: i64 = 10;
/// How long what it signs is good for (safety.md, law 15).
const LEAF_DAYS: i64 = 365;
/// A third of that: whoever could not renew it for twice as long has been told for most of a year.
const RENEWED_AFTER_DAYS: i64 = LEAF_DAYS / 3;
/// Whatever a clock is behind, a certificate is good at once.
const BACKDATED_DAYS: i64 = 1;

/// A certificate with its key, PEM. `Debug` shows no key.
#[derive(Clone, PartialEq, Eq)]
pub struct Certified {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Certified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certified").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum NoCertificate {
    /// The library.
    #[error("no certificate can be made")]
    Refused(#[from] rcgen::Error),
    /// The date.
    #[error("the date is beyond what a certificate can hold")]
    Date(#[from] jiff::Error),
}

/// When what is signed now is to be signed anew.
///
/// # Errors
/// When that is beyond what a date can hold.
pub fn renew_after(now: Timestamp) -> Result<Timestamp, NoCertificate> {
    let then = now.to_zoned(TimeZone::UTC).checked_add(Span::new().days(RENEWED_AFTER_DAYS))?;
    Ok(then.timestamp())
}

/// Who signs for one topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    name: String,
    own: Certified,
}

impl Authority {
    /// A new one, for `topology` as `namespace/name`.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(topology: &str, now: Timestamp) -> Result<Self, NoCertificate> {
        let name = format!("waltree {topology}");
        let key = KeyPair::generate()?;
        let mut params = authority(&name);
        lasts(&mut params, now, Span::new().years(AUTHORITY_YEARS))?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { name, own: Certified { certificate, key: key.serialize_pem() } })
    }

    /// The one that was made for `topology` before.
    pub fn of(topology: &str, own: Certified) -> Self {
        Self { name: format!("waltree {topology}"), own }
    }

    /// Its own certificate and key.
    pub fn own(&self) -> &Certified {
        &self.own
    }

    /// A certificate for a server: both as whom it answers, to clients under `others` too, and as whom it asks others.
    ///
    /// # Errors
    /// When no key can be made, or a name is none.
    pub fn node(&self, node: &NodeName, others: Vec<String>, now: Timestamp) -> Result<Certified, NoCertificate> {
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(node.as_str(), others, usages, now)
    }

    /// A certificate for an operator.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn operator(&self, now: Timestamp) -> Result<Certified, NoCertificate> {
        self.sign(OPERATOR, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth], now)
    }

    fn sign(
        &self,
        name: &str,
        others: Vec<String>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        now: Timestamp,
    ) -> Result<Certified, NoCertificate> {
        let issuer = Issuer::new(authority(&self.name), KeyPair::from_pem(&self.own.key)?);
        let mut params = CertificateParams::new([vec![name.to_owned()], others].concat())?;
        params.distinguished_name.push(DnType::CommonName, name);
        lasts(&mut params, now, Span::new().days(LEAF_DAYS))?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Certified { certificate, key: key.serialize_pem() })
    }
}

/// What says the same of the authority whenever it is asked: by this and its key it is known again.
fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A certificate's dates are as fine as a day here.
fn lasts(params: &mut CertificateParams, now: Timestamp, span: Span) -> Result<(), NoCertificate> {
    let today = now.to_zoned(TimeZone::UTC).date();
    let (from, until) = (today.checked_sub(Span::new().days(BACKDATED_DAYS))?, today.checked_add(span)?);
    let [from, until] = [from, until]
        .map(|date| date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs()));
    (params.not_before, params.not_after) = (from, until);
    Ok(())
}
