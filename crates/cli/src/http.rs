//! What every HTTP client of the binary has in common.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::typestate::AgentScope;

/// A client that trusts what the machine trusts (mirrors and internal servers have certificates of their own), and takes
/// any status for an answer.
pub fn client() -> ConfigBuilder<AgentScope> {
    let roots = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    Agent::config_builder()
        .tls_config(roots)
        .http_status_as_error(false)
        .user_agent(concat!("rootstock/", env!("CARGO_PKG_VERSION")))
}

/// Percent-encodes all but unreserved characters and those of `kept`.
pub fn escape(text: &str, kept: &[u8]) -> String {
    let escaped = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte if kept.contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escaped).collect()
}
