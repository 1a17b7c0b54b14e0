//! Reads `sinks`: where alerts go. It must not know whether a file, a credential or a server is there.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use hyper::Uri;

use super::{HttpTarget, Placed, SecretSource, SinkConfig, TlsConfig, parse::ConfigReader, values::placed};
use crate::yaml::{Fields, Node, format_duration};

/// Seldom enough to cost nothing, and five times as often as an alert expires.
const DEFAULT_RESEND: Duration = Duration::from_secs(60);
const RESEND: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
const DEFAULT_HOLD: Duration = Duration::from_secs(15 * 60);
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// Instances of all sinks together: each has a thread, and the unit limits those.
const MOST_INSTANCES: usize = 12;

/// What two sinks may not share, with the line of the first.
type Seen = BTreeMap<String, u32>;

#[derive(Clone, Copy)]
enum Kind {
    File,
    Alertmanager,
    Webhook,
    Journald,
}

impl ConfigReader<'_> {
    pub(super) fn sinks(&mut self, node: &Node) -> Option<Vec<SinkConfig>> {
        const KINDS: [(&str, Kind); 4] = [
            ("file", Kind::File),
            ("alertmanager", Kind::Alertmanager),
            ("webhook", Kind::Webhook),
            ("journald", Kind::Journald),
        ];
        let items = self.check.list(node, "`sinks`")?;
        let mut sinks = Vec::new();
        let mut seen = Seen::new();
        for item in items {
            let Some(mut fields) = self.check.fields(item, "the sink") else { continue };
            let Some(node) = fields.need(&mut self.check, "type") else { continue };
            let Some(kind) = self.check.choice(node, "the sink's `type`", &KINDS) else { continue };
            sinks.extend(match kind {
                Kind::File => self.file(&mut fields, &mut seen),
                Kind::Alertmanager => self.alertmanager(&mut fields, &mut seen),
                Kind::Webhook => self.webhook(&mut fields, &mut seen),
                Kind::Journald => self
                    .once(item, "journald", "the journal", &mut seen)
                    .map(|()| SinkConfig::Journald { place: placed((), item.span) }),
            });
            fields.done(&mut self.check);
        }
        if seen.len() > MOST_INSTANCES {
            let message = format!("{} places to deliver to", seen.len());
            self.check.error(node.span, message, format!("at most {MOST_INSTANCES}: let one pass alerts on"));
        }
        Some(sinks)
    }

    fn file(&mut self, fields: &mut Fields<'_>, seen: &mut Seen) -> Option<SinkConfig> {
        let node = fields.need(&mut self.check, "path")?;
        let path = self.path(node, "the sink's `path`")?;
        let name = path.value.display().to_string();
        self.once(node, &name, &format!("`{name}`"), seen)?;
        Some(SinkConfig::File { path })
    }

    fn alertmanager(&mut self, fields: &mut Fields<'_>, seen: &mut Seen) -> Option<SinkConfig> {
        let nodes = fields.need(&mut self.check, "urls").and_then(|node| self.check.list(node, "`urls`"));
        let mut urls = Vec::new();
        for node in nodes.unwrap_or_default() {
            let Some(url) = self.url(node, seen) else { continue };
            if url.value.query().is_some() || url.value.path().trim_end_matches('/').ends_with("/alerts") {
                let help = "write it without `/api/v2/alerts` and without a query: the agent adds the path";
                self.check.error(node.span, "this is more than the address of Alertmanager", help);
            }
            urls.push(url);
        }
        let (bearer_token, tls) = self.proofs(fields, &urls)?;
        let resend = self.within(fields, "resend", "the sink's `resend`", RESEND).unwrap_or(DEFAULT_RESEND);
        let hold = self.within(fields, "hold", "the sink's `hold`", HOLD).unwrap_or(DEFAULT_HOLD);
        let runbooks = fields.get("runbooks").and_then(|node| self.runbooks(node));
        let instances = urls
            .into_iter()
            .map(|Placed { value: url, line, column }| Placed {
                value: HttpTarget { url, bearer_token: bearer_token.clone(), tls: tls.clone() },
                line,
                column,
            })
            .collect();
        Some(SinkConfig::Alertmanager { instances, resend, hold, runbooks })
    }

    /// An address that people can open; it is only shown, never asked.
    fn runbooks(&mut self, node: &Node) -> Option<String> {
        const LONGEST: usize = 300;
        let text = self.check.text(node, "`runbooks`")?;
        let is_address = ["https://", "http://"]
            .iter()
            .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte));
        if !is_address || !is_plain || text.len() > LONGEST {
            let help = "write it as `https://wiki.internal/weighbridge`: the file's name, such as `/WB-0001.md`, is added";
            self.check.error(node.span, format!("`{text}` is no address of the runbooks"), help);
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    fn webhook(&mut self, fields: &mut Fields<'_>, seen: &mut Seen) -> Option<SinkConfig> {
        let url = fields.need(&mut self.check, "url").and_then(|node| self.url(node, seen));
        let secret = match fields.get("secret") {
            Some(node) => Some(self.secret(node, "`secret`")?),
            None => None,
        };
        let (bearer_token, tls) = self.proofs(fields, url.as_slice())?;
        let Placed { value: url, line, column } = url?;
        let target = Placed { value: HttpTarget { url, bearer_token, tls }, line, column };
        Some(SinkConfig::Webhook { target, secret })
    }

    /// `bearer_token` and `tls`, as far as they fit the addresses.
    fn proofs(
        &mut self,
        fields: &mut Fields<'_>,
        urls: &[Placed<Uri>],
    ) -> Option<(Option<SecretSource>, TlsConfig)> {
        let token = fields.get("bearer_token");
        let bearer_token = token.and_then(|node| self.secret(node, "`bearer_token`"));
        let is_plain = |url: &&Placed<Uri>| url.value.scheme_str() != Some("https");
        if let Some(node) = token
            && let Some(plain) = urls.iter().filter(is_plain).find(|url| !is_loopback(&url.value))
        {
            let message =
                format!("`bearer_token` would go over the network in the clear to `{}`", plain.value);
            self.check.error(node.span, message, "write `https://` in the address");
        }
        let mut tls = TlsConfig::default();
        if let Some(node) = fields.get("tls") {
            if let Some(plain) = urls.iter().find(is_plain) {
                let message = format!("`tls` is given, and `{}` does not use it", plain.value);
                self.check.error(node.span, message, "write `https://` in the address, or remove `tls`");
            }
            let mut inner = self.check.fields(node, "`tls`")?;
            tls.ca = inner.get("ca").and_then(|node| self.secret(node, "`tls.ca`"));
            let certificate = inner.get("certificate");
            let key = inner.get("key");
            if certificate.is_some() != key.is_some() {
                let message = "`tls` has one of `certificate` and `key` without the other";
                self.check.error(node.span, message, "add the other one");
            }
            if let (Some(certificate), Some(key)) = (certificate, key) {
                let certificate = self.secret(certificate, "`tls.certificate`");
                tls.client = certificate.zip(self.secret(key, "`tls.key`"));
            }
            inner.done(&mut self.check);
        }
        Some((bearer_token, tls))
    }

    fn url(&mut self, node: &Node, seen: &mut Seen) -> Option<Placed<Uri>> {
        const EXAMPLE: &str = "write it as `https://alertmanager.internal:9093`";
        let text = self.check.text(node, "the address")?;
        let url: Uri = self.parsed(node, "the address", EXAMPLE)?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
            self.check.error(node.span, format!("`{text}` is no address of a web server"), EXAMPLE);
            return None;
        }
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            let help = "remove what is before the `@`, and name a file or credential in `bearer_token`";
            self.check.error(node.span, "the address has a user or a password in it", help);
            return None;
        }
        self.once(node, text.trim_end_matches('/'), &format!("`{text}`"), seen)?;
        Some(placed(url, node.span))
    }

    /// `{file: …}` or `{credential: …}`.
    fn secret(&mut self, node: &Node, what: &'static str) -> Option<SecretSource> {
        let (key, value) = self.one_of(node, what, &["file", "credential"])?;
        if key == "file" {
            return self.path(value, what).map(|path| SecretSource::File(path.value));
        }
        let name = self.check.text(value, what)?;
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.len() > 255 || name.starts_with('.') || !name.chars().all(is_allowed) {
            let help = "write the name that `LoadCredential=` of the unit gives it";
            self.check.error(value.span, format!("`{name}` is not the name of a credential"), help);
            return None;
        }
        Some(SecretSource::Credential(name.to_owned()))
    }

    fn within(
        &mut self,
        fields: &mut Fields<'_>,
        key: &'static str,
        what: &str,
        (least, most): (Duration, Duration),
    ) -> Option<Duration> {
        let node = fields.get(key)?;
        let duration = self.check.duration(node, what)?;
        if !(least..=most).contains(&duration) {
            let help = format!("write {} to {}", format_duration(least), format_duration(most));
            self.check.error(node.span, format!("{what} is {}", format_duration(duration)), help);
        }
        Some(duration)
    }

    /// Refuses a second sink of the same place: each alert would arrive twice, and both would use one spool.
    fn once(&mut self, node: &Node, place: &str, shown: &str, seen: &mut Seen) -> Option<()> {
        if let Some(line) = seen.insert(place.to_owned(), node.span.line) {
            let help = format!("the first is in line {line}: remove one of the two");
            self.check.error(node.span, format!("two sinks write to {shown}"), help);
            return None;
        }
        Some(())
    }
}

/// Whether what is sent there stays on this host.
fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
