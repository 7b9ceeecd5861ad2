//! Draws bars as SVG: reads descriptions of pictures as JSON from standard
//! input, and writes their files. A picture has panels, each with a scale of
//! its own that begins at zero, and in each panel a bar for every server.

use std::{error::Error, io, path::PathBuf, process::ExitCode};

use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use serde::Deserialize;

const WIDTH: u32 = 1080;
const COLUMNS: usize = 2;
const TITLE: u32 = 40;
/// Of a panel: its own title, each bar, and what is below them.
const HEAD: u32 = 26;
const BAR: u32 = 19;
const FOOT: u32 = 14;
/// Room for the names.
const NAMES: u32 = 125;

#[derive(Deserialize)]
struct Picture {
    file: PathBuf,
    title: String,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
struct Panel {
    title: String,
    bars: Vec<Bar>,
}

#[derive(Deserialize)]
struct Bar {
    name: String,
    kind: Kind,
    median: f64,
    min: f64,
    max: f64,
    label: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Ours,
    Peer,
    Floor,
}

impl Kind {
    fn color(&self) -> RGBColor {
        match self {
            Kind::Ours => RGBColor(0xC2, 0x41, 0x0C),
            Kind::Peer => RGBColor(0x4C, 0x78, 0xA8),
            Kind::Floor => RGBColor(0xA8, 0xB3, 0xBD),
        }
    }
}

fn main() -> ExitCode {
    let result = serde_json::from_reader(io::stdin())
        .map_err(Box::<dyn Error>::from)
        .and_then(|pictures: Vec<Picture>| pictures.iter().try_for_each(draw));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("plot: {e}");
            ExitCode::FAILURE
        }
    }
}

fn draw(picture: &Picture) -> Result<(), Box<dyn Error>> {
    let columns = picture.panels.len().clamp(1, COLUMNS);
    let most = picture.panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(1);
    let rows = picture.panels.len().div_ceil(columns);
    let panel_height = HEAD + FOOT + BAR * most as u32;
    let size = (WIDTH / 2 * columns as u32, TITLE + panel_height * rows as u32);

    let root = SVGBackend::new(&picture.file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let area = root.titled(&picture.title, ("sans-serif", 20).into_font())?;
    let cells = area.split_evenly((rows, columns));
    for (panel, area) in picture.panels.iter().zip(&cells) {
        draw_panel(panel, area, most)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel<DB: DrawingBackend>(
    panel: &Panel,
    area: &DrawingArea<DB, plotters::coord::Shift>,
    most: usize,
) -> Result<(), Box<dyn Error>>
where
    DB::ErrorType: 'static,
{
    let greatest = panel.bars.iter().map(|bar| bar.max).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 15))
        .margin_right(10)
        .set_label_area_size(LabelAreaPosition::Left, NAMES)
        // Beyond the longest bar there is room for its label.
        .build_cartesian_2d(0.0..greatest * 1.3, most as f64..0.0)?;
    let text = |anchor| ("sans-serif", 12).into_font().color(&BLACK).pos(anchor);
    let left = text(Pos::new(HPos::Left, VPos::Center));
    let right = text(Pos::new(HPos::Right, VPos::Center));

    let bars = || panel.bars.iter().enumerate().map(|(row, bar)| (row as f64, bar));
    chart.draw_series(bars().map(|(row, bar)| {
        Rectangle::new([(0.0, row + 0.15), (bar.median, row + 0.85)], bar.kind.color().filled())
    }))?;
    chart.draw_series(bars().map(|(row, bar)| {
        PathElement::new(vec![(bar.min, row + 0.5), (bar.max, row + 0.5)], BLACK)
    }))?;
    chart.draw_series(bars().map(|(row, bar)| {
        let begin = (bar.max.max(bar.median), row + 0.5);
        EmptyElement::at(begin) + Text::new(bar.label.clone(), (6, 0), left.clone())
    }))?;
    chart.draw_series(bars().map(|(row, bar)| {
        EmptyElement::at((0.0, row + 0.5)) + Text::new(bar.name.clone(), (-6, 0), right.clone())
    }))?;
    chart.draw_series([PathElement::new(vec![(0.0, 0.0), (0.0, most as f64)], BLACK)])?;
    Ok(())
}
