//! The bar chart: a panel for each measure.

use std::error::Error;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::{Figure, Figures, Measure};
use crate::subject::{NAMES, OFFICIAL};
use crate::table::{Show, memory, micros, time};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 840;
const COLUMNS: usize = 2;
const PANEL_HEIGHT: i32 = 142;
/// The left edge of the bars in a panel, their greatest length, and their distance.
const BARS: i32 = 138;
const LONGEST: i32 = 190;
const PITCH: i32 = 24;
const THICKNESS: i32 = 15;

const INK: RGBColor = RGBColor(31, 35, 40);
const FAINT: RGBColor = RGBColor(89, 99, 110);
const THEIRS: RGBColor = RGBColor(175, 184, 193);
const OURS: RGBColor = RGBColor(0, 132, 107);

const PANELS: [(&str, Measure, Show); 6] = [
    (
        "Sockets, ten callers, three servers",
        Measure::SocketsOfTen,
        count,
    ),
    (
        "A wrong password is reported after",
        Measure::WrongPassword,
        time,
    ),
    (
        "Sockets opened with a wrong password",
        Measure::WrongPasswordSockets,
        count,
    ),
    (
        "Memory of the pool and ten connections",
        Measure::Memory,
        memory,
    ),
    ("Client CPU of a ping", Measure::Ping, micros),
    (
        "Crates in the tree, with TLS and DNS",
        Measure::CratesWithTls,
        count,
    ),
];

fn count(figure: &Figure) -> String {
    format!("{:.0}", figure.value)
}

/// Draws the panels whose measures have figures.
pub(crate) fn draw(figures: &Figures, path: &Path) -> Result<(), Box<dyn Error>> {
    let known = |measure| {
        NAMES
            .iter()
            .any(|name| figures.get(name, measure).is_some())
    };
    let panels: Vec<_> = PANELS.iter().filter(|panel| known(panel.1)).collect();
    let rows = i32::try_from(panels.len().div_ceil(COLUMNS))?;
    let size = (
        WIDTH.unsigned_abs(),
        (rows * PANEL_HEIGHT + 8).unsigned_abs(),
    );
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (index, (title, measure, show)) in panels.into_iter().enumerate() {
        let column = i32::try_from(index % COLUMNS)?;
        let row = i32::try_from(index / COLUMNS)?;
        let corner = (16 + column * WIDTH / 2, 12 + row * PANEL_HEIGHT);
        let bars = NAMES.map(|name| (name, figures.get(name, *measure)));
        panel(&area, corner, title, &bars, *show)?;
    }
    area.present()?;
    Ok(())
}

fn panel(
    area: &Area<'_>,
    (left, top): (i32, i32),
    title: &str,
    bars: &[(&str, Option<&Figure>)],
    show: Show,
) -> Result<(), Box<dyn Error>> {
    let write = |text: String, at: (i32, i32), size: f64, color: &RGBColor, side: HPos| {
        let style = ("sans-serif", size).into_font().color(color);
        area.draw(&Text::new(
            text,
            at,
            style.pos(Pos::new(side, VPos::Center)),
        ))
    };
    write(title.to_owned(), (left, top + 10), 18.0, &INK, HPos::Left)?;
    let values = bars
        .iter()
        .filter_map(|(_, figure)| figure.map(|figure| figure.value));
    let largest = values.fold(f64::MIN_POSITIVE, f64::max);
    let mut y = top + 34;
    for (name, figure) in bars {
        let start = left + BARS;
        let label = match *name {
            OFFICIAL => "official driver",
            other => other,
        };
        write(label.to_owned(), (start - 8, y), 16.0, &FAINT, HPos::Right)?;
        if let Some(figure) = figure {
            // A small figure is still a line.
            let length = (figure.value / largest * f64::from(LONGEST))
                .round()
                .max(1.0) as i32;
            let color = if name.starts_with("mongo-") {
                OURS
            } else {
                THEIRS
            };
            let corners = [
                (start, y - THICKNESS / 2),
                (start + length, y + THICKNESS / 2 + 1),
            ];
            area.draw(&Rectangle::new(corners, color.filled()))?;
            write(
                show(figure),
                (start + length + 6, y),
                16.0,
                &INK,
                HPos::Left,
            )?;
        }
        y += PITCH;
    }
    Ok(())
}
