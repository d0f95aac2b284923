//! Text that arrives line by line, as statements that end with a semicolon.
//!
//! Semicolons in strings, quoted names, dollar quotes and comments end nothing. A statement
//! knows the line it begins at, so that an error can be quoted in lines of the script.

use super::ClientError;

/// Longest statement collected. Far above what a server takes.
pub const MAX_STATEMENT_BYTES: usize = 16 << 20;

/// A whole statement, without its semicolon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub text: String,
    /// Line of the input that it begins at, from 1.
    pub first_line: u64,
}

/// What the next character stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Inside {
    Nothing,
    /// A quote of this kind; in `E'...'` a backslash protects the next character.
    Quotes {
        quote: char,
        has_escapes: bool,
    },
    /// `/* ... */`, which nests.
    Comment {
        depth: u32,
    },
    /// `$tag$ ... $tag$`; holds the whole mark.
    Dollars(String),
}

/// Collects lines until statements are whole.
pub struct Statements {
    pending: String,
    inside: Inside,
    /// `pending` has more than blanks and comments.
    has_words: bool,
    first_line: u64,
    line: u64,
}

impl Default for Statements {
    fn default() -> Statements {
        Statements {
            pending: String::new(),
            inside: Inside::Nothing,
            has_words: false,
            first_line: 1,
            line: 0,
        }
    }
}

impl Statements {
    /// Whether the next line begins a statement, so that it may be a command of the shell.
    pub fn is_between(&self) -> bool {
        !self.has_words && self.inside == Inside::Nothing
    }

    /// The line that was pushed last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Counts a line that is no SQL.
    pub fn skip_line(&mut self) {
        self.line += 1;
    }

    /// Takes one line; gives the statements that end in it.
    pub fn push(&mut self, line: &str) -> Result<Vec<Statement>, ClientError> {
        self.line += 1;
        if self.pending.len() + line.len() > MAX_STATEMENT_BYTES {
            return Err(ClientError::BadInput(format!(
                "line {}: the statement has no end within {} MiB",
                self.first_line,
                MAX_STATEMENT_BYTES >> 20
            )));
        }
        let mut found = Vec::new();
        let mut rest = line.trim_end_matches(['\r', '\n']);
        while let Some(next) = rest.chars().next() {
            let taken = self.step(rest, next);
            if taken == 0 {
                found.extend(self.end());
                rest = &rest[next.len_utf8()..];
                continue;
            }
            let (text, after) = rest.split_at(taken);
            self.add(text);
            rest = after;
        }
        if !self.pending.is_empty() {
            self.pending.push('\n');
        }
        Ok(found)
    }

    /// The last statement, if its semicolon is missing.
    pub fn finish(&mut self) -> Option<Statement> {
        self.inside = Inside::Nothing;
        self.end()
    }

    fn add(&mut self, text: &str) {
        if self.pending.is_empty() {
            if text.trim().is_empty() {
                return;
            }
            self.first_line = self.line;
        }
        self.pending.push_str(text);
    }

    fn end(&mut self) -> Option<Statement> {
        let text = std::mem::take(&mut self.pending);
        let had_words = std::mem::take(&mut self.has_words);
        had_words.then(|| Statement {
            text: text.trim_end().to_owned(),
            first_line: self.first_line,
        })
    }

    /// How many bytes of `rest` belong together and to the statement; 0 at a semicolon that
    /// ends it.
    fn step(&mut self, rest: &str, next: char) -> usize {
        match &mut self.inside {
            Inside::Nothing => self.step_outside(rest, next),
            Inside::Quotes { quote, has_escapes } => {
                if *has_escapes && next == '\\' {
                    let escaped = rest[1..].chars().next();
                    return 1 + escaped.map_or(0, char::len_utf8);
                }
                // A doubled quote ends the string and begins it again: the same.
                if next == *quote {
                    self.inside = Inside::Nothing;
                }
                next.len_utf8()
            }
            Inside::Comment { depth } => {
                if rest.starts_with("/*") {
                    *depth += 1;
                    return 2;
                }
                if rest.starts_with("*/") {
                    *depth -= 1;
                    if *depth == 0 {
                        self.inside = Inside::Nothing;
                    }
                    return 2;
                }
                next.len_utf8()
            }
            Inside::Dollars(mark) => {
                if rest.starts_with(mark.as_str()) {
                    let taken = mark.len();
                    self.inside = Inside::Nothing;
                    return taken;
                }
                next.len_utf8()
            }
        }
    }

    fn step_outside(&mut self, rest: &str, next: char) -> usize {
        match next {
            ';' => return 0,
            '-' if rest.starts_with("--") => return rest.len(),
            '/' if rest.starts_with("/*") => {
                self.inside = Inside::Comment { depth: 1 };
                return 2;
            }
            '\'' | '"' | '`' => {
                let has_escapes = next == '\'' && ends_with_escape_mark(&self.pending);
                self.inside = Inside::Quotes {
                    quote: next,
                    has_escapes,
                };
            }
            '$' => {
                if let Some(mark) = dollar_mark(rest) {
                    self.inside = Inside::Dollars(mark.to_owned());
                    self.has_words = true;
                    return mark.len();
                }
            }
            _ => {}
        }
        self.has_words |= !next.is_whitespace();
        next.len_utf8()
    }
}

/// The text up to a quote ends in the E of `E'...'`.
fn ends_with_escape_mark(before: &str) -> bool {
    let mut last = before.chars().rev();
    let is_mark = last.next().is_some_and(|c| c == 'e' || c == 'E');
    is_mark && !last.next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// `$$` or `$tag$` at the beginning of the text; `$1` and `$name` are parameters.
fn dollar_mark(rest: &str) -> Option<&str> {
    let tag_bytes = rest[1..].find('$')?;
    let tag = &rest[1..1 + tag_bytes];
    let is_tag = tag.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !tag.starts_with(|c: char| c.is_ascii_digit());
    is_tag.then(|| &rest[..tag_bytes + 2])
}

/// The statements of a whole text; the last may lack its semicolon.
pub fn split(text: &str) -> Result<Vec<Statement>, ClientError> {
    let mut statements = Statements::default();
    let mut found = Vec::new();
    for line in text.lines() {
        found.extend(statements.push(line)?);
    }
    found.extend(statements.finish());
    Ok(found)
}

/// Whether a typed text needs no further line: nothing is begun that has no end.
pub fn is_whole(text: &str) -> bool {
    let mut statements = Statements::default();
    let pushed = text.lines().all(|line| statements.push(line).is_ok());
    !pushed || statements.is_between()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<(u64, String)> {
        let found = split(script).unwrap();
        found
            .into_iter()
            .map(|statement| (statement.first_line, statement.text))
            .collect()
    }

    fn one(line: u64, text: &str) -> (u64, String) {
        (line, text.to_owned())
    }

    #[test]
    fn statements_end_with_semicolons_outside_quotes_and_comments() {
        assert_eq!(
            texts("SELECT ';' AS \"a;b\"; -- not; here\nSELECT /* ; /* ; */ ; */ 2;"),
            [
                one(1, "SELECT ';' AS \"a;b\""),
                one(1, "-- not; here\nSELECT /* ; /* ; */ ; */ 2"),
            ]
        );
        assert_eq!(
            texts("SELECT 'it''s;', E'a\\';', 'b\\'; SELECT $$;$$, $t$;$$;$t$, $1;"),
            [
                one(1, "SELECT 'it''s;', E'a\\';', 'b\\'"),
                one(1, "SELECT $$;$$, $t$;$$;$t$, $1"),
            ]
        );
        assert_eq!(
            texts("SELECT 'two\nlines;\n';"),
            [one(1, "SELECT 'two\nlines;\n'")]
        );
    }

    #[test]
    fn statements_know_their_first_line() {
        assert_eq!(
            texts("\n\nSELECT\n 1;\n  SELECT 2;SELECT 3\n"),
            [one(3, "SELECT\n 1"), one(5, "SELECT 2"), one(5, "SELECT 3"),]
        );
    }

    #[test]
    fn what_is_empty_is_no_statement() {
        assert_eq!(texts(";;\n -- nothing\n /* at all */ ;"), []);
        assert_eq!(texts(""), []);
    }

    #[test]
    fn text_is_whole_when_nothing_is_left_open() {
        for whole in ["", "SELECT 1;", "SELECT 1; -- done", "SELECT ';'\n;"] {
            assert!(is_whole(whole), "{whole}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT", "/* ;", "$$ ;"] {
            assert!(!is_whole(open), "{open}");
        }
    }

    #[test]
    fn a_statement_without_end_is_refused() {
        let mut statements = Statements::default();
        let line = "x".repeat(MAX_STATEMENT_BYTES / 4);
        let refused = (0..8).find_map(|_| statements.push(&line).err()).unwrap();
        assert!(refused.to_string().starts_with("line 1: "), "{refused}");
    }
}
