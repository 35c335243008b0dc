//! One request to stop, from a signal or from the admin listener.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Asks a gateway to stop; every clone asks the same one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Asks. There is no way back.
    pub fn request(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Waits until somebody has asked, or for `limit`; says which.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut requested = self.0.0.lock();
        if !*requested {
            self.0.1.wait_for(&mut requested, limit);
        }
        *requested
    }
}
