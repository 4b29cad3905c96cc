-- The durable engine's tables. The hot ones carry no foreign key to organizations: an organization is never deleted, and the
-- only way to name one is an API key, which has that foreign key. State names are documented in docs/state-machine.md; a test compares the lists.

create sequence job_seq;
-- cache 1: a lease epoch must never be handed out twice, also not by two sessions out of order after a crash.
create sequence lease_epochs cache 1;
grant usage, select on sequence job_seq, lease_epochs to chartgate_app;

create table payloads (
  organization_id uuid not null,
  sha256 bytea not null check (length(sha256) = 32),
  size_bytes bigint not null check (size_bytes >= 0),
  content_type text not null,
  -- The exact bytes, here until `store_raw` has put them into object storage.
  body bytea,
  storage_key text,
  stored_at timestamptz,
  created_at timestamptz not null,
  primary key (organization_id, sha256),
  check (body is not null or storage_key is not null),
  check ((storage_key is null) = (stored_at is null))
);

create table jobs (
  organization_id uuid not null,
  id uuid not null,
  workflow text not null,
  workflow_version integer not null,
  source text not null check (source in ('webhook', 'athena', 'upload')),
  source_label text not null default 'default',
  -- `queued` covers queued, running and retrying: which of them is read from the queue row.
  status text not null check (status in ('awaiting_upload', 'queued', 'succeeded', 'succeeded_with_issues', 'failed', 'cancelled', 'expired')),
  -- Position in the order of acceptance; drawn under the lane's lock. A retry keeps it.
  seq bigint not null,
  lane bigint,
  priority smallint not null default 0,
  payload_sha256 bytea,
  size_bytes bigint,
  content_type text,
  -- Entries by resource type, from the intake's scan. Counts only.
  resource_count jsonb not null default '{}',
  progress_total integer,
  result jsonb,
  -- Set when a step fails for good, cleared by a retry. Codes and fixed sentences, never a clinical value.
  error_step smallint,
  error_code text,
  error_class text check (error_class in ('transient', 'sender', 'ours')),
  error_message text,
  round integer not null default 1 check (round > 0),
  -- The step at which the current round began; earlier steps count from earlier rounds.
  round_first_step smallint not null default 0,
  submitted_by text not null,
  request_id text,
  duplicate_of uuid,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  finished_at timestamptz,
  primary key (organization_id, id),
  check ((finished_at is not null) = (status in ('succeeded', 'succeeded_with_issues', 'failed', 'cancelled', 'expired'))),
  check ((error_code is null) = (error_class is null)),
  check (status <> 'failed' or error_code is not null)
) with (fillfactor = 85);
-- Lists page by id (time-ordered) within an organization, whole or by status.
create index jobs_by_status on jobs (organization_id, status, id);
create index jobs_failed_by_code on jobs (organization_id, error_code, id) where status = 'failed';

create table job_steps (
  organization_id uuid not null,
  job_id uuid not null,
  round integer not null,
  step smallint not null,
  name text not null,
  -- succeeded, failed or skipped.
  status text not null,
  attempts smallint not null,
  started_at timestamptz,
  finished_at timestamptz not null,
  error_code text,
  error_class text,
  error_message text,
  -- Small facts (counts, codes, ids). Never a clinical value.
  output jsonb,
  worker_id uuid,
  primary key (organization_id, job_id, round, step),
  -- One constraint where others would have four: each is read and prepared anew by every statement, and this table, the
  -- queue and the audit log are written by every group commit (docs/decisions/0003-engine-sql.md).
  constraint job_steps_states check (
    status in ('succeeded', 'failed', 'skipped')
    and (status = 'failed') = (error_code is not null)
    and (error_class is null or error_class in ('transient', 'sender', 'ours'))
    and step between 0 and 99)
);

-- Attempts that did not succeed. The attempt that succeeded is the job_steps row itself.
create table step_attempts (
  organization_id uuid not null,
  job_id uuid not null,
  round integer not null,
  step smallint not null,
  lease_epoch bigint not null,
  attempt smallint not null,
  outcome text not null check (outcome in ('failed', 'lost', 'released', 'cancelled')),
  error_code text,
  error_class text check (error_class in ('transient', 'sender', 'ours')),
  error_message text,
  started_at timestamptz,
  finished_at timestamptz not null,
  next_attempt_at timestamptz,
  worker_id uuid,
  primary key (organization_id, job_id, round, step, lease_epoch)
);

-- Live rows only: a row leaves with its job's (or chunk's) end. Ids and numbers, never a payload, so that workers
-- may claim over all organizations. HOT-friendly: no index on a column that a step commit or a renewal changes.
create table queue (
  organization_id uuid not null,
  seq bigint not null,
  -- 0 is the job itself; a chunk of a fanned-out step has its number.
  chunk integer not null default 0,
  job_id uuid not null,
  workflow text not null,
  workflow_version integer not null,
  round integer not null default 1,
  -- 64-bit hash of (organization, workflow, ordering key); null: no order.
  lane bigint,
  -- ready: may be claimed. suspect: as ready, but its last worker died with it, so it runs alone in a process.
  -- blocked: behind an earlier live row of its lane. delayed: in backoff until run_at. leased: a worker has it.
  state text not null,
  -- Smaller is sooner, inside one organization.
  priority smallint not null default 0,
  step smallint not null default 0,
  -- Attempts of the current step that count against its budget. Lost leases are counted in deaths instead.
  attempts smallint not null default 0,
  deaths smallint not null default 0,
  run_at timestamptz,
  -- Since when this row has held its lane in backoff (lane_hold_max).
  held_since timestamptz,
  lease_epoch bigint,
  lease_until timestamptz,
  claimed_at timestamptz,
  worker_id uuid,
  -- When this round entered the queue: the workflow's deadline counts from here.
  enqueued_at timestamptz not null,
  primary key (organization_id, seq, chunk),
  constraint queue_states check (
    state in ('ready', 'suspect', 'blocked', 'delayed', 'leased')
    and (state = 'leased') = (lease_epoch is not null)
    and (state = 'leased') = (lease_until is not null)
    and (state = 'delayed') = (run_at is not null))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index queue_ready on queue (organization_id, priority, seq) where state = 'ready';
create index queue_suspect on queue (organization_id, seq) where state = 'suspect';
create index queue_leased on queue (organization_id) where state = 'leased';
create index queue_delayed on queue (run_at) where state = 'delayed';
create unique index queue_lane_active on queue (organization_id, lane) where lane is not null and state <> 'blocked';
create index queue_lane_blocked on queue (organization_id, lane, seq) where state = 'blocked';

-- A slice of a bulk file: its own lease and commit, joined by the parent's chunks_left (bulk uploads).
create table chunks (
  organization_id uuid not null,
  job_id uuid not null,
  chunk integer not null check (chunk > 0),
  status text not null check (status in ('pending', 'succeeded', 'failed')),
  byte_start bigint not null,
  byte_end bigint not null check (byte_end >= byte_start),
  first_line bigint not null,
  storage_key text,
  output jsonb,
  error_code text,
  finished_at timestamptz,
  primary key (organization_id, job_id, chunk)
);

-- Keys live as long as their job.
create table idempotency_keys (
  organization_id uuid not null,
  scope text not null,
  key text not null check (length(key) between 1 and 300),
  fingerprint bytea not null check (length(fingerprint) = 32),
  job_id uuid not null,
  created_at timestamptz not null,
  primary key (organization_id, scope, key)
);

-- Bulk acts of administrators (retry by filter, and the like), with their progress.
create table operations (
  organization_id uuid not null,
  id uuid not null,
  kind text not null check (kind in ('retry')),
  status text not null check (status in ('running', 'succeeded', 'stopped')),
  request jsonb not null,
  matched integer not null default 0,
  done integer not null default 0,
  skipped integer not null default 0,
  reason text not null,
  actor text not null,
  created_at timestamptz not null,
  finished_at timestamptz,
  primary key (organization_id, id)
);

grant select, insert, update, delete on payloads, jobs, queue, chunks, idempotency_keys to chartgate_app;
grant select, insert on job_steps, step_attempts to chartgate_app;
grant select, insert, update on operations to chartgate_app;
grant select on jobs, job_steps, step_attempts, queue, operations, chunks to chartgate_platform;
