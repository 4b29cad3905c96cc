-- The Merkle log over the audit records (docs/audit.md). The two tables that were foreseen for it held nothing yet.
--
-- A batch is all records of a range of positions, a position being (xid, id). A range ends below the oldest transaction that
-- still runs, so nothing can appear in it later, and no row a record is needed to know what was sealed.

drop table audit_leaves;
drop table audit_checkpoints;

-- xid8 has no operator class for BRIN. 64 bits of an xid fit: the counter would need 292,000 years at a million a second.
create function audit_position(xid8) returns bigint
language sql immutable strict parallel safe
return ($1::text)::bigint;

-- Records of a range of transactions. A BRIN costs the hot path next to nothing: no entry a row.
create index audit_records_by_position on audit_records
  using brin (audit_position(xid)) with (pages_per_range = 32, autosummarize = on);

-- The position is PostgreSQL's to give, not the writer's.
revoke insert on audit_records from chartgate_app;
grant insert (organization_id, at, event, action, outcome, actor, authentication, address, purpose, patient_id, resource, job_id,
              step, request_id, body_sha256, program_version, detail) on audit_records to chartgate_app;
grant select on sequence audit_records_id_seq to chartgate_app, chartgate_platform;

-- The log's identity: part of every checkpoint, so that a checkpoint of another installation shows.
create table audit_log (
  single boolean primary key default true check (single),
  id uuid not null,
  created_at timestamptz not null
);
insert into audit_log (id, created_at) values (gen_random_uuid(), chartgate_now());

-- One row a batch: ids of its records and hashes of their canonical lines, in sealing order. No row-level security: no
-- values, over all organizations.
create table audit_leaves (
  batch bigint primary key check (batch > 0),
  -- Number of leaves before this batch.
  first_leaf bigint not null unique check (first_leaf >= 0),
  record_ids bigint[] not null,
  -- 32 bytes a record.
  leaf_hashes bytea not null,
  -- All records up to and including this position, and behind that of the batch before, are in this batch.
  until_xid bigint not null,
  until_id bigint not null,
  sealed_at timestamptz not null,
  constraint audit_leaves_whole check (cardinality(record_ids) > 0 and octet_length(leaf_hashes) = 32 * cardinality(record_ids))
);
-- Hashes do not compress.
alter table audit_leaves alter column leaf_hashes set storage external;
alter table audit_leaves alter column record_ids set storage external;
create trigger audit_leaves_append_only before update or delete or truncate on audit_leaves
  for each statement execute function refuse_change();

-- Signed roots. `note` is the checkpoint itself (a C2SP signed note); the other columns repeat it for look-ups, but `peaks`:
-- the hashes from which the tree goes on, which are checked against the signed root whenever they are used.
create table audit_checkpoints (
  checkpoint bigint primary key check (checkpoint > 0),
  tree_size bigint not null check (tree_size >= 0),
  last_batch bigint not null,
  peaks bytea not null,
  note text not null,
  at timestamptz not null
);
create trigger audit_checkpoints_append_only before update or delete or truncate on audit_checkpoints
  for each statement execute function refuse_change();

-- Public keys in the order of their rotation, each with its signed statement. The private key is in no table.
create table audit_keys (
  ordinal bigint primary key check (ordinal > 0),
  statement text not null,
  at timestamptz not null
);
create trigger audit_keys_append_only before update or delete or truncate on audit_keys
  for each statement execute function refuse_change();

-- What is in the object store for certain.
create table audit_publications (
  kind text not null check (kind in ('checkpoint', 'key')),
  number bigint not null,
  at timestamptz not null,
  primary key (kind, number)
);
create trigger audit_publications_append_only before update or delete or truncate on audit_publications
  for each statement execute function refuse_change();

-- What the sealer said of itself last; for metrics, health and doctor. Nothing is proved by it.
create table audit_sealer (
  single boolean primary key default true check (single),
  state text not null,
  detail text not null default '',
  seen_at timestamptz not null,
  -- Every record committed before this instant is sealed.
  sealed_through timestamptz not null,
  last_record_id bigint not null,
  unpublished bigint not null
);

grant select, insert on audit_leaves, audit_checkpoints, audit_keys, audit_publications to chartgate_app;
grant select on audit_log to chartgate_app;
-- chartgate_now() reads it, and the sealer asks for the time while it reads over all organizations.
grant select on clock_offset to chartgate_platform;
grant select, insert, update on audit_sealer to chartgate_app;
grant select on audit_log, audit_leaves, audit_checkpoints, audit_keys, audit_publications to chartgate_platform;
