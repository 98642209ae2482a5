//! Rows in columns.
//!
//! On a terminal a table is as wide as that: the widest columns of texts are cut first, and what does not fit even then is
//! left out from the right, and counted. Where there is none, nothing is cut: what reads it may want all.

use serde_json::Value;

use super::text::{cut, shown, width};

/// The space between two columns.
const GAP: usize = 2;

/// What a column of texts is not cut below.
const NARROWEST: usize = 8;

/// A colour that says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tint {
    Good,
    Bad,
    Odd,
    Title,
}

impl Tint {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "31",
            Self::Odd => "33",
            Self::Title => "1",
        }
    }
}

/// A text in a colour, if colours are wanted.
pub(crate) fn tinted(text: &str, tint: Option<Tint>, colours: bool) -> String {
    match tint {
        Some(tint) if colours => format!("\x1b[{}m{text}\x1b[0m", tint.code()),
        _ => text.to_owned(),
    }
}

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    is_number: bool,
    tint: Option<Tint>,
}

impl Cell {
    /// The member of a row; one that is not there or null is a dash, as no figure is.
    pub(crate) fn of(field: &str, value: Option<&Value>) -> Self {
        let (text, is_number) = match value {
            None | Some(Value::Null) => ("-".to_owned(), true),
            Some(Value::String(text)) => (shown(text).into_owned(), false),
            Some(value @ Value::Number(_)) => (value.to_string(), true),
            Some(value) => (shown(&value.to_string()).into_owned(), false),
        };
        let tint = match (field, text.as_str()) {
            ("state" | "outcome", "connected" | "kicked") | ("connected", "true") => Some(Tint::Good),
            ("state", "draining" | "unknown") | ("connected", "false") => Some(Tint::Odd),
            ("outcome", "gone" | "moved" | "not_found") => Some(Tint::Odd),
            ("state", _) | ("outcome", _) => Some(Tint::Bad),
            _ => None,
        };
        Self { text, is_number, tint }
    }
}

/// How a table looks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    /// The terminal's width, if there is one.
    pub(crate) columns: Option<usize>,
    pub(crate) colours: bool,
    pub(crate) no_headers: bool,
}

/// The columns of a table, whose widths are found once.
#[derive(Debug)]
pub(crate) struct Columns {
    columns: Vec<Column>,
    look: Look,
    /// Columns that have no room.
    pub(crate) left_out: usize,
}

#[derive(Debug)]
struct Column {
    title: String,
    width: usize,
    is_number: bool,
}

impl Columns {
    /// Wide enough for these rows, if that is possible.
    pub(crate) fn fit(titles: &[String], rows: &[Vec<Cell>], look: Look) -> Self {
        let mut columns: Vec<Column> = titles
            .iter()
            .enumerate()
            .map(|(at, title)| {
                let cells = || rows.iter().filter_map(|row| row.get(at));
                let title = shown(title).to_uppercase();
                let head = if look.no_headers { 0 } else { width(&title) };
                let width = cells().map(|cell| width(&cell.text)).max().unwrap_or(0).max(head);
                Column { title, width, is_number: !rows.is_empty() && cells().all(|cell| cell.is_number) }
            })
            .collect();
        let mut left_out = 0;
        if let Some(most) = look.columns {
            narrow(&mut columns, most);
            while columns.len() > 1 && total(&columns) > most {
                columns.pop();
                left_out += 1;
            }
            // What was left out may have made room again.
            if left_out > 0 {
                widen(&mut columns, rows, most);
            }
            if let [only] = columns.as_mut_slice() {
                only.width = only.width.min(most.max(1));
            }
        }
        Self { columns, look, left_out }
    }

    /// The line of titles, unless there is to be none.
    pub(crate) fn header(&self, out: &mut String) {
        if self.look.no_headers {
            return;
        }
        let titles = self.columns.iter().map(|column| (column.title.as_str(), Some(Tint::Title)));
        self.line(titles, out);
    }

    /// A line of each row.
    pub(crate) fn rows(&self, rows: &[Vec<Cell>], out: &mut String) {
        for row in rows {
            self.line(row.iter().map(|cell| (cell.text.as_str(), cell.tint)), out);
        }
    }

    fn line<'a>(&self, cells: impl Iterator<Item = (&'a str, Option<Tint>)>, out: &mut String) {
        let mut behind = 0;
        for (at, (column, (text, tint))) in self.columns.iter().zip(cells).enumerate() {
            let text = if self.look.columns.is_some() { cut(text, column.width) } else { text.into() };
            let missing = column.width.saturating_sub(width(&text));
            let before = if column.is_number { missing } else { 0 };
            let gap = if at == 0 { 0 } else { GAP };
            // Nothing stands behind the last text of a line.
            out.extend(std::iter::repeat_n(' ', behind + gap + before));
            out.push_str(&tinted(&text, tint, self.look.colours));
            behind = missing - before;
        }
        out.push('\n');
    }
}

fn total(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width).sum::<usize>() + GAP * columns.len().saturating_sub(1)
}

/// Cuts the widest texts until all fits, or no text can be cut any more.
fn narrow(columns: &mut [Column], most: usize) {
    while total(columns) > most {
        let widest = columns
            .iter_mut()
            .filter(|column| !column.is_number && column.width > NARROWEST)
            .max_by_key(|column| column.width);
        match widest {
            Some(column) => column.width -= 1,
            None => return,
        }
    }
}

/// Gives texts what room there is.
fn widen(columns: &mut [Column], rows: &[Vec<Cell>], most: usize) {
    let mut room = most.saturating_sub(total(columns));
    for (at, column) in columns.iter_mut().enumerate() {
        let wanted =
            rows.iter().filter_map(|row| row.get(at)).map(|cell| width(&cell.text)).max().unwrap_or(0);
        let more = wanted.saturating_sub(column.width).min(room);
        column.width += more;
        room -= more;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(rows: &[&[Value]], look: Look) -> (String, usize) {
        let titles: Vec<String> = ["clientid", "node", "mqueue_len"].map(str::to_owned).into();
        let rows: Vec<Vec<Cell>> = rows
            .iter()
            .map(|row| row.iter().zip(&titles).map(|(value, title)| Cell::of(title, Some(value))).collect())
            .collect();
        let columns = Columns::fit(&titles, &rows, look);
        let mut out = String::new();
        columns.header(&mut out);
        columns.rows(&rows, &mut out);
        (out, columns.left_out)
    }

    #[test]
    fn texts_stand_left_and_figures_right() {
        let rows: [&[Value]; 2] =
            [&[json!("meter"), json!("a@h"), json!(7)], &[json!("日本"), json!("b"), json!(null)]];
        assert_eq!(
            render(&rows, Look::default()).0,
            "CLIENTID  NODE  MQUEUE_LEN\n\
             meter     a@h            7\n\
             日本      b              -\n"
        );
        let look = Look { no_headers: true, ..Look::default() };
        assert_eq!(render(&rows, look).0, "meter  a@h  7\n日本   b    -\n");
        let look = Look { colours: true, ..Look::default() };
        assert!(render(&rows, look).0.starts_with("\x1b[1mCLIENTID\x1b[0m  "));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let long = "x".repeat(50);
        let rows: [&[Value]; 1] = [&[json!(long), json!(long), json!(12_345)]];
        for columns in 1..130 {
            let (text, left_out) = render(&rows, Look { columns: Some(columns), ..Look::default() });
            assert!(text.lines().all(|line| width(line) <= columns), "{columns}: {text}");
            assert_eq!(left_out == 0, columns >= 8 + 2 + 8 + 2 + 10, "{columns}: {text}");
            assert_eq!(
                text.matches(&long).count() == 2,
                columns >= 50 + 2 + 50 + 2 + 10,
                "{columns}: {text}"
            );
        }
    }

    #[test]
    fn what_is_no_terminal_gets_all() {
        let long = "x".repeat(500);
        let rows: [&[Value]; 1] = [&[json!(long), json!("a\u{1b}[2J"), json!(1)]];
        let text = render(&rows, Look::default()).0;
        assert!(text.contains(&long) && text.contains("a\\u{1b}[2J"));
    }
}
