//! Verification: are the records still those that were sealed, signed and put into the object store?
//!
//! What is true, is decided from outside inwards. Keys: a chain of statements, from a key that the verifier trusts.
//! Checkpoints: the database's, as long as the object store's newest is the same (each names the one before by its hash);
//! from the first difference on, the object store's. Leaves: the database's if they give the signed root, else those of the
//! tile, else those of the records themselves. Records: those between two signed positions, against the leaves.

mod report;

pub use report::{Fault, FaultKind, GivenUp, NewestCheckpoint, Report, Unsealed};

use super::compare::{Difference, compare};
use super::keys::KeyRing;
use super::merkle::{Hash, Tree};
use super::note::{Abandoned, Checkpoint, Note, PublicKey, origin};
use super::record::{Line, Position};
use super::sealer::CHECKPOINT_LEAVES_MAX;
use super::source::{Checkpointed, Header, KeyPair, Leaves, Source, SourceError};
use super::witness;
use std::collections::VecDeque;
use uuid::Uuid;

/// Faults that a report lists; all are counted.
const FAULTS_MAX: usize = 100;
/// Checkpoints that are read at once.
const CHECKPOINTS: i64 = 1_000;
/// Records that are asked for at once, about.
const RECORDS: usize = 8_192;

/// Verify all that a source has. `anchors`: keys that are known to be the log's.
///
/// # Errors
/// [`SourceError`] when something could not be read; nothing is said then.
pub async fn verify(source: &mut dyn Source, anchors: &[PublicKey]) -> Result<Report, SourceError> {
    let header = source.header().await?;
    let keys = source.keys().await?;
    let mut verifier = Verifier::new(source, &header);
    verifier.take_keys(&keys, anchors);
    if verifier.begin(&header) {
        let divergence = verifier.divergence(&header).await?;
        verifier.walk(&header, divergence).await?;
        verifier.rest().await?;
    }
    Ok(verifier.report())
}

struct Verifier<'a> {
    source: &'a mut dyn Source,
    log: Uuid,
    ring: KeyRing,
    tree: Tree,
    /// Number of the last checkpoint.
    number: i64,
    /// Hash of the last checkpoint's note; none while there is none, or none that holds.
    previous: Option<Hash>,
    /// The last checkpoint did not hold, so that the next one's chain cannot be checked.
    is_chain_broken: bool,
    until: Position,
    notes: VecDeque<Checkpointed>,
    notes_after: i64,
    batches: VecDeque<Leaves>,
    batches_after: i64,
    faults: Vec<Fault>,
    faults_total: u64,
    report: Report,
}

impl<'a> Verifier<'a> {
    fn new(source: &'a mut dyn Source, header: &Header) -> Self {
        let report = Report {
            ok: false,
            log: header.log,
            trusted: false,
            keys: Vec::new(),
            checkpoints: 0,
            newest: None,
            newest_object: header.newest_object,
            records: 0,
            unsigned: 0,
            unsealed: Unsealed::default(),
            given_up: Vec::new(),
            first_bad_record: None,
            faults_total: 0,
            faults: Vec::new(),
        };
        Self {
            source,
            log: header.log,
            ring: KeyRing::default(),
            tree: Tree::default(),
            number: 0,
            previous: None,
            is_chain_broken: false,
            until: Position::START,
            notes: VecDeque::new(),
            notes_after: 0,
            batches: VecDeque::new(),
            batches_after: 0,
            faults: Vec::new(),
            faults_total: 0,
            report,
        }
    }

    fn fault(&mut self, kind: FaultKind, checkpoint: Option<i64>, record: Option<i64>, what: impl Into<String>) {
        self.fault_at(kind, checkpoint, record, self.tree.size(), what);
    }

    fn fault_at(
        &mut self,
        kind: FaultKind,
        checkpoint: Option<i64>,
        record: Option<i64>,
        leaf: u64,
        what: impl Into<String>,
    ) {
        self.faults_total += 1;
        self.faults.push(Fault { kind, record, checkpoint, what: what.into(), leaf });
        if self.faults.len() > 2 * FAULTS_MAX {
            self.faults.sort_by_key(|fault| fault.leaf);
            self.faults.truncate(FAULTS_MAX);
        }
    }

    fn take_keys(&mut self, keys: &[KeyPair], anchors: &[PublicKey]) {
        let database: Vec<String> = keys.iter().map_while(|pair| pair.database.clone()).collect();
        let objects: Vec<String> = keys.iter().map_while(|pair| pair.object.clone()).collect();
        let (ring, faults) = KeyRing::follow(self.log, &database, anchors);
        let (witnessed, doubts) = KeyRing::follow(self.log, &objects, anchors);
        let differing = (1i64..)
            .zip(keys)
            .find(|(_, pair)| pair.object.is_some() && pair.object != pair.database)
            .map(|(number, _)| number);
        for what in faults.iter().cloned() {
            self.fault(FaultKind::Key, None, None, what);
        }
        if let Some(number) = differing {
            let what = format!("key {number} of the database is not the one in the object store");
            self.fault(FaultKind::Key, None, None, what);
        }
        let use_objects = (differing.is_some() || !faults.is_empty()) && doubts.is_empty() && !objects.is_empty();
        self.ring = if use_objects { witnessed } else { ring };
        self.report.trusted = self.ring.is_anchored;
        self.report.keys = self.ring.keys().iter().map(PublicKey::verifier).collect();
    }

    /// Take the tree up where the verification begins.
    fn begin(&mut self, header: &Header) -> bool {
        let Some(start) = &header.start else { return true };
        self.number = start.number;
        self.is_chain_broken = true;
        let tree = self.check(&start.note, start.number).ok().and_then(|checkpoint| {
            let peaks = hex::decode(start.peaks.as_deref()?).ok()?;
            let tree = Tree::from_bytes(checkpoint.size, &peaks)?;
            (tree.root() == checkpoint.root).then_some((tree, checkpoint.until))
        });
        self.is_chain_broken = false;
        let Some((tree, until)) = tree else {
            let what = format!("checkpoint {}, behind which to begin, does not hold", start.number);
            self.fault(FaultKind::CheckpointInvalid, Some(start.number), None, what);
            return false;
        };
        (self.tree, self.until) = (tree, until);
        self.previous = Some(Note::hash(&start.note));
        self.notes_after = start.number;
        self.batches_after = start.last_batch;
        true
    }

    /// Is this note that checkpoint, signed, and does it follow the last one?
    fn check(&self, note_text: &str, number: i64) -> Result<Checkpoint, &'static str> {
        let note = Note::parse(note_text).ok_or("is not a signed note")?;
        let checkpoint = Checkpoint::parse(&note.text).ok_or("is not a checkpoint")?;
        if checkpoint.origin != origin(self.log) {
            return Err("is one of another log");
        }
        if checkpoint.number != number {
            return Err("has another number");
        }
        let key = self.ring.key_of(number).ok_or("has no key that could have signed it")?;
        if !note.is_signed_by(&key) {
            return Err("was not signed by the log's key");
        }
        if !self.is_chain_broken && checkpoint.previous != self.previous {
            return Err("does not follow the one before");
        }
        if checkpoint.size < self.tree.size() || checkpoint.until < self.until {
            return Err("seals less than the one before");
        }
        Ok(checkpoint)
    }

    /// The first checkpoint in which database and object store differ, if they do.
    async fn divergence(&mut self, header: &Header) -> Result<Option<i64>, SourceError> {
        if header.published > header.newest_object {
            let at = header.published;
            let what = format!("checkpoint {at} was put into the object store and is not there any more");
            self.fault(FaultKind::ObjectMissing, Some(at), None, what);
        }
        let at = header.newest_object.min(header.newest);
        if at <= self.number {
            // Nothing to compare, or the database has nothing more.
            return Ok((header.newest_object > header.newest).then_some(self.number + 1));
        }
        let Some(object) = self.source.object(at).await? else {
            let what = format!("checkpoint {at} was put into the object store and is not there any more");
            self.fault(FaultKind::ObjectMissing, Some(at), None, what);
            return Ok(None);
        };
        let same = |found: &[Checkpointed]| found.first().is_some_and(|row| row.number == at && row.note == object);
        if same(&self.source.checkpoints(at - 1, 1).await?) {
            return Ok((header.newest_object > header.newest).then_some(header.newest + 1));
        }
        let (mut equal, mut differs) = (self.number, at);
        while differs - equal > 1 {
            let middle = i64::midpoint(equal, differs);
            let (is_same, row) = self.is_same(middle).await?;
            // A number that was given up is nobody's: what can be compared stands on either side of it.
            let beside = row.filter(|row| !is_same && row.number > middle && row.number <= at);
            let abandoned = beside.and_then(|row| Some((row.number, self.abandons(&row)?)));
            let probe = match abandoned.filter(|(_, abandoned)| (abandoned.first..=abandoned.last).contains(&middle)) {
                None => {
                    if is_same {
                        equal = middle;
                    } else {
                        differs = middle;
                    }
                    continue;
                }
                Some((by, _)) if by < differs => by,
                Some((_, abandoned)) if abandoned.first - 1 <= equal => break,
                Some((_, abandoned)) => abandoned.first - 1,
            };
            if self.is_same(probe).await?.0 { equal = probe } else { differs = probe }
        }
        Ok(Some(differs))
    }

    /// Do database and object store have the same checkpoint of that number? With the database's first one from there on.
    async fn is_same(&mut self, number: i64) -> Result<(bool, Option<Checkpointed>), SourceError> {
        let object = self.source.object(number).await?;
        let row = self.source.checkpoints(number - 1, 1).await?.into_iter().next();
        Ok((row.as_ref().is_some_and(|row| row.number == number && Some(&row.note) == object.as_ref()), row))
    }

    /// What a checkpoint that is signed gives up.
    fn abandons(&self, row: &Checkpointed) -> Option<Abandoned> {
        let note = Note::parse(&row.note)?;
        let checkpoint = Checkpoint::parse(&note.text)?;
        let is_sound = checkpoint.origin == origin(self.log)
            && checkpoint.number == row.number
            && note.is_signed_by(&self.ring.key_of(row.number)?);
        checkpoint.abandoned.filter(|abandoned| is_sound && abandoned.last < row.number)
    }

    /// The database's next checkpoint, without taking it.
    async fn next_note(&mut self) -> Result<Option<Checkpointed>, SourceError> {
        if self.notes.is_empty() {
            self.notes = self.source.checkpoints(self.notes_after, CHECKPOINTS).await?.into();
            self.notes_after = self.notes.back().map_or(self.notes_after, |note| note.number);
        }
        Ok(self.notes.front().cloned())
    }

    /// Checkpoint by checkpoint, with the leaves and records of each.
    async fn walk(&mut self, header: &Header, divergence: Option<i64>) -> Result<(), SourceError> {
        loop {
            let mut number = self.number + 1;
            let row = self.next_note().await?;
            let is_disputed = divergence.is_some_and(|first| number >= first);
            if row.is_none() && !(is_disputed && number <= header.newest_object) {
                return Ok(());
            }
            let mut row = row;
            let given_up = row.as_ref().and_then(|row| self.given_up(row, number));
            if let (Some(given_up), Some(row)) = (given_up, &row)
                // Where database and object store differ, only what both say counts.
                && (!is_disputed || self.source.object(row.number).await?.as_ref() == Some(&row.note))
            {
                number = given_up.by;
                self.report.given_up.push(given_up);
            }
            if row.as_ref().is_some_and(|row| row.number != number) {
                row = None;
            } else {
                self.notes.pop_front();
            }
            let checked = row.as_ref().map(|row| self.check(&row.note, number));
            let mut authority = None;
            if !is_disputed && let (Some(Ok(checkpoint)), Some(row)) = (&checked, &row) {
                authority = Some((checkpoint.clone(), Note::hash(&row.note)));
            } else {
                let object = self.source.object(number).await?;
                let witnessed = object.as_ref().map(|note| self.check(note, number));
                self.blame(number, row.as_ref(), checked.as_ref(), object.as_deref(), witnessed.as_ref());
                if let (Some(Ok(checkpoint)), Some(note)) = (witnessed, &object) {
                    authority = Some((checkpoint, Note::hash(note)));
                } else if let (Some(Ok(checkpoint)), Some(row)) = (&checked, &row) {
                    authority = Some((checkpoint.clone(), Note::hash(&row.note)));
                }
            }
            self.number = number;
            self.is_chain_broken = authority.is_none();
            if let Some((checkpoint, hash)) = authority {
                self.previous = Some(hash);
                self.segment(&checkpoint).await?;
            }
        }
    }

    /// A checkpoint that says why its number is not the next.
    fn given_up(&self, row: &Checkpointed, number: i64) -> Option<GivenUp> {
        let checkpoint = self.check(&row.note, row.number).ok()?;
        let abandoned = checkpoint.abandoned?;
        let fits = abandoned.first <= number && abandoned.last < row.number && row.number > self.number;
        fits.then_some(GivenUp { first: abandoned.first, last: abandoned.last, by: row.number, time: checkpoint.time })
    }

    fn blame(
        &mut self,
        number: i64,
        row: Option<&Checkpointed>,
        checked: Option<&Result<Checkpoint, &'static str>>,
        object: Option<&str>,
        witnessed: Option<&Result<Checkpoint, &'static str>>,
    ) {
        match checked {
            None => {
                let what = format!("checkpoint {number} is gone from the database");
                self.fault(FaultKind::CheckpointMissing, Some(number), None, what);
            }
            Some(Err(why)) => {
                self.fault(FaultKind::CheckpointInvalid, Some(number), None, format!("checkpoint {number} {why}"));
            }
            Some(Ok(_)) if matches!(witnessed, Some(Ok(_))) && object != row.map(|row| row.note.as_str()) => {
                let what = format!("checkpoint {number} of the database is not the one in the object store");
                self.fault(FaultKind::CheckpointDiffers, Some(number), None, what);
            }
            Some(Ok(_)) => {}
        }
        if let Some(Err(why)) = witnessed {
            let what = format!("checkpoint {number} in the object store {why}");
            self.fault(FaultKind::ObjectInvalid, Some(number), None, what);
        }
    }

    /// What a checkpoint added: its leaves, then its records.
    async fn segment(&mut self, checkpoint: &Checkpoint) -> Result<(), SourceError> {
        let (first, number) = (self.tree.size(), checkpoint.number);
        self.read_batches(checkpoint.size).await?;
        let stored = self.stored_leaves(checkpoint.size);
        let records = self.read_records(checkpoint.until).await?;
        let grown = |leaves: &[(i64, Hash)]| {
            let mut tree = self.tree.clone();
            for (_, hash) in leaves {
                tree.push(*hash);
            }
            (tree.size() == checkpoint.size && tree.root() == checkpoint.root).then_some(tree)
        };
        let whole: Option<Vec<(i64, Hash)>> = stored.iter().copied().collect();
        let proven = if let Some(proven) = whole.and_then(|leaves| Some((grown(&leaves)?, leaves))) {
            Some(proven)
        } else {
            let tile = self.source.tile(number).await?;
            let tile = tile.and_then(|tile| witness::leaves(&tile));
            let tile = tile.and_then(|leaves| Some((grown(&leaves)?, leaves)));
            let proven = tile.or_else(|| Some((grown(&records)?, records.clone())));
            if let Some((_, leaves)) = &proven {
                let changed = (0..).zip(leaves).find(|(index, leaf)| stored.get(*index) != Some(&Some(**leaf)));
                let (index, id) = changed.map_or((0, None), |(index, (id, _))| (index as u64, Some(*id)));
                let what =
                    format!("the leaf of record {} in the database is not the signed one", id.unwrap_or_default());
                self.fault_at(FaultKind::LeafChanged, Some(number), id, first + index, what);
            }
            proven
        };
        let truth = if let Some((tree, leaves)) = proven {
            self.tree = tree;
            self.report.checkpoints += 1;
            self.report.newest = Some(NewestCheckpoint {
                number,
                size: checkpoint.size,
                root: hex::encode(checkpoint.root),
                time: checkpoint.time.clone(),
            });
            leaves
        } else {
            let leaves: Vec<(i64, Hash)> = stored.into_iter().flatten().collect();
            let id = leaves.first().map(|(id, _)| *id);
            let what = format!("nothing gives the root of checkpoint {number}: its leaves are lost");
            self.fault(FaultKind::LeavesUnprovable, Some(number), id, what);
            // Whatever follows stands on what is lost.
            for (_, hash) in &leaves {
                self.tree.push(*hash);
            }
            leaves
        };
        let of_this = |fault: &&mut Fault| fault.checkpoint == Some(number) && fault.record.is_none();
        for fault in self.faults.iter_mut().filter(of_this) {
            fault.record = truth.first().map(|(id, _)| *id);
        }
        self.report.records += self.judge(&truth, &records, first, Some(number));
        self.until = checkpoint.until;
        Ok(())
    }

    /// Compare records with leaves; how many are what they were.
    fn judge(&mut self, truth: &[(i64, Hash)], records: &[(i64, Hash)], first: u64, checkpoint: Option<i64>) -> u64 {
        let mut truth = truth.to_vec();
        for (index, (leaf, record)) in (0..).zip(truth.iter_mut().zip(records)) {
            // The line holds the number of its record: a leaf that names another one was changed.
            if leaf.1 == record.1 && leaf.0 != record.0 {
                leaf.0 = record.0;
                let what = format!("the leaf of record {} in the database names another one", record.0);
                self.fault_at(FaultKind::LeafChanged, checkpoint, Some(record.0), first + index, what);
            }
        }
        let (same, differences) = compare(&truth, records);
        for (index, difference) in differences {
            let (kind, id, what) = match difference {
                Difference::Edited(id) => (FaultKind::RecordEdited, id, "was changed after it was sealed"),
                Difference::Deleted(id) => (FaultKind::RecordDeleted, id, "was sealed and is gone"),
                Difference::Inserted(id) => (FaultKind::RecordInserted, id, "was put where all was sealed already"),
                Difference::Moved(id) => {
                    (FaultKind::RecordMoved, id, "stands at another place than when it was sealed")
                }
            };
            self.fault_at(kind, checkpoint, Some(id), first + index, format!("record {id} {what}"));
        }
        same
    }

    /// Have all batches at hand that begin before that leaf.
    async fn read_batches(&mut self, until: u64) -> Result<(), SourceError> {
        while self.batches.back().is_none_or(|batch| batch.first + (batch.leaves.len() as u64) < until) {
            let more = self.source.leaves(self.batches_after).await?;
            let Some(last) = more.last() else { return Ok(()) };
            self.batches_after = last.batch;
            self.batches.extend(more);
        }
        Ok(())
    }

    /// The database's leaves from the end of the tree up to a size, by their places.
    fn stored_leaves(&self, size: u64) -> Vec<Option<(i64, Hash)>> {
        let first = self.tree.size();
        // The size is signed, but by whom? No checkpoint of ours adds so many.
        let added = size.saturating_sub(first).min(2 * CHECKPOINT_LEAVES_MAX);
        let mut stored = vec![None; usize::try_from(added).unwrap_or_default()];
        for batch in &self.batches {
            for (index, leaf) in (batch.first..).zip(&batch.leaves) {
                let place = index.checked_sub(first).and_then(|place| usize::try_from(place).ok());
                if let Some(place) = place.and_then(|place| stored.get_mut(place)) {
                    *place = Some(*leaf);
                }
            }
        }
        stored
    }

    /// Records up to a position. The ends of batches only say where to cut what is asked for.
    async fn read_records(&mut self, until: Position) -> Result<Vec<(i64, Hash)>, SourceError> {
        let mut cuts = Vec::new();
        let (mut from, mut together) = (self.until, 0);
        for batch in &self.batches {
            together += batch.leaves.len();
            if together >= RECORDS && batch.until > from && batch.until < until {
                cuts.push(batch.until);
                (from, together) = (batch.until, 0);
            }
        }
        cuts.push(until);
        let mut records = Vec::new();
        let mut after = self.until;
        for cut in cuts {
            loop {
                let page = self.source.records(after, cut).await?;
                let last = page.lines.last().map(|line| line.position);
                records.extend(page.lines.iter().map(|line| (line.id, line.hash)));
                match last {
                    Some(last) if page.more => after = last,
                    _ => break,
                }
            }
            after = cut;
        }
        let spent = |batch: &Leaves| batch.until <= until;
        while self.batches.front().is_some_and(spent) && self.batches.len() > 1 {
            self.batches.pop_front();
        }
        Ok(records)
    }

    /// Behind the last checkpoint: what is sealed and not signed yet, and what is not sealed yet.
    async fn rest(&mut self) -> Result<(), SourceError> {
        let first = self.tree.size();
        loop {
            if self.batches.is_empty() {
                let more = self.source.leaves(self.batches_after).await?;
                self.batches_after = more.last().map_or(self.batches_after, |batch| batch.batch);
                self.batches.extend(more);
            }
            let Some(batch) = self.batches.pop_front() else { break };
            if batch.until <= self.until {
                continue;
            }
            let records = self.read_records(batch.until).await?;
            self.report.unsigned += self.judge(&batch.leaves, &records, first.max(batch.first), None);
            self.until = batch.until;
        }
        let mut after = self.until;
        loop {
            let page = self.source.records(after, Position::END).await?;
            let Some(last) = page.lines.last() else { break };
            after = last.position;
            let unsealed = &mut self.report.unsealed;
            unsealed.records += page.lines.len() as u64;
            if unsealed.oldest.is_none() {
                unsealed.oldest = page.lines.first().and_then(Line::at);
            }
            if !page.more {
                break;
            }
        }
        Ok(())
    }

    fn report(mut self) -> Report {
        // Keys first, then in the order of the log; a record before the leaf that only repeats it.
        self.faults
            .sort_by_key(|fault| (fault.kind != FaultKind::Key, fault.leaf, fault.kind == FaultKind::LeafChanged));
        // What is known of single records says more than a checkpoint does of all that it sealed.
        let mut named = self.faults.iter().filter(|fault| fault.record.is_some());
        let single = named.clone().find(|fault| fault.kind.is_of_a_record());
        self.report.first_bad_record = single.or_else(|| named.next()).and_then(|fault| fault.record);
        self.faults.truncate(FAULTS_MAX);
        Report { ok: self.faults_total == 0, faults_total: self.faults_total, faults: self.faults, ..self.report }
    }
}
