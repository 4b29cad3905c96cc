//! Bulk operations, watching, completions and helpful errors at the command line.

use super::{Desk, chartgate, good, invalid, json_lines, run};
use crate::support::app::job_of;
use crate::support::directory::TestDirectory;
use clap_complete::Shell;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn failed_jobs(desk: &Desk, count: u64) -> Vec<String> {
    let mut jobs = Vec::new();
    for seed in 0..count {
        jobs.push(job_of(&desk.app.submit(invalid(100 + seed)).await.1));
    }
    desk.app.run_until_idle().await;
    jobs
}

#[tokio::test]
async fn many_jobs_are_retried_with_a_canary_watched_undone_and_cancelled() {
    let mut desk = Desk::open().await;
    let jobs = failed_jobs(&desk, 4).await;
    // The data are as bad as before: the canary stops it, which the exit code says.
    let stopped =
        desk.admin(&["jobs", "retry", "--error-code", "validation_failed", "--canary", "2", "--reason", "try"]).await;
    assert_eq!(stopped.code, 1, "{}{}", stopped.out, stopped.err);
    // As soon as one has failed again; the other is counted when it ends, too.
    let sentences = [1, 2].map(|count| format!("Stopped: {count} of the first 2 jobs failed again."));
    assert!(sentences.iter().any(|sentence| stopped.out.contains(sentence)), "{}", stopped.out);
    assert!(stopped.err.contains("goes on by itself"), "{}", stopped.err);
    let listed = json_lines(&desk.admin(&["operations", "list", "--json"]).await.ok());
    let id = listed[0]["operationId"].as_str().unwrap().to_owned();
    assert_eq!((listed.len(), &listed[0]["status"], &listed[0]["done"]), (1, &json!("stopped"), &json!(2)));
    let table = desk.admin(&["operations", "list"]).await.ok();
    assert!(table.starts_with("OPERATION") && table.contains(&id) && table.contains("2/4"), "{table}");
    let waiting = json_lines(&desk.admin(&["operations", "jobs", &id, "--state", "waiting", "--json"]).await.ok());
    assert_eq!(waiting.len(), 2);
    assert!(desk.admin(&["operations", "jobs", &id]).await.ok().contains(&jobs[0]));
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let shown = desk.admin(&["operations", "show", &id]).await.ok();
        if shown.contains("2 failed again") && shown.contains("retry") {
            break;
        }
        assert!(Instant::now() < deadline, "{shown}");
    }
    desk.admin(&["operations", "resume", &id, "--reason", "all the same"]).await.ok();
    let watched = desk.admin(&["operations", "watch", &id, "--results", "--json"]).await;
    let end: Value = serde_json::from_str(&watched.out).unwrap();
    assert_eq!(
        (watched.code, &end["done"], &end["failedAgain"], &end["pending"]),
        (1, &json!(4), &json!(4), &json!(0))
    );

    // Nothing runs: what is retried waits, and is taken back.
    let operations = desk.app.app.operations();
    desk.stop().await;
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(chartgate::engine::operations::run::run(operations, stop.clone()));
    let begun = desk.admin(&["jobs", "retry", "--all", "--detach", "--reason", "too many"]).await.ok();
    let id = begun.trim().to_owned();
    desk.admin(&["operations", "watch", &id]).await.ok();
    let undone = desk.admin(&["operations", "undo", &id, "--reason", "wrong filter", "--json"]).await.json();
    assert_eq!((&undone["status"], &undone["undone"]), (&json!("undone"), &json!(4)));
    let again = desk.admin(&["operations", "stop", &id, "--reason", "x"]).await;
    assert!(again.code == 1 && again.err.contains("operation_not_possible"), "{}", again.err);

    let waiting = job_of(&desk.app.submit(good(1)).await.1);
    let counted = desk.admin(&["jobs", "cancel", "--status", "queued", "--dry-run", "--reason", "count"]).await.ok();
    assert_eq!(counted, "1 job(s) match\n");
    let cancelled =
        desk.admin(&["jobs", "cancel", "--status", "queued", "--reason", "wrong export", "--json"]).await.json();
    assert_eq!((&cancelled["kind"], &cancelled["done"]), (&json!("cancel"), &json!(1)));
    assert_eq!(desk.app.job(&waiting).await["status"], "cancelled");
    let reprocessed = desk.admin(&["jobs", "reprocess", &waiting, "--reason", "after all", "--json"]).await.json();
    assert_eq!((&reprocessed["kind"], &reprocessed["done"]), (&json!("reprocess"), &json!(1)));
    assert_eq!(desk.app.job(&waiting).await["round"], 2);
    let rounds = desk.app.job(&jobs[0]).await["round"].clone();
    for careless in [
        vec!["jobs", "retry", "--reason", "x"],
        vec!["jobs", "cancel", "--reason", "x"],
        vec!["jobs", "cancel", "--status", "queued"],
        vec!["jobs", "reprocess", "--reason", "x"],
        vec!["jobs", "list", "--fingerprint", "a/b"],
        vec!["jobs", "retry", "--fingerprint", "a/b/c", "--step", "b", "--reason", "x"],
        // Of one job what is meant for many would do more than was asked for.
        vec!["jobs", "cancel", jobs[0].as_str(), "--dry-run", "--reason", "x"],
        vec!["jobs", "retry", jobs[0].as_str(), "--dry-run", "--reason", "x"],
        vec!["jobs", "retry", jobs[0].as_str(), "--canary", "1", "--reason", "x"],
        vec!["jobs", "reprocess", jobs[0].as_str(), "--status", "failed", "--reason", "x"],
    ] {
        let refused = desk.admin(&careless).await;
        assert!(refused.code == 2 && refused.err.contains("--"), "{careless:?}: {}", refused.err);
    }
    assert_eq!(desk.app.job(&jobs[0]).await["round"], rounds, "nothing was done to it");
    stop.cancel();
}

#[tokio::test]
async fn watching_ends_with_the_jobs_result_and_lines_stand_for_changes() {
    let mut desk = Desk::open().await;
    let job = job_of(&desk.app.submit(good(1)).await.1);
    let watched = desk.sender(&["jobs", "watch", &job]).await.ok();
    assert!(
        watched.contains("  audit             succeeded") && watched.ends_with("succeeded: All steps succeeded.\n"),
        "{watched}"
    );
    let lines = json_lines(&desk.sender(&["jobs", "watch", &job, "--json"]).await.ok());
    assert_eq!(lines.last().unwrap()["status"], "succeeded");
    let newest = desk.sender(&["jobs", "watch", "--until-done"]).await.ok();
    assert!(newest.starts_with(&job) && newest.contains("succeeded"), "{newest}");
    let failed = failed_jobs(&desk, 1).await.remove(0);
    assert_eq!(desk.sender(&["jobs", "watch", &failed]).await.code, 1);
    let newest = desk.sender(&["jobs", "watch", "--until-done", "--json"]).await;
    assert_eq!((newest.code, json_lines(&newest.out).len()), (1, 2));
    desk.stop().await;
    let waiting = job_of(&desk.app.submit(good(2)).await.1);
    let environment = [("CHARTGATE_URL", desk.app.url.as_str()), ("CHARTGATE_API_KEY", &desk.app.organization.sender)];
    let watching =
        chartgate(&environment, &["jobs", "watch", &waiting]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    desk.sender(&["jobs", "cancel", &waiting, "--reason", "x", "--json"]).await.ok();
    let done = tokio::time::timeout(Duration::from_secs(30), watching.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(done.status.code(), Some(1), "a cancelled job is no success");
}

/// In a terminal the picture is drawn anew. util-linux's `script` makes one.
#[tokio::test]
async fn in_a_terminal_watching_draws_and_ends_with_the_same_code() {
    let desk = Desk::open().await;
    if tokio::process::Command::new("script").arg("--version").output().await.is_err() {
        println!("skipped: no `script` on this machine");
        return;
    }
    let failed = failed_jobs(&desk, 1).await.remove(0);
    let words = format!("{} jobs watch {failed}", env!("CARGO_BIN_EXE_chartgate"));
    let output = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &words, "/dev/null"])
        .env("CHARTGATE_URL", &desk.app.url)
        .env("CHARTGATE_API_KEY", &desk.app.organization.sender)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_mins(1), output).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("✗ validate") && text.contains("validation_failed") && text.contains("\u{1b}["), "{text}");
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let desk = Desk::open().await;
    let typo = desk.sender(&["jobs", "show", "job_01h455vb4pex5vsknk084sn0"]).await;
    assert!(typo.code == 1 && typo.err.contains("That is not a job's id"), "{}", typo.err);
    let unknown = desk.sender(&["jobs", "explain", "job_01h455vb4pex5vsknk084sn02q"]).await;
    assert!(unknown.err.contains("no job of this key's organization has it"), "{}", unknown.err);
    let operation = desk.sender(&["jobs", "show", "op_01h455vb4pex5vsknk084sn02q"]).await;
    assert!(operation.err.contains("chartgate operations show op_"), "{}", operation.err);
    let none = desk.admin(&["operations", "show", "op_01h455vb4pex5vsknk084sn02q"]).await;
    assert!(none.code == 1 && none.err.contains("chartgate operations list"), "{}", none.err);
    let role = desk.sender(&["operations", "list"]).await;
    assert!(role.code == 1 && role.err.contains("keys create --role admin"), "{}", role.err);
    let key = desk.run_as("cgk_0123456789abcdef_x", &["jobs", "list"]).await;
    assert!(key.code == 1 && key.err.contains("Set CHARTGATE_API_KEY"), "{}", key.err);
}

#[tokio::test]
async fn shells_complete_and_every_command_shows_examples() {
    for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
        let script = run(&[], &["completions", &shell.to_string()]).await.ok();
        for word in ["operations", "reprocess", "completions", "canary"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
    }
    // A shell reads what is made for it.
    let script = run(&[], &["completions", "bash"]).await.ok();
    let asking =
        "COMP_WORDS=(chartgate operations u); COMP_CWORD=2; _chartgate chartgate u operations; echo ${COMPREPLY[@]}";
    let files = TestDirectory::new();
    let file = files.path().join("complete.bash");
    std::fs::write(&file, format!("{script}\n{asking}\n")).unwrap();
    let bash = tokio::process::Command::new("bash").arg(&file).output().await.unwrap();
    assert_eq!(String::from_utf8(bash.stdout).unwrap().trim(), "undo");
    for command in [
        vec!["serve"],
        vec!["demo"],
        vec!["submit"],
        vec!["upload"],
        vec!["validate"],
        vec!["jobs", "list"],
        vec!["jobs", "show"],
        vec!["jobs", "watch"],
        vec!["jobs", "retry"],
        vec!["jobs", "reprocess"],
        vec!["jobs", "cancel"],
        vec!["jobs", "explain"],
        vec!["operations", "list"],
        vec!["operations", "show"],
        vec!["operations", "jobs"],
        vec!["operations", "watch"],
        vec!["operations", "stop"],
        vec!["operations", "resume"],
        vec!["operations", "undo"],
        vec!["orgs", "create"],
        vec!["orgs", "list"],
        vec!["orgs", "pause"],
        vec!["orgs", "resume"],
        vec!["keys", "create"],
        vec!["keys", "list"],
        vec!["keys", "revoke"],
        vec!["keys", "rotate"],
        vec!["keys", "bootstrap"],
        vec!["workflows", "list"],
        vec!["workflows", "check"],
        vec!["audit", "verify"],
        vec!["audit", "export"],
        vec!["reviews", "list"],
        vec!["reviews", "show"],
        vec!["reviews", "decide"],
        vec!["doctor"],
        vec!["openapi"],
        vec!["migrate"],
        vec!["completions"],
    ] {
        let help = run(&[], &[command.as_slice(), &["--help"]].concat()).await.ok();
        let line = format!(" chartgate {}", command.join(" "));
        assert!(help.contains("Example") && help.contains(&line), "{command:?}: {help}");
    }
}
