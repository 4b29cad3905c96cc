//! An export of the whole log: NDJSON with every record as its canonical line, and everything else that a verification asks
//! for, in the order in which it asks. [`Recorder`] writes it while it verifies; [`Archive`] answers from it.

use super::merkle::Hash;
use super::note::PublicKey;
use super::record::{Line, Position};
use super::source::{Checkpointed, Header, KeyPair, Leaves, Page, Source, SourceError};
use super::verify::{Report, verify};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Version of the format.
const FORMAT: u32 = 1;

/// A line that is no record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Entry {
    /// The first line.
    Export {
        format: u32,
        #[serde(flatten)]
        header: Header,
    },
    Keys(Vec<KeyPair>),
    Checkpoints(Vec<Checkpointed>),
    Object {
        number: i64,
        note: Option<String>,
    },
    Tile {
        number: i64,
        /// Base64.
        leaves: Option<String>,
    },
    Leaves(Vec<EncodedLeaves>),
    /// The records follow, one a line.
    Records {
        more: bool,
    },
    /// What the one that exported it found; it proves nothing.
    Verdict(serde_json::Value),
}

#[derive(Debug, Serialize, Deserialize)]
struct EncodedLeaves {
    batch: i64,
    first: u64,
    until: (i64, i64),
    ids: Vec<i64>,
    /// Base64.
    hashes: String,
}

impl From<&Leaves> for EncodedLeaves {
    fn from(leaves: &Leaves) -> Self {
        let hashes: Vec<u8> = leaves.leaves.iter().flat_map(|(_, hash)| *hash).collect();
        Self {
            batch: leaves.batch,
            first: leaves.first,
            until: (leaves.until.xid, leaves.until.id),
            ids: leaves.leaves.iter().map(|(id, _)| *id).collect(),
            hashes: BASE64.encode(hashes),
        }
    }
}

impl EncodedLeaves {
    fn decode(self) -> Option<Leaves> {
        let bytes = BASE64.decode(self.hashes).ok()?;
        let (hashes, rest): (&[Hash], _) = bytes.as_chunks::<32>();
        (rest.is_empty() && hashes.len() == self.ids.len()).then(|| Leaves {
            batch: self.batch,
            first: self.first,
            leaves: self.ids.into_iter().zip(hashes.iter().copied()).collect(),
            until: Position { xid: self.until.0, id: self.until.1 },
        })
    }
}

/// Passes on what a source answers, and writes it down.
pub struct Recorder<S, W> {
    source: S,
    writer: W,
}

impl<S: Source, W: AsyncWrite + Send + Unpin> Recorder<S, W> {
    /// Write to that.
    #[must_use]
    pub fn new(source: S, writer: W) -> Self {
        Self { source, writer }
    }

    async fn write(&mut self, entry: &Entry) -> Result<(), SourceError> {
        // Plain members: this cannot fail.
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        Ok(self.writer.write_all(&line).await?)
    }

    /// Write the last line and end.
    ///
    /// # Errors
    /// [`SourceError::Io`].
    pub async fn finish(mut self, verdict: serde_json::Value) -> Result<(), SourceError> {
        self.write(&Entry::Verdict(verdict)).await?;
        Ok(self.writer.shutdown().await?)
    }
}

#[async_trait::async_trait]
impl<S: Source, W: AsyncWrite + Send + Unpin> Source for Recorder<S, W> {
    async fn header(&mut self) -> Result<Header, SourceError> {
        let header = self.source.header().await?;
        self.write(&Entry::Export { format: FORMAT, header: header.clone() }).await?;
        Ok(header)
    }

    async fn keys(&mut self) -> Result<Vec<KeyPair>, SourceError> {
        let keys = self.source.keys().await?;
        self.write(&Entry::Keys(keys.clone())).await?;
        Ok(keys)
    }

    async fn checkpoints(&mut self, after: i64, limit: i64) -> Result<Vec<Checkpointed>, SourceError> {
        let rows = self.source.checkpoints(after, limit).await?;
        self.write(&Entry::Checkpoints(rows.clone())).await?;
        Ok(rows)
    }

    async fn object(&mut self, number: i64) -> Result<Option<String>, SourceError> {
        let note = self.source.object(number).await?;
        self.write(&Entry::Object { number, note: note.clone() }).await?;
        Ok(note)
    }

    async fn tile(&mut self, number: i64) -> Result<Option<Vec<u8>>, SourceError> {
        let tile = self.source.tile(number).await?;
        let leaves = tile.as_ref().map(|tile| BASE64.encode(tile));
        self.write(&Entry::Tile { number, leaves }).await?;
        Ok(tile)
    }

    async fn leaves(&mut self, after: i64) -> Result<Vec<Leaves>, SourceError> {
        let leaves = self.source.leaves(after).await?;
        self.write(&Entry::Leaves(leaves.iter().map(EncodedLeaves::from).collect())).await?;
        Ok(leaves)
    }

    async fn records(&mut self, after: Position, until: Position) -> Result<Page, SourceError> {
        let page = self.source.records(after, until).await?;
        self.write(&Entry::Records { more: page.more }).await?;
        let mut lines = Vec::with_capacity(page.lines.iter().map(|line| line.text.len() + 1).sum());
        for line in &page.lines {
            lines.extend_from_slice(&line.text);
            lines.push(b'\n');
        }
        self.writer.write_all(&lines).await?;
        Ok(page)
    }
}

/// Answers from an export.
pub struct Archive<R> {
    reader: R,
    /// Number of the line that was read last.
    line: u64,
    /// It was read, and belongs to what comes next.
    pending: Option<Vec<u8>>,
}

/// A record's line begins so, and no other.
const RECORD: &[u8] = b"{\"id\":";
/// So do checkpoints of the object store,
const OBJECT: &[u8] = b"{\"object\":";
/// and tiles.
const TILE: &[u8] = b"{\"tile\":";

impl<R: AsyncBufRead + Send + Unpin> Archive<R> {
    /// Read from that.
    #[must_use]
    pub fn new(reader: R) -> Self {
        Self { reader, line: 0, pending: None }
    }

    fn damaged(&self, what: &'static str) -> SourceError {
        SourceError::Damaged { line: self.line, what }
    }

    async fn next_line(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        if let Some(line) = self.pending.take() {
            return Ok(Some(line));
        }
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        self.line += 1;
        if line.pop() != Some(b'\n') {
            return Err(self.damaged("the file ends in the middle of it"));
        }
        Ok(Some(line))
    }

    /// The next entry, if it is of that kind.
    async fn entry_if(&mut self, begin: &[u8]) -> Result<Option<Entry>, SourceError> {
        let Some(line) = self.next_line().await? else { return Ok(None) };
        let is_wanted = line.starts_with(begin);
        self.pending = Some(line);
        if is_wanted { self.entry().await.map(Some) } else { Ok(None) }
    }

    /// What follows all that was asked for. It is the verdict if all is well; behind a fault there may be more.
    async fn verdict(&mut self, is_well: bool) -> Result<Entry, SourceError> {
        loop {
            let line = self.next_line().await?.ok_or_else(|| self.damaged("the file ends behind it"))?;
            if !is_well && line.starts_with(RECORD) {
                continue;
            }
            let entry = serde_json::from_slice(&line).map_err(|_| self.damaged("not what belongs there"))?;
            if is_well || matches!(entry, Entry::Verdict(_)) {
                return Ok(entry);
            }
        }
    }

    async fn entry(&mut self) -> Result<Entry, SourceError> {
        let line = self.next_line().await?.ok_or_else(|| self.damaged("the file ends behind it"))?;
        serde_json::from_slice(&line).map_err(|_| self.damaged("not what belongs there"))
    }
}

/// Verify an export, and that it is whole.
///
/// # Errors
/// [`SourceError`].
pub async fn verify_export<R: AsyncBufRead + Send + Unpin>(
    reader: R,
    anchors: &[PublicKey],
) -> Result<Report, SourceError> {
    let mut archive = Archive::new(reader);
    let report = verify(&mut archive, anchors).await?;
    if !matches!(archive.verdict(report.ok).await?, Entry::Verdict(_)) || archive.next_line().await?.is_some() {
        return Err(archive.damaged("the export must end with its verdict"));
    }
    Ok(report)
}

#[async_trait::async_trait]
impl<R: AsyncBufRead + Send + Unpin> Source for Archive<R> {
    async fn header(&mut self) -> Result<Header, SourceError> {
        match self.entry().await? {
            Entry::Export { format: FORMAT, header } => Ok(header),
            Entry::Export { .. } => Err(self.damaged("a format that this version does not know")),
            _ => Err(self.damaged("not the first line of an export")),
        }
    }

    async fn keys(&mut self) -> Result<Vec<KeyPair>, SourceError> {
        match self.entry().await? {
            Entry::Keys(keys) => Ok(keys),
            _ => Err(self.damaged("the keys belong there")),
        }
    }

    async fn checkpoints(&mut self, _: i64, _: i64) -> Result<Vec<Checkpointed>, SourceError> {
        // Of a checkpoint that is not believed nothing is asked for, and what was exported for it is passed over.
        while let Some(line) = self.next_line().await? {
            if line.starts_with(RECORD) {
                continue;
            }
            match serde_json::from_slice(&line).map_err(|_| self.damaged("not what belongs there"))? {
                Entry::Checkpoints(rows) => return Ok(rows),
                Entry::Verdict(_) => break,
                _ => {}
            }
        }
        Err(self.damaged("checkpoints belong there"))
    }

    async fn object(&mut self, number: i64) -> Result<Option<String>, SourceError> {
        match self.entry_if(OBJECT).await? {
            Some(Entry::Object { number: found, note }) if found == number => Ok(note),
            // Not asked for when it was exported: who trusts other keys, or reads a file that was changed, asks more.
            None => Ok(None),
            Some(_) => Err(self.damaged("another checkpoint of the object store belongs there")),
        }
    }

    async fn tile(&mut self, number: i64) -> Result<Option<Vec<u8>>, SourceError> {
        match self.entry_if(TILE).await? {
            None => Ok(None),
            Some(Entry::Tile { number: found, leaves }) if found == number => {
                let decoded = leaves.map(|leaves| BASE64.decode(leaves)).transpose();
                decoded.map_err(|_| self.damaged("not base64"))
            }
            Some(_) => Err(self.damaged("other leaves of the object store belong there")),
        }
    }

    async fn leaves(&mut self, _: i64) -> Result<Vec<Leaves>, SourceError> {
        match self.entry().await? {
            Entry::Leaves(batches) => {
                let decoded: Option<Vec<Leaves>> = batches.into_iter().map(EncodedLeaves::decode).collect();
                decoded.ok_or_else(|| self.damaged("leaves that are not whole"))
            }
            _ => Err(self.damaged("leaves belong there")),
        }
    }

    async fn records(&mut self, _: Position, _: Position) -> Result<Page, SourceError> {
        let Entry::Records { more } = self.entry().await? else {
            return Err(self.damaged("records belong there"));
        };
        let mut lines = Vec::new();
        while let Some(line) = self.next_line().await? {
            if !line.starts_with(RECORD) {
                self.pending = Some(line);
                break;
            }
            lines.push(Line::parse(line).ok_or_else(|| self.damaged("not a record"))?);
        }
        Ok(Page { lines, more })
    }
}
