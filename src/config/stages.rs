//! The decoders that a frame goes through: a list of strings such as `"quircs sharpened 10"`.

use toml::de::DeValue;

use super::value::{FrameDecoder, Mismatch, Rule, Setting, quoted, shown};

/// One stage of the cascade that reads frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameStage {
    /// The decoder.
    pub decoder: FrameDecoder,
    /// Whether it sees the image smoothed and sharpened, or plain.
    pub sharpened: bool,
    /// The stage is skipped once the frame has taken this much processor time; none for never.
    pub start_within_ms: Option<u32>,
}

/// More stages than decoders have ways to look at an image, and few enough for every worker to be told.
const STAGES_MAX: usize = 16;

impl FrameStage {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').peekable();
        let name = words.next()?;
        let decoder = FrameDecoder::ALL.iter().copied().find(|decoder| decoder.name() == name)?;
        let sharpened = words.next_if_eq(&"sharpened").is_some();
        let digits = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
        let start_within_ms = match words.next() {
            // `parse` alone would take a sign.
            Some(word) => Some(word.parse().ok().filter(|_| digits(word))?),
            None => None,
        };
        words.next().is_none().then_some(Self { decoder, sharpened, start_within_ms })
    }

    fn written(self) -> String {
        let sharpened = if self.sharpened { " sharpened" } else { "" };
        let within = self.start_within_ms.map(|ms| format!(" {ms}")).unwrap_or_default();
        format!("{}{sharpened}{within}", self.decoder.name())
    }
}

impl Setting for Vec<FrameStage> {
    fn expected(_: &Rule) -> String {
        let names: Vec<&str> = FrameDecoder::ALL.iter().map(|decoder| decoder.name()).collect();
        format!(
            "a list of up to {STAGES_MAX} stages, each one of {}, then \"sharpened\" or not, then \
             milliseconds or not, such as [\"zxing\", \"quircs sharpened 10\"]",
            names.join(", ")
        )
    }

    fn read(value: &DeValue<'_>, _: &Rule) -> Result<Self, Mismatch> {
        let wrong = || Mismatch { span: None, got: shown(value) };
        let items = value.as_array().filter(|items| items.len() <= STAGES_MAX).ok_or_else(wrong)?;
        items
            .iter()
            .map(|item| {
                let stage = item.get_ref().as_str().and_then(FrameStage::parse);
                stage.ok_or_else(|| Mismatch { span: Some(item.span()), got: shown(item.get_ref()) })
            })
            .collect()
    }

    fn written(&self) -> String {
        let items: Vec<String> = self.iter().map(|stage| quoted(&stage.written())).collect();
        format!("[{}]", items.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_read_as_it_is_written() {
        for text in ["zxing", "zxing sharpened", "quircs 0", "rqrr sharpened 25"] {
            assert_eq!(FrameStage::parse(text).map(FrameStage::written).as_deref(), Some(text));
        }
        for text in ["", "zbar", "zxing ", "zxing 1 sharpened", "zxing +1", "zxing -1", "zxing 1 1", " zxing"]
        {
            assert_eq!(FrameStage::parse(text), None, "{text:?}");
        }
    }
}
