//! `bench chart`: the clinical view over HTTP of patients with many events, known ones and ones that wait for their Patient
//! resource; idle, and while Bundles come in at half of the rate that was measured before in the same run.
#![expect(clippy::cast_precision_loss, reason = "rates and milliseconds for people")]

use super::Prepared;
use super::intake::{Load, organization, quantile};
use crate::app::App;
use crate::auth::Role;
use crate::config::Config;
use crate::http;
use crate::ids::OrganizationId;
use crate::ingest::findings::packed::pack;
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Options of `bench chart`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Events of each patient. Beyond 2,500 the first page does not show all of them.
    #[arg(long, default_value_t = 2_000)]
    pub events: i32,
    /// Patients, every other one of whom is not known yet. Their rows lie between each other's, as they came in.
    #[arg(long, default_value_t = 20)]
    pub patients: i32,
    /// Connections of the intake.
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// Charts opened a second.
    #[arg(long, default_value_t = 10)]
    pub opens_per_second: u32,
    /// How long each part runs, in seconds.
    #[arg(long, default_value_t = 15)]
    pub seconds: u64,
}

/// Run it, and answer the figures.
///
/// # Errors
/// What kept it from running, or what the check of the answers found.
pub async fn run(prepared: &Prepared, config: &Config, arguments: &Arguments) -> anyhow::Result<Value> {
    ensure!(arguments.patients >= 2 && arguments.opens_per_second > 0, "at least two patients, and one chart a second");
    let time = Duration::from_secs(arguments.seconds);
    let app = App::build(config.clone(), prepared.options.clone(), Prepared::objects()).await?;
    let (organization, keys) = organization(&app, "bench chart", &[Role::Sender, Role::Reader]).await?;
    let [sender, reader] = keys.as_slice() else { anyhow::bail!("two keys were made") };
    let mut admin = PgConnection::connect_with(&prepared.options).await?;
    seed(&mut admin, organization, arguments).await?;
    let yardstick = yardstick(&mut admin, organization).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let server = tokio::spawn(http::server::serve(listener, None, Arc::clone(&app), axum::Router::new(), stop.clone()));
    let key = sender.clone();
    let intake =
        move |time, first, every, connections| Load { address, key: key.clone(), connections, time, first, every };
    let charts = Charts { address, key: reader.clone(), arguments: arguments.clone() };

    let alone = intake(time, 1, None, arguments.connections);
    let (accepted, _) = tokio::task::spawn_blocking(move || alone.run()).await.context("the load ended")??;
    let maximum = accepted as f64 / time.as_secs_f64();
    let idle = charts.open(time).await?;
    let every = Duration::from_secs_f64(arguments.connections as f64 / (maximum / 2.0));
    let half = intake(time, 1 << 40, Some(every), arguments.connections);
    let cpu_before = prepared.cpu_seconds();
    let half = tokio::task::spawn_blocking(move || half.run());
    let busy = charts.open(time).await?;
    let (accepted_beside, beside) = half.await.context("the load ended")??;
    let cpu_after = prepared.cpu_seconds();
    stop.cancel();
    let _ = server.await;

    Ok(json!({
        "bench": "chart",
        "events": arguments.events,
        "patients": arguments.patients,
        "answer_bytes": idle.bytes,
        "yardstick_ms": yardstick,
        "idle": idle.figures(),
        "intake_per_second": maximum,
        "beside_intake": busy.figures(),
        "intake_beside_per_second": accepted_beside as f64 / time.as_secs_f64(),
        "intake_beside_p99_ms": quantile(&beside, 0.99),
        "cores_busy_beside": {
            "postgres": (cpu_after.0 - cpu_before.0) / time.as_secs_f64(),
            "server_and_load": (cpu_after.1 - cpu_before.1) / time.as_secs_f64(),
        },
        "ratio_to_yardstick": { "idle": idle.median() / yardstick },
        "checked": "every answer holds all events of its patient; every later one is the same to the byte",
    }))
}

/// What a chart costs, as it is opened.
struct Opened {
    /// In microseconds.
    known: Vec<u64>,
    waiting: Vec<u64>,
    bytes: usize,
}

impl Opened {
    fn median(&self) -> f64 {
        quantile(&self.known, 0.5)
    }

    fn figures(&self) -> Value {
        let of = |latencies: &[u64]| {
            json!({
                "opened": latencies.len(),
                "p50_ms": quantile(latencies, 0.5),
                "p95_ms": quantile(latencies, 0.95),
                "p99_ms": quantile(latencies, 0.99),
            })
        };
        json!({ "known": of(&self.known), "waiting": of(&self.waiting) })
    }
}

/// Somebody who opens charts.
struct Charts {
    address: SocketAddr,
    key: String,
    arguments: Arguments,
}

impl Charts {
    /// One chart after the other, from a thread of its own, so often as is asked for.
    async fn open(&self, time: Duration) -> anyhow::Result<Opened> {
        let (address, key, arguments) = (self.address, self.key.clone(), self.arguments.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(open(address, &key, &arguments, time))
        });
        opening.await.context("the reader ended")?
    }
}

async fn open(address: SocketAddr, key: &str, arguments: &Arguments, time: Duration) -> anyhow::Result<Opened> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut opened = Opened { known: Vec::new(), waiting: Vec::new(), bytes: 0 };
    let mut answer = Vec::new();
    // Connections, plans and caches as they are in a program that has run for a while. What is answered later is the same, byte
    // by byte; reading JSON of megabytes beside the server would take as much of the processors as the server does.
    let mut firsts = Vec::new();
    for patient in 0..arguments.patients {
        let body = ask(&mut stream, key, patient, &mut answer).await?;
        check(body, arguments, patient % 2 == 0)?;
        firsts.push(body.to_vec());
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / arguments.opens_per_second);
    let until = Instant::now() + time;
    for patient in (0..arguments.patients).cycle() {
        ticks.tick().await;
        if Instant::now() > until {
            break;
        }
        let sent = Instant::now();
        let body = ask(&mut stream, key, patient, &mut answer).await?;
        let latency = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
        let is_known = patient % 2 == 0;
        if is_known { &mut opened.known } else { &mut opened.waiting }.push(latency);
        opened.bytes = opened.bytes.max(body.len());
        let first = usize::try_from(patient).ok().and_then(|patient| firsts.get(patient));
        ensure!(first.is_some_and(|first| first == body), "the chart is another one than at first");
    }
    Ok(opened)
}

/// The body of the answer.
async fn ask<'a>(stream: &mut TcpStream, key: &str, patient: i32, answer: &'a mut Vec<u8>) -> anyhow::Result<&'a [u8]> {
    let head =
        format!("GET /ingest/clinical/B-{patient} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    answer.clear();
    let (start, length) = loop {
        ensure!(stream.read_buf(answer).await? > 0, "the server closed the connection");
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "not answered: {}", head.lines().next().unwrap_or_default());
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            break (end + 4, length.context("the answer has a length")?);
        }
    };
    answer.reserve((start + length).saturating_sub(answer.len()));
    while answer.len() < start + length {
        ensure!(stream.read_buf(answer).await? > 0, "the server closed the connection");
    }
    answer.get(start..start + length).context("the answer is whole")
}

fn check(body: &[u8], arguments: &Arguments, is_known: bool) -> anyhow::Result<()> {
    let view: Value = serde_json::from_slice(body)?;
    let data = view["clinical_data"].as_object().context("the answer has clinical data")?;
    let items: usize = data.values().filter_map(Value::as_array).map(Vec::len).sum();
    let of = |every: i32| usize::try_from(arguments.events * every / 20).unwrap_or_default().min(1_000);
    let expected = of(8) + of(6) + of(2) + of(1) + of(2) + of(1);
    ensure!(items == expected, "{items} items, {expected} expected");
    ensure!(view["event_count"] == json!(arguments.events), "{} events counted", view["event_count"]);
    ensure!(view["patient"].is_object() == is_known, "whose it is");
    Ok(())
}

/// Patients `B-0`, `B-1`, …, the even ones known: of 20 events 8 laboratory values with their range, 6 vital signs (2 of them
/// blood pressures of two components), 2 medications, 1 problem, 2 encounters, 1 immunization; two pieces of evidence
/// each.
async fn seed(admin: &mut PgConnection, organization: OrganizationId, arguments: &Arguments) -> anyhow::Result<()> {
    ensure!(arguments.events > 0 && arguments.events % 20 == 0, "a multiple of 20 events");
    let (organization, events, patients) = (organization.0, arguments.events, arguments.patients);
    let sql = format!(
        r#"
        create temp table person as
          select n, n % 2 = 0 as is_known, gen_random_uuid() as id, 'B-' || n as mrn from generate_series(0, {patients} - 1) as n;
        insert into patients (organization_id, id, event_seq, family, given, birth_date, gender, created_at, updated_at)
          select '{organization}', id, 1, 'Bench', array['Patient'], '1960-01-01', 'female', now(), now() from person where is_known;
        insert into patient_identifiers (organization_id, system, value, patient_id, created_at)
          select '{organization}', 'urn:bench', mrn, id, now() from person where is_known;
        create temp table event as
          select p.n as person, p.is_known, p.id as patient_id, p.mrn, i, i % 20 as kind, gen_random_uuid() as id,
                 timestamptz '2015-01-01 08:00Z' + i * interval '37 hours' as at
          from generate_series(1, {events}) as i cross join person p
          order by i, p.n;
        insert into clinical_events
          (organization_id, id, job_id, job_seq, seen_seq, source_label, resource_type, resource_key, content_sha256, payload_sha256,
           entry, byte_start, byte_end, category, status, subject_key, patient_id, link_status, is_current, clinical_at, created_at)
          select '{organization}', id, gen_random_uuid(), 1, 1, 'default',
                 case when kind < 14 then 'Observation' when kind < 16 then 'MedicationRequest' when kind < 17 then 'Condition'
                      when kind < 19 then 'Encounter' else 'Immunization' end,
                 'r-' || person || '-' || i, sha256(id::text::bytea), sha256((i / 50)::text::bytea), i % 50, i * 900, i * 900 + 850,
                 case when kind < 8 then 'labs' when kind < 14 then 'vitals' when kind < 16 then 'medications'
                      when kind < 17 then 'problems' when kind < 19 then 'encounters' else 'immunizations' end,
                 case when kind < 14 then 'final' when kind < 16 then 'active' when kind < 17 then null else 'finished' end,
                 'mrn:urn:bench|' || mrn, case when is_known then patient_id end,
                 case when is_known then 'linked' else 'pending' end, true, at, now()
          from event order by i, person;
        create temp table finding as
          select gen_random_uuid() as id, e.id as event_id, e.kind, e.i, e.at, o.ordinal
          from event e cross join lateral generate_series(case when kind in (8, 9) then 1 else 0 end, case when kind in (8, 9) then 2 else 0 end) as o (ordinal)
          order by e.i, e.person;
        insert into findings
          (organization_id, id, event_id, ordinal, category, kind, code_system, code, display, codings, code_text, component_of,
           value_type, value_text, value_number, unit, ucum, reference_range, interpretation, interpretation_source, status,
           clinical_status, verification_status, effective_text, effective_at, effective_precision, issued, performer,
           encounter_reference, dosage, extractor_version, created_at)
          select '{organization}', id, event_id, ordinal,
                 case when kind < 8 then 'lab' when kind < 14 then 'vital' when kind < 16 then 'medication' when kind < 17 then 'problem'
                      when kind < 19 then 'encounter' else 'immunization' end,
                 case when kind < 14 then 'measurement' when kind < 16 then 'order' when kind = 19 then 'administration' else 'assertion' end,
                 'http://loinc.org', (2000 + kind) || '-' || ordinal, 'Glucose [Mass/volume] in Serum or Plasma',
                 '[{{"system": "http://loinc.org", "code": "2345-7", "display": "Glucose [Mass/volume] in Serum or Plasma"}}]',
                 'Glucose [Mass/volume] in Serum or Plasma',
                 case when ordinal > 0 then '{{"coding": [{{"system": "http://loinc.org", "code": "85354-9", "display": "Blood pressure panel"}}], "text": "Blood pressure panel"}}' end::json,
                 case when kind < 14 then 'quantity' end, case when kind < 14 then (i % 300) || '.50' end, case when kind < 14 then i % 300 + 0.5 end,
                 case when kind < 14 then 'mg/dL' end, case when kind < 14 then 'mg/dL' end,
                 case when kind < 8 then '[{{"low": {{"value": 70, "unit": "mg/dL"}}, "high": {{"value": 99, "unit": "mg/dL"}}}}]' end::json,
                 case when kind < 8 then 'H' end, case when kind < 8 then 'derived' end,
                 case when kind < 14 then 'final' when kind < 16 then 'active' end, case when kind = 16 then 'active' end,
                 case when kind = 16 then 'confirmed' end, to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), at, 'second',
                 case when kind < 14 then to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') end,
                 '[{{"reference": "Practitioner/7", "display": "Dr. Bench"}}]', 'Encounter/' || i / 20,
                 case when kind in (14, 15) then '[{{"text": "1 tablet by mouth twice a day", "timing": {{"repeat": {{"frequency": 2, "period": 1, "periodUnit": "d"}}}}}}]' end::json,
                 2, now()
          from finding order by i;
        insert into finding_evidence
          (organization_id, finding_id, ordinal, payload_sha256, byte_start, byte_end, quote, pointer, fhirpath, rule)
          select '{organization}', f.id, o, sha256((i / 50)::text::bytea), i * 900 + 100 * o, i * 900 + 100 * o + 90, repeat('x', 90)::bytea,
                 '/entry/' || i % 50 || '/resource/' || case o when 0 then 'code' else 'valueQuantity' end,
                 'Bundle.entry[' || i % 50 || '].resource.' || case o when 0 then 'code' else 'value' end,
                 case o when 0 then 'observation.code' else 'observation.value' end
          from finding f cross join generate_series(0, 1) as o
          order by i;
        create temp table shown as
          select event_id, ordinal, at,
                 json_build_object(
                   'finding_id', 'fnd_' || replace(id::text, '-', ''), 'category', 'lab', 'kind', 'measurement',
                   'name', 'Glucose [Mass/volume] in Serum or Plasma',
                   'code', json_build_object('system', 'http://loinc.org', 'code', '2345-7', 'display', 'Glucose [Mass/volume] in Serum or Plasma'),
                   'codings', '[{{"system": "http://loinc.org", "code": "2345-7", "display": "Glucose [Mass/volume] in Serum or Plasma"}}]'::json,
                   'value', (i % 300) || '.50', 'unit', 'mg/dL', 'effective', to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                   'negated', false, 'value_type', 'quantity', 'ucum', 'mg/dL',
                   'reference_range', '[{{"low": {{"value": 70, "unit": "mg/dL"}}, "high": {{"value": 99, "unit": "mg/dL"}}}}]'::json,
                   'interpretation', 'H', 'interpretation_source', 'derived', 'effective_precision', 'second',
                   'issued', to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                   'performer', '[{{"reference": "Practitioner/7", "display": "Dr. Bench"}}]'::json, 'encounter', 'Encounter/' || i / 20,
                   'evidence', (select json_agg(json_build_object('sha256', encode(sha256((i / 50)::text::bytea), 'hex'), 'start', i * 900 + 100 * o,
                                                    'end', i * 900 + 100 * o + 90,
                                                    'pointer', '/entry/' || i % 50 || '/resource/' || case o when 0 then 'code' else 'valueQuantity' end,
                                                    'fhirpath', 'Bundle.entry[' || i % 50 || '].resource.' || case o when 0 then 'code' else 'value' end))
                  from generate_series(0, 1) as o))::text as text
          from finding;
        insert into shown_events (organization_id, event_id, extractor_version, shown)
          select '{organization}', s.event_id, 2,
              case when s.panel
                then '{{"name": "Blood pressure panel", "code": {{"system": "http://loinc.org", "code": "85354-9", "display": "Blood pressure panel"}}, '
                  || '"effective": ' || to_json(to_char(s.at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) || ', "components": [' || s.texts || ']}}'
                else left(s.texts, -1) || ', "components": []}}' end
          from (select event_id, min(at) as at, min(ordinal) > 0 as panel, string_agg(text, ',' order by ordinal) as texts
                from shown group by event_id) s;
        analyze;
        "#
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *admin).await.context("making the patients")?;
    pack_shown(admin).await.context("packing what is shown")?;
    for table in ["clinical_events", "findings", "finding_evidence", "shown_events"] {
        sqlx::raw_sql(AssertSqlSafe(format!("vacuum analyze {table}"))).execute(&mut *admin).await?;
    }
    Ok(())
}

/// What SQL has written as texts, as the program stores it.
async fn pack_shown(admin: &mut PgConnection) -> anyhow::Result<()> {
    loop {
        let texts: Vec<(Uuid, String)> =
            sqlx::query_as("select event_id, shown from shown_events where shown is not null limit 10000")
                .fetch_all(&mut *admin)
                .await?;
        if texts.is_empty() {
            return Ok(());
        }
        let (events, packed): (Vec<Uuid>, Vec<Vec<u8>>) =
            texts.into_iter().map(|(event, text)| (event, pack(&text))).unzip();
        sqlx::query(
            "update shown_events s
             set shown = null, packed = k.packed
             from unnest($1::uuid[], $2::bytea[]) as k (id, packed)
             where s.event_id = k.id",
        )
        .bind(events)
        .bind(packed)
        .execute(&mut *admin)
        .await?;
    }
}

/// What PostgreSQL takes to make JSON of the same rows in one statement, read by one client: median of twenty.
async fn yardstick(admin: &mut PgConnection, organization: OrganizationId) -> anyhow::Result<f64> {
    let query = "select json_agg(row_to_json(e))::text
                 from (select e.*, (select json_agg(row_to_json(f))
                                    from (select f.*, (select json_agg(row_to_json(v))
                                                       from (select payload_sha256, byte_start, byte_end, pointer, fhirpath
                                                             from finding_evidence v
                                                             where v.organization_id = $1 and v.finding_id = f.id
                                                             order by v.ordinal) v) as evidence
                                          from findings f
                                          where f.organization_id = $1 and f.event_id = e.id
                                          order by f.ordinal) f) as findings
                       from clinical_events e
                       join patient_identifiers i
                         on i.organization_id = e.organization_id and i.patient_id = e.patient_id
                       where e.organization_id = $1 and i.value = 'B-0' and e.is_current
                       order by e.category, e.clinical_at desc, e.id desc) e";
    let mut times = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        let text: String = sqlx::query_scalar(query).bind(organization).fetch_one(&mut *admin).await?;
        ensure!(text.len() > 1_000, "the yardstick reads the chart");
        times.push(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(quantile(&times, 0.5))
}
