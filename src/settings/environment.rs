//! Variables that look like settings and are none: mostly typing errors, so they are not
//! passed over in silence.

use std::collections::BTreeSet;

use super::nearest;

const PREFIX: &str = "LAMBDALAKE_";

/// Beginnings of variables that tests and the build machine set, not operators.
const DEVELOPMENT: [&str; 2] = ["LAMBDALAKE_TEST_", "LAMBDALAKE_CI_"];

/// One message for each variable with our prefix that no flag of `command` reads. Values are
/// left out: they may be secret.
pub fn unknown_variables(
    command: &clap::Command,
    names: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let mut known = BTreeSet::new();
    collect(command, &mut known);
    names
        .into_iter()
        .filter(|name| name.starts_with(PREFIX) && !known.contains(name))
        .filter(|name| DEVELOPMENT.iter().all(|start| !name.starts_with(start)))
        .map(|name| {
            let key = name[PREFIX.len()..].to_lowercase();
            let hint = nearest(&key).map_or_else(String::new, |setting| {
                format!("; did you mean `{PREFIX}{}`?", setting.to_uppercase())
            });
            format!("unknown setting `{name}` in the environment has no effect{hint}")
        })
        .collect()
}

fn collect(command: &clap::Command, known: &mut BTreeSet<String>) {
    let named = command.get_arguments().filter_map(clap::Arg::get_env);
    known.extend(named.map(|name| name.to_string_lossy().into_owned()));
    for command in command.get_subcommands() {
        collect(command, known);
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn a_misspelt_variable_is_named_with_its_nearest_neighbour() {
        let names = [
            "LAMBDALAKE_FLUSH_BYTE",
            "LAMBDALAKE_FLUSH_BYTES",
            "LAMBDALAKE_URL",
            "LAMBDALAKE_CONFIG",
            "LAMBDALAKE_TEST_DATA",
            "LAMBDALAKE_QQQ",
            "PATH",
        ];
        let command = crate::cli::args::Cli::command();
        let found = unknown_variables(&command, names.map(str::to_owned));
        assert_eq!(
            found,
            [
                "unknown setting `LAMBDALAKE_FLUSH_BYTE` in the environment has no effect; did \
                 you mean `LAMBDALAKE_FLUSH_BYTES`?",
                "unknown setting `LAMBDALAKE_QQQ` in the environment has no effect",
            ]
        );
    }
}
