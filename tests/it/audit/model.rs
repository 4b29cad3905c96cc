//! Eight ways to tamper with a log, at random places, a thousand times each: every one is found and the first bad record
//! named, with the log in memory as its owner could have changed it. What the same does in a real database:
//! [`super::tampering`].

use super::Lab;
use chartgate::audit::archive::Recorder;
use chartgate::audit::keys::SigningKey;
use chartgate::audit::merkle::Tree;
use chartgate::audit::note::{Checkpoint, KeyStatement, Note, PublicKey, origin};
use chartgate::audit::record::{Line, Position};
use chartgate::audit::source::{Checkpointed, Header, KeyPair, Leaves, Page, Source, SourceError};
use chartgate::audit::verify::{FaultKind, Report, verify};
use chartgate::ids::OrganizationId;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// A whole log: database and bucket.
#[derive(Clone)]
pub struct Model {
    pub header: Header,
    pub keys: Vec<KeyPair>,
    pub notes: Vec<Checkpointed>,
    pub objects: BTreeMap<i64, String>,
    pub tiles: BTreeMap<i64, Vec<u8>>,
    pub batches: Vec<Leaves>,
    pub records: Vec<Line>,
}

impl Model {
    pub async fn of(source: &mut dyn Source) -> Self {
        let header = source.header().await.unwrap();
        let keys = source.keys().await.unwrap();
        let notes = source.checkpoints(0, 10_000).await.unwrap();
        let (mut objects, mut tiles) = (BTreeMap::new(), BTreeMap::new());
        for note in &notes {
            objects.insert(note.number, source.object(note.number).await.unwrap().unwrap());
            tiles.insert(note.number, source.tile(note.number).await.unwrap().unwrap());
        }
        let mut batches: Vec<Leaves> = Vec::new();
        loop {
            let more = source.leaves(batches.last().map_or(0, |batch| batch.batch)).await.unwrap();
            if more.is_empty() {
                break;
            }
            batches.extend(more);
        }
        let records = source.records(Position::START, Position::END).await.unwrap().lines;
        Self { header, keys, notes, objects, tiles, batches, records }
    }

    fn checkpoint(&self, number: i64) -> Checkpoint {
        let note = &self.notes.iter().find(|note| note.number == number).unwrap().note;
        Checkpoint::parse(&Note::parse(note).unwrap().text).unwrap()
    }

    /// The checkpoint that sealed the record of that place, and the place of the first record that it sealed.
    fn sealed_by(&self, place: usize) -> (i64, usize) {
        let mut first = 0;
        for note in &self.notes {
            let size = usize::try_from(self.checkpoint(note.number).size).unwrap();
            if place < size {
                return (note.number, first);
            }
            first = size;
        }
        unreachable!("every record is sealed");
    }

    /// Bring leaves into line with the records, as somebody would who wants nothing to show; batches keep their sizes, but the
    /// last one.
    fn rewrite_leaves(&mut self) {
        let mut rest = self.records.iter().map(|line| (line.id, line.hash));
        let mut first = 0;
        let last = self.batches.len() - 1;
        for (index, batch) in self.batches.iter_mut().enumerate() {
            let size = if index == last { usize::MAX } else { batch.leaves.len() };
            batch.leaves = rest.by_ref().take(size).collect();
            batch.first = first;
            first += batch.leaves.len() as u64;
        }
    }

    /// Make the checkpoints from that one on again, over the leaves as they are now.
    fn rewrite_checkpoints(&mut self, from: i64, log: uuid::Uuid, key: &SigningKey) {
        let leaves: Vec<_> = self.batches.iter().flat_map(|batch| batch.leaves.clone()).collect();
        let numbers: Vec<i64> = self.notes.iter().map(|note| note.number).collect();
        let mut previous = None;
        for (index, number) in numbers.iter().enumerate() {
            if *number >= from {
                let old = self.checkpoint(*number);
                let size = if index + 1 == numbers.len() {
                    leaves.len()
                } else {
                    usize::try_from(old.size).unwrap().min(leaves.len())
                };
                let mut tree = Tree::default();
                leaves[..size].iter().for_each(|(_, hash)| tree.push(*hash));
                let new = Checkpoint { origin: origin(log), size: size as u64, root: tree.root(), previous, ..old };
                self.notes[index].note = key.sign(log, &new.to_text());
            }
            previous = Some(Note::hash(&self.notes[index].note));
        }
    }
}

#[async_trait::async_trait]
impl Source for Model {
    async fn header(&mut self) -> Result<Header, SourceError> {
        let newest = self.notes.last().map_or(0, |note| note.number);
        let newest_object = self.objects.keys().last().copied().unwrap_or_default();
        Ok(Header { newest, newest_object, published: newest, ..self.header.clone() })
    }

    async fn keys(&mut self) -> Result<Vec<KeyPair>, SourceError> {
        Ok(self.keys.clone())
    }

    async fn checkpoints(&mut self, after: i64, limit: i64) -> Result<Vec<Checkpointed>, SourceError> {
        let found = self.notes.iter().filter(|note| note.number > after).cloned();
        Ok(found.take(usize::try_from(limit).unwrap()).collect())
    }

    async fn object(&mut self, number: i64) -> Result<Option<String>, SourceError> {
        Ok(self.objects.get(&number).cloned())
    }

    async fn tile(&mut self, number: i64) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.tiles.get(&number).cloned())
    }

    async fn leaves(&mut self, after: i64) -> Result<Vec<Leaves>, SourceError> {
        Ok(self.batches.iter().filter(|batch| batch.batch > after).take(3).cloned().collect())
    }

    async fn records(&mut self, after: Position, until: Position) -> Result<Page, SourceError> {
        let mut lines: Vec<Line> =
            self.records.iter().filter(|line| line.position > after && line.position <= until).cloned().collect();
        let more = lines.len() > 50;
        lines.truncate(50);
        Ok(Page { lines, more })
    }
}

struct Attacker {
    random: StdRng,
    /// The log's own, stolen.
    stolen: SigningKey,
    own: SigningKey,
}

/// The record with another actor, as a canonical line.
fn edited(line: &Line) -> Line {
    let text = String::from_utf8(line.text.clone()).unwrap();
    let (before, rest) = text.split_once("\"actor\":\"").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    Line::parse(format!("{before}\"actor\":\"key:somebody-else\"{after}").into_bytes()).unwrap()
}

/// The record under another number, as a canonical line.
fn numbered(line: &Line, id: i64) -> Line {
    let text = String::from_utf8(line.text.clone()).unwrap();
    let (_, after) = text.split_once(',').unwrap();
    Line::parse(format!("{{\"id\":{id},{after}").into_bytes()).unwrap()
}

const KINDS: [&str; 8] = ["edit", "delete", "insert", "reorder", "truncate", "fork", "foreign checkpoint", "re-sign"];

impl Attacker {
    /// Tamper; which records may be named as the first bad one.
    fn tamper(&mut self, kind: &str, model: &mut Model) -> Vec<i64> {
        let log = model.header.log;
        let place = self.random.random_range(0..model.records.len() - 1);
        let id = model.records[place].id;
        let (number, first) = model.sealed_by(place);
        // Half of them bring the leaves into line, too.
        let covers = self.random.random_bool(0.5);
        let edited = edited(&model.records[place]);
        match kind {
            "edit" => model.records[place] = edited,
            "delete" => drop(model.records.remove(place)),
            "insert" => {
                let new = numbered(&model.records[place], 1_000_000);
                let behind = model.records.partition_point(|line| line.position < new.position);
                model.records.insert(behind, new);
                if covers {
                    model.rewrite_leaves();
                }
                return vec![1_000_000];
            }
            "reorder" => {
                let (one, other) = (model.records[place].position, model.records[place + 1].position);
                model.records.swap(place, place + 1);
                (model.records[place].position, model.records[place + 1].position) = (one, other);
                if covers {
                    model.rewrite_leaves();
                }
                return vec![id, model.records[place].id];
            }
            "truncate" => {
                model.records.truncate(place);
                model.notes.retain(|note| note.number < number);
                model.batches.retain(|batch| usize::try_from(batch.first).unwrap() < place);
                let last = model.batches.last_mut();
                if let Some(last) = last {
                    last.leaves.truncate(place - usize::try_from(last.first).unwrap());
                }
                return vec![id];
            }
            "fork" => {
                model.records[place] = edited;
                model.rewrite_leaves();
                model.rewrite_checkpoints(number, log, &self.stolen);
                return vec![id];
            }
            "foreign checkpoint" => {
                let theirs = uuid::Uuid::from_u128(9);
                let text = Checkpoint { origin: origin(theirs), ..model.checkpoint(number) }.to_text();
                let note = if covers { self.own.sign(theirs, &text) } else { self.stolen.sign(theirs, &text) };
                let index = model.notes.iter().position(|note| note.number == number).unwrap();
                model.notes[index].note = note;
                return vec![model.records[first].id];
            }
            "re-sign" => {
                model.records[place] = edited;
                model.rewrite_leaves();
                model.rewrite_checkpoints(number, log, &self.own);
                if covers {
                    let at = time::OffsetDateTime::UNIX_EPOCH;
                    let statement = KeyStatement::new(log, 1, self.own.public(), 1, None, at);
                    model.keys[0].database = Some(self.own.sign(log, &statement.to_text()));
                }
                return vec![id];
            }
            other => unreachable!("{other}"),
        }
        if covers {
            model.rewrite_leaves();
        }
        vec![id]
    }
}

async fn recorded(model: &Model, anchors: &[PublicKey]) -> (Report, Report) {
    let bytes = super::Sink::default();
    let mut recorder = Recorder::new(model.clone(), bytes.clone());
    let online = verify(&mut recorder, anchors).await.unwrap();
    recorder.finish(serde_json::Value::Null).await.unwrap();
    let written = bytes.0.lock().unwrap().clone();
    let offline = super::verify_export(&written, anchors).await.unwrap();
    (online, offline)
}

#[tokio::test]
async fn every_kind_of_tampering_at_any_place_is_found_and_the_first_bad_record_named() {
    let lab = Lab::new().await;
    for _ in 0..7 {
        lab.append(OrganizationId::new(), 25).await;
        lab.seal().await;
        lab.append(OrganizationId::new(), 10).await;
        lab.checkpoint().await;
    }
    let model = Model::of(&mut lab.live()).await;
    let anchors = lab.anchors().await;
    assert_eq!((model.records.len(), model.notes.len()), (245, 7));
    let intact = verify(&mut model.clone(), &anchors).await.unwrap();
    assert!(intact.ok && intact.records == 245, "{intact:#?}");
    let rounds = std::env::var("CHARTGATE_AUDIT_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(250);
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut attacker = Attacker {
        random: StdRng::seed_from_u64(seed),
        stolen: SigningKey::load(&lab.key_file()).unwrap().unwrap(),
        own: SigningKey::create(&lab.directory.path().join("attacker.pem")).unwrap(),
    };
    let mut found = 0;
    for round in 0..rounds {
        for kind in KINDS {
            let mut model = model.clone();
            let suspects = attacker.tamper(kind, &mut model);
            let report = if round % 10 == 0 {
                let (online, offline) = recorded(&model, &anchors).await;
                let text = |report: &Report| serde_json::to_string(report).unwrap();
                assert_eq!(text(&online), text(&offline), "{kind}, seed {seed}");
                offline
            } else {
                verify(&mut model, &anchors).await.unwrap()
            };
            assert!(!report.ok, "{kind} was not found (seed {seed}, round {round})");
            let named = report.first_bad_record;
            assert!(
                named.is_some_and(|named| suspects.contains(&named)),
                "{kind}: {named:?} was named, not {suspects:?} (seed {seed}, round {round}): {:#?}",
                report.faults
            );
            found += 1;
        }
    }
    println!("{found} of {} found, the first bad record named each time", rounds * KINDS.len());
}

#[tokio::test]
async fn what_is_changed_in_the_bucket_alone_is_found_too() {
    let lab = Lab::new().await;
    for _ in 0..4 {
        lab.append(OrganizationId::new(), 5).await;
        lab.checkpoint().await;
    }
    let model = Model::of(&mut lab.live()).await;
    let anchors = lab.anchors().await;
    let faults = async |change: &dyn Fn(&mut Model)| {
        let mut model = model.clone();
        change(&mut model);
        let report = verify(&mut model, &anchors).await.unwrap();
        assert!(!report.ok);
        report.faults.iter().map(|fault| fault.kind).collect::<Vec<_>>()
    };
    let gone = faults(&|model| drop(model.objects.remove(&4))).await;
    // What was there is told by the database's publications.
    assert!(gone.contains(&FaultKind::ObjectMissing), "{gone:?}");
    let other = faults(&|model| drop(model.objects.insert(4, "not a note".to_owned()))).await;
    assert!(other.contains(&FaultKind::ObjectInvalid), "{other:?}");
    let key = faults(&|model| model.keys[0].object = Some("another".to_owned())).await;
    assert_eq!(key, [FaultKind::Key]);
    // Leaves of the database and tile are lost: the records themselves give the root.
    let mut lost = model.clone();
    lost.batches[1].leaves[2].1 = [0; 32];
    lost.tiles.remove(&2);
    let report = verify(&mut lost, &anchors).await.unwrap();
    assert_eq!(report.faults.iter().map(|fault| fault.kind).collect::<Vec<_>>(), [FaultKind::LeafChanged]);
    assert_eq!(report.records, 20);
}

#[tokio::test]
async fn an_export_that_was_cut_or_mended_is_not_believed() {
    let lab = Lab::new().await;
    for _ in 0..3 {
        lab.append(OrganizationId::new(), 10).await;
        lab.checkpoint().await;
    }
    lab.append(OrganizationId::new(), 4).await;
    let (export, report) = lab.export().await;
    let anchors = lab.anchors().await;
    assert!(report.ok && report.unsealed.records == 4, "{report:#?}");
    let offline = super::verify_export(&export, &anchors).await.unwrap();
    assert_eq!(serde_json::to_string(&offline).unwrap(), serde_json::to_string(&report).unwrap());
    let lines: Vec<&[u8]> = export.split_inclusive(|byte| *byte == b'\n').collect();
    let records: Vec<usize> = (0..lines.len()).filter(|index| lines[*index].starts_with(b"{\"id\":")).collect();
    assert_eq!(records.len(), 34);
    // Each line of a signed record, changed or left out, is named.
    for index in &records[..30] {
        let id = Line::parse(lines[*index].to_vec()).unwrap().id;
        let mut edited = lines.clone();
        let other = String::from_utf8(lines[*index].to_vec()).unwrap().replace("clinical.read", "clinical.lead");
        edited[*index] = other.as_bytes();
        let mut deleted = lines.clone();
        deleted.remove(*index);
        for changed in [edited, deleted] {
            let report = super::verify_export(&changed.concat(), &anchors).await.unwrap();
            assert_eq!((report.ok, report.first_bad_record), (false, Some(id)));
        }
    }
    // Cut anywhere before its end, it says so.
    for cut in 0..lines.len() {
        match super::verify_export(&lines[..cut].concat(), &anchors).await {
            Err(SourceError::Damaged { .. }) => {}
            Err(error) => panic!("{error:?}"),
            Ok(report) => panic!("cut behind line {cut}: {report:#?}"),
        }
    }
    let half = &export[..export.len() / 2];
    assert!(matches!(super::verify_export(half, &anchors).await, Err(SourceError::Damaged { .. })));
    // Another key is trusted than the one that signed.
    let stranger = SigningKey::create(&lab.directory.path().join("stranger.pem")).unwrap();
    let report = super::verify_export(&export, &[stranger.key(report.log)]).await.unwrap();
    assert!(!report.ok && report.faults[0].kind == FaultKind::Key, "{report:#?}");
}
