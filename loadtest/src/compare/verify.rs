//! What checking a signature costs by itself, without a gateway around it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use scangate::scan::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::sys;

/// Checking signatures and doing nothing else, on the server's core.
#[expect(clippy::struct_field_names, reason = "names carry their unit")]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyOnly {
    /// The bare signature.
    pub ed25519_us: f64,
    /// A whole token.
    pub sg1_us: f64,
    /// A token of a worker's job, whose signatures are checked together.
    pub sg1_together_us: f64,
}

/// Measures on one core, with the keys of a data directory that issued these codes.
pub fn verify_only(core: usize, data: &Path, codes: &[String]) -> Result<VerifyOnly> {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(move || {
            sys::pin(core)?;
            Ok(VerifyOnly {
                ed25519_us: ed25519_us()?,
                sg1_us: sg1_us(data, codes)?,
                sg1_together_us: sg1_together_us(data, codes)?,
            })
        });
        pinned.join().map_err(|_| anyhow::anyhow!("the verifying thread panicked"))?
    })
}

/// aws-lc's Ed25519 on 200 bytes, the size of what an SG1 token signs.
fn ed25519_us() -> Result<f64> {
    use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow::anyhow!("no key"))?;
    let message = [7_u8; 120];
    let signature = pair.sign(&message);
    let public = UnparsedPublicKey::new(&ED25519, pair.public_key().as_ref().to_vec());
    timed_us(|| public.verify(&message, signature.as_ref()).map_err(|_| anyhow::anyhow!("not verified")))
}

fn sg1_us(data: &Path, codes: &[String]) -> Result<f64> {
    let keys = scangate::verify::Keys::load(data)?;
    let now = UnixMillis::now();
    let mut next = codes.iter().cycle();
    timed_us(|| {
        let code = next.next().context("no codes")?;
        scangate::verify::sg1(code, now, &keys).map(drop).map_err(|refusal| anyhow::anyhow!("{refusal}"))
    })
}

fn sg1_together_us(data: &Path, codes: &[String]) -> Result<f64> {
    const TOGETHER: usize = 64;
    let keys = scangate::verify::Keys::load(data)?;
    let now = UnixMillis::now();
    let codes: Vec<(&str, UnixMillis)> =
        codes.iter().map(|code| (code.as_str(), now)).take(TOGETHER).collect();
    ensure!(codes.len() == TOGETHER, "too few codes");
    let job_us = timed_us(|| {
        let verified = scangate::verify::sg1_all(&codes, &keys);
        ensure!(verified.iter().all(Result::is_ok), "a code was refused");
        Ok(())
    })?;
    #[allow(clippy::cast_precision_loss)] // A job's codes.
    Ok(job_us / TOGETHER as f64)
}

/// The median of five times 0.4 s of CPU.
fn timed_us(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let (started, mut count) = (sys::thread_cpu_ns(), 0_u32);
        while sys::thread_cpu_ns() - started < 400_000_000 {
            for _ in 0..64 {
                work()?;
            }
            count += 64;
        }
        #[allow(clippy::cast_precision_loss)] // Nanoseconds of a round.
        rounds.push((sys::thread_cpu_ns() - started) as f64 / 1000.0 / f64::from(count));
    }
    rounds.sort_by(f64::total_cmp);
    rounds.get(2).copied().context("no rounds")
}
