-- Bulk files: what the plan says of a file as a whole, and issues by chunk (docs/bulk.md).

create table bulk_plans (
  organization_id uuid not null,
  job_id uuid not null,
  -- What was read, and is read by the chunks until the raw copy is there: key (without the configured prefix) and ETag.
  storage_key text not null,
  etag text not null,
  shape text not null check (shape in ('ndjson', 'array', 'bundle')),
  -- Bundle.type, if it is one that is ingested.
  bundle_type text,
  is_gzip boolean not null,
  -- After decompression.
  text_bytes bigint not null,
  chunks integer not null,
  primary key (organization_id, job_id)
);
alter table bulk_plans enable row level security;
alter table bulk_plans force row level security;
create policy tenant on bulk_plans for all to chartgate_app
  using (array_position((select tenant_organizations()), organization_id) is not null)
  with check (organization_id = any ((select tenant_organizations())::uuid[]));
grant select, insert, update, delete on bulk_plans to chartgate_app;

-- Issues of a bulk file are written chunk by chunk, and read in the order of the file: by line or entry. Of a payload that
-- is no bulk file position and chunk are 0, and the ordinal is the order.
alter table issues
  add column position bigint not null default 0,
  add column chunk integer not null default 0,
  drop constraint issues_pkey,
  add primary key (organization_id, job_id, position, chunk, ordinal);

-- Was the same file ingested before, by another URL?
create index jobs_uploaded on jobs (organization_id, payload_sha256) where source = 'upload' and payload_sha256 is not null;
