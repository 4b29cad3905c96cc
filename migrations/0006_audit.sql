-- One record for every change, read, denial and act of administration, in the transaction of what it records.

create table audit_records (
  organization_id uuid not null,
  id bigint not null generated always as identity (cache 1),
  at timestamptz not null,
  -- The sequencer seals records below the snapshot's xmin in (xid, id) order, so that a late commit is never skipped.
  xid xid8 not null default pg_current_xact_id(),
  event text not null,
  -- Create, Read, Update, Delete, Execute (FHIR AuditEvent.action).
  action char(1) not null,
  outcome text not null default 'success',
  actor text not null,
  authentication text,
  address text,
  purpose text,
  patient_id uuid,
  resource text,
  job_id uuid,
  step text,
  request_id text,
  body_sha256 bytea,
  program_version text,
  detail jsonb,
  primary key (organization_id, id),
  constraint audit_records_words check (action in ('C', 'R', 'U', 'D', 'E') and outcome in ('success', 'denied', 'failure'))
);
create trigger audit_records_append_only before update or delete or truncate on audit_records
  for each statement execute function refuse_change();

-- A job's acts for its timeline. Partial: the records of the hot path (accepted, step.succeeded) cost no index entry.
create index audit_records_of_job on audit_records (organization_id, job_id, id)
  where event in ('job.cancelled', 'job.retried', 'job.parked', 'job.stepped_aside', 'job.failed', 'lease.lost');

-- Ids and hashes only (no row-level security): the Merkle log over all organizations.
create table audit_leaves (
  leaf bigint primary key check (leaf >= 0),
  organization_id uuid not null,
  record_id bigint not null,
  leaf_hash bytea not null check (length(leaf_hash) = 32),
  unique (organization_id, record_id)
);
create trigger audit_leaves_append_only before update or delete or truncate on audit_leaves
  for each statement execute function refuse_change();

create table audit_checkpoints (
  tree_size bigint primary key check (tree_size >= 0),
  root_hash bytea not null check (length(root_hash) = 32),
  signature bytea not null,
  key_id text not null,
  at timestamptz not null
);
create trigger audit_checkpoints_append_only before update or delete or truncate on audit_checkpoints
  for each statement execute function refuse_change();

grant select, insert on audit_records, audit_leaves, audit_checkpoints to chartgate_app;
grant select on audit_records, audit_leaves, audit_checkpoints to chartgate_platform;
