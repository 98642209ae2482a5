//! The figures Rollcall is meant to reach. They inform; a benchmark never fails for one.

use super::table::{Table, number};

/// A figure with a goal. All of them are at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Last page / first page, p50 at 1 connection, unfiltered.
    LastPage,
    /// The same with a filter that keeps half the rows.
    LastPageFiltered,
    /// Any page that nobody asked for lately / first page, p50 at 1 connection, of any order and filter.
    AnyPage,
    /// Rows that nodes send to the gateway for an offset page / 100 a node and three pages.
    RowsShipped,
    /// `?clientid=x` / `/clients/x`, p50 at 1 connection.
    ExactClientid,
    /// Processor time of one agent for a typed predicate, ms a million rows.
    TypedScan,
    /// Processor time of one agent for a substring that nobody has, ms a million rows.
    SubstringMiss,
    /// Resident bytes per client of an agent that serves a file.
    BytesPerClient,
    /// By how much the gateway's memory grows during an export, MiB.
    ExportGrowth,
    /// Requests a second of the same bytes served statically / ours: 100 rows at 32 connections.
    PageRate,
    /// p50 of 10,000 rows at 1 connection / of the same bytes served statically.
    TenThousandRows,
    /// Processor time of a Mosquitto broker a message, with the plugin / without.
    Plugin,
    /// Processor time of an agent with its embedded broker a message, with the counting front / without.
    Front,
}

impl Figure {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 13] = [
        Self::LastPage,
        Self::LastPageFiltered,
        Self::AnyPage,
        Self::RowsShipped,
        Self::ExactClientid,
        Self::TypedScan,
        Self::SubstringMiss,
        Self::BytesPerClient,
        Self::ExportGrowth,
        Self::PageRate,
        Self::TenThousandRows,
        Self::Plugin,
        Self::Front,
    ];

    /// What it is, for the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LastPage => "last page / first page, p50, unfiltered",
            Self::LastPageFiltered => "last page / first page, p50, filter keeps half",
            Self::AnyPage => "pages all over / first page, p50, any order and filter",
            Self::RowsShipped => "rows shipped for an offset page / (nodes x 100 + 3 x limit)",
            Self::ExactClientid => "?clientid=x / clients/x, p50",
            Self::TypedScan => "typed predicate, agent CPU ms per 1M rows",
            Self::SubstringMiss => "substring miss, agent CPU ms per 1M rows",
            Self::BytesPerClient => "agent memory, bytes per client, 20-byte ids",
            Self::ExportGrowth => "gateway memory growth during an export, MiB",
            Self::PageRate => "100 rows, 32 connections: req/s static / ours",
            Self::TenThousandRows => "10,000 rows, 1 connection: p50 ours / static",
            Self::Plugin => "mosquitto, CPU a message: with the plugin / without",
            Self::Front => "embedded, CPU a message: with the front / without",
        }
    }

    /// At the most this much.
    #[must_use]
    pub fn goal(self) -> f64 {
        match self {
            Self::LastPage | Self::LastPageFiltered | Self::AnyPage => 2.0,
            Self::RowsShipped => 1.0,
            Self::ExactClientid => 1.2,
            Self::TypedScan => 3.0,
            Self::SubstringMiss => 12.0,
            Self::BytesPerClient => 200.0,
            Self::ExportGrowth => 64.0,
            Self::PageRate => 5.0,
            Self::TenThousandRows => 4.0,
            Self::Plugin => 1.05,
            Self::Front => 1.1,
        }
    }
}

/// What was measured of one figure. A figure measured in several ways counts as its worst.
#[must_use]
pub fn worst(measured: &[(Figure, f64)], figure: Figure) -> Option<f64> {
    let values = measured.iter().filter(|(of, value)| *of == figure && value.is_finite());
    values.map(|(_, value)| *value).max_by(f64::total_cmp)
}

/// Figure, goal, measured, and whether it is met.
#[must_use]
pub fn table(measured: &[(Figure, f64)]) -> Table {
    let mut table = Table::new(&["figure", "goal", "measured", "met"]);
    for figure in Figure::ALL {
        let (value, met) = match worst(measured, figure) {
            Some(value) => (number(value), if value <= figure.goal() { "yes" } else { "no" }),
            None => ("not measured".to_owned(), "-"),
        };
        let goal = format!("<= {}", figure.goal());
        table.add([figure.name().to_owned(), goal, value, met.to_owned()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_met_by_its_worst_measurement() {
        let measured = [
            (Figure::LastPage, 1.5),
            (Figure::LastPage, f64::NAN),
            (Figure::ExactClientid, 1.0),
            (Figure::ExactClientid, 1.3),
        ];
        assert_eq!(worst(&measured, Figure::ExactClientid), Some(1.3));
        let text = table(&measured).to_string();
        let line = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().last().unwrap().to_owned()
        };
        assert_eq!(line(Figure::LastPage.name()), "yes");
        assert_eq!(line(Figure::ExactClientid.name()), "no");
        assert_eq!(line(Figure::PageRate.name()), "-");
        assert_eq!(text.lines().count(), 1 + Figure::ALL.len());
    }
}
