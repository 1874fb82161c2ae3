//! Cells in columns, for terminals.

/// Lines of cells, each column as wide as its widest cell; the last cell of a line takes what it needs.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        // An error at the end of a line is in nobody's column.
        let cells = rows.iter().filter(|row| row.len() == columns || column + 1 < row.len());
        cells.map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// As many cells in each line, in columns: the first to the left, numbers to the right.
pub fn aligned_right(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line.get(column).map_or(0, |cell| cell.chars().count()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            match column {
                0 => text.push_str(&format!("{cell:width$}")),
                _ => text.push_str(&format!("  {cell:>width$}")),
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_a_long_last_cell_widens_none() {
        let rows = [
            vec!["task", "loss", "time"],
            vec!["a", "1", "2 s"],
            vec!["longer", "cannot be read"],
        ];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        let expected = "task    loss  time\na       1     2 s\nlonger  cannot be read\n";
        assert_eq!(aligned(&rows), expected);
        assert_eq!(aligned(&[]), "");
    }
    #[test]
    fn numbers_stand_under_each_other_from_the_right() {
        let rows = [vec!["model", "perplexity"], vec!["a longer one", "9.5"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(
            aligned_right(&rows),
            "model         perplexity\na longer one         9.5\n"
        );
    }
}
