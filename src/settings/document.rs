//! The settings as documents: the table of docs/settings.md and an example file.

use super::{SETTINGS, Setting};

const HEAD: &str = "\
# Settings

A flag of `lambdalake serve` wins over its environment variable, the variable over the TOML
file (`--config`), the file over the default. `flush_bytes` in the file is `--flush-bytes` as a
flag and `LAMBDALAKE_FLUSH_BYTES` in the environment. An unknown key in the file is an error
that names the nearest setting; an unknown `LAMBDALAKE_` variable is a warning in the log that
does. Sizes are written like `64MiB`, durations like `10s`.

`lambdalake settings --toml` prints a file with every setting and its default, to begin from.
This page is generated: `lambdalake settings --markdown > docs/settings.md`.

| setting | default | unit | what it does |
|---|---|---|---|
";

/// The page docs/settings.md.
pub fn markdown() -> String {
    SETTINGS
        .iter()
        .fold(HEAD.to_owned(), |page, setting| page + &row(setting) + "\n")
}

/// One row of a table of settings.
pub fn row(setting: &Setting) -> String {
    let default = match setting.default {
        "" => "none".to_owned(),
        default => format!("`{default}`"),
    };
    let Setting {
        name, unit, about, ..
    } = setting;
    format!(
        "| `{name}` | {default} | {} | {about} |",
        unit.to_lowercase()
    )
}

/// A settings file in which every setting stands commented out with its default.
pub fn toml() -> String {
    let head = "# Settings of lambdalake serve. What is commented out shows its default.\n";
    SETTINGS.iter().fold(head.to_owned(), |file, setting| {
        let Setting { name, about, .. } = setting;
        let value = toml_value(setting.default);
        file + &format!("\n# {about}\n# {name} = {value}\n")
    })
}

/// Numbers and booleans as such, everything else as a string.
fn toml_value(text: &str) -> String {
    match text.parse::<toml::Value>() {
        Ok(value @ (toml::Value::Integer(_) | toml::Value::Boolean(_))) => value.to_string(),
        _ => toml::Value::from(text).to_string(),
    }
}
