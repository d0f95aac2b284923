use clap::{Args, Parser};

use super::*;

fn resolve(flags: SettingsFlags, toml: Option<&str>) -> Result<Settings, SettingsError> {
    Settings::resolve(flags, toml).map_err(|error| error.downcast().expect("SettingsError"))
}

fn resolve_file(toml: &str) -> Result<Settings, SettingsError> {
    resolve(SettingsFlags::default(), Some(toml))
}

#[test]
fn defaults_stand_when_nothing_is_given() {
    let settings = resolve(SettingsFlags::default(), None).unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("./lambdalake-data"));
    assert_eq!(settings.listen, "127.0.0.1:7700".parse().unwrap());
    assert_eq!(settings.init, None);
    assert!(settings.auto_create_streams);
    assert_eq!(settings.flush_bytes, 64 << 20);
    assert_eq!(settings.flush_age, Duration::from_secs(60));
    assert_eq!(settings.max_result_rows, 10_000_000);
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = "flush_bytes = \"1MiB\"\nflush_rows = 7\nauto_create_streams = false";
    let flags = SettingsFlags {
        flush_bytes: Some("2MiB".to_owned()),
        flush_rows: Some(String::new()),
        ..SettingsFlags::default()
    };
    let settings = resolve(flags, Some(file)).unwrap();
    assert_eq!(settings.flush_bytes, 2 << 20, "flag");
    assert_eq!(settings.flush_rows, 7, "file, because the flag is empty");
    assert!(!settings.auto_create_streams, "file");
    assert_eq!(settings.query_timeout, Duration::from_secs(60), "default");
}

#[test]
fn an_unknown_key_is_named_with_its_nearest_neighbour() {
    let error = resolve_file("flush_byte = 1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown setting `flush_byte` in the settings file; did you mean `flush_bytes`?"
    );
    let error = resolve_file("qqq = 1").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown setting `qqq` in the settings file"
    );
}

#[test]
fn a_bad_value_names_the_setting_and_its_source() {
    let error = resolve_file("flush_bytes = \"64 parsecs\"").unwrap_err();
    assert_eq!(
        error.to_string(),
        "setting `flush_bytes` from the settings file: `64 parsecs` is not a size; write \
         bytes or a unit, for example 64MiB"
    );
    for bad in [
        "flush_bytes = 0",
        "flush_bytes = -1",
        "flush_bytes = [1]",
        "flush_age = \"soon\"",
        "flush_age = \"0s\"",
        "default_shards = 4294967296",
        "max_concurrent_queries = 0",
        "auto_create_streams = \"maybe\"",
        "listen = \"here\"",
    ] {
        assert!(
            matches!(resolve_file(bad), Err(SettingsError::BadValue { .. })),
            "{bad}"
        );
    }
    assert!(matches!(
        resolve_file("flush_bytes ="),
        Err(SettingsError::NotToml(_))
    ));
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    for bad in [
        "max_line_bytes = \"2MiB\"\nmax_body_bytes = \"1MiB\"",
        "flush_bytes = \"2MiB\"\ntail_limit_bytes = \"1MiB\"",
    ] {
        assert!(
            matches!(resolve_file(bad), Err(SettingsError::Contradiction(_))),
            "{bad}"
        );
    }
}

#[test]
fn sizes_and_counts_have_readable_spellings() {
    assert_eq!(size::<u64>("65536"), Ok(65536));
    assert_eq!(size::<u64>("64KiB"), Ok(65536));
    assert_eq!(size::<u64>("64 MiB"), Ok(64 << 20));
    assert_eq!(size::<u64>("1GB"), Ok(1_000_000_000));
    assert_eq!(count::<u64>("500_000"), Ok(500_000));
}

#[test]
fn every_setting_is_a_flag_with_its_variable() {
    let command = SettingsFlags::augment_args(clap::Command::new("test"));
    for setting in SETTINGS {
        let argument = command
            .get_arguments()
            .find(|argument| argument.get_id() == setting.name)
            .expect(setting.name);
        assert_eq!(
            argument.get_long(),
            Some(setting.name.replace('_', "-").as_str())
        );
        assert_eq!(
            setting.env,
            format!("LAMBDALAKE_{}", setting.name.to_uppercase())
        );
        assert_eq!(
            argument.get_env().and_then(|env| env.to_str()),
            Some(setting.env)
        );
    }
}

#[test]
fn flags_reach_the_settings() {
    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: SettingsFlags,
    }
    let command = Command::parse_from(["test", "--default-shards", "4", "--init", "a.sql"]);
    let settings = resolve(command.flags, None).unwrap();
    assert_eq!(settings.default_shards, 4);
    assert_eq!(settings.init, Some(PathBuf::from("a.sql")));
}

#[test]
fn the_page_of_settings_is_what_the_generator_makes() {
    let page = include_str!("../../docs/settings.md");
    assert!(
        page == document::markdown(),
        "docs/settings.md is out of date; make it anew with\n    \
         cargo run -- settings --markdown > docs/settings.md"
    );
}

#[test]
fn the_readme_shows_settings_as_they_are() {
    let readme = include_str!("../../README.md");
    assert!(readme.contains("(docs/settings.md)"), "no link to the page");
    let rows = SETTINGS
        .iter()
        .filter(|setting| readme.contains(&format!("| `{}` | ", setting.name)));
    let mut shown = 0;
    for setting in rows {
        let row = document::row(setting);
        assert!(readme.contains(&row), "README.md should say:\n{row}");
        shown += 1;
    }
    assert!(shown >= 10, "README.md shows only {shown} settings");
}

#[test]
fn the_example_file_is_valid_and_changes_nothing() {
    let commented = document::toml();
    let defaults = resolve(SettingsFlags::default(), None).unwrap();
    assert_eq!(resolve_file(&commented), Ok(defaults.clone()));
    let uncommented: String = commented
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| {
            SETTINGS
                .iter()
                .any(|s| line.starts_with(&format!("{} = ", s.name)))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(uncommented.lines().count(), SETTINGS.len());
    assert_eq!(resolve_file(&uncommented), Ok(defaults));
}

#[test]
fn described_values_can_be_read_again() {
    let file =
        "flush_bytes = 1025\nquery_timeout = \"90s\"\ninit = \"a.sql\"\nlog_format = \"json\"";
    let settings = resolve_file(file).unwrap();
    let described = settings.describe();
    assert_eq!(described.len(), SETTINGS.len());
    let value = |name: &str| {
        let found = described.iter().find(|setting| setting.name == name);
        found.expect(name).value.as_str()
    };
    assert_eq!(value("flush_bytes"), "1025");
    assert_eq!(value("tail_limit_bytes"), "384MiB");
    assert_eq!(value("query_timeout"), "1m 30s");
    assert_eq!(value("init"), "a.sql");
    assert_eq!(value("log_format"), "json");
    let again: String = described
        .iter()
        .map(|setting| format!("{} = {:?}\n", setting.name, setting.value))
        .collect();
    assert_eq!(resolve_file(&again), Ok(settings));
}
