//! The events of a run, as the server sends them: a reader of `text/event-stream`, and what a bar
//! shows of them.
//!
//! The stream is read line by line as the WHATWG says (HTML, 9.2.6), without what is of no use here:
//! ids and times to wait, which the server does not send, and a byte order mark.

use std::io::{self, BufRead, BufReader, Read};

/// Bytes of the longest line that is read; a run is a few hundred.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind it is; `message` if it does not say.
    pub name: String,
    pub data: String,
}

/// Reads events from a body. Comments are passed over; an event that is cut off at the end is none.
pub struct Events<R> {
    body: BufReader<R>,
}

impl<R: Read> Events<R> {
    pub fn of(body: R) -> Self {
        Self {
            body: BufReader::new(body),
        }
    }

    /// The next line without its end; `None` at the end of the body.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.body).take(MAX_LINE_BYTES);
        bounded.read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            return match line.len() as u64 {
                MAX_LINE_BYTES => Err(io::Error::other("a line of an event has no end")),
                _ => Ok(None),
            };
        }
        line.pop_if(|last| *last == b'\r');
        Ok(Some(String::from_utf8_lossy(&line).into_owned()))
    }

    fn event(&mut self) -> io::Result<Option<Event>> {
        let (mut name, mut data) = (String::new(), Vec::new());
        while let Some(line) = self.line()? {
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut name),
                "data" => data.push(value.to_owned()),
                // The end of an event; one without data is none.
                "" if line.is_empty() && !data.is_empty() => {
                    if name.is_empty() {
                        "message".clone_into(&mut name);
                    }
                    let data = data.join("\n");
                    return Ok(Some(Event { name, data }));
                }
                "" if line.is_empty() => name.clear(),
                _ => {}
            }
        }
        Ok(None)
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<io::Result<Event>> {
        self.event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body that comes a byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let piece = self.0.len().min(1);
            self.0.read(&mut buffer[..piece])
        }
    }

    fn events(body: &str) -> Vec<(String, String)> {
        let events = Events::of(Slow(body.as_bytes()));
        let events = events.map(|event| event.expect("an event"));
        events.map(|event| (event.name, event.data)).collect()
    }

    fn event(name: &str, data: &str) -> (String, String) {
        (name.to_owned(), data.to_owned())
    }

    #[test]
    fn events_are_read_as_they_are_sent() {
        let body = "event:progress\ndata:{\"a\":1}\n\n:\n\n: still there\n\nevent: end\r\ndata: x:y\r\n\r\n";
        let expected = [event("progress", "{\"a\":1}"), event("end", "x:y")];
        assert_eq!(events(body), expected);
    }

    #[test]
    fn data_may_have_lines_and_no_name() {
        let body = "data\n\ndata:one\ndata:\ndata:  two\nid:7\nretry:10\nother\n\n";
        let expected = [event("message", ""), event("message", "one\n\n two")];
        assert_eq!(events(body), expected);
    }

    #[test]
    fn what_has_no_data_or_no_end_is_no_event() {
        assert_eq!(
            events("event:progress\n\ndata:1\n\n"),
            [event("message", "1")]
        );
        for cut in ["", "data", "data:1", "data:1\n", "event:end\ndata:{}\n"] {
            assert_eq!(events(cut), [], "{cut:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let endless = io::repeat(b'x');
        assert!(
            Events::of(endless)
                .next()
                .is_some_and(|event| event.is_err())
        );
    }
}
