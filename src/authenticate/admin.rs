//! Who asks the admin listener, and whether they may: named tokens with scopes, as a bearer or as the password of
//! HTTP's own dialog.
//!
//! A token is found by its hash, compared with that of every token in constant time. The right token always passes;
//! wrong ones are answered 429 once an address has tried too many, which spares the log and tells an operator, and can't
//! lock anybody out. Guessing is hopeless anyway: a token has 256 random bits.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::scan::UnixMillis;
use crate::verify::KeysError;
use crate::verify::admin_token::{self, AdminScope, AdminToken, TokenHash};

/// Wrong tokens that one address may send at once, and how long each counts.
pub const FAILURES_MAX: u32 = 10;
const FAILURE_COUNTS: Duration = Duration::from_secs(6);

/// Addresses whose failures are counted; past it all others are counted as one.
const ADDRESSES_MAX: usize = 1024;

/// Longest header looked at. A token has 47 characters, a name 32.
const HEADER_BYTES_MAX: usize = 512;

/// Who asks. Its text is what the audit log calls them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Somebody on this machine, where nobody is asked for a token.
    Loopback,
    /// A command beside the gateway, which may read the data directory.
    Local,
    /// The feed of links, by its own token.
    Feed,
    /// The holder of a named token.
    Token(Arc<str>),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Local => f.write_str("local"),
            Self::Feed => f.write_str("feed"),
            Self::Token(name) => write!(f, "token:{name}"),
        }
    }
}

/// Why somebody may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// There is no token.
    #[error("a token with the scope {0} is required")]
    Missing(AdminScope),
    /// The token is nobody's, or its time is over.
    #[error("the token is not valid; one with the scope {0} is required")]
    Invalid(AdminScope),
    /// The token is good for other things.
    #[error("the token does not have the scope {0}")]
    Scope(AdminScope),
    /// Too many wrong tokens from one address.
    #[error("too many wrong tokens from this address")]
    Limited {
        /// When the next one is looked at, in seconds.
        retry_after_s: u32,
    },
}

/// Whose tokens let them in.
pub struct AdminAuth {
    asks: bool,
    local: TokenHash,
    tokens: ArcSwap<Vec<AdminToken>>,
    failures: Mutex<HashMap<Option<IpAddr>, Failures>>,
}

/// Failures of one address: as many as fit between now and then.
#[derive(Clone, Copy)]
struct Failures {
    /// When none counts any more.
    over: Instant,
}

/// What a header brings.
enum Brought {
    Nothing,
    Unreadable,
    Token { name: Option<Vec<u8>>, hash: TokenHash },
}

impl AdminAuth {
    /// Loads the tokens of a data directory and makes the one for commands beside the gateway. Unless it `asks`,
    /// a token is taken note of and none is needed.
    ///
    /// # Errors
    /// A token can't be read or written.
    pub fn load(data_dir: &Path, asks: bool) -> Result<Self, KeysError> {
        Ok(Self {
            asks,
            local: admin_token::make_local(data_dir)?,
            tokens: ArcSwap::from_pointee(admin_token::load(data_dir)?),
            failures: Mutex::default(),
        })
    }

    /// Loads the tokens again; on an error those of before stay.
    ///
    /// # Errors
    /// A token can't be read.
    pub fn reload(&self, data_dir: &Path) -> Result<(), KeysError> {
        self.tokens.store(Arc::new(admin_token::load(data_dir)?));
        Ok(())
    }

    /// Whether a token is needed at all.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens.load().len()
    }

    /// Who asks for something that needs `scope`, by the `Authorization` header.
    ///
    /// # Errors
    /// They may not.
    pub fn caller(
        &self,
        authorization: Option<&[u8]>,
        scope: AdminScope,
        peer: IpAddr,
        (now, at): (UnixMillis, Instant),
    ) -> Result<Caller, Denied> {
        if self.asks {
            return self.holder(authorization, scope, peer, (now, at));
        }
        // Nobody is asked, so that no token is wrong: it is the feed's, or another service's.
        Ok(self.known(authorization, scope, now).unwrap_or(Caller::Loopback))
    }

    /// The same where a token is needed whatever the listener's address.
    ///
    /// # Errors
    /// There is none, or it doesn't have the scope.
    pub fn holder(
        &self,
        authorization: Option<&[u8]>,
        scope: AdminScope,
        peer: IpAddr,
        (now, at): (UnixMillis, Instant),
    ) -> Result<Caller, Denied> {
        self.known(authorization, scope, now).map_err(|denied| match denied {
            Denied::Invalid(_) => match self.fail(peer, at) {
                Some(retry_after_s) => Denied::Limited { retry_after_s },
                None => denied,
            },
            denied => denied,
        })
    }

    fn known(
        &self,
        authorization: Option<&[u8]>,
        scope: AdminScope,
        now: UnixMillis,
    ) -> Result<Caller, Denied> {
        let wrong = Denied::Invalid(scope);
        let (name, hash) = match brought(authorization) {
            Brought::Nothing => return Err(Denied::Missing(scope)),
            Brought::Unreadable => return Err(wrong),
            Brought::Token { name, hash } => (name, hash),
        };
        if self.local.is(&hash) {
            return Ok(Caller::Local);
        }
        let tokens = self.tokens.load();
        // All of them are looked at, whichever it is.
        let found =
            tokens.iter().fold(None, |found, token| if token.hash.is(&hash) { Some(token) } else { found });
        let named = |token: &&AdminToken| name.as_ref().is_none_or(|name| name == token.name.as_bytes());
        let valid = |token: &&AdminToken| token.expires.is_none_or(|expires| now < expires);
        let token = found.filter(named).filter(valid).ok_or(wrong)?;
        if !token.scopes.contains(&scope) {
            return Err(Denied::Scope(scope));
        }
        Ok(Caller::Token(token.name.as_str().into()))
    }

    /// Counts a failure; if there were too many, says in how many seconds there will be room for another.
    fn fail(&self, peer: IpAddr, now: Instant) -> Option<u32> {
        let mut failures = self.failures.lock();
        let key = Some(network(peer));
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&key) {
            failures.retain(|_, failures| failures.over > now);
        }
        let key = if failures.len() < ADDRESSES_MAX || failures.contains_key(&key) { key } else { None };
        let of_address = failures.entry(key).or_insert(Failures { over: now });
        let counted = of_address.over.saturating_duration_since(now);
        let room = FAILURE_COUNTS * FAILURES_MAX;
        if counted + FAILURE_COUNTS > room {
            let wait = (counted + FAILURE_COUNTS).saturating_sub(room);
            return Some(u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX).max(1));
        }
        of_address.over = now + counted + FAILURE_COUNTS;
        None
    }
}

/// Whoever has one IPv6 address has all of its /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn brought(authorization: Option<&[u8]>) -> Brought {
    let Some(header) = authorization else { return Brought::Nothing };
    if header.len() > HEADER_BYTES_MAX {
        return Brought::Unreadable;
    }
    let scheme = |name: &[u8]| {
        let (scheme, rest) = header.split_at_checked(name.len())?;
        scheme.eq_ignore_ascii_case(name).then_some(rest)
    };
    if let Some(token) = scheme(b"Bearer ") {
        return Brought::Token { name: None, hash: TokenHash::of(token.trim_ascii()) };
    }
    let Some(encoded) = scheme(b"Basic ") else { return Brought::Unreadable };
    let Ok(decoded) = STANDARD.decode(encoded.trim_ascii()).map(Zeroizing::new) else {
        return Brought::Unreadable;
    };
    match decoded.iter().position(|byte| *byte == b':').and_then(|at| decoded.split_at_checked(at)) {
        Some((name, rest)) => {
            let token = rest.get(1..).unwrap_or_default();
            Brought::Token { name: Some(name.to_vec()), hash: TokenHash::of(token) }
        }
        None => Brought::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn auth(asks: bool) -> (tempfile::TempDir, AdminAuth, String) {
        let dir = tempfile::tempdir().unwrap();
        let scopes = [AdminScope::Read];
        let token =
            admin_token::make(dir.path(), "cdc", &scopes, Some(UnixMillis(1_000)), UnixMillis(0)).unwrap();
        let auth = AdminAuth::load(dir.path(), asks).unwrap();
        (dir, auth, token.to_string())
    }

    fn ask(auth: &AdminAuth, header: &str, scope: AdminScope, now: i64) -> Result<Caller, Denied> {
        let header = (!header.is_empty()).then_some(header.as_bytes());
        auth.caller(header, scope, PEER, (UnixMillis(now), Instant::now()))
    }

    #[test]
    fn a_token_opens_what_its_scopes_name_until_it_ends() {
        let (_dir, auth, token) = auth(true);
        let bearer = format!("Bearer {token}");
        let basic = |name: &str| format!("basic {}", STANDARD.encode(format!("{name}:{token}")));
        let named = Ok(Caller::Token("cdc".into()));
        assert_eq!(ask(&auth, &bearer, AdminScope::Read, 999), named);
        assert_eq!(ask(&auth, &basic("cdc"), AdminScope::Read, 999), named);
        assert_eq!(ask(&auth, &bearer, AdminScope::Export, 999), Err(Denied::Scope(AdminScope::Export)));
        let invalid = Err(Denied::Invalid(AdminScope::Read));
        assert_eq!(ask(&auth, &bearer, AdminScope::Read, 1_000), invalid);
        assert_eq!(ask(&auth, &basic("other"), AdminScope::Read, 999), invalid);
        assert_eq!(ask(&auth, "", AdminScope::Read, 0), Err(Denied::Missing(AdminScope::Read)));
        for wrong in ["Bearer ", "Bearer x", &token, "Basic !", "Basic Y2Rj", &format!("Bearer {token}x")] {
            assert_eq!(ask(&auth, wrong, AdminScope::Read, 999), invalid, "{wrong}");
        }
    }

    #[test]
    fn where_nobody_is_asked_a_token_still_names_its_holder() {
        let (dir, auth, token) = auth(false);
        assert_eq!(ask(&auth, "", AdminScope::Operate, 0), Ok(Caller::Loopback));
        assert_eq!(ask(&auth, "Bearer x", AdminScope::Operate, 0), Ok(Caller::Loopback));
        let named = Ok(Caller::Token("cdc".into()));
        assert_eq!(ask(&auth, &format!("Bearer {token}"), AdminScope::Read, 0), named);
        let local = admin_token::read_token(&admin_token::local_path(dir.path())).unwrap();
        let local = format!("Bearer {}", local.as_str());
        assert_eq!(ask(&auth, &local, AdminScope::Export, 0), Ok(Caller::Local));
    }

    #[test]
    fn a_reload_takes_tokens_in_and_out() {
        let (dir, auth, token) = auth(true);
        admin_token::revoke(dir.path(), "cdc").unwrap();
        let bearer = format!("Bearer {token}");
        assert!(ask(&auth, &bearer, AdminScope::Read, 0).is_ok(), "not reloaded yet");
        auth.reload(dir.path()).unwrap();
        assert!(ask(&auth, &bearer, AdminScope::Read, 0).is_err());
        assert_eq!(auth.tokens(), 0);
    }

    #[test]
    fn wrong_tokens_are_limited_by_address_and_the_right_one_is_not() {
        let (_dir, auth, token) = auth(true);
        let start = Instant::now();
        let ask = |header: &str, peer: IpAddr, after: Duration| {
            auth.caller(Some(header.as_bytes()), AdminScope::Read, peer, (UnixMillis(0), start + after))
        };
        for _ in 0..FAILURES_MAX {
            assert!(matches!(ask("Bearer x", PEER, Duration::ZERO), Err(Denied::Invalid(_))));
        }
        let limited = Err(Denied::Limited { retry_after_s: 6 });
        assert_eq!(ask("Bearer x", PEER, Duration::ZERO), limited);
        assert!(ask(&format!("Bearer {token}"), PEER, Duration::ZERO).is_ok());
        assert!(matches!(ask("Bearer x", [192, 0, 2, 1].into(), Duration::ZERO), Err(Denied::Invalid(_))));
        assert!(matches!(ask("Bearer x", PEER, FAILURE_COUNTS), Err(Denied::Invalid(_))));
        let v6 = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]);
        for last in 0..10 {
            assert!(matches!(ask("Bearer x", v6(last), Duration::ZERO), Err(Denied::Invalid(_))));
        }
        assert_eq!(ask("Bearer x", v6(99), Duration::ZERO), limited, "one network");
    }

    #[test]
    fn counted_addresses_are_bounded() {
        let (_dir, auth, _) = auth(true);
        let now = Instant::now();
        for address in 0..3 * u32::try_from(ADDRESSES_MAX).unwrap() {
            let _ = auth.fail(IpAddr::V4(address.into()), now);
        }
        assert!(auth.failures.lock().len() <= ADDRESSES_MAX + 1);
        assert!(auth.fail(IpAddr::V4(u32::MAX.into()), now).is_some(), "the rest is counted as one");
    }
}
