//! What the gateway asks of an S3: one battery, run against every server that we can start.
//!
//! Each check has a bucket of its own, which is empty.

use super::{Multipart, PART_BYTES_MIN, Store, code, keys, put};
use crate::support::directory::TestDirectory;
use crate::support::objects::{TestObjects, raw};
use aws_sdk_s3::config::RequestChecksumCalculation;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedPart, Delete, ObjectIdentifier};
use bytes::Bytes;
use chartgate::objects::{ObjectError, Objects, PutTerms};
use futures::future::BoxFuture;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

/// A check by its name.
pub(super) type Check = (&'static str, fn(Store) -> BoxFuture<'static, ()>);

macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        /// All of it.
        pub(super) const CHECKS: &[Check] = &[$((stringify!($name), |store| Box::pin($name(store)))),+];

        /// The embedded store keeps all of it.
        mod the_embedded_store {
            $(#[tokio::test]
            async fn $name() {
                super::on_the_embedded_store(|store| Box::pin(super::$name(store))).await;
            })+
        }
    };
}

contract!(
    an_object_comes_back_with_its_bytes_and_attributes,
    ranges_are_cut_exactly,
    an_empty_object_is_an_object,
    a_prefix_of_the_configuration_is_invisible_to_the_caller,
    every_checksum_of_the_sdk_is_accepted_as_header_and_as_trailer,
    of_24_writers_of_a_new_key_one_wins,
    reads_and_writes_keep_their_conditions,
    listings_come_in_pages_with_etags_and_common_prefixes,
    anonymous_requests_are_refused,
    a_presigned_url_allows_exactly_what_was_signed,
    a_header_cannot_speak_for_a_presigned_query,
    a_presigned_checksum_binds_the_bytes,
    what_is_put_again_is_replaced_and_what_is_deleted_is_gone,
    metadata_go_with_their_object,
    a_sha256_that_does_not_fit_leaves_nothing,
    a_key_that_is_taken_is_not_taken_twice,
    keys_may_hold_what_urls_and_listings_escape,
    a_url_may_leave_the_size_open,
    a_url_ends,
    parts_are_seen_when_all_are_there,
    an_aborted_upload_is_gone,
    what_was_replaced_is_not_read_on,
    a_copy_is_of_the_object_that_was_meant,
    large_objects_and_their_copies_are_whole,
    an_object_can_be_written_piece_by_piece,
);

async fn on_the_embedded_store(check: fn(Store) -> BoxFuture<'static, ()>) {
    let server = TestObjects::start().await;
    check(Store::at(&server.endpoint(), "contract").await).await;
}

async fn an_object_comes_back_with_its_bytes_and_attributes(store: Store) {
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

async fn ranges_are_cut_exactly(store: Store) {
    put(&store.objects, "digits", "0123456789").await;
    assert_eq!(store.objects.get_range("digits", 2..5).await.unwrap(), "234");
    assert_eq!(store.objects.get_range("digits", 8..100).await.unwrap(), "89");
    assert!(store.objects.get_range("digits", 3..3).await.unwrap().is_empty());
    let behind = store.objects.get_range("digits", 10..11).await.unwrap_err();
    assert!(matches!(&behind, ObjectError::Refused { code, .. } if code == "InvalidRange"), "{behind:?}");
    let suffix = store.sdk().get_object().bucket(store.bucket()).key("digits").range("bytes=-3").send().await.unwrap();
    assert_eq!(suffix.content_range(), Some("bytes 7-9/10"));
    assert_eq!(suffix.body.collect().await.unwrap().into_bytes(), "789");
}

async fn an_empty_object_is_an_object(store: Store) {
    put(&store.objects, "empty", "").await;
    assert!(store.objects.get("empty").await.unwrap().is_empty());
    assert_eq!(store.objects.head("empty").await.unwrap().unwrap().size, 0);
}

async fn a_prefix_of_the_configuration_is_invisible_to_the_caller(store: Store) {
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

async fn every_checksum_of_the_sdk_is_accepted_as_header_and_as_trailer(store: Store) {
    let sdk = store.sdk();
    let directory = TestDirectory::new();
    let file = directory.path().join("upload");
    std::fs::write(&file, vec![3u8; 200_000]).unwrap();
    let (sha1, sha256) = (ChecksumAlgorithm::Sha1, ChecksumAlgorithm::Sha256);
    let (crc32, crc32c, crc64) = (ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32C, ChecksumAlgorithm::Crc64Nvme);
    for algorithm in [crc32, crc32c, crc64, sha1, sha256] {
        let request = || sdk.put_object().bucket(store.bucket()).key("k").checksum_algorithm(algorithm.clone());
        request().body(ByteStream::from_static(b"in memory")).send().await.unwrap();
        // A body from a file is sent in chunks with the checksum behind it.
        request().body(ByteStream::from_path(&file).await.unwrap()).send().await.unwrap();
        // The SDK validates the checksum that comes along.
        let answer = sdk.get_object().bucket(store.bucket()).key("k").send().await.unwrap();
        assert_eq!(answer.body.collect().await.unwrap().into_bytes().len(), 200_000);
    }
}

async fn of_24_writers_of_a_new_key_one_wins(store: Store) {
    let sdk = store.sdk();
    let writers = (0..24u8).map(|writer| {
        let request = sdk
            .put_object()
            .bucket(store.bucket())
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

async fn reads_and_writes_keep_their_conditions(store: Store) {
    put(&store.objects, "k", "v").await;
    let sdk = store.sdk();
    let etag = format!("\"{}\"", store.objects.head("k").await.unwrap().unwrap().etag);
    let other = "\"00000000000000000000000000000000\"";
    let status = |error: SdkError<_>| {
        error.raw_response().map(|raw: &aws_sdk_s3::config::http::HttpResponse| raw.status().as_u16())
    };
    let get = || sdk.get_object().bucket(store.bucket()).key("k");
    get().if_match(&etag).send().await.unwrap();
    get().if_none_match(other).send().await.unwrap();
    assert_eq!(status(get().if_none_match(&etag).send().await.unwrap_err()), Some(304));
    assert_eq!(status(get().if_match(other).send().await.unwrap_err()), Some(412));
    let put = || sdk.put_object().bucket(store.bucket()).key("k").body(ByteStream::from_static(b"new"));
    assert_eq!(code(&put().if_match(other).send().await.unwrap_err()), "PreconditionFailed");
    put().if_match(&etag).send().await.unwrap();
    assert_eq!(store.objects.get("k").await.unwrap(), "new");
}

async fn listings_come_in_pages_with_etags_and_common_prefixes(store: Store) {
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
        let request =
            sdk.list_objects_v2().bucket(store.bucket()).prefix("l/").max_keys(10).set_continuation_token(token);
        let answer = request.send().await.unwrap();
        assert!(answer.contents().iter().all(|object| object.e_tag().is_some()));
        pages.push(answer.contents().len());
        token = answer.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [10, 10, 5]);
    let answer = sdk.list_objects_v2().bucket(store.bucket()).delimiter("/").send().await.unwrap();
    assert_eq!(answer.common_prefixes().iter().filter_map(|common| common.prefix()).collect::<Vec<_>>(), ["l/"]);
    assert_eq!(answer.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>(), ["m"]);
    let keys =
        (0..25).map(|number| ObjectIdentifier::builder().key(format!("l/{number:03}")).build().unwrap()).collect();
    let delete = Delete::builder().set_objects(Some(keys)).build().unwrap();
    let deleted = sdk.delete_objects().bucket(store.bucket()).delete(delete).send().await.unwrap();
    assert_eq!(deleted.deleted().len(), 25);
    assert!(self::keys(&store.objects, "l/").await.is_empty());
}

async fn anonymous_requests_are_refused(store: Store) {
    put(&store.objects, "k", "v").await;
    let url = format!("{}/{}/k", store.endpoint(), store.bucket());
    assert_eq!(raw("GET", &url, &[], b"").await.0, 403);
    assert_eq!(raw("PUT", &url, &[("content-length".to_owned(), "1".to_owned())], b"x").await.0, 403);
    assert_eq!(store.objects.get("k").await.unwrap(), "v");
}

async fn a_presigned_url_allows_exactly_what_was_signed(store: Store) {
    let metadata = [("job", "42".to_owned())];
    let terms = PutTerms {
        size: Some(10),
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
        // With a body, or a server might wait for the bytes that its headers announce.
        ("another method", "GET", url, presigned.headers.clone(), b"0123456789"),
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

async fn a_header_cannot_speak_for_a_presigned_query(store: Store) {
    let terms = PutTerms {
        size: Some(1),
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

async fn a_presigned_checksum_binds_the_bytes(store: Store) {
    use base64::Engine as _;
    let sha256 =
        base64::engine::general_purpose::STANDARD.encode(<sha2::Sha256 as sha2::Digest>::digest(b"0123456789"));
    let terms = PutTerms {
        size: Some(10),
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

async fn what_is_put_again_is_replaced_and_what_is_deleted_is_gone(store: Store) {
    put(&store.objects, "k", "first").await;
    put(&store.objects, "k", "second").await;
    assert_eq!(store.objects.get("k").await.unwrap(), "second");
    for _ in 0..2 {
        store.objects.delete("k").await.unwrap();
        assert_eq!(store.objects.head("k").await.unwrap(), None);
        assert!(matches!(store.objects.get("k").await, Err(ObjectError::NotFound)));
        assert!(keys(&store.objects, "").await.is_empty());
    }
}

async fn metadata_go_with_their_object(store: Store) {
    let metadata = [("job_id", "job_1".to_owned()), ("organization_id", "org_1".to_owned())];
    store.objects.put("k", Bytes::from_static(b"v"), "application/fhir+ndjson", &metadata).await.unwrap();
    let head = store.objects.head("k").await.unwrap().unwrap();
    assert_eq!(head.content_type.as_deref(), Some("application/fhir+ndjson"));
    assert_eq!((head.metadata["job_id"].as_str(), head.metadata.len()), ("job_1", 2));
    // Replaced with their object, not merged.
    put(&store.objects, "k", "w").await;
    assert!(store.objects.head("k").await.unwrap().unwrap().metadata.is_empty());
}

async fn a_sha256_that_does_not_fit_leaves_nothing(store: Store) {
    let plain = store.sdk_with(RequestChecksumCalculation::WhenRequired);
    put(&store.objects, "there", "kept").await;
    for key in ["there", "not-there"] {
        let request = plain.put_object().bucket(store.bucket()).key(key).body(ByteStream::from_static(b"x"));
        let refused = request.checksum_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").send().await;
        assert_eq!(code(&refused.unwrap_err()), "BadDigest");
    }
    assert_eq!(store.objects.get("there").await.unwrap(), "kept");
    assert_eq!(store.objects.head("not-there").await.unwrap(), None);
}

async fn a_key_that_is_taken_is_not_taken_twice(store: Store) {
    let sdk = store.sdk();
    let put = |body: &'static [u8]| {
        sdk.put_object().bucket(store.bucket()).key("k").if_none_match("*").body(ByteStream::from_static(body)).send()
    };
    put(b"first").await.unwrap();
    assert_eq!(code(&put(b"second").await.unwrap_err()), "PreconditionFailed");
    assert_eq!(store.objects.get("k").await.unwrap(), "first");
    // Free again once it is gone.
    store.objects.delete("k").await.unwrap();
    put(b"third").await.unwrap();
}

async fn keys_may_hold_what_urls_and_listings_escape(store: Store) {
    let mut all = [
        "a b",
        "é/ü",
        "x+y",
        "100%",
        "%41",
        "a&b=c",
        "q?r#s",
        "p",
        "p/q",
        "semi;colon",
        "comma,",
        "'quote'",
        "(paren)",
        "~tilde",
        "@at",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push("k".repeat(200));
    all.push(vec!["y".repeat(90); 9].join("/"));
    for key in &all {
        let put = store.objects.put(key, Bytes::from(key.clone()), "text/plain", &[]).await;
        put.unwrap_or_else(|error| panic!("{key}: {error:?}"));
    }
    for key in &all {
        assert_eq!(store.objects.get(key).await.unwrap(), key.as_bytes(), "{key}");
    }
    let mut listed = keys(&store.objects, "").await;
    listed.sort();
    all.sort();
    assert_eq!(listed, all);
}

async fn a_url_may_leave_the_size_open(store: Store) {
    let metadata = [("organization_id", "org_1".to_owned()), ("upload_id", "upload_1".to_owned())];
    let terms = PutTerms {
        size: None,
        content_type: "application/fhir+ndjson",
        metadata: &metadata,
        sha256: None,
        expires_in: Duration::from_mins(1),
    };
    let presigned = store.objects.presign_put("up/open", &terms).await.unwrap();
    assert!(presigned.headers.iter().all(|(name, _)| name != "content-length"), "{:?}", presigned.headers);
    let mut headers = presigned.headers.clone();
    headers.push(("content-length".to_owned(), "3".to_owned()));
    for gone in presigned.headers.iter().map(|(name, _)| name) {
        let without: Vec<_> = headers.iter().filter(|(name, _)| name != gone).cloned().collect();
        let (status, answer) = raw("PUT", &presigned.url, &without, b"abc").await;
        assert_eq!(status, 403, "without {gone}: {answer}");
    }
    assert!(keys(&store.objects, "").await.is_empty());
    assert_eq!(raw("PUT", &presigned.url, &headers, b"abc").await.0, 200);
    let head = store.objects.head("up/open").await.unwrap().unwrap();
    assert_eq!((head.size, head.metadata["upload_id"].as_str()), (3, "upload_1"));
    assert_eq!(raw("PUT", &presigned.url, &headers, b"xyz").await.0, 412);
    assert_eq!(store.objects.get("up/open").await.unwrap(), "abc");
}

async fn a_url_ends(store: Store) {
    let terms = PutTerms {
        size: Some(1),
        content_type: "text/plain",
        metadata: &[],
        sha256: None,
        expires_in: Duration::from_secs(1),
    };
    let presigned = store.objects.presign_put("late", &terms).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(raw("PUT", &presigned.url, &presigned.headers, b"x").await.0, 403);
    assert_eq!(store.objects.head("late").await.unwrap(), None);
}

async fn parts_are_seen_when_all_are_there(store: Store) {
    let sdk = store.sdk();
    let mut upload = Multipart::begin(&sdk, store.bucket(), "mp/one").await;
    upload.part(2, vec![2; 1]).await;
    upload.part(1, vec![1; PART_BYTES_MIN]).await;
    assert_eq!(store.objects.head("mp/one").await.unwrap(), None);
    assert!(keys(&store.objects, "").await.is_empty());
    let unfinished = store.objects.unfinished_uploads("mp/").await.unwrap();
    assert_eq!((unfinished.len(), unfinished[0].key.as_str()), (1, "mp/one"));
    let [last, first] = upload.parts.clone().try_into().unwrap();
    let wrong = CompletedPart::builder().part_number(2).e_tag("\"00000000000000000000000000000000\"").build();
    assert_eq!(upload.complete(vec![first.clone(), wrong]).await, Err("InvalidPart".to_owned()));
    assert_eq!(store.objects.head("mp/one").await.unwrap(), None);
    upload.complete(vec![first, last]).await.unwrap();
    let head = store.objects.head("mp/one").await.unwrap().unwrap();
    assert_eq!((head.size, head.content_type.as_deref()), (PART_BYTES_MIN as u64 + 1, Some("video/mp4")));
    assert_eq!(head.metadata["job"], "7");
    assert!(head.etag.ends_with("-2"), "{}", head.etag);
    let seam = PART_BYTES_MIN as u64 - 1..PART_BYTES_MIN as u64 + 1;
    assert_eq!(store.objects.get_range("mp/one", seam).await.unwrap(), [1u8, 2].as_slice());
    assert!(store.objects.unfinished_uploads("").await.unwrap().is_empty());
}

async fn an_aborted_upload_is_gone(store: Store) {
    let sdk = store.sdk();
    let mut upload = Multipart::begin(&sdk, store.bucket(), "mp").await;
    upload.part(1, vec![1; 100]).await;
    let unfinished = store.objects.unfinished_uploads("").await.unwrap();
    for _ in 0..2 {
        store.objects.abort_upload(&unfinished[0]).await.unwrap();
    }
    assert_eq!(upload.complete(upload.parts.clone()).await, Err("NoSuchUpload".to_owned()));
    assert_eq!(store.objects.head("mp").await.unwrap(), None);
    assert!(store.objects.unfinished_uploads("").await.unwrap().is_empty());
}

async fn what_was_replaced_is_not_read_on(store: Store) {
    put(&store.objects, "k", "0123456789").await;
    let etag = store.objects.head("k").await.unwrap().unwrap().etag;
    assert_eq!(store.objects.get_range_of("k", &etag, 2..5).await.unwrap(), "234");
    let mut read = String::new();
    store.objects.read_of("k", &etag).await.unwrap().read_to_string(&mut read).await.unwrap();
    assert_eq!(read, "0123456789");
    put(&store.objects, "k", "other bytes").await;
    assert!(matches!(store.objects.get_range_of("k", &etag, 2..5).await, Err(ObjectError::Changed)));
    assert!(matches!(store.objects.read_of("k", &etag).await.err(), Some(ObjectError::Changed)));
    store.objects.delete("k").await.unwrap();
    assert!(matches!(store.objects.get_range_of("k", &etag, 2..5).await, Err(ObjectError::NotFound)));
    assert!(matches!(store.objects.read_of("k", &etag).await.err(), Some(ObjectError::NotFound)));
}

async fn a_copy_is_of_the_object_that_was_meant(store: Store) {
    let body = Bytes::from(vec![5u8; 3_000_000]);
    let from = "incoming/a b+é%.ndjson";
    store.objects.put(from, body.clone(), "text/plain", &[("upload_id", "1".to_owned())]).await.unwrap();
    let etag = store.objects.head(from).await.unwrap().unwrap().etag;
    let metadata = [("job_id", "42".to_owned())];
    let copy = |to: &'static str| store.objects.copy(from, &etag, to, "application/fhir+ndjson", &metadata);
    copy("raw/one").await.unwrap();
    // Again: the same.
    copy("raw/one").await.unwrap();
    assert_eq!(store.objects.get("raw/one").await.unwrap(), body);
    let head = store.objects.head("raw/one").await.unwrap().unwrap();
    assert_eq!((head.size, head.content_type.as_deref()), (3_000_000, Some("application/fhir+ndjson")));
    assert_eq!((head.metadata.len(), head.metadata["job_id"].as_str()), (1, "42"));
    put(&store.objects, from, "other bytes").await;
    assert!(matches!(copy("raw/two").await, Err(ObjectError::Changed)));
    store.objects.delete(from).await.unwrap();
    assert!(matches!(copy("raw/two").await, Err(ObjectError::NotFound)));
    assert_eq!(keys(&store.objects, "raw/").await, ["raw/one"]);
}

async fn large_objects_and_their_copies_are_whole(store: Store) {
    // More than the embedded store writes between two syncs, twice, and not a whole number of anything.
    let body = Bytes::from((0..35_000_003u32).map(|n| n.to_le_bytes()[2] ^ n.to_le_bytes()[0]).collect::<Vec<_>>());
    store.objects.put("large", body.clone(), "text/plain", &[]).await.unwrap();
    assert!(store.objects.get("large").await.unwrap() == body);
    let etag = store.objects.head("large").await.unwrap().unwrap().etag;
    store.objects.copy("large", &etag, "copy", "text/plain", &[]).await.unwrap();
    assert!(store.objects.get("copy").await.unwrap() == body);
}

async fn an_object_can_be_written_piece_by_piece(store: Store) {
    for (key, pieces) in [("none", 0), ("small", 3), ("parts", 20)] {
        let mut writer = store.objects.writer(key, "application/x-ndjson", vec![("job_id", "42".to_owned())]);
        let piece = vec![b'x'; 1_000_003];
        for _ in 0..pieces {
            writer.write(&piece).await.unwrap();
        }
        assert_eq!(store.objects.head(key).await.unwrap(), None);
        writer.finish().await.unwrap();
        writer.abort().await.unwrap();
        let head = store.objects.head(key).await.unwrap().unwrap();
        assert_eq!((head.size, head.metadata["job_id"].as_str()), (1_000_003 * pieces, "42"));
        assert_eq!(head.content_type.as_deref(), Some("application/x-ndjson"));
        assert!(store.objects.get(key).await.unwrap().iter().all(|byte| *byte == b'x'));
    }
    let mut given_up = store.objects.writer("gone", "application/x-ndjson", Vec::new());
    given_up.write(&vec![0; 9_000_000]).await.unwrap();
    given_up.abort().await.unwrap();
    assert_eq!(store.objects.head("gone").await.unwrap(), None);
    assert!(store.objects.unfinished_uploads("").await.unwrap().is_empty());
}
