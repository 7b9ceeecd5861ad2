//! Texts like those that programs exchange as JSON, and the same compressed
//! for permessage-deflate (RFC 7692).

use std::fmt::Write;

use flate2::{Compress, Compression, FlushCompress, Status};

/// How many there are before they come again.
const TEXTS: usize = 256;

/// What a sync flush ends with, and a message is sent without.
pub const TAIL: [u8; 4] = [0, 0, 0xFF, 0xFF];

pub struct Texts {
    plain: Vec<Vec<u8>>,
    /// Each by itself: such a message refers to no earlier one, which suits
    /// whatever was agreed upon, and costs the client nothing when it sends.
    compressed: Vec<Vec<u8>>,
}

impl Texts {
    pub fn none() -> Self {
        Texts { plain: Vec::new(), compressed: Vec::new() }
    }

    /// Each at least that long, but not much longer.
    pub fn new(least: usize) -> Self {
        let plain: Vec<_> = (0..TEXTS).map(|number| text(number, least).into_bytes()).collect();
        let compressed = plain.iter().map(|text| compressed(text)).collect();
        Texts { plain, compressed }
    }

    pub fn plain(&self, connection: u32, seq: u64) -> &[u8] {
        &self.plain[index(connection, seq)]
    }

    pub fn compressed(&self, connection: u32, seq: u64) -> &[u8] {
        &self.compressed[index(connection, seq)]
    }

    /// Bytes of all of them, without compression and with the client's.
    pub fn sizes(&self) -> (usize, usize) {
        let sum = |texts: &[Vec<u8>]| texts.iter().map(Vec::len).sum();
        (sum(&self.plain), sum(&self.compressed))
    }

    pub fn mean(&self) -> f64 {
        self.sizes().0 as f64 / TEXTS as f64
    }
}

fn index(connection: u32, seq: u64) -> usize {
    ((u64::from(connection) * 31 + seq) % TEXTS as u64) as usize
}

/// Events of a shop, each with names that come again and values that do not.
fn text(number: usize, least: usize) -> String {
    const NAMES: [&str; 8] =
        ["Ada", "Björn", "Chloé", "Dmitri", "Emeka", "Fatima", "Grace", "Hiroshi"];
    const STATES: [&str; 4] = ["ordered", "paid", "shipped", "returned"];
    // The same texts in every run.
    let mut random = fastrand::Rng::with_seed(number as u64);
    let mut text = format!(r#"{{"type":"orders","page":{number},"orders":["#);
    let mut separator = "";
    while text.len() < least {
        write!(
            text,
            concat!(
                r#"{}{{"id":{},"customer":{{"name":"{}","id":"{:08x}"}},"state":"{}","#,
                r#""price":{}.{:02},"express":{},"time":17{:08}}}"#
            ),
            separator,
            random.u32(100_000..999_999),
            random.choice(NAMES).unwrap_or_default(),
            random.u32(..),
            random.choice(STATES).unwrap_or_default(),
            random.u32(1..500),
            random.u32(0..100),
            random.bool(),
            random.u32(0..100_000_000),
        )
        .expect("writing to memory does not fail");
        separator = ",";
    }
    text + "]}"
}

fn compressed(text: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(text.len() + 64);
    match compress.compress_vec(text, &mut out, FlushCompress::Sync) {
        Ok(Status::Ok) if out.ends_with(&TAIL) => out.truncate(out.len() - TAIL.len()),
        other => panic!("a text of {} bytes: {other:?}, {} bytes", text.len(), out.len()),
    }
    out
}
