//! `lambdalake verify --view`: has a running server compare stored states with a recompute.

use indicatif::HumanCount;
use serde_json::{Value, json};

use super::args::{VerifyArgs, VerifyOutput};
use super::client::Client;
use super::describe::catalog;
use super::follow::{Follower, Run};
use super::recompute::{failure, start_and_follow};
use super::runs::DIFFERENCE_COLUMNS;
use super::{Exit, table};

/// Ends with [`Exit::Damaged`] if stored states differ or are damaged, else as the first view that could not be
/// checked.
pub fn run(args: VerifyArgs) -> anyhow::Result<Exit> {
    let client = Client::new(&args.server.url);
    let follower = Follower::begin(&client, &args.server.url)?;
    let views = match args.all_views {
        false => args.views,
        true => {
            let views = catalog(&client, "views")?;
            let names = views.iter().filter_map(|view| view["name"].as_str());
            names.map(str::to_owned).collect()
        }
    };
    let (mut exit, mut runs) = (Exit::Ok, Vec::new());
    for view in &views {
        let became = match start_and_follow(&client, &follower, view, "verify") {
            Ok((run_id, run)) => {
                let became = outcome(&run);
                match args.output {
                    VerifyOutput::Json => runs.push(as_json(view, &run_id, &run)),
                    VerifyOutput::Text => print(view, &run_id, &run),
                }
                became
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                // Nobody will answer for the other views either.
                if Exit::of(&error) == Exit::Unreachable {
                    return Err(error);
                }
                eprintln!("error: {view}: {error}");
                Exit::of(&error)
            }
        };
        if exit == Exit::Ok || became == Exit::Damaged {
            exit = became;
        }
    }
    if args.output == VerifyOutput::Json {
        println!("{}", json!({"clean": exit == Exit::Ok, "runs": runs}));
    }
    Ok(exit)
}

fn outcome(run: &Run) -> Exit {
    match &*run.status {
        "succeeded" if run.audit == "differences" || !run.damaged.is_empty() => Exit::Damaged,
        "succeeded" => Exit::Ok,
        _ => Exit::Other,
    }
}

fn print(view: &str, run_id: &str, run: &Run) {
    let groups = HumanCount(run.groups_compared);
    for damaged in &run.damaged {
        println!("{view}: damaged: {damaged}; a recompute makes it again (run {run_id})");
    }
    match (outcome(run), run.audit.as_str()) {
        (Exit::Other, _) => eprintln!("error: {}", failure(view, run_id, run)),
        (Exit::Damaged, Some("differences")) => {
            println!(
                "{view}: the stored states differ from a recompute; {groups} groups compared (run {run_id})"
            );
            for line in table::lines(&run.differences, DIFFERENCE_COLUMNS) {
                println!("  {line}");
            }
        }
        (_, Some("nothing_to_compare")) => {
            println!(
                "{view}: nothing to compare, as no stored states cover all flushed events (run {run_id})"
            );
        }
        _ => println!("{view}: equal, {groups} groups compared (run {run_id})"),
    }
}

fn as_json(view: &str, run_id: &str, run: &Run) -> Value {
    json!({
        "view": view,
        "run_id": run_id,
        "status": run.status,
        "audit": run.audit,
        "groups_compared": run.groups_compared,
        "differences": run.differences,
        "damaged": run.damaged,
        "error": run.error,
    })
}
