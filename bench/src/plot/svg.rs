//! The few SVG elements that the drawing needs, escaped and closed.

use std::fmt::Write as _;

/// Colours and fonts, for light and dark. Written out without variables: not every viewer of
/// SVG knows those.
const STYLE: &str = "
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
.title{font-size:17px;font-weight:600}.name{font-size:13.5px;font-weight:600}
.note,.axis{font-size:11px}.step{font-size:10px}.hold{font-size:11px;font-weight:600}
.end{text-anchor:end}.mid{text-anchor:middle}.grid{fill:none}.held{opacity:.13}.fan{opacity:.09}
path.d{fill:none;stroke-width:2.4;stroke-linecap:round}path.few{stroke-width:4.2}
text{fill:#1c2530}.note,.axis{fill:#5b6877}.hold{fill:#7c5cff}
.bg{fill:#ffffff;stroke:#d8dee6}.grid{stroke:#e6eaf0}.held,.fan{fill:#7c5cff}
.s0{fill:#c7d3e3}.s1{fill:#dde5ef}.z0{fill:#cfc4ff}.z1{fill:#e4deff}
path.rk{stroke:#2f7de1}path.rn{stroke:#14a3a8}path.wk{stroke:#e8710a}path.wn{stroke:#c93b8f}
circle.rk{fill:#2f7de1}circle.rn{fill:#14a3a8}circle.wk{fill:#e8710a}circle.wn{fill:#c93b8f}\
circle.bad{fill:#d11f2d}
circle.p0,rect.p0{fill:#2f7de1}circle.p1,rect.p1{fill:#123f86}circle.p2,rect.p2{fill:#2fa36b}\
circle.p3,rect.p3{fill:#0e5f3a}circle.p4,rect.p4{fill:#c93b8f}rect.range{opacity:.35}
.good{fill:#2fa36b;opacity:.07}.one{stroke:#1c2530;stroke-width:1.2;fill:none}
.u0{fill:#e8710a}.u1{fill:#2f7de1}.theirs{opacity:.5}
@media(prefers-color-scheme:dark){
circle.p0,rect.p0{fill:#5aa2ff}circle.p1,rect.p1{fill:#a9cdff}circle.p2,rect.p2{fill:#3ecf8b}\
circle.p3,rect.p3{fill:#b4f0d2}circle.p4,rect.p4{fill:#ff6fbf}
.good{fill:#3ecf8b;opacity:.08}.one{stroke:#e8edf3}.u0{fill:#ff9838}.u1{fill:#5aa2ff}
text{fill:#e8edf3}.note,.axis{fill:#98a5b5}.hold{fill:#9d86ff}
.bg{fill:#0f141b;stroke:#2b3440}.grid{stroke:#212a35}.held,.fan{fill:#9d86ff}
.s0{fill:#2e3c4f}.s1{fill:#243040}.z0{fill:#4a3d8f}.z1{fill:#382f69}
path.rk{stroke:#5aa2ff}path.rn{stroke:#2cc6c0}path.wk{stroke:#ff9838}path.wn{stroke:#ff6fbf}
circle.rk{fill:#5aa2ff}circle.rn{fill:#2cc6c0}circle.wk{fill:#ff9838}circle.wn{fill:#ff6fbf}\
circle.bad{fill:#ff5a62}
}
";

/// A drawing under way.
#[derive(Debug)]
pub(crate) struct Canvas {
    text: String,
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64, title: &str) -> Self {
        let mut canvas = Self {
            text: String::new(),
        };
        canvas.push(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n",
            escape(title)
        ));
        let (w, h) = (width - 1.0, height - 1.0);
        canvas.push(format_args!(
            "<rect class=\"bg\" x=\".5\" y=\".5\" width=\"{w}\" height=\"{h}\" rx=\"8\"/>\n"
        ));
        canvas
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        let _infallible = self.text.write_fmt(part);
    }

    /// Text whose baseline begins, or by class ends or is centred, at a point.
    pub(crate) fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = escape(text);
        self.push(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n"
        ));
    }

    pub(crate) fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let width = width.max(0.0);
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"/>\n"
        ));
    }

    /// A rectangle that says what it is when pointed at.
    pub(crate) fn told_rect(&mut self, class: &str, at: [f64; 4], told: &str) {
        let [x, y, width, height] = at;
        let told = escape(told);
        self.push(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"><title>{told}</title></rect>\n"
        ));
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(
            "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>\n"
        ));
    }

    pub(crate) fn polygon(&mut self, class: &str, points: &[(f64, f64)]) {
        let mut list = String::new();
        for (x, y) in points {
            let _infallible = write!(list, "{x:.1},{y:.1} ");
        }
        let list = list.trim_end();
        self.push(format_args!(
            "<polygon class=\"{class}\" points=\"{list}\"/>\n"
        ));
    }

    pub(crate) fn dot(&mut self, class: &str, x: f64, y: f64, r: f64) {
        self.push(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>\n"
        ));
    }

    /// Many dots of a class and an opacity, relative to an origin: a path of empty strokes.
    pub(crate) fn dots(
        &mut self,
        class: &str,
        opacity: f64,
        origin: (f64, f64),
        at: &[(u16, u16)],
    ) {
        if at.is_empty() {
            return;
        }
        let (x, y) = origin;
        self.push(format_args!(
            "<path class=\"d {class}\" opacity=\"{opacity}\" transform=\"translate({x:.1} {y:.1})\" d=\""
        ));
        for (x, y) in at {
            self.push(format_args!("M{x} {y}h0"));
        }
        self.push(format_args!("\"/>\n"));
    }

    pub(crate) fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// Text that cannot be taken for markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// About how wide a text is, without asking a font.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a short text")]
    let count = text.chars().count() as f64;
    count * size * 0.55
}
