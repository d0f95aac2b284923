//! The fenced blocks of a Markdown file, with what the comments before them say.
//!
//! ```text
//!     <!-- not run: builds -->        the block is shown, not run; a reason is needed
//!     <!-- run first: COMMAND -->     what a reader has done already
//!     <!-- fails: code -->            every statement of the block fails with this code
//!     <!-- output -->                 the block is what the one before it answers
//! ```

/// One fenced block.
pub struct Block {
    pub language: String,
    pub text: String,
    /// Line of the fence, from 1.
    pub line: usize,
    pub is_run: bool,
    pub is_output: bool,
    pub run_first: Vec<String>,
    pub fails: Option<String>,
}

/// The blocks in order; an error names the line.
pub fn blocks(markdown: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut next = empty();
    let mut open: Option<Block> = None;
    for (index, line) in markdown.lines().enumerate() {
        let line_number = index + 1;
        if let Some(block) = &mut open {
            if line.trim_end() == "```" {
                blocks.extend(open.take());
            } else {
                block.text.push_str(line);
                block.text.push('\n');
            }
        } else if let Some(language) = line.strip_prefix("```") {
            language.trim().clone_into(&mut next.language);
            next.line = line_number;
            open = Some(std::mem::replace(&mut next, empty()));
        } else if let Some(comment) = line.trim().strip_prefix("<!--") {
            let comment = comment.strip_suffix("-->").unwrap_or_default().trim();
            apply(comment, &mut next).map_err(|what| format!("{line_number}: {what}"))?;
        } else if !line.trim().is_empty() {
            next = empty();
        }
    }
    match open {
        Some(block) => Err(format!("{}: the block has no end", block.line)),
        None => Ok(blocks),
    }
}

fn empty() -> Block {
    Block {
        language: String::new(),
        text: String::new(),
        line: 0,
        is_run: true,
        is_output: false,
        run_first: Vec::new(),
        fails: None,
    }
}

fn apply(comment: &str, block: &mut Block) -> Result<(), String> {
    match comment.split_once(": ") {
        Some(("not run", _)) => block.is_run = false,
        Some(("run first", command)) => block.run_first.push(command.to_owned()),
        Some(("fails", code)) => block.fails = Some(code.to_owned()),
        None if comment == "output" => block.is_output = true,
        _ => {
            return Err(format!(
                "the comment {comment:?} says nothing that is known"
            ));
        }
    }
    Ok(())
}

/// Targets of the links outside of code, each with its line.
pub fn links(markdown: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut is_code = false;
    for (index, line) in markdown.lines().enumerate() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        if is_code {
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push((index + 1, target.to_owned()));
            }
        }
    }
    links
}

/// The anchors of the headings, made as code hosts make them.
pub fn anchors(markdown: &str) -> Vec<String> {
    let mut is_code = false;
    let headings = markdown.lines().filter_map(|line| {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        let heading = line.trim_start_matches('#');
        (!is_code && line.starts_with('#')).then_some(heading.trim())
    });
    headings
        .map(|heading| {
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}
