//! Columns of text: the first to the left, the others to the right.

use std::fmt;

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    lines: Vec<Vec<String>>,
    columns: usize,
}

impl Table {
    /// With these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let columns = headings.len();
        Self { lines: vec![headings.iter().map(ToString::to_string).collect()], columns }
    }

    /// Adds a line; cells that it lacks are empty.
    pub fn add(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns, String::new());
        self.lines.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.lines.iter().map(|line| line[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.columns).map(width).collect();
        for line in &self.lines {
            let mut text = String::new();
            for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
                text += &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// A figure in as many digits as it is worth; `-` for none.
#[must_use]
pub fn number(figure: f64) -> String {
    match figure.abs() {
        _ if !figure.is_finite() => "-".to_owned(),
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["", "p50", "n"]);
        table.add(["zähler".to_owned(), "1".to_owned(), "12345".to_owned()]);
        table.add(["x".to_owned()]);
        assert_eq!(table.to_string(), "        p50      n\nzähler    1  12345\nx\n");
    }

    #[test]
    fn figures_have_about_three_digits() {
        let shown = [0.0, 0.123, 9.996, 12.34, 1234.5, f64::NAN].map(number);
        assert_eq!(shown, ["0.000", "0.123", "10.00", "12.3", "1234", "-"]);
    }
}
