//! One statement to the server, its answer as it comes.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use ureq::Body;
use ureq::http::Response;

use super::ClientError;
use super::args::{Layer, SqlFormat};
use super::client::{Answer, Client, Payload, Repeat};

/// What is said with every statement.
#[derive(Debug, Default, Clone)]
pub struct QueryOptions {
    pub layer: Option<Layer>,
    /// Array or object; null for none.
    pub params: Value,
    pub timeout: Option<Duration>,
}

/// Sends a statement; a good answer, before its body is read. `width` is that of the terminal
/// that a table is drawn for.
pub fn send(
    client: &Client,
    sql: &str,
    format: SqlFormat,
    width: Option<u16>,
    options: &QueryOptions,
) -> Result<Response<Body>, ClientError> {
    let mut body = json!({ "query": sql });
    if let Some(layer) = options.layer {
        body["layer"] = json!(name(layer));
    }
    if !options.params.is_null() {
        body["params"] = options.params.clone();
    }
    if let Some(timeout) = options.timeout {
        body["timeout_ms"] = json!(timeout.as_millis() as u64);
    }
    let (format, width) = (name(format), width.map(|width| width.to_string()));
    let mut parameters = vec![("format", format.as_str())];
    parameters.extend(width.as_deref().map(|width| ("width", width)));
    let url = client.url(&["api", "v1", "sql"], &parameters);
    let response = client.post_streamed(
        &url,
        &[("content-type", "application/json")],
        &Payload::Bytes(body.to_string().as_bytes()),
        Repeat::Harmful,
        &|wait| {
            let seconds = wait.as_secs_f32();
            eprintln!("the server is busy, trying again in {seconds:.1} s");
        },
    )?;
    match response.status().is_success() {
        true => Ok(response),
        false => Err(Answer::read(&url, response)?.into_error()),
    }
}

/// The value as the server spells it, which is as the command line spells it.
pub fn name(value: impl ValueEnum) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// `NAME=VALUE` arguments as the `params` of a request: an array if the names are 1, 2, ...,
/// an object of names otherwise, null for none.
pub fn params(arguments: &[String]) -> Result<Value, ClientError> {
    let bad = |what: String| ClientError::BadInput(format!("--param {what}"));
    let mut named = Map::new();
    for argument in arguments {
        let Some((name, value)) = argument.split_once('=') else {
            return Err(bad(format!("{argument}: write NAME=VALUE")));
        };
        let name = name.trim_start_matches('$');
        if name.is_empty() {
            return Err(bad(format!("{argument}: the name is missing")));
        }
        if named.insert(name.to_owned(), scalar(value)).is_some() {
            return Err(bad(format!("{name} is given twice")));
        }
    }
    let is_number = |name: &String| name.parse::<usize>().is_ok();
    if named.is_empty() {
        return Ok(Value::Null);
    }
    if !named.keys().any(is_number) {
        return Ok(Value::Object(named));
    }
    let values = (1..=named.len()).map(|at| named.get(&at.to_string()).cloned());
    match values.collect::<Option<Vec<Value>>>() {
        Some(values) => Ok(Value::Array(values)),
        None => Err(bad(
            "is either 1=, 2=, ... without a gap, or names; not both".to_owned(),
        )),
    }
}

/// What JSON takes for a number, true, false, null or text in quotes; other text as it is. An
/// integer of more than 64 bits stays text, with all its digits.
fn scalar(text: &str) -> Value {
    let is_integer = !text.contains(['.', 'e', 'E']);
    match serde_json::from_str(text) {
        Ok(Value::Array(_) | Value::Object(_)) | Err(_) => Value::String(text.to_owned()),
        Ok(Value::Number(number)) if is_integer && number.is_f64() => {
            Value::String(text.to_owned())
        }
        Ok(scalar) => scalar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params_of(arguments: &[&str]) -> Result<Value, String> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        params(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_keep_their_types() {
        assert_eq!(params_of(&[]), Ok(Value::Null));
        assert_eq!(
            params_of(&["2=x=y", "1=404"]),
            Ok(json!([404, "x=y"])),
            "by number, in any order"
        );
        assert_eq!(
            params_of(&[
                "from=2026-01-01",
                "$ok=true",
                "n=\"7\"",
                "none=null",
                "x=[1]",
                "e="
            ]),
            Ok(json!({
                "from": "2026-01-01", "ok": true, "n": "7", "none": null, "x": "[1]", "e": ""
            }))
        );
    }

    #[test]
    fn no_digit_of_a_number_is_lost() {
        assert_eq!(
            params_of(&["1=18446744073709551615", "2=18446744073709551616", "3=1e3"]),
            Ok(json!([
                18446744073709551615_u64,
                "18446744073709551616",
                1000.0
            ]))
        );
    }

    #[test]
    fn parameters_that_cannot_be_are_named() {
        for (arguments, reason) in [
            (["x"].as_slice(), "--param x: write NAME=VALUE"),
            (&["=1"], "--param =1: the name is missing"),
            (&["a=1", "a=2"], "--param a is given twice"),
            (
                &["1=1", "3=3"],
                "--param is either 1=, 2=, ... without a gap, or names; not both",
            ),
        ] {
            assert_eq!(params_of(arguments), Err(reason.to_owned()));
        }
    }
}
