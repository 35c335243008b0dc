//! What the gateway lends to the services that run in it.

use std::sync::Arc;

use super::{Gateway, Shared};
use crate::audit::AuditLog;
use crate::authenticate::{AdminAuth, Authenticator};
use crate::identity::Identity;
use crate::identity::links::Links;
use crate::services::{Host, Services};
use crate::store::Store;
use crate::verify::KeyStore;

impl Gateway {
    /// The services, where there are any: for what runs in one process with them.
    pub fn services(&self) -> Option<&Arc<Services>> {
        self.services.as_ref().map(|(services, _)| services)
    }
}

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
}
