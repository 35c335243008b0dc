//! Every picture that `issue` draws, on every paper and at every level, is read back by the gateway's own
//! decoders and by zbar, which shares no code with them. SVG and PDF are made visible by the renderers that
//! people have: librsvg's and poppler's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_scangate");
const NAME: &str = "Chợ Đồng Xuân, quầy số 7: Nguyễn Thị Ngữ Ưỡng";

/// Runs a program that must succeed, and names the package that a missing one is in.
fn run(program: &str, package: &str, arguments: &[&str]) -> Output {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            panic!("this test needs `{program}`: apt-get install {package}")
        }
        Err(error) => panic!("{program}: {error}"),
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}: {stderr}", output.status);
    output
}

fn scangate(arguments: &[&str]) -> String {
    String::from_utf8(run(BINARY, "scangate", arguments).stdout).unwrap()
}

/// What each of the two readers finds in a picture.
fn assert_read(picture: &Path, payload: &str) {
    let path = picture.to_str().unwrap();
    let own: serde_json::Value = serde_json::from_str(scangate(&["decode", path]).trim()).unwrap();
    assert_eq!(own["payload"], payload, "{path}");
    let zbar = run("zbarimg", "zbar-tools", &["--quiet", "--raw", "--oneshot", path]);
    assert_eq!(String::from_utf8(zbar.stdout).unwrap().trim_end(), payload, "{path}");
}

/// The picture as PNG.
fn rendered(picture: &Path) -> PathBuf {
    let path = picture.to_str().unwrap();
    let to = picture.with_extension(format!("{}.png", picture.extension().unwrap().to_str().unwrap()));
    match picture.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => {
            run(
                "rsvg-convert",
                "librsvg2-bin",
                &["--height", "800", "--keep-aspect-ratio", "-o", to.to_str().unwrap(), path],
            );
        }
        Some("pdf") => {
            let stem = to.with_extension("");
            let arguments = ["-png", "-scale-to", "800", "-singlefile", path, stem.to_str().unwrap()];
            run("pdftoppm", "poppler-utils", &arguments);
        }
        other => panic!("{other:?}"),
    }
    to
}

#[test]
fn every_picture_is_read_back_by_two_readers() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    scangate(&["keys", "generate", "--data-dir", data]);
    for level in ["m", "q"] {
        for (paper, name) in [(None, None), (Some("a4"), Some(NAME)), (Some("a6"), Some(NAME))] {
            let file = |extension: &str| {
                let stem = format!("{level}-{}-{}", paper.unwrap_or("bare"), name.map_or(0, str::len));
                directory.path().join(stem).with_extension(extension)
            };
            let (png, svg, pdf) = (file("png"), file("svg"), file("pdf"));
            let mut arguments = vec!["issue", "place", "hn-0001", "--data-dir", data, "--level", level];
            for (flag, path) in [("--png", &png), ("--svg", &svg), ("--pdf", &pdf)] {
                arguments.extend([flag, path.to_str().unwrap()]);
            }
            arguments.extend(paper.into_iter().flat_map(|paper| ["--paper", paper]));
            arguments.extend(name.into_iter().flat_map(|name| ["--name", name]));
            let payload = scangate(&arguments);
            for picture in [png.clone(), rendered(&svg), rendered(&pdf)] {
                assert_read(&picture, payload.trim_end());
            }
        }
    }
}

#[test]
fn a_poster_is_of_its_papers_size_and_has_its_name_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let data = data.to_str().unwrap();
    scangate(&["keys", "generate", "--data-dir", data]);
    for (paper, width, height) in [("a4", 595.28, 841.89), ("a6", 297.64, 419.53)] {
        let pdf = directory.path().join(paper).with_extension("pdf");
        let path = pdf.to_str().unwrap();
        let draw = |name: &[&str]| {
            let arguments =
                ["issue", "place", "hn-0001", "--data-dir", data, "--paper", paper, "--pdf", path];
            scangate(&[arguments.as_slice(), name].concat());
            let png = rendered(&pdf);
            let mut reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(png).unwrap()))
                .read_info()
                .unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let frame = reader.next_frame(&mut pixels).unwrap();
            // Of the upper eighth, where no code is.
            let upper = pixels[..frame.line_size * (frame.height as usize / 8)].to_vec();
            upper.iter().filter(|level| **level < 64).count()
        };
        assert_eq!(draw(&[]), 0);
        assert!(draw(&["--name", NAME]) > 0, "{paper}");
        let info = String::from_utf8(run("pdfinfo", "poppler-utils", &[path]).stdout).unwrap();
        let size = info.lines().find(|line| line.starts_with("Page size:")).unwrap();
        assert!(size.contains(&format!("{width} x {height} pts")), "{size}");
        assert!(info.contains("Pages:           1"), "{info}");
        // The name is drawn and nowhere else.
        let text = String::from_utf8_lossy(&std::fs::read(&pdf).unwrap()).into_owned();
        assert!(!text.contains("hn-0001") && !text.contains("Xu"));
    }
}
