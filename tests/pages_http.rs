//! The pages as a browser asks for them, from a gateway that runs. What they do there is tested in one
//! (`tests/browser`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod api_support;

use api_support::{Server, exchange};

#[test]
fn each_listener_serves_its_own_page_to_readers_only() {
    let server = Server::start(|_| {});
    let (public, admin) = (server.public, server.admin);
    for (address, method, path, status) in [
        (public, "GET", "/scan", 200),
        (public, "GET", "/scan?from=poster", 200),
        (public, "GET", "/scan/app.js", 200),
        (public, "POST", "/scan", 405),
        (public, "DELETE", "/scan/worker.js", 405),
        (public, "GET", "/scan/", 404),
        (public, "GET", "/scan/../scan/app.js", 404),
        (public, "GET", "/scan/page.html", 404),
        (public, "GET", "/", 404),
        (public, "GET", "/status/app.js", 404),
        (admin, "GET", "/", 200),
        (admin, "GET", "/status/app.js", 200),
        (admin, "POST", "/", 405),
        (admin, "GET", "/scan", 404),
        (admin, "GET", "/status", 404),
    ] {
        let answer = exchange(address, method, path, &[], b"");
        assert_eq!(answer.status, status, "{method} {path}");
        let expected = (status == 405).then_some("GET, HEAD");
        assert_eq!(answer.header("allow"), expected, "{method} {path}");
    }
}

#[test]
fn a_page_comes_with_its_policy_and_only_once() {
    let server = Server::start(|_| {});
    for (address, path, kind) in [
        (server.public, "/scan", "text/html; charset=utf-8"),
        (server.public, "/scan/scan.css", "text/css; charset=utf-8"),
        (server.public, "/scan/worker.js", "text/javascript; charset=utf-8"),
        (server.public, "/scan/zxing/zxing_reader.wasm", "application/wasm"),
        (server.admin, "/", "text/html; charset=utf-8"),
    ] {
        let page = exchange(address, "GET", path, &[], b"");
        assert_eq!((page.status, page.header("content-type")), (200, Some(kind)), "{path}");
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe-inline"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        assert!(page.header("permissions-policy").unwrap().starts_with("camera=(self)"));

        let head = exchange(address, "HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-length"), page.header("content-length"), "{path}");

        let etag = page.header("etag").unwrap();
        assert_eq!(head.header("etag"), Some(etag));
        for method in ["GET", "HEAD"] {
            let again = exchange(address, method, path, &[("If-None-Match", etag)], b"");
            assert_eq!(
                (again.status, again.body.len(), again.header("etag")),
                (304, 0, Some(etag)),
                "{path}"
            );
        }
    }
}
