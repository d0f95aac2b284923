//! What a stream's owner says about the events to come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{access_log, time};

/// Options of one stream that change how its input is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputOptions {
    /// What numbers in the event-time column count.
    pub event_time_unit: EpochUnit,
    /// Names under which fields of the log formats are stored, by the fields' own names.
    pub field_names: BTreeMap<String, String>,
}

/// What a number that stands for a point in time counts since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EpochUnit {
    /// By magnitude: seconds up to the year 5138, then milliseconds and so on.
    #[default]
    Auto,
    S,
    Ms,
    Us,
    Ns,
}

impl EpochUnit {
    /// The unit of a name; `None` for another name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(EpochUnit::Auto),
            "s" => Some(EpochUnit::S),
            "ms" => Some(EpochUnit::Ms),
            "us" => Some(EpochUnit::Us),
            "ns" => Some(EpochUnit::Ns),
            _ => None,
        }
    }

    /// Microseconds since 1970; `None` beyond 64 bits. Digits finer than that are cut off.
    pub(super) fn micros(self, number: i64) -> Option<i64> {
        match self {
            EpochUnit::Auto => time::from_epoch(number),
            EpochUnit::S => number.checked_mul(1_000_000),
            EpochUnit::Ms => number.checked_mul(1_000),
            EpochUnit::Us => Some(number),
            EpochUnit::Ns => Some(number.div_euclid(1_000)),
        }
    }

    /// The same of a number with a fraction.
    pub(super) fn micros_of_float(self, number: f64) -> Option<i64> {
        /// Beyond this a float does not fit 64 bits.
        const LARGEST: f64 = 9.2e18;
        let micros = match self {
            EpochUnit::Auto => return time::from_epoch_float(number),
            EpochUnit::S => number * 1e6,
            EpochUnit::Ms => number * 1e3,
            EpochUnit::Us => number,
            EpochUnit::Ns => (number / 1e3).floor(),
        };
        (micros.abs() < LARGEST).then(|| micros.round() as i64)
    }
}

impl InputOptions {
    /// Reads `client_ip=ip, ts=time`.
    ///
    /// # Errors
    ///
    /// What is wrong, for a person: a field the log formats do not have, or a name that two
    /// fields would share.
    pub fn parse_field_names(text: &str) -> Result<BTreeMap<String, String>, String> {
        let mut names = BTreeMap::new();
        for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let Some((field, name)) = pair.split_once('=') else {
                return Err(format!("{pair:?} is not written field=name"));
            };
            let (field, name) = (field.trim(), name.trim());
            if !access_log::COLUMNS.contains(&field) {
                let known = access_log::COLUMNS.join(", ");
                return Err(format!(
                    "the log formats have no field {field:?}, only {known}"
                ));
            }
            if name.is_empty() || super::shape::is_reserved(name) {
                return Err(format!("{field} cannot be stored as {name:?}"));
            }
            if names.insert(field.to_owned(), name.to_owned()).is_some() {
                return Err(format!("{field} is renamed twice"));
            }
        }
        let mut stored: Vec<&str> = access_log::COLUMNS
            .iter()
            .map(|field| names.get(*field).map_or(*field, String::as_str))
            .collect();
        stored.sort_unstable();
        match stored.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("two fields would be stored as {}", pair[0])),
            None => Ok(names),
        }
    }
}
