//! Configuration: a TOML file, then the environment, then the command line, into checked plain structs.
//!
//! Every mistake is reported, not only the first, and each names where it stands:
//! `scangate.toml:7:12: limits.batch_lines_max: must be a whole number in 1..=100000; got 0`. For a value
//! from the environment the place is the variable's name, from the command line the flag's.
//!
//! A variable is `SCANGATE_<SECTION>__<KEY>`; its value is read as TOML, and as a plain string where it
//! is none. Secrets are never keys: the file holds paths to them.

mod keys;
mod load;
mod relations;
mod stages;
mod value;

pub use keys::*;
pub use load::{ConfigError, ConfigErrors, Loaded, Origin, Overrides, load};

impl Config {
    /// The commented file with every key at its default: the text of `config/scangate.toml`.
    pub fn documented() -> String {
        let defaults = Self::default();
        let mut out = String::from(PREAMBLE);
        for section in SECTIONS {
            out.push('\n');
            for line in section.doc {
                out.extend(["#", *line, "\n"]);
            }
            out.extend(["[", section.name, "]\n"]);
            for key in section.keys {
                out.push('\n');
                for line in key.doc {
                    out.extend(["#", *line, "\n"]);
                }
                out.extend(["# Accepts ", &(key.expected)(), ".\n"]);
                let value = defaults.written(section.name, key.name).unwrap_or_default();
                out.extend([key.name, " = ", &value, "\n"]);
            }
        }
        out
    }
}

const PREAMBLE: &str = "\
# scangate: every setting, at its default. Delete what you don't change.
#
# Each key can also be set in the environment as SCANGATE_<SECTION>__<KEY>, for instance
# SCANGATE_LIMITS__DEVICE_SCANS_PER_S=0. The environment wins over this file, the command line over both.
# `scangate check-config FILE` reports every mistake with its line and column.
";
