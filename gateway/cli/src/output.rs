//! How answers are written: rows on stdout, everything that is said about them on stderr.

pub(crate) mod csv;
pub(crate) mod screen;
pub(crate) mod table;
pub(crate) mod text;

use std::io::{self, IsTerminal as _, Write as _};

use terminal_size::{Height, Width, terminal_size_of};

use crate::api::answer::{Nodes, Object};
use crate::arguments::{Format, Output};
use table::{Cell, Columns, Look, Tint, tinted};
use text::{escaped_json, json, shown};

/// Writes to stdout what is one piece for its reader.
///
/// # Errors
/// It cannot be written; a broken pipe if its reader has left.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Says something on stderr. That nobody hears it is no reason to end.
pub(crate) fn say(text: &str) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{text}");
}

/// Says on stderr what is wrong without ending anything.
pub(crate) fn warn(text: &str) {
    let colours = is_colourful(io::stderr().is_terminal());
    say(&format!("{} {text}", tinted("warning:", Some(Tint::Odd), colours)));
}

/// Whether stdout is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether what goes there may be in colours.
pub(crate) fn is_colourful(is_terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    is_terminal && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns and lines of the terminal that stdout is.
pub(crate) fn size() -> Option<(usize, usize)> {
    let (Width(columns), Height(lines)) = terminal_size_of(io::stdout())?;
    // One that does not know its size says 0.
    (columns > 0 && lines > 0).then_some((columns.into(), lines.into()))
}

/// How a table looks on this stdout.
pub(crate) fn look(no_headers: bool) -> Look {
    let is_terminal = is_terminal();
    Look {
        columns: if is_terminal { size().map(|(columns, _)| columns) } else { None },
        colours: is_colourful(is_terminal),
        no_headers,
    }
}

/// Which nodes are missing, if any are.
pub(crate) fn missing(nodes: &Nodes) -> Option<String> {
    if nodes.failed.is_empty() {
        return None;
    }
    let failed: Vec<String> = nodes
        .failed
        .iter()
        .map(|failed| format!("{}: {}", shown(&failed.node), shown(&failed.reason)))
        .collect();
    Some(format!("{} of {} nodes answered; {}", nodes.answered, nodes.total, failed.join(", ")))
}

/// Which columns rows of a kind have, unless others are named.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) table: &'static [&'static str],
    pub(crate) wide: &'static [&'static str],
    pub(crate) csv: &'static [&'static str],
}

impl View {
    /// The columns of a format; none if it has no columns.
    pub(crate) fn fields(&self, format: Format) -> Vec<String> {
        let fields = match format {
            Format::Table => self.table,
            Format::Wide => self.wide,
            Format::Csv => self.csv,
            Format::Json | Format::Ndjson => &[],
        };
        fields.iter().map(|&field| field.to_owned()).collect()
    }
}

/// Writes rows as they come, page by page.
#[derive(Debug)]
pub(crate) struct Rows {
    format: Format,
    fields: Vec<String>,
    look: Look,
    is_terminal: bool,
    columns: Option<Columns>,
    has_begun: bool,
}

impl Rows {
    /// Rows with these columns; JSON has all members, whatever they are.
    pub(crate) fn new(output: &Output, fields: Vec<String>) -> Self {
        let look = look(output.no_headers);
        let is_terminal = is_terminal();
        Self { format: output.format, fields, look, is_terminal, columns: None, has_begun: false }
    }

    /// Writes further rows.
    ///
    /// # Errors
    /// As [`print()`].
    pub(crate) fn page(&mut self, rows: &[Object]) -> io::Result<()> {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let mut out = String::new();
        match self.format {
            Format::Table | Format::Wide => self.table(rows, &mut out),
            Format::Ndjson => rows.iter().for_each(|row| out.extend([json(row).as_str(), "\n"])),
            Format::Json => {
                for (at, row) in rows.iter().enumerate() {
                    let before = if is_first && at == 0 { "" } else { "," };
                    out.extend([before, "\n", json(row).as_str()]);
                }
                if is_first {
                    out.insert_str(0, "{\"data\":[");
                }
            }
            Format::Csv => {
                if is_first {
                    csv::header(&self.fields, &mut out);
                }
                rows.iter().for_each(|row| csv::row(&self.fields, row, &mut out));
                if self.is_terminal {
                    out = escaped_json(&out).into_owned();
                }
            }
        }
        print(&out)
    }

    /// Writes what comes last.
    ///
    /// # Errors
    /// As [`print()`].
    pub(crate) fn end(&mut self, meta: &Object) -> io::Result<()> {
        if !self.has_begun {
            self.page(&[])?;
        }
        match self.format {
            Format::Json => print(&format!("\n],\"meta\":{}}}\n", json(meta))),
            Format::Table | Format::Wide => {
                let left_out = self.columns.as_ref().map_or(0, |columns| columns.left_out);
                if left_out > 0 {
                    say(&format!(
                        "{left_out} columns have no room on this terminal: see --fields and -o json"
                    ));
                }
                Ok(())
            }
            Format::Ndjson | Format::Csv => Ok(()),
        }
    }

    fn table(&mut self, rows: &[Object], out: &mut String) {
        if rows.is_empty() {
            return;
        }
        let cells = cells(&self.fields, rows);
        let columns = match self.columns.take() {
            Some(columns) => columns,
            None => {
                let columns = Columns::fit(&self.fields, &cells, self.look);
                columns.header(out);
                columns
            }
        };
        columns.rows(&cells, out);
        self.columns = Some(columns);
    }
}

/// The rows' values in columns.
pub(crate) fn cells(fields: &[String], rows: &[Object]) -> Vec<Vec<Cell>> {
    rows.iter().map(|row| fields.iter().map(|field| Cell::of(field, row.get(field))).collect()).collect()
}
