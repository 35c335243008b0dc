//! A payload as a picture: black on white, with the quiet zone that readers need, as PNG, SVG or PDF.

use std::fmt::Write as _;

use pdf_writer::{Content, Finish as _, Pdf, Rect, Ref};
use qrcode::{EcLevel, QrCode};

use super::IssueError;
use super::poster::{Page, Stroke};

/// Modules of white around a code, as the QR standard (ISO/IEC 18004) asks.
pub(super) const QUIET_MODULES: usize = 4;

/// How much of a code may be lost and still be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// 15 %: for screens, and print that is looked after.
    #[default]
    M,
    /// 25 %: for print that weather and hands wear down. About a fifth wider.
    Q,
}

/// Paper of a poster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paper {
    /// 210 × 297 mm: for a door.
    A4,
    /// 105 × 148 mm: for a counter.
    A6,
}

impl Paper {
    /// Width and height in points, 72 an inch.
    pub(super) const fn size_pt(self) -> (f32, f32) {
        match self {
            Self::A4 => (595.28, 841.89),
            Self::A6 => (297.64, 419.53),
        }
    }
}

/// How a code is drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style<'a> {
    /// Its error correction.
    pub level: Level,
    /// A page for it, instead of a picture of its own size; not for PNG.
    pub paper: Option<Paper>,
    /// What stands above it on the page.
    pub name: Option<&'a str>,
}

/// A code, ready to be drawn.
pub struct Drawing {
    bitmap: Bitmap,
    page: Option<Page>,
}

/// Draws a payload as [`Drawing::png`] does, at level M.
pub fn draw_png(payload: &str, module_px: usize) -> Result<Vec<u8>, IssueError> {
    Drawing::new(payload, Style::default())?.png(module_px)
}

impl Drawing {
    /// Encodes a payload and lays out its page.
    pub fn new(payload: &str, style: Style<'_>) -> Result<Self, IssueError> {
        let level = match style.level {
            Level::M => EcLevel::M,
            Level::Q => EcLevel::Q,
        };
        let code = QrCode::with_error_correction_level(payload.as_bytes(), level);
        let bitmap = Bitmap::of(code.map_err(|_| IssueError::Drawing)?);
        let page = match style.paper {
            Some(paper) => Some(Page::new(paper, style.name)?),
            None => None,
        };
        Ok(Self { bitmap, page })
    }

    /// A PNG of `module_px` pixels a module, one bit a pixel. It is the code alone, whatever the paper.
    pub fn png(&self, module_px: usize) -> Result<Vec<u8>, IssueError> {
        let module_px = module_px.clamp(1, 64);
        let side_px = self.bitmap.side * module_px;
        let mut rows = Vec::with_capacity(side_px.div_ceil(8) * side_px);
        for y in 0..side_px {
            let mut row = vec![0_u8; side_px.div_ceil(8)];
            for x in (0..side_px).filter(|x| !self.bitmap.dark(x / module_px, y / module_px)) {
                if let Some(byte) = row.get_mut(x / 8) {
                    *byte |= 0x80 >> (x % 8);
                }
            }
            rows.extend_from_slice(&row);
        }
        let side = u32::try_from(side_px).map_err(|_| IssueError::Drawing)?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, side, side);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let mut writer = encoder.write_header().map_err(|_| IssueError::Drawing)?;
        writer.write_image_data(&rows).and_then(|()| writer.finish()).map_err(|_| IssueError::Drawing)?;
        Ok(bytes)
    }

    /// An SVG document, in points on paper and else 4 units a module.
    pub fn svg(&self) -> String {
        let frame = self.frame(4.0);
        let mut path = String::new();
        for Run { x, y, modules } in self.bitmap.runs() {
            let (left, top) = (frame.left + x * frame.module, frame.top + y * frame.module);
            let (width, height) = (modules * frame.module, frame.module);
            // Writing to a String cannot fail.
            let _ = write!(path, "M{left:.3} {top:.3}h{width:.3}v{height:.3}h-{width:.3}z");
        }
        let mut name = String::new();
        for stroke in self.page.iter().flat_map(|page| &page.name) {
            let _ = match *stroke {
                Stroke::Move([x, y]) => write!(name, "M{x:.2} {y:.2}"),
                Stroke::Line([x, y]) => write!(name, "L{x:.2} {y:.2}"),
                Stroke::Curve(one, two, [x, y]) => {
                    write!(name, "C{:.2} {:.2} {:.2} {:.2} {x:.2} {y:.2}", one[0], one[1], two[0], two[1])
                }
                Stroke::Close => write!(name, "z"),
            };
        }
        if !name.is_empty() {
            name = format!("<path d=\"{name}\"/>");
        }
        let (width, height) = (frame.width, frame.height);
        let unit = if self.page.is_some() { "pt" } else { "" };
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}{unit}\" height=\"{height}{unit}\" \
             viewBox=\"0 0 {width} {height}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
             <path shape-rendering=\"crispEdges\" d=\"{path}\"/>\n{name}\n</svg>\n"
        )
    }

    /// A PDF of one page, of its paper or else of `module_pt` points a module.
    pub fn pdf(&self, module_pt: u8) -> Vec<u8> {
        let frame = self.frame(f32::from(module_pt.clamp(1, 64)));
        // Y grows upwards on a PDF page.
        let up = |y: f32| frame.height - y;
        let mut drawing = Content::new();
        for Run { x, y, modules } in self.bitmap.runs() {
            let bottom = up(frame.top + (y + 1.0) * frame.module);
            drawing.rect(frame.left + x * frame.module, bottom, modules * frame.module, frame.module);
        }
        for stroke in self.page.iter().flat_map(|page| &page.name) {
            match *stroke {
                Stroke::Move([x, y]) => drawing.move_to(x, up(y)),
                Stroke::Line([x, y]) => drawing.line_to(x, up(y)),
                Stroke::Curve(one, two, [x, y]) => {
                    drawing.cubic_to(one[0], up(one[1]), two[0], up(two[1]), x, up(y))
                }
                Stroke::Close => drawing.close_path(),
            };
        }
        drawing.fill_nonzero();
        let (catalog, pages, page, contents) = (Ref::new(1), Ref::new(2), Ref::new(3), Ref::new(4));
        let mut document = Pdf::new();
        document.catalog(catalog).pages(pages);
        document.pages(pages).kids([page]).count(1);
        let mut sheet = document.page(page);
        sheet.media_box(Rect::new(0.0, 0.0, frame.width, frame.height)).parent(pages).contents(contents);
        sheet.resources();
        sheet.finish();
        document.stream(contents, &drawing.finish());
        document.finish()
    }

    /// Where the code's corner lies, its quiet zone included, and how large all of it is.
    fn frame(&self, module: f32) -> Frame {
        let Some(page) = &self.page else {
            let side = self.bitmap.side_f() * module;
            return Frame { width: side, height: side, left: 0.0, top: 0.0, module };
        };
        Frame {
            width: page.width,
            height: page.height,
            left: page.code_left,
            top: page.code_top,
            module: page.code_side / self.bitmap.side_f(),
        }
    }
}

struct Frame {
    width: f32,
    height: f32,
    left: f32,
    top: f32,
    module: f32,
}

/// A code with its quiet zone, module by module.
struct Bitmap {
    side: usize,
    width: usize,
    modules: Vec<qrcode::Color>,
}

/// Dark modules side by side, in modules from the corner of the quiet zone.
struct Run {
    x: f32,
    y: f32,
    modules: f32,
}

impl Bitmap {
    fn of(code: QrCode) -> Self {
        let width = code.width();
        Self { side: width + 2 * QUIET_MODULES, width, modules: code.into_colors() }
    }

    fn side_f(&self) -> f32 {
        as_f32(self.side)
    }

    fn dark(&self, x: usize, y: usize) -> bool {
        let inside = |at: usize| at.checked_sub(QUIET_MODULES).filter(|at| *at < self.width);
        let module = inside(x).zip(inside(y)).and_then(|(x, y)| self.modules.get(y * self.width + x));
        module == Some(&qrcode::Color::Dark)
    }

    fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for y in 0..self.side {
            let mut x = 0;
            while x < self.side {
                let modules = (x..self.side).take_while(|x| self.dark(*x, y)).count();
                if modules > 0 {
                    runs.push(Run { x: as_f32(x), y: as_f32(y), modules: as_f32(modules) });
                }
                x += modules + 1;
            }
        }
        runs
    }
}

/// A code is at most 185 modules wide.
fn as_f32(modules: usize) -> f32 {
    f32::from(u16::try_from(modules).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As long as an issued token.
    fn payload() -> String {
        "SG1:".to_owned() + &"0A".repeat(105)
    }

    #[test]
    fn drawings_have_a_quiet_zone_and_the_documented_version() {
        let drawing = Drawing::new(&payload(), Style::default()).unwrap();
        let (modules, version) = (drawing.bitmap.side, (drawing.bitmap.width - 17) / 4);
        assert!((7..=9).contains(&version), "{version}");
        assert!(drawing.svg().contains(&format!("viewBox=\"0 0 {0} {0}\"", 4 * modules)));
        let png = drawing.png(3).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let frame = reader.next_frame(&mut pixels).unwrap();
        assert_eq!(usize::try_from(frame.width).unwrap(), 3 * modules);
        // Quiet zone white, then the finder pattern's black corner.
        let pixel = |x: usize, y: usize| (pixels[y * frame.line_size + x / 8] >> (7 - x % 8)) & 1;
        assert_eq!((pixel(11, 11), pixel(12, 12), pixel(12 + 20, 12 + 20)), (1, 0, 0));
    }

    #[test]
    fn level_q_takes_more_modules() {
        let side = |level| Drawing::new(&payload(), Style { level, ..Style::default() }).unwrap().bitmap.side;
        assert!(side(Level::Q) > side(Level::M));
    }

    #[test]
    fn runs_are_the_dark_modules() {
        let bitmap = Drawing::new(&payload(), Style::default()).unwrap().bitmap;
        let dark = (0..bitmap.side * bitmap.side)
            .filter(|at| bitmap.dark(at % bitmap.side, at / bitmap.side))
            .count();
        let drawn: f32 = bitmap.runs().iter().map(|run| run.modules).sum();
        assert_eq!(format!("{drawn}"), format!("{dark}"));
    }

    #[test]
    fn what_fits_no_code_is_refused() {
        let style = Style { level: Level::Q, ..Style::default() };
        assert!(matches!(Drawing::new(&"a".repeat(5000), style), Err(IssueError::Drawing)));
    }
}
