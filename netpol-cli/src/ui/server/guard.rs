//! Who may ask: the browser that was given the token, from the page itself.
//!
//! In: the head of a request. Out: that it may go on, or a refusal. Must not: read a body.
//!
//! A page of another site can make the browser send requests to a loopback address, and a name of its own can resolve to one (DNS
//! rebinding). So `Host` must be ours, `Origin` too where the browser sends one, and a cookie that only this server's page has must
//! come with every request.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use http::header::{COOKIE, HOST, HeaderMap, ORIGIN};
use http::{HeaderName, StatusCode};
use subtle::ConstantTimeEq as _;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

/// How a browser names the origin of a request, since 2023.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `Host` is another server's.
    Host,
    /// The request is of a page of another origin.
    Origin,
    /// Without the cookie, or with a token that is wrong or used.
    Unknown,
}

impl Refusal {
    /// The status and a message for a person.
    pub(super) const fn in_words(self) -> (StatusCode, &'static str) {
        match self {
            Self::Host => (StatusCode::MISDIRECTED_REQUEST, "this is no address of this server"),
            Self::Origin => (StatusCode::FORBIDDEN, "only the page itself may ask"),
            Self::Unknown => (
                StatusCode::UNAUTHORIZED,
                "open the address that `netpol ui` has printed; its token works once, so start the command again for another browser",
            ),
        }
    }
}

/// The secrets and the names of this server.
#[derive(Debug)]
pub(super) struct Guard {
    /// `None` once it was used.
    token: Mutex<Option<String>>,
    session: String,
    cookie: String,
    hosts: [String; 2],
}

impl Guard {
    /// New secrets for the server at this address.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let port = address.port();
        Ok(Self {
            token: Mutex::new(Some(secret()?)),
            session: secret()?,
            // Cookies do not tell ports apart.
            cookie: format!("netpol-ui-{port}"),
            hosts: [address.to_string(), format!("localhost:{port}")],
        })
    }

    /// The address to open, with the token; without one after its use.
    pub(super) fn url(&self) -> String {
        let [host, _] = &self.hosts;
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        match &*token {
            Some(token) => format!("http://{host}/?token={token}"),
            None => format!("http://{host}/"),
        }
    }

    /// Checks that the request is sent to this server.
    pub(super) fn check_host(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next(), hosts.next()) {
            (Some(host), None) if self.is_ours(host.as_bytes()) => Ok(()),
            (Some(_) | None, _) => Err(Refusal::Host),
        }
    }

    fn is_ours(&self, host: &[u8]) -> bool {
        self.hosts.iter().any(|ours| ours.as_bytes().eq_ignore_ascii_case(host))
    }

    /// Checks that no page of another origin sends the request. With `required`, a missing `Origin` is refused.
    pub(super) fn check_origin(&self, headers: &HeaderMap, origin: Origin) -> Result<(), Refusal> {
        let is_foreign =
            headers.get_all(FETCH_SITE).iter().any(|site| site != "same-origin" && site != "none");
        let mut origins = headers.get_all(ORIGIN).iter().peekable();
        let is_missing = origins.peek().is_none() && origin == Origin::Required;
        let is_ours =
            |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(|host| self.is_ours(host));
        if is_foreign || is_missing || !origins.all(|origin| is_ours(origin.as_bytes())) {
            return Err(Refusal::Origin);
        }
        Ok(())
    }

    /// Checks the cookie.
    pub(super) fn check_session(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut values = cookies
            .flat_map(|cookies| cookies.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie);
        let is_known = values.any(|(_, value)| is_equal(value, &self.session));
        if is_known { Ok(()) } else { Err(Refusal::Unknown) }
    }

    /// Takes the token, which is invalid afterwards. Returns the cookie.
    pub(super) fn exchange(&self, given: &str) -> Result<String, Refusal> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let is_right = token.as_ref().is_some_and(|token| is_equal(given, token));
        if !is_right {
            return Err(Refusal::Unknown);
        }
        *token = None;
        let Self { cookie, session, .. } = self;
        Ok(format!("{cookie}={session}; Path=/; HttpOnly; SameSite=Strict"))
    }
}

/// Whether a request must have an `Origin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Browsers send none with a GET of their own page.
    Optional,
    /// They always send one with a POST.
    Required,
}

fn secret() -> anyhow::Result<String> {
    let mut bytes = [0_u8; SECRET_BYTES];
    getrandom::fill(&mut bytes).ok().context("the system has no random bytes")?;
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

/// Takes the same time wherever they differ.
fn is_equal(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}
