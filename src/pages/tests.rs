use std::collections::BTreeSet;
use std::io::Read;

use super::*;
use crate::scan::Outcome;

fn text(file: &File) -> &str {
    std::str::from_utf8(&file.body).expect("UTF-8")
}

/// Paths that a file names: in attributes, imports and calls, as quoted text.
fn named<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let quoted = text.split(['"', '\'', '`']);
    quoted.filter(|part| part.starts_with(prefix) && !part.contains([' ', '\n', '$'])).collect()
}

#[test]
fn every_file_that_is_named_is_served_and_the_reverse() {
    for (files, prefix, page) in [
        (&*SCAN_FILES, "/scan", "/scan"),
        (&*STATUS_FILES, "/status", "/"),
        (&*FEEDBACK_FILES, "/feedback", "/feedback"),
    ] {
        let served: BTreeSet<&str> = files.iter().map(|file| file.path).collect();
        assert_eq!(served.len(), files.len(), "a path is there twice");
        let mut used = BTreeSet::from([page, "/scan/zxing/LICENSE"]);
        for file in files.iter().filter(|file| file.content_type == HTML || file.content_type == SCRIPT) {
            if file.path.starts_with("/scan/zxing") || file.path == WORKER {
                continue;
            }
            for path in named(text(file), prefix) {
                assert!(served.contains(path), "{} names {path}", file.path);
                used.insert(path);
            }
            for path in named(text(file), "./") {
                let path = path.trim_start_matches("./");
                let full =
                    served.iter().find(|served| served.strip_prefix(prefix) == Some(&format!("/{path}")));
                used.insert(full.unwrap_or_else(|| panic!("{} imports {path}", file.path)));
            }
        }
        // The package's own name for its other half.
        used.extend(served.iter().filter(|path| path.ends_with("zxing/share.js")));
        for path in served {
            assert!(used.contains(path), "nothing uses {path}");
        }
    }
}

#[test]
fn pages_hold_no_script_or_style_and_name_no_other_origin() {
    for file in SCAN_FILES.iter().chain(&*STATUS_FILES).chain(&*FEEDBACK_FILES) {
        if file.path.contains("zxing") || file.content_type == TEXT {
            continue;
        }
        let text = text(file);
        // Names of XML vocabularies aren't addresses.
        let addresses = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!addresses.contains("http://") && !addresses.contains("https://"), "{}", file.path);
        if file.content_type == HTML {
            for inline in ["<style", " style=", "<script>", " onclick=", " onload=", "javascript:"] {
                assert!(!text.contains(inline), "{} holds {inline}", file.path);
            }
        }
    }
}

#[test]
fn the_worker_keeps_every_file_and_its_version_follows_them() {
    let worker = text(scan(WORKER).expect("the worker"));
    for file in SCAN_FILES.iter().filter(|file| file.path != WORKER) {
        assert!(worker.contains(&format!("\"{}\"", file.path)), "{}", file.path);
    }
    let mut changed = files(SCAN, SCAN_POLICY);
    let before = manifest(&changed);
    changed.first_mut().expect("a file").etag = etag(b"another page");
    assert_ne!(manifest(&changed), before);
}

/// Each page has a word for every outcome, in each language; the scanner needs none for its two successes.
#[test]
fn every_outcome_has_its_words() {
    for (file, is_scanner) in [(scan("/scan/words.js"), true), (status("/status/words.js"), false)] {
        let words = text(file.expect("the words"));
        for outcome in Outcome::ALL {
            if is_scanner && matches!(outcome, Outcome::Recorded | Outcome::Duplicate) {
                continue;
            }
            let key = format!("\n    outcome_{outcome}: '");
            assert_eq!(words.matches(&key).count(), 2, "{outcome}");
        }
    }
}

#[test]
fn a_known_file_is_not_sent_again() {
    let page = scan("/scan").expect("the page");
    let asked = |known: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(IF_NONE_MATCH, HeaderValue::from_str(known).expect("a header"));
        page.answer(&headers)
    };
    for known in
        [page.etag.clone(), format!("W/{}", page.etag), format!("\"x\", {}", page.etag), "*".to_owned()]
    {
        let answer = asked(&known);
        assert_eq!((answer.status().as_u16(), answer.body().len()), (304, 0), "{known}");
        assert_eq!(answer.headers()[ETAG].to_str().ok(), Some(page.etag.as_str()));
        assert_eq!(answer.headers()["content-security-policy"], SCAN_POLICY);
    }
    for known in ["\"x\"", "", "x"] {
        assert_eq!((asked(known).status().as_u16(), asked(known).body()), (200, &page.body), "{known}");
    }
}

#[test]
fn only_the_worker_reaches_further_and_only_wasm_is_compressed() {
    for file in SCAN_FILES.iter().chain(&*STATUS_FILES).chain(&*FEEDBACK_FILES) {
        let answer = file.answer(&HeaderMap::new());
        let headers = answer.headers();
        assert_eq!(headers.contains_key("service-worker-allowed"), file.path == WORKER, "{}", file.path);
        assert_eq!(headers.contains_key(CONTENT_ENCODING), file.content_type == WASM, "{}", file.path);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers[CACHE_CONTROL], "no-cache");
    }
}

/// The package states the hash of its module; ours must be that one.
#[test]
fn the_decoder_is_the_one_its_package_names() {
    let packed = scan("/scan/zxing/zxing_reader.wasm").expect("the module");
    let mut module = Vec::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_end(&mut module).expect("gzip");
    let hash = digest::digest(&SHA256, &module);
    let (first, second) = hash.as_ref().split_at(16);
    let half = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().expect("16 bytes"));
    let digits = format!("{:032x}{:032x}", half(first), half(second));
    let script = text(scan("/scan/zxing/reader/index.js").expect("its script"));
    assert!(script.contains(&digits), "{digits}");
}
