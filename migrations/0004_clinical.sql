-- What came in, whose it is, and what it says: clinical events, patients, links, findings with their evidence.

-- One FHIR resource (or, later, one Athena event) as received. The bytes are a slice of a payload.
create table clinical_events (
  organization_id uuid not null,
  id uuid not null,
  job_id uuid not null,
  job_seq bigint not null,
  -- The highest position of a job that brought these very bytes: decides which version is current, so that the result
  -- depends on the order of acceptance only, also when a sender goes back to an earlier version.
  seen_seq bigint not null,
  source_label text not null,
  resource_type text not null,
  -- The sender's id; without one: `#` + payload sha256 + `:` + byte start, so that each occurrence is its own.
  resource_key text not null,
  -- SHA-256 of the resource's own bytes: the same bytes again are a no-op.
  content_sha256 bytea not null check (length(content_sha256) = 32),
  payload_sha256 bytea not null,
  entry integer,
  byte_start bigint not null,
  byte_end bigint not null check (byte_end >= byte_start),
  -- meta.lastUpdated, if the resource has one.
  last_updated timestamptz,
  -- Section of the clinical view (medications, problems, labs, …); null for types that are kept but not shown.
  category text,
  status text,
  -- Where the subject points: `ref:<source>|Patient/id`, `ref:<source>|<absolute url>` or `mrn:<system>|<value>` (`%` and
  -- `|` of source and system are percent-encoded, so that the first `|` is the separator); null when
  -- the resource has no subject. A Patient resource has the key of its own absolute url here, if it has one.
  subject_key text,
  patient_id uuid,
  link_status text not null check (link_status in ('linked', 'pending', 'review', 'none')),
  -- Of all versions of one resource exactly one is current: later last_updated (having one beats having none), else
  -- higher seen_seq.
  is_current boolean not null,
  created_at timestamptz not null,
  primary key (organization_id, id),
  unique (organization_id, source_label, resource_type, resource_key, content_sha256)
);
create unique index clinical_events_current
  on clinical_events (organization_id, source_label, resource_type, resource_key) where is_current;
create index clinical_events_by_patient on clinical_events (organization_id, patient_id, category, id);
create index clinical_events_pending on clinical_events (organization_id, subject_key) where link_status = 'pending';
-- Events that wait for an MRN, by its value alone: the clinical view is asked without a system.
create index clinical_events_pending_mrn
  on clinical_events (organization_id, substr(subject_key, strpos(subject_key, '|') + 1))
  where link_status = 'pending' and starts_with(subject_key, 'mrn:');
create index clinical_events_patient_urls on clinical_events (organization_id, subject_key) where resource_type = 'Patient' and is_current;
create index clinical_events_by_job on clinical_events (organization_id, job_id);

create table patients (
  organization_id uuid not null,
  id uuid not null,
  -- The clinical event whose Patient resource the demographics come from.
  event_id uuid,
  -- Which version that is: an older one never replaces a newer one.
  event_last_updated timestamptz,
  event_seq bigint not null,
  family text,
  given text[] not null default '{}',
  birth_date text,
  gender text,
  deceased boolean,
  telecom jsonb,
  address jsonb,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (organization_id, id)
);

-- Key = (system, value), never the value alone.
create table patient_identifiers (
  organization_id uuid not null,
  system text not null,
  value text not null,
  patient_id uuid not null,
  created_at timestamptz not null,
  primary key (organization_id, system, value)
);
create index patient_identifiers_by_value on patient_identifiers (organization_id, value);
create index patient_identifiers_by_patient on patient_identifiers (organization_id, patient_id);

-- Append-only history of link decisions; superseded_by is filled by inserting the successor (a new row names the old).
create table patient_links (
  organization_id uuid not null,
  id uuid not null,
  event_id uuid not null,
  patient_id uuid,
  status text not null check (status in ('linked', 'pending', 'review')),
  method text not null,
  grade text check (grade in ('certain', 'probable', 'possible', 'certainly-not')),
  score real,
  rule_version integer not null,
  actor text not null,
  supersedes uuid,
  created_at timestamptz not null,
  primary key (organization_id, id)
);
create index patient_links_by_event on patient_links (organization_id, event_id);

create table reviews (
  organization_id uuid not null,
  id uuid not null,
  event_id uuid not null,
  status text not null check (status in ('open', 'decided')),
  reason text not null,
  candidates jsonb not null,
  decision jsonb,
  decided_by text,
  created_at timestamptz not null,
  decided_at timestamptz,
  primary key (organization_id, id)
);
create unique index reviews_open on reviews (organization_id, event_id) where status = 'open';

create table event_sightings (
  organization_id uuid not null,
  event_id uuid not null,
  captured_at text not null,
  job_id uuid,
  created_at timestamptz not null,
  primary key (organization_id, event_id, captured_at)
);

create table findings (
  organization_id uuid not null,
  id uuid not null,
  event_id uuid not null,
  -- 0 for the resource itself, then one a component.
  ordinal integer not null,
  category text not null check (category in ('vital', 'lab', 'medication', 'problem', 'allergy', 'immunization', 'procedure', 'report', 'imaging', 'encounter', 'document', 'social', 'survey', 'other')),
  kind text not null check (kind in ('measurement', 'assertion', 'negation', 'order', 'administration')),
  code_system text,
  code text,
  display text,
  -- The panel that this is a component of: its code as a CodeableConcept.
  component_of jsonb,
  -- All source codings and the source text.
  codings jsonb not null default '[]',
  code_text text,
  value_type text check (value_type in ('quantity', 'code', 'string', 'boolean', 'integer', 'range', 'ratio', 'datetime', 'absent', 'other')),
  -- Decimals exactly as written.
  value_text text,
  value_number numeric,
  value_code jsonb,
  comparator text,
  unit text,
  ucum text,
  reference_range jsonb,
  interpretation text,
  interpretation_source text check (interpretation_source in ('declared', 'derived')),
  status text,
  clinical_status text,
  verification_status text,
  severity text,
  body_site jsonb,
  laterality text,
  -- As written, with its own precision and offset, and as an instant for sorting (start of the stated period).
  effective_text text,
  effective_end_text text,
  effective_at timestamptz,
  effective_precision text check (effective_precision in ('year', 'month', 'day', 'second')),
  issued text,
  performer jsonb,
  encounter_reference text,
  dosage jsonb,
  reactions jsonb,
  negated boolean not null default false,
  extractor_version integer not null,
  created_at timestamptz not null,
  primary key (organization_id, id),
  unique (organization_id, event_id, ordinal)
);

create table finding_evidence (
  organization_id uuid not null,
  finding_id uuid not null,
  ordinal integer not null,
  payload_sha256 bytea not null check (length(payload_sha256) = 32),
  byte_start bigint not null,
  byte_end bigint not null check (byte_end >= byte_start),
  -- Offsets of `quote`: the first bytes of [byte_start, byte_end), capped at 2,000.
  quote bytea not null,
  pointer text not null,
  fhirpath text not null,
  rule text not null,
  primary key (organization_id, finding_id, ordinal)
);

-- Validation problems of a job's current round.
create table issues (
  organization_id uuid not null,
  job_id uuid not null,
  ordinal integer not null,
  severity text not null check (severity in ('fatal', 'error', 'warning', 'information')),
  -- FHIR IssueType (required | value | structure | …).
  code text not null,
  entry integer,
  line bigint,
  expression text,
  pointer text,
  byte_offset bigint,
  -- A fixed sentence with names of elements and types; never a value from the payload.
  message text not null,
  primary key (organization_id, job_id, ordinal)
);

grant select, insert, update, delete on clinical_events, patients, patient_identifiers, issues, findings, finding_evidence to chartgate_app;
grant select, insert on patient_links, event_sightings to chartgate_app;
grant select, insert, update on reviews to chartgate_app;
