//! The contract of object storage, through the gateway's client, the plain SDK and raw requests, on the embedded S3.

use crate::support::directory::TestDirectory;
use crate::support::objects::{BUCKET, TestObjects, header_lines, raw};
use crate::support::program::{self, Program};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use chartgate::objects::embedded::{CreatedObject, EmbeddedS3Error};
use chartgate::objects::{ObjectError, Objects, PutTerms};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

const PART_BYTES_MIN: usize = 5 * 1024 * 1024;

fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> &str {
    error.code().unwrap_or("no code")
}

async fn put(objects: &Objects, key: &str, body: &'static str) {
    objects.put(key, Bytes::from_static(body.as_bytes()), "text/plain", &[]).await.unwrap();
}

async fn keys(objects: &Objects, prefix: &str) -> Vec<String> {
    objects.list(prefix, None, 1000).await.unwrap().into_iter().map(|entry| entry.key).collect()
}

fn files_below(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn an_object_comes_back_with_its_bytes_and_attributes() {
    let store = TestObjects::start().await;
    let body = Bytes::from(vec![7u8; 3_000_000]);
    store.objects.put("raw/one", body.clone(), "application/fhir+json", &[("job", "42".to_owned())]).await.unwrap();
    assert_eq!(store.objects.get("raw/one").await.unwrap(), body);
    let head = store.objects.head("raw/one").await.unwrap().unwrap();
    assert_eq!(head.size, 3_000_000);
    assert_eq!(head.content_type.as_deref(), Some("application/fhir+json"));
    assert_eq!(head.metadata["job"], "42");
    let listed = store.objects.list("raw/", None, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].size, listed[0].etag.as_ref()), (1, 3_000_000, Some(&head.etag)));
    assert!(listed[0].modified.is_some());
    let mut read = Vec::new();
    store.objects.read("raw/one").await.unwrap().read_to_end(&mut read).await.unwrap();
    assert_eq!(read, body);
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
async fn ranges_are_cut_exactly() {
    let store = TestObjects::start().await;
    put(&store.objects, "digits", "0123456789").await;
    assert_eq!(store.objects.get_range("digits", 2..5).await.unwrap(), "234");
    assert_eq!(store.objects.get_range("digits", 8..100).await.unwrap(), "89");
    assert!(store.objects.get_range("digits", 3..3).await.unwrap().is_empty());
    let behind = store.objects.get_range("digits", 10..11).await.unwrap_err();
    assert!(matches!(&behind, ObjectError::Refused { code, .. } if code == "InvalidRange"), "{behind:?}");
    let suffix = store.sdk().get_object().bucket(BUCKET).key("digits").range("bytes=-3").send().await.unwrap();
    assert_eq!(suffix.content_range(), Some("bytes 7-9/10"));
    assert_eq!(suffix.body.collect().await.unwrap().into_bytes(), "789");
}

#[tokio::test]
async fn an_empty_object_is_an_object() {
    let store = TestObjects::start().await;
    put(&store.objects, "empty", "").await;
    assert!(store.objects.get("empty").await.unwrap().is_empty());
    assert_eq!(store.objects.head("empty").await.unwrap().unwrap().size, 0);
}

#[tokio::test]
async fn a_prefix_of_the_configuration_is_invisible_to_the_caller() {
    let store = TestObjects::start().await;
    let prefixed = Objects::connect(&chartgate::objects::ObjectsOptions {
        prefix: "tenant/".to_owned(),
        ..store.client_options()
    });
    put(&prefixed, "k", "v").await;
    put(&store.objects, "k", "other").await;
    assert_eq!(keys(&prefixed, "").await, ["k"]);
    assert_eq!(prefixed.get("k").await.unwrap(), "v");
    assert_eq!(keys(&store.objects, "").await, ["k", "tenant/k"]);
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
async fn every_checksum_of_the_sdk_is_accepted_as_header_and_as_trailer() {
    let store = TestObjects::start().await;
    let sdk = store.sdk();
    let file = store.dir().with_extension("upload");
    std::fs::write(&file, vec![3u8; 200_000]).unwrap();
    let (sha1, sha256) = (ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256);
    let (crc32, crc32c, crc64) = (ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme);
    for algorithm in [crc32, crc32c, crc64, sha1, sha256] {
        let request = || sdk.put_object().bucket(BUCKET).key("k").checksum_algorithm(algorithm.clone());
        request().body(ByteStream::from_static(b"in memory")).send().await.unwrap();
        // A body from a file is sent in chunks with the checksum behind it.
        request().body(ByteStream::from_path(&file).await.unwrap()).send().await.unwrap();
        // The SDK validates the checksum that comes along.
        let answer = sdk.get_object().bucket(BUCKET).key("k").send().await.unwrap();
        assert!(answer.checksum_sha256().is_some());
        assert_eq!(answer.body.collect().await.unwrap().into_bytes().len(), 200_000);
    }
}

#[tokio::test]
async fn of_24_writers_of_a_new_key_one_wins() {
    let store = TestObjects::start().await;
    let sdk = store.sdk();
    let writers = (0..24u8).map(|writer| {
        let request = sdk
            .put_object()
            .bucket(BUCKET)
            .key("race")
            .if_none_match("*")
            .body(ByteStream::from(vec![writer; 300_000]));
        tokio::spawn(async move { (writer, request.send().await) })
    });
    let mut winner = None;
    for writer in writers.collect::<Vec<_>>() {
        match writer.await.unwrap() {
            (writer, Ok(_)) => assert_eq!(winner.replace(writer), None, "a second winner"),
            (_, Err(error)) => assert_eq!(code(&error), "PreconditionFailed"),
        }
    }
    assert_eq!(store.objects.get("race").await.unwrap(), vec![winner.unwrap(); 300_000]);
}

#[tokio::test]
async fn reads_and_writes_keep_their_conditions() {
    let store = TestObjects::start().await;
    put(&store.objects, "k", "v").await;
    let sdk = store.sdk();
    let etag = format!("\"{}\"", store.objects.head("k").await.unwrap().unwrap().etag);
    let other = "\"00000000000000000000000000000000\"";
    let status = |error: SdkError<_>| {
        error.raw_response().map(|raw: &aws_sdk_s3::config::http::HttpResponse| raw.status().as_u16())
    };
    let get = || sdk.get_object().bucket(BUCKET).key("k");
    get().if_match(&etag).send().await.unwrap();
    get().if_none_match(other).send().await.unwrap();
    assert_eq!(status(get().if_none_match(&etag).send().await.unwrap_err()), Some(304));
    assert_eq!(status(get().if_match(other).send().await.unwrap_err()), Some(412));
    let put = || sdk.put_object().bucket(BUCKET).key("k").body(ByteStream::from_static(b"new"));
    assert_eq!(code(&put().if_match(other).send().await.unwrap_err()), "PreconditionFailed");
    put().if_match(&etag).send().await.unwrap();
    assert_eq!(store.objects.get("k").await.unwrap(), "new");
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
async fn listings_come_in_pages_with_etags_and_common_prefixes() {
    let store = TestObjects::start().await;
    for number in 0..25 {
        put(&store.objects, &format!("l/{number:03}"), "1").await;
    }
    put(&store.objects, "m", "1").await;
    let page = store.objects.list("l/", Some("l/019"), 3).await.unwrap();
    assert_eq!(page.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["l/020", "l/021", "l/022"]);
    let sdk = store.sdk();
    let mut pages = Vec::new();
    let mut token = None;
    loop {
        let request = sdk.list_objects_v2().bucket(BUCKET).prefix("l/").max_keys(10).set_continuation_token(token);
        let answer = request.send().await.unwrap();
        assert!(answer.contents().iter().all(|object| object.e_tag().is_some()));
        pages.push(answer.contents().len());
        token = answer.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [10, 10, 5]);
    let answer = sdk.list_objects_v2().bucket(BUCKET).delimiter("/").send().await.unwrap();
    assert_eq!(answer.common_prefixes().iter().filter_map(|common| common.prefix()).collect::<Vec<_>>(), ["l/"]);
    assert_eq!(answer.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>(), ["m"]);
    let keys =
        (0..25).map(|number| ObjectIdentifier::builder().key(format!("l/{number:03}")).build().unwrap()).collect();
    let delete = Delete::builder().set_objects(Some(keys)).build().unwrap();
    let deleted = sdk.delete_objects().bucket(BUCKET).delete(delete).send().await.unwrap();
    assert_eq!(deleted.deleted().len(), 25);
    assert!(self::keys(&store.objects, "l/").await.is_empty());
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
        let mut program = Program::spawn("objects::program_that_gets_killed", directory.path());
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
        size: 1000,
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
async fn anonymous_requests_are_refused() {
    let store = TestObjects::start().await;
    put(&store.objects, "k", "v").await;
    let url = format!("{}/{BUCKET}/k", store.endpoint());
    assert_eq!(raw("GET", &url, &[], b"").await.0, 403);
    assert_eq!(raw("PUT", &url, &[("content-length".to_owned(), "1".to_owned())], b"x").await.0, 403);
    assert_eq!(store.objects.get("k").await.unwrap(), "v");
}

#[tokio::test]
async fn a_presigned_url_allows_exactly_what_was_signed() {
    let store = TestObjects::start().await;
    let metadata = [("job", "42".to_owned())];
    let terms = PutTerms {
        size: 10,
        content_type: "application/fhir+ndjson",
        metadata: &metadata,
        sha256: None,
        expires_in: Duration::from_mins(1),
    };
    let presigned = store.objects.presign_put("up/one", &terms).await.unwrap();
    let names: Vec<&str> = presigned.headers.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["content-length", "content-type", "if-none-match", "x-amz-meta-job"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let with = |change: &str, value: &str| {
        let mut headers = presigned.headers.clone();
        headers.retain(|(name, _)| name != change);
        headers.push((change.to_owned(), value.to_owned()));
        headers
    };
    let without = |gone: &str| presigned.headers.iter().filter(|(name, _)| name != gone).cloned().collect::<Vec<_>>();
    let tampered_key = presigned.url.replace("up/one?", "up/two?");
    let tampered_expiry = presigned.url.replace("X-Amz-Expires=60", "X-Amz-Expires=6000");
    let mut chunked = without("content-length");
    chunked.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
    let url = presigned.url.as_str();
    for (what, method, url, headers, body) in [
        ("a longer body", "PUT", url, with("content-length", "11"), &b"0123456789A"[..]),
        ("a chunked body", "PUT", url, chunked, b"a\r\n0123456789\r\n0\r\n\r\n"),
        ("another type", "PUT", url, with("content-type", "text/html"), b"0123456789"),
        ("other metadata", "PUT", url, with("x-amz-meta-job", "43"), b"0123456789"),
        ("metadata left out", "PUT", url, without("x-amz-meta-job"), b"0123456789"),
        ("metadata that was not signed", "PUT", url, with("x-amz-meta-evil", "1"), b"0123456789"),
        ("another x-amz header", "PUT", url, with("x-amz-storage-class", "GLACIER"), b"0123456789"),
        ("no if-none-match", "PUT", url, without("if-none-match"), b"0123456789"),
        ("another key", "PUT", &tampered_key, presigned.headers.clone(), b"0123456789"),
        ("a longer life", "PUT", &tampered_expiry, presigned.headers.clone(), b"0123456789"),
        ("another method", "GET", url, presigned.headers.clone(), b""),
    ] {
        let (status, answer) = raw(method, url, &headers, body).await;
        assert_eq!(status, 403, "{what}: {answer}");
        assert!(keys(&store.objects, "").await.is_empty(), "{what} was stored");
    }
    assert_eq!(raw("PUT", url, &presigned.headers, b"0123456789").await.0, 200);
    let head = store.objects.head("up/one").await.unwrap().unwrap();
    assert_eq!((head.size, head.metadata["job"].as_str()), (10, "42"));
    // Once.
    assert_eq!(raw("PUT", url, &presigned.headers, b"9876543210").await.0, 412);
    assert_eq!(store.objects.get("up/one").await.unwrap(), "0123456789");
}

#[tokio::test]
async fn a_header_cannot_speak_for_a_presigned_query() {
    let store = TestObjects::start().await;
    let terms = PutTerms {
        size: 1,
        content_type: "text/plain",
        metadata: &[],
        sha256: None,
        expires_in: Duration::from_mins(1),
    };
    let presigned = store.objects.presign_put("up/one", &terms).await.unwrap();
    let mut headers = presigned.headers.clone();
    headers.push(("x-amz-meta-evil".to_owned(), "1".to_owned()));
    let made_up = "AWS4-HMAC-SHA256 Credential=a/20261121/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-meta-evil, Signature=00";
    headers.push(("authorization".to_owned(), made_up.to_owned()));
    for url in [presigned.url.clone(), presigned.url.replace("X-Amz-Signature=", "X%2DAmz-Signature=")] {
        assert_ne!(raw("PUT", &url, &headers, b"x").await.0, 200);
    }
    assert!(keys(&store.objects, "").await.is_empty());
}

#[tokio::test]
async fn a_presigned_checksum_binds_the_bytes() {
    use base64::Engine as _;
    let store = TestObjects::start().await;
    let sha256 =
        base64::engine::general_purpose::STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(b"0123456789"));
    let terms = PutTerms {
        size: 10,
        content_type: "text/plain",
        metadata: &[],
        sha256: Some(&sha256),
        expires_in: Duration::from_mins(1),
    };
    let presigned = store.objects.presign_put("up/one", &terms).await.unwrap();
    let (status, answer) = raw("PUT", &presigned.url, &presigned.headers, b"9876543210").await;
    assert!(status == 400 && answer.contains("BadDigest"), "{status} {answer}");
    assert!(keys(&store.objects, "").await.is_empty());
    assert_eq!(raw("PUT", &presigned.url, &presigned.headers, b"0123456789").await.0, 200);
}

#[tokio::test]
async fn whoever_listens_hears_of_every_new_object() {
    let mut store = TestObjects::start().await;
    put(&store.objects, "up/one", "v").await;
    let created = store.created.recv().await.unwrap();
    assert_eq!(created, CreatedObject { bucket: BUCKET.to_owned(), key: "up/one".to_owned() });
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

struct Multipart<'a> {
    sdk: &'a aws_sdk_s3::Client,
    key: &'a str,
    id: String,
    parts: Vec<CompletedPart>,
}

impl<'a> Multipart<'a> {
    async fn begin(sdk: &'a aws_sdk_s3::Client, key: &'a str) -> Self {
        let begun = sdk
            .create_multipart_upload()
            .bucket(BUCKET)
            .key(key)
            .content_type("video/mp4")
            .metadata("job", "7")
            .send()
            .await;
        Self { sdk, key, id: begun.unwrap().upload_id.unwrap(), parts: Vec::new() }
    }

    async fn part(&mut self, number: i32, body: Vec<u8>) {
        let request = self.sdk.upload_part().bucket(BUCKET).key(self.key).upload_id(&self.id).part_number(number);
        let part = request.body(ByteStream::from(body)).send().await.unwrap();
        self.parts.push(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build());
    }

    async fn complete(&self, parts: Vec<CompletedPart>) -> Result<(), String> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self
            .sdk
            .complete_multipart_upload()
            .bucket(BUCKET)
            .key(self.key)
            .upload_id(&self.id)
            .multipart_upload(parts);
        request.send().await.map(|_| ()).map_err(|error| code(&error).to_owned())
    }
}

#[tokio::test]
async fn a_multipart_upload_appears_when_it_is_complete() {
    let mut store = TestObjects::start().await;
    let sdk = store.sdk();
    let mut upload = Multipart::begin(&sdk, "mp/one").await;
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
    let upload = Multipart { sdk: &sdk, key: "mp/one", id, parts: Vec::new() };
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
    let mut upload = Multipart::begin(&sdk, "mp").await;
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
