"""Fill a fresh Chartgate with a few patients, and print what exists as JSON: ids for paths, keys, keys to spare."""

import json
import sys
import time
import urllib.error
import urllib.request

credentials = json.load(open(sys.argv[1]))
url, keys = credentials["url"], credentials["keys"]


def call(role, method, path, body=None, media="application/json"):
    request = urllib.request.Request(url + path, method=method)
    request.add_header("Authorization", f"Bearer {keys[role]}")
    data = None
    if body is not None:
        request.add_header("Content-Type", media)
        data = json.dumps(body).encode()
    with urllib.request.urlopen(request, data, timeout=30) as answer:
        return json.load(answer)


def patient(number, mrn, year, family="Fuzz"):
    return {
        "resourceType": "Patient",
        "id": number,
        "birthDate": f"{year}-01-01",
        "name": [{"family": family, "given": [number]}],
        "identifier": [
            {
                "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
                "system": "urn:fuzz",
                "value": mrn,
            }
        ],
    }


def observation(number, subject):
    code = {"coding": [{"system": "http://loinc.org", "code": "718-7", "display": "Hemoglobin"}]}
    return {
        "resourceType": "Observation",
        "id": number,
        "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "laboratory"}]}],
        "code": code,
        "subject": {"reference": f"Patient/{subject}"},
        "effectiveDateTime": "2026-01-02T03:04:05Z",
        "valueQuantity": {"value": 13.5, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
    }


def bundle(*resources):
    # Relative references are resolved by the fullUrl.
    entries = [{"fullUrl": f"http://ehr.example/{one['resourceType']}/{one['id']}", "resource": one} for one in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


jobs = []
for body in [
    bundle(patient("one", "MRN-1", 1950), observation("o1", "one")),
    bundle(patient("two", "MRN-2", 1960), observation("o2", "two")),
    # The number of the first, but somebody else: a person is asked.
    bundle(patient("three", "MRN-1", 1999, "Other")),
    # An entry that is rejected, and issues that say why.
    bundle(patient("four", "MRN-4", 1970), {**observation("o4", "four"), "status": "done"}),
]:
    accepted = call("sender", "POST", "/v1/ingestion/fhir/Bundle", body, "application/fhir+json")
    job = accepted["jobId"]
    jobs.append((job, accepted["sha256"]))
    for _ in range(200):
        if call("admin", "GET", f"/v1/ingestion/jobs/{job}")["finishedAt"]:
            break
        time.sleep(0.1)
    else:
        sys.exit(f"{job} did not end")

views = [call("reader", "GET", f"/ingest/clinical/{mrn}") for mrn in ("MRN-1", "MRN-2")]
findings = [view["clinical_data"]["labs"][0] for view in views]
reviews = call("admin", "GET", "/v1/admin/reviews")["reviews"]
operation = call("admin", "POST", "/v1/admin/jobs/retry", {"filter": {"errorCode": "none"}, "reason": "seed"})
spare = [call("admin", "POST", "/v1/admin/keys", {"role": "sender"})["id"] for _ in range(3)]

callback = call("admin", "POST", "/v1/admin/callbacks", {"url": "https://127.0.0.1:9999/fuzz"})["callback"]["callbackId"]
webhook = call("admin", "POST", "/v1/admin/webhook-secrets", {"name": "fuzz"})
hold = call("admin", "POST", "/v1/admin/holds", {"payload": jobs[1][1], "reason": "seed"})
upload = call("sender", "POST", "/v1/ingestion/upload-url", {})

json.dump(
    {
        "url": url,
        "keys": keys,
        "protected_keys": [key.split("_")[1] for key in keys.values()],
        "paths": {
            "jobId": [job for job, _ in jobs],
            "sha256": [sha256 for _, sha256 in jobs],
            "mrn": ["MRN-1", "MRN-2", "MRN-4"],
            "findingId": [finding["finding_id"] for finding in findings],
            "eventId": [finding["event_id"] for finding in findings if "event_id" in finding],
            "patientId": [view["patient"]["id"] for view in views],
            "reviewId": [review["reviewId"] for review in reviews],
            "operationId": [operation["operationId"]],
            "organizationId": [credentials["organization"]],
            "keyId": spare,
            "callbackId": [callback],
            "secretId": [webhook["id"]],
            "holdId": [hold["holdId"]],
            "uploadId": [upload["uploadId"]],
            "code": ["forbidden", "invalid_json", "job_not_found"],
        },
    },
    sys.stdout,
    indent=2,
)
