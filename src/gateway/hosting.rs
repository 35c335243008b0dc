//! What the gateway lends to the services that run in it.

use std::sync::Arc;

use super::Shared;
use crate::audit::AuditLog;
use crate::authenticate::{AdminAuth, Authenticator};
use crate::identity::Identity;
use crate::identity::links::Links;
use crate::scan::UnixMillis;
use crate::services::Host;
use crate::store::Store;
use crate::verify::KeyStore;

impl Host for Shared {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn links(&self) -> &Links {
        &self.links
    }

    fn keys(&self) -> &KeyStore {
        &self.keys
    }

    fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    fn admin_auth(&self) -> &AdminAuth {
        &self.admin_auth
    }

    fn audit(&self) -> &AuditLog {
        &self.audit
    }

    fn window_s_max(&self) -> u16 {
        self.widest_window_s
    }

    fn oldest_unstored(&self) -> Option<UnixMillis> {
        self.drain.oldest_received()
    }
}
