//! The growth as a picture: three small diagrams beside each other, in plain SVG.

use std::path::Path;

use anyhow::{Context, Result};

use super::Point;

/// Of one diagram, without its margins.
const WIDTH: f64 = 260.0;
const HEIGHT: f64 = 180.0;
/// From one diagram to the next.
const STEP: f64 = 330.0;
/// Left of a diagram and above it.
const MARGIN: [f64; 2] = [40.0, 40.0];
/// Services below which figures stand too close together to be written.
const CROWDED: u32 = 10_000;

/// What one diagram shows.
struct Diagram {
    title: &'static str,
    lines: Vec<Line>,
}

struct Line {
    name: &'static str,
    colour: &'static str,
    /// Services, and the figure.
    points: Vec<(u32, f64)>,
}

/// Draws the growth into a file.
pub(super) fn write(path: &Path, growth: &[Point]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    std::fs::write(path, svg(growth)).with_context(|| format!("could not write {}", path.display()))
}

fn svg(growth: &[Point]) -> String {
    let diagrams = diagrams(growth);
    let (width, height) = (STEP * diagrams.len() as f64, HEIGHT + 90.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (place, diagram) in diagrams.iter().enumerate() {
        let left = MARGIN[0] + STEP * place as f64;
        svg += &format!("<g transform=\"translate({left},{})\">\n", MARGIN[1]);
        draw(&mut svg, diagram);
        svg += "</g>\n";
    }
    svg + "</svg>\n"
}

fn diagrams(growth: &[Point]) -> [Diagram; 3] {
    let line = |name, colour, of: fn(&Point) -> f64| {
        let points = growth.iter().map(|point| (point.services, of(point))).collect();
        Line { name, colour, points }
    };
    let blue = "#1f5fa8";
    [
        Diagram { title: "everything anew, ms", lines: vec![line("", blue, |point| point.full)] },
        Diagram { title: "one changed slice, us, median", lines: vec![line("", blue, |point| point.change)] },
        Diagram {
            title: "memory, bytes an endpoint",
            lines: vec![
                line("model", "#7a8ca0", |point| point.bytes[0]),
                line("model and desired", blue, |point| point.bytes.iter().sum()),
            ],
        },
    ]
}

/// From services and figures to places; the origin is at the upper left.
struct Scale {
    most: u32,
    top: f64,
}

impl Scale {
    fn of(lines: &[Line]) -> Self {
        let all = || lines.iter().flat_map(|line| &line.points);
        let most = all().map(|(services, _)| *services).max().unwrap_or(1);
        let highest = all().map(|(_, figure)| *figure).fold(f64::MIN_POSITIVE, f64::max);
        Self { most, top: highest * 1.15 }
    }

    fn x(&self, services: u32) -> f64 {
        f64::from(services) / f64::from(self.most) * WIDTH
    }

    fn y(&self, figure: f64) -> f64 {
        HEIGHT * (1.0 - figure / self.top)
    }
}

fn draw(svg: &mut String, Diagram { title, lines }: &Diagram) {
    let scale = Scale::of(lines);
    *svg += &format!("<path d=\"M0,0 V{HEIGHT} H{WIDTH}\" fill=\"none\" stroke=\"#999\"/>\n");
    text(svg, [0.0, -16.0], "start", title);
    text(svg, [-8.0, HEIGHT], "end", "0");
    text(svg, [WIDTH, HEIGHT + 32.0], "end", "Services with 5 endpoints");
    for (services, _) in lines.iter().take(1).flat_map(|line| &line.points).filter(|point| is_written(point))
    {
        text(svg, [scale.x(*services), HEIGHT + 16.0], "middle", &format!("{}k", services / 1000));
    }
    lines.iter().for_each(|line| draw_line(svg, line, &scale));
}

fn draw_line(svg: &mut String, Line { name, colour, points }: &Line, scale: &Scale) {
    let places: Vec<[f64; 2]> = points.iter().map(|(n, figure)| [scale.x(*n), scale.y(*figure)]).collect();
    let path: Vec<String> = places.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
    let path = path.join(" ");
    *svg +=
        &format!("<g fill=\"{colour}\"><polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\"/>\n");
    for ([x, y], point) in places.iter().zip(points) {
        *svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n");
        if is_written(point) {
            text(svg, [*x, y - 8.0], "middle", &short(point.1));
        }
    }
    if let Some([_, y]) = places.last() {
        text(svg, [WIDTH, y + 18.0], "end", name);
    }
    *svg += "</g>\n";
}

fn is_written((services, _): &(u32, f64)) -> bool {
    *services >= CROWDED
}

fn text(svg: &mut String, [x, y]: [f64; 2], anchor: &str, words: &str) {
    if !words.is_empty() {
        *svg += &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>\n");
    }
}

/// Three digits that count.
fn short(figure: f64) -> String {
    match figure {
        ..10.0 => format!("{figure:.2}"),
        ..100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_large_clusters_are_written_beside_their_points() {
        let point = |services: u32| Point {
            services,
            full: f64::from(services) / 100.0,
            change: 2.5,
            bytes: [100.0, 80.4],
        };
        let svg = svg(&[1_000, 10_000, 50_000].map(point));
        for text in [">10k<", ">50k<", ">500<", ">2.50<", ">180<", "everything anew, ms"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 12);
        assert!(!svg.contains(">10.0<") && svg.ends_with("</svg>\n"));
    }
}
