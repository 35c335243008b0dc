//! Taking in the public keys of other issuers. A file is checked before it is written: as a key of its kind
//! here, and then by loading it, alone in a directory of its own, with the very function that the gateway
//! starts with. What loads there loads in the gateway.

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};

use super::keyfile::{self, hex};
use super::keys::{Keys, KeysError, Kid};
use super::manage::{KeyInfo, KeyState, KeyUse};
use super::revocations::Revocations;
use crate::scan::App;

/// The largest file that is imported, in bytes: a country list of the EU's certificates has some 300 KB.
const IMPORT_BYTES_MAX: u64 = 4 << 20;

/// Certificates or keys of one file.
const KEYS_OF_FILE_MAX: usize = 1024;

/// Whose keys a file holds.
#[derive(Debug, Clone, Copy)]
pub enum Foreign<'a> {
    /// Certificates (PEM) of those who sign health certificates of the EU's kind.
    Hc1,
    /// The JWK set of an issuer of SMART Health Cards, with its URL.
    Shc {
        /// The `iss` of its cards.
        issuer: &'a str,
    },
    /// A public key (PEM, P-256) of the NHS's posters, with its id.
    Nhs {
        /// The `kid` of its posters.
        kid: &'a str,
    },
    /// A public key (JWK, or PEM) of an app's device tokens.
    Device {
        /// The app.
        app: App,
        /// Its id, which a PEM file doesn't have; otherwise a hash of it.
        kid: Option<&'a str>,
    },
}

/// An issuer's JWK set, as it is kept.
#[derive(Serialize, Deserialize)]
struct IssuerFile {
    issuer: String,
    keys: Vec<serde_json::Value>,
}

/// A file to write under the keys directory.
struct NewFile {
    dir: &'static str,
    name: String,
    bytes: Vec<u8>,
}

/// Checks a file and takes it in; the paths that were written, none if all of it was there. A JWK set replaces
/// the one that its issuer had, everything else is added.
pub fn keys_import(data_dir: &Path, foreign: Foreign<'_>, file: &Path) -> Result<Vec<PathBuf>, KeysError> {
    let (bytes, _) = keyfile::read_up_to(file, IMPORT_BYTES_MAX)?;
    let new = match foreign {
        Foreign::Hc1 => certificates(file, &bytes)?,
        Foreign::Shc { issuer } => vec![jwk_set(file, &bytes, issuer)?],
        Foreign::Nhs { kid } => vec![poster_key(file, &bytes, kid)?],
        Foreign::Device { app, kid } => vec![device_key(file, &bytes, app, kid)?],
    };
    keyfile::create_dirs(data_dir)?;
    check_loads(data_dir, file, &new)?;
    let _lock = keyfile::lock(data_dir)?;
    let mut written = Vec::new();
    for new in new {
        let dir = keyfile::keys_dir(data_dir).join(new.dir);
        keyfile::create_dir(&dir)?;
        let path = dir.join(&new.name);
        if fs::read(&path).is_ok_and(|present| present == new.bytes) {
            continue;
        }
        match foreign {
            Foreign::Shc { .. } => keyfile::replace(&path, &new.bytes)?,
            _ => keyfile::write_new(&path, &new.bytes)?,
        }
        written.push(path);
    }
    Ok(written)
}

/// Loads the new files, and nothing else, as a gateway would.
fn check_loads(data_dir: &Path, file: &Path, new: &[NewFile]) -> Result<(), KeysError> {
    let alone = keyfile::temporary(&keyfile::keys_dir(data_dir))?;
    let loaded = (|| {
        for new in new {
            let dir = keyfile::keys_dir(&alone).join(new.dir);
            keyfile::create_dir(&dir)?;
            keyfile::write_new(&dir.join(&new.name), &new.bytes)?;
        }
        Keys::load(&alone)
    })();
    // Left behind, it would be read by nobody.
    let _ = fs::remove_dir_all(&alone);
    match loaded {
        Ok(_) => Ok(()),
        // The file that the operator knows, not its copy.
        Err(KeysError::Invalid { field, .. }) => Err(KeysError::Invalid { path: file.to_owned(), field }),
        Err(KeysError::Json { line, column, .. }) => {
            Err(KeysError::Json { path: file.to_owned(), line, column })
        }
        Err(error) => Err(error),
    }
}

fn wrong(file: &Path, expected: &'static str) -> KeysError {
    KeysError::Import { path: file.to_owned(), expected }
}

/// Each certificate as a file of its own, named by its key id and a little more: ids are not unique.
fn certificates(file: &Path, bytes: &[u8]) -> Result<Vec<NewFile>, KeysError> {
    let expected = "PEM with one certificate or more";
    let mut new: Vec<NewFile> = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        let certificate = certificate.map_err(|_| wrong(file, expected))?;
        // DER of a sequence that is as long as it says; what else it must be the loader knows.
        if certificate.len() < 64 || der_sequence(&certificate).is_none() {
            return Err(wrong(file, expected));
        }
        let hash = digest::digest(&digest::SHA256, &certificate);
        let name = format!("{}.pem", hex(hash.as_ref().get(..12).unwrap_or_default()));
        if new.iter().all(|other| other.name != name) {
            new.push(NewFile { dir: "hc1", name, bytes: pem("CERTIFICATE", &certificate) });
        }
    }
    if new.is_empty() || new.len() > KEYS_OF_FILE_MAX {
        return Err(wrong(file, expected));
    }
    Ok(new)
}

/// The content of a DER sequence that fills these bytes.
fn der_sequence(der: &[u8]) -> Option<&[u8]> {
    let (content, length) = match der {
        [0x30, length @ 0..=0x7f, content @ ..] | [0x30, 0x81, length, content @ ..] => {
            (content, usize::from(*length))
        }
        [0x30, 0x82, high, low, content @ ..] => (content, usize::from(u16::from_be_bytes([*high, *low]))),
        _ => return None,
    };
    (content.len() == length).then_some(content)
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).unwrap_or_default());
        pem.push('\n');
    }
    format!("{pem}-----END {label}-----\n").into_bytes()
}

/// A JWK set under its issuer's URL.
fn jwk_set(file: &Path, bytes: &[u8], issuer: &str) -> Result<NewFile, KeysError> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let host = issuer.strip_prefix("https://").unwrap_or_default();
    let sound = host.bytes().all(|byte| byte.is_ascii_graphic()) && !host.ends_with('/');
    if host.is_empty() || host.len() > 200 || !sound {
        return Err(wrong(file, "imported with its issuer's URL: https://, and no slash at its end"));
    }
    let set: Set = keyfile::parse(file, bytes)?;
    let usable = |key: &serde_json::Value| {
        let text = |field: &str| key.get(field).and_then(serde_json::Value::as_str);
        text("kty") == Some("EC")
            && text("crv") == Some("P-256")
            && text("kid").is_some_and(|kid| !kid.is_empty())
            && text("x").is_some()
            && text("y").is_some()
            && key.get("d").is_none()
    };
    if !(1..=KEYS_OF_FILE_MAX).contains(&set.keys.len()) || !set.keys.iter().all(usable) {
        return Err(wrong(file, "a JWK set of public P-256 keys, each with kid, x and y"));
    }
    let name: String =
        host.chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() || letter == '.' {
                    letter.to_ascii_lowercase()
                } else {
                    '_'
                }
            })
            .take(60)
            .collect();
    // Two URLs may look alike as file names.
    let hash = digest::digest(&digest::SHA256, issuer.as_bytes());
    let name = format!("{name}-{}.json", hex(hash.as_ref().get(..4).unwrap_or_default()));
    let kept = IssuerFile { issuer: issuer.to_owned(), keys: set.keys };
    let mut bytes =
        serde_json::to_vec_pretty(&kept).map_err(|error| KeysError::io("write", file, error.into()))?;
    bytes.push(b'\n');
    Ok(NewFile { dir: "shc", name: name.trim_start_matches('.').to_owned(), bytes })
}

fn is_file_name(kid: &str) -> bool {
    let letters = kid.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (1..=64).contains(&kid.len()) && letters
}

/// One P-256 public key under the id that posters name.
fn poster_key(file: &Path, bytes: &[u8], kid: &str) -> Result<NewFile, KeysError> {
    let expected = "one P-256 public key in PEM, under an id of letters, digits, - and _";
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(bytes).map_err(|_| wrong(file, expected))?;
    if !is_file_name(kid) || !keyfile::is_p256(&spki) {
        return Err(wrong(file, expected));
    }
    Ok(NewFile { dir: "nhs", name: format!("{kid}.pem"), bytes: pem("PUBLIC KEY", &spki) })
}

/// An app's public key: a JWK as it is, or PEM under an id. A private key is refused: it belongs to the app.
fn device_key(file: &Path, bytes: &[u8], app: App, kid: Option<&str>) -> Result<NewFile, KeysError> {
    if let Ok(spki) = SubjectPublicKeyInfoDer::from_pem_slice(bytes) {
        let kid = kid.map_or_else(|| Kid::of_public_key(&spki).to_string(), str::to_owned);
        if !is_file_name(&kid) {
            return Err(wrong(file, "imported under an id of letters, digits, - and _"));
        }
        let name = format!("{app}.{kid}.pem");
        return Ok(NewFile { dir: "devices", name, bytes: pem("PUBLIC KEY", &spki) });
    }
    let expected = "a public key of the app: a JWK with a kid, or PEM";
    let mut key: serde_json::Value = keyfile::parse(file, bytes)?;
    let own = key.get("kid").and_then(serde_json::Value::as_str).map(str::to_owned);
    let Some(kid) = kid.map(str::to_owned).or(own).filter(|_| key.get("d").is_none()) else {
        return Err(wrong(file, expected));
    };
    let members = key.as_object_mut().ok_or_else(|| wrong(file, expected))?;
    members.insert("kid".to_owned(), kid.clone().into());
    members.insert("app".to_owned(), app.name().into());
    let mut bytes =
        serde_json::to_vec_pretty(&key).map_err(|error| KeysError::io("write", file, error.into()))?;
    bytes.push(b'\n');
    let short = if is_file_name(&kid) { kid } else { Kid::of_public_key(kid.as_bytes()).to_string() };
    Ok(NewFile { dir: "devices", name: format!("{app}.{short}.json"), bytes })
}

/// The keys of other issuers that are kept as they came.
pub(super) fn foreign_keys(data_dir: &Path, revoked: &Revocations) -> Result<Vec<KeyInfo>, KeysError> {
    let mut list = Vec::new();
    let mut add = |key_use, kid: String, algorithm, issuer: Option<&str>, path: &Path| {
        let revoked = revoked.kid(&kid).is_some();
        list.push(KeyInfo {
            key_use,
            state: if revoked { KeyState::Revoked } else { KeyState::Verifying },
            kid,
            algorithm,
            epoch: None,
            private: false,
            dev: false,
            revoked,
            not_before: None,
            issuer: issuer.map(str::to_owned),
            last_expires: None,
            created: None,
            path: path.to_owned(),
        });
    };
    for path in keyfile::files(&keyfile::hc1_dir(data_dir), &["pem"])? {
        let (bytes, _) = keyfile::read_up_to(&path, IMPORT_BYTES_MAX)?;
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.map_err(|_| wrong(&path, "PEM with one certificate or more"))?;
            add(KeyUse::Hc1, Kid::of_public_key(&certificate).to_string(), "X.509", None, &path);
        }
    }
    for path in keyfile::files(&keyfile::shc_dir(data_dir), &["json"])? {
        let (bytes, _) = keyfile::read_up_to(&path, IMPORT_BYTES_MAX)?;
        let set: IssuerFile = keyfile::parse(&path, &bytes)?;
        for key in &set.keys {
            let kid = key.get("kid").and_then(serde_json::Value::as_str).unwrap_or_default();
            add(KeyUse::Shc, kid.to_owned(), "ES256", Some(&set.issuer), &path);
        }
    }
    for (path, key) in keyfile::read_dir(&keyfile::nhs_dir(data_dir))? {
        add(KeyUse::Nhs, key.kid, "ES256", None, &path);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;
    use crate::scan::UnixMillis;
    use crate::verify::Revocation;
    use crate::verify::manage::{ensure_development, keys_list, keys_retire, keys_revoke};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    const NOW: UnixMillis = UnixMillis(1_637_736_569_000);

    struct Site {
        dir: tempfile::TempDir,
        file: PathBuf,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("file");
            ensure_development(dir.path(), NOW).unwrap();
            Self { dir, file }
        }

        fn import(&self, foreign: Foreign<'_>, content: &str) -> Result<Vec<PathBuf>, KeysError> {
            fs::write(&self.file, content).unwrap();
            let imported = keys_import(self.dir.path(), foreign, &self.file);
            // Whatever becomes of it, the gateway would start.
            Keys::load(self.dir.path()).unwrap();
            let left = fs::read_dir(keyfile::keys_dir(self.dir.path())).unwrap();
            assert!(left.into_iter().all(|entry| !keyfile::is_temporary(&entry.unwrap().path())));
            imported
        }

        fn listed(&self, key_use: KeyUse) -> Vec<KeyInfo> {
            let all = keys_list(self.dir.path()).unwrap();
            all.into_iter().filter(|key| key.key_use == key_use && !key.dev).collect()
        }
    }

    fn certificate() -> String {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap().pem()
    }

    const JWKS: &str = r#"{"keys":[{"kty":"EC","kid":"3Kfdg-XwP-7gXyywtUfUADwBumDOPKMQx-iELL11W9s","use":"sig",
        "alg":"ES256","crv":"P-256","x":"11XvRWy1I2S0EyJlyf_bWfw_TQ5CJJNLw78bHXNxcgw",
        "y":"eZXwxvO1hvCY0KucrPfKo7yAyMT6Ajc3N7OkAB6VYy8"}]}"#;
    const ISSUER: &str = "https://spec.smarthealth.cards/examples/issuer";

    #[test]
    fn certificates_are_taken_in_once_each_and_named_by_their_id() {
        let site = Site::new();
        let bundle = certificate() + &certificate();
        let written = site.import(Foreign::Hc1, &bundle).unwrap();
        assert_eq!(written.len(), 2);
        assert_eq!(fs::metadata(&written[0]).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(site.import(Foreign::Hc1, &bundle).unwrap().is_empty(), "known already");
        let listed = site.listed(KeyUse::Hc1);
        assert_eq!((listed.len(), listed[0].state), (2, KeyState::Verifying));
        assert!(written.contains(&listed[0].path));
        let name = listed[0].path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&listed[0].kid), "{name}");
    }

    /// A set with one new key, and its thumbprint (RFC 7638).
    fn key_set() -> (String, String) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let point = key.public_key_raw();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, members.as_bytes()));
        let key = members.replacen('{', &format!(r#"{{"kid":"{kid}","#), 1);
        (format!(r#"{{"keys":[{key}]}}"#), kid)
    }

    #[test]
    fn an_issuers_set_replaces_the_one_before() {
        let site = Site::new();
        let foreign = Foreign::Shc { issuer: ISSUER };
        let first = site.import(foreign, JWKS).unwrap();
        assert!(first[0].to_str().unwrap().contains("shc/spec.smarthealth.cards_examples_issuer-"));
        let (newer, kid) = key_set();
        assert_eq!(site.import(foreign, &newer).unwrap(), first);
        let listed = site.listed(KeyUse::Shc);
        assert_eq!((listed.len(), listed[0].issuer.as_deref()), (1, Some(ISSUER)));
        assert_eq!(listed[0].kid, kid);
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&first[0]).unwrap()).unwrap();
        assert_eq!((kept["issuer"].as_str(), kept["keys"].as_array().map(Vec::len)), (Some(ISSUER), Some(1)));
    }

    #[test]
    fn posters_and_apps_keys_are_taken_in_and_retired() {
        let site = Site::new();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().public_key_pem();
        site.import(Foreign::Nhs { kid: "YrqeLTq8z" }, &key).unwrap();
        assert_eq!(site.listed(KeyUse::Nhs)[0].kid, "YrqeLTq8z");
        let vneid = Foreign::Device { app: App::Vneid, kid: None };
        site.import(vneid, &key).unwrap();
        let jwk =
            r#"{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        site.import(Foreign::Device { app: App::Vneid, kid: None }, jwk).unwrap();
        let listed = site.listed(KeyUse::Device(App::Vneid));
        assert_eq!(listed.iter().map(|key| key.algorithm).collect::<Vec<_>>(), ["ES256", "EdDSA"]);
        keys_revoke(site.dir.path(), &Revocation::Kid("YrqeLTq8z".to_owned()), NOW).unwrap();
        assert_eq!(site.listed(KeyUse::Nhs)[0].state, KeyState::Revoked);
        for (key_use, kid) in [(KeyUse::Nhs, "YrqeLTq8z"), (KeyUse::Device(App::Vneid), "k1")] {
            keys_retire(site.dir.path(), key_use, kid, false, NOW).unwrap();
            assert!(site.listed(key_use).iter().all(|key| key.kid != kid));
        }
    }

    #[test]
    fn what_is_not_what_it_should_be_is_refused_and_not_written() {
        let site = Site::new();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let (nhs, shc) = (Foreign::Nhs { kid: "k" }, Foreign::Shc { issuer: ISSUER });
        let device = Foreign::Device { app: App::Vneid, kid: Some("k") };
        let half = certificate();
        let private = r#"{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#;
        let off_curve = r#"{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#;
        for (foreign, content) in [
            (Foreign::Hc1, ""),
            (Foreign::Hc1, "no certificate"),
            (Foreign::Hc1, &half[..half.len() / 2]),
            (Foreign::Hc1, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"),
            (nhs, &p384),
            (nhs, &ed25519.public_key_pem()),
            (nhs, &certificate()),
            (Foreign::Nhs { kid: "../k" }, &p384),
            (shc, "{}"),
            (shc, r#"{"keys":[]}"#),
            (shc, &JWKS.replace("P-256", "P-384")),
            (shc, &JWKS.replace("\"use\"", "\"d\"")),
            (Foreign::Shc { issuer: "http://example.org" }, JWKS),
            (Foreign::Shc { issuer: "https://example.org/" }, JWKS),
            (Foreign::Shc { issuer: "https://" }, JWKS),
            (device, &p384),
            (device, private),
            (device, off_curve),
            (device, "{"),
            (Foreign::Device { app: App::Vneid, kid: Some("a/b") }, &ed25519.public_key_pem()),
        ] {
            let error = site.import(foreign, content).expect_err(content);
            assert!(error.to_string().contains("/file"), "{foreign:?}: {error}");
        }
        let before = site.listed(KeyUse::Device(App::Vneid)).len() + site.listed(KeyUse::Hc1).len();
        assert_eq!(before + site.listed(KeyUse::Nhs).len() + site.listed(KeyUse::Shc).len(), 0);
    }
}
