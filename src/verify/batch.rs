//! Many Ed25519 signatures in one equation.
//!
//! One signature is checked by aws-lc, which follows RFC 8032 without the cofactor: it computes `sB − kA` and
//! compares it with R, byte for byte. For n signatures this module checks, with random odd zᵢ of 128 bits,
//!
//! ```text
//! (Σ zᵢsᵢ) B − Σ zᵢRᵢ − Σ over keys (Σ zᵢkᵢ) A = 0
//! ```
//!
//! at a third of the cost each, since the doublings are shared and every key is one term, however many
//! signatures it has made.
//!
//! **What a pass means.** Each signature was made by the holder of its key over its message: were one of the
//! equations false in the group of prime order, the sum would hold with a probability of 2⁻¹²⁷. Only a
//! signature with a canonical s, a canonical R that is a point and not of small order, under a key that was
//! found canonical and of prime order when it was loaded, takes part at all; any other is left to aws-lc, and
//! so is each signature of a batch that fails, down to the ones that are to blame. So no verdict against a
//! signature is ever given here.
//!
//! **Where a pass differs from aws-lc.** An R with a part of small order can only be made to fit by the key's
//! holder, who could as well have signed properly. Alone in its batch it fails, as the coefficients are odd,
//! and aws-lc refuses it; but two of them may cancel each other and be taken. Both are then signatures of
//! that holder over exactly these messages (the verdict that RFC 8032 with the cofactor gives), so nothing
//! can be forged with it. `tests` pins both.
//!
//! **What a bad signature costs.** Failed batches are halved, up to twice the batch's size in failed work; what
//! is left is checked one by one. `benches/verify.rs` prints the worst of it beside singles.

use aws_lc_rs::{digest, rand};
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity as _, VartimeMultiscalarMul as _};

use super::keys::Sg1Key;

/// Fewer are checked one by one: the equation's fixed part would cost more than it saves.
const BATCH_MIN: usize = 4;

/// A public key that may take part in batches.
pub(super) struct BatchKey {
    bytes: [u8; 32],
    point: EdwardsPoint,
}

impl BatchKey {
    /// None unless the bytes are the canonical encoding of a point of prime order.
    pub(super) fn new(public: &[u8]) -> Option<Self> {
        let bytes: [u8; 32] = public.try_into().ok()?;
        let point = CompressedEdwardsY(bytes).decompress()?;
        let sound = point.compress().0 == bytes && point.is_torsion_free() && !point.is_identity();
        sound.then_some(Self { bytes, point })
    }
}

/// A signature to be checked.
pub(super) struct Claimed<'a> {
    pub(super) key: &'a Sg1Key,
    pub(super) message: &'a [u8],
    pub(super) signature: &'a [u8; 64],
}

impl Claimed<'_> {
    /// Whether it holds by itself.
    fn holds(&self) -> bool {
        self.key.public.verify_sig(self.message, self.signature).is_ok()
    }
}

/// Whether each signature holds, in order.
pub(super) fn hold(claimed: &[Claimed<'_>]) -> Vec<bool> {
    let mut verdicts = vec![None; claimed.len()];
    let terms: Vec<Term<'_>> =
        claimed.iter().enumerate().filter_map(|(index, claimed)| Term::new(index, claimed)).collect();
    // Failed work that halving may still cost.
    let mut spare = 2 * terms.len();
    settle(&terms, false, &mut spare, &mut verdicts);
    let each = verdicts.into_iter().zip(claimed);
    each.map(|(verdict, claimed)| verdict.unwrap_or_else(|| claimed.holds())).collect()
}

/// Marks those that hold by a batch; what it leaves unmarked is to be checked one by one. Returns whether all
/// were marked.
fn settle(terms: &[Term<'_>], is_bad: bool, spare: &mut usize, verdicts: &mut [Option<bool>]) -> bool {
    if terms.len() < BATCH_MIN {
        return false;
    }
    if !is_bad {
        if sum_is_zero(terms) {
            for term in terms {
                if let Some(verdict) = verdicts.get_mut(term.index) {
                    *verdict = Some(true);
                }
            }
            return true;
        }
        if *spare < terms.len() {
            return false;
        }
        *spare -= terms.len();
    }
    let (left, right) = terms.split_at(terms.len() / 2);
    let left_holds = settle(left, false, spare, verdicts);
    // When one half is sound, the other one is known to be bad.
    settle(right, left_holds, spare, verdicts);
    false
}

/// A signature's part in the equation.
struct Term<'a> {
    index: usize,
    key: &'a BatchKey,
    r: EdwardsPoint,
    s: Scalar,
    k: Scalar,
}

impl<'a> Term<'a> {
    fn new(index: usize, claimed: &Claimed<'a>) -> Option<Self> {
        let key = claimed.key.batch.as_ref()?;
        let (r, s) = claimed.signature.split_first_chunk::<32>()?;
        let s = Option::from(Scalar::from_canonical_bytes(*s.first_chunk()?))?;
        let point = CompressedEdwardsY(*r).decompress().filter(|_| is_canonical(r))?;
        if point.is_small_order() {
            return None;
        }
        let mut hash = digest::Context::new(&digest::SHA512);
        for part in [r, &key.bytes, claimed.message] {
            hash.update(part);
        }
        let k = Scalar::from_bytes_mod_order_wide(hash.finish().as_ref().first_chunk()?);
        Some(Self { index, key, r: point, s, k })
    }
}

/// Whether the 255 bits of y are below 2²⁵⁵ − 19. That the sign of x = 0 is plus needs no look: those are points of
/// small order.
fn is_canonical(encoded: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = encoded;
    !(*low >= 0xed && middle.iter().all(|byte| *byte == 0xff) && high & 0x7f == 0x7f)
}

fn sum_is_zero(terms: &[Term<'_>]) -> bool {
    let mut bytes = vec![[0_u8; 16]; terms.len()];
    // AWS-LC ends the process rather than return without randomness; were there none, all would be odd and
    // equal, so it is not left to chance.
    if rand::fill(bytes.as_flattened_mut()).is_err() {
        return false;
    }
    let mut base = Scalar::ZERO;
    let mut keys: Vec<(&BatchKey, Scalar)> = Vec::new();
    let (mut scalars, mut points) =
        (Vec::with_capacity(terms.len() + 2), Vec::with_capacity(terms.len() + 2));
    for (term, bytes) in terms.iter().zip(bytes) {
        let z = Scalar::from(u128::from_le_bytes(bytes) | 1);
        base += z * term.s;
        match keys.iter_mut().find(|(key, _)| std::ptr::eq(*key, term.key)) {
            Some((_, sum)) => *sum -= z * term.k,
            None => keys.push((term.key, -(z * term.k))),
        }
        scalars.push(z);
        points.push(-term.r);
    }
    scalars.push(base);
    points.push(ED25519_BASEPOINT_POINT);
    for (key, sum) in keys {
        scalars.push(sum);
        points.push(key.point);
    }
    EdwardsPoint::vartime_multiscalar_mul(scalars, points).is_identity()
}

#[cfg(test)]
mod tests;
