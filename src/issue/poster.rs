//! The page of a poster: a name in outlines of its letters, and below it the code as wide as the page
//! allows. Outlines look the same on every printer and need no font there.

use skrifa::instance::{LocationRef, Size};
use skrifa::outline::{DrawSettings, OutlinePen};
use skrifa::{FontRef, GlyphId, MetadataProvider as _};
use unicode_normalization::UnicodeNormalization as _;

use super::draw::Paper;
use super::{IssueError, NAME_BYTES_MAX};

/// DejaVu Sans Bold, cut down to Latin with every Vietnamese letter; see `assets/fonts`.
static FONT: &[u8] = include_bytes!("../../assets/fonts/DejaVuSans-Bold-vi.ttf");

/// White at each edge, as a part of the width: more than printers leave unprinted.
const MARGIN: f32 = 1.0 / 12.0;

/// The largest and the smallest letters, as a part of the code's side.
const LETTERS_MAX: f32 = 1.0 / 9.0;
const LETTERS_MIN: f32 = 1.0 / 30.0;

/// From one line of a name to the next, in sizes of its letters: Vietnamese capitals carry two marks.
const LINE: f32 = 1.35;

const LINES_MAX: usize = 4;

/// A part of an outline, in points from the page's upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stroke {
    Move([f32; 2]),
    Line([f32; 2]),
    Curve([f32; 2], [f32; 2], [f32; 2]),
    Close,
}

/// Where everything stands, in points.
pub(super) struct Page {
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) code_left: f32,
    pub(super) code_top: f32,
    /// The quiet zone included.
    pub(super) code_side: f32,
    pub(super) name: Vec<Stroke>,
}

impl Page {
    /// Lays out a page.
    ///
    /// # Errors
    /// The name has a letter that can't be drawn, or is too long.
    pub(super) fn new(paper: Paper, name: Option<&str>) -> Result<Self, IssueError> {
        let (width, height) = paper.size_pt();
        let margin = width * MARGIN;
        let side = width - 2.0 * margin;
        let mut page = Self {
            width,
            height,
            code_left: margin,
            code_top: (height - side) / 2.0,
            code_side: side,
            name: Vec::new(),
        };
        let Some(name) = name else { return Ok(page) };
        let lettering = Lettering::new(name, side, height - side - 3.0 * margin)?;
        // Name and code stand in the middle together, a margin apart.
        let top = (height - side - margin - lettering.height()) / 2.0;
        page.code_top = top + lettering.height() + margin;
        page.name = lettering.draw(margin, top, side)?;
        Ok(page)
    }
}

/// A name, broken into lines.
struct Lettering {
    font: FontRef<'static>,
    size: f32,
    lines: Vec<String>,
}

impl Lettering {
    /// The largest letters with which the name fits into this width and height.
    fn new(name: &str, width: f32, height: f32) -> Result<Self, IssueError> {
        // Marks that are written apart from their letter become one letter with it.
        let name: String = name.split_whitespace().collect::<Vec<_>>().join(" ").nfc().collect();
        let too_long = IssueError::Name { limit: NAME_BYTES_MAX, value: name.len() };
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            return Err(too_long);
        }
        let font = FontRef::new(FONT).map_err(|_| IssueError::Drawing)?;
        let mut size = width * LETTERS_MAX;
        while size >= width * LETTERS_MIN {
            let mut lettering = Self { font: font.clone(), size, lines: Vec::new() };
            if lettering.wrap(&name, width)? && lettering.height() <= height {
                return Ok(lettering);
            }
            size *= 0.94;
        }
        Err(too_long)
    }

    /// Breaks the name between words; false if it needs too many lines, or a word is too wide for one.
    fn wrap(&mut self, name: &str, width: f32) -> Result<bool, IssueError> {
        let mut line = String::new();
        for word in name.split(' ') {
            let longer = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
            if self.width(&longer)? <= width {
                line = longer;
                continue;
            }
            if line.is_empty() || self.width(word)? > width {
                return Ok(false);
            }
            self.lines.push(std::mem::replace(&mut line, word.to_owned()));
        }
        self.lines.push(line);
        Ok(self.lines.len() <= LINES_MAX)
    }

    fn height(&self) -> f32 {
        self.lines.iter().map(|_| self.size * LINE).sum()
    }

    fn glyphs(&self, line: &str) -> Result<Vec<(GlyphId, f32)>, IssueError> {
        let (charmap, metrics) =
            (self.font.charmap(), self.font.glyph_metrics(Size::new(self.size), LocationRef::default()));
        line.chars()
            .map(|character| {
                let glyph = charmap.map(character).filter(|glyph| glyph.to_u32() != 0);
                let advance = glyph.and_then(|glyph| metrics.advance_width(glyph));
                glyph.zip(advance).ok_or(IssueError::Glyph { character: u32::from(character) })
            })
            .collect()
    }

    fn width(&self, line: &str) -> Result<f32, IssueError> {
        Ok(self.glyphs(line)?.iter().map(|(_, advance)| advance).sum())
    }

    /// The outlines of all lines, each in the middle of `width`.
    fn draw(&self, left: f32, top: f32, width: f32) -> Result<Vec<Stroke>, IssueError> {
        let outlines = self.font.outline_glyphs();
        let mut strokes = Vec::new();
        // Of a line's height, a quarter of the letters' size lies below the line that they stand on.
        let mut baseline = top + self.size * (LINE - 0.25);
        for line in &self.lines {
            let glyphs = self.glyphs(line)?;
            let used: f32 = glyphs.iter().map(|(_, advance)| advance).sum();
            let mut x = left + (width - used) / 2.0;
            for (glyph, advance) in glyphs {
                let mut pen = Pen { strokes: &mut strokes, x, baseline, at: [x, baseline] };
                let settings = DrawSettings::unhinted(Size::new(self.size), LocationRef::default());
                let outline = outlines.get(glyph).ok_or(IssueError::Drawing)?;
                outline.draw(settings, &mut pen).map_err(|_| IssueError::Drawing)?;
                x += advance;
            }
            baseline += self.size * LINE;
        }
        Ok(strokes)
    }
}

/// Moves a glyph to its place; fonts count upwards, pages downwards.
struct Pen<'a> {
    strokes: &'a mut Vec<Stroke>,
    x: f32,
    baseline: f32,
    at: [f32; 2],
}

impl Pen<'_> {
    fn place(&self, x: f32, y: f32) -> [f32; 2] {
        [self.x + x, self.baseline - y]
    }
}

impl OutlinePen for Pen<'_> {
    fn move_to(&mut self, x: f32, y: f32) {
        self.at = self.place(x, y);
        self.strokes.push(Stroke::Move(self.at));
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.at = self.place(x, y);
        self.strokes.push(Stroke::Line(self.at));
    }

    /// A quadratic curve as the cubic one of the same shape: PDF has no other.
    fn quad_to(&mut self, cx: f32, cy: f32, x: f32, y: f32) {
        let (control, to) = (self.place(cx, cy), self.place(x, y));
        let toward = |[x, y]: [f32; 2]| [x + (control[0] - x) * 2.0 / 3.0, y + (control[1] - y) * 2.0 / 3.0];
        self.strokes.push(Stroke::Curve(toward(self.at), toward(to), to));
        self.at = to;
    }

    fn curve_to(&mut self, ax: f32, ay: f32, bx: f32, by: f32, x: f32, y: f32) {
        self.at = self.place(x, y);
        self.strokes.push(Stroke::Curve(self.place(ax, ay), self.place(bx, by), self.at));
    }

    fn close(&mut self) {
        self.strokes.push(Stroke::Close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every letter of the Vietnamese alphabet, with every tone.
    fn vietnamese() -> Vec<char> {
        let vowels = "aăâeêioôơuưyAĂÂEÊIOÔƠUƯY";
        let tones = ["", "\u{300}", "\u{309}", "\u{303}", "\u{301}", "\u{323}"];
        let voiced = vowels.chars().flat_map(|vowel| tones.map(|tone| format!("{vowel}{tone}")));
        voiced
            .flat_map(|letter| letter.nfc().collect::<Vec<_>>())
            .chain("đĐbcdghklmnpqrstvx".chars())
            .collect()
    }

    #[test]
    fn every_vietnamese_letter_has_an_outline_of_its_own() {
        let letters = vietnamese();
        assert_eq!(letters.len(), 144 + 18, "one character each");
        let mut seen = std::collections::BTreeMap::new();
        for letter in letters {
            let lettering = Lettering::new(&letter.to_string(), 400.0, 400.0).unwrap();
            let strokes = lettering.draw(0.0, 0.0, 400.0).unwrap();
            assert!(strokes.len() > 3, "{letter}");
            let other = seen.insert(format!("{strokes:?}"), letter);
            assert_eq!(other, None, "{letter} looks like another");
        }
    }

    #[test]
    fn a_name_stays_inside_the_page_and_above_the_code() {
        for paper in [Paper::A4, Paper::A6] {
            for name in ["Chợ Đồng Xuân", "Ngã", &"Nhà văn hoá phường Đống Đa ".repeat(5)] {
                let page = Page::new(paper, Some(name)).unwrap();
                assert!(page.code_top + page.code_side + page.width * MARGIN <= page.height + 0.1);
                assert!(!page.name.is_empty());
                for stroke in &page.name {
                    let (Stroke::Move([x, y]) | Stroke::Line([x, y]) | Stroke::Curve(_, _, [x, y])) = *stroke
                    else {
                        continue;
                    };
                    assert!(
                        x >= page.code_left - 0.1 && x <= page.code_left + page.code_side + 0.1,
                        "{name} {x}"
                    );
                    assert!(y >= 0.0 && y <= page.code_top, "{name} {y}");
                }
            }
        }
    }

    #[test]
    fn marks_written_apart_are_the_same_name() {
        let apart: String = unicode_normalization::UnicodeNormalization::nfd("Phố Huế").collect();
        let strokes = |name: &str| Page::new(Paper::A4, Some(name)).unwrap().name;
        assert_eq!(strokes(&apart), strokes("Phố Huế"));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        let refused = |name: &str| Page::new(Paper::A6, Some(name)).err();
        assert!(matches!(refused("北京"), Some(IssueError::Glyph { character: 0x5317 })));
        for name in ["", "   ", &"a".repeat(NAME_BYTES_MAX + 1), &"W".repeat(100)] {
            assert!(matches!(refused(name), Some(IssueError::Name { .. })), "{name}");
        }
    }
}
