//! (under construction)

/// Proof that a record is on disk.
#[derive(Debug, Clone, Copy)]
pub struct Durable(());
