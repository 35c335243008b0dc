//! A batch against aws-lc, signature by signature: on honest and tampered ones, and on those that implementations
//! of Ed25519 are known to disagree about (small orders, encodings that aren't canonical, mixed orders).

use aws_lc_rs::signature::{ED25519, ParsedPublicKey};
use curve25519_dalek::constants::EIGHT_TORSION;
use proptest::prelude::*;

use super::*;

/// Order of the group, little endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

struct Signer {
    secret: Scalar,
    key: Sg1Key,
}

type Signature = (Vec<u8>, [u8; 64]);

impl Signer {
    fn new(seed: u64) -> Self {
        let secret = Scalar::from_bytes_mod_order_wide(digest(&[&seed.to_le_bytes()]).first_chunk().unwrap());
        Self { secret, key: key(EdwardsPoint::mul_base(&secret).compress().0) }
    }

    /// Signs with R = rB + `torsion`: an ordinary signature where that is zero.
    fn sign(&self, nonce: u64, torsion: EdwardsPoint) -> Signature {
        let message = nonce.to_le_bytes().repeat(12);
        let r = Scalar::from_bytes_mod_order_wide(digest(&[&message]).first_chunk().unwrap());
        let encoded = (EdwardsPoint::mul_base(&r) + torsion).compress().0;
        let signature = self.finish(&encoded, r, &message);
        (message, signature)
    }

    fn finish(&self, encoded: &[u8; 32], r: Scalar, message: &[u8]) -> [u8; 64] {
        let public = EdwardsPoint::mul_base(&self.secret).compress().0;
        let k = digest(&[encoded, &public, message]);
        let s = r + Scalar::from_bytes_mod_order_wide(k.first_chunk().unwrap()) * self.secret;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(encoded);
        signature[32..].copy_from_slice(s.as_bytes());
        signature
    }

    fn honest(&self, nonces: std::ops::Range<u64>) -> Vec<Signature> {
        nonces.map(|nonce| self.sign(nonce, EdwardsPoint::default())).collect()
    }
}

fn key(public: [u8; 32]) -> Sg1Key {
    Sg1Key {
        epoch: 1,
        issuer: String::new(),
        revoked: false,
        kinds: Vec::new(),
        public: ParsedPublicKey::new(&ED25519, public).unwrap(),
        batch: BatchKey::new(&public),
    }
}

fn digest(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = digest::Context::new(&digest::SHA512);
    for part in parts {
        hash.update(part);
    }
    hash.finish().as_ref().to_vec()
}

fn claimed<'a>(signer: &'a Signer, signatures: &'a [Signature]) -> Vec<Claimed<'a>> {
    let claim = |(message, signature): &'a Signature| Claimed { key: &signer.key, message, signature };
    signatures.iter().map(claim).collect()
}

/// What the batch says, having seen that aws-lc says the same of each.
fn agreed(claimed: &[Claimed<'_>]) -> Vec<bool> {
    let verdicts = hold(claimed);
    let singles: Vec<bool> = claimed.iter().map(Claimed::holds).collect();
    assert_eq!(verdicts, singles);
    verdicts
}

#[test]
fn honest_signatures_hold_in_batches_of_any_size_and_of_several_keys() {
    let (one, other) = (Signer::new(1), Signer::new(2));
    let (ones, others) = (one.honest(0..70), other.honest(0..70));
    for size in [0, 1, 3, 4, 5, 64, 70] {
        let mut mixed = claimed(&one, &ones[..size]);
        mixed.extend(claimed(&other, &others[..size]));
        assert_eq!(agreed(&mixed), vec![true; 2 * size]);
    }
    let terms: Vec<_> =
        claimed(&one, &ones).iter().enumerate().filter_map(|(n, c)| Term::new(n, c).map(|_| n)).collect();
    assert_eq!(terms.len(), 70, "all of them take part");
}

#[test]
fn one_bad_signature_is_found_wherever_it_stands_and_so_are_many() {
    let signer = Signer::new(1);
    let honest = signer.honest(0..64);
    for bad in 0..64 {
        let mut signatures = honest.clone();
        signatures[bad].0[0] ^= 1;
        let verdicts = agreed(&claimed(&signer, &signatures));
        assert!(verdicts.iter().enumerate().all(|(index, holds)| *holds == (index != bad)), "{bad}");
    }
    let mut signatures = honest;
    for every in [1, 2, 3, 9] {
        signatures.iter_mut().step_by(every).for_each(|signature| signature.1[40] ^= 1);
        agreed(&claimed(&signer, &signatures));
    }
}

#[test]
fn odd_encodings_and_small_orders_get_the_verdict_they_get_alone() {
    let signer = Signer::new(1);
    let mut signatures = signer.honest(0..16);
    // s + L is the same scalar, written another way.
    let mut carry = 0;
    for (byte, add) in signatures[3].1[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    // R of each small order, in each way of writing it, with s made to fit as well as it can.
    for (index, point) in EIGHT_TORSION.iter().enumerate() {
        let message = vec![u8::try_from(index).unwrap(); 90];
        let canonical = point.compress().0;
        let mut signed = canonical;
        signed[31] ^= 0x80;
        for encoded in [canonical, signed] {
            let signature = signer.finish(&encoded, Scalar::ZERO, &message);
            signatures.push((message.clone(), signature));
        }
    }
    // y = p, p + 1 and 2²⁵⁵ − 1: points, but not canonical ones.
    for low in [0xed, 0xee, 0xff] {
        let mut encoded = [0xff; 32];
        (encoded[0], encoded[31]) = (low, 0x7f);
        assert!(!is_canonical(&encoded));
        signatures.push((vec![low; 90], signer.finish(&encoded, Scalar::ZERO, &[low; 90])));
    }
    let verdicts = agreed(&claimed(&signer, &signatures));
    assert!(!verdicts[3]);
    // The neutral element, written properly, is what aws-lc computes as well.
    assert_eq!(verdicts[16..].iter().filter(|holds| **holds).count(), 1);
}

#[test]
fn an_r_of_mixed_order_fails_alone_and_only_its_signer_can_make_two_that_pass() {
    let signer = Signer::new(1);
    for torsion in &EIGHT_TORSION[1..] {
        for nonce in 0..8 {
            let mut signatures = signer.honest(100..116);
            signatures.push(signer.sign(nonce, *torsion));
            assert!(!agreed(&claimed(&signer, &signatures))[16]);
        }
    }
    // The documented difference: two Rs with the point of order two cancel each other.
    let mut signatures = signer.honest(100..116);
    signatures.extend([signer.sign(1, EIGHT_TORSION[4]), signer.sign(2, EIGHT_TORSION[4])]);
    let claims = claimed(&signer, &signatures);
    assert!(!claims[16].holds() && !claims[17].holds());
    assert_eq!(hold(&claims), vec![true; 18]);
}

#[test]
fn keys_that_are_not_of_prime_order_take_no_part() {
    let public = EdwardsPoint::mul_base(&Scalar::from(7_u8));
    assert!(BatchKey::new(&public.compress().0).is_some());
    for torsion in &EIGHT_TORSION[1..] {
        assert!(BatchKey::new(&(public + torsion).compress().0).is_none());
    }
    for small in EIGHT_TORSION {
        assert!(BatchKey::new(&small.compress().0).is_none());
    }
    let mut not_canonical = [0xff; 32];
    (not_canonical[0], not_canonical[31]) = (0xee, 0x7f);
    assert!(BatchKey::new(&not_canonical).is_none());
    assert!(BatchKey::new(&[0; 31]).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any bits of any signatures or messages changed.
    #[test]
    fn a_batch_says_what_aws_lc_says(
        size in 1_usize..40,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..(64 + 96) * 8), 0..6),
    ) {
        let signer = Signer::new(1);
        let mut signatures = signer.honest(0..size as u64);
        for (which, bit) in changes {
            let (message, signature) = &mut signatures[which.index(size)];
            let byte = if bit < 512 { &mut signature[bit / 8] } else { &mut message[bit / 8 - 64] };
            *byte ^= 1 << (bit % 8);
        }
        agreed(&claimed(&signer, &signatures));
    }
}
