//! The whole table: every status × class of error × cause of waiting has words, and the right person acts.

use super::{Explanation, Situation, Who, explain};
use crate::engine::jobs::{ErrorView, JobView, ProgressView, StepView};
use crate::engine::state::{JobStatus, StepStatus, TaskState};
use crate::ids::{JobId, OrganizationId};
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn error(class: &str) -> ErrorView {
    ErrorView {
        code: format!("test_{class}"),
        class: class.to_owned(),
        message: "Something is so.".to_owned(),
        action: None,
    }
}

fn view(status: JobStatus, class: Option<&str>) -> JobView {
    let step = |name: &str, status, class: Option<&str>| StepView {
        name: name.to_owned(),
        status,
        attempts: 2,
        max_attempts: 5,
        started_at: Some(now()),
        finished_at: None,
        next_attempt_at: None,
        error: class.map(error),
        output: None,
    };
    let current = match status {
        JobStatus::Running => StepStatus::Running,
        JobStatus::Retrying => StepStatus::Retrying,
        JobStatus::Failed => StepStatus::Failed,
        _ => StepStatus::Pending,
    };
    let is_closing = matches!(status, JobStatus::Failed | JobStatus::Running);
    JobView {
        job_id: JobId::new(),
        organization_id: OrganizationId::new(),
        workflow: "fhir-bundle".to_owned(),
        workflow_version: 1,
        source: "webhook".to_owned(),
        status,
        current_step: Some("validate".to_owned()),
        steps: vec![step("validate", current, class), step("audit", StepStatus::Pending, None)],
        progress: ProgressView { done: 3, total: 9, unit: "chunks", per_second: None, expected_at: None },
        resource_count: BTreeMap::new(),
        result: None,
        error: class.filter(|_| is_closing).map(error),
        payload: None,
        duplicate_of: None,
        message: String::new(),
        submitted_by: "key:1".to_owned(),
        round: 1,
        created_at: now(),
        started_at: None,
        finished_at: status.is_terminal().then(now),
        updated_at: now(),
    }
}

fn calm() -> Situation {
    Situation { workers: 1, now: Some(now()), ..Situation::default() }
}

fn at(state: TaskState) -> Situation {
    Situation { queue_state: Some(state.as_str().to_owned()), ..calm() }
}

#[track_caller]
fn check(view: &JobView, situation: &Situation) -> Explanation {
    let words = explain(view, situation);
    for (name, text) in [("happened", &words.happened), ("act", &words.act), ("next", &words.next)] {
        let context = format!("{} {situation:?}: {name}: {text:?}", view.status);
        assert!(text.len() > 15 && text.ends_with(['.', ')']), "{context}");
        assert!(!text.contains("  ") && !text.contains(".."), "{context}");
        assert!(text.starts_with(|first: char| first.is_uppercase()), "{context}");
    }
    let is_nobody = words.who == Who::Nobody;
    assert_eq!(is_nobody, words.act.starts_with("Nobody"), "{words:?}");
    words
}

#[test]
fn no_case_is_without_words() {
    let head = JobId::new();
    let mut cases = 0;
    for status in JobStatus::ALL {
        for class in [None, Some("transient"), Some("sender"), Some("ours")] {
            let states: Vec<Option<TaskState>> = TaskState::ALL.iter().copied().map(Some).chain([None]).collect();
            for state in states {
                for bits in 0..64_u32 {
                    let has = |bit: u32| bits & (1 << bit) != 0;
                    let situation = Situation {
                        queue_state: state.map(|state| state.as_str().to_owned()),
                        deaths: if has(0) { 2 } else { 0 },
                        run_at: has(1).then(|| now() + Duration::minutes(1)),
                        lease_until: has(1).then(|| now() - Duration::minutes(1)),
                        is_paused: has(2),
                        is_capped: has(3),
                        head: has(4).then_some(head),
                        head_state: has(5).then(|| "delayed".to_owned()),
                        head_run_at: has(1).then(now),
                        ahead: if has(4) { 3 } else { 0 },
                        upload_until: has(1).then(now),
                        chunks_failed: i64::from(has(5)),
                        workers: i64::from(!has(3)),
                        now: Some(now()),
                    };
                    let words = check(&view(*status, class), &situation);
                    assert_eq!(words.status, *status);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 9 * 4 * 7 * 64);
}

#[test]
fn a_failure_names_who_must_act_by_its_class() {
    for (class, who) in [("sender", Who::Sender), ("transient", Who::Operator), ("ours", Who::Operator)] {
        let words = check(&view(JobStatus::Failed, Some(class)), &calm());
        assert_eq!(words.who, who);
        assert!(words.happened.contains(&format!("test_{class}: Something is so.")), "{words:?}");
        assert!(words.next.starts_with("Nothing happens by itself"), "{words:?}");
    }
    let mut parked = view(JobStatus::Failed, Some("ours"));
    parked.error.as_mut().unwrap().code = "worker_killed".to_owned();
    let words = check(&parked, &calm());
    assert!(words.who == Who::Operator && words.happened.contains("Three workers died"), "{words:?}");
    let words = check(&view(JobStatus::Failed, Some("ours")), &Situation { chunks_failed: 2, ..calm() });
    assert!(words.happened.contains("2 of its 9 chunks failed"), "{words:?}");
}

#[test]
fn bytes_that_are_gone_are_no_data_to_be_corrected() {
    for (code, who, word) in [("payload_purged", Who::Nobody, "refused"), ("payload_expired", Who::Sender, "no retry")]
    {
        let mut view = view(JobStatus::Failed, Some("sender"));
        let error = view.error.as_mut().unwrap();
        code.clone_into(&mut error.code);
        let explanation = check(&view, &calm());
        assert_eq!(explanation.who, who, "{code}");
        assert!(explanation.next.contains(word) && !explanation.act.contains("Correct"), "{explanation:?}");
    }
}

#[test]
fn who_waits_behind_another_job_is_told_which_and_why() {
    let head = JobId::new();
    let behind = |state: TaskState| Situation {
        head: Some(head),
        head_state: Some(state.as_str().to_owned()),
        head_run_at: Some(now()),
        ahead: 4,
        ..at(TaskState::Blocked)
    };
    let words = check(&view(JobStatus::Queued, None), &behind(TaskState::Leased));
    assert!(words.happened.contains(&head.to_string()) && words.happened.contains("4 jobs are before it"), "{words:?}");
    let words = check(&view(JobStatus::Queued, None), &behind(TaskState::Delayed));
    assert!(words.next.contains("tried again at 2027-01-15T08:00:00Z"), "{words:?}");
    assert_eq!(words.next_at, Some(now()));
    let paused = Situation { is_paused: true, ..behind(TaskState::Leased) };
    let words = check(&view(JobStatus::Queued, None), &paused);
    assert!(words.who == Who::Operator && words.act.contains("orgs resume"), "{words:?}");
    let idle = Situation { workers: 0, ..at(TaskState::Ready) };
    let words = check(&view(JobStatus::Queued, None), &idle);
    assert!(words.who == Who::Operator && words.act.contains("--role worker"), "{words:?}");
}

#[test]
fn backoff_lost_leases_deaths_chunks_and_uploads_have_their_times() {
    let run_at = now() + Duration::seconds(90);
    let words = check(
        &view(JobStatus::Retrying, Some("transient")),
        &Situation { run_at: Some(run_at), ..at(TaskState::Delayed) },
    );
    assert!(words.happened.contains("attempt 2 of 5") && words.happened.contains("test_transient"), "{words:?}");
    assert_eq!((words.next_at, words.who), (Some(run_at), Who::Nobody));

    let lost = Situation { lease_until: Some(now() - Duration::seconds(3)), ..at(TaskState::Leased) };
    assert!(check(&view(JobStatus::Running, None), &lost).happened.contains("stopped renewing its lease"));
    let held = Situation { lease_until: Some(now() + Duration::seconds(3)), ..at(TaskState::Leased) };
    assert!(check(&view(JobStatus::Running, None), &held).happened.contains("A worker runs its step validate now"));
    let closing = check(&view(JobStatus::Running, Some("sender")), &held);
    assert!(closing.next.contains("the job ends as failed"), "{closing:?}");

    let words = check(&view(JobStatus::Retrying, None), &Situation { deaths: 2, ..at(TaskState::Suspect) });
    assert!(words.happened.contains("died 2 times") && words.next.contains("third death"), "{words:?}");
    let words = check(&view(JobStatus::Running, None), &at(TaskState::Waiting));
    assert!(words.happened.contains("9 chunks") && words.happened.contains("3 are done"), "{words:?}");

    for (until, over) in [(now() + Duration::hours(1), false), (now() - Duration::hours(1), true)] {
        let words = check(&view(JobStatus::AwaitingUpload, None), &Situation { upload_until: Some(until), ..calm() });
        assert_eq!((words.who, words.act.contains("another")), (Who::Sender, over), "{words:?}");
    }
    assert_eq!(check(&view(JobStatus::Expired, None), &calm()).who, Who::Sender);
}

#[test]
fn what_ended_well_asks_nobody_and_issues_ask_the_sender() {
    assert_eq!(check(&view(JobStatus::Succeeded, None), &calm()).who, Who::Nobody);
    assert_eq!(check(&view(JobStatus::SucceededWithIssues, None), &calm()).who, Who::Sender);
    assert_eq!(check(&view(JobStatus::Cancelled, None), &calm()).who, Who::Nobody);
    let first = JobId::new();
    let again = JobView { duplicate_of: Some(first), round: 2, ..view(JobStatus::Succeeded, None) };
    let words = check(&again, &calm());
    assert!(words.happened.starts_with("This is round 2.") && words.happened.contains(&first.to_string()), "{words:?}");
}
