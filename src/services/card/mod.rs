//! The COVID-19 card: green, yellow, red or unknown, by rules that are data.

pub mod certlogic;
