//! Where an error is, shown under the SQL.

use super::statements::Statement;
use super::{ClientError, Refusal};

/// Characters shown to each side of the place, if the line is longer.
const SHOWN_CHARS: usize = 60;

/// The line with a caret under one of its characters; `None` if there is no such line. Lines
/// and columns count from 1; `shown_line` is how the line is called.
///
/// ```text
/// LINE 3: SELECT nope FROM t
///                ^
/// ```
pub fn excerpt(sql: &str, line: u64, column: u64, shown_line: u64) -> Option<String> {
    let index = usize::try_from(line).ok()?.checked_sub(1)?;
    let text: Vec<char> = sql.lines().nth(index)?.chars().collect();
    let column = usize::try_from(column).ok()?.saturating_sub(1);
    let column = column.min(text.len());
    let from = column.saturating_sub(SHOWN_CHARS);
    let to = (column + SHOWN_CHARS).min(text.len());
    let before = if from > 0 { "..." } else { "" };
    let after = if to < text.len() { "..." } else { "" };
    let label = format!("LINE {shown_line}: {before}");
    let shown: String = text[from..to].iter().collect();
    // A tab stays a tab, so that the caret is under the same place whatever its width is.
    let pad = label.chars().chain(text[from..column].iter().copied());
    let pad: String = pad.map(|c| if c == '\t' { c } else { ' ' }).collect();
    Some(format!("{label}{shown}{after}\n{pad}^"))
}

/// The error with its place in the statement; in a script (`is_script`) with the line of it.
pub fn located(error: ClientError, statement: &Statement, is_script: bool) -> ClientError {
    let ClientError::Refused(refusal) = error else {
        return match (error, is_script) {
            (ClientError::UnexpectedAnswer { url, reason }, true) => {
                ClientError::UnexpectedAnswer {
                    url,
                    reason: format!("line {}: {reason}", statement.first_line),
                }
            }
            (error, _) => error,
        };
    };
    let inside = refusal.line.filter(|line| *line > 0);
    let line = statement.first_line + inside.unwrap_or(1) - 1;
    let excerpt = inside.and_then(|inside| {
        let shown_line = if is_script { line } else { inside };
        excerpt(&statement.text, inside, refusal.column?, shown_line)
    });
    let message = match is_script {
        true => format!("line {line}: {}", refusal.message),
        false => refusal.message,
    };
    ClientError::Refused(Refusal {
        message,
        excerpt,
        ..refusal
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caret_stands_under_the_place() {
        assert_eq!(
            excerpt("SELECT 1,\n\tnope", 2, 2, 7).unwrap(),
            "LINE 7: \tnope\n        \t^"
        );
        assert_eq!(
            excerpt("SELECT", 1, 7, 1).unwrap(),
            "LINE 1: SELECT\n              ^"
        );
        assert_eq!(excerpt("ä x", 1, 3, 1).unwrap(), "LINE 1: ä x\n          ^");
        assert_eq!(excerpt("SELECT", 2, 1, 2), None);
        assert_eq!(excerpt("SELECT", 0, 1, 0), None);
    }

    #[test]
    fn long_lines_are_shown_around_the_place() {
        let sql = format!("{}x{}", "a".repeat(500), "b".repeat(500));
        let shown = excerpt(&sql, 1, 501, 1).unwrap();
        let (line, caret) = shown.split_once('\n').unwrap();
        assert!(line.len() < 150 && line.ends_with("b..."), "{line}");
        assert_eq!(line.chars().nth(caret.len() - 1), Some('x'));
    }

    #[test]
    fn errors_in_scripts_name_the_line_of_the_script() {
        let statement = Statement {
            text: "SELECT\n nope".to_owned(),
            first_line: 11,
        };
        let refused = |line, column| {
            ClientError::Refused(Refusal {
                status: 400,
                code: "plan".to_owned(),
                message: "no column nope".to_owned(),
                line,
                column,
                excerpt: None,
            })
        };
        assert_eq!(
            located(refused(Some(2), Some(2)), &statement, true).to_string(),
            "line 12: no column nope [plan]\nLINE 12:  nope\n          ^"
        );
        assert_eq!(
            located(refused(None, None), &statement, true).to_string(),
            "line 11: no column nope [plan]"
        );
        assert_eq!(
            located(refused(Some(2), Some(2)), &statement, false).to_string(),
            "no column nope [plan]\nLINE 2:  nope\n         ^"
        );
    }
}
