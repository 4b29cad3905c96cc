//! Thousands of events of hundreds of patients at once: nothing is lost, the order of each patient is kept, and the charts are
//! those that a second, plain reading of the same posts gives.

use super::{EVENT, post};
use crate::http::get;
use crate::support::app::TestApp;
use chartgate::ingest::athena::sample::{Traffic, patient_id};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

const PATIENTS: usize = 500;
const CONNECTIONS: usize = 32;

/// A thousand in the suite; ten thousand with `CHARTGATE_TEST_EVENTS=10000`.
fn events_count() -> usize {
    std::env::var("CHARTGATE_TEST_EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

/// A post as the test understands it.
#[derive(Clone)]
struct Posted {
    body: Vec<u8>,
    event: Value,
}

impl Posted {
    fn patient(&self) -> &str {
        self.event["athena_patient_id"].as_str().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_busy_day_is_on_its_chart_in_its_order() {
    let app = Arc::new(TestApp::start().await);
    let posts: Vec<Posted> = Traffic::new(11, PATIENTS)
        .take(events_count())
        .map(|post| Posted { event: serde_json::from_slice(&post.body).unwrap(), body: post.body })
        .collect();
    let workers = app.workers();
    // Each patient's events go over one connection, as from one browser.
    let mut lanes: Vec<Vec<(usize, Posted)>> = vec![Vec::new(); CONNECTIONS];
    for (index, posted) in posts.iter().enumerate() {
        let patient: usize = posted.patient().parse().unwrap();
        lanes[patient % CONNECTIONS].push((index, posted.clone()));
    }
    let tasks = lanes.into_iter().map(|lane| {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            let mut answers = Vec::with_capacity(lane.len());
            for (index, posted) in lane {
                let answer = post(&app, EVENT, posted.body).await;
                assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
                answers.push((index, answer.json()));
            }
            answers
        })
    });
    let mut answers: Vec<(usize, Value)> =
        futures::future::join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
    answers.sort_by_key(|(index, _)| *index);
    drain(&app).await;
    workers.stop().await;

    // Every 202 is in the database, with the job that it named.
    let mut owner = app.owner().await;
    let stored: Vec<(String, String, i64)> =
        sqlx::query_as("select a.id::text, j.id::text, j.seq from jobs j left join athena_events a on a.job_id = j.id where j.source = 'athena'")
            .fetch_all(&mut owner)
            .await
            .map(|rows: Vec<(Option<String>, String, i64)>| {
                rows.into_iter().map(|(event, job, seq)| (event.unwrap_or_default(), job, seq)).collect()
            })
            .unwrap();
    let seq_of_job: HashMap<String, i64> = stored.iter().map(|(_, job, seq)| (job.clone(), *seq)).collect();
    let uuid = |id: &Value| {
        let job: chartgate::ids::JobId = id.as_str().unwrap().parse().unwrap();
        job.0.to_string()
    };
    let mut accepted = BTreeSet::new();
    let mut last_seq: HashMap<&str, i64> = HashMap::new();
    for (index, answer) in &answers {
        let job = uuid(&answer["job_id"]);
        let seq = *seq_of_job.get(&job).unwrap_or_else(|| panic!("{answer} is not in the database"));
        if accepted.insert(job) {
            // A new job stands behind all earlier ones of its patient.
            let before = last_seq.insert(posts[*index].patient(), seq);
            assert!(before.is_none_or(|before| before < seq));
        }
    }
    assert_eq!(accepted.len(), seq_of_job.len(), "no job without a 202");
    let unfinished: i64 = sqlx::query_scalar("select count(*) from jobs where status <> 'succeeded'")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(unfinished, 0);
    // Events of one patient were processed one after another, in that order.
    let overlapping: i64 = sqlx::query_scalar(
        "select count(*) from (
           select j.lane, min(s.started_at) as began,
                  lag(max(s.finished_at)) over (partition by j.lane order by j.seq) as ended_before
           from jobs j join job_steps s on s.job_id = j.id
           group by j.id, j.lane, j.seq) w
         where began < ended_before",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(overlapping, 0);

    // The charts.
    let expected = fold(&posts);
    let mut items = 0;
    for number in 0..PATIENTS {
        let patient = patient_id(11, number);
        let Some(expected) = expected.get(patient.as_str()) else { continue };
        let view = get(&app, &app.organization.reader, &format!("/ingest/clinical/{patient}")).await.json();
        assert_eq!(view["event_count"].as_u64(), Some(expected.events.len() as u64), "{patient}");
        let shown = shown(&view);
        let wanted = expected.lines();
        items += wanted.len();
        let missing: Vec<_> = wanted.iter().filter(|line| !shown.contains(line)).collect();
        let surplus: Vec<_> = shown.iter().filter(|line| !wanted.contains(line)).collect();
        assert!(shown == wanted, "{patient}: missing {missing:#?}, surplus {surplus:#?}");
    }
    println!("{} posts, {} jobs, {items} items on {} charts", posts.len(), accepted.len(), expected.len());
}

/// Wait until every job is at its end. The tests' PostgreSQL has no autovacuum, and this queue is a busy one.
async fn drain(app: &TestApp) {
    let mut owner = app.owner().await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(20);
    loop {
        sqlx::raw_sql("vacuum (analyze) queue").execute(&mut owner).await.unwrap();
        let rows: i64 = sqlx::query_scalar("select count(*) from queue").fetch_one(&mut owner).await.unwrap();
        if rows == 0 {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{rows} rows are still in the queue");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

/// What one patient's events say, as a plain reading has it.
#[derive(Default)]
struct Chart {
    /// Distinct type and payload.
    events: Vec<(String, Value)>,
    /// Key → (captured, line): the newest capture of each thing.
    things: BTreeMap<String, (String, String)>,
}

impl Chart {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.things.values().map(|(_, line)| line.clone()).collect();
        lines.sort_unstable();
        lines
    }

    fn see(&mut self, key: String, captured: &str, line: String) {
        let newer = self.things.get(&key).is_none_or(|(before, _)| before.as_str() < captured);
        if newer {
            self.things.insert(key, (captured.to_owned(), line));
        }
    }
}

fn fold(posts: &[Posted]) -> HashMap<&str, Chart> {
    let mut charts: HashMap<&str, Chart> = HashMap::new();
    for posted in posts {
        let chart = charts.entry(posted.patient()).or_default();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (kind, payload) = (text(&posted.event["event_type"]), &posted.event["payload"]);
        // Captured times are all in UTC and of one form: their texts compare as the times do.
        let captured = text(&posted.event["captured_at"]);
        let same = |(one, said): &(String, Value)| *one == kind && said == payload;
        let event = chart.events.iter().position(same).unwrap_or_else(|| {
            chart.events.push((kind.clone(), payload.clone()));
            chart.events.len() - 1
        });
        let list = |name: &str| payload[name].as_array().cloned().unwrap_or_default();
        match kind.as_str() {
            "vitals" => {
                for group in list("vitals") {
                    for readings in group["readings"].as_array().unwrap() {
                        let readings = readings.as_array().unwrap();
                        let values: Vec<String> = readings.iter().map(|reading| text(&reading["value"])).collect();
                        let line = format!("vitals {} at {}", values.join("/"), text(&readings[0]["readingtaken"]));
                        chart.see(format!("vital {}", readings[0]["readingid"]), &captured, line);
                    }
                }
            }
            "vital" => {
                for sign in ["bp", "pulse", "resp", "spo2"] {
                    let line = format!("vitals {} at {captured}", text(&payload[sign]));
                    chart.see(format!("vital {event} {sign} {captured}"), &captured, line);
                }
            }
            "labs" => {
                for result in list("results") {
                    for analyte in result["analytes"].as_array().unwrap() {
                        let line = format!(
                            "labs {}: {} {} at {}",
                            text(&analyte["analytename"]),
                            text(&analyte["value"]),
                            text(&analyte["units"]),
                            text(&analyte["analytedate"])
                        );
                        chart.see(format!("lab {} {}", result["labresultid"], analyte["analyteid"]), &captured, line);
                    }
                }
            }
            "lab" => {
                let line = format!(
                    "labs {}: {} {} at {}",
                    text(&payload["test_name"]),
                    text(&payload["result"]),
                    text(&payload["unit"]),
                    text(&payload["result_date"])
                );
                chart.see(format!("lab {event}"), &captured, line);
            }
            "medications" => {
                for row in list("medications") {
                    let status = if row[0]["isdiscontinued"] == "true" { "stopped" } else { "active" };
                    let line = format!("medications {} {status}", text(&row[0]["medication"]));
                    chart.see(format!("medication {}", row[0]["medicationentryid"]), &captured, line);
                }
            }
            "medication" => {
                chart.see(
                    format!("medication {event}"),
                    &captured,
                    format!("medications {} active", text(&payload["medication_name"])),
                );
            }
            "problems" => {
                for problem in list("problems") {
                    chart.see(
                        format!("problem {}", problem["problemid"]),
                        &captured,
                        format!("problems {}", text(&problem["name"])),
                    );
                }
            }
            "allergies" => {
                if payload["nkda"] == true {
                    chart.see(format!("nkda {event}"), &captured, "allergies none".to_owned());
                }
                for allergy in list("allergies") {
                    chart.see(
                        format!("allergy {}", allergy["allergenid"]),
                        &captured,
                        format!("allergies {}", text(&allergy["allergenname"])),
                    );
                }
            }
            "encounter" => {
                let line = format!("encounters at {}", text(&payload["encounterdate"]));
                chart.see(format!("encounter {}", payload["encounterid"]), &captured, line);
            }
            "document" => {
                let line = format!("documents {} at {}", text(&payload["title"]), text(&payload["documentdate"]));
                chart.see(format!("document {}", payload["documentid"]), &captured, line);
            }
            "immunization" => {
                let line =
                    format!("immunizations {} at {}", text(&payload["description"]), text(&payload["administerdate"]));
                chart.see(format!("immunization {}", payload["vaccineid"]), &captured, line);
            }
            "procedure" => {
                let line =
                    format!("procedures {} at {}", text(&payload["description"]), text(&payload["proceduredate"]));
                chart.see(format!("procedure {}", payload["procedureid"]), &captured, line);
            }
            _ => chart.see(format!("other {event}"), &captured, "other".to_owned()),
        }
    }
    charts
}

/// The items of a chart, a line each.
fn shown(view: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for (category, items) in view["clinical_data"].as_object().unwrap() {
        for item in items.as_array().into_iter().flatten() {
            let text = |name: &str| item[name].as_str().unwrap_or("?").to_owned();
            lines.push(match category.as_str() {
                "vitals" => {
                    let components = item["components"].as_array().unwrap();
                    let values: Vec<&str> = components.iter().map(|part| part["value"].as_str().unwrap()).collect();
                    let value = if values.is_empty() { text("value") } else { values.join("/") };
                    format!("vitals {value} at {}", text("effective"))
                }
                "labs" => format!("labs {}: {} {} at {}", text("name"), text("value"), text("unit"), text("effective")),
                "medications" => format!("medications {} {}", text("name"), text("status")),
                "problems" => format!("problems {}", text("name")),
                "allergies" if item["negated"] == true => "allergies none".to_owned(),
                "allergies" => format!("allergies {}", text("name")),
                "encounters" => format!("encounters at {}", text("effective")),
                "documents" | "immunizations" | "procedures" => {
                    format!("{category} {} at {}", text("name"), text("effective"))
                }
                _ => category.clone(),
            });
        }
    }
    lines.sort_unstable();
    lines
}
