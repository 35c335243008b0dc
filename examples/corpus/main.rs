//! Frames for the decoders, and what the decoders make of them.
//!
//! ```text
//! cargo run --release --example corpus -- generate DIR [COUNT [SEED]]
//! cargo run --release --example corpus -- read DIR…
//! ```
//! `generate` writes camera-like JPEG frames and their texts; `read` takes any folder of images (.jpg, .jpeg,
//! .png) with the expected text in a file of the same stem (.txt) and prints a table. Times are processor
//! time
//! of one thread, so that a loaded machine doesn't lie about them.

mod generate;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<()> {
    scangate::decode::sandbox::worker_main();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["generate", folder] => write_frames(Path::new(folder), 200, 1),
        ["generate", folder, count] => write_frames(Path::new(folder), count.parse()?, 1),
        ["generate", folder, count, seed] => write_frames(Path::new(folder), count.parse()?, seed.parse()?),
        ["read", ref folders @ ..] if !folders.is_empty() => {
            folders.iter().try_for_each(|folder| table::print(&pairs(Path::new(folder))?, folder))
        }
        _ => bail!("usage: corpus generate DIR [COUNT [SEED]] | corpus read DIR…"),
    }
}

fn write_frames(folder: &Path, count: u64, seed: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for index in 0..count {
        let frame = generate::frame(seed, index);
        let stem = folder.join(format!("frame-{seed}-{index:04}"));
        std::fs::write(stem.with_extension("jpg"), generate::jpeg(&frame, 80)?)?;
        std::fs::write(stem.with_extension("txt"), &frame.text)?;
    }
    Ok(())
}

/// An image and the text it should give.
struct Pair {
    image: PathBuf,
    text: String,
}

fn pairs(folder: &Path) -> anyhow::Result<Vec<Pair>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))?;
    let mut pairs = Vec::new();
    for entry in entries {
        let image = entry?.path();
        let extension = image.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if !["jpg", "jpeg", "png"].contains(&extension.to_ascii_lowercase().as_str()) {
            continue;
        }
        // Images without a text, or with one that no payload can be, have nothing to be compared with.
        if let Ok(text) = std::fs::read_to_string(image.with_extension("txt")) {
            pairs.push(Pair { image, text });
        }
    }
    pairs.sort_by(|a, b| a.image.cmp(&b.image));
    Ok(pairs)
}
