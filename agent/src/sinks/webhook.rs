//! Posts each line of a finding, as the alert log has it, to one address; signed, when a secret is configured.
//!
//! `Weighbridge-Signature: t=SECONDS,v1=HEX` with HEX = HMAC-SHA256(secret, `SECONDS.BODY`): a receiver that checks the
//! time too cannot be fed an old line again. `Weighbridge-Delivery` is the same for every attempt of one line.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use hyper::{HeaderMap, header::HeaderValue};
use ring::hmac;

use super::{
    http::{Client, HttpError},
    inbox::Inbox,
    relay::{self, Attempt, Parcel, Transport, Verdict},
};
use crate::{
    alerts::{Alert, sha256_hex},
    config::{HttpTarget, SecretSource},
};

#[derive(Debug)]
struct Webhook {
    client: Client,
    secret: Option<SecretSource>,
}

/// Starts the thread of one webhook.
///
/// # Errors
/// When no thread can be started, or the address cannot be used.
pub(super) fn start(
    target: &HttpTarget,
    secret: Option<&SecretSource>,
    spools: &Path,
) -> io::Result<Inbox<Parcel>> {
    let client = Client::new(target, "").map_err(io::Error::other)?;
    let name = super::spool_name("webhook", &target.url.to_string());
    // Addresses of webhooks often hold a secret in their path.
    let shown = format!("webhook {}", target.url.host().unwrap_or_default());
    relay::start(Webhook { client, secret: secret.cloned() }, &shown, spools, &name)
}

/// The line without its line feed.
pub(super) fn parcel(alert: &Alert) -> Parcel {
    let line = &alert.line;
    Parcel { severity: alert.matched.severity, payload: line.slice(..line.len().saturating_sub(1)) }
}

impl Transport for Webhook {
    fn deliver(self: Arc<Self>, payload: Bytes) -> Attempt {
        Box::pin(async move {
            let answer = match headers(self.secret.as_ref(), &payload, jiff::Timestamp::now().as_second()) {
                Ok(headers) => self.client.post(headers, payload).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.is_success() => Verdict::Taken,
                Ok(answer) if answer.refuses_content() => Verdict::Refused(answer.words()),
                Ok(answer) => Verdict::Failed(answer.words()),
                Err(error) => Verdict::Failed(error.to_string()),
            }
        })
    }
}

fn headers(secret: Option<&SecretSource>, payload: &[u8], seconds: i64) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| HttpError::Header);
    headers.insert("weighbridge-delivery", value(&sha256_hex(payload)[..32])?);
    if let Some(secret) = secret {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret.read_trimmed()?);
        headers.insert("weighbridge-signature", value(&signature(&key, payload, seconds))?);
    }
    Ok(headers)
}

fn signature(key: &hmac::Key, payload: &[u8], seconds: i64) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{seconds}.").as_bytes());
    context.update(payload);
    let tag = context.sign();
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with `printf '1795317302.{"a":1}' | openssl dgst -sha256 -hmac s3cret`.
    #[test]
    fn a_signature_is_what_openssl_makes_of_it() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"s3cret");
        assert_eq!(
            signature(&key, br#"{"a":1}"#, 1_795_317_302),
            "t=1795317302,v1=a881333d7cc3cd77da2df251f9e903d2c1013e2e4314e3b00d4dbe6d460b097b"
        );
    }
}
