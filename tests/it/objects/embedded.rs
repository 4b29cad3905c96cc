//! What only the embedded S3 promises: its directory, its restarts, its limits, and which error it gives for what.

use super::{Multipart, PART_BYTES_MIN, code, keys, put};
use crate::support::directory::TestDirectory;
use crate::support::objects::{BUCKET, TestObjects, header_lines};
use crate::support::program::{self, Program};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use base64::Engine as _;
use bytes::Bytes;
use chartgate::objects::embedded::{CreatedObject, EmbeddedS3Error};
use chartgate::objects::{ObjectError, Objects, PutTerms};
use sha2::{Digest as _, Sha256};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

fn files_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_second_put_replaces_and_a_delete_removes_and_both_can_be_repeated() {
    let store = TestObjects::start().await;
    put(&store.objects, "k", "first").await;
    put(&store.objects, "k", "second").await;
    assert_eq!(store.objects.get("k").await.unwrap(), "second");
    for _ in 0..2 {
        store.objects.delete("k").await.unwrap();
        assert_eq!(store.objects.head("k").await.unwrap(), None);
        assert!(keys(&store.objects, "").await.is_empty());
    }
    assert_eq!(files_below(&store.dir().join("buckets")), 0);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let store = TestObjects::start().await;
    assert!(matches!(store.objects.get("nothing").await, Err(ObjectError::NotFound)));
    assert_eq!(store.objects.head("nothing").await.unwrap(), None);
    let other = Objects::connect(&chartgate::objects::ObjectsOptions {
        bucket: "other-bucket".to_owned(),
        ..store.client_options()
    });
    assert!(matches!(other.ready().await, Err(ObjectError::NotFound)));
    let refused = other.put("k", Bytes::new(), "text/plain", &[]).await;
    assert!(matches!(refused, Err(ObjectError::NotFound)), "{refused:?}");
    store.objects.ready().await.unwrap();
    store.objects.ensure_bucket().await.unwrap();
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing_and_replaces_nothing() {
    let store = TestObjects::start().await;
    let plain = store.sdk_with(RequestChecksumCalculation::WhenRequired);
    put(&store.objects, "there", "kept").await;
    for key in ["there", "not-there"] {
        let request = || plain.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"x"));
        for refused in [
            request().checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await,
            request().checksum_sha1("AAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await,
            request().checksum_crc32("AAAAAA==").send().await,
            request().checksum_crc32_c("AAAAAA==").send().await,
            request().checksum_crc64_nvme("AAAAAAAAAAA=").send().await,
            request().content_md5("AAAAAAAAAAAAAAAAAAAAAA==").send().await,
        ] {
            assert_eq!(code(&refused.unwrap_err()), "BadDigest");
        }
        assert_eq!(code(&request().content_md5("nonsense").send().await.unwrap_err()), "InvalidDigest");
    }
    assert_eq!(store.objects.get("there").await.unwrap(), "kept");
    assert_eq!(store.objects.head("not-there").await.unwrap(), None);
    assert_eq!(files_below(&store.dir().join("tmp")), 0);
}

#[tokio::test]
async fn any_key_works_and_none_leaves_its_bucket() {
    let mut store = TestObjects::start().await;
    let long = ["k".repeat(170), "x".repeat(1000), vec!["y".repeat(99); 9].join("/"), "é".repeat(500)];
    let odd = [
        "p",
        "p/q",
        "x//y",
        "x/y",
        "odd/é ü+%41&=?#.png",
        "../escape",
        "/leading",
        "trailing/",
        "..",
        "a/../b",
        "tab\there",
    ];
    let mut all: Vec<String> = long.into_iter().chain(odd.into_iter().map(str::to_owned)).collect();
    for key in &all {
        let put = store.objects.put(key, Bytes::from(key.clone()), "text/plain", &[]).await;
        put.unwrap_or_else(|error| panic!("{key}: {error:?}"));
    }
    // Distinct: none was replaced by another.
    for key in &all {
        assert_eq!(store.objects.get(key).await.unwrap(), key.as_bytes(), "{key}");
    }
    all.sort();
    assert_eq!(keys(&store.objects, "").await, all);
    store = store.restart(|_| ()).await;
    assert_eq!(keys(&store.objects, "").await, all);
    let refused = store.objects.put(&"x".repeat(1025), Bytes::new(), "text/plain", &[]).await.unwrap_err();
    assert!(matches!(&refused, ObjectError::Refused { code, .. } if code == "KeyTooLongError"), "{refused:?}");
}

#[tokio::test]
async fn a_restart_keeps_everything_and_clears_what_a_crash_left() {
    let mut store = TestObjects::start().await;
    store.objects.put("kept", Bytes::from_static(b"v"), "text/plain", &[("job", "7".to_owned())]).await.unwrap();
    let before = store.objects.head("kept").await.unwrap();
    store = store
        .restart(|dir| {
            // Killed in the middle of a PUT, and with a damaged file that a broken disk left.
            std::fs::write(dir.join("tmp/half"), b"half an obj").unwrap();
            std::fs::write(dir.join("buckets").join(BUCKET).join("objects/00").join("00".repeat(32)), b"torn").unwrap();
        })
        .await;
    assert_eq!(store.objects.head("kept").await.unwrap(), before);
    assert_eq!(store.objects.get("kept").await.unwrap(), "v");
    assert_eq!(keys(&store.objects, "").await, ["kept"]);
    assert_eq!(files_below(&store.dir().join("tmp")), 0);
    put(&store.objects, "more", "v").await;
}

/// Not a test: the program that the next test kills. It tells every object that was acknowledged.
#[tokio::test]
async fn program_that_gets_killed() {
    let Some(directory) = program::directory() else { return };
    let store = TestObjects::start_in(TestDirectory::of(directory)).await;
    let mut out = std::io::stdout();
    for number in 1u32.. {
        let key = format!("k/{number}");
        store.objects.put(&key, body_of(number), "text/plain", &[("number", number.to_string())]).await.unwrap();
        // Also replaced over and over: one version or the other, never something in between.
        store
            .objects
            .put("k/replaced", body_of(number), "text/plain", &[("number", number.to_string())])
            .await
            .unwrap();
        writeln!(out, "stored {number}").unwrap();
    }
}

fn body_of(number: u32) -> Bytes {
    number.to_string().repeat(5000).into()
}

#[tokio::test]
async fn a_killed_server_keeps_whole_every_object_that_it_acknowledged() {
    for _ in 0..3 {
        let directory = TestDirectory::new();
        let mut program = Program::spawn("objects::embedded::program_that_gets_killed", directory.path());
        let first = (0..20).map_while(|_| program.next("stored ")).last().expect("the program stored objects");
        let stored = program.kill("stored ").unwrap_or(first);
        let store = TestObjects::start_in(directory).await;
        for number in 1..=stored {
            let key = format!("k/{number}");
            assert_eq!(store.objects.get(&key).await.unwrap(), body_of(number), "{key}");
        }
        let head = store.objects.head("k/replaced").await.unwrap().unwrap();
        let number: u32 = head.metadata["number"].parse().unwrap();
        assert!(number == stored || number == stored + 1, "{number} after {stored}");
        assert_eq!(store.objects.get("k/replaced").await.unwrap(), body_of(number));
        assert_eq!(files_below(&store.dir().join("tmp")), 0);
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let store = TestObjects::start().await;
    let error = store.start_second().await.unwrap_err();
    assert!(matches!(error, EmbeddedS3Error::InUse { .. }), "{error}");
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing() {
    let store = TestObjects::start().await;
    let terms = PutTerms {
        size: Some(1000),
        content_type: "text/plain",
        metadata: &[],
        sha256: None,
        expires_in: Duration::from_mins(1),
    };
    let presigned = store.objects.presign_put("cut", &terms).await.unwrap();
    let rest = presigned.url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let headers = header_lines(&presigned.headers);
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("PUT {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\nonly the beginning");
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(store.objects.head("cut").await.unwrap(), None);
    assert_eq!(files_below(&store.dir().join("tmp")), 0);
}

#[tokio::test]
async fn errors_say_who_has_to_act() {
    let store = TestObjects::start().await;
    let wrong = chartgate::objects::ObjectsOptions { secret_key: Some("wrong".into()), ..store.client_options() };
    let error = Objects::connect(&wrong).get("k").await.unwrap_err();
    assert!(matches!(&error, ObjectError::Denied { code } if code == "SignatureDoesNotMatch"), "{error:?}");
    let unknown = chartgate::objects::ObjectsOptions { access_key: Some("unknown".into()), ..store.client_options() };
    let error = Objects::connect(&unknown).put("k", Bytes::new(), "text/plain", &[]).await.unwrap_err();
    assert!(matches!(&error, ObjectError::Denied { .. }), "{error:?}");
    // Nobody listens on a port that was just free.
    let away =
        chartgate::objects::ObjectsOptions { endpoint: Some("http://127.0.0.1:1".into()), ..store.client_options() };
    let error = Objects::connect(&away).ready().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    // Somebody listens and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Some(format!("http://{}", silent.local_addr().unwrap()));
    let slow =
        chartgate::objects::ObjectsOptions { endpoint, timeout: Duration::from_millis(200), ..store.client_options() };
    let started = std::time::Instant::now();
    let error = Objects::connect(&slow).ready().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn whoever_listens_hears_of_every_new_object() {
    let mut store = TestObjects::start().await;
    put(&store.objects, "up/one", "v").await;
    let created = store.created.recv().await.unwrap();
    assert!(created == CreatedObject { bucket: BUCKET.to_owned(), key: "up/one".to_owned() });
    let sdk = store.sdk();
    sdk.put_object()
        .bucket(BUCKET)
        .key("up/one")
        .if_none_match("*")
        .body(ByteStream::from_static(b"x"))
        .send()
        .await
        .unwrap_err();
    assert!(store.created.try_recv().is_err(), "told of an object that was refused");
}

#[tokio::test]
async fn a_multipart_upload_appears_when_it_is_complete() {
    let mut store = TestObjects::start().await;
    let sdk = store.sdk();
    let mut upload = Multipart::begin(&sdk, BUCKET, "mp/one").await;
    upload.part(2, vec![2; 1]).await;
    upload.part(1, vec![0; PART_BYTES_MIN]).await;
    upload.part(1, vec![1; PART_BYTES_MIN]).await;
    assert_eq!(store.objects.head("mp/one").await.unwrap(), None);
    assert!(keys(&store.objects, "").await.is_empty());
    let unfinished = store.objects.unfinished_uploads("mp/").await.unwrap();
    assert_eq!((unfinished.len(), unfinished[0].key.as_str(), &unfinished[0].upload_id), (1, "mp/one", &upload.id));
    let parts = sdk.list_parts().bucket(BUCKET).key("mp/one").upload_id(&upload.id).send().await.unwrap();
    assert_eq!(
        parts.parts().iter().filter_map(aws_sdk_s3::types::Part::size).collect::<Vec<_>>(),
        [5 * 1024 * 1024, 1]
    );

    let [last, replaced, first] = upload.parts.clone().try_into().unwrap();
    assert_eq!(upload.complete(vec![replaced, last.clone()]).await, Err("InvalidPart".to_owned()));
    assert_eq!(upload.complete(vec![last.clone(), first.clone()]).await, Err("InvalidPartOrder".to_owned()));
    assert_eq!(
        upload.complete(vec![first.clone(), CompletedPart::builder().part_number(3).e_tag("00").build()]).await,
        Err("InvalidPart".to_owned())
    );
    assert_eq!(keys(&store.objects, "").await, [""; 0]);
    // What was refused can still be completed, also by a server that was restarted in between.
    let id = upload.id.clone();
    store = store.restart(|_| ()).await;
    let sdk = store.sdk();
    let upload = Multipart { bucket: BUCKET, sdk: &sdk, key: "mp/one", id, parts: Vec::new() };
    upload.complete(vec![first, last]).await.unwrap();

    let head = store.objects.head("mp/one").await.unwrap().unwrap();
    assert_eq!(
        (head.size, head.content_type.as_deref(), head.metadata["job"].as_str()),
        (PART_BYTES_MIN as u64 + 1, Some("video/mp4"), "7")
    );
    assert!(head.etag.ends_with("-2"), "{}", head.etag);
    assert_eq!(
        store.objects.get_range("mp/one", PART_BYTES_MIN as u64 - 1..PART_BYTES_MIN as u64 + 1).await.unwrap(),
        [1u8, 2].as_slice()
    );
    assert!(store.objects.unfinished_uploads("").await.unwrap().is_empty());
    assert_eq!(upload.complete(vec![]).await, Err("NoSuchUpload".to_owned()));
    assert_eq!(store.created.recv().await.unwrap().key, "mp/one");
}

#[tokio::test]
async fn small_parts_and_aborted_uploads_are_refused() {
    let store = TestObjects::start().await;
    let sdk = store.sdk();
    let mut upload = Multipart::begin(&sdk, BUCKET, "mp").await;
    upload.part(1, vec![1; 100]).await;
    upload.part(2, vec![2; 100]).await;
    assert_eq!(upload.complete(upload.parts.clone()).await, Err("EntityTooSmall".to_owned()));
    let unfinished = store.objects.unfinished_uploads("").await.unwrap();
    for _ in 0..2 {
        store.objects.abort_upload(&unfinished[0]).await.unwrap();
    }
    assert_eq!(upload.complete(upload.parts.clone()).await, Err("NoSuchUpload".to_owned()));
    let late = sdk
        .upload_part()
        .bucket(BUCKET)
        .key("mp")
        .upload_id(&upload.id)
        .part_number(1)
        .body(ByteStream::from_static(b"x"))
        .send()
        .await;
    assert_eq!(code(&late.unwrap_err()), "NoSuchUpload");
    let foreign = sdk.abort_multipart_upload().bucket(BUCKET).key("mp").upload_id("../../objects").send().await;
    assert_eq!(code(&foreign.unwrap_err()), "NoSuchUpload");
    assert_eq!(files_below(&store.dir().join("buckets")), 0);
}

#[tokio::test]
async fn parts_have_checksums_of_the_algorithm_that_was_named_at_the_begin_only() {
    let server = TestObjects::start().await;
    // Without checksums that the SDK adds by itself.
    let sdk = server.sdk_with(RequestChecksumCalculation::WhenRequired);
    let begin = async |algorithm: Option<ChecksumAlgorithm>| {
        let begun = sdk.create_multipart_upload().bucket(BUCKET).key("k").set_checksum_algorithm(algorithm).send();
        begun.await.unwrap().upload_id.unwrap()
    };
    let body = vec![7u8; 100];
    let sha256 = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&body));
    let part = |id: &str| {
        sdk.upload_part().bucket(BUCKET).key("k").upload_id(id).part_number(1).body(ByteStream::from(body.clone()))
    };
    let complete = async |id: &str, parts: CompletedPart| {
        let parts = CompletedMultipartUpload::builder().parts(parts).build();
        let request = sdk.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(id).multipart_upload(parts);
        request.send().await.map(|_| ()).map_err(|error| code(&error).to_owned())
    };

    let unnamed = begin(None).await;
    let refused = part(&unnamed).checksum_sha256(&sha256).send().await.unwrap_err();
    assert_eq!(code(&refused), "InvalidRequest");
    let message = aws_sdk_s3::error::ProvideErrorMetadata::message(&refused).unwrap().to_owned();
    assert_eq!(message, "Checksum Type mismatch occurred, expected checksum Type: null, actual checksum Type: SHA256");
    part(&unnamed).send().await.unwrap();

    let named = begin(Some(ChecksumAlgorithm::Sha256)).await;
    let other = part(&named).checksum_crc32("AAAAAA==").send().await.unwrap_err();
    assert_eq!(code(&other), "InvalidRequest");
    let etag = part(&named).checksum_sha256(&sha256).send().await.unwrap().e_tag;
    let completed = || CompletedPart::builder().part_number(1).set_e_tag(etag.clone());
    assert_eq!(complete(&named, completed().build()).await, Err("InvalidRequest".to_owned()));
    let wrong = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(b"other"));
    assert_eq!(complete(&named, completed().checksum_sha256(wrong).build()).await, Err("InvalidPart".to_owned()));
    complete(&named, completed().checksum_sha256(sha256).build()).await.unwrap();
    assert_eq!(server.objects.get("k").await.unwrap(), body);
}
