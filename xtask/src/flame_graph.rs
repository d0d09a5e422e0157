//! Drawing samples of stacks: as wide as they are frequent, callers below, what they call above.

use std::collections::BTreeMap;
use std::fmt::Write as _;

const WIDTH: f64 = 1_600.0;
const ROW: f64 = 16.0;
/// A character of the font, about.
const CHARACTER: f64 = 6.2;
/// What is narrower is left out.
const NARROWEST: f64 = 0.4;

/// A function, how often it was seen, and what it called.
#[derive(Debug, Default)]
pub struct Frame {
    samples: u64,
    calls: BTreeMap<String, Frame>,
}

impl Frame {
    /// Reads what `perf script -F comm,ip,sym,dso` prints: a line for the thread, then a line for each frame, innermost first, and an empty line.
    pub fn read(text: &str) -> Self {
        let mut all = Self::default();
        for sample in text.split("\n\n") {
            let mut lines = sample.lines().filter(|line| !line.trim().is_empty());
            let Some(thread) = lines.next() else { continue };
            let mut stack: Vec<String> = lines.filter_map(function).collect();
            stack.push(thread.trim().trim_end_matches(':').to_owned());
            all.samples += 1;
            let mut frame = &mut all;
            for name in stack.into_iter().rev() {
                frame = frame.calls.entry(name).or_default();
                frame.samples += 1;
            }
        }
        all
    }

    fn depth(&self) -> usize {
        1 + self.calls.values().map(Self::depth).max().unwrap_or(0)
    }

    /// The samples as SVG. A frame says its name and share where the pointer rests on it.
    pub fn draw(&self, title: &str) -> String {
        let height = (self.depth() + 2) as f64 * ROW;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"monospace\" font-size=\"10\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"4\" y=\"12\">{}: {} samples</text>\n",
            escape(title),
            self.samples
        );
        self.draw_calls(&mut svg, 0.0, height - ROW, self.samples);
        svg + "</svg>\n"
    }

    fn draw_calls(&self, svg: &mut String, left: f64, top: f64, all: u64) {
        let mut x = left;
        for (name, frame) in &self.calls {
            let share = frame.samples as f64 / all.max(1) as f64;
            let width = WIDTH * share;
            if width >= NARROWEST {
                let fits = (width / CHARACTER) as usize;
                let shown: String = if fits < 3 { String::new() } else { name.chars().take(fits - 1).collect() };
                // Kernel, generated code, ours, everybody else's.
                let colour = match name {
                    name if name.starts_with("k:") => "#f4a582",
                    name if name.starts_with("[perf-") => "#b2abd2",
                    name if name.contains("selvedge") => "#92c5de",
                    _ => "#fddbc7",
                };
                let _ = writeln!(
                    svg,
                    "<g><title>{} ({:.2}%)</title><rect x=\"{x:.1}\" y=\"{top:.0}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.0}\">{}</text></g>",
                    escape(name),
                    100.0 * share,
                    ROW - 1.0,
                    x + 2.0,
                    top + 11.0,
                    escape(&shown)
                );
                frame.draw_calls(svg, x, top - ROW, all);
            }
            x += width;
        }
    }
}

/// The function of a frame's line, `ADDRESS NAME+0xOFFSET (FILE)`; where there is no name, the file.
fn function(line: &str) -> Option<String> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    let file = file.trim_end_matches(')').rsplit('/').next()?;
    let name = name.split_once("+0x").map_or(name, |(name, _)| name);
    // Rust's symbols end with a hash.
    let name = match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => name,
        _ => name,
    };
    Some(match name {
        "[unknown]" => format!("[{file}]"),
        name if file.starts_with("[kernel") => format!("k:{name}"),
        name => name.to_owned(),
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: &str = "worker \n\tffff tcp_sendmsg+0x12 ([kernel.kallsyms])\n\t55d0 a::b<c>::h0123456789abcdef+0x3 (/x/selvedge)\n\n\
        worker \n\t7f00 [unknown] (/tmp/perf-7.map)\n\t55d0 a::b<c>::h0123456789abcdef+0x9 (/x/selvedge)\n\n";

    #[test]
    fn samples_become_a_tree() {
        let all = Frame::read(SAMPLES);
        assert_eq!((all.samples, all.depth()), (2, 4));
        let called = &all.calls["worker"].calls["a::b<c>"];
        assert_eq!(called.samples, 2);
        assert_eq!(called.calls.keys().collect::<Vec<_>>(), ["[perf-7.map]", "k:tcp_sendmsg"]);
    }

    #[test]
    fn every_frame_is_drawn_as_wide_as_it_is_frequent() {
        let svg = Frame::read(SAMPLES).draw("a & b");
        assert!(svg.starts_with("<svg") && svg.contains("a &amp; b: 2 samples"), "{svg}");
        assert!(svg.contains("<title>a::b&lt;c&gt; (100.00%)</title>") && svg.contains("width=\"1600.0\""), "{svg}");
        assert!(svg.contains("<title>k:tcp_sendmsg (50.00%)</title>") && svg.contains("width=\"800.0\""), "{svg}");
    }
}
