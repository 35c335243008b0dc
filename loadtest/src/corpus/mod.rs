//! Pictures with the texts they should give, and what the decoders make of them; and pictures that should give
//! nothing but a verdict. Times are processor time of one thread, so that a loaded machine doesn't lie about
//! them.

pub mod generate;
pub mod hostile;
pub mod sheet;
mod survive;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

pub use survive::{Options as HostileOptions, run as survive};

/// Options of `corpus`.
#[derive(Debug, Args)]
pub struct Options {
    /// Folders of images (.jpg, .jpeg, .png), each with the expected text in a file of the same stem (.txt):
    /// the whole text is one code, or else each line is one.
    #[arg(required_unless_present = "generate")]
    folders: Vec<PathBuf>,
    /// Writes camera-like JPEG frames of 640 × 480 and their texts to this folder instead.
    #[arg(long, value_name = "FOLDER", conflicts_with = "folders")]
    generate: Option<PathBuf>,
    /// Frames depend on this and their number alone.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many frames.
    #[arg(long, default_value_t = 200)]
    count: u64,
    /// Processes that read at the same time, in the last line's rate from bytes to answer.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

/// Generates frames, or reads folders and prints a table for each.
pub fn run(options: &Options) -> Result<()> {
    if let Some(folder) = &options.generate {
        return write_frames(folder, options.count, options.seed);
    }
    for folder in &options.folders {
        let pairs = pairs(folder)?;
        ensure!(!pairs.is_empty(), "{} holds no image with a text", folder.display());
        table::print(&pairs, &folder.display().to_string(), options.workers)?;
    }
    Ok(())
}

fn write_frames(folder: &Path, count: u64, seed: u64) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for index in 0..count {
        let frame = generate::frame(seed, index);
        let stem = folder.join(format!("frame-{seed}-{index:04}"));
        std::fs::write(stem.with_extension("jpg"), generate::jpeg(&frame, 80)?)?;
        std::fs::write(stem.with_extension("txt"), &frame.text)?;
    }
    Ok(())
}

/// An image and the texts it should give.
struct Pair {
    image: PathBuf,
    text: String,
}

impl Pair {
    /// Whether a code says the whole text, or one of its lines. Files may end with a line end that the code
    /// doesn't have.
    fn expects(&self, payload: &str) -> bool {
        let payload = payload.trim_end_matches(['\r', '\n']);
        let whole = self.text.trim_end_matches(['\r', '\n']);
        payload == whole || whole.lines().any(|line| payload == line)
    }

    /// Whether these are all the codes that the image should give.
    fn is_read_by(&self, payloads: &[&str]) -> bool {
        let trimmed = |text: &str| text.trim_end_matches(['\r', '\n']).to_owned();
        let payloads: Vec<String> = payloads.iter().map(|payload| trimmed(payload)).collect();
        let whole = trimmed(&self.text);
        payloads.contains(&whole) || whole.lines().all(|line| payloads.iter().any(|payload| payload == line))
    }
}

fn pairs(folder: &Path) -> Result<Vec<Pair>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_code_or_one_a_line() {
        let pair = Pair { image: PathBuf::new(), text: "first\nsecond\n".to_owned() };
        assert!(pair.expects("first") && pair.expects("second") && pair.expects("first\nsecond"));
        assert!(!pair.expects("third") && !pair.expects(""));
        assert!(pair.is_read_by(&["second", "first"]) && pair.is_read_by(&["first\nsecond"]));
        assert!(!pair.is_read_by(&["first"]));
    }
}
