//! A made-up web site's access log, the same for the same seed.
//!
//! It has what makes real ones hard: few clients and paths with most of the requests, one
//! client with a quarter of them, IPv6 clients, lines late by up to a minute, `-` for bytes
//! where there is no body, requests that are a bare `-`, spaces in paths, quotes in user
//! agents, empty referers beside absent ones.

use chrono::DateTime;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// 2026-01-01T00:00:00Z
const START_MS: i64 = 1_767_225_600_000;

const MEAN_GAP_MS: f64 = 250.0;
const CLIENTS: usize = 20_000;
const PATHS: usize = 2_000;

/// Of a thousand requests, how many the busiest client makes beside its share by rank.
const BUSIEST_PER_MILLE: u32 = 180;

const METHODS: [(&str, u32); 6] = [
    ("GET", 900),
    ("POST", 60),
    ("HEAD", 25),
    ("OPTIONS", 8),
    ("PUT", 5),
    ("DELETE", 2),
];

const STATUSES: [(u16, u32); 9] = [
    (200, 850),
    (304, 60),
    (404, 40),
    (301, 20),
    (206, 10),
    (302, 8),
    (500, 6),
    (403, 4),
    (503, 2),
];

const SECTIONS: [&str; 8] = [
    "/blog/",
    "/images/",
    "/downloads/",
    "/docs/",
    "/api/v2/",
    "/style/",
    "/talks/",
    "/tags/",
];

const ENDINGS: [&str; 8] = [
    "",
    ".html",
    ".png",
    ".css",
    ".js",
    ".tar.gz",
    " copy.pdf",
    "?page=2",
];

/// As an access log shows them: quotes and backslashes escaped.
const USER_AGENTS: [(&str, u32); 10] = [
    (
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        250,
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/139.0 Safari/537.36",
        350,
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Safari/605.1.15",
        150,
    ),
    (
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        90,
    ),
    (
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
        40,
    ),
    ("curl/8.9.1", 40),
    ("Tiny Tiny RSS/1.11 (http://tt-rss.org/)", 30),
    (r#"\"Mozilla/5.0 (quoted by mistake)\""#, 15),
    (r"Probe/1.0 (C:\\tools\\probe)", 15),
    ("-", 20),
];

const REFERERS: [(&str, u32); 5] = [
    ("-", 450),
    ("https://example.org/", 250),
    ("https://www.google.com/search?q=lambda+architecture", 200),
    ("https://news.example.net/item?id=4711", 80),
    ("", 20),
];

/// One request as the server logged it, text in the log's escaping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessEvent {
    /// Whole seconds since 1970, in UTC.
    epoch_s: i64,
    client_ip: String,
    auth_user: &'static str,
    /// Method, path and protocol; `None` for a bare `-`.
    request: Option<(&'static str, String, &'static str)>,
    status: u16,
    bytes: Option<u64>,
    referer: &'static str,
    user_agent: &'static str,
}

/// An endless access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    random: StdRng,
    seed: u64,
    /// When the server writes the next line.
    clock_ms: i64,
    clients: Ranks,
    paths: Ranks,
}

impl AccessLog {
    /// The log of a seed, from its start.
    pub fn new(seed: u64) -> Self {
        AccessLog {
            random: StdRng::seed_from_u64(seed),
            seed,
            clock_ms: START_MS,
            clients: Ranks::new(CLIENTS),
            paths: Ranks::new(PATHS),
        }
    }

    fn per_mille(&mut self, share: u32) -> bool {
        self.random.random_range(0..1000) < share
    }

    fn pick<T: Copy>(&mut self, weighted: &[(T, u32)]) -> T {
        let total = weighted.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.random_range(0..total);
        for &(item, weight) in weighted {
            if left < weight {
                return item;
            }
            left -= weight;
        }
        weighted[0].0
    }

    /// A line is written when its request ends, and carries the time it began.
    fn duration_ms(&mut self) -> i64 {
        if self.per_mille(50) {
            self.random.random_range(1_000..60_000)
        } else {
            self.random.random_range(1..400)
        }
    }

    fn client_ip(&mut self) -> String {
        let rank = if self.per_mille(BUSIEST_PER_MILLE) {
            0
        } else {
            self.clients.pick(&mut self.random)
        };
        let bits = scatter(self.seed ^ rank as u64);
        if rank > 0 && bits.is_multiple_of(8) {
            let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (bits >> shift) as u16);
            return format!("2001:db8:{a:x}:{b:x}::{c:x}:{d:x}");
        }
        let [a, b, c, d] = [24, 16, 8, 0].map(|shift| (bits >> shift) as u8);
        format!("{}.{b}.{c}.{d}", a.clamp(1, 223))
    }

    fn path(&mut self) -> String {
        let rank = self.paths.pick(&mut self.random);
        if rank == 0 {
            return "/".to_owned();
        }
        let bits = scatter(rank as u64) as usize;
        let section = SECTIONS[bits % SECTIONS.len()];
        let ending = ENDINGS[bits / 64 % ENDINGS.len()];
        format!("{section}item-{rank}{ending}")
    }
}

impl Iterator for AccessLog {
    type Item = AccessEvent;

    fn next(&mut self) -> Option<AccessEvent> {
        let uniform: f64 = self.random.random_range(f64::EPSILON..1.0);
        self.clock_ms += (-uniform.ln() * MEAN_GAP_MS) as i64;
        let began_ms = (self.clock_ms - self.duration_ms()).max(START_MS);
        let is_bare = self.per_mille(3);
        let status = if is_bare { 408 } else { self.pick(&STATUSES) };
        let method = self.pick(&METHODS);
        let protocol = if self.per_mille(100) {
            "HTTP/1.0"
        } else {
            "HTTP/1.1"
        };
        let has_body = !is_bare && status != 304 && method != "HEAD";
        let size = self.random.random_range(4.0..13.0_f64).exp() as u64;
        Some(AccessEvent {
            epoch_s: began_ms.div_euclid(1000),
            client_ip: self.client_ip(),
            auth_user: self.pick(&[("-", 985), ("alice", 10), ("bob", 5)]),
            request: (!is_bare).then(|| (method, self.path(), protocol)),
            status,
            bytes: has_body.then_some(size),
            referer: if is_bare { "-" } else { self.pick(&REFERERS) },
            user_agent: if is_bare {
                "-"
            } else {
                self.pick(&USER_AGENTS)
            },
        })
    }
}

impl AccessEvent {
    /// Whole seconds since 1970, in UTC.
    pub fn epoch_s(&self) -> i64 {
        self.epoch_s
    }

    /// A line of Combined Log Format without its line end.
    pub fn combined(&self) -> String {
        let bytes = self.bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        format!(
            r#"{} - {} [{}] "{}" {} {bytes} "{}" "{}""#,
            self.client_ip,
            self.auth_user,
            self.time("%d/%b/%Y:%H:%M:%S +0000"),
            self.request_line(),
            self.status,
            self.referer,
            self.user_agent,
        )
    }

    /// The event as one JSON object, without line end; fields as a combined line is read.
    pub fn ndjson(&self) -> String {
        let present = |text: &str| (text != "-").then(|| text.to_owned());
        let (method, path, protocol) = match &self.request {
            Some((method, path, protocol)) => (Some(method), Some(path), Some(protocol)),
            None => (None, None, None),
        };
        json!({
            "ts": self.time("%Y-%m-%dT%H:%M:%SZ"),
            "client_ip": self.client_ip,
            "ident": null,
            "auth_user": present(self.auth_user),
            "request": self.request_line(),
            "method": method,
            "path": path,
            "protocol": protocol,
            "status": self.status,
            "bytes": self.bytes,
            "referer": present(self.referer),
            "user_agent": present(self.user_agent),
        })
        .to_string()
    }

    fn request_line(&self) -> String {
        match &self.request {
            Some((method, path, protocol)) => format!("{method} {path} {protocol}"),
            None => "-".to_owned(),
        }
    }

    fn time(&self, format: &str) -> String {
        DateTime::from_timestamp(self.epoch_s, 0)
            .unwrap_or_default()
            .format(format)
            .to_string()
    }
}

/// Zipf's law: the chance of rank `k` is proportional to `1/k`.
#[derive(Clone, Debug)]
struct Ranks {
    /// Up to and including each rank.
    cumulative: Vec<f64>,
}

impl Ranks {
    fn new(count: usize) -> Self {
        let weights = (1..=count).map(|rank| 1.0 / rank as f64);
        let cumulative = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Ranks {
            cumulative: cumulative.collect(),
        }
    }

    fn pick(&self, random: &mut StdRng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or_default();
        let point = random.random::<f64>() * total;
        self.cumulative.partition_point(|&sum| sum < point)
    }
}

/// Well mixed bits of a number (the finalizer of SplitMix64).
fn scatter(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
