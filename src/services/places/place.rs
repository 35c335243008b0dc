//! What a place is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Longest class, in bytes.
pub const CLASS_BYTES_MAX: usize = 32;

/// A province's code (General Statistics Office): `01` is Hà Nội, `79` TP. Hồ Chí Minh.
pub type ProvinceCode = Code<2>;

/// A district's code (General Statistics Office), unique in the country: `001` is Ba Đình.
pub type DistrictCode = Code<3>;

/// A place that is open to the public, as the directory knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// What it is called.
    pub name: Box<str>,
    /// The district it lies in.
    pub district: DistrictCode,
    /// The province it lies in.
    pub province: ProvinceCode,
    /// Degrees east (WGS 84), -180 to 180.
    pub lon: f64,
    /// Degrees north (WGS 84), -90 to 90.
    pub lat: f64,
    /// What it is: `market`, `hospital`, `school`; empty where nobody said.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub class: Box<str>,
}

/// A code of just so many digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code<const N: usize>([u8; N]);

impl<const N: usize> Code<N> {
    /// Reads exactly so many digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; N] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then_some(Self(digits))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        // Digits only, by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Display for Code<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Code<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> PartialEq<str> for Code<N> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl<const N: usize> Serialize for Code<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, const N: usize> Deserialize<'de> for Code<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("must be a code of digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_just_its_digits() {
        let district = DistrictCode::parse("001").unwrap();
        assert_eq!((district.to_string(), district == *"001"), ("001".to_owned(), true));
        assert_eq!(serde_json::to_string(&district).unwrap(), "\"001\"");
        assert_eq!(serde_json::from_str::<DistrictCode>("\"001\"").unwrap(), district);
        for wrong in ["1", "01", "0001", "00a", "", "０１"] {
            assert_eq!(DistrictCode::parse(wrong), None, "{wrong}");
        }
    }
}
