//! A place in a trace: what `traceparent` carries (W3C Trace Context Level 2), and 25 bytes of it in the database.

use rand::RngExt as _;
use std::fmt::Write as _;

/// Trace id, the span that stands for what caused us, and flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// 16 bytes, not all zero.
    pub trace: [u8; 16],
    /// 8 bytes, not all zero.
    pub span: [u8; 8],
    /// [`SAMPLED`] and [`RANDOM`]; others are not kept.
    pub flags: u8,
}

/// The spans of this trace are recorded.
pub const SAMPLED: u8 = 1;
/// The last seven bytes of the trace id are random.
pub const RANDOM: u8 = 2;

impl TraceContext {
    /// Bytes of [`TraceContext::to_bytes`].
    pub const SIZE: usize = 25;

    /// The first span of a trace of ours. `ratio` of all traces are sampled: those whose random bytes are large enough, so
    /// that whoever samples by the same bytes takes the same traces.
    #[must_use]
    pub fn fresh(ratio: f64) -> Self {
        let trace: [u8; 16] = loop {
            let drawn: [u8; 16] = rand::rng().random();
            if drawn != [0; 16] {
                break drawn;
            }
        };
        let sampled = if is_taken(&trace, ratio) { SAMPLED } else { 0 };
        Self { trace, span: fresh_span(), flags: RANDOM | sampled }
    }

    /// The next span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: fresh_span(), ..self }
    }

    /// Are its spans recorded?
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// A `traceparent` header; none if it is not well formed (section 3.2): then a trace of ours begins. Of later versions
    /// the part that version 00 has is read.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let bytes = header.as_bytes();
        let (head, rest) = bytes.split_at_checked(55)?;
        let version = hex_byte(head.get(..2)?)?;
        let is_whole = match version {
            0xff => false,
            0 => rest.is_empty(),
            _ => rest.is_empty() || rest[0] == b'-',
        };
        if !is_whole || head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let trace: [u8; 16] = hex_bytes(&head[3..35])?;
        let span: [u8; 8] = hex_bytes(&head[36..52])?;
        let flags = hex_byte(&head[53..55])? & (SAMPLED | RANDOM);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// Trace, span, flags.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(&self.trace);
        bytes[16..24].copy_from_slice(&self.span);
        bytes[24] = self.flags;
        bytes
    }

    /// The reverse of [`TraceContext::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk::<16>()?;
        let (span, rest) = rest.split_first_chunk::<8>()?;
        let [flags] = rest else { return None };
        Some(Self { trace: *trace, span: *span, flags: *flags })
    }

    /// The trace id as logs and collectors show it.
    #[must_use]
    pub fn trace_id(self) -> String {
        self.trace.iter().fold(String::with_capacity(32), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

fn fresh_span() -> [u8; 8] {
    loop {
        let drawn: [u8; 8] = rand::rng().random();
        if drawn != [0; 8] {
            return drawn;
        }
    }
}

/// The 56 random bits of Level 2, against the share that is left out.
fn is_taken(trace: &[u8; 16], ratio: f64) -> bool {
    const ALL: f64 = 72_057_594_037_927_936.0;
    let random = trace[9..].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    #[expect(clippy::cast_precision_loss, reason = "a share of all traces")]
    let drawn = random as f64;
    drawn >= (1.0 - ratio) * ALL
}

/// Lower-case only, as the specification asks.
fn hex_byte(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

fn hex_bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks(2)) {
        *byte = hex_byte(pair)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_well_formed_traceparent_is_taken_over() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(context.span, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(context.is_sampled());
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        assert!(!TraceContext::parse(&GOOD.replace("-01", "-02")).unwrap().is_sampled());
        // A later version may say more behind what we know; flags that we do not know are not passed on.
        let later = TraceContext::parse(&format!("cc{}-what-the-future-brings", &GOOD[2..])).unwrap();
        assert_eq!(later, context);
        assert_eq!(TraceContext::parse(&GOOD.replace("-01", "-ff")).unwrap().flags, SAMPLED | RANDOM);
        let child = context.child();
        assert!(child.trace == context.trace && child.span != context.span && child.flags == context.flags);
    }

    #[test]
    fn anything_else_is_not() {
        for bad in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
        assert_eq!(TraceContext::from_bytes(&[1; 24]), None);
        assert_eq!(TraceContext::from_bytes(&[1; 26]), None);
    }

    #[test]
    fn the_ratio_is_the_share_of_sampled_traces() {
        let share = |ratio: f64| (0..2000).filter(|_| TraceContext::fresh(ratio).is_sampled()).count();
        assert_eq!((share(0.0), share(1.0)), (0, 2000));
        // Half of 2,000: a fair coin is further away than this once in 10^15 times.
        assert!((820..1180).contains(&share(0.5)));
    }
}
